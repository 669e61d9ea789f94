// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/mem.h"
#include "core/mail_address.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct good {
    const char *raw, *text, *local, *rest;
};

/* Parses from a heap copy of the exact size, so that a read beyond it is seen. */
static bool parse(struct str raw, struct mail_path *out, char *rest, size_t rest_cap, struct err *e)
{
    char *copy = malloc(raw.len == 0 ? 1 : raw.len);
    assert_non_null(copy);
    memcpy(copy, raw.p, raw.len);
    struct str rest_str = STR("");
    bool ok = mail_path_parse((struct str){copy, raw.len}, out, &rest_str, e);
    str_copy(rest, rest_cap, rest_str);
    free(copy);
    return ok;
}

static void assert_good(const struct good *c, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct mail_path path;
        struct err e;
        char rest[400], local[400], domain[400];
        memset(&path, 0xff, sizeof path);
        if (!parse(str_from(c[i].raw), &path, rest, sizeof rest, &e))
            fail_msg("%s: %s", c[i].raw, e.msg);
        assert_string_equal(path.text, c[i].text);
        assert_int_equal(path.len, strlen(c[i].text));
        assert_string_equal(str_copy(local, sizeof local, mail_path_local(&path)), c[i].local);
        str_copy(domain, sizeof domain, mail_path_domain(&path));
        assert_string_equal(domain, c[i].text + strlen(c[i].local) + (domain[0] != '\0'));
        assert_int_equal(domain[0] == '\0', strlen(c[i].text) == strlen(c[i].local));
        assert_string_equal(rest, c[i].rest);
    }
}

static void assert_refused(struct str raw, enum err_code code, const char *part_of_msg)
{
    struct mail_path path;
    struct err e;
    char rest[400];
    if (parse(raw, &path, rest, sizeof rest, &e))
        fail_msg("accepted: %s", raw.p);
    assert_int_equal(e.code, code);
    assert_int_equal(e.sys, 0);
    if (strstr(e.msg, part_of_msg) == NULL)
        fail_msg("%s: \"%s\" does not say \"%s\"", raw.p, e.msg, part_of_msg);
}

TEST(mail_address, takes_what_rfc5321_4_1_2_allows)
{
    static const struct good cases[] = {
        {"<a@b.example>", "a@b.example", "a", ""},
        {"<A.b-C+d=e_f{g}@X-y.example>", "A.b-C+d=e_f{g}@X-y.example", "A.b-C+d=e_f{g}", ""},
        {"<a!#$%&'*+-/=?^_`{|}~@b>", "a!#$%&'*+-/=?^_`{|}~@b", "a!#$%&'*+-/=?^_`{|}~", ""},
        {"<root@localhost>", "root@localhost", "root", ""},
        {"<1@1.2>", "1@1.2", "1", ""},
    };
    assert_good(cases, ARRAY_LEN(cases));
}

TEST(mail_address, takes_quoted_local_parts_as_written)
{
    static const struct good cases[] = {
        {"<\"a b\"@c.example> SIZE=1", "\"a b\"@c.example", "\"a b\"", "SIZE=1"},
        {"<\"a@b>,:\"@c.example>", "\"a@b>,:\"@c.example", "\"a@b>,:\"", ""},
        {"<\"a\\\"b\\\\\"@c.example>", "\"a\\\"b\\\\\"@c.example", "\"a\\\"b\\\\\"", ""},
        {"<\"\"@c.example>", "\"\"@c.example", "\"\"", ""},
        {"\"a b\"@c.example X", "\"a b\"@c.example", "\"a b\"", "X"},
    };
    assert_good(cases, ARRAY_LEN(cases));
}

TEST(mail_address, takes_address_literals)
{
    static const struct good cases[] = {
        {"<a@[192.0.2.1]>", "a@[192.0.2.1]", "a", ""},
        {"<a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]", "a", ""},
        {"<a@[ipv6:::ffff:192.0.2.1]>", "a@[ipv6:::ffff:192.0.2.1]", "a", ""},
    };
    assert_good(cases, ARRAY_LEN(cases));
    assert_refused(STR("<a@[192.0.2.256]>"), ERR_SYNTAX, "literal");
    assert_refused(STR("<a@[2001:db8::1]>"), ERR_SYNTAX, "literal");
    assert_refused(STR("<a@[IPv6:192.0.2.1]>"), ERR_SYNTAX, "literal");
    assert_refused(STR("<a@[]>"), ERR_SYNTAX, "literal");
    assert_refused(STR("<a@[192.0.2.1>"), ERR_SYNTAX, "']' is expected");
    assert_refused(STR("<a@[192.0.2.1"), ERR_SYNTAX, "']' is expected");
    assert_refused(STR("<a@[192.0.2.1]x>"), ERR_SYNTAX, "'>' is expected");
    /* good, were it cut at the longest text an IPv6 address has */
    assert_refused(STR("<a@[IPv6:0000:0000:0000:0000:0000:ffff:192.168.100.2289]>"), ERR_SYNTAX,
                   "literal");
}

