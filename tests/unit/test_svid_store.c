// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/mem.h"
#include "fake_time.h"
#include "identity/svid_store.h"
#include "sys/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HOUR_MS 3600000

struct offer {
    const char *id, *hint;
};

static struct svid_choice choices[SVID_ROLE_COUNT];
static struct svid_store *store;
static const struct clock *now;
static struct err e;

static void setup(struct svid_choice mesh, struct svid_choice aws)
{
    now = fake_time_start();
    choices[SVID_MESH] = mesh;
    choices[SVID_AWS] = aws;
    store = svid_store_new(choices, now, NULL);
}

#define NOT_NAMED ((struct svid_choice){"", ""})

static void teardown(void)
{
    svid_store_free(&store);
    assert_int_equal(fake_time_n_timers(), 0);
}

/* SVIDs without certificates, valid from a minute ago for an hour. */
static struct svid_set *make_set(const struct offer *offers, size_t n)
{
    struct svid_set *s = svid_set_new(n, 0);
    s->n_svids = n;
    for (size_t i = 0; i < n; i++) {
        assert_true(spiffe_id_parse(str_from(offers[i].id), &s->svids[i].id, &e));
        s->svids[i].hint = xstrdup(offers[i].hint);
        s->svids[i].not_before_ms = clock_wall_ms(now) - 60000;
        s->svids[i].not_after_ms = clock_wall_ms(now) + HOUR_MS;
    }
    return s;
}

static void publish(const struct offer *offers, size_t n)
{
    struct svid_set *s = make_set(offers, n);
    svid_store_publish(store, &s);
    assert_null(s);
}

#define PUBLISH(...)                                                                               \
    publish((const struct offer[]){__VA_ARGS__}, ARRAY_LEN(((const struct offer[]){__VA_ARGS__})))

/* The chosen ID, or NULL with the reason in e. */
static const char *selected(enum svid_role role)
{
    static char id[SPIFFE_ID_MAX + 1];
    struct svid_set *set;
    const struct svid *v;
    e = (struct err){0};
    if (!svid_store_select(store, role, &set, &v, &e)) {
        assert_null(set);
        assert_null(v);
        return NULL;
    }
    assert_ptr_equal(set, svid_store_current(store));
    str_copy(id, sizeof id, spiffe_id_str(&v->id));
    svid_set_unref(&set);
    return id;
}

static void assert_refused(enum svid_role role, enum err_code code, const char *words)
{
    assert_null(selected(role));
    assert_int_equal(e.code, code);
    if (strstr(e.msg, words) == NULL)
        fail_msg("\"%s\" is not in \"%s\"", words, e.msg);
}

static unsigned n_calls;

static void count_call(void *arg)
{
    (void)arg;
    n_calls++;
}

TEST(svid_store, the_only_one_offered_serves_both_roles)
{
    setup(NOT_NAMED, NOT_NAMED);
    PUBLISH({"spiffe://td/a", "mesh"});
    assert_string_equal(selected(SVID_MESH), "spiffe://td/a");
    assert_string_equal(selected(SVID_AWS), "spiffe://td/a");
    teardown();
}

TEST(svid_store, several_and_none_named_are_refused_with_a_list)
{
    setup(NOT_NAMED, NOT_NAMED);
    PUBLISH({"spiffe://td/pod", ""}, {"spiffe://td/own", "mesh"});
    const char *list =
        "several SVIDs are offered and identity.mesh names none: spiffe://td/pod (no hint), "
        "spiffe://td/own (hint \"mesh\")";
    assert_refused(SVID_MESH, ERR_DENIED, list);
    assert_refused(SVID_AWS, ERR_DENIED, list);
    teardown();
}

TEST(svid_store, several_svids_of_one_spiffe_id_are_one_identity)
{
    setup(NOT_NAMED, NOT_NAMED);
    PUBLISH({"spiffe://td/a", "x"}, {"spiffe://td/a", "y"});
    assert_string_equal(selected(SVID_MESH), "spiffe://td/a");
    teardown();
}

