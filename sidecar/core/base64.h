// SPDX-License-Identifier: Apache-2.0
/* base64: streaming encoder (RFC 4648, no line breaks).  Layer: core. */
#ifndef SVIDMAIL_CORE_BASE64_H
#define SVIDMAIL_CORE_BASE64_H
#include "base/str.h"

struct base64_encoder {
    unsigned char rest[3];
    unsigned n_rest;
};

#define BASE64_LEN(n) (((n) + 2) / 3 * 4)

void base64_init(struct base64_encoder *b);
/* Encodes in, keeping up to 2 bytes for the next call; out has room for BASE64_LEN(in.len + 2) + 1
 * (a NUL is written behind).  Returns the number of characters. */
size_t base64_update(struct base64_encoder *b, struct str in, char *out);
/* The last group with padding, 0 or 4 characters and a NUL: out has room for 5. */
size_t base64_final(struct base64_encoder *b, char *out);

#endif
