// SPDX-License-Identifier: Apache-2.0
/* The watch over the Workload API: one X.509 stream, opened again for ever.
 *
 *   new ──start──▶ opening ──first message──▶ live ──a minute without a usable message──▶ reopening
 *                     ▲  │                      │                                             │
 *                     │  └────────end───────────┴───▶ waiting ──timer──▶ opening              │
 *                     └───────────────────────────────────────────────────────────end────────┘
 *   any ──stop──▶ stopping (calls end) ──▶ closing (gRPC ends) ──▶ freed
 *
 * What goes wrong: nobody listens, the stream ends (answers[] says what each status means and when
 * to try again), the agent is silent (told after 5 s, waited for without end: attestation takes up
 * to 30 s, an SVID that is not signed yet any time), a message is unusable (discarded; asked for
 * again after a minute), a live stream brings nothing and our SVID expires (opened anew: over TCP
 * the agent's host may be long gone). */
#include "identity/workload_api.h"
#include "identity/workload_api_private.h"
#include "base/list.h"
#include "base/mem.h"
#include "core/backoff.h"
#include "sys/log.h"
#include "sys/metrics.h"
#include "sys/rand.h"
#include "sys/timer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_RETRY_MS     200
#define MAX_RETRY_MS       10000
#define DENIED_FIRST_MS    1000 /* SPIRE needs up to 10.5 s from a new entry to the agent */
#define DENIED_MAX_MS      10000
#define BROKEN_MS          60000 /* also after a discarded message */
#define REDACTION_GRACE_MS 60000
#define HONEST_LIFE_MS     1000 /* a stream that lived so long was worth having */
#define SILENCE_MS         5000
#define TELL_AGAIN_MS      300000

#define IN(s)        (1u << (s))
#define IN_STOP      IN(WATCH_STOPPING)
#define IN_STREAMING (IN(WATCH_OPENING) | IN(WATCH_LIVE) | IN(WATCH_REOPENING))

// clang-format off
static const struct { const char *name; uint32_t next; } states[WATCH_COUNT] = {
    [WATCH_NEW]       = { "new",       IN(WATCH_OPENING) | IN_STOP },
    [WATCH_OPENING]   = { "opening",   IN(WATCH_LIVE) | IN(WATCH_WAITING) | IN_STOP },
    [WATCH_LIVE]      = { "live",      IN(WATCH_REOPENING) | IN(WATCH_WAITING) | IN_STOP },
    [WATCH_REOPENING] = { "reopening", IN(WATCH_WAITING) | IN_STOP },
    [WATCH_WAITING]   = { "waiting",   IN(WATCH_OPENING) | IN_STOP },
    [WATCH_STOPPING]  = { "stopping",  IN(WATCH_CLOSING) },
    [WATCH_CLOSING]   = { "closing",   0 },
};

enum retry {
    RETRY_SOON,   /* at once if the stream was live, then 200 ms -> 10 s */
    RETRY_DENIED, /* 1 -> 10 s */
    RETRY_BROKEN, /* 60 s: does not pass by itself, but is never final */
};

