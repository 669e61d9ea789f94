// SPDX-License-Identifier: Apache-2.0
#include "base/buf.h"
#include "base/mem.h"

#include "base/secret.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BYTES 512 /* a reply, a short line: most buffers never grow again */

void buf_init(struct buf *b, size_t max)
{
    CHECK(max > 0);
    *b = (struct buf){.max = max};
}

void buf_release(struct buf *b)
{
    free(b->p);
    *b = (struct buf){.max = b->max};
}

void buf_release_secret(struct buf *b)
{
    if (b->p != NULL)
        secret_wipe(b->p, b->cap);
    buf_release(b);
}

/* One byte more than asked for, so that buf_cstr() always has room for its NUL. */
static void reserve(struct buf *b, size_t extra)
{
    size_t need = b->len + extra + 1;
    if (b->off + need <= b->cap)
        return;
    if (b->off > 0) {
        memmove(b->p, b->p + b->off, b->len);
        b->off = 0;
    }
    if (need <= b->cap)
        return;
    size_t cap = b->cap == 0 ? FIRST_BYTES : b->cap;
    while (cap < need)
        cap *= 2;
    if (cap > b->max + 1)
        cap = b->max + 1;
    /* no realloc: it would leave a copy of a secret behind */
    char *p = xcalloc(cap, 1);
    if (b->len > 0)
        memcpy(p, b->p, b->len);
    if (b->p != NULL)
        secret_wipe(b->p, b->cap);
    free(b->p);
    b->p = p;
    b->cap = cap;
}

bool buf_append(struct buf *b, const void *p, size_t len)
{
    if (len > b->max - b->len)
        return false;
    if (len == 0)
        return true;
    reserve(b, len);
    memcpy(b->p + b->off + b->len, p, len);
    b->len += len;
    return true;
}

bool buf_append_str(struct buf *b, struct str s)
{
    return buf_append(b, s.p, s.len);
}

bool buf_printf(struct buf *b, const char *fmt, ...)
{
    reserve(b, 0);
    size_t room = b->cap - b->off - b->len; /* with the NUL's byte */
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(b->p + b->off + b->len, room, fmt, ap);
    va_end(ap);
    bool ok = n >= 0 && (size_t)n <= b->max - b->len;
    if (ok && (size_t)n >= room) {
        reserve(b, (size_t)n);
        vsnprintf(b->p + b->off + b->len, (size_t)n + 1, fmt, again);
    }
    if (ok)
        b->len += (size_t)n;
    va_end(again);
    return ok;
}

struct str buf_str(const struct buf *b)
{
    return b->len == 0 ? (struct str){"", 0} : (struct str){b->p + b->off, b->len};
}

const char *buf_cstr(struct buf *b)
{
    reserve(b, 0);
    b->p[b->off + b->len] = '\0';
    return b->p + b->off;
}

void buf_consume(struct buf *b, size_t n)
{
    CHECK(n <= b->len);
    b->off += n;
    b->len -= n;
    if (b->len == 0)
        b->off = 0;
}

void buf_clear(struct buf *b)
{
    b->off = b->len = 0;
}

char *buf_take(struct buf *b)
{
    (void)buf_cstr(b);
    if (b->off > 0)
        memmove(b->p, b->p + b->off, b->len + 1);
    char *p = b->p;
    *b = (struct buf){.max = b->max};
    return p;
}

size_t buf_room(const struct buf *b)
{
    return b->max - b->len;
}
