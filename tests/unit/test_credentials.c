// SPDX-License-Identifier: Apache-2.0
/* Time is the test's own (fake_time), and so is the source: it notes what it is asked for and
 * answers when told to. */
#include "test.h"

#include "aws/credentials.h"
#include "base/mem.h"
#include "fake_time.h"
#include "sys/log.h"
#include "sys/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HOUR_MS INT64_C(3600000)

static struct fake_source {
    unsigned n_fetches, n_cancels, n_issued;
    bool was_fresh;
    credentials_fetched_cb cb;
    void *arg;
    bool is_freed;
} source;

static const struct clock *the_clock;

static void source_fetch(void *self, bool fresh_identity, credentials_fetched_cb cb, void *arg)
{
    struct fake_source *s = self;
    assert_null(s->cb); /* one at a time */
    s->n_fetches++;
    s->was_fresh = fresh_identity;
    s->cb = cb;
    s->arg = arg;
}

static void source_cancel(void *self)
{
    struct fake_source *s = self;
    assert_non_null(s->cb);
    s->n_cancels++;
    s->cb = NULL;
}

static void source_free(void *self)
{
    struct fake_source *s = self;
    s->is_freed = true;
}

static struct credentials *start(void)
{
    log_init(LOG_ERROR, LOG_JSON);
    source = (struct fake_source){0};
    the_clock = fake_time_start();
    return credentials_new(
        (struct credentials_source){"fake", &source, source_fetch, source_cancel, source_free},
        the_clock, NULL);
}

static void finish(struct credentials **c)
{
    credentials_free(c);
    assert_null(*c);
    assert_true(source.is_freed);
    assert_int_equal(fake_time_n_timers(), 0);
}

static void issue(int64_t life_ms)
{
    struct aws_credentials *set = xcalloc(1, sizeof *set);
    set->refs = 1;
    set->access_key_id = xasprintf("ASIA%u", ++source.n_issued);
    set->secret_access_key = xstrdup("secret");
    set->session_token = xstrdup("token");
    set->issued_at_ms = clock_wall_ms(the_clock);
    set->expires_at_ms = set->issued_at_ms + life_ms;
    credentials_fetched_cb cb = source.cb;
    assert_non_null(cb);
    source.cb = NULL;
    cb(source.arg, set, NULL);
}

static void fail_fetch(enum err_code code, const char *why)
{
    struct err e;
    err_set(&e, code, 0, "%s", why);
    credentials_fetched_cb cb = source.cb;
    assert_non_null(cb);
    source.cb = NULL;
    cb(source.arg, NULL, &e);
}

struct asked {
    unsigned n;
    char key[32]; /* "" if there was none */
    struct err e;
    struct aws_credentials *kept;
    struct credentials_request *request;
};

static void on_credentials(void *arg, struct aws_credentials *c, const struct err *e)
{
    struct asked *a = arg;
    a->n++;
    a->request = NULL;
    a->key[0] = '\0';
    assert_true((c == NULL) != (e == NULL));
    aws_credentials_unref(&a->kept);
    if (c != NULL) {
        snprintf(a->key, sizeof a->key, "%s", c->access_key_id);
        a->kept = aws_credentials_ref(c);
    } else {
        a->e = *e;
    }
}

static void ask(struct credentials *c, struct asked *a)
{
    unsigned before = a->n;
    a->request = credentials_get(c, on_credentials, a);
    assert_int_equal(a->n, before); /* never from inside */
}

static struct err last_error(const struct credentials *c)
{
    struct credentials_status s;
    credentials_get_status(c, &s);
    return s.last_error;
}

TEST(credentials, a_storm_of_first_requests_is_one_fetch)
{
    struct credentials *c = start();
    struct asked a[50] = {{0}};
    for (size_t i = 0; i < ARRAY_LEN(a); i++)
        ask(c, &a[i]);
    assert_int_equal(source.n_fetches, 1);
    fake_time_advance(5000);
    assert_int_equal(a[0].n, 0);
    issue(HOUR_MS);
    assert_int_equal(a[0].n, 0);
    fake_time_advance(0);
    for (size_t i = 0; i < ARRAY_LEN(a); i++) {
        assert_int_equal(a[i].n, 1);
        assert_string_equal(a[i].key, "ASIA1");
        aws_credentials_unref(&a[i].kept);
    }
    assert_int_equal(source.n_fetches, 1);
    finish(&c);
}

