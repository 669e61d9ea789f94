// SPDX-License-Identifier: Apache-2.0
/* Real gRPC on both ends of a unix socket.  The agent here is a bare gRPC server, polled by the
 * test itself, that sends whatever bytes and status a test wants. */
#include "test.h"

#include "base/mem.h"
#include "base/secret.h"
#include "identity/workload_api_private.h"
#include "loop_fixture.h"

#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/time.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static char dir[64], path[80], target[96];
static uv_loop_t *loop;
static struct workload_grpc *g;

/* Stands in for secret.c: who overwrites the key that agent_sends_svids() put into its message? */
static atomic_uint n_keys_wiped;

void secret_wipe(void *p, size_t len)
{
    if (memmem(p, len, "secret", 6) != NULL)
        atomic_fetch_add(&n_keys_wiped, 1);
    explicit_bzero(p, len);
}

/* --- client side --- */

struct seen {
    unsigned n_messages, n_garbled, n_ended;
    char spiffe_id[64];
    size_t n_svids;
    int status;
    char details[300];
    struct workload_rpc *cancel_in_message;
};

static struct seen seen;

static void on_message(void *arg, const ProtobufCMessage *m)
{
    struct seen *s = arg;
    s->n_messages++;
    if (m == NULL) {
        s->n_garbled++;
    } else if (m->descriptor == &x509_svidresponse__descriptor) {
        const X509SVIDResponse *r = (const X509SVIDResponse *)m;
        s->n_svids = r->n_svids;
        str_copy(s->spiffe_id, sizeof s->spiffe_id,
                 str_from(r->n_svids > 0 ? r->svids[0]->spiffe_id : ""));
    }
    if (s->cancel_in_message != NULL)
        workload_rpc_cancel(s->cancel_in_message);
}

static void on_end(void *arg, int status, const char *details)
{
    struct seen *s = arg;
    s->n_ended++;
    s->status = status;
    str_copy(s->details, sizeof s->details, str_from(details));
}

static const struct workload_rpc_events events = {on_message, on_end};

static struct workload_rpc *call_x509(void)
{
    X509SVIDRequest request = X509_SVIDREQUEST__INIT;
    seen = (struct seen){.status = -1};
    return workload_rpc_start(g, WORKLOAD_FETCH_X509, &request.base, 0, &events, &seen);
}

static unsigned n_stopped;

static void on_stopped(void *arg)
{
    (void)arg;
    n_stopped++;
}

static void setup(void)
{
    snprintf(dir, sizeof dir, "/tmp/wlgrpc.XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/agent.sock", dir);
    snprintf(target, sizeof target, "unix:%s", path);
    loop = loop_new();
    g = workload_grpc_start(loop, target);
    n_stopped = 0;
}

static void teardown(void)
{
    workload_grpc_stop(g, on_stopped, NULL);
    LOOP_UNTIL(loop, n_stopped == 1);
    workload_grpc_free(&g);
    loop_free(&loop);
    unlink(path);
    rmdir(dir);
}

/* --- the agent's side --- */

static struct {
    grpc_server *server;
    grpc_completion_queue *cq;
    uv_thread_t thread;
    grpc_call *call;
    grpc_call_details details;
    grpc_metadata_array metadata;
    atomic_uint n_requested, n_done, n_shut;
    bool has_sent_headers;
} agent;

/* A tag is the counter of its kind. */
static void run_agent(void *arg)
{
    (void)arg;
    gpr_timespec never = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    for (;;) {
        grpc_event ev = grpc_completion_queue_next(agent.cq, never, NULL);
        if (ev.type == GRPC_QUEUE_SHUTDOWN)
            break;
        atomic_fetch_add((atomic_uint *)ev.tag, 1);
    }
}

static void agent_poll(void)
{
    uv_run(loop, UV_RUN_NOWAIT);
    usleep(200);
}

#define AGENT_UNTIL(cond)                                                                          \
    do {                                                                                           \
        uint64_t end_ = uv_hrtime() + UINT64_C(30000000000);                                       \
        while (!(cond) && uv_hrtime() < end_)                                                      \
            agent_poll();                                                                          \
        assert_true(cond);                                                                         \
    } while (0)

