// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/mem.h"
#include "core/policy.h"

#include <stdio.h>
#include <string.h>

static struct mail_path path_of(const char *raw)
{
    struct mail_path path;
    struct str rest;
    struct err e;
    if (!mail_path_parse(str_from(raw), &path, &rest, &e))
        fail_msg("%s: %s", raw, e.msg);
    return path;
}

static bool sender_passes(char *const *patterns, const char *raw)
{
    struct mail_path path = path_of(raw);
    return policy_allows_sender(&(struct policy_config){.senders = (char **)patterns}, &path);
}

TEST(policy, allows_all_where_nothing_is_listed)
{
    struct mail_path path = path_of("<a@b>"), null_path = path_of("<>");
    char *none[] = {NULL};
    assert_true(policy_allows_sender(&(struct policy_config){0}, &path));
    assert_true(policy_allows_sender(&(struct policy_config){.senders = none}, &null_path));
    assert_true(policy_allows_recipient(&(struct policy_config){0}, &path));
    assert_true(policy_allows_recipient(
        &(struct policy_config){.recipients_allow = none, .recipients_deny = none}, &path));
}

TEST(policy, a_domain_pattern_is_exactly_that_domain)
{
    char *patterns[] = {(char *)"@Example.com", NULL};
    assert_true(sender_passes(patterns, "<a@example.COM>"));
    assert_true(sender_passes(patterns, "<\"x@other.com\"@example.com>"));
    assert_false(sender_passes(patterns, "<a@sub.example.com>"));
    assert_false(sender_passes(patterns, "<a@notexample.com>"));
    assert_false(sender_passes(patterns, "<a@example.com.evil>"));
    assert_false(sender_passes(patterns, "<\"a@example.com\"@evil>"));
    assert_false(sender_passes(patterns, "<>"));
    assert_false(sender_passes(patterns, "<postmaster>"));
}

TEST(policy, an_address_pattern_is_that_address_in_any_case)
{
    char *patterns[] = {(char *)"Billing@Example.com", NULL};
    assert_true(sender_passes(patterns, "<billing@example.com>"));
    assert_true(sender_passes(patterns, "<BILLING@EXAMPLE.COM>"));
    assert_false(sender_passes(patterns, "<abilling@example.com>"));
    assert_false(sender_passes(patterns, "<other@example.com>"));
    assert_false(sender_passes(patterns, "<>"));
}

TEST(policy, the_second_pattern_counts_too_and_a_star_takes_all)
{
    char *patterns[] = {(char *)"a@b", (char *)"@c", NULL}, *star[] = {(char *)"*", NULL};
    assert_true(sender_passes(patterns, "<x@c>"));
    assert_false(sender_passes(patterns, "<x@d>"));
    assert_true(sender_passes(star, "<x@d>"));
    assert_true(sender_passes(star, "<>"));
}

TEST(policy, an_empty_or_lone_at_pattern_matches_nothing)
{
    char *patterns[] = {(char *)"", (char *)"@", NULL};
    assert_false(sender_passes(patterns, "<>"));
    assert_false(sender_passes(patterns, "<postmaster>"));
    assert_false(sender_passes(patterns, "<a@b>"));
}

TEST(policy, deny_wins_over_allow)
{
    char *allow[] = {(char *)"@b", NULL}, *deny[] = {(char *)"ceo@b", NULL};
    struct policy_config both = {.recipients_allow = allow, .recipients_deny = deny};
    struct policy_config deny_only = {.recipients_deny = deny};
    struct mail_path ceo = path_of("<CEO@b>"), user = path_of("<u@b>"), other = path_of("<u@c>");
    assert_false(policy_allows_recipient(&both, &ceo));
    assert_true(policy_allows_recipient(&both, &user));
    assert_false(policy_allows_recipient(&both, &other));
    assert_false(policy_allows_recipient(&deny_only, &ceo));
    assert_true(policy_allows_recipient(&deny_only, &other));
}

/* RFC 5321 4.1.2: quotes and quoted pairs are ways to write a local part, not part of it. */
TEST(policy, quotes_do_not_make_another_address)
{
    char *deny[] = {(char *)"boss@b", (char *)"\"a b\"@c", NULL};
    struct policy_config c = {.recipients_deny = deny};
    static const char *const denied[] = {"<boss@b>", "<\"boss\"@b>", "<\"Bo\\ss\"@b>",
                                         "<\"a b\"@c>", "<\"a\\ \\b\"@C>"};
    static const char *const passed[] = {"<\"boss \"@b>", "<\"bos\"@b>", "<\"boss@b\"@c>",
                                         "<\"\\\"boss\\\"\"@b>", "<\"\"@b>"};
    for (size_t i = 0; i < ARRAY_LEN(denied); i++) {
        struct mail_path to = path_of(denied[i]);
        assert_false(policy_allows_recipient(&c, &to));
    }
    for (size_t i = 0; i < ARRAY_LEN(passed); i++) {
        struct mail_path to = path_of(passed[i]);
        assert_true(policy_allows_recipient(&c, &to));
    }
}

TEST(policy, pattern_check_takes_the_three_forms_only)
{
    static const char *const good[] = {"*", "@example.com", "a@example.com", "\"a b\"@c"};
    static const char *const bad[] = {
        "",      "**",     "*@example.com", "@",          "example.com", "@*.com",
        "<a@b>", " a@b",   "a@b ",          "postmaster", "@a b",        "@@b",
        "<>",    "@r:a@b", "a@b c@d",       "@\xc3\xbc",  "a@b\r\n"};
    struct err e;
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        if (!policy_pattern_check(str_from(good[i]), &e))
            fail_msg("%s: %s", good[i], e.msg);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        if (policy_pattern_check(str_from(bad[i]), &e))
            fail_msg("accepted: %s", bad[i]);
        assert_int_equal(e.code, ERR_SYNTAX);
        assert_int_equal(e.sys, 0);
        char shown[64], want[80];
        snprintf(want, sizeof want, "pattern \"%s\"",
                 str_escape(shown, sizeof shown, str_from(bad[i])));
        assert_non_null(strstr(e.msg, want));
    }
}

TEST(policy, pattern_check_bounds_the_domain)
{
    char pattern[600] = "@";
    struct err e;
    for (size_t i = 1; i < sizeof pattern - 1; i++) {
        pattern[i] = i % 2 == 1 ? 'd' : '.';
        if (i % 2 == 1)
            assert_int_equal(policy_pattern_check((struct str){pattern, i + 1}, &e), i + 2 <= 254);
    }
}
