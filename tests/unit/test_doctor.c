// SPDX-License-Identifier: Apache-2.0
/* The checks are the test's own: they answer at once, when they are told to, or never. */
#include "test.h"

#include "base/mem.h"
#include "loop_fixture.h"
#include "ops/doctor.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TICK, CROSS, SKIP, LATER };

static struct {
    uv_loop_t *loop;
    struct doctor *d;
    unsigned n_done, n_run, n_cancelled;
    unsigned order[16];
    bool frees_itself;
} w;

static void run(void *arg, struct doctor *d, unsigned what)
{
    assert_ptr_equal(arg, &w);
    w.order[w.n_run++] = what;
    switch (what & 7) {
    case TICK:
        doctor_ok(d, "fine %u", what >> 3);
        break;
    case CROSS:
        doctor_found(d, "name.unknown", "gw \x1b[2J: no such name");
        break;
    case SKIP:
        doctor_skip(d, "because it is so");
        break;
    default:
        break;
    }
}

static void cancel(void *arg, unsigned what)
{
    assert_ptr_equal(arg, &w);
    (void)what;
    w.n_cancelled++;
}

static void on_done(void *arg)
{
    assert_ptr_equal(arg, &w);
    w.n_done++;
    if (w.frees_itself)
        doctor_free(&w.d);
}

static void start_within(const struct doctor_check *checks, size_t n, bool is_offline,
                         unsigned check_limit_ms, unsigned total_limit_ms)
{
    memset(&w, 0, sizeof w);
    w.loop = loop_new();
    const struct doctor_plan plan = {.checks = checks,
                                     .n_checks = n,
                                     .is_offline = is_offline,
                                     .check_limit_ms = check_limit_ms,
                                     .total_limit_ms = total_limit_ms,
                                     .arg = &w,
                                     .on_done = on_done};
    w.d = doctor_start(w.loop, &plan);
    assert_int_equal(w.n_run, 0); /* nothing from inside */
}

static void start(const struct doctor_check *checks, size_t n, bool is_offline)
{
    start_within(checks, n, is_offline, 20000, 60000);
}

static void stop(void)
{
    doctor_free(&w.d);
    assert_null(w.d);
    loop_free(&w.loop);
}

static json_t *result(void)
{
    static const struct doctor_word words[] = {
        {"GATEWAY", "gw"}, {"NAMESPACE", "a;b"}, {"GATEWAY_NAMESPACE", ""}, {NULL, NULL}};
    struct buf b;
    buf_init(&b, 1 << 20);
    assert_true(doctor_write(w.d, words, &b));
    json_t *o = json_loads(buf_cstr(&b), 0, NULL);
    assert_non_null(o);
    buf_release(&b);
    return o;
}

static const char *field(const json_t *o, size_t i, const char *key)
{
    const char *z =
        json_string_value(json_object_get(json_array_get(json_object_get(o, "checks"), i), key));
    return z == NULL ? "" : z;
}

#define CHECK_ROW(id, needs, online, what)                                                         \
    {                                                                                              \
        id, "some", "check " id, needs, online, what, run, cancel, 0, NULL                         \
    }

TEST(doctor, checks_run_one_after_the_other_in_their_order)
{
    static const struct doctor_check checks[] = {CHECK_ROW("a", "", false, TICK | 8),
                                                 CHECK_ROW("b", "", false, LATER),
                                                 CHECK_ROW("c", "a|b", true, TICK | 16)};
    start(checks, 3, false);
    LOOP_UNTIL(w.loop, w.n_run == 2);
    loop_settle(w.loop);
    assert_int_equal(w.n_run, 2); /* c waits for b */
    doctor_ok(w.d, "late");
    assert_int_equal(w.n_done, 0); /* not from inside */
    LOOP_UNTIL(w.loop, w.n_done == 1);
    assert_int_equal(w.n_run, 3);
    json_t *o = result();
    assert_string_equal(json_string_value(json_object_get(o, "result")), "ok");
    assert_string_equal(field(o, 0, "text"), "fine 1");
    assert_string_equal(field(o, 1, "text"), "late");
    assert_string_equal(field(o, 2, "text"), "fine 2");
    assert_string_equal(field(o, 2, "id"), "c");
    assert_string_equal(field(o, 2, "category"), "some");
    json_decref(o);
    loop_run_for(w.loop, 100);
    assert_int_equal(w.n_done, 1);
    assert_int_equal(w.n_cancelled, 0);
    stop();
}

TEST(doctor, a_cross_carries_code_cure_and_the_field_that_decides)
{
    static const struct doctor_check checks[] = {CHECK_ROW("a", "", false, CROSS)};
    start(checks, 1, false);
    LOOP_UNTIL(w.loop, w.n_done == 1);
    json_t *o = result();
    const json_t *cure = json_object_get(json_array_get(json_object_get(o, "checks"), 0), "cure");
    assert_string_equal(json_string_value(json_object_get(o, "result")), "failed");
    assert_string_equal(field(o, 0, "result"), "failed");
    assert_string_equal(field(o, 0, "code"), "SM031");
    assert_string_equal(field(o, 0, "see"), "docs/troubleshooting.md#sm031");
    assert_string_equal(field(o, 0, "text"), "gw \\x1b[2J: no such name");
    assert_string_equal(json_string_value(json_array_get(cure, 0)),
                        "kubectl -n GATEWAY_NAMESPACE get service gw");
    assert_int_equal(json_array_size(cure), 4); /* three of them edit the configuration */
    json_decref(o);
    stop();
}