/* What each status means to us: SPIFFE Workload Endpoint, section 6, and what SPIRE sends it for. */
static const struct {
    const char *name;
    enum retry retry;
    enum err_code code;
    enum log_event event;
    const char *words;
} answers[WS_COUNT] = {
#define SOON   RETRY_SOON, ERR_UNAVAIL, EV_WORKLOAD_API_WAITING
#define DENIED RETRY_DENIED, ERR_DENIED, EV_WORKLOAD_API_WAITING
#define BROKEN RETRY_BROKEN, ERR_DENIED, EV_WORKLOAD_API_BROKEN
    [WS_OK]                  = { "ok", SOON, "the agent has ended the stream" },
    [WS_CANCELLED]           = { "cancelled", SOON, "the agent has cut the stream" },
    [WS_UNKNOWN]             = { "unknown", SOON, "the agent has failed" },
    [WS_INVALID_ARGUMENT]    = { "invalid_argument", BROKEN, "the agent calls the request invalid; does something between drop the workload.spiffe.io header?" },
    [WS_DEADLINE_EXCEEDED]   = { "deadline_exceeded", RETRY_SOON, ERR_TIMEOUT, EV_WORKLOAD_API_WAITING, "the agent did not answer in time" },
    [WS_NOT_FOUND]           = { "not_found", SOON, "the agent has failed" },
    [WS_ALREADY_EXISTS]      = { "already_exists", SOON, "the agent has failed" },
    [WS_PERMISSION_DENIED]   = { "permission_denied", DENIED, "the agent has no identity for this workload: no registration entry matches it" },
    [WS_RESOURCE_EXHAUSTED]  = { "resource_exhausted", BROKEN, "too large or too much" },
    [WS_FAILED_PRECONDITION] = { "failed_precondition", SOON, "the agent has failed" },
    [WS_ABORTED]             = { "aborted", SOON, "the agent has failed" },
    [WS_OUT_OF_RANGE]        = { "out_of_range", SOON, "the agent has failed" },
    [WS_UNIMPLEMENTED]       = { "unimplemented", BROKEN, "this is Istio's SDS socket, not a SPIFFE Workload API: point identity.endpoint to the SPIRE agent's socket" },
    [WS_INTERNAL]            = { "internal", SOON, "the agent has failed" },
    [WS_UNAVAILABLE]         = { "unavailable", SOON, "the agent is not available" },
    [WS_DATA_LOSS]           = { "data_loss", SOON, "the agent has failed" },
    [WS_UNAUTHENTICATED]     = { "unauthenticated", SOON, "the agent could not attest this workload" },
#undef SOON
#undef DENIED
#undef BROKEN
};
// clang-format on

static void stream_open(struct workload_api *w);
static void on_timer(void *arg);
static void on_silence(void *arg);

static void watch_move(struct workload_api *w, enum watch_state to) /* the only writer of state */
{
    CHECK(states[w->state].next & IN(to));
    w->state = to;
    CHECK((IN(to) & IN_STOP) || (w->rpc != NULL) == ((IN(to) & IN_STREAMING) != 0));
}

bool workload_api_is_stopping(const struct workload_api *w)
{
    return w->state == WATCH_STOPPING || w->state == WATCH_CLOSING;
}

/* --- what an answer means --- */

/* is_reached: the agent has answered on this call before, so the socket cannot be the trouble. */
const char *workload_api_explain(const struct workload_api *w, int status, const char *details,
                                 bool is_reached, struct err *e)
{
    char seen[240] = "";
    if (status < 0 || status >= WS_COUNT)
        status = WS_UNKNOWN;
    const char *words = answers[status].words, *name = answers[status].name, *found = "";
    if (status == WS_UNAVAILABLE && is_reached) {
        words = "the connection to the agent was lost";
        name = "lost";
    } else if (status == WS_UNAVAILABLE) {
        found = workload_endpoint_explain(&w->endpoint, details, seen, sizeof seen);
    }
    const char *why = found[0] != '\0' ? seen : details;
    err_set(e, answers[status].code, 0, "%s%s%s", words, why[0] != '\0' ? ": " : "", why);
    return found[0] != '\0' ? found : name;
}

static void set_trouble(struct workload_api *w, const char *name, const struct err *e)
{
    w->status.trouble = name;
    w->status.last_error = *e;
    svid_store_set_waiting(w->store, e);
}

static void set_connected(struct workload_api *w, bool is_connected)
{
    w->status.is_connected = is_connected;
    metric_set(M_WORKLOAD_API_CONNECTED, METRIC_NONE, is_connected ? 1 : 0);
}

/* D16.  On a live stream a denial takes everything back.  A call that never got an answer is
 * different: an agent that has just started says the same before it knows its entries. */