TEST(credentials, a_set_at_hand_is_given_at_the_next_turn)
{
    struct credentials *c = start();
    struct asked a = {0};
    credentials_warm_up(c);
    issue(HOUR_MS);
    ask(c, &a);
    fake_time_advance(0);
    assert_string_equal(a.key, "ASIA1");
    assert_int_equal(source.n_fetches, 1);
    assert_int_equal((int64_t)metric_get(M_AWS_CREDENTIALS_EXPIRY, METRIC_NONE),
                     (FAKE_WALL_START_MS + HOUR_MS) / 1000);
    aws_credentials_unref(&a.kept);
    finish(&c);
    assert_int_equal((int64_t)metric_get(M_AWS_CREDENTIALS_EXPIRY, METRIC_NONE), 0);
}

TEST(credentials, renewal_comes_between_half_and_four_fifths_of_the_life)
{
    uint64_t least = UINT64_MAX, most = 0;
    for (int i = 0; i < 200; i++) {
        struct credentials *c = start();
        credentials_warm_up(c);
        issue(HOUR_MS);
        uint64_t waited = 0;
        while (source.n_fetches == 1 && waited < 4 * HOUR_MS) {
            uint64_t step = fake_time_next_ms();
            fake_time_advance(step);
            waited += step;
        }
        least = waited < least ? waited : least;
        most = waited > most ? waited : most;
        issue(HOUR_MS);
        finish(&c);
    }
    assert_in_range(least, HOUR_MS / 2, HOUR_MS / 100 * 55);
    assert_in_range(most, HOUR_MS / 100 * 75, HOUR_MS / 100 * 80);
}

TEST(credentials, renewal_is_also_seen_at_use_if_timers_stood_still)
{
    struct credentials *c = start();
    struct asked a = {0};
    credentials_warm_up(c);
    issue(HOUR_MS);
    fake_time_set_wall(FAKE_WALL_START_MS + HOUR_MS * 81 / 100);
    ask(c, &a);
    assert_int_equal(source.n_fetches, 2);
    fake_time_advance(0);
    assert_string_equal(a.key, "ASIA1"); /* the old one serves on */
    issue(HOUR_MS);
    ask(c, &a);
    fake_time_advance(0);
    assert_string_equal(a.key, "ASIA2");
    aws_credentials_unref(&a.kept);
    finish(&c);
}

TEST(credentials, a_set_with_ten_seconds_left_is_not_given)
{
    struct credentials *c = start();
    struct asked a = {0};
    credentials_warm_up(c);
    issue(HOUR_MS);
    fake_time_set_wall(FAKE_WALL_START_MS + HOUR_MS - 10001);
    ask(c, &a);
    fake_time_advance(0);
    assert_string_equal(a.key, "ASIA1");
    fail_fetch(ERR_UNAVAIL, "away");
    fake_time_set_wall(FAKE_WALL_START_MS + HOUR_MS - 10000);
    ask(c, &a);
    fake_time_advance(0);
    assert_string_equal(a.key, "");
    assert_string_equal(a.e.msg, "away");
    finish(&c);
}

/* Two mails a second through an hour in which STS fails: the old set serves until it expires, then
 * every mail hears why, and STS sees no more than its backoff. */
TEST(credentials, sts_down_for_an_hour_is_no_storm_and_heals)
{
    struct credentials *c = start();
    struct asked a = {0};
    credentials_warm_up(c);
    issue(HOUR_MS);
    unsigned n_served = 0, n_refused = 0;
    int64_t renewal_ms = 0;
    for (int64_t ms = 0; ms < HOUR_MS * 3 / 2; ms += 500) {
        if (source.cb != NULL) {
            renewal_ms = renewal_ms == 0 ? ms : renewal_ms;
            fail_fetch(ERR_UNAVAIL, "STS: 503");
        }
        ask(c, &a);
        fake_time_advance(0);
        *(a.key[0] != '\0' ? &n_served : &n_refused) += 1;
        assert_true((a.key[0] != '\0') == (ms < HOUR_MS - 10000));
        fake_time_advance(500);
    }
    assert_in_range(renewal_ms, HOUR_MS / 2, HOUR_MS * 4 / 5 + 1000);
    assert_int_equal(n_served, (HOUR_MS - 10000) / 500);
    assert_string_equal(a.e.msg, "STS: 503");
    assert_in_range(source.n_fetches, 40, 160); /* 42 to 60 minutes at 30 to 60 s */
    assert_string_equal(last_error(c).msg, "STS: 503");
    fake_time_advance(60000); /* it is back */
    issue(HOUR_MS);
    ask(c, &a);
    fake_time_advance(0);
    assert_string_equal(a.key, "ASIA2");
    assert_int_equal(last_error(c).code, ERR_NONE);
    aws_credentials_unref(&a.kept);
    finish(&c);
}

