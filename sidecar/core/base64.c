// SPDX-License-Identifier: Apache-2.0
#include "core/base64.h"

#include <openssl/evp.h>

#define STEP (3u << 18) /* EVP_EncodeBlock takes an int */

void base64_init(struct base64_encoder *b)
{
    b->n_rest = 0;
}

static size_t encode(const unsigned char *in, size_t len, char *out)
{
    return (size_t)EVP_EncodeBlock((unsigned char *)out, in, (int)len);
}

size_t base64_update(struct base64_encoder *b, struct str in, char *out)
{
    const unsigned char *p = (const unsigned char *)in.p;
    size_t len = in.len, at = 0;
    if (b->n_rest > 0) {
        for (; b->n_rest < 3 && len > 0; len--)
            b->rest[b->n_rest++] = *p++;
        if (b->n_rest < 3)
            return 0;
        at = encode(b->rest, 3, out);
        b->n_rest = 0;
    }
    while (len >= 3) {
        size_t step = len < STEP ? len / 3 * 3 : STEP;
        at += encode(p, step, out + at);
        p += step;
        len -= step;
    }
    for (; len > 0; len--)
        b->rest[b->n_rest++] = *p++;
    return at;
}

size_t base64_final(struct base64_encoder *b, char *out)
{
    if (b->n_rest == 0)
        return 0;
    size_t n = encode(b->rest, b->n_rest, out);
    b->n_rest = 0;
    return n;
}
