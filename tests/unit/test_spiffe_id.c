// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "core/spiffe_id.h"

#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof *(a))

static bool parses(const char *raw)
{
    struct spiffe_id id;
    struct err e = {0};
    bool ok = spiffe_id_parse(str_from(raw), &id, &e);
    assert_int_equal(e.code, ok ? ERR_NONE : ERR_SYNTAX);
    return ok;
}

static void assert_refused(const char *raw, const char *because)
{
    struct spiffe_id id;
    struct err e = {0};
    assert_false(spiffe_id_parse(str_from(raw), &id, &e));
    assert_int_equal(e.code, ERR_SYNTAX);
    if (strstr(e.msg, because) == NULL)
        fail_msg("%s: '%s' lacks '%s'", raw, e.msg, because);
}

TEST(spiffe_id, a_workload_id_is_split_into_trust_domain_and_path)
{
    struct spiffe_id id;
    assert_true(spiffe_id_parse(STR("spiffe://example.org/ns/mail/sa/app"), &id, NULL));
    assert_true(str_eq(spiffe_id_str(&id), STR("spiffe://example.org/ns/mail/sa/app")));
    assert_true(str_eq(spiffe_id_trust_domain(&id), STR("example.org")));
    assert_true(str_eq(spiffe_id_path(&id), STR("/ns/mail/sa/app")));
    assert_string_equal(id.text, "spiffe://example.org/ns/mail/sa/app");
}

TEST(spiffe_id, a_trust_domain_alone_has_an_empty_path)
{
    struct spiffe_id id;
    assert_true(spiffe_id_parse(STR("spiffe://example.org"), &id, NULL));
    assert_true(str_eq(spiffe_id_trust_domain(&id), STR("example.org")));
    assert_int_equal(spiffe_id_path(&id).len, 0);
}

TEST(spiffe_id, a_workload_needs_a_path)
{
    struct spiffe_id id = {.len = 7};
    struct err e = {0};
    assert_false(spiffe_id_parse_workload(STR("spiffe://example.org"), &id, &e));
    assert_int_equal(e.code, ERR_SYNTAX);
    assert_non_null(strstr(e.msg, "whole trust domain"));
    assert_int_equal(id.len, 7);
    assert_true(spiffe_id_parse_workload(STR("spiffe://example.org/a"), &id, &e));
    assert_false(spiffe_id_parse_workload(STR("spiffe://example.org/"), &id, &e));
    assert_non_null(strstr(e.msg, "ends in '/'"));
}

