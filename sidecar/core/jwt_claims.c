// SPDX-License-Identifier: Apache-2.0
#include "core/jwt_claims.h"
#include "base/mem.h"
#include "base/secret.h"

#include <stdlib.h>
#include <string.h>

#define DEPTH_MAX   16
#define SECONDS_MAX 253402300799 /* the end of the year 9999 */

struct scan {
    struct str s;
    size_t at;
    unsigned depth;
};

NODISCARD static bool skip_value(struct scan *c);

static int sextet(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '-' ? 62 : c == '_' ? 63 : -1;
}

/* Unpadded; bits left over must be zero.  out has room for in.len. */
NODISCARD static bool decode_base64url(struct str in, char *out, size_t *len)
{
    uint32_t bits = 0;
    unsigned n_bits = 0;
    *len = 0;
    for (size_t i = 0; i < in.len; i++) {
        int v = sextet(in.p[i]);
        if (v < 0)
            return false;
        bits = (bits << 6 | (uint32_t)v) & 0xffffff;
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            out[(*len)++] = (char)(bits >> n_bits & 0xff);
        }
    }
    return n_bits < 6 && (bits & ((1u << n_bits) - 1)) == 0;
}

/* --- JSON, only as far as it must be understood --- */

static char peek(const struct scan *c)
{
    return c->at < c->s.len ? c->s.p[c->at] : '\0';
}

static void skip_space(struct scan *c)
{
    while (peek(c) == ' ' || peek(c) == '\t' || peek(c) == '\r' || peek(c) == '\n')
        c->at++;
}

NODISCARD static bool take(struct scan *c, char wanted)
{
    skip_space(c);
    if (peek(c) != wanted)
        return false;
    c->at++;
    return true;
}

/* *out: between the quotes, escapes as they are. */
NODISCARD static bool take_string(struct scan *c, struct str *out)
{
    if (!take(c, '"'))
        return false;
    size_t start = c->at;
    for (; c->at < c->s.len; c->at++) {
        char b = c->s.p[c->at];
        if (b == '"') {
            *out = str_sub(c->s, start, c->at++ - start);
            return true;
        }
        if ((unsigned char)b < 0x20)
            return false;
        if (b == '\\')
            c->at++;
    }
    return false;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

NODISCARD static bool skip_digits(struct scan *c)
{
    size_t start = c->at;
    while (is_digit(peek(c)))
        c->at++;
    return c->at > start;
}

/* A JSON number; *seconds is its whole part, or -1 if it is negative, has an exponent or is past
 * the year 9999. */
NODISCARD static bool take_number(struct scan *c, int64_t *seconds)
{
    uint64_t v;
    bool is_plain = peek(c) != '-';
    if (!is_plain)
        c->at++;
    size_t start = c->at;
    if (!skip_digits(c))
        return false;
    struct str whole = str_sub(c->s, start, c->at - start);
    if (whole.len > 1 && whole.p[0] == '0')
        return false;
    if (peek(c) == '.') {
        c->at++;
        if (!skip_digits(c))
            return false;
    }
    if (peek(c) == 'e' || peek(c) == 'E') {
        is_plain = false;
        c->at++;
        if (peek(c) == '+' || peek(c) == '-')
            c->at++;
        if (!skip_digits(c))
            return false;
    }
    *seconds = is_plain && str_to_u64(whole, &v) && v <= SECONDS_MAX ? (int64_t)v : -1;
    return true;
}

NODISCARD static bool skip_word(struct scan *c, struct str word)
{
    if (!str_starts_with(str_sub(c->s, c->at, c->s.len), word))
        return false;
    c->at += word.len;
    return true;
}

NODISCARD static bool skip_members(struct scan *c, char close)
{
    struct str name;
    c->at++; /* the bracket that skip_value() saw */
    if (take(c, close))
        return true;
    do {
        if (close == '}' && (!take_string(c, &name) || !take(c, ':')))
            return false;
        if (!skip_value(c))
            return false;
    } while (take(c, ','));
    return take(c, close);
}

NODISCARD static bool skip_value(struct scan *c)
{
    struct str text;
    int64_t number;
    skip_space(c);
    char first = peek(c);
    if (first == '"')
        return take_string(c, &text);
    if (first == '{' || first == '[') {
        if (++c->depth > DEPTH_MAX)
            return false;
        bool ok = skip_members(c, first == '{' ? '}' : ']');
        c->depth--;
        return ok;
    }
    if (first == '-' || is_digit(first))
        return take_number(c, &number);
    return skip_word(c, STR("true")) || skip_word(c, STR("false")) || skip_word(c, STR("null"));
}

/* A NumericDate that was not there before. */
NODISCARD static bool take_date(struct scan *c, int64_t *ms, struct str name, struct err *e)
{
    int64_t seconds = -1;
    skip_space(c);
    if (*ms != 0 || !(peek(c) == '-' || is_digit(peek(c))) || !take_number(c, &seconds) ||
        seconds <= 0)
        return err_set(e, ERR_SYNTAX, 0, "the token's %.*s is not one time in seconds",
                       (int)name.len, name.p);
    *ms = seconds * 1000;
    return true;
}

NODISCARD static bool take_claims(struct scan *c, struct jwt_claims *out, struct err *e)
{
    struct str name;
    if (!take(c, '{'))
        return err_set(e, ERR_SYNTAX, 0, "the token's payload is not a JSON object");
    if (take(c, '}'))
        return true;
    do {
        bool ok = take_string(c, &name) && take(c, ':');
        if (ok && str_eq(name, STR("exp"))) {
            if (!take_date(c, &out->expires_at_ms, name, e))
                return false;
        } else if (ok && str_eq(name, STR("iat"))) {
            if (!take_date(c, &out->issued_at_ms, name, e))
                return false;
        } else if (!ok || !skip_value(c)) {
            return err_set(e, ERR_SYNTAX, 0, "the token's payload is not JSON");
        }
    } while (take(c, ','));
    if (!take(c, '}'))
        return err_set(e, ERR_SYNTAX, 0, "the token's payload is not JSON");
    skip_space(c);
    return c->at == c->s.len || err_set(e, ERR_SYNTAX, 0, "the token's payload does not end");
}

bool jwt_claims_parse(struct str token, struct jwt_claims *out, struct err *e)
{
    *out = (struct jwt_claims){0, 0};
    if (token.len > JWT_MAX)
        return err_set(e, ERR_LIMIT, 0, "a token of more than %d bytes", JWT_MAX);
    size_t first = str_index(token, '.');
    struct str rest = str_sub(token, first + 1, token.len);
    size_t second = str_index(rest, '.');
    struct str payload = str_sub(rest, 0, second), signature = str_sub(rest, second + 1, rest.len);
    if (first == 0 || first >= token.len || second >= rest.len || signature.len == 0 ||
        str_index(signature, '.') < signature.len)
        return err_set(e, ERR_SYNTAX, 0, "not a JWT in compact serialisation");
    char *json = xcalloc(payload.len + 1, 1);
    struct scan c = {{json, 0}, 0, 0};
    bool ok = decode_base64url(payload, json, &c.s.len)
                  ? take_claims(&c, out, e)
                  : err_set(e, ERR_SYNTAX, 0, "the token's payload is not base64url");
    secret_wipe(json, payload.len);
    free(json);
    if (!ok)
        *out = (struct jwt_claims){0, 0};
    return ok;
}
