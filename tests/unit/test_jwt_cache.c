// SPDX-License-Identifier: Apache-2.0
/* The fetcher is this file: it defines the two functions of workload_api that the cache calls, so
 * that the linker leaves workload_api.c out. */
#include "test.h"

#include "base/mem.h"
#include "fake_time.h"
#include "identity/jwt_cache.h"
#include "sys/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MINUTE_MS  60000
#define UNREADABLE INT64_MAX

/* --- the fake agent --- */

struct workload_api_call {
    char audience[64], spiffe_id[64];
    workload_api_jwt_cb cb; /* NULL: canceled or answered */
    void *arg;
};

static struct workload_api_call calls[64];
static size_t n_calls;

struct workload_api_call *workload_api_fetch_jwt(struct workload_api *w, const char *audience,
                                                 const char *spiffe_id, workload_api_jwt_cb cb,
                                                 void *arg)
{
    (void)w;
    assert_true(n_calls < ARRAY_LEN(calls));
    struct workload_api_call *c = &calls[n_calls++];
    str_copy(c->audience, sizeof c->audience, str_from(audience));
    str_copy(c->spiffe_id, sizeof c->spiffe_id, str_from(spiffe_id));
    c->cb = cb;
    c->arg = arg;
    return c;
}

void workload_api_cancel(struct workload_api_call **c)
{
    if (*c != NULL)
        (*c)->cb = NULL;
    *c = NULL;
}

static void agent_answers(size_t i, const char *token, int64_t life_ms)
{
    struct workload_api_call *c = &calls[i];
    assert_true(i < n_calls && c->cb != NULL);
    workload_api_jwt_cb cb = c->cb;
    c->cb = NULL;
    char *copy = xstrdup(token); /* so that ASan sees a cache that keeps the pointer */
    int64_t exp = life_ms == UNREADABLE ? 0 : clock_wall_ms(fake_time_clock()) + life_ms;
    cb(c->arg, NULL, copy, c->spiffe_id, exp - 1, exp);
    free(copy);
}

static void agent_fails(size_t i, const char *words)
{
    struct err e;
    err_set(&e, ERR_UNAVAIL, 0, "%s", words);
    workload_api_jwt_cb cb = calls[i].cb;
    assert_non_null(cb);
    calls[i].cb = NULL;
    cb(calls[i].arg, &e, NULL, NULL, 0, 0);
}

/* --- requests --- */

struct answer {
    unsigned n;
    enum err_code code;
    char token[64], msg[ERR_MSG_MAX];
    int64_t expires_at_ms;
};

static struct svid_store *store;
static struct jwt_cache *cache;

static void on_token(void *arg, const struct err *e, const char *token, int64_t expires_at_ms)
{
    struct answer *a = arg;
    a->n++;
    a->code = e != NULL ? e->code : ERR_NONE;
    str_copy(a->msg, sizeof a->msg, str_from(e != NULL ? e->msg : ""));
    str_copy(a->token, sizeof a->token, str_from(token));
    a->expires_at_ms = expires_at_ms;
}

static void offer(const char *const *ids, size_t n)
{
    struct err e;
    struct svid_set *s = svid_set_new(n, 0);
    s->n_svids = n;
    for (size_t i = 0; i < n; i++) {
        assert_true(spiffe_id_parse(str_from(ids[i]), &s->svids[i].id, &e));
        s->svids[i].hint = xstrdup(i == 0 ? "mesh" : "aws");
        s->svids[i].not_after_ms = INT64_MAX;
    }
    svid_store_publish(store, &s);
    fake_time_advance(0);
}

#define OFFER(...)                                                                                 \
    offer((const char *const[]){__VA_ARGS__}, ARRAY_LEN(((const char *const[]){__VA_ARGS__})))

static void setup(void)
{
    static const struct svid_choice choices[SVID_ROLE_COUNT] = {{"", "mesh"}, {"", "aws"}};
    const struct clock *clock = fake_time_start();
    n_calls = 0;
    store = svid_store_new(choices, clock, NULL);
    cache = jwt_cache_new(NULL, store, clock, NULL);
    OFFER("spiffe://td/mesh", "spiffe://td/aws");
}

static void teardown(void)
{
    jwt_cache_free(&cache);
    svid_store_free(&store);
    assert_int_equal(fake_time_n_timers(), 0);
}

