// SPDX-License-Identifier: Apache-2.0
/* The policy of the Workload API client.  This file is the wire: it defines what
 * workload_api_grpc.c would, so that the linker leaves that out, and the tests say what the agent
 * answers.  Time stands still (fake_time). */
#include "test.h"

#include "base/mem.h"
#include "certs.h"
#include "fake_time.h"
#include "identity/workload_api.h"
#include "identity/workload_api_private.h"
#include "sys/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ID        "spiffe://td.test/app"
#define MINUTE_MS 60000

/* --- the fake wire --- */

struct workload_rpc {
    enum workload_method method;
    char audience[64], spiffe_id[64];
    uint64_t deadline_ms;
    struct workload_rpc_events ev;
    void *arg;
    bool is_canceled, has_ended;
};

struct workload_grpc {
    int unused;
};

static struct workload_rpc rpcs[128];
static size_t n_rpcs;
static unsigned n_grpc;
static bool is_connected;
static void (*grpc_stopped)(void *arg);
static void *grpc_stopped_arg;

struct workload_grpc *workload_grpc_start(uv_loop_t *loop, const char *target)
{
    (void)loop;
    assert_string_equal(target, "unix:/nowhere/agent.sock");
    n_grpc++;
    return xcalloc(1, sizeof(struct workload_grpc));
}

void workload_grpc_stop(struct workload_grpc *g, void (*cb)(void *arg), void *arg)
{
    (void)g;
    for (size_t i = 0; i < n_rpcs; i++)
        assert_true(rpcs[i].has_ended);
    assert_null(grpc_stopped);
    grpc_stopped = cb;
    grpc_stopped_arg = arg;
}

void workload_grpc_free(struct workload_grpc **g)
{
    if (*g == NULL)
        return;
    assert_null(grpc_stopped); /* it has stopped before */
    free(*g);
    *g = NULL;
    n_grpc--;
}

struct workload_rpc *workload_rpc_start(struct workload_grpc *g, enum workload_method method,
                                        const ProtobufCMessage *request, uint64_t deadline_ms,
                                        const struct workload_rpc_events *ev, void *arg)
{
    assert_non_null(g);
    assert_true(n_rpcs < ARRAY_LEN(rpcs));
    struct workload_rpc *r = &rpcs[n_rpcs++];
    *r = (struct workload_rpc){.method = method, .deadline_ms = deadline_ms, .ev = *ev, .arg = arg};
    if (method == WORKLOAD_FETCH_JWT) {
        const JWTSVIDRequest *m = (const JWTSVIDRequest *)request;
        assert_int_equal(m->n_audience, 1);
        str_copy(r->audience, sizeof r->audience, str_from(m->audience[0]));
        str_copy(r->spiffe_id, sizeof r->spiffe_id, str_from(m->spiffe_id));
    }
    return r;
}

void workload_rpc_cancel(struct workload_rpc *r)
{
    assert_false(r->has_ended);
    r->is_canceled = true;
}

bool workload_rpc_is_connected(const struct workload_rpc *r)
{
    assert_false(r->has_ended);
    return is_connected;
}

/* --- what the agent does --- */

static struct workload_rpc *last_rpc(void)
{
    assert_true(n_rpcs > 0);
    return &rpcs[n_rpcs - 1];
}

static void rpc_ends(struct workload_rpc *r, int status, const char *details)
{
    assert_false(r->has_ended);
    r->has_ended = true;
    r->ev.on_end(r->arg, status, details);
}

static void stream_ends(int status)
{
    rpc_ends(last_rpc(), status, "as it says");
}

static struct cert ca, leaf, other_leaf;

/* One SVID: ours, or another one of the same domain; "" for a message without any. */
static void agent_sends(const char *id)
{
    if (ca.x509 == NULL) {
        ca = certs_ca("root");
        leaf = certs_leaf(ID, &ca);
        other_leaf = certs_leaf("spiffe://td.test/other", &ca);
    }
    X509SVIDResponse m = X509_SVIDRESPONSE__INIT;
    X509SVID v = X509_SVID__INIT, *svids[] = {&v};
    struct cert *c = strcmp(id, ID) == 0 ? &leaf : &other_leaf;
    struct str chain = certs_der(1, c->x509), key = certs_pkcs8(c->key),
               bundle = certs_der(1, ca.x509);
    v.spiffe_id = (char *)id;
    v.x509_svid = (ProtobufCBinaryData){chain.len, (uint8_t *)(void *)chain.p};
    v.x509_svid_key = (ProtobufCBinaryData){key.len, (uint8_t *)(void *)key.p};
    v.bundle = (ProtobufCBinaryData){bundle.len, (uint8_t *)(void *)bundle.p};
    m.svids = svids;
    m.n_svids = id[0] != '\0' ? 1 : 0;
    last_rpc()->ev.on_message(last_rpc()->arg, &m.base);
    free((void *)chain.p);
    free((void *)key.p);
    free((void *)bundle.p);
}