/* The vectors of go-spiffe's TestFromString, I1-I4. */
TEST(spiffe_id, malformed_ids_are_refused_with_their_reason)
{
    static const struct {
        const char *raw, *because;
    } cases[] = {
        {"", "empty"},
        {"/path", "does not begin with spiffe://"},
        {"spiffe:/path", "does not begin with spiffe://"},
        {"spiffe:", "does not begin with spiffe://"},
        {"spiffe:/", "does not begin with spiffe://"},
        {"spiff://td/path", "does not begin with spiffe://"},
        {"http://td/path", "does not begin with spiffe://"},
        {" spiffe://td/path", "does not begin with spiffe://"},
        {"Spiffe://td/path", "lower case"},
        {"SPIFFE://td/path", "lower case"},
        {"spiffe://", "trust domain is missing"},
        {"spiffe:///", "trust domain is missing"},
        {"spiffe:///path", "trust domain is missing"},
        {"spiffe://Td/path", "'T' (upper case)"},
        {"spiffe://td:80/path", "':' (no port)"},
        {"spiffe://user@td/path", "'@' (no user)"},
        {"spiffe://[::1]/path", "'['"},
        {"spiffe://t%64/path", "'%' (no percent-encoding)"},
        {"spiffe://td?q=1", "'?' (no query"},
        {"spiffe://td#f", "'#' (no query, no fragment)"},
        {"spiffe://td/path?q=1", "'?' (no query"},
        {"spiffe://td/path#f", "'#' (no query"},
        {"spiffe://td/pa%20th", "the path must not hold '%'"},
        {"spiffe://td/pa th", "the path must not hold ' '"},
        {"spiffe://td/pa\nth", "the path must not hold '\\x0a'"},
        {"spiffe://td/", "ends in '/'"},
        {"spiffe://td//", "empty segment"},
        {"spiffe://td//path", "empty segment"},
        {"spiffe://td/path//path", "empty segment"},
        {"spiffe://td/path/", "ends in '/'"},
        {"spiffe://td/.", "'.' or '..'"},
        {"spiffe://td/./path", "'.' or '..'"},
        {"spiffe://td/path/./other", "'.' or '..'"},
        {"spiffe://td/path/..", "'.' or '..'"},
        {"spiffe://td/..", "'.' or '..'"},
        {"spiffe://td/../path", "'.' or '..'"},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_refused(cases[i].raw, cases[i].because);
}

TEST(spiffe_id, dots_that_are_no_dot_segments_are_legal)
{
    static const char *const raws[] = {
        "spiffe://td/...",     "spiffe://td/.x",     "spiffe://td/..x",
        "spiffe://td/x..",     "spiffe://td/..../x", "spiffe://td/-",
        "spiffe://td/_/-.",    "spiffe://1.2.3.4/x", "spiffe://-._/x",
        "spiffe://..../x",     "spiffe://_td_/A",    "spiffe://a/Path/With/Case",
        "spiffe://td/a/b/c/d", "spiffe://xn--a/b-c",
    };
    for (size_t i = 0; i < COUNT(raws); i++)
        if (!parses(raws[i]))
            fail_msg("%s was refused", raws[i]);
}

TEST(spiffe_id, each_byte_value_in_a_trust_domain)
{
    for (int c = 0; c < 256; c++) {
        char raw[] = "spiffe://t.d/path";
        raw[10] = (char)c;
        struct spiffe_id id;
        bool legal =
            (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_';
        if (c == '/') { /* "spiffe://t/d/path" */
            assert_true(spiffe_id_parse((struct str){raw, 17}, &id, NULL));
            assert_int_equal(id.trust_domain_len, 1);
            continue;
        }
        if (spiffe_id_parse((struct str){raw, 17}, &id, NULL) != legal)
            fail_msg("byte %d", c);
        char name[] = {'t', (char)c, 'd'};
        assert_int_equal(spiffe_trust_domain_check((struct str){name, 3}, NULL), legal);
    }
}

TEST(spiffe_id, each_byte_value_in_a_path)
{
    for (int c = 0; c < 256; c++) {
        char raw[] = "spiffe://td/a.b";
        raw[13] = (char)c;
        struct spiffe_id id;
        bool legal = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     c == '.' || c == '-' || c == '_' || c == '/';
        if (spiffe_id_parse((struct str){raw, 15}, &id, NULL) != legal)
            fail_msg("byte %d", c);
    }
}

TEST(spiffe_id, a_byte_behind_a_nul_is_not_overlooked)
{
    static const char raw[] = "spiffe://td/path\0evil";
    struct spiffe_id id;
    assert_true(spiffe_id_parse((struct str){raw, 16}, &id, NULL));
    assert_false(spiffe_id_parse((struct str){raw, 17}, &id, NULL));
    assert_false(spiffe_id_parse((struct str){raw, sizeof raw - 1}, &id, NULL));
}

TEST(spiffe_id, lengths_are_accepted_up_to_their_maximum)
{
    char raw[SPIFFE_ID_MAX + 1];
    struct spiffe_id id;
    memset(raw, 'a', sizeof raw);
    memcpy(raw, "spiffe://td/", 12);
    assert_true(spiffe_id_parse((struct str){raw, SPIFFE_ID_MAX}, &id, NULL));
    assert_int_equal(strlen(id.text), SPIFFE_ID_MAX);
    assert_false(spiffe_id_parse((struct str){raw, SPIFFE_ID_MAX + 1}, &id, NULL));

    memset(raw, 'a', sizeof raw);
    memcpy(raw, "spiffe://", 9);
    raw[9 + 255] = '/';
    assert_true(spiffe_id_parse((struct str){raw, 9 + 255}, &id, NULL));
    assert_true(spiffe_id_parse((struct str){raw, 9 + 255 + 2}, &id, NULL));
    raw[9 + 255] = 'a';
    raw[9 + 256] = '/';
    struct err e;
    assert_false(spiffe_id_parse((struct str){raw, 9 + 256}, &id, &e));
    assert_non_null(strstr(e.msg, "longer than 255"));
}

TEST(spiffe_id, a_bare_trust_domain_name_is_checked)
{
    struct err e;
    assert_true(spiffe_trust_domain_check(STR("example.org"), &e));
    assert_false(spiffe_trust_domain_check(STR(""), &e));
    assert_false(spiffe_trust_domain_check(STR("spiffe://example.org"), &e));
    assert_false(spiffe_trust_domain_check(STR("example.org/"), &e));
    assert_false(spiffe_trust_domain_check(STR("Example.org"), &e));
    assert_int_equal(e.code, ERR_SYNTAX);
}

TEST(spiffe_id, ids_compare_byte_by_byte)
{
    struct spiffe_id a, b, c, d;
    assert_true(spiffe_id_parse(STR("spiffe://td/a"), &a, NULL));
    assert_true(spiffe_id_parse(STR("spiffe://td/a"), &b, NULL));
    assert_true(spiffe_id_parse(STR("spiffe://td/A"), &c, NULL));
    assert_true(spiffe_id_parse(STR("spiffe://td/a/b"), &d, NULL));
    assert_true(spiffe_id_equal(&a, &b));
    assert_false(spiffe_id_equal(&a, &c));
    assert_false(spiffe_id_equal(&a, &d));
}

TEST(spiffe_id, a_refused_id_is_shown_escaped_and_cut_and_the_reason_survives)
{
    char raw[4000];
    memset(raw, '\r', sizeof raw);
    struct err e;
    struct spiffe_id id;
    memcpy(raw, "spiffe://td/", 12);
    assert_false(spiffe_id_parse((struct str){raw, 1000}, &id, &e));
    assert_null(strchr(e.msg, '\r'));
    assert_non_null(strstr(e.msg, "the path must not hold '\\x0d'"));
}
