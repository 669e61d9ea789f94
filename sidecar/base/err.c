// SPDX-License-Identifier: Apache-2.0
#include "base/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[ERR_COUNT] = {
    [ERR_NONE] = "none",       [ERR_CANCELED] = "canceled", [ERR_SYNTAX] = "syntax",
    [ERR_DENIED] = "denied",   [ERR_LIMIT] = "limit",       [ERR_UNAVAIL] = "unavailable",
    [ERR_TIMEOUT] = "timeout", [ERR_EXPIRED] = "expired",   [ERR_IO] = "io",
};

void check_failed(const char *file, int line, const char *what)
{
    fprintf(stderr, "{\"level\":\"fatal\",\"event\":\"bug\",\"at\":\"%s:%d\",\"check\":\"%s\"}\n",
            file, line, what);
    abort();
}

bool err_set(struct err *e, enum err_code code, int sys, const char *fmt, ...)
{
    if (e == NULL)
        return false;
    e->code = code;
    e->sys = sys;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    va_end(ap);
    if (sys != 0 && n >= 0 && (size_t)n < sizeof e->msg)
        snprintf(e->msg + n, sizeof e->msg - (size_t)n, ": %s", strerror(sys < 0 ? -sys : sys));
    return false;
}

bool err_wrap(struct err *e, const char *fmt, ...)
{
    if (e == NULL)
        return false;
    char inner[ERR_MSG_MAX];
    memcpy(inner, e->msg, sizeof inner);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof e->msg)
        snprintf(e->msg + n, sizeof e->msg - (size_t)n, ": %.*s", (int)(sizeof e->msg) - n - 3,
                 inner);
    return false;
}

const char *err_code_name(enum err_code code)
{
    return (unsigned)code < ERR_COUNT ? names[code] : "unknown";
}