/* --- the client --- */

static struct svid_store *store;
static struct workload_api *api;
static struct err e;
static unsigned n_stopped;

static void setup_new(void)
{
    static const struct svid_choice choices[SVID_ROLE_COUNT];
    static const struct workload_api_config cfg = {.endpoint = "unix:///nowhere/agent.sock"};
    const struct clock *clock = fake_time_start();
    n_rpcs = 0;
    n_stopped = 0;
    is_connected = true;
    metric_clear(M_WORKLOAD_API_UPDATES);
    metric_clear(M_WORKLOAD_API_STREAM_ENDS);
    store = svid_store_new(choices, clock, NULL);
    assert_true(workload_api_new(&cfg, store, clock, NULL, &api, &e));
}

static void setup(void)
{
    setup_new();
    workload_api_start(api);
    assert_int_equal(n_rpcs, 1);
    assert_int_equal(rpcs[0].method, WORKLOAD_FETCH_X509);
    assert_int_equal(rpcs[0].deadline_ms, 0); /* an attestation takes its time */
}

static void on_stopped(void *arg)
{
    (void)arg;
    n_stopped++;
}

static void end_canceled(void)
{
    for (size_t i = 0; i < n_rpcs; i++)
        if (rpcs[i].is_canceled && !rpcs[i].has_ended)
            rpc_ends(&rpcs[i], WS_CANCELLED, "CANCELLED");
}

static void end_grpc(void)
{
    if (grpc_stopped == NULL)
        return;
    void (*cb)(void *arg) = grpc_stopped;
    grpc_stopped = NULL;
    cb(grpc_stopped_arg);
}

static void teardown(void)
{
    workload_api_stop(api, on_stopped, NULL);
    end_canceled();
    fake_time_advance(0);
    assert_int_equal(n_stopped, n_grpc == 0 ? 1 : 0);
    end_grpc();
    fake_time_advance(0);
    assert_int_equal(n_stopped, 1);
    assert_int_equal(n_grpc, 0);
    svid_store_free(&store);
    assert_int_equal(fake_time_n_timers(), 0);
    certs_release(&ca);
    certs_release(&leaf);
    certs_release(&other_leaf);
    ca = leaf = other_leaf = (struct cert){NULL, NULL};
}

static struct workload_api_status status(void)
{
    struct workload_api_status s;
    workload_api_get_status(api, &s);
    return s;
}

static unsigned generation(void)
{
    struct svid_set *s = svid_store_current(store);
    return s == NULL ? 0 : s->generation;
}

/* Time until the next attempt; it is made. */
static uint64_t wait_for_attempt(void)
{
    size_t before = n_rpcs;
    uint64_t waited = 0;
    for (; n_rpcs == before && waited <= 10 * MINUTE_MS; waited += 10)
        fake_time_advance(waited == 0 ? 0 : 10);
    assert_int_equal(n_rpcs, before + 1);
    return waited - 10;
}

static void assert_attempt_within(uint64_t least_ms, uint64_t most_ms)
{
    uint64_t ms = wait_for_attempt();
    if (ms + 10 < least_ms || ms > most_ms + 10)
        fail_msg("an attempt after %llu ms, not %llu..%llu", (unsigned long long)ms,
                 (unsigned long long)least_ms, (unsigned long long)most_ms);
}

/* --- answers --- */