static void agent_start(void)
{
    agent.call = NULL;
    agent.has_sent_headers = false;
    agent.n_requested = agent.n_done = agent.n_shut = 0;
    grpc_init();
    agent.cq = grpc_completion_queue_create_for_next(NULL);
    agent.server = grpc_server_create(NULL, NULL);
    grpc_server_register_completion_queue(agent.server, agent.cq, NULL);
    grpc_server_credentials *plain = grpc_insecure_server_credentials_create();
    assert_int_not_equal(grpc_server_add_http2_port(agent.server, target, plain), 0);
    grpc_server_credentials_release(plain);
    grpc_server_start(agent.server);
    assert_int_equal(uv_thread_create(&agent.thread, run_agent, NULL), 0);
    grpc_call_details_init(&agent.details);
    grpc_metadata_array_init(&agent.metadata);
    assert_int_equal(grpc_server_request_call(agent.server, &agent.call, &agent.details,
                                              &agent.metadata, agent.cq, agent.cq,
                                              &agent.n_requested),
                     GRPC_CALL_OK);
}

static void agent_stop(void)
{
    grpc_server_shutdown_and_notify(agent.server, agent.cq, &agent.n_shut);
    grpc_server_cancel_all_calls(agent.server);
    AGENT_UNTIL(agent.n_shut == 1);
    if (agent.call != NULL)
        grpc_call_unref(agent.call);
    grpc_server_destroy(agent.server);
    grpc_call_details_destroy(&agent.details);
    grpc_metadata_array_destroy(&agent.metadata);
    grpc_completion_queue_shutdown(agent.cq);
    assert_int_equal(uv_thread_join(&agent.thread), 0);
    grpc_completion_queue_destroy(agent.cq);
    grpc_shutdown();
}

static void agent_batch(grpc_op last)
{
    grpc_op ops[2] = {{.op = GRPC_OP_SEND_INITIAL_METADATA}, last};
    unsigned before = agent.n_done;
    size_t first = agent.has_sent_headers ? 1 : 0;
    agent.has_sent_headers = true;
    assert_int_equal(grpc_call_start_batch(agent.call, ops + first, 2 - first, &agent.n_done, NULL),
                     GRPC_CALL_OK);
    AGENT_UNTIL(agent.n_done == before + 1);
}

static void agent_sends(const void *bytes, size_t len)
{
    grpc_slice slice = grpc_slice_from_copied_buffer(bytes, len);
    grpc_byte_buffer *body = grpc_raw_byte_buffer_create(&slice, 1);
    agent_batch((grpc_op){.op = GRPC_OP_SEND_MESSAGE, .data.send_message = {body}});
    grpc_byte_buffer_destroy(body);
    grpc_slice_unref(slice);
}

static void agent_sends_svids(const char *id, size_t n)
{
    X509SVIDResponse m = X509_SVIDRESPONSE__INIT;
    X509SVID v = X509_SVID__INIT;
    X509SVID **svids = xcalloc(n, sizeof *svids);
    v.spiffe_id = (char *)id;
    v.x509_svid_key = (ProtobufCBinaryData){6, (uint8_t *)(void *)"secret"};
    for (size_t i = 0; i < n; i++)
        svids[i] = &v;
    m.svids = svids;
    m.n_svids = n;
    uint8_t *bytes = xcalloc(x509_svidresponse__get_packed_size(&m), 1);
    agent_sends(bytes, x509_svidresponse__pack(&m, bytes));
    free(bytes);
    free(svids);
}

static void agent_ends(grpc_status_code status, const char *text)
{
    grpc_slice details = grpc_slice_from_copied_string(text);
    agent_batch(
        (grpc_op){.op = GRPC_OP_SEND_STATUS_FROM_SERVER,
                  .data.send_status_from_server = {.status = status, .status_details = &details}});
    grpc_slice_unref(details);
}

static bool has_header(const char *key, const char *value)
{
    unsigned n = 0;
    for (size_t i = 0; i < agent.metadata.count; i++) {
        const grpc_metadata *m = &agent.metadata.metadata[i];
        if (grpc_slice_str_cmp(m->key, key) == 0 && grpc_slice_str_cmp(m->value, value) == 0)
            n++;
    }
    return n == 1;
}

/* --- tests with an agent --- */

/* With both ends of gRPC's epoll engine in one process, large messages get stuck under
 * ThreadSanitizer (not with GRPC_POLL_STRATEGY=poll, not with the server in a process of its own).
 */
