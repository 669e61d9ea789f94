// SPDX-License-Identifier: Apache-2.0
#include "core/mail_address.h"

#include <arpa/inet.h>
#include <string.h>

#define LABEL_MAX 63

struct cursor {
    struct str s;
    size_t at;
};

/* The byte under the cursor, -1 at the end. */
static int peek(const struct cursor *c)
{
    return c->at < c->s.len ? (unsigned char)c->s.p[c->at] : -1;
}

static bool eat(struct cursor *c, char want)
{
    if (peek(c) != want)
        return false;
    c->at++;
    return true;
}

/* What is wrong with the byte under the cursor, where `wanted` may stand. */
static bool refuse(const struct cursor *c, const char *wanted, struct err *e)
{
    int byte = peek(c);
    if (byte >= 128)
        return err_set(e, ERR_DENIED, 0,
                       "byte 0x%02x in the address: only ASCII can be sent (no SMTPUTF8)",
                       (unsigned)byte);
    if (byte < 0)
        return err_set(e, ERR_SYNTAX, 0, "the address ends where %s is expected", wanted);
    if (byte < 32 || byte == 127)
        return err_set(e, ERR_SYNTAX, 0, "control character 0x%02x in the address", (unsigned)byte);
    return err_set(e, ERR_SYNTAX, 0, "'%c' in the address where %s is expected", byte, wanted);
}