TEST(workload_api, each_status_has_its_class_and_its_time_to_try_again)
{
    static const struct {
        int status;
        enum err_code code;
        uint64_t least_ms, most_ms;
        const char *trouble, *words;
    } cases[] = {
        {WS_OK, ERR_UNAVAIL, 100, 200, "ok", "ended the stream"},
        {WS_CANCELLED, ERR_UNAVAIL, 100, 200, "cancelled", "cut the stream"},
        {WS_UNKNOWN, ERR_UNAVAIL, 100, 200, "unknown", "has failed: as it says"},
        {WS_INVALID_ARGUMENT, ERR_DENIED, MINUTE_MS, MINUTE_MS, "invalid_argument",
         "workload.spiffe.io header"},
        {WS_DEADLINE_EXCEEDED, ERR_TIMEOUT, 100, 200, "deadline_exceeded", "in time"},
        {WS_NOT_FOUND, ERR_UNAVAIL, 100, 200, "not_found", "has failed"},
        {WS_ALREADY_EXISTS, ERR_UNAVAIL, 100, 200, "already_exists", "has failed"},
        {WS_PERMISSION_DENIED, ERR_DENIED, 500, 1000, "permission_denied",
         "no registration entry matches it: as it says"},
        {WS_RESOURCE_EXHAUSTED, ERR_DENIED, MINUTE_MS, MINUTE_MS, "resource_exhausted",
         "too large or too much"},
        {WS_FAILED_PRECONDITION, ERR_UNAVAIL, 100, 200, "failed_precondition", "has failed"},
        {WS_ABORTED, ERR_UNAVAIL, 100, 200, "aborted", "has failed"},
        {WS_OUT_OF_RANGE, ERR_UNAVAIL, 100, 200, "out_of_range", "has failed"},
        {WS_UNIMPLEMENTED, ERR_DENIED, MINUTE_MS, MINUTE_MS, "unimplemented",
         "Istio's SDS socket, not a SPIFFE Workload API"},
        {WS_INTERNAL, ERR_UNAVAIL, 100, 200, "internal", "has failed"},
        {WS_UNAVAILABLE, ERR_UNAVAIL, 100, 200, "no_directory", "there is no directory /nowhere"},
        {WS_DATA_LOSS, ERR_UNAVAIL, 100, 200, "data_loss", "has failed"},
        {WS_UNAUTHENTICATED, ERR_UNAVAIL, 100, 200, "unauthenticated", "attest"},
        {99, ERR_UNAVAIL, 100, 200, "unknown", "has failed: as it says"},
        {-1, ERR_UNAVAIL, 100, 200, "unknown", "has failed: as it says"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        setup();
        stream_ends(cases[i].status);
        struct err last = status().last_error, shown;
        struct svid_set *set;
        const struct svid *v;
        assert_int_equal(last.code, cases[i].code);
        if (strstr(last.msg, cases[i].words) == NULL)
            fail_msg("%d: \"%s\"", cases[i].status, last.msg);
        assert_string_equal(status().trouble, cases[i].trouble);
        assert_false(svid_store_select(store, SVID_MESH, &set, &v, &shown));
        assert_non_null(strstr(shown.msg, last.msg));
        assert_attempt_within(cases[i].least_ms, cases[i].most_ms);
        assert_int_equal(status().n_reconnects, 1);
        teardown();
    }
}

TEST(workload_api, no_status_is_ever_final)
{
    for (int s = 0; s < WS_COUNT; s++) {
        setup();
        for (unsigned i = 0; i < 8; i++) {
            stream_ends(s);
            (void)wait_for_attempt();
        }
        agent_sends(ID);
        assert_int_equal(generation(), 1);
        assert_int_equal(status().last_error.code, ERR_NONE);
        teardown();
    }
}

TEST(workload_api, an_absent_agent_is_asked_ever_more_slowly_up_to_ten_seconds)
{
    setup();
    uint64_t cap = 200;
    for (unsigned i = 0; i < 10; i++) {
        stream_ends(WS_UNAVAILABLE);
        assert_attempt_within(cap / 2, cap);
        cap = cap * 2 > 10000 ? 10000 : cap * 2;
    }
    teardown();
}

TEST(workload_api, denials_have_a_schedule_of_their_own)
{
    setup();
    uint64_t cap = 1000;
    for (unsigned i = 0; i < 8; i++) {
        stream_ends(WS_PERMISSION_DENIED);
        assert_attempt_within(cap / 2, cap);
        cap = cap * 2 > 10000 ? 10000 : cap * 2;
    }
    agent_sends(ID);
    stream_ends(WS_PERMISSION_DENIED); /* an answer starts it anew */
    assert_attempt_within(500, 1000);
    teardown();
}

TEST(workload_api, a_live_stream_that_ends_is_opened_again_at_once)
{
    static const int ends[] = {WS_OK, WS_UNAVAILABLE, WS_CANCELLED, WS_UNKNOWN, WS_INTERNAL};
    for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
        setup();
        agent_sends(ID);
        fake_time_advance(5 * MINUTE_MS);
        stream_ends(ends[i]);
        assert_int_equal(wait_for_attempt(), 0);
        stream_ends(WS_UNAVAILABLE);
        assert_attempt_within(100, 200);
        teardown();
    }
}

TEST(workload_api, an_agent_that_always_cuts_is_not_hammered)
{
    setup();
    size_t before = n_rpcs;
    uint64_t waited = 0;
    while (waited < MINUTE_MS) {
        agent_sends(ID);
        stream_ends(WS_OK);
        waited += wait_for_attempt();
    }
    assert_true(n_rpcs - before < 30);
    teardown();
}

TEST(workload_api, a_stream_worth_having_makes_the_next_failures_quick_again)
{
    setup();
    for (unsigned i = 0; i < 8; i++) {
        stream_ends(WS_UNAVAILABLE);
        (void)wait_for_attempt();
    }
    agent_sends(ID);
    fake_time_advance(1000);
    stream_ends(WS_UNAVAILABLE);
    assert_int_equal(wait_for_attempt(), 0);
    stream_ends(WS_UNAVAILABLE);
    assert_attempt_within(100, 200);
    teardown();
}