#ifdef __SANITIZE_THREAD__
#define SKIP_UNDER_TSAN() skip()
#else
#define SKIP_UNDER_TSAN() (void)0
#endif

TEST(workload_api_grpc, the_call_is_what_the_standard_asks_for)
{
    setup();
    agent_start();
    call_x509();
    AGENT_UNTIL(agent.n_requested == 1);
    assert_int_equal(grpc_slice_str_cmp(agent.details.method, "/SpiffeWorkloadAPI/FetchX509SVID"),
                     0);
    assert_int_equal(grpc_slice_str_cmp(agent.details.host, "localhost"), 0);
    assert_true(has_header("workload.spiffe.io", "true"));
    agent_ends(GRPC_STATUS_OK, "");
    AGENT_UNTIL(seen.n_ended == 1);
    assert_int_equal(seen.status, WS_OK);
    assert_int_equal(seen.n_messages, 0);
    agent_stop();
    teardown();
}

TEST(workload_api_grpc, a_jwt_is_asked_for_with_header_audience_id_and_deadline)
{
    setup();
    agent_start();
    char *audience[] = {(char *)"sts"};
    JWTSVIDRequest request = JWTSVIDREQUEST__INIT;
    request.n_audience = 1;
    request.audience = audience;
    request.spiffe_id = (char *)"spiffe://td/a";
    seen = (struct seen){.status = -1};
    workload_rpc_start(g, WORKLOAD_FETCH_JWT, &request.base, 40000, &events, &seen);
    AGENT_UNTIL(agent.n_requested == 1);
    assert_int_equal(grpc_slice_str_cmp(agent.details.method, "/SpiffeWorkloadAPI/FetchJWTSVID"),
                     0);
    assert_true(has_header("workload.spiffe.io", "true"));
    gpr_timespec left =
        gpr_time_sub(gpr_convert_clock_type(agent.details.deadline, GPR_CLOCK_REALTIME),
                     gpr_now(GPR_CLOCK_REALTIME));
    assert_in_range(gpr_time_to_millis(left), 30000, 40100);
    grpc_byte_buffer *body = NULL;
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message = {&body}};
    assert_int_equal(grpc_call_start_batch(agent.call, &op, 1, &agent.n_done, NULL), GRPC_CALL_OK);
    AGENT_UNTIL(agent.n_done == 1);
    assert_int_equal(grpc_byte_buffer_length(body), strlen("..sts..spiffe://td/a"));
    grpc_byte_buffer_destroy(body);
    agent_ends(GRPC_STATUS_PERMISSION_DENIED, "no identity issued");
    AGENT_UNTIL(seen.n_ended == 1);
    assert_int_equal(seen.status, WS_PERMISSION_DENIED);
    assert_string_equal(seen.details, "no identity issued");
    agent_stop();
    teardown();
}

TEST(workload_api_grpc, messages_come_one_by_one_and_then_the_end)
{
    setup();
    agent_start();
    struct workload_rpc *r = call_x509();
    AGENT_UNTIL(agent.n_requested == 1);
    assert_true(workload_rpc_is_connected(r));
    for (unsigned i = 1; i <= 20; i++) {
        char id[64];
        snprintf(id, sizeof id, "spiffe://td/%u", i);
        agent_sends_svids(id, 1);
        AGENT_UNTIL(seen.n_messages == i);
        assert_string_equal(seen.spiffe_id, id);
    }
    agent_sends("", 0); /* an empty message is one, too */
    AGENT_UNTIL(seen.n_messages == 21);
    assert_int_equal(seen.n_svids, 0);
    agent_ends(GRPC_STATUS_UNAVAILABLE, "ctl \x01 done");
    AGENT_UNTIL(seen.n_ended == 1);
    assert_int_equal(seen.status, WS_UNAVAILABLE);
    assert_string_equal(seen.details, "ctl \\x01 done");
    assert_int_equal(seen.n_garbled, 0);
    agent_stop();
    teardown();
}

TEST(workload_api_grpc, a_key_is_overwritten_wherever_it_lay)
{
    setup();
    agent_start();
    call_x509();
    AGENT_UNTIL(agent.n_requested == 1);
    n_keys_wiped = 0;
    agent_sends_svids("spiffe://td/a", 1);
    AGENT_UNTIL(seen.n_messages == 1);
    assert_int_equal(n_keys_wiped, 3); /* gRPC's buffer, our copy, protobuf-c's field */
    agent_ends(GRPC_STATUS_OK, "");
    AGENT_UNTIL(seen.n_ended == 1);
    agent_stop();
    teardown();
}