TEST(mail_address, drops_source_routes)
{
    static const struct good cases[] = {
        {"<@a.example:u@d.example>", "u@d.example", "u", ""},
        {"<@a,@b.example,@[192.0.2.1]:u@d.example> BODY=7BIT", "u@d.example", "u", "BODY=7BIT"},
    };
    assert_good(cases, ARRAY_LEN(cases));
    assert_refused(STR("<@a,b:u@d>"), ERR_SYNTAX, "'@' is expected");
    assert_refused(STR("<@a;u@d>"), ERR_SYNTAX, "':' is expected");
    assert_refused(STR("<@:u@d>"), ERR_SYNTAX, "a domain is expected");
    assert_refused(STR("<@a:>"), ERR_SYNTAX, "a local part is expected");
}

TEST(mail_address, knows_the_null_path_and_postmaster)
{
    static const struct good cases[] = {
        {"<>", "", "", ""},
        {"<> SIZE=5", "", "", "SIZE=5"},
        {"<postmaster>", "postmaster", "postmaster", ""},
        {"<PostMaster>", "PostMaster", "PostMaster", ""},
        {"<postmaster@b>", "postmaster@b", "postmaster", ""},
    };
    assert_good(cases, ARRAY_LEN(cases));
    assert_refused(STR("<root>"), ERR_SYNTAX, "a domain is expected");
    assert_refused(STR(""), ERR_SYNTAX, "ends where a local part");
    assert_refused(STR(" "), ERR_SYNTAX, "ends where a local part");
}

TEST(mail_address, is_lenient_about_one_space_and_missing_brackets)
{
    static const struct good cases[] = {
        {" <a@b>", "a@b", "a", ""},
        {"a@b", "a@b", "a", ""},
        {" a@b  SIZE=1  X ", "a@b", "a", "SIZE=1  X"},
    };
    assert_good(cases, ARRAY_LEN(cases));
    assert_refused(STR("  <a@b>"), ERR_SYNTAX, "a local part is expected");
    assert_refused(STR("a@b>"), ERR_SYNTAX, "'>' in the address");
    assert_refused(STR("<a@b"), ERR_SYNTAX, "ends where '>'");
}