/* --- updates --- */

TEST(workload_api, an_update_is_published_and_an_equal_one_only_counted)
{
    setup();
    agent_sends(ID);
    assert_int_equal(generation(), 1);
    assert_true(status().is_connected);
    assert_int_equal(status().last_update_at_ms, FAKE_WALL_START_MS);
    fake_time_advance(5000);
    agent_sends(ID);
    assert_int_equal(generation(), 1);
    assert_int_equal(status().n_updates, 2);
    assert_int_equal(status().last_update_at_ms, FAKE_WALL_START_MS + 5000);
    agent_sends("spiffe://td.test/other");
    assert_int_equal(generation(), 2);
    agent_sends(ID);
    assert_int_equal(generation(), 3);
    assert_true(metric_get(M_WORKLOAD_API_UPDATES, METRIC_NONE) == 4);
    teardown();
}

TEST(workload_api, an_equal_update_on_a_new_stream_is_still_equal)
{
    setup();
    agent_sends(ID);
    fake_time_advance(5000);
    stream_ends(WS_UNAVAILABLE);
    assert_false(status().is_connected);
    assert_string_equal(status().last_error.msg,
                        "the connection to the agent was lost: as it says");
    assert_string_equal(status().trouble, "lost");
    (void)wait_for_attempt();
    agent_sends(ID);
    assert_int_equal(generation(), 1);
    assert_true(status().is_connected);
    assert_int_equal(status().last_error.code, ERR_NONE);
    assert_string_equal(status().trouble, "");
    fake_time_advance(3000);
    svid_store_refresh_metrics(store);
    assert_true(metric_get(M_BUNDLE_AGE, METRIC_L("td.test")) == 3);
    metric_clear(M_BUNDLE_AGE);
    teardown();
}

TEST(workload_api, an_unusable_message_leaves_the_state_before)
{
    setup();
    agent_sends(ID);
    agent_sends("");
    assert_int_equal(generation(), 1);
    assert_int_equal(status().last_error.code, ERR_SYNTAX);
    assert_non_null(strstr(status().last_error.msg, "holds no SVID"));
    assert_string_equal(status().trouble, "discarded");
    agent_sends("spiffe://td.test/forged");
    assert_int_equal(generation(), 1);
    last_rpc()->ev.on_message(last_rpc()->arg, NULL);
    assert_non_null(strstr(status().last_error.msg, "cannot be decoded"));
    assert_int_equal(generation(), 1);
    assert_true(status().is_connected);
    agent_sends(ID);
    assert_int_equal(generation(), 1);
    assert_int_equal(status().last_error.code, ERR_NONE);
    teardown();
}

TEST(workload_api, after_an_unusable_message_the_stream_is_opened_anew_in_a_minute)
{
    setup();
    agent_sends("");
    fake_time_advance(MINUTE_MS - 1);
    assert_false(rpcs[0].is_canceled);
    fake_time_advance(1);
    assert_true(rpcs[0].is_canceled);
    assert_int_equal(n_rpcs, 1);
    end_canceled();
    assert_int_equal(wait_for_attempt(), 0);
    agent_sends(ID);
    assert_int_equal(generation(), 1);
    teardown();
}

TEST(workload_api, further_unusable_messages_do_not_put_that_off)
{
    setup();
    agent_sends("");
    fake_time_advance(30000);
    agent_sends("");
    fake_time_advance(30000);
    assert_true(rpcs[0].is_canceled);
    teardown();
}

TEST(workload_api, a_usable_message_after_an_unusable_one_keeps_the_stream)
{
    setup();
    agent_sends("");
    fake_time_advance(30000);
    agent_sends(ID);
    fake_time_advance(10 * MINUTE_MS);
    assert_false(rpcs[0].is_canceled);
    assert_int_equal(n_rpcs, 1);
    teardown();
}

/* --- redaction (D16) --- */

TEST(workload_api, a_denial_on_a_live_stream_takes_everything_back_at_once)
{
    setup();
    agent_sends(ID);
    stream_ends(WS_PERMISSION_DENIED);
    assert_int_equal(generation(), 0);
    assert_attempt_within(500, 1000);
    agent_sends(ID); /* the same as before is new now */
    assert_int_equal(generation(), 2);
    teardown();
}

TEST(workload_api, a_denial_after_a_lost_connection_counts_after_a_minute)
{
    setup();
    agent_sends(ID);
    stream_ends(WS_UNAVAILABLE);
    fake_time_advance(5 * MINUTE_MS); /* the agent is away for long: no denial yet */
    assert_int_equal(generation(), 1);
    uint64_t denied_for = 0;
    while (generation() != 0) {
        stream_ends(WS_PERMISSION_DENIED);
        if (generation() == 0)
            break;
        denied_for += wait_for_attempt();
    }
    assert_in_range(denied_for, MINUTE_MS - 100, MINUTE_MS + 100); /* looked at its very end */
    teardown();
}

