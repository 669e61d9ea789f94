// SPDX-License-Identifier: Apache-2.0
/* str: a borrowed run of bytes with its length.  Not NUL-terminated, may hold any byte.  Layer:
 * base. */
#ifndef SVIDMAIL_BASE_STR_H
#define SVIDMAIL_BASE_STR_H
#include "base/check.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct str {
    const char *p;
    size_t len;
};

#define STR(literal) ((struct str){(literal), sizeof(literal) - 1})

/* NULL gives the empty str. */
struct str str_from(const char *z);
bool str_eq(struct str a, struct str b);
/* ASCII only, no locale. */
bool str_eq_nocase(struct str a, struct str b);
bool str_starts_with(struct str s, struct str prefix);
bool str_starts_with_nocase(struct str s, struct str prefix);
bool str_ends_with_nocase(struct str s, struct str suffix);
/* Position of byte c, or s.len if there is none. */
size_t str_index(struct str s, char c);
/* Without leading and trailing spaces and tabs. */
struct str str_trim(struct str s);
/* Bytes from..from+len; both are cut to what is there. */
struct str str_sub(struct str s, size_t from, size_t len);
/* Decimal, digits only, overflow checked. */
NODISCARD bool str_to_u64(struct str s, uint64_t *out);
/* Malloc'd NUL-terminated copy; embedded NULs are copied too. */
char *str_dup(struct str s);
/* Copy what fits into buf (cap > 0), always NUL-terminated; returns buf. */
char *str_copy(char *buf, size_t cap, struct str s);
/* As str_copy, but each control byte, each byte >= 127 and the backslash becomes \xNN: for logs and
 * replies. */
char *str_escape(char *buf, size_t cap, struct str s);

char ascii_lower(char c);

#endif