static struct jwt_request *ask(struct answer *a, const char *audience, bool fresh)
{
    *a = (struct answer){0};
    return jwt_cache_get(cache, SVID_AWS, audience, fresh, on_token, a);
}

static void assert_token(const struct answer *a, const char *token)
{
    fake_time_advance(0);
    assert_int_equal(a->n, 1);
    if (a->code != ERR_NONE)
        fail_msg("%s", a->msg);
    assert_string_equal(a->token, token);
}

static void assert_error(const struct answer *a, enum err_code code, const char *words)
{
    fake_time_advance(0);
    assert_int_equal(a->n, 1);
    assert_int_equal(a->code, code);
    assert_string_equal(a->token, "");
    if (strstr(a->msg, words) == NULL)
        fail_msg("\"%s\" is not in \"%s\"", words, a->msg);
}

TEST(jwt_cache, the_token_is_that_of_the_roles_svid)
{
    setup();
    struct answer a, b = {0};
    ask(&a, "sts", false);
    jwt_cache_get(cache, SVID_MESH, "sts", false, on_token, &b);
    assert_int_equal(n_calls, 2);
    assert_string_equal(calls[0].spiffe_id, "spiffe://td/aws");
    assert_string_equal(calls[0].audience, "sts");
    assert_string_equal(calls[1].spiffe_id, "spiffe://td/mesh");
    agent_answers(0, "T-aws", 5 * MINUTE_MS);
    agent_answers(1, "T-mesh", 5 * MINUTE_MS);
    assert_token(&a, "T-aws");
    assert_token(&b, "T-mesh");
    assert_int_equal(a.expires_at_ms, FAKE_WALL_START_MS + 5 * MINUTE_MS);
    assert_true(metric_get(M_JWT_EXPIRY, METRIC_L("aws")) == (double)a.expires_at_ms / 1000);
    teardown();
}

TEST(jwt_cache, no_callback_runs_inside_the_call)
{
    setup();
    struct answer a;
    ask(&a, "sts", false);
    agent_answers(0, "T", 5 * MINUTE_MS);
    assert_int_equal(a.n, 0);
    assert_token(&a, "T");
    ask(&a, "sts", false);
    assert_int_equal(a.n, 0);
    assert_token(&a, "T");
    assert_int_equal(n_calls, 1);
    teardown();
}

TEST(jwt_cache, requests_meanwhile_share_one_fetch)
{
    setup();
    struct answer a[5];
    for (size_t i = 0; i < ARRAY_LEN(a); i++)
        ask(&a[i], "sts", i % 2 == 1);
    assert_int_equal(n_calls, 1);
    agent_answers(0, "T", 5 * MINUTE_MS);
    for (size_t i = 0; i < ARRAY_LEN(a); i++)
        assert_token(&a[i], "T");
    teardown();
}

TEST(jwt_cache, audiences_are_kept_apart)
{
    setup();
    struct answer a, b;
    ask(&a, "one", false);
    ask(&b, "two", false);
    assert_int_equal(n_calls, 2);
    agent_answers(1, "T2", 5 * MINUTE_MS);
    agent_answers(0, "T1", 5 * MINUTE_MS);
    assert_token(&a, "T1");
    assert_token(&b, "T2");
    teardown();
}

TEST(jwt_cache, past_half_of_its_life_a_token_is_renewed_without_waiting)
{
    setup();
    struct answer a;
    ask(&a, "sts", false);
    agent_answers(0, "T1", 4 * MINUTE_MS); /* half-lived already: what counts is what is left */
    assert_token(&a, "T1");
    fake_time_advance(2 * MINUTE_MS);
    ask(&a, "sts", false);
    assert_token(&a, "T1");
    assert_int_equal(n_calls, 1);
    fake_time_advance(1);
    ask(&a, "sts", false);
    assert_token(&a, "T1");
    assert_int_equal(n_calls, 2);
    ask(&a, "sts", false);
    assert_token(&a, "T1");
    assert_int_equal(n_calls, 2);
    agent_answers(1, "T2", 4 * MINUTE_MS);
    ask(&a, "sts", false);
    assert_token(&a, "T2");
    teardown();
}