TEST(workload_api_grpc, garbage_is_told_as_such_and_the_stream_goes_on)
{
    setup();
    agent_start();
    call_x509();
    AGENT_UNTIL(agent.n_requested == 1);
    agent_sends("\xff\xff\xff\xff garbage", 12);
    AGENT_UNTIL(seen.n_messages == 1);
    assert_int_equal(seen.n_garbled, 1);
    agent_sends_svids("spiffe://td/a", 1);
    AGENT_UNTIL(seen.n_messages == 2);
    assert_int_equal(seen.n_garbled, 1);
    agent_ends(GRPC_STATUS_OK, "");
    AGENT_UNTIL(seen.n_ended == 1);
    agent_stop();
    teardown();
}

TEST(workload_api_grpc, a_message_of_seven_mebibytes_passes_and_one_over_eight_ends_the_stream)
{
    SKIP_UNDER_TSAN();
    setup();
    agent_start();
    call_x509();
    AGENT_UNTIL(agent.n_requested == 1);
    uint8_t *bytes = xcalloc(WORKLOAD_MESSAGE_MAX + 1, 1);
    size_t len = 7u << 20; /* field 2, a CRL of that length */
    const uint8_t head[] = {0x12, 0x80, 0x80, 0xc0, 0x03};
    memcpy(bytes, head, sizeof head);
    agent_sends(bytes, len + sizeof head);
    AGENT_UNTIL(seen.n_messages == 1);
    assert_int_equal(seen.n_garbled, 0);
    grpc_slice slice = grpc_slice_from_copied_buffer((const char *)bytes, WORKLOAD_MESSAGE_MAX + 1);
    grpc_byte_buffer *body = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_op op = {.op = GRPC_OP_SEND_MESSAGE, .data.send_message = {body}};
    assert_int_equal(grpc_call_start_batch(agent.call, &op, 1, &agent.n_done, NULL), GRPC_CALL_OK);
    AGENT_UNTIL(seen.n_ended == 1);
    assert_int_equal(seen.status, WS_RESOURCE_EXHAUSTED);
    assert_non_null(strstr(seen.details, "larger than max"));
    assert_int_equal(seen.n_messages, 1);
    grpc_byte_buffer_destroy(body);
    grpc_slice_unref(slice);
    free(bytes);
    agent_stop();
    teardown();
}

TEST(workload_api_grpc, a_message_that_swells_when_decoded_is_refused)
{
    SKIP_UNDER_TSAN();
    setup();
    agent_start();
    call_x509();
    AGENT_UNTIL(agent.n_requested == 1);
    size_t len = 4u << 20; /* two million SVIDs of two bytes each */
    uint8_t *bytes = xcalloc(len, 1);
    for (size_t i = 0; i < len; i += 2)
        bytes[i] = 0x0a;
    agent_sends(bytes, len);
    AGENT_UNTIL(seen.n_messages == 1);
    assert_int_equal(seen.n_garbled, 1);
    free(bytes);
    agent_ends(GRPC_STATUS_OK, "");
    AGENT_UNTIL(seen.n_ended == 1);
    agent_stop();
    teardown();
}

TEST(workload_api_grpc, after_a_cancel_no_message_is_told_but_the_end)
{
    setup();
    agent_start();
    struct workload_rpc *r = call_x509();
    AGENT_UNTIL(agent.n_requested == 1);
    agent_sends_svids("spiffe://td/a", 1);
    agent_sends_svids("spiffe://td/b", 1);
    seen.n_messages = 0;
    workload_rpc_cancel(r);
    workload_rpc_cancel(r);
    AGENT_UNTIL(seen.n_ended == 1);
    assert_int_equal(seen.n_messages, 0);
    assert_int_equal(seen.status, WS_CANCELLED);
    agent_stop();
    teardown();
}