static void judge_denial(struct workload_api *w, bool was_live, const struct err *e)
{
    uint64_t now = clock_mono_ms(w->clock);
    if (w->denied_since_ms == 0)
        w->denied_since_ms = now;
    if (!was_live && now - w->denied_since_ms < w->grace_ms)
        return;
    w->has_digest = false;
    svid_store_redact(w->store, e);
}

static uint64_t denied_delay(struct workload_api *w)
{
    uint64_t delay = backoff_next_ms(&w->denied, random_u32());
    uint64_t waited = clock_mono_ms(w->clock) - w->denied_since_ms;
    uint64_t left = waited < w->grace_ms ? w->grace_ms - waited : 0;
    bool is_at_stake = svid_store_current(w->store) != NULL && left > 0;
    return is_at_stake && left < delay ? left : delay; /* look when the grace ends, not later */
}

static uint64_t soon_delay(struct workload_api *w, bool was_live)
{
    uint64_t now = clock_mono_ms(w->clock);
    if (was_live && now - w->live_since_ms >= HONEST_LIFE_MS)
        backoff_reset(&w->soon);
    if (was_live &&
        now >= w->at_once_after_ms) { /* C13; but an agent that always cuts is not hammered */
        w->at_once_after_ms = now + w->max_retry_ms;
        return 0;
    }
    return backoff_next_ms(&w->soon, random_u32());
}

static uint64_t next_delay(struct workload_api *w, enum retry retry, bool was_live)
{
    switch (retry) {
    case RETRY_SOON:
        return soon_delay(w, was_live);
    case RETRY_DENIED:
        return denied_delay(w);
    case RETRY_BROKEN:
        return BROKEN_MS;
    }
    return BROKEN_MS;
}

/* --- the stream --- */

static void take_update(struct workload_api *w, const X509SVIDResponse *m, struct err *e)
{
    unsigned char digest[WORKLOAD_DIGEST_LEN];
    struct svid_set *set;
    int64_t now = clock_wall_ms(w->clock);
    workload_update_digest(m, digest);
    if (w->has_digest && memcmp(digest, w->digest, sizeof digest) == 0) {
        svid_store_confirm(w->store); /* SPIRE sends X.509 state again without a change */
    } else if (workload_update_build(m, now, &set, e)) {
        memcpy(w->digest, digest, sizeof digest);
        w->has_digest = true;
        svid_store_publish(w->store, &set);
    } else {
        return;
    }
    w->status.last_update_at_ms = now;
    w->status.last_error = (struct err){.code = ERR_NONE};
    w->status.trouble = "";
    timer_stop(w->timer);
}

/* C18: the state before stays.  Asked for again later: what is wrong may be a matter of time. */
static void discard_update(struct workload_api *w, const struct err *e)
{
    set_trouble(w, "discarded", e);
    if (!log_is_repeat(EV_WORKLOAD_API_DISCARDED, e->msg, TELL_AGAIN_MS))
        LOG_ERR(EV_WORKLOAD_API_DISCARDED, e, F_STR("endpoint", w->endpoint.shown));
    if (!timer_is_active(w->timer))
        timer_start(w->timer, BROKEN_MS);
}

static void become_live(struct workload_api *w)
{
    watch_move(w, WATCH_LIVE);
    timer_stop(w->silence);
    backoff_reset(&w->denied);
    w->denied_since_ms = 0;
    w->live_since_ms = clock_mono_ms(w->clock);
    set_connected(w, true);
    LOG(EV_WORKLOAD_API_CONNECTED, F_STR("endpoint", w->endpoint.shown),
        F_INT("reconnects", w->status.n_reconnects));
}

static void on_stream_message(void *arg, const ProtobufCMessage *m)
{
    struct workload_api *w = arg;
    struct err e = {.code = ERR_NONE};
    if (w->state == WATCH_OPENING)
        become_live(w);
    w->status.n_updates++;
    metric_add(M_WORKLOAD_API_UPDATES, METRIC_NONE, 1);
    if (m == NULL)
        err_set(&e, ERR_SYNTAX, 0, "the agent's message cannot be decoded");
    else
        take_update(w, (const X509SVIDResponse *)m, &e);
    if (e.code != ERR_NONE)
        discard_update(w, &e);
}