TEST(credentials, a_failure_is_told_to_all_that_wait_and_at_once_to_those_behind)
{
    struct credentials *c = start();
    struct asked a[2] = {{0}}, late = {0};
    ask(c, &a[0]);
    ask(c, &a[1]);
    fail_fetch(ERR_DENIED, "AccessDenied");
    fake_time_advance(0);
    assert_string_equal(a[0].e.msg, "AccessDenied");
    assert_string_equal(a[1].e.msg, "AccessDenied");
    ask(c, &late);
    fake_time_advance(0);
    assert_int_equal(late.n, 1);
    assert_int_equal(late.e.code, ERR_DENIED);
    assert_int_equal(source.n_fetches, 1);
    fake_time_advance(500);
    assert_int_equal(source.n_fetches, 2); /* by itself */
    issue(HOUR_MS);
    finish(&c);
}

TEST(credentials, failures_wait_longer_and_success_forgets_them)
{
    struct credentials *c = start();
    credentials_warm_up(c);
    for (uint64_t top = 500; top < 60000; top *= 2) {
        fail_fetch(ERR_UNAVAIL, "away");
        assert_in_range(fake_time_next_ms(), top / 2, top);
        fake_time_advance(fake_time_next_ms());
    }
    fail_fetch(ERR_UNAVAIL, "away");
    assert_in_range(fake_time_next_ms(), 30000, 60000);
    fake_time_advance(60000);
    issue(20000);
    fake_time_advance(16000);
    fail_fetch(ERR_UNAVAIL, "away");
    assert_in_range(fake_time_next_ms(), 250, 500);
    finish(&c);
}

TEST(credentials, an_expired_token_asks_for_a_fresh_identity_next_time)
{
    struct credentials *c = start();
    credentials_warm_up(c);
    assert_false(source.was_fresh);
    fail_fetch(ERR_EXPIRED, "the JWT is too old");
    fake_time_advance(500);
    assert_true(source.was_fresh);
    issue(HOUR_MS);
    fake_time_advance(HOUR_MS * 4 / 5);
    assert_false(source.was_fresh);
    issue(HOUR_MS);
    finish(&c);
}

TEST(credentials, a_set_that_is_over_when_it_comes_is_a_failure)
{
    struct credentials *c = start();
    struct asked a = {0};
    ask(c, &a);
    issue(10000);
    fake_time_advance(0);
    assert_int_equal(a.e.code, ERR_EXPIRED);
    assert_non_null(strstr(a.e.msg, "2026-06-01T00:00:10.000Z"));
    assert_non_null(strstr(a.e.msg, "clock"));
    finish(&c);
}

TEST(credentials, a_rejected_set_is_replaced_at_once_but_not_again_and_again)
{
    struct credentials *c = start();
    struct asked a = {0};
    credentials_warm_up(c);
    issue(HOUR_MS);
    fake_time_advance(HOUR_MS / 4);
    unsigned n_mails = 0;
    for (int64_t ms = 0; ms < 600000; ms += 1000, n_mails++) {
        ask(c, &a);
        if (source.cb != NULL)
            issue(HOUR_MS);
        fake_time_advance(0);
        if (a.kept != NULL)
            credentials_reject(c, a.kept);
        if (n_mails == 0)
            assert_true(a.key[0] != '\0');
        fake_time_advance(1000);
    }
    assert_in_range(source.n_fetches, 10, 40);
    assert_int_equal(last_error(c).code, ERR_DENIED);
    aws_credentials_unref(&a.kept);
    if (source.cb != NULL)
        issue(HOUR_MS);
    finish(&c);
}

TEST(credentials, the_first_rejection_costs_no_mail)
{
    struct credentials *c = start();
    struct asked a = {0};
    credentials_warm_up(c);
    issue(HOUR_MS);
    ask(c, &a);
    fake_time_advance(0);
    credentials_reject(c, a.kept);
    ask(c, &a);
    assert_int_equal(source.n_fetches, 2);
    issue(HOUR_MS);
    fake_time_advance(0);
    assert_string_equal(a.key, "ASIA2");
    aws_credentials_unref(&a.kept);
    finish(&c);
}