TEST(svid_store, the_choice_is_by_id_by_hint_or_by_both)
{
    static const struct {
        struct svid_choice choice;
        const char *got; /* NULL: refused */
    } cases[] = {
        {{"spiffe://td/b", ""}, "spiffe://td/b"},
        {{"", "two"}, "spiffe://td/b"},
        {{"spiffe://td/b", "two"}, "spiffe://td/b"},
        {{"spiffe://td/c", "two"}, "spiffe://td/c"},
        {{"spiffe://td/a", "two"}, NULL},
        {{"spiffe://td/B", ""}, NULL},
        {{"spiffe://td/", ""}, NULL},
        {{"", "tw"}, NULL},
        {{"", "TWO"}, NULL},
        {{NULL, "one"}, "spiffe://td/a"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        setup(cases[i].choice, NOT_NAMED);
        PUBLISH({"spiffe://td/a", "one"}, {"spiffe://td/b", "two"}, {"spiffe://td/c", "two"});
        for (unsigned role = 0; role < SVID_ROLE_COUNT; role++) {
            const char *got = selected((enum svid_role)role);
            assert_int_equal(got == NULL, cases[i].got == NULL);
            if (got != NULL)
                assert_string_equal(got, cases[i].got);
            else
                assert_int_equal(e.code, ERR_DENIED);
        }
        teardown();
    }
}

TEST(svid_store, a_named_aws_identity_is_chosen_apart_from_mesh)
{
    setup((struct svid_choice){"", "mesh"}, (struct svid_choice){"", "aws"});
    PUBLISH({"spiffe://td/aws", "aws"}, {"spiffe://td/mesh", "mesh"});
    assert_string_equal(selected(SVID_MESH), "spiffe://td/mesh");
    assert_string_equal(selected(SVID_AWS), "spiffe://td/aws");
    PUBLISH({"spiffe://td/mesh", "mesh"});
    assert_string_equal(selected(SVID_MESH), "spiffe://td/mesh");
    assert_refused(
        SVID_AWS, ERR_DENIED,
        "identity.aws (hint \"aws\") is not offered; offered: spiffe://td/mesh (hint \"mesh\")");
    teardown();
}

TEST(svid_store, the_named_one_absent_is_never_replaced_by_another)
{
    setup((struct svid_choice){"spiffe://td/own", "h"}, NOT_NAMED);
    PUBLISH({"spiffe://td/pod", ""});
    assert_refused(SVID_MESH, ERR_DENIED,
                   "identity.mesh (spiffe://td/own, hint \"h\") is not offered");
    teardown();
}

TEST(svid_store, a_list_too_long_for_a_message_is_cut_and_counted)
{
    setup(NOT_NAMED, NOT_NAMED);
    struct offer offers[SVID_SET_MAX];
    char ids[SVID_SET_MAX][200];
    for (size_t i = 0; i < SVID_SET_MAX; i++) {
        snprintf(ids[i], sizeof ids[i], "spiffe://td/%zu/%0150d", i, 1);
        offers[i] = (struct offer){ids[i], i == 0 ? "ctl\r\nX" : ""};
    }
    publish(offers, SVID_SET_MAX);
    assert_refused(SVID_MESH, ERR_DENIED, "spiffe://td/0/000");
    assert_non_null(strstr(e.msg, "000... (hint"));
    assert_non_null(strstr(e.msg, "hint \"ctl\\x0d\\x0aX\""));
    assert_non_null(strstr(e.msg, ", and 98 more"));
    assert_null(strchr(e.msg, '\n'));
    teardown();
}

TEST(svid_store, nothing_yet_says_what_is_waited_for)
{
    setup(NOT_NAMED, NOT_NAMED);
    assert_refused(SVID_MESH, ERR_UNAVAIL, "no identity: the agent has not been asked yet");
    assert_null(svid_store_current(store));
    struct err why;
    err_set(&why, ERR_UNAVAIL, 0, "no socket there");
    svid_store_set_waiting(store, &why);
    assert_refused(SVID_MESH, ERR_UNAVAIL, "no identity: no socket there");
    PUBLISH({"spiffe://td/a", ""});
    assert_non_null(selected(SVID_MESH));
    fake_time_set_wall(FAKE_WALL_START_MS + HOUR_MS);
    assert_null(selected(SVID_MESH));
    assert_null(strstr(e.msg, "no socket there")); /* that trouble is over */
    teardown();
}

TEST(svid_store, expiry_is_judged_by_wall_clock_at_each_select)
{
    setup(NOT_NAMED, NOT_NAMED);
    PUBLISH({"spiffe://td/a", ""});
    fake_time_set_wall(FAKE_WALL_START_MS + HOUR_MS - 1);
    assert_non_null(selected(SVID_MESH));
    fake_time_set_wall(FAKE_WALL_START_MS + HOUR_MS); /* no timer has run: a suspended machine */
    assert_refused(
        SVID_MESH, ERR_EXPIRED,
        "the SVID spiffe://td/a expired at 2026-06-01T01:00:00.000Z and no newer one came");
    struct err why;
    err_set(&why, ERR_UNAVAIL, 0, "the agent is away");
    svid_store_set_waiting(store, &why);
    assert_refused(SVID_AWS, ERR_EXPIRED, "no newer one came: the agent is away");
    teardown();
}

TEST(svid_store, an_svid_of_the_future_waits_for_its_time)
{
    setup(NOT_NAMED, NOT_NAMED);
    struct svid_set *s = make_set((const struct offer[]){{"spiffe://td/a", ""}}, 1);
    s->svids[0].not_before_ms = clock_wall_ms(now) + 5000;
    svid_store_publish(store, &s);
    fake_time_advance(0);
    struct svid_watch *w = svid_store_watch(store, count_call, NULL);
    n_calls = 0;
    assert_refused(SVID_MESH, ERR_EXPIRED, "is not valid before 2026-06-01T00:00:05.000Z");
    fake_time_advance(4999);
    assert_int_equal(n_calls, 0);
    fake_time_advance(1);
    assert_int_equal(n_calls, 1);
    assert_non_null(selected(SVID_MESH));
    svid_store_unwatch(&w);
    teardown();
}

TEST(svid_store, watchers_run_later_and_once_per_turn)
{
    setup(NOT_NAMED, NOT_NAMED);
    struct svid_watch *w = svid_store_watch(store, count_call, NULL);
    n_calls = 0;
    PUBLISH({"spiffe://td/a", ""});
    PUBLISH({"spiffe://td/a", ""});
    assert_int_equal(n_calls, 0);
    fake_time_advance(0);
    assert_int_equal(n_calls, 1);
    struct err why;
    err_set(&why, ERR_DENIED, 0, "taken back");
    svid_store_redact(store, &why);
    assert_int_equal(n_calls, 1);
    fake_time_advance(0);
    assert_int_equal(n_calls, 2);
    svid_store_redact(store, &why); /* nothing left to take */
    svid_store_set_waiting(store, &why);
    fake_time_advance(0);
    assert_int_equal(n_calls, 2);
    svid_store_unwatch(&w);
    assert_null(w);
    PUBLISH({"spiffe://td/a", ""});
    fake_time_advance(0);
    assert_int_equal(n_calls, 2);
    teardown();
}

TEST(svid_store, watchers_wake_when_the_svid_expires_and_only_then)
{
    setup(NOT_NAMED, NOT_NAMED);
    PUBLISH({"spiffe://td/a", ""});
    fake_time_advance(0);
    struct svid_watch *w = svid_store_watch(store, count_call, NULL);
    n_calls = 0;
    fake_time_advance(HOUR_MS - 1);
    assert_int_equal(n_calls, 0);
    fake_time_advance(1);
    assert_int_equal(n_calls, 1);
    fake_time_advance(10 * (uint64_t)HOUR_MS);
    assert_int_equal(n_calls, 1);
    svid_store_unwatch(&w);
    teardown();
}

TEST(svid_store, a_clock_that_jumped_is_noticed_within_half_a_minute)
{
    setup(NOT_NAMED, NOT_NAMED);
    PUBLISH({"spiffe://td/a", ""});
    fake_time_advance(0);
    struct svid_watch *w = svid_store_watch(store, count_call, NULL);
    n_calls = 0;
    fake_time_set_wall(FAKE_WALL_START_MS + 2 * HOUR_MS);
    fake_time_advance(30000);
    assert_int_equal(n_calls, 1);
    fake_time_set_wall(FAKE_WALL_START_MS); /* and back: it may be used again */
    fake_time_advance(30000);
    assert_int_equal(n_calls, 2);
    svid_store_unwatch(&w);
    teardown();
}

static struct svid_watch *watches[3];
static unsigned n_second;

static void unwatch_all(void *arg)
{
    (void)arg;
    for (size_t i = 0; i < ARRAY_LEN(watches); i++)
        svid_store_unwatch(&watches[i]);
}

static void count_second(void *arg)
{
    (void)arg;
    n_second++;
}

static void add_watch(void *arg)
{
    (void)arg;
    if (watches[2] == NULL)
        watches[2] = svid_store_watch(store, count_second, NULL);
}

TEST(svid_store, a_watcher_may_remove_itself_and_the_others)
{
    setup(NOT_NAMED, NOT_NAMED);
    n_second = 0;
    watches[0] = svid_store_watch(store, unwatch_all, NULL);
    watches[1] = svid_store_watch(store, count_second, NULL);
    PUBLISH({"spiffe://td/a", ""});
    fake_time_advance(0);
    assert_int_equal(n_second, 0);
    teardown();
}

TEST(svid_store, a_watcher_added_by_a_watcher_waits_for_the_next_change)
{
    setup(NOT_NAMED, NOT_NAMED);
    n_second = 0;
    watches[0] = svid_store_watch(store, add_watch, NULL);
    PUBLISH({"spiffe://td/a", ""});
    fake_time_advance(0);
    assert_int_equal(n_second, 0);
    PUBLISH({"spiffe://td/a", ""});
    fake_time_advance(0);
    assert_int_equal(n_second, 1);
    unwatch_all(NULL);
    teardown();
}

TEST(svid_store, redaction_ends_all_use_but_not_what_a_session_holds)
{
    setup(NOT_NAMED, NOT_NAMED);
    PUBLISH({"spiffe://td/a", ""});
    struct svid_set *held;
    const struct svid *v;
    assert_true(svid_store_select(store, SVID_MESH, &held, &v, &e));
    struct err why;
    err_set(&why, ERR_DENIED, 0, "the entry was deleted");
    svid_store_redact(store, &why);
    assert_null(svid_store_current(store));
    assert_refused(SVID_MESH, ERR_UNAVAIL, "no identity: the entry was deleted");
    assert_string_equal(v->id.text, "spiffe://td/a");
    svid_set_unref(&held);
    PUBLISH({"spiffe://td/a", ""});
    assert_int_equal(svid_store_current(store)->generation, 2);
    assert_non_null(selected(SVID_MESH));
    teardown();
}

TEST(svid_store, a_bundle_is_found_by_its_whole_name)
{
    now = fake_time_start();
    struct svid_set *s = svid_set_new(0, 2);
    s->n_bundles = 2;
    s->bundles[0] =
        (struct svid_bundle){.trust_domain = xstrdup("td.example"), .store = X509_STORE_new()};
    s->bundles[1] = (struct svid_bundle){.trust_domain = xstrdup("empty.example")};
    assert_ptr_equal(svid_set_bundle(s, STR("td.example")), s->bundles[0].store);
    assert_null(svid_set_bundle(s, STR("td.exampl")));
    assert_null(svid_set_bundle(s, STR("td.example2")));
    assert_null(svid_set_bundle(s, STR("empty.example")));
    assert_null(svid_set_bundle(s, STR("")));
    svid_set_unref(&s);
}

TEST(svid_store, metrics_tell_expiry_by_role_and_the_age_of_bundles)
{
    setup((struct svid_choice){"", "mesh"}, (struct svid_choice){"", "aws"});
    struct svid_set *s = make_set((const struct offer[]){{"spiffe://td/m", "mesh"}}, 1);
    free(s->bundles);
    s->bundles = xcalloc(1, sizeof *s->bundles);
    s->n_bundles = 1;
    s->bundles[0].trust_domain = xstrdup("td");
    svid_store_publish(store, &s);
    double until = (double)(FAKE_WALL_START_MS + HOUR_MS) / 1000;
    assert_true(metric_get(M_SVID_EXPIRY, METRIC_L("mesh")) == until);
    assert_true(metric_get(M_SVID_EXPIRY, METRIC_L("aws")) == 0);
    fake_time_advance(20000);
    svid_store_refresh_metrics(store);
    assert_true(metric_get(M_BUNDLE_AGE, METRIC_L("td")) == 20);
    svid_store_confirm(store);
    svid_store_refresh_metrics(store);
    assert_true(metric_get(M_BUNDLE_AGE, METRIC_L("td")) == 0);
    struct err why;
    err_set(&why, ERR_DENIED, 0, "taken back");
    svid_store_redact(store, &why);
    assert_true(metric_get(M_SVID_EXPIRY, METRIC_L("mesh")) == 0);
    metric_clear(M_BUNDLE_AGE);
    teardown();
}