TEST(jwt_cache, a_token_with_too_little_left_waits_for_the_new_one)
{
    setup();
    struct answer a;
    ask(&a, "sts", false);
    agent_answers(0, "T1", MINUTE_MS);
    assert_token(&a, "T1");
    fake_time_advance(30001);
    ask(&a, "sts", false);
    fake_time_advance(0);
    assert_int_equal(a.n, 0);
    agent_answers(1, "T2", MINUTE_MS);
    assert_token(&a, "T2");
    teardown();
}

TEST(jwt_cache, while_the_agent_fails_the_old_token_serves_until_it_expires)
{
    setup();
    struct answer a;
    ask(&a, "sts", false);
    agent_answers(0, "T1", MINUTE_MS);
    assert_token(&a, "T1");
    fake_time_advance(MINUTE_MS - 1);
    ask(&a, "sts", false);
    agent_fails(1, "server away");
    assert_token(&a, "T1");
    fake_time_advance(1);
    ask(&a, "sts", false);
    agent_fails(2, "server away");
    assert_error(&a, ERR_UNAVAIL, "server away");
    teardown();
}

TEST(jwt_cache, a_token_that_expires_during_the_fetch_is_not_handed_out)
{
    setup();
    struct answer a;
    ask(&a, "sts", false);
    agent_answers(0, "T1", MINUTE_MS);
    assert_token(&a, "T1");
    fake_time_advance(40000);
    ask(&a, "sts", false);
    fake_time_set_wall(FAKE_WALL_START_MS + MINUTE_MS); /* the machine was suspended */
    agent_fails(1, "deadline");
    assert_error(&a, ERR_UNAVAIL, "deadline");
    teardown();
}

TEST(jwt_cache, a_fresh_one_never_comes_from_the_cache)
{
    setup();
    struct answer a;
    ask(&a, "sts", false);
    agent_answers(0, "T1", 5 * MINUTE_MS);
    assert_token(&a, "T1");
    ask(&a, "sts", true);
    fake_time_advance(0);
    assert_int_equal(a.n, 0);
    agent_fails(1, "away");
    assert_error(&a, ERR_UNAVAIL, "away");
    ask(&a, "sts", true);
    agent_answers(2, "T2", 5 * MINUTE_MS);
    assert_token(&a, "T2");
    teardown();
}

TEST(jwt_cache, an_expired_or_unreadable_token_of_the_agent_is_an_error)
{
    setup();
    struct answer a;
    ask(&a, "sts", false);
    agent_answers(0, "T1", -5000);
    assert_error(&a, ERR_EXPIRED, "expired 5 s ago: is a clock wrong?");
    ask(&a, "sts", false);
    agent_answers(1, "T2", 0);
    assert_error(&a, ERR_EXPIRED, "expired 0 s ago");
    ask(&a, "sts", false);
    agent_answers(2, "T2", UNREADABLE);
    assert_error(&a, ERR_SYNTAX, "no readable exp");
    teardown();
}

TEST(jwt_cache, without_an_identity_nothing_is_fetched)
{
    setup();
    struct answer a;
    struct err why;
    err_set(&why, ERR_DENIED, 0, "entry deleted");
    svid_store_redact(store, &why);
    fake_time_advance(0);
    ask(&a, "sts", false);
    assert_int_equal(a.n, 0);
    assert_error(&a, ERR_UNAVAIL, "no identity: entry deleted");
    OFFER("spiffe://td/mesh");
    ask(&a, "sts", false);
    assert_error(&a, ERR_DENIED, "identity.aws");
    assert_int_equal(n_calls, 0);
    teardown();
}

TEST(jwt_cache, a_redacted_identity_takes_its_tokens_and_requests_with_it)
{
    setup();
    struct answer a, b, m = {0};
    ask(&a, "sts", false);
    agent_answers(0, "T1", 5 * MINUTE_MS);
    assert_token(&a, "T1");
    jwt_cache_get(cache, SVID_MESH, "sts", false, on_token, &m);
    ask(&b, "two", false);
    OFFER("spiffe://td/mesh");
    assert_error(&b, ERR_DENIED, "taken back spiffe://td/aws");
    assert_null(calls[2].cb); /* canceled */
    agent_answers(1, "T-mesh", 5 * MINUTE_MS);
    assert_token(&m, "T-mesh");
    OFFER("spiffe://td/mesh", "spiffe://td/aws");
    ask(&a, "sts", false);
    assert_int_equal(n_calls, 4); /* not the token from before */
    agent_answers(3, "T2", 5 * MINUTE_MS);
    assert_token(&a, "T2");
    teardown();
}

