// SPDX-License-Identifier: Apache-2.0
/* The usual way: get or warm_up -> fetch -> on_fetched -> the set serves all; at 50-80 % of its
 * life a fetch in the background.  Failures: the old set serves on until it expires, fetches follow
 * each other by backoff, and whoever asks in between gets the last error at once. */
#include "aws/credentials.h"

#include "base/list.h"
#include "base/secret.h"
#include "core/backoff.h"
#include "sys/log.h"
#include "sys/metrics.h"
#include "sys/rand.h"
#include "sys/timer.h"

#include <stdlib.h>

#define USABLE_MARGIN_MS 10000
#define FIRST_RETRY_MS   500
#define MAX_RETRY_MS     60000
#define SOON_REFUSED_MS  60000
#define TIMER_MAX_MS                                                                               \
    600000 /* then look at the wall clock again: a timer stands still in a suspended machine */
#define SAME_LOG_LINE_MS  60000
#define RENEW_EARLIEST_PC 50
#define RENEW_SPREAD_PC   30

struct credentials {
    struct credentials_source source;
    const struct clock *clock;
    struct aws_credentials *current; /* NULL: none, or it was dropped */
    int64_t renew_at_ms;             /* wall */
    struct list waiting;             /* for the fetch under way */
    struct list ready;               /* answered at the next loop turn */
    struct timer *deliver, *fetch;
    struct backoff failures, refusals;
    uint64_t not_before_ms; /* monotonic: no fetch earlier */
    bool is_fetching;
    struct err last_error;
};

struct credentials_request {
    struct list link;
    credentials_cb cb;
    void *arg;
    struct credentials *owner;
    struct aws_credentials *set; /* NULL: e tells why */
    struct err e;
};

static void on_fetch_due(void *arg);
static void on_deliver(void *arg);

struct aws_credentials *aws_credentials_ref(struct aws_credentials *c)
{
    c->refs++;
    return c;
}

void aws_credentials_unref(struct aws_credentials **c)
{
    struct aws_credentials *set = *c;
    *c = NULL;
    if (set == NULL || --set->refs > 0)
        return;
    secret_free(&set->access_key_id);
    secret_free(&set->secret_access_key);
    secret_free(&set->session_token);
    free(set);
}

struct credentials *credentials_new(struct credentials_source source, const struct clock *clock,
                                    uv_loop_t *loop)
{
    struct credentials *c = xcalloc(1, sizeof *c);
    c->source = source;
    c->clock = clock;
    list_init(&c->waiting);
    list_init(&c->ready);
    c->deliver = timer_new(loop, on_deliver, c);
    c->fetch = timer_new(loop, on_fetch_due, c);
    backoff_init(&c->failures, FIRST_RETRY_MS, MAX_RETRY_MS);
    backoff_init(&c->refusals, FIRST_RETRY_MS, MAX_RETRY_MS);
    return c;
}

static void drop_current(struct credentials *c)
{
    aws_credentials_unref(&c->current);
    metric_clear(M_AWS_CREDENTIALS_EXPIRY);
}

static bool is_usable(const struct credentials *c)
{
    return c->current != NULL &&
           c->current->expires_at_ms - USABLE_MARGIN_MS > clock_wall_ms(c->clock);
}

static void make_ready(struct credentials *c, struct credentials_request *r, const struct err *e)
{
    list_remove(&r->link);
    list_push_back(&c->ready, &r->link);
    if (e != NULL)
        r->e = *e;
    else
        r->set = aws_credentials_ref(c->current);
    timer_start(c->deliver, 0);
}

static void make_all_ready(struct credentials *c, const struct err *e)
{
    LIST_EACH(it, &c->waiting)
    {
        make_ready(c, CONTAINER_OF(it, struct credentials_request, link), e);
    }
}

static void request_free(struct credentials_request *r)
{
    list_remove(&r->link);
    aws_credentials_unref(&r->set);
    free(r);
}

/* cb may cancel other requests and make new ones. */
static void deliver_one(struct credentials_request *r)
{
    struct credentials_request done = *r;
    list_remove(&r->link);
    free(r);
    done.cb(done.arg, done.set, done.set != NULL ? NULL : &done.e);
    aws_credentials_unref(&done.set);
}

static void on_deliver(void *arg)
{
    struct credentials *c = arg;
    while (!list_is_empty(&c->ready))
        deliver_one(CONTAINER_OF(c->ready.next, struct credentials_request, link));
}

static uint64_t ms_until(int64_t at_ms, int64_t now_ms)
{
    return at_ms > now_ms ? (uint64_t)(at_ms - now_ms) : 0;
}

/* When the next fetch is due; 0: now. */
static uint64_t next_fetch_ms(const struct credentials *c)
{
    uint64_t now_ms = clock_mono_ms(c->clock);
    uint64_t hold_ms = c->not_before_ms > now_ms ? c->not_before_ms - now_ms : 0;
    uint64_t renew_ms = is_usable(c) ? ms_until(c->renew_at_ms, clock_wall_ms(c->clock)) : 0;
    return hold_ms > renew_ms ? hold_ms : renew_ms;
}

static void schedule_fetch(struct credentials *c)
{
    uint64_t ms = next_fetch_ms(c);
    timer_start(c->fetch, ms < TIMER_MAX_MS ? ms : TIMER_MAX_MS);
}

/* A set that AWS has just issued, judged by our clock. */
static bool check_new(const struct credentials *c, const struct aws_credentials *set, struct err *e)
{
    if (set->expires_at_ms - USABLE_MARGIN_MS > clock_wall_ms(c->clock))
        return true;
    char until[32];
    return err_set(e, ERR_EXPIRED, 0,
                   "%s issued credentials that ended already at %s: is this node's clock right?",
                   c->source.name, clock_format_rfc3339(until, set->expires_at_ms));
}

