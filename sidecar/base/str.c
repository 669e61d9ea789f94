// SPDX-License-Identifier: Apache-2.0
#include "base/str.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

char ascii_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

struct str str_from(const char *z)
{
    return z == NULL ? (struct str){"", 0} : (struct str){z, strlen(z)};
}

bool str_eq(struct str a, struct str b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.p, b.p, a.len) == 0);
}

bool str_eq_nocase(struct str a, struct str b)
{
    return a.len == b.len && str_starts_with_nocase(a, b);
}

bool str_starts_with(struct str s, struct str prefix)
{
    return s.len >= prefix.len && str_eq((struct str){s.p, prefix.len}, prefix);
}

bool str_starts_with_nocase(struct str s, struct str prefix)
{
    if (s.len < prefix.len)
        return false;
    for (size_t i = 0; i < prefix.len; i++)
        if (ascii_lower(s.p[i]) != ascii_lower(prefix.p[i]))
            return false;
    return true;
}

bool str_ends_with_nocase(struct str s, struct str suffix)
{
    return s.len >= suffix.len && str_eq_nocase(str_sub(s, s.len - suffix.len, suffix.len), suffix);
}

size_t str_index(struct str s, char c)
{
    const char *at = s.len == 0 ? NULL : memchr(s.p, c, s.len);
    return at == NULL ? s.len : (size_t)(at - s.p);
}

struct str str_trim(struct str s)
{
    while (s.len > 0 && (s.p[0] == ' ' || s.p[0] == '\t'))
        s = (struct str){s.p + 1, s.len - 1};
    while (s.len > 0 && (s.p[s.len - 1] == ' ' || s.p[s.len - 1] == '\t'))
        s.len--;
    return s;
}

struct str str_sub(struct str s, size_t from, size_t len)
{
    if (from > s.len)
        from = s.len;
    if (len > s.len - from)
        len = s.len - from;
    return (struct str){s.p + from, len};
}

bool str_to_u64(struct str s, uint64_t *out)
{
    uint64_t v = 0;
    if (s.len == 0)
        return false;
    for (size_t i = 0; i < s.len; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
        uint64_t digit = (uint64_t)(s.p[i] - '0');
        if (v > (UINT64_MAX - digit) / 10)
            return false;
        v = v * 10 + digit;
    }
    *out = v;
    return true;
}

char *str_dup(struct str s)
{
    char *z = xcalloc(s.len + 1, 1);
    if (s.len > 0)
        memcpy(z, s.p, s.len);
    return z;
}

char *str_copy(char *buf, size_t cap, struct str s)
{
    CHECK(cap > 0);
    size_t n = s.len < cap - 1 ? s.len : cap - 1;
    if (n > 0)
        memcpy(buf, s.p, n);
    buf[n] = '\0';
    return buf;
}

char *str_escape(char *buf, size_t cap, struct str s)
{
    CHECK(cap > 0);
    size_t at = 0;
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.p[i];
        bool plain = c >= 32 && c < 127 && c != '\\';
        if (at + (plain ? 1 : 4) >= cap)
            break;
        if (plain)
            buf[at++] = (char)c;
        else
            at += (size_t)snprintf(buf + at, cap - at, "\\x%02x", c);
    }
    buf[at] = '\0';
    return buf;
}