static bool is_let_dig(int c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

static bool is_atext(int c)
{
    static const char others[] = "!#$%&'*+-/=?^_`{|}~";
    return is_let_dig(c) || memchr(others, c, sizeof others - 1) != NULL;
}

static bool scan_atom(struct cursor *c, struct err *e)
{
    if (!is_atext(peek(c)))
        return refuse(c, "a local part", e);
    while (is_atext(peek(c)))
        c->at++;
    return true;
}

/* Behind the opening quote. */
static bool scan_quoted(struct cursor *c, struct err *e)
{
    while (!eat(c, '"')) {
        (void)eat(c, '\\'); /* what follows must be printable like any other */
        int byte = peek(c);
        if (byte < 32 || byte > 126)
            return refuse(c, "the closing quote", e);
        c->at++;
    }
    return true;
}

static bool scan_local(struct cursor *c, struct err *e)
{
    if (eat(c, '"'))
        return scan_quoted(c, e);
    do {
        if (!scan_atom(c, e))
            return false;
    } while (eat(c, '.'));
    return true;
}

static bool scan_label(struct cursor *c, struct err *e)
{
    size_t from = c->at;
    if (!is_let_dig(peek(c)))
        return refuse(c, "a domain", e);
    while (is_let_dig(peek(c)) || peek(c) == '-')
        c->at++;
    if (c->s.p[c->at - 1] == '-')
        return err_set(e, ERR_SYNTAX, 0, "a label of the domain ends in '-'");
    if (c->at - from > LABEL_MAX)
        return err_set(e, ERR_SYNTAX, 0, "a label of the domain is over %d bytes", LABEL_MAX);
    return true;
}

/* RFC 5321 4.1.3, without the brackets. */
static bool is_address_literal(struct str s)
{
    char text[INET6_ADDRSTRLEN];
    unsigned char net[sizeof(struct in6_addr)];
    bool is_v6 = str_starts_with_nocase(s, STR("IPv6:"));
    struct str ip = is_v6 ? str_sub(s, 5, s.len) : s;
    if (ip.len >= sizeof text)
        return false;
    str_copy(text, sizeof text, ip);
    return inet_pton(is_v6 ? AF_INET6 : AF_INET, text, net) == 1;
}

/* Behind the opening bracket. */
static bool scan_literal(struct cursor *c, struct err *e)
{
    size_t from = c->at;
    while (peek(c) > 32 && peek(c) < 127 && peek(c) != ']')
        c->at++;
    struct str inside = str_sub(c->s, from, c->at - from);
    if (!eat(c, ']'))
        return refuse(c, "']'", e);
    if (!is_address_literal(inside))
        return err_set(e, ERR_SYNTAX, 0, "the address literal is neither IPv4 nor IPv6:");
    return true;
}

static bool scan_domain(struct cursor *c, struct err *e)
{
    if (eat(c, '['))
        return scan_literal(c, e);
    do {
        if (!scan_label(c, e))
            return false;
    } while (eat(c, '.'));
    return true;
}

/* "@a,@b:": RFC 5321 appendix C, to be taken and forgotten. */
static bool skip_source_route(struct cursor *c, struct err *e)
{
    if (peek(c) != '@')
        return true;
    do {
        if (!eat(c, '@'))
            return refuse(c, "'@'", e);
        if (!scan_domain(c, e))
            return false;
    } while (eat(c, ','));
    return eat(c, ':') || refuse(c, "':'", e);
}

static bool set_path(struct mail_path *out, struct str text, size_t local_len, struct err *e)
{
    if (local_len > MAIL_LOCAL_MAX)
        return err_set(e, ERR_SYNTAX, 0, "the local part is over %d bytes", MAIL_LOCAL_MAX);
    if (text.len + 2 > MAIL_PATH_MAX)
        return err_set(e, ERR_SYNTAX, 0, "the address is over %d bytes", MAIL_PATH_MAX - 2);
    str_copy(out->text, sizeof out->text, text);
    out->len = (uint16_t)text.len;
    out->local_len = (uint16_t)local_len;
    return true;
}

static bool scan_mailbox(struct cursor *c, struct mail_path *out, struct err *e)
{
    if (!skip_source_route(c, e))
        return false;
    size_t from = c->at;
    if (!scan_local(c, e))
        return false;
    struct str local = str_sub(c->s, from, c->at - from);
    if (eat(c, '@')) {
        if (!scan_domain(c, e))
            return false;
    } else if (!str_eq_nocase(local, STR("postmaster"))) {
        return refuse(c, "'@' and a domain", e);
    }
    return set_path(out, str_sub(c->s, from, c->at - from), local.len, e);
}

bool mail_path_parse(struct str raw, struct mail_path *out, struct str *rest, struct err *e)
{
    struct cursor c = {raw, 0};
    out->len = out->local_len = 0;
    out->text[0] = '\0';
    (void)eat(&c, ' ');
    bool is_bracketed = eat(&c, '<');
    bool is_null = is_bracketed && peek(&c) == '>';
    if (!is_null && !scan_mailbox(&c, out, e))
        return false;
    if (is_bracketed && !eat(&c, '>'))
        return refuse(&c, "'>'", e);
    if (peek(&c) >= 0 && peek(&c) != ' ')
        return refuse(&c, "a space or the end", e);
    *rest = str_trim(str_sub(raw, c.at, raw.len));
    return true;
}

struct str mail_path_str(const struct mail_path *p)
{
    return (struct str){p->text, p->len};
}

struct str mail_path_local(const struct mail_path *p)
{
    return (struct str){p->text, p->local_len};
}

struct str mail_path_domain(const struct mail_path *p)
{
    return str_sub(mail_path_str(p), (size_t)p->local_len + 1, p->len);
}

/* The next byte of a local part's value, -1 at its end. */
static int eat_value(struct cursor *c, bool is_quoted)
{
    if (is_quoted && peek(c) == '"')
        return -1;
    if (is_quoted)
        (void)eat(c, '\\');
    int byte = peek(c);
    c->at++;
    return byte;
}

static bool is_value_same(struct str a, struct str b, bool with_case)
{
    struct cursor at_a = {a, 0}, at_b = {b, 0};
    bool is_a_quoted = eat(&at_a, '"'), is_b_quoted = eat(&at_b, '"');
    for (;;) {
        int of_a = eat_value(&at_a, is_a_quoted), of_b = eat_value(&at_b, is_b_quoted);
        if (of_a < 0 || of_b < 0)
            return of_a == of_b;
        if (of_a != of_b && (with_case || ascii_lower((char)of_a) != ascii_lower((char)of_b)))
            return false;
    }
}

static bool is_same(const struct mail_path *a, const struct mail_path *b, bool with_case)
{
    bool has_domain = a->local_len < a->len;
    if (!has_domain) /* postmaster in any case, RFC 5321 2.3.5; or both are null */
        return str_eq_nocase(mail_path_str(a), mail_path_str(b));
    return is_value_same(mail_path_local(a), mail_path_local(b), with_case) &&
           str_eq_nocase(mail_path_domain(a), mail_path_domain(b));
}

bool mail_path_same(const struct mail_path *a, const struct mail_path *b)
{
    return is_same(a, b, true);
}

bool mail_path_same_nocase(const struct mail_path *a, const struct mail_path *b)
{
    return is_same(a, b, false);
}