TEST(doctor, what_needs_a_failed_check_is_not_checked_and_names_the_root)
{
    static const struct doctor_check checks[] = {
        CHECK_ROW("a", "", false, CROSS),  CHECK_ROW("b", "a", false, TICK),
        CHECK_ROW("c", "b", false, TICK),  CHECK_ROW("d", "", false, SKIP),
        CHECK_ROW("e", "d", false, TICK),  CHECK_ROW("f", "", false, TICK),
        CHECK_ROW("g", "f|e", false, TICK)};
    start(checks, 7, false);
    LOOP_UNTIL(w.loop, w.n_done == 1);
    assert_int_equal(w.n_run, 3); /* a, d, f */
    json_t *o = result();
    assert_string_equal(field(o, 1, "text"), "because of \"check a\"");
    assert_string_equal(field(o, 2, "text"), "because of \"check a\"");
    assert_string_equal(field(o, 3, "text"), "because it is so");
    assert_string_equal(field(o, 4, "text"), "because of \"check d\", which was not checked");
    assert_string_equal(field(o, 5, "result"), "ok");
    assert_string_equal(field(o, 6, "text"), "because of \"check d\", which was not checked");
    assert_string_equal(field(o, 6, "code"), "");
    json_int_t n = json_integer_value(json_object_get(json_object_get(o, "counts"), "not_checked"));
    assert_int_equal(n, 5);
    json_decref(o);
    stop();
}

TEST(doctor, a_warning_does_not_stand_in_the_way)
{
    static const struct doctor_check checks[] = {CHECK_ROW("a", "", false, LATER),
                                                 CHECK_ROW("b", "a", false, TICK)};
    start(checks, 2, false);
    LOOP_UNTIL(w.loop, w.n_run == 1);
    doctor_found(w.d, "svid.old", "little is left");
    LOOP_UNTIL(w.loop, w.n_done == 1);
    json_t *o = result();
    assert_string_equal(json_string_value(json_object_get(o, "result")), "warning");
    assert_string_equal(field(o, 1, "result"), "ok");
    json_decref(o);
    stop();
}

TEST(doctor, offline_nobody_is_asked)
{
    static const struct doctor_check checks[] = {CHECK_ROW("a", "", true, LATER),
                                                 CHECK_ROW("b", "", false, TICK),
                                                 CHECK_ROW("c", "a", false, TICK)};
    start(checks, 3, true);
    LOOP_UNTIL(w.loop, w.n_done == 1);
    assert_int_equal(w.n_run, 1);
    json_t *o = result();
    assert_true(json_is_true(json_object_get(o, "offline")));
    assert_string_equal(field(o, 0, "text"), "because of --offline");
    assert_string_equal(field(o, 2, "result"), "not_checked");
    json_decref(o);
    stop();
}

TEST(doctor, a_check_that_does_not_end_is_cancelled_and_told)
{
    static const struct doctor_check checks[] = {
        CHECK_ROW("a", "", false, LATER),
        {"b", "some", "check b", "", false, LATER, run, cancel, 10, "name.no_answer"},
        CHECK_ROW("c", "", false, TICK)};
    start_within(checks, 3, false, 50, 60000);
    LOOP_UNTIL(w.loop, w.n_done == 1);
    assert_int_equal(w.n_cancelled, 2);
    json_t *o = result();
    assert_string_equal(field(o, 0, "code"), "SM099");
    assert_string_equal(field(o, 1, "code"), "SM032");
    assert_string_equal(field(o, 1, "text"), "no result within 0.0 s");
    assert_string_equal(field(o, 2, "result"), "ok");
    json_decref(o);
    stop();
}

TEST(doctor, when_all_time_is_over_the_rest_is_not_checked)
{
    struct doctor_check checks[8];
    for (size_t i = 0; i < ARRAY_LEN(checks); i++)
        checks[i] = (struct doctor_check)CHECK_ROW("a", "", false, LATER);
    start_within(checks, ARRAY_LEN(checks), false, 500, 1900);
    LOOP_UNTIL(w.loop, w.n_done == 1);
    assert_int_equal(w.n_run, 4);
    assert_int_equal(w.n_cancelled, w.n_run);
    json_t *o = result();
    assert_string_equal(field(o, 7, "text"), "because the checks before it took too long");
    json_decref(o);
    stop();
}