static void on_stream_end(void *arg, int status, const char *details)
{
    struct workload_api *w = arg;
    struct err e;
    bool was_live = w->state == WATCH_LIVE, was_canceled = w->state == WATCH_REOPENING;
    int row = status >= 0 && status < WS_COUNT ? status : WS_UNKNOWN;
    w->rpc = NULL;
    timer_stop(w->silence);
    set_connected(w, false);
    if (workload_api_is_stopping(w)) {
        workload_api_finish_when_idle(w);
        return;
    }
    watch_move(w, WATCH_WAITING);
    if (was_canceled) {
        timer_start(w->timer, 0);
        return;
    }
    metric_add(M_WORKLOAD_API_STREAM_ENDS, METRIC_L(answers[row].name), 1);
    const char *name = workload_api_explain(w, status, details, was_live, &e);
    set_trouble(w, name, &e);
    if (row == WS_PERMISSION_DENIED)
        judge_denial(w, was_live, &e);
    else
        w->denied_since_ms = 0; /* lost again: the grace begins anew */
    uint64_t delay = next_delay(w, answers[row].retry, was_live);
    timer_start(w->timer, delay);
    if (answers[row].retry == RETRY_BROKEN ||
        !log_is_repeat(answers[row].event, e.msg, TELL_AGAIN_MS))
        LOG_ERR(answers[row].event, &e, F_STR("status", answers[row].name),
                F_STR("endpoint", w->endpoint.shown), F_INT("retry_ms", delay));
}

static void reopen(struct workload_api *w)
{
    watch_move(w, WATCH_REOPENING);
    workload_rpc_cancel(w->rpc);
}

/* Its expiry is told once: an agent that has nothing better is not asked again and again. */
static void on_store_change(void *arg)
{
    struct workload_api *w = arg;
    for (unsigned role = 0; role < SVID_ROLE_COUNT && w->state == WATCH_LIVE; role++)
        if (svid_store_has_expired(w->store, (enum svid_role)role))
            reopen(w);
}

static void stream_open(struct workload_api *w)
{
    static const struct workload_rpc_events events = {on_stream_message, on_stream_end};
    X509SVIDRequest request = X509_SVIDREQUEST__INIT;
    if (w->status.last_error.code == ERR_NONE && w->status.n_updates == 0) {
        struct err e;
        err_set(&e, ERR_UNAVAIL, 0, "waiting for the first answer of the agent at %.200s",
                w->endpoint.shown);
        svid_store_set_waiting(w->store, &e);
    }
    w->rpc = workload_rpc_start(w->grpc, WORKLOAD_FETCH_X509, &request.base, 0, &events, w);
    watch_move(w, WATCH_OPENING);
    timer_start(w->silence, SILENCE_MS);
}

static void on_silence(void *arg)
{
    struct workload_api *w = arg;
    struct err e;
    CHECK(w->state == WATCH_OPENING);
    bool is_taken = workload_rpc_is_connected(w->rpc);
    err_set(
        &e, ERR_TIMEOUT, 0, "%s",
        is_taken
            ? "the agent has taken the call and is silent: it attests this workload (up to 30 s), "
              "or its entry has no SVID yet"
            : "something listens at the agent's socket, but does not answer: it hangs");
    set_trouble(w, is_taken ? "silent" : "hangs", &e);
    if (!log_is_repeat(EV_WORKLOAD_API_WAITING, e.msg, TELL_AGAIN_MS))
        LOG_ERR(EV_WORKLOAD_API_WAITING, &e, F_STR("endpoint", w->endpoint.shown));
}

/* --- life --- */