TEST(jwt_cache, a_rotation_keeps_the_tokens)
{
    setup();
    struct answer a;
    ask(&a, "sts", false);
    agent_answers(0, "T1", 5 * MINUTE_MS);
    assert_token(&a, "T1");
    OFFER("spiffe://td/mesh", "spiffe://td/aws");
    ask(&a, "sts", false);
    assert_token(&a, "T1");
    assert_int_equal(n_calls, 1);
    teardown();
}

TEST(jwt_cache, a_canceled_request_is_not_told_wherever_it_stands)
{
    setup();
    struct answer a, b;
    struct jwt_request *waiting = ask(&a, "sts", false);
    ask(&b, "sts", false);
    jwt_cache_cancel(&waiting);
    assert_null(waiting);
    jwt_cache_cancel(&waiting);
    agent_answers(0, "T", 5 * MINUTE_MS);
    assert_token(&b, "T");
    struct jwt_request *ready = ask(&b, "sts", false);
    jwt_cache_cancel(&ready);
    fake_time_advance(0);
    assert_int_equal(a.n, 0);
    assert_int_equal(b.n, 0);
    teardown();
}

TEST(jwt_cache, the_least_recently_used_entry_makes_room)
{
    setup();
    struct answer a;
    char audience[32], token[32];
    for (unsigned i = 0; i < JWT_CACHE_MAX + 1; i++) {
        snprintf(audience, sizeof audience, "aud%u", i);
        snprintf(token, sizeof token, "T%u", i);
        ask(&a, audience, false);
        agent_answers(n_calls - 1, token, 5 * MINUTE_MS);
        assert_token(&a, token);
        ask(&a, "aud0", false); /* used all the time */
        assert_token(&a, "T0");
    }
    size_t before = n_calls;
    ask(&a, "aud2", false);
    assert_token(&a, "T2");
    assert_int_equal(n_calls, before);
    ask(&a, "aud1", false);
    assert_int_equal(n_calls, before + 1);
    teardown();
}

TEST(jwt_cache, fetches_under_way_are_bounded_and_never_evicted)
{
    setup();
    static struct answer a[JWT_CACHE_MAX + 1];
    char audience[32];
    for (unsigned i = 0; i < JWT_CACHE_MAX + 1; i++) {
        snprintf(audience, sizeof audience, "aud%u", i);
        ask(&a[i], audience, false);
    }
    assert_int_equal(n_calls, JWT_CACHE_MAX);
    assert_error(&a[JWT_CACHE_MAX], ERR_LIMIT, "16 JWT-SVIDs");
    agent_answers(0, "T", 5 * MINUTE_MS);
    assert_token(&a[0], "T");
    teardown();
}

TEST(jwt_cache, freeing_cancels_what_waits_and_what_is_ready)
{
    setup();
    struct answer a, b;
    ask(&a, "sts", false);
    agent_answers(0, "T", 5 * MINUTE_MS);
    ask(&b, "other", false);
    jwt_cache_free(&cache);
    assert_int_equal(a.n, 1);
    assert_int_equal(a.code, ERR_CANCELED);
    assert_int_equal(b.n, 1);
    assert_int_equal(b.code, ERR_CANCELED);
    assert_null(calls[1].cb);
    teardown();
}

static void on_token_free_cache(void *arg, const struct err *e, const char *token,
                                int64_t expires_at_ms)
{
    struct jwt_cache *gone = cache;
    cache = NULL;
    jwt_cache_free(&gone);
    on_token(arg, e, token, expires_at_ms);
}

TEST(jwt_cache, a_callback_may_free_the_cache)
{
    setup();
    struct answer a = {0}, b;
    jwt_cache_get(cache, SVID_AWS, "sts", false, on_token_free_cache, &a);
    ask(&b, "sts", false);
    agent_answers(0, "T", 5 * MINUTE_MS);
    fake_time_advance(0);
    assert_int_equal(a.n, 1);
    assert_string_equal(a.token, "T");
    assert_int_equal(b.n, 1);
    assert_int_equal(b.code, ERR_CANCELED);
    teardown();
}