TEST(doctor, freed_at_any_stage_it_cancels_what_is_under_way_and_says_no_more)
{
    static const struct doctor_check checks[] = {CHECK_ROW("a", "", false, TICK),
                                                 CHECK_ROW("b", "", false, LATER)};
    start(checks, 2, false);
    doctor_free(&w.d);
    loop_run_for(w.loop, 20);
    assert_int_equal(w.n_run + w.n_done + w.n_cancelled, 0);
    stop();
    start(checks, 2, false);
    LOOP_UNTIL(w.loop, w.n_run == 2);
    loop_settle(w.loop);
    doctor_free(&w.d);
    loop_run_for(w.loop, 80);
    assert_int_equal(w.n_cancelled, 1);
    assert_int_equal(w.n_done, 0);
    stop();
    start(checks, 1, false);
    w.frees_itself = true;
    LOOP_UNTIL(w.loop, w.n_done == 1);
    stop();
}

/* --- the table */

TEST(doctor, a_sign_without_a_row_falls_back_on_the_one_above_it)
{
    static const struct {
        const char *sign;
        int number;
    } cases[] = {{"stream.not_tls.http", 44},
                 {"stream.not_tls", 46},
                 {"stream.not_tls.odd", 46},
                 {"stream.peer_untrusted", 52},
                 {"alert.116", 55},
                 {"alert.11", 49},
                 {"alert.1160", 49},
                 {"agent.internal", 20},
                 {"sts.NewError", 79},
                 {"ses.bad", 89},
                 {"agent", 20}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const struct doctor_code *c = doctor_code_find(cases[i].sign);
        assert_non_null(c);
        assert_int_equal(c->number, cases[i].number);
    }
    assert_null(doctor_code_find("nonsense.of.any"));
    assert_null(doctor_code_find(""));
}

TEST(doctor, each_code_has_its_own_number_and_signs_and_something_to_type)
{
    size_t n;
    const struct doctor_code *codes = doctor_codes(&n);
    int last = 0;
    for (size_t i = 0; i < n; i++) {
        assert_true(codes[i].number > last && codes[i].number < 100);
        last = codes[i].number;
        assert_true(codes[i].result == DOCTOR_WARNING || codes[i].result == DOCTOR_FAILED);
        assert_true(codes[i].title[0] != '\0' && codes[i].cure[0] != '\0');
        struct str rest = str_from(codes[i].signs);
        assert_true(rest.len > 0);
        while (rest.len > 0) { /* no sign stands in two rows: the first is found, and it is this */
            char sign[64];
            str_copy(sign, sizeof sign, str_sub(rest, 0, str_index(rest, '|')));
            assert_ptr_equal(doctor_code_find(sign), &codes[i]);
            rest = str_sub(rest, strlen(sign) + 1, rest.len);
        }
    }
    assert_true(n > 60);
}

TEST(doctor, no_cure_guesses_the_configmaps_name_and_each_edit_says_to_restart)
{
    size_t n, edits = 0;
    const struct doctor_code *codes = doctor_codes(&n);
    for (size_t i = 0; i < n; i++) {
        const char *edit = strstr(codes[i].cure, "edit configmap ");
        if (edit == NULL)
            continue;
        edits++;
        assert_non_null(strstr(codes[i].cure, ".configMap.name}"));
        assert_true(str_starts_with(str_from(edit), STR("edit configmap CONFIGMAP  # ")));
        assert_non_null(strstr(edit, " rollout restart "));
    }
    assert_true(edits > 10);
}

TEST(doctor, no_cure_reads_the_log_of_one_gateway_pod_alone)
{
    size_t n;
    const struct doctor_code *codes = doctor_codes(&n);
    for (size_t i = 0; i < n; i++) {
        assert_null(strstr(codes[i].cure, "logs deployment/"));
        const char *logs = strstr(codes[i].cure, "logs -l ");
        if (logs !=
            NULL) /* of a selector's pods kubectl shows 10 lines each, unless told otherwise */
            assert_non_null(strstr(logs, " --tail="));
    }
}

TEST(doctor, words_are_filled_in_unless_a_shell_would_read_more_in_them)
{
    static const struct doctor_word words[] = {
        {"A", "mail-egress"}, {"B", "x y"},     {"C", "$(id)"}, {"D", "'"},    {"E", "-rf"},
        {"F", NULL},          {"G", "a/b.c:1"}, {"H", ""},      {"I", "a\nb"}, {NULL, NULL}};
    static const struct {
        const char *cure, *filled;
    } cases[] = {{"get {A} -n {A}", "get mail-egress -n mail-egress"},
                 {"{B} {C} {D} {E} {F} {H} {I} {UNKNOWN}", "B C D E F H I UNKNOWN"},
                 {"{G}", "a/b.c:1"},
                 {"'{.a[?(@.name==\"b\")].c}' {A}", "'{.a[?(@.name==\"b\")].c}' mail-egress"},
                 {"-o jsonpath='{.spec}' {A", "-o jsonpath='{.spec}' {A"},
                 {"{}{{A}}", "{}{mail-egress}"},
                 {"", ""}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct buf b;
        buf_init(&b, 1000);
        assert_true(doctor_fill(cases[i].cure, words, &b));
        assert_string_equal(buf_cstr(&b), cases[i].filled);
        buf_release(&b);
    }
    struct buf small;
    buf_init(&small, 5);
    assert_false(doctor_fill("get {A}", words, &small));
    buf_release(&small);
}