bool workload_api_new(const struct workload_api_config *cfg, struct svid_store *store,
                      const struct clock *clock, uv_loop_t *loop, struct workload_api **out,
                      struct err *e)
{
    *out = NULL;
    struct workload_endpoint endpoint;
    const char *address = cfg->endpoint;
    if (address == NULL || address[0] == '\0')
        address = getenv("SPIFFE_ENDPOINT_SOCKET"); /* C3 */
    if (address == NULL || address[0] == '\0')
        return err_set(e, ERR_SYNTAX, 0,
                       "identity.endpoint is empty and SPIFFE_ENDPOINT_SOCKET not set");
    if (!workload_endpoint_parse(address, &endpoint, e))
        return false;
    struct workload_api *w = xcalloc(1, sizeof *w);
    w->endpoint = endpoint;
    w->status.endpoint = w->endpoint.shown;
    w->status.trouble = "";
    w->max_retry_ms = cfg->max_retry_ms != 0 ? cfg->max_retry_ms : MAX_RETRY_MS;
    w->grace_ms = cfg->redaction_grace_ms != 0 ? cfg->redaction_grace_ms : REDACTION_GRACE_MS;
    backoff_init(&w->soon, cfg->first_retry_ms != 0 ? cfg->first_retry_ms : FIRST_RETRY_MS,
                 w->max_retry_ms);
    backoff_init(&w->denied, DENIED_FIRST_MS, DENIED_MAX_MS);
    w->store = store;
    w->clock = clock;
    w->loop = loop;
    list_init(&w->calls);
    w->timer = timer_new(loop, on_timer, w);
    w->silence = timer_new(loop, on_silence, w);
    w->watch = svid_store_watch(store, on_store_change, w);
    *out = w;
    return true;
}

void workload_api_start(struct workload_api *w)
{
    CHECK(w->state == WATCH_NEW);
    w->grpc = workload_grpc_start(w->loop, w->endpoint.target);
    stream_open(w);
}

static void finish(struct workload_api *w)
{
    void (*cb)(void *arg) = w->stop_cb;
    void *arg = w->stop_arg;
    workload_grpc_free(&w->grpc);
    svid_store_unwatch(&w->watch);
    timer_free(&w->timer);
    timer_free(&w->silence);
    free(w);
    cb(arg);
}

static void on_grpc_stopped(void *arg)
{
    struct workload_api *w = arg;
    timer_start(w->timer, 0);
}

void workload_api_finish_when_idle(struct workload_api *w)
{
    if (w->state == WATCH_CLOSING || w->rpc != NULL || w->n_calls > 0)
        return;
    watch_move(w, WATCH_CLOSING);
    if (w->grpc != NULL)
        workload_grpc_stop(w->grpc, on_grpc_stopped, w);
    else
        timer_start(w->timer, 0);
}

static void on_timer(void *arg)
{
    struct workload_api *w = arg;
    switch (w->state) {
    case WATCH_WAITING:
        w->status.n_reconnects++;
        stream_open(w);
        break;
    case WATCH_LIVE:
        reopen(w);
        break;
    case WATCH_CLOSING:
        if (w->n_calls > 0)
            timer_start(w->timer, 0); /* one that was asked for, and refused, after the stop */
        else
            finish(w);
        break;
    case WATCH_NEW:
    case WATCH_OPENING:
    case WATCH_REOPENING:
    case WATCH_STOPPING:
    case WATCH_COUNT:
        break;
    }
}

void workload_api_stop(struct workload_api *w, void (*cb)(void *arg), void *arg)
{
    if (workload_api_is_stopping(w))
        return; /* the first one is under way */
    w->stop_cb = cb;
    w->stop_arg = arg;
    timer_stop(w->timer);
    timer_stop(w->silence);
    watch_move(w, WATCH_STOPPING);
    if (w->rpc != NULL)
        workload_rpc_cancel(w->rpc);
    workload_api_cancel_all(w);
    workload_api_finish_when_idle(w);
}

void workload_api_get_status(const struct workload_api *w, struct workload_api_status *out)
{
    *out = w->status;
}
