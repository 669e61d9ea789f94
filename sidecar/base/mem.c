// SPDX-License-Identifier: Apache-2.0
#include "base/mem.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void *xcalloc(size_t n, size_t size)
{
    void *p = calloc(n == 0 ? 1 : n, size == 0 ? 1 : size);
    CHECK(p != NULL);
    return p;
}

void *xrealloc(void *p, size_t size)
{
    void *q = realloc(p, size == 0 ? 1 : size);
    CHECK(q != NULL);
    return q;
}

char *xstrdup(const char *z)
{
    char *copy = strdup(z);
    CHECK(copy != NULL);
    return copy;
}

char *xasprintf(const char *fmt, ...)
{
    char *out = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&out, fmt, ap);
    va_end(ap);
    CHECK(n >= 0 && out != NULL);
    return out;
}

void mem_auto_free(void *pp)
{
    int saved = errno;
    free(*(void **)pp);
    errno = saved;
}

void mem_auto_close(int *fd)
{
    if (*fd < 0)
        return;
    int saved = errno;
    close(*fd);
    errno = saved;
}
