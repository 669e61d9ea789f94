// SPDX-License-Identifier: Apache-2.0
/* err: why a fallible call failed.  The code is a class that decides retry and SMTP reply; the text
 * is for people.  Caller-owned, no allocation, may cross threads.  Layer: base. */
#ifndef SVIDMAIL_BASE_ERR_H
#define SVIDMAIL_BASE_ERR_H
#include "base/check.h"

#include <stdarg.h>
#include <stdbool.h>

enum err_code {
    ERR_NONE = 0,
    ERR_CANCELED, /* we asked for it */
    ERR_SYNTAX,   /* malformed input: configuration, protocol, certificate */
    ERR_DENIED,   /* understood and refused: policy, identity, credentials */
    ERR_LIMIT,    /* too many, too large, full */
    ERR_UNAVAIL,  /* not there, not ready, cut off: may pass by itself */
    ERR_TIMEOUT,  /* no answer in time */
    ERR_EXPIRED,  /* past its validity */
    ERR_IO,       /* disk or kernel trouble */
    ERR_COUNT
};

#define ERR_MSG_MAX 320

struct err {
    enum err_code code;
    int sys; /* errno or a negative libuv code; 0 if none */
    char msg[ERR_MSG_MAX];
};

/* Fill *e and return false, so that a failing function can end in one line.  e may be NULL.
 * sys != 0 appends ": <strerror>". */
bool err_set(struct err *e, enum err_code code, int sys, const char *fmt, ...) PRINTF_LIKE(4, 5);
/* Put "context: " in front of what stands in *e.  Returns false. */
bool err_wrap(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Name of a class, for logs and metrics: "denied", "timeout", ... */
const char *err_code_name(enum err_code code);

#endif