TEST(workload_api, an_agent_that_was_restarted_may_deny_for_a_while)
{
    setup();
    agent_sends(ID);
    stream_ends(WS_OK);
    (void)wait_for_attempt();
    for (unsigned i = 0; i < 3; i++) {
        stream_ends(WS_PERMISSION_DENIED);
        (void)wait_for_attempt();
    }
    agent_sends(ID);
    assert_int_equal(generation(), 1);
    teardown();
}

TEST(workload_api, each_lost_connection_has_its_own_grace)
{
    setup();
    agent_sends(ID);
    stream_ends(WS_UNAVAILABLE);
    (void)wait_for_attempt();
    stream_ends(WS_PERMISSION_DENIED);
    fake_time_advance(0);
    (void)wait_for_attempt();
    fake_time_advance(50000);
    stream_ends(WS_UNAVAILABLE);
    (void)wait_for_attempt();
    fake_time_advance(20000);
    stream_ends(WS_PERMISSION_DENIED);
    assert_int_equal(generation(), 1);
    teardown();
}

TEST(workload_api, a_stream_that_we_opened_anew_has_its_own_grace_too)
{
    setup();
    stream_ends(WS_PERMISSION_DENIED);
    (void)wait_for_attempt();
    agent_sends(ID);
    agent_sends("");
    fake_time_advance(2 * MINUTE_MS);
    end_canceled();
    (void)wait_for_attempt();
    stream_ends(WS_PERMISSION_DENIED);
    assert_int_equal(generation(), 1);
    teardown();
}

TEST(workload_api, a_lost_agent_never_takes_svids_back_but_their_expiry_does)
{
    setup();
    agent_sends(ID);
    int64_t until = svid_store_current(store)->svids[0].not_after_ms;
    struct svid_set *set;
    const struct svid *v;
    stream_ends(WS_UNAVAILABLE);
    for (unsigned i = 0; i < 50; i++) {
        (void)wait_for_attempt();
        stream_ends(i % 2 == 0 ? WS_UNAVAILABLE : WS_UNKNOWN);
    }
    assert_true(svid_store_select(store, SVID_MESH, &set, &v, &e));
    svid_set_unref(&set);
    fake_time_set_wall(until);
    assert_false(svid_store_select(store, SVID_MESH, &set, &v, &e));
    assert_int_equal(e.code, ERR_EXPIRED);
    assert_non_null(strstr(e.msg, "the agent"));
    teardown();
}

TEST(workload_api, broken_answers_take_nothing_back)
{
    static const int ends[] = {WS_INVALID_ARGUMENT, WS_UNIMPLEMENTED, WS_RESOURCE_EXHAUSTED};
    for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
        setup();
        agent_sends(ID);
        stream_ends(ends[i]);
        fake_time_advance(0);
        assert_int_equal(generation(), 1);
        assert_attempt_within(MINUTE_MS, MINUTE_MS);
        teardown();
    }
}

/* --- silence --- */

TEST(workload_api, a_silent_agent_is_waited_for_and_told_apart_from_one_that_hangs)
{
    for (unsigned i = 0; i < 2; i++) {
        setup();
        is_connected = i == 0;
        fake_time_advance(4999);
        assert_int_equal(status().last_error.code, ERR_NONE);
        fake_time_advance(1);
        assert_int_equal(status().last_error.code, ERR_TIMEOUT);
        assert_non_null(strstr(status().last_error.msg, i == 0 ? "is silent" : "it hangs"));
        assert_string_equal(status().trouble, i == 0 ? "silent" : "hangs");
        fake_time_advance(10 * MINUTE_MS);
        assert_false(rpcs[0].is_canceled);
        agent_sends(ID);
        assert_int_equal(generation(), 1);
        assert_int_equal(status().last_error.code, ERR_NONE);
        teardown();
    }
}

TEST(workload_api, a_live_stream_may_be_silent_for_ever)
{
    setup();
    agent_sends(ID);
    fake_time_advance(24 * 60 * (uint64_t)MINUTE_MS);
    assert_int_equal(n_rpcs, 1);
    assert_int_equal(status().last_error.code, ERR_NONE);
    teardown();
}

TEST(workload_api, a_live_stream_under_which_the_svid_expires_is_opened_anew_once)
{
    setup();
    agent_sends(ID);
    fake_time_set_wall(svid_store_current(store)->svids[0].not_after_ms - 1);
    fake_time_advance(0);
    assert_false(rpcs[0].is_canceled);
    fake_time_advance(2 * MINUTE_MS);
    assert_true(rpcs[0].is_canceled);
    end_canceled();
    assert_attempt_within(0, 0);
    agent_sends(ID); /* the same again: it has nothing better */
    fake_time_advance(10 * MINUTE_MS);
    assert_int_equal(n_rpcs, 2);
    assert_false(rpcs[1].is_canceled);
    teardown();
}