static void take_new(struct credentials *c, struct aws_credentials *set)
{
    aws_credentials_unref(&c->current);
    c->current = set;
    int64_t now_ms = clock_wall_ms(c->clock);
    int64_t part = RENEW_EARLIEST_PC + (int64_t)random_below(RENEW_SPREAD_PC + 1);
    c->renew_at_ms = now_ms + (set->expires_at_ms - now_ms) / 100 * part;
    c->last_error = (struct err){0};
    backoff_reset(&c->failures);
    char until[32];
    metric_set(M_AWS_CREDENTIALS_EXPIRY, METRIC_NONE, (double)set->expires_at_ms / 1000);
    LOG(EV_CREDENTIALS_RENEWED, F_STR("source", c->source.name),
        F_STR("access_key_id", set->access_key_id),
        F_STR("expires_at", clock_format_rfc3339(until, set->expires_at_ms)));
}

static void take_failure(struct credentials *c, const struct err *e)
{
    uint64_t delay_ms = backoff_next_ms(&c->failures, random_u32());
    c->not_before_ms = clock_mono_ms(c->clock) + delay_ms;
    c->last_error = *e;
    if (!log_is_repeat(EV_CREDENTIALS_FAILED, e->msg, SAME_LOG_LINE_MS))
        LOG_ERR(EV_CREDENTIALS_FAILED, e, F_STR("source", c->source.name),
                F_INT("retry_in_ms", delay_ms), F_BOOL("old_set_serves_on", is_usable(c)));
}

static void on_fetched(void *arg, struct aws_credentials *set, const struct err *e)
{
    struct credentials *c = arg;
    struct err too_late;
    c->is_fetching = false;
    if (set != NULL && !check_new(c, set, &too_late)) {
        aws_credentials_unref(&set);
        e = &too_late;
    }
    if (set != NULL)
        take_new(c, set);
    else
        take_failure(c, e);
    make_all_ready(c, set != NULL ? NULL : &c->last_error);
    schedule_fetch(c);
}

static void start_fetch(struct credentials *c)
{
    timer_stop(c->fetch);
    c->is_fetching = true;
    c->source.fetch(c->source.self, c->last_error.code == ERR_EXPIRED, on_fetched, c);
}

static void on_fetch_due(void *arg)
{
    struct credentials *c = arg;
    if (c->is_fetching)
        return;
    if (c->current != NULL && !is_usable(c))
        drop_current(c);
    if (next_fetch_ms(c) == 0)
        start_fetch(c);
    else
        schedule_fetch(c);
}

struct credentials_request *credentials_get(struct credentials *c, credentials_cb cb, void *arg)
{
    struct credentials_request *r = xcalloc(1, sizeof *r);
    *r = (struct credentials_request){.cb = cb, .arg = arg, .owner = c};
    list_init(&r->link);
    if (c->current != NULL && !is_usable(c))
        drop_current(c);
    if (!c->is_fetching && next_fetch_ms(c) == 0)
        start_fetch(c);
    if (is_usable(c))
        make_ready(c, r, NULL);
    else if (c->is_fetching)
        list_push_back(&c->waiting, &r->link);
    else
        make_ready(c, r, &c->last_error);
    return r;
}

void credentials_cancel(struct credentials_request **r)
{
    if (*r != NULL)
        request_free(*r);
    *r = NULL;
}

void credentials_reject(struct credentials *c, const struct aws_credentials *bad)
{
    if (c->current == NULL || c->current != bad)
        return;
    uint64_t hold_ms = 0;
    if (clock_wall_ms(c->clock) - bad->issued_at_ms >= SOON_REFUSED_MS) {
        backoff_reset(&c->refusals);
    } else {
        bool is_first = c->refusals.n_failures == 0;
        uint64_t delay_ms = backoff_next_ms(&c->refusals, random_u32());
        hold_ms = is_first ? 0 : delay_ms;
    }
    c->not_before_ms = clock_mono_ms(c->clock) + hold_ms;
    err_set(&c->last_error, ERR_DENIED, 0, "AWS does not accept the credentials that %s issued",
            c->source.name);
    drop_current(c);
    if (!c->is_fetching)
        schedule_fetch(c);
}

void credentials_warm_up(struct credentials *c)
{
    if (c->is_fetching || is_usable(c))
        return;
    backoff_reset(&c->failures);
    start_fetch(c);
}

void credentials_drop(struct credentials *c)
{
    struct err e;
    bool were_any = c->current != NULL || c->is_fetching;
    timer_stop(c->fetch);
    drop_current(c);
    if (c->is_fetching)
        c->source.cancel(c->source.self);
    c->is_fetching = false;
    err_set(&e, ERR_UNAVAIL, 0, "the identity behind the AWS credentials was taken back");
    make_all_ready(c, &e);
    if (were_any)
        c->last_error = e;
}

static void cancel_requests(struct credentials *c)
{
    if (c->is_fetching)
        c->source.cancel(c->source.self);
    struct err e;
    err_set(&e, ERR_CANCELED, 0, "svidmail is stopping");
    make_all_ready(c, &e);
    on_deliver(c);
}

void credentials_free(struct credentials **cp)
{
    struct credentials *c = *cp;
    *cp = NULL;
    if (c == NULL)
        return;
    cancel_requests(c);
    timer_free(&c->deliver);
    timer_free(&c->fetch);
    drop_current(c);
    c->source.free(c->source.self);
    free(c);
}

void credentials_get_status(const struct credentials *c, struct credentials_status *out)
{
    *out = (struct credentials_status){
        .is_usable = is_usable(c),
        .expires_at_ms = c->current != NULL ? c->current->expires_at_ms : 0,
        .last_error = c->last_error,
        .source = c->source.name,
    };
}
