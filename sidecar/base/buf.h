// SPDX-License-Identifier: Apache-2.0
/* buf: growing bytes with a maximum given at creation.  Consumed from the front, appended at the
 * end. Layer: base. */
#ifndef SVIDMAIL_BASE_BUF_H
#define SVIDMAIL_BASE_BUF_H
#include "base/check.h"
#include "base/str.h"

struct buf {
    char *p; /* start of the allocation */
    size_t off, len, cap, max;
};

/* max > 0 is binding; no allocation yet. */
void buf_init(struct buf *b, size_t max);
void buf_release(struct buf *b);
/* As buf_release, but what it held is overwritten first. */
void buf_release_secret(struct buf *b);
/* false: it would pass the maximum; nothing was appended. */
NODISCARD bool buf_append(struct buf *b, const void *p, size_t len);
NODISCARD bool buf_append_str(struct buf *b, struct str s);
NODISCARD bool buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Borrowed view; ends with the next append, consume or release. */
struct str buf_str(const struct buf *b);
/* NUL-terminated view of what it holds (embedded NULs stay). */
const char *buf_cstr(struct buf *b);
void buf_consume(struct buf *b, size_t n);
void buf_clear(struct buf *b);
/* The bytes as a malloc'd, NUL-terminated string, now yours; b is empty again. */
char *buf_take(struct buf *b);
/* Room that may still be appended. */
size_t buf_room(const struct buf *b);

#endif