TEST(workload_api, a_live_stream_is_kept_while_this_clock_is_behind)
{
    setup();
    agent_sends(ID);
    fake_time_set_wall(svid_store_current(store)->svids[0].not_before_ms - 1000);
    fake_time_advance(2 * MINUTE_MS);
    agent_sends(ID);
    fake_time_set_wall(svid_store_current(store)->svids[0].not_before_ms - 1000);
    fake_time_advance(0);
    assert_int_equal(n_rpcs, 1);
    assert_false(rpcs[0].is_canceled);
    teardown();
}

/* --- endpoint --- */

TEST(workload_api, the_environment_names_the_endpoint_if_the_configuration_does_not)
{
    static const struct svid_choice choices[SVID_ROLE_COUNT];
    struct workload_api_config cfg = {.endpoint = ""};
    const struct clock *clock = fake_time_start();
    store = svid_store_new(choices, clock, NULL);
    unsetenv("SPIFFE_ENDPOINT_SOCKET");
    assert_false(workload_api_new(&cfg, store, clock, NULL, &api, &e));
    assert_int_equal(e.code, ERR_SYNTAX);
    assert_non_null(strstr(e.msg, "SPIFFE_ENDPOINT_SOCKET"));
    setenv("SPIFFE_ENDPOINT_SOCKET", "unix:relative", 1);
    assert_false(workload_api_new(&cfg, store, clock, NULL, &api, &e));
    assert_null(api);
    setenv("SPIFFE_ENDPOINT_SOCKET", "unix:///from/environment", 1);
    n_stopped = 0;
    assert_true(workload_api_new(&cfg, store, clock, NULL, &api, &e));
    assert_string_equal(status().endpoint, "unix:///from/environment");
    unsetenv("SPIFFE_ENDPOINT_SOCKET");
    teardown();
}

/* --- JWT-SVIDs --- */

struct jwt_answer {
    unsigned n;
    enum err_code code;
    char token[128], spiffe_id[64], msg[ERR_MSG_MAX];
    int64_t issued_at_ms, expires_at_ms;
};

static void on_jwt(void *arg, const struct err *why, const char *token, const char *spiffe_id,
                   int64_t issued_at_ms, int64_t expires_at_ms)
{
    struct jwt_answer *a = arg;
    a->n++;
    a->code = why != NULL ? why->code : ERR_NONE;
    str_copy(a->msg, sizeof a->msg, str_from(why != NULL ? why->msg : ""));
    str_copy(a->token, sizeof a->token, str_from(token));
    str_copy(a->spiffe_id, sizeof a->spiffe_id, str_from(spiffe_id));
    a->issued_at_ms = issued_at_ms;
    a->expires_at_ms = expires_at_ms;
}

static struct workload_api_call *fetch(struct jwt_answer *a, const char *id)
{
    *a = (struct jwt_answer){0};
    return workload_api_fetch_jwt(api, "sts", id, on_jwt, a);
}

/* {"iat":100,"exp":200} */
#define TOKEN "h.eyJpYXQiOjEwMCwiZXhwIjoyMDB9.s"

static void agent_sends_jwts(struct workload_rpc *r, const char *id1, const char *token1,
                             const char *id2, const char *token2)
{
    JWTSVIDResponse m = JWTSVIDRESPONSE__INIT;
    JWTSVID v[2] = {JWTSVID__INIT, JWTSVID__INIT}, *svids[] = {&v[0], &v[1]};
    v[0].spiffe_id = (char *)id1;
    v[0].svid = (char *)token1;
    v[1].spiffe_id = (char *)id2;
    v[1].svid = (char *)token2;
    m.svids = svids;
    m.n_svids = id2[0] != '\0' ? 2 : id1[0] != '\0' ? 1 : 0;
    r->ev.on_message(r->arg, &m.base);
}

TEST(workload_api, a_jwt_comes_with_its_times)
{
    setup();
    struct jwt_answer a;
    fetch(&a, "");
    struct workload_rpc *r = last_rpc();
    assert_int_equal(r->method, WORKLOAD_FETCH_JWT);
    assert_int_equal(r->deadline_ms, 40000);
    assert_string_equal(r->audience, "sts");
    assert_string_equal(r->spiffe_id, "");
    agent_sends_jwts(r, ID, TOKEN, "spiffe://td.test/b", "other");
    assert_int_equal(a.n, 0); /* the status decides */
    rpc_ends(r, WS_OK, "");
    assert_int_equal(a.n, 1);
    assert_int_equal(a.code, ERR_NONE);
    assert_string_equal(a.token, TOKEN);
    assert_string_equal(a.spiffe_id, ID);
    assert_int_equal(a.issued_at_ms, 100000);
    assert_int_equal(a.expires_at_ms, 200000);
    teardown();
}