TEST(mail_address, refuses_what_is_no_mailbox)
{
    static const char *const cases[] = {
        "<a@>",      "<@b>",       "<a@b>x",  "<<a@b>>",     "<a@@b>",   "<.a@b>",
        "<a.@b>",    "<a..b@c>",   "<a@b.>",  "<a@.b>",      "<a@b..c>", "<a@-b>",
        "<a@b->",    "<a@b-.c>",   "<a@b_c>", "<a b@c>",     "<a@b c>",  "<a@b>\tX",
        "<\"a@b>",   "<\"a\"b@c>", "< a@b>",  "<a@b >",      "<a(x)@b>", "<a,b@c>",
        "<a@b,c@d>", "<a@b\\c>",   "A <a@b>", "<\"a\\\"@b>", "<a@[b]c>", "<a@b;c>",
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_refused(str_from(cases[i]), ERR_SYNTAX, "");
}

TEST(mail_address, refuses_every_control_character_anywhere)
{
    static const char *const templates[] = {"<_@b>", "<a_b@c>",     "<a@b_c>",   "<\"a_b\"@c>",
                                            "a@b_",  "<\"\\_\"@c>", "<@a_:b@c>", "<a@[1_]>"};
    for (size_t i = 0; i < ARRAY_LEN(templates); i++)
        for (int c = 0; c < 33; c++) {
            char raw[32];
            int byte = c == 32 ? 127 : c;
            size_t len = strlen(templates[i]);
            memcpy(raw, templates[i], len + 1);
            *strchr(raw, '_') = (char)byte;
            assert_refused((struct str){raw, len}, ERR_SYNTAX, "control character");
        }
}

TEST(mail_address, denies_eight_bit_bytes_anywhere)
{
    static const char *const cases[] = {
        "<j\xc3\xb6rg@b>",   "<a@b\xc3\xbc.example>", "<\"\xff\"@b>",
        "<a\xef\xbc\xa0 b>", "<a@b\xe2\x80\xa4 c>",   "\xc3@b",
        "<@\xc3:a@b>",       "<\"\\\x80\"@b>",        "<a@[\x80]>",
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_refused(str_from(cases[i]), ERR_DENIED, "SMTPUTF8");
}

#define LETTERS_AND_DIGITS "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

TEST(mail_address, judges_every_byte_by_where_it_stands)
{
    static const struct {
        const char *raw, *allowed; /* in place of '_' */
    } cases[] = {
        {"<a_b@c>", LETTERS_AND_DIGITS "!#$%&'*+-/=?^_`{|}~."},
        {"<_@c>", LETTERS_AND_DIGITS "!#$%&'*+-/=?^_`{|}~"},
        {"<a@b_c>", LETTERS_AND_DIGITS "-."},
        {"<a@_>", LETTERS_AND_DIGITS},
        {"<\"\\_\"@c>", LETTERS_AND_DIGITS " !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"},
        {"<\"a_b\"@c>", LETTERS_AND_DIGITS " !#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        for (int byte = 0; byte < 256; byte++) {
            char raw[32], rest[8];
            size_t len = strlen(cases[i].raw);
            memcpy(raw, cases[i].raw, len + 1);
            *strchr(raw, '_') = (char)byte;
            struct mail_path path;
            struct err e;
            bool is_allowed = byte != 0 && strchr(cases[i].allowed, byte) != NULL;
            if (parse((struct str){raw, len}, &path, rest, sizeof rest, &e) != is_allowed)
                fail_msg("%s: 0x%02x", cases[i].raw, (unsigned)byte);
        }
}

static char *repeat(char *out, const char *unit, size_t n)
{
    out[0] = '\0';
    for (size_t i = 0; i < n; i++)
        memcpy(out + i * strlen(unit), unit, strlen(unit) + 1);
    return out;
}

/* "<" local_len x 'l' "@" labels x "ddd.ddd..." ">" */
static bool accepts_sizes(size_t local_len, size_t domain_len)
{
    char local[400], domain[400], raw[900], rest[8];
    repeat(local, "l", local_len);
    repeat(domain, "d.", domain_len / 2);
    if (domain_len % 2 == 1)
        memcpy(domain + domain_len - 1, "d", 2);
    else
        memcpy(domain + domain_len - 2, "dd", 3);
    snprintf(raw, sizeof raw, "<%s@%s>", local, domain);
    struct mail_path path;
    struct err e;
    if (parse(str_from(raw), &path, rest, sizeof rest, &e))
        return true;
    assert_int_equal(e.code, ERR_SYNTAX);
    assert_string_equal(e.msg, local_len > 64 ? "the local part is over 64 bytes"
                                              : "the address is over 254 bytes");
    return false;
}

TEST(mail_address, holds_the_limits_of_rfc5321_4_5_3_1)
{
    assert_true(accepts_sizes(64, 9));
    assert_false(accepts_sizes(65, 9));
    assert_true(accepts_sizes(64, 256 - 2 - 1 - 64));
    assert_false(accepts_sizes(64, 256 - 2 - 1 - 64 + 1));
    assert_true(accepts_sizes(1, 252));
    assert_false(accepts_sizes(1, 253));

    char label[80], raw[200], rest[8];
    struct mail_path path;
    struct err e;
    snprintf(raw, sizeof raw, "<a@%s>", repeat(label, "x", 63));
    assert_true(parse(str_from(raw), &path, rest, sizeof rest, &e));
    snprintf(raw, sizeof raw, "<a@%s>", repeat(label, "x", 64));
    assert_refused(str_from(raw), ERR_SYNTAX, "label");
}

static bool same(const char *one, const char *two)
{
    struct mail_path a, b;
    struct err e;
    char rest[8];
    assert_true(parse(str_from(one), &a, rest, sizeof rest, &e));
    assert_true(parse(str_from(two), &b, rest, sizeof rest, &e));
    assert_int_equal(mail_path_same(&a, &b), mail_path_same(&b, &a));
    return mail_path_same(&a, &b);
}

TEST(mail_address, compares_domains_without_case_and_local_parts_with)
{
    assert_true(same("<a@B.example>", "<@r:a@b.EXAMPLE>"));
    assert_false(same("<A@b>", "<a@b>"));
    assert_false(same("<a@b>", "<a@c>"));
    assert_false(same("<a@b>", "<a@bb>"));
    assert_true(same("<postmaster>", "<POSTMASTER>"));
    assert_false(same("<postmaster>", "<postmaster@b>"));
    assert_true(same("<\"a\"@b>", "<a@b>")); /* RFC 5321 4.1.2: quotes are no part of it */
    assert_true(same("<\"\\a b\"@b>", "<\"a\\ b\"@b>"));
    assert_false(same("<\"a \"@b>", "<a@b>"));
    assert_false(same("<\"\\\"a\\\"\"@b>", "<a@b>"));
    assert_false(same("<\"A\"@b>", "<a@b>"));
    assert_false(same("<>", "<a@b>"));
    assert_true(same("<>", "<>"));
}