TEST(workload_api_grpc, a_call_may_be_canceled_by_its_own_message)
{
    setup();
    agent_start();
    struct workload_rpc *r = call_x509();
    seen.cancel_in_message = r;
    AGENT_UNTIL(agent.n_requested == 1);
    agent_sends_svids("spiffe://td/a", 1);
    AGENT_UNTIL(seen.n_ended == 1);
    assert_int_equal(seen.n_messages, 1);
    assert_int_equal(seen.status, WS_CANCELLED);
    agent_stop();
    teardown();
}

TEST(workload_api_grpc, an_agent_that_dies_ends_the_stream)
{
    setup();
    agent_start();
    call_x509();
    AGENT_UNTIL(agent.n_requested == 1);
    agent_sends_svids("spiffe://td/a", 1);
    AGENT_UNTIL(seen.n_messages == 1);
    agent_stop();
    LOOP_UNTIL(loop, seen.n_ended == 1);
    assert_int_not_equal(seen.status, WS_OK);
    teardown();
}

/* --- tests without an agent --- */

static int listen_there(void)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    str_copy(a.sun_path, sizeof a.sun_path, str_from(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(fd, 5), 0);
    return fd;
}

TEST(workload_api_grpc, an_absent_socket_is_unavailable_each_time_at_once)
{
    setup();
    for (unsigned i = 0; i < 5; i++) { /* no backoff of gRPC's own may stand in between */
        uint64_t start = uv_hrtime();
        call_x509();
        LOOP_UNTIL(loop, seen.n_ended == 1);
        assert_int_equal(seen.status, WS_UNAVAILABLE);
        assert_true(uv_hrtime() - start < 1000000000);
    }
    agent_start(); /* and no memory of it either */
    call_x509();
    AGENT_UNTIL(agent.n_requested == 1);
    agent_ends(GRPC_STATUS_OK, "");
    AGENT_UNTIL(seen.n_ended == 1);
    assert_int_equal(seen.status, WS_OK);
    agent_stop();
    teardown();
}

TEST(workload_api_grpc, a_listener_that_says_nothing_is_not_connected)
{
    setup();
    int fd = listen_there();
    struct workload_rpc *r = call_x509();
    loop_run_for(loop, 100);
    assert_int_equal(seen.n_ended, 0);
    assert_false(workload_rpc_is_connected(r));
    workload_rpc_cancel(r);
    LOOP_UNTIL(loop, seen.n_ended == 1);
    assert_int_equal(seen.status, WS_CANCELLED);
    close(fd);
    teardown();
}

TEST(workload_api_grpc, a_listener_that_is_no_grpc_server_is_unavailable)
{
    static const char *const said[] = {"", "HTTP/1.1 400 Bad Request\r\n\r\n",
                                       "220 mail ESMTP\r\n"};
    for (size_t i = 0; i < ARRAY_LEN(said); i++) {
        setup();
        int fd = listen_there();
        call_x509();
        int peer = accept(fd, NULL, NULL);
        assert_true(peer >= 0);
        assert_int_equal(write(peer, said[i], strlen(said[i])), strlen(said[i]));
        close(peer);
        close(fd);
        LOOP_UNTIL(loop, seen.n_ended == 1);
        assert_int_equal(seen.status, WS_UNAVAILABLE);
        teardown();
    }
}

TEST(workload_api_grpc, a_deadline_ends_a_call_that_nobody_answers)
{
    setup();
    int fd = listen_there();
    JWTSVIDRequest request = JWTSVIDREQUEST__INIT;
    seen = (struct seen){.status = -1};
    workload_rpc_start(g, WORKLOAD_FETCH_JWT, &request.base, 50, &events, &seen);
    LOOP_UNTIL(loop, seen.n_ended == 1);
    assert_int_equal(seen.status, WS_DEADLINE_EXCEEDED);
    close(fd);
    teardown();
}

TEST(workload_api_grpc, a_call_may_be_canceled_at_any_moment)
{
    for (unsigned us = 0; us < 3000; us += 100) {
        setup();
        int fd = us % 200 == 0 ? listen_there() : -1;
        struct workload_rpc *r = call_x509();
        uint64_t until = uv_hrtime() + us * UINT64_C(1000);
        while (seen.n_ended == 0 && uv_hrtime() < until)
            uv_run(loop, UV_RUN_NOWAIT);
        if (seen.n_ended == 0)
            workload_rpc_cancel(r);
        LOOP_UNTIL(loop, seen.n_ended == 1);
        if (fd >= 0)
            close(fd);
        teardown();
    }
}