TEST(workload_api, an_unreadable_token_has_no_times)
{
    setup();
    struct jwt_answer a;
    fetch(&a, "");
    agent_sends_jwts(last_rpc(), ID, "opaque", "", "");
    rpc_ends(last_rpc(), WS_OK, "");
    assert_int_equal(a.code, ERR_NONE);
    assert_string_equal(a.token, "opaque");
    assert_int_equal(a.expires_at_ms, 0);
    teardown();
}

TEST(workload_api, the_jwt_of_another_identity_is_not_taken)
{
    setup();
    struct jwt_answer a;
    fetch(&a, ID);
    assert_string_equal(last_rpc()->spiffe_id, ID);
    agent_sends_jwts(last_rpc(), "spiffe://td.test/b", "other", ID, TOKEN);
    rpc_ends(last_rpc(), WS_OK, "");
    assert_string_equal(a.token, TOKEN);
    fetch(&a, ID);
    agent_sends_jwts(last_rpc(), "spiffe://td.test/b", "other", "", "");
    rpc_ends(last_rpc(), WS_OK, "");
    assert_int_equal(a.code, ERR_SYNTAX);
    assert_non_null(strstr(a.msg, "no JWT-SVID for " ID));
    teardown();
}

TEST(workload_api, each_way_a_jwt_can_fail_has_words)
{
    static const struct {
        int status;
        const char *id, *token;
        enum err_code code;
        const char *words;
    } cases[] = {
        {WS_OK, "", "", ERR_SYNTAX, "FetchJWTSVID: the agent's answer holds no JWT-SVID"},
        {WS_OK, ID, "", ERR_SYNTAX, "holds no JWT-SVID"},
        {WS_PERMISSION_DENIED, "", "", ERR_DENIED, "FetchJWTSVID: the agent has no identity"},
        {WS_DEADLINE_EXCEEDED, "", "", ERR_TIMEOUT, "in time"},
        {WS_UNAVAILABLE, ID, TOKEN, ERR_UNAVAIL, "not available"}, /* cut after the answer */
        {WS_INVALID_ARGUMENT, "", "", ERR_DENIED, "invalid"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        setup();
        struct jwt_answer a;
        fetch(&a, "");
        agent_sends_jwts(last_rpc(), cases[i].id, cases[i].token, "", "");
        rpc_ends(last_rpc(), cases[i].status, "");
        assert_int_equal(a.n, 1);
        assert_int_equal(a.code, cases[i].code);
        assert_string_equal(a.token, "");
        assert_non_null(strstr(a.msg, cases[i].words));
        assert_int_equal(status().last_error.code, ERR_NONE);
        teardown();
    }
}

TEST(workload_api, a_garbled_jwt_answer_is_an_error)
{
    setup();
    struct jwt_answer a;
    fetch(&a, "");
    last_rpc()->ev.on_message(last_rpc()->arg, NULL);
    rpc_ends(last_rpc(), WS_OK, "");
    assert_int_equal(a.code, ERR_SYNTAX);
    assert_non_null(strstr(a.msg, "cannot be decoded"));
    teardown();
}

TEST(workload_api, a_canceled_fetch_is_not_told)
{
    setup();
    struct jwt_answer a;
    struct workload_api_call *c = fetch(&a, "");
    workload_api_cancel(&c);
    assert_null(c);
    workload_api_cancel(&c);
    assert_true(last_rpc()->is_canceled);
    end_canceled();
    assert_int_equal(a.n, 0);
    teardown();
}

TEST(workload_api, fetches_are_bounded)
{
    setup();
    static struct jwt_answer a[33];
    for (size_t i = 0; i < ARRAY_LEN(a); i++)
        fetch(&a[i], "");
    assert_int_equal(n_rpcs, 1 + 32);
    assert_int_equal(a[32].n, 0);
    fake_time_advance(0);
    assert_int_equal(a[32].n, 1);
    assert_int_equal(a[32].code, ERR_LIMIT);
    rpc_ends(&rpcs[1], WS_OK, "");
    fetch(&a[0], "");
    assert_int_equal(n_rpcs, 1 + 33);
    teardown();
}

TEST(workload_api, a_fetch_outside_of_its_life_is_refused_later)
{
    setup_new();
    struct jwt_answer a, b;
    fetch(&a, "");
    assert_int_equal(a.n, 0);
    fake_time_advance(0);
    assert_int_equal(a.n, 1);
    assert_int_equal(a.code, ERR_UNAVAIL);
    workload_api_start(api);
    workload_api_stop(api, on_stopped, NULL);
    fetch(&b, "");
    end_canceled();
    fake_time_advance(0);
    assert_int_equal(b.n, 1);
    end_grpc();
    fetch(&b, "");
    fake_time_advance(0);
    assert_int_equal(b.n, 1);
    assert_int_equal(n_stopped, 1);
    svid_store_free(&store);
    assert_int_equal(fake_time_n_timers(), 0);
}

/* --- stop --- */

static void reach_new(void)
{
    setup_new();
}

static void reach_opening(void)
{
    setup();
}

static void reach_live(void)
{
    setup();
    agent_sends(ID);
}

static void reach_waiting(void)
{
    setup();
    stream_ends(WS_UNAVAILABLE);
}

static void reach_reopening(void)
{
    setup();
    agent_sends("");
    fake_time_advance(MINUTE_MS);
    assert_true(last_rpc()->is_canceled);
}

TEST(workload_api, stop_works_from_each_state_and_calls_back_once)
{
    static void (*const reach[])(void) = {reach_new, reach_opening, reach_live, reach_waiting,
                                          reach_reopening};
    for (size_t i = 0; i < ARRAY_LEN(reach); i++) {
        reach[i]();
        size_t before = n_rpcs;
        workload_api_stop(api, on_stopped, NULL);
        assert_int_equal(n_stopped, 0);
        fake_time_advance(i == 0 ? 0 : 10 * MINUTE_MS); /* no timer may revive it */
        assert_int_equal(n_stopped, i == 0 ? 1 : 0);
        if (i != 0) {
            workload_api_stop(api, on_stopped, NULL);
            end_canceled();
            end_grpc();
            assert_int_equal(n_stopped, 0); /* not inside of what gRPC has called */
            fake_time_advance(0);
        }
        assert_int_equal(n_stopped, 1);
        assert_int_equal(n_rpcs, before);
        assert_int_equal(n_grpc, 0);
        svid_store_free(&store);
        assert_int_equal(fake_time_n_timers(), 0);
        certs_release(&ca);
        certs_release(&leaf);
        certs_release(&other_leaf);
        ca = leaf = other_leaf = (struct cert){NULL, NULL};
    }
}

TEST(workload_api, stop_cancels_the_fetches_and_tells_them)
{
    setup();
    struct jwt_answer a, b;
    fetch(&a, "");
    struct workload_api_call *c = fetch(&b, "");
    workload_api_stop(api, on_stopped, NULL);
    workload_api_cancel(&c);
    rpc_ends(&rpcs[0], WS_CANCELLED, "");
    assert_null(grpc_stopped); /* not while a call is open */
    agent_sends_jwts(&rpcs[1], ID, TOKEN, "", "");
    rpc_ends(&rpcs[1], WS_OK, "");
    assert_int_equal(a.n, 1);
    assert_int_equal(a.code, ERR_CANCELED);
    rpc_ends(&rpcs[2], WS_CANCELLED, "");
    assert_int_equal(b.n, 0);
    assert_non_null(grpc_stopped);
    end_grpc();
    fake_time_advance(0);
    assert_int_equal(n_stopped, 1);
    svid_store_free(&store);
}

static void on_jwt_stop(void *arg, const struct err *why, const char *token, const char *spiffe_id,
                        int64_t issued_at_ms, int64_t expires_at_ms)
{
    on_jwt(arg, why, token, spiffe_id, issued_at_ms, expires_at_ms);
    workload_api_stop(api, on_stopped, NULL);
}

TEST(workload_api, a_fetchs_callback_may_stop_the_client)
{
    setup();
    struct jwt_answer a = {0};
    workload_api_fetch_jwt(api, "sts", "", on_jwt_stop, &a);
    rpc_ends(last_rpc(), WS_OK, "");
    assert_int_equal(a.n, 1);
    end_canceled();
    end_grpc();
    fake_time_advance(0);
    assert_int_equal(n_stopped, 1);
    svid_store_free(&store);
    assert_int_equal(fake_time_n_timers(), 0);
}

TEST(workload_api, metrics_follow_the_stream)
{
    setup();
    assert_true(metric_get(M_WORKLOAD_API_CONNECTED, METRIC_NONE) == 0);
    agent_sends(ID);
    assert_true(metric_get(M_WORKLOAD_API_CONNECTED, METRIC_NONE) == 1);
    stream_ends(WS_UNAVAILABLE);
    assert_true(metric_get(M_WORKLOAD_API_CONNECTED, METRIC_NONE) == 0);
    (void)wait_for_attempt();
    stream_ends(99);
    assert_true(metric_get(M_WORKLOAD_API_STREAM_ENDS, METRIC_L("unavailable")) == 1);
    assert_true(metric_get(M_WORKLOAD_API_STREAM_ENDS, METRIC_L("unknown")) == 1);
    teardown();
}