TEST(credentials, rejecting_a_set_of_yesterday_changes_nothing)
{
    struct credentials *c = start();
    struct asked a = {0}, b = {0};
    ask(c, &a);
    issue(HOUR_MS);
    fake_time_advance(0);
    fake_time_advance(HOUR_MS * 4 / 5);
    issue(HOUR_MS);
    credentials_reject(c, a.kept);
    ask(c, &b);
    fake_time_advance(0);
    assert_string_equal(b.key, "ASIA2");
    assert_string_equal(a.kept->access_key_id, "ASIA1"); /* still whole: it is counted */
    aws_credentials_unref(&a.kept);
    aws_credentials_unref(&b.kept);
    finish(&c);
}

TEST(credentials, a_cancelled_request_is_not_called_back)
{
    struct credentials *c = start();
    struct asked waiting = {0}, ready = {0}, other = {0};
    ask(c, &waiting);
    ask(c, &other);
    credentials_cancel(&waiting.request);
    assert_null(waiting.request);
    issue(HOUR_MS);
    ask(c, &ready);
    credentials_cancel(&ready.request);
    fake_time_advance(0);
    assert_int_equal(waiting.n, 0);
    assert_int_equal(ready.n, 0);
    assert_int_equal(other.n, 1);
    aws_credentials_unref(&other.kept);
    finish(&c);
}

TEST(credentials, warm_up_forgets_the_backoff_but_fetches_no_second_set)
{
    struct credentials *c = start();
    credentials_warm_up(c);
    credentials_warm_up(c);
    assert_int_equal(source.n_fetches, 1);
    for (int i = 0; i < 8; i++) {
        fail_fetch(ERR_UNAVAIL, "no identity yet");
        fake_time_advance(60000);
    }
    fail_fetch(ERR_UNAVAIL, "no identity yet");
    credentials_warm_up(c); /* now it is there */
    assert_int_equal(source.n_fetches, 10);
    issue(HOUR_MS);
    credentials_warm_up(c);
    assert_int_equal(source.n_fetches, 10);
    finish(&c);
}

TEST(credentials, a_redacted_identity_ends_their_use_at_once)
{
    struct credentials *c = start();
    struct asked a = {0};
    credentials_warm_up(c);
    issue(HOUR_MS);
    credentials_drop(c);
    fake_time_advance(2 * HOUR_MS);
    assert_int_equal(source.n_fetches, 1); /* nothing by itself */
    ask(c, &a);
    assert_int_equal(source.n_fetches, 2);
    credentials_drop(c);
    assert_int_equal(source.n_cancels, 1);
    fake_time_advance(0);
    assert_int_equal(a.e.code, ERR_UNAVAIL);
    assert_non_null(strstr(a.e.msg, "identity"));
    struct credentials_status s;
    credentials_get_status(c, &s);
    assert_false(s.is_usable);
    finish(&c);
}

TEST(credentials, none_are_said_to_be_taken_back_where_there_were_none)
{
    struct credentials *c = start();
    struct credentials_status s;
    credentials_drop(c);
    credentials_get_status(c, &s);
    assert_int_equal(s.last_error.code, ERR_NONE);
    credentials_warm_up(c);
    fail_fetch(ERR_DENIED, "several SVIDs are offered");
    credentials_drop(c);
    credentials_get_status(c, &s);
    assert_string_equal(s.last_error.msg, "several SVIDs are offered");
    finish(&c);
}

TEST(credentials, free_ends_what_waits)
{
    struct credentials *c = start();
    struct asked a = {0};
    ask(c, &a);
    finish(&c);
    assert_int_equal(a.n, 1);
    assert_int_equal(a.e.code, ERR_CANCELED);
    assert_int_equal(source.n_cancels, 1);
}

TEST(credentials, a_long_sleep_of_the_machine_is_noticed_by_the_timer)
{
    struct credentials *c = start();
    credentials_warm_up(c);
    issue(12 * HOUR_MS);
    assert_in_range(fake_time_next_ms(), 1, 600000);
    fake_time_set_wall(FAKE_WALL_START_MS + 13 * HOUR_MS);
    fake_time_advance(600000);
    assert_int_equal(source.n_fetches, 2);
    struct credentials_status s;
    credentials_get_status(c, &s);
    assert_false(s.is_usable);
    assert_string_equal(s.source, "fake");
    issue(HOUR_MS);
    finish(&c);
}
