// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "aws/http.h"
#include "base/mem.h"
#include "http_server.h"
#include "loop_fixture.h"
#include "sys/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#define OK_ANSWER "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
#define BIG       (3u << 20)

static const struct http_step ok_step = {.answer = OK_ANSWER};

/* One call, what it sends, and what came of it. */
struct call {
    struct http_call *handle;
    uint64_t body_len, read, fail_at; /* fail_at: give up there; 0: no */
    bool ends_early;
    void (*on_first_read)(void *arg);
    void *on_first_read_arg;
    void (*on_done)(struct call *c);
    struct http *http;
    unsigned n_done;
    struct http_response r;
    char *body;
};

static char body_byte(uint64_t i)
{
    return (char)('a' + (i + i / 26 + i / 4099) % 26);
}

static bool read_body(void *arg, char *out, size_t cap, size_t *n)
{
    struct call *c = arg;
    if (c->read == 0 && c->on_first_read != NULL)
        c->on_first_read(c->on_first_read_arg);
    if (c->fail_at > 0 && c->read >= c->fail_at) {
        *n = 0;
        return c->ends_early;
    }
    uint64_t left = c->body_len - c->read;
    *n = left < cap ? (size_t)left : cap;
    for (size_t i = 0; i < *n; i++)
        out[i] = body_byte(c->read + i);
    c->read += *n;
    return true;
}

static void on_done(void *arg, const struct http_response *r)
{
    struct call *c = arg;
    c->n_done++;
    c->handle = NULL;
    c->r = *r;
    free(c->body);
    c->body = str_dup(r->body);
    c->r.body = (struct str){c->body, r->body.len};
    if (c->on_done != NULL)
        c->on_done(c);
}

static unsigned n_epoll_calls;

/* In libc's place: libuv's calls come by here. */
int epoll_ctl(int epoll_fd, int op, int fd, struct epoll_event *event)
{
    n_epoll_calls++;
    return (int)syscall(SYS_epoll_ctl, epoll_fd, op, fd, event);
}

struct world {
    uv_loop_t *loop;
    struct http_server server;
    struct http *http;
};

static void world_start(struct world *w, const struct http_step *steps, size_t n_steps)
{
    struct err e;
    w->loop = loop_new();
    http_server_start(&w->server, w->loop, steps, n_steps);
    const struct http_config cfg = {.max_connections = 4, .user_agent = "svidmail-test"};
    assert_true(http_new(w->loop, &cfg, &w->http, &e));
}

static void world_stop(struct world *w)
{
    http_free(&w->http);
    http_server_stop(&w->server);
    loop_free(&w->loop);
}

static struct http_request request_to(struct world *w, struct call *c)
{
    return (struct http_request){.tunnel = w->server.tunnel,
                                 .host = "email.test",
                                 .method = "POST",
                                 .path = "/v2/email/outbound-emails",
                                 .body_len = c->body_len,
                                 .body_read = read_body,
                                 .body_arg = c,
                                 .timeout_ms = 5000,
                                 .max_response_bytes = 65536};
}

static void send_call(struct world *w, struct call *c)
{
    struct http_request r = request_to(w, c);
    unsigned before = c->n_done;
    c->read = 0;
    c->http = w->http;
    c->handle = http_send(w->http, &r, on_done, c);
    assert_int_equal(c->n_done, before); /* never from inside */
}

/* The outcome of one call with such a body. */
static const struct http_response *exchange(struct world *w, struct call *c, uint64_t body_len)
{
    unsigned before = c->n_done;
    c->body_len = body_len;
    send_call(w, c);
    LOOP_UNTIL(w->loop, c->n_done == before + 1);
    return &c->r;
}

static void call_release(struct call *c)
{
    free(c->body);
    c->body = NULL;
}

TEST(http, a_post_arrives_whole_and_nothing_else_is_said)
{
    struct world w;
    struct call c = {.body_len = 11};
    static const struct http_step step = {
        .answer = "HTTP/1.1 400 Bad Request\r\nx-amzn-RequestId: id-1\r\nX-Amzn-ErrorType: "
                  "MessageRejected\r\n"
                  "Content-Type: application/json\r\nDate: Mon, 23 Nov 2026 17:26:04 GMT\r\n"
                  "x-envoy-upstream-service-time: 7\r\nContent-Length: 4\r\n\r\nbody"};
    setenv("http_proxy", "http://127.0.0.1:9", 1);
    world_start(&w, &step, 1);
    struct http_request r = request_to(&w, &c);
    const struct http_header headers[] = {{"Content-Type", "application/json"},
                                          {"X-Amz-Date", "20261123T172604Z"}};
    r.headers = headers;
    r.n_headers = ARRAY_LEN(headers);
    c.handle = http_send(w.http, &r, on_done, &c);
    LOOP_UNTIL(w.loop, c.n_done == 1);
    assert_string_equal(buf_cstr(&w.server.last),
                        "POST /v2/email/outbound-emails HTTP/1.1\r\nHost: email.test\r\n"
                        "User-Agent: svidmail-test\r\nContent-Type: application/json\r\n"
                        "X-Amz-Date: 20261123T172604Z\r\nContent-Length: 11\r\n\r\n"
                        "abcdefghijk");
    assert_int_equal(c.r.outcome, HTTP_ANSWERED);
    assert_int_equal(c.r.err.code, ERR_NONE);
    assert_int_equal(c.r.status, 400);
    assert_string_equal(c.body, "body");
    assert_string_equal(c.r.error_type, "MessageRejected");
    assert_string_equal(c.r.request_id, "id-1");
    assert_string_equal(c.r.content_type, "application/json");
    assert_string_equal(c.r.date, "Mon, 23 Nov 2026 17:26:04 GMT");
    assert_true(c.r.has_envoy_upstream);
    assert_true(c.r.is_new_connection);
    assert_string_equal(c.r.peer_id, "spiffe://example.org/gateway");
    assert_true(c.r.connect_us <= c.r.sent_us && c.r.sent_us <= c.r.total_us && c.r.sent_us > 0);
    unsetenv("http_proxy");
    call_release(&c);
    world_stop(&w);
}

TEST(http, a_big_body_arrives_byte_for_byte)
{
    struct world w;
    struct call c = {0};
    world_start(&w, &ok_step, 1);
    exchange(&w, &c, (1u << 20) - 4096);
    assert_int_equal(c.r.status, 200);
    const char *body = strstr(buf_cstr(&w.server.last), "\r\n\r\n") + 4;
    for (uint64_t i = 0; i < c.body_len; i++)
        if (body[i] != body_byte(i))
            fail_msg("byte %llu", (unsigned long long)i);
    call_release(&c);
    world_stop(&w);
}

TEST(http, a_get_and_an_empty_post_need_no_body)
{
    struct world w;
    struct call c = {0};
    world_start(&w, &ok_step, 1);
    exchange(&w, &c, 0);
    assert_int_equal(c.r.status, 200);
    assert_non_null(strstr(buf_cstr(&w.server.last), "Content-Length: 0\r\n"));
    struct http_request r = request_to(&w, &c);
    r.method = "GET";
    r.path = "/v2/email/account?a=b";
    c.handle = http_send(w.http, &r, on_done, &c);
    LOOP_UNTIL(w.loop, c.n_done == 2);
    assert_true(str_starts_with(buf_str(&w.server.last),
                                STR("GET /v2/email/account?a=b HTTP/1.1\r\nHost: email.test\r\n")));
    assert_null(strstr(buf_cstr(&w.server.last), "Content-Length"));
    call_release(&c);
    world_stop(&w);
}

TEST(http, connections_are_kept_and_told)
{
    struct world w;
    struct call c = {0};
    world_start(&w, &ok_step, 1);
    for (int i = 0; i < 20; i++) {
        exchange(&w, &c, 100);
        assert_int_equal(c.r.status, 200);
        assert_int_equal(c.r.is_new_connection, i == 0);
        assert_string_equal(c.r.peer_id, "spiffe://example.org/gateway");
        assert_int_equal(w.server.n_begun, i + 1);
        assert_int_equal(w.server.n_done, i + 1);
    }
    assert_int_equal(w.server.n_connections, 1);
    call_release(&c);
    world_stop(&w);
}

TEST(http, a_kept_connection_stays_in_the_loops_poll_set)
{
    struct world w;
    struct call c = {0};
    world_start(&w, &ok_step, 1);
    exchange(&w, &c, 100);
    n_epoll_calls = 0;
    for (int i = 0; i < 10; i++)
        exchange(&w, &c, 100);
    assert_in_range(n_epoll_calls, 0, 20);
    assert_int_equal(w.server.n_connections, 1);
    call_release(&c);
    world_stop(&w);
}

static void count_turn(uv_check_t *check)
{
    unsigned *n = check->data;
    ++*n;
}

TEST(http, a_connection_closed_while_idle_does_not_keep_the_loop_busy)
{
    struct world w;
    struct call c = {0};
    unsigned n_turns = 0;
    uv_check_t check = {.data = &n_turns};
    world_start(&w, &ok_step, 1);
    exchange(&w, &c, 100);
    http_server_drop_connections(&w.server);
    loop_settle(w.loop);
    uv_check_init(w.loop, &check);
    uv_check_start(&check, count_turn);
    loop_run_for(w.loop, 100);
    assert_in_range(n_turns, 1, 50); /* it wakes up every 10 ms */
    uv_close((uv_handle_t *)&check, NULL);
    call_release(&c);
    world_stop(&w);
}

/* The rule of the house: libcurl would send it again by itself. */
TEST(http, a_kept_connection_cut_after_the_whole_body_is_unknown_and_seen_once)
{
    static const uint64_t sizes[] = {1, 100, 16384, 65536, 100000, BIG};
    static const struct http_step steps[] = {
        {.answer = OK_ANSWER}, {.close = true}, {.answer = OK_ANSWER}};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct world w;
        struct call c = {0};
        world_start(&w, steps, ARRAY_LEN(steps));
        exchange(&w, &c, 100);
        exchange(&w, &c, sizes[i]);
        if (c.r.outcome != HTTP_UNKNOWN)
            fail_msg("%llu bytes: outcome %d, %s", (unsigned long long)sizes[i], c.r.outcome,
                     c.r.err.msg);
        assert_false(c.r.is_new_connection);
        assert_int_equal(c.r.tunnel_end.cause, END_RESET);
        assert_non_null(strstr(c.r.err.msg, "gateway test"));
        loop_run_for(w.loop, 30);
        assert_int_equal(w.server.n_started, 2); /* one for each call */
        assert_int_equal(w.server.n_requests, 2);
        call_release(&c);
        world_stop(&w);
    }
}

TEST(http, a_new_connection_cut_after_the_whole_body_is_unknown)
{
    static const uint64_t sizes[] = {1, 16384, 100000, BIG};
    static const struct http_step step = {.close = true, .cause = END_TRUNCATED};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct world w;
        struct call c = {0};
        world_start(&w, &step, 1);
        exchange(&w, &c, sizes[i]);
        assert_int_equal(c.r.outcome, HTTP_UNKNOWN);
        assert_int_equal(c.r.err.code, ERR_UNAVAIL);
        assert_int_equal(c.r.tunnel_end.cause, END_TRUNCATED);
        assert_true(c.r.is_new_connection);
        assert_int_equal(w.server.n_started, 1);
        call_release(&c);
        world_stop(&w);
    }
}

/* In TLS 1.3 the client has sent its request before the gateway has judged its certificate. */
TEST(http, a_gateway_that_refuses_our_certificate_has_read_nothing)
{
    static const struct {
        int alert;
        bool is_kept;
        enum http_outcome outcome;
    } cases[] = {
        {46, false, HTTP_NOT_SENT},  /* certificate_unknown */
        {116, false, HTTP_NOT_SENT}, /* certificate_required */
        {80, false, HTTP_UNKNOWN},   /* internal_error */
        {46, true, HTTP_UNKNOWN},    /* it had been accepted before */
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const struct http_step steps[] = {
            {.answer = OK_ANSWER}, {.close = true, .cause = END_ALERT, .alert = cases[i].alert}};
        struct world w;
        struct call c = {0};
        world_start(&w, cases[i].is_kept ? steps : steps + 1, cases[i].is_kept ? 2 : 1);
        if (cases[i].is_kept)
            exchange(&w, &c, 100);
        exchange(&w, &c, 100);
        assert_int_equal(c.r.outcome, cases[i].outcome);
        assert_int_equal(c.r.tunnel_end.alert, cases[i].alert);
        call_release(&c);
        world_stop(&w);
    }
}

TEST(http, a_body_cut_half_way_was_not_sent)
{
    static const struct http_step steps[] = {
        {.cut_after_body = 1}, {.answer = OK_ANSWER}, {.cut_after_body = BIG / 2}};
    for (int is_kept = 0; is_kept < 2; is_kept++) {
        struct world w;
        struct call c = {0};
        world_start(&w, is_kept ? steps + 1 : steps, 2);
        if (is_kept)
            exchange(&w, &c, 100);
        exchange(&w, &c, BIG);
        assert_int_equal(c.r.outcome, HTTP_NOT_SENT);
        assert_int_equal(c.r.is_new_connection, !is_kept);
        assert_int_equal(c.r.tunnel_end.cause, END_RESET);
        loop_run_for(w.loop, 30);
        assert_int_equal(w.server.n_started, 1 + (unsigned)is_kept);
        assert_int_equal(w.server.n_requests, (unsigned)is_kept);
        call_release(&c);
        world_stop(&w);
    }
}

TEST(http, a_connection_closed_while_idle_costs_nothing)
{
    struct world w;
    struct call c = {0};
    world_start(&w, &ok_step, 1);
    exchange(&w, &c, 100);
    http_server_drop_connections(&w.server);
    loop_settle(w.loop);
    exchange(&w, &c, 100);
    assert_int_equal(c.r.status, 200);
    assert_true(c.r.is_new_connection);
    assert_int_equal(w.server.n_connections, 2);
    call_release(&c);
    world_stop(&w);
}

static void drop_now(void *arg)
{
    http_server_drop_connections(arg);
}

TEST(http, a_kept_connection_that_dies_before_the_body_was_taken_is_not_sent)
{
    static const uint64_t sizes[] = {100, 100000};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct world w;
        struct call c = {0};
        world_start(&w, &ok_step, 1);
        exchange(&w, &c, 100);
        c.on_first_read = drop_now; /* the header is out, the body is not */
        c.on_first_read_arg = &w.server;
        exchange(&w, &c, sizes[i]);
        if (c.r.outcome != HTTP_NOT_SENT)
            fail_msg("%llu bytes: outcome %d, %s", (unsigned long long)sizes[i], c.r.outcome,
                     c.r.err.msg);
        assert_false(c.r.is_new_connection);
        assert_int_equal(w.server.n_requests, 1);
        c.on_first_read = NULL;
        exchange(&w, &c, sizes[i]);
        assert_int_equal(c.r.status, 200);
        call_release(&c);
        world_stop(&w);
    }
}

TEST(http, a_gateway_that_cannot_be_had_is_not_sent)
{
    struct world w;
    struct call c = {0};
    world_start(&w, &ok_step, 1);
    w.server.refuses = true;
    exchange(&w, &c, 100);
    assert_int_equal(c.r.outcome, HTTP_NOT_SENT);
    assert_int_equal(c.r.tunnel_end.cause, END_REFUSED);
    assert_string_equal(c.r.err.msg, c.r.tunnel_end.err.msg);
    assert_int_equal(c.r.status, 0);
    call_release(&c);
    world_stop(&w);
}

/* By its name alone we could tell afterwards how much of a request had gone. */
TEST(http, a_socket_that_gets_no_name_carries_nothing)
{
    static const struct http_step step = {.close = true}; /* it has all, and answers nothing */
    struct world w;
    struct call c = {0};
    world_start(&w, &step, 1);
    w.server.names_nothing = true;
    exchange(&w, &c, 100);
    assert_int_equal(c.r.outcome, HTTP_NOT_SENT);
    assert_int_equal(w.server.n_started, 0);
    w.server.names_nothing = false;
    exchange(&w, &c, 100);
    assert_int_equal(c.r.outcome, HTTP_UNKNOWN);
    call_release(&c);
    world_stop(&w);
}

TEST(http, a_tunnel_without_a_socket_is_not_sent)
{
    struct world w;
    struct call c = {0};
    world_start(&w, &ok_step, 1);
    unlink(w.server.path);
    exchange(&w, &c, 100);
    assert_int_equal(c.r.outcome, HTTP_NOT_SENT);
    assert_int_equal(c.r.err.code, ERR_UNAVAIL);
    assert_true(c.r.err.msg[0] != '\0');
    call_release(&c);
    world_stop(&w);
}

/* Where the tunnel does not know the connection, the last failure there may be why; one from
 * before the call is not. */
TEST(http, only_a_failure_since_the_call_began_is_blamed)
{
    struct world w;
    struct call c = {0};
    world_start(&w, &ok_step, 1);
    unlink(w.server.path);
    stream_end_set(&w.server.last_failure, END_NAME, "gateway test", "");
    w.server.failed_at_ms = clock_mono_us() / 1000 - 1;
    exchange(&w, &c, 100);
    assert_int_equal(c.r.outcome, HTTP_NOT_SENT);
    assert_int_equal(c.r.tunnel_end.cause, END_NONE);
    assert_non_null(strstr(c.r.err.msg, "email.test: "));
    w.server.failed_at_ms = clock_mono_us() / 1000 + 5000;
    exchange(&w, &c, 100);
    assert_int_equal(c.r.tunnel_end.cause, END_NAME);
    assert_string_equal(c.r.err.msg, w.server.last_failure.err.msg);
    call_release(&c);
    world_stop(&w);
}

TEST(http, each_call_knows_its_own_connection)
{
    static const struct http_step steps[] = {{.close = true, .cause = END_CLEAN},
                                             {.close = true, .cause = END_IDENTITY_GONE},
                                             {.answer = OK_ANSWER}};
    struct world w;
    struct call c[3] = {{.body_len = 10}, {.body_len = 10}, {.body_len = 10}};
    world_start(&w, steps, ARRAY_LEN(steps));
    for (size_t i = 0; i < ARRAY_LEN(c); i++)
        send_call(&w, &c[i]);
    LOOP_UNTIL(w.loop, c[0].n_done + c[1].n_done + c[2].n_done == 3);
    assert_int_equal(c[0].r.tunnel_end.cause, END_CLEAN);
    assert_int_equal(c[1].r.tunnel_end.cause, END_IDENTITY_GONE);
    assert_int_equal(c[2].r.tunnel_end.cause, END_NONE);
    assert_int_equal(c[2].r.status, 200);
    for (size_t i = 0; i < ARRAY_LEN(c); i++)
        call_release(&c[i]);
    world_stop(&w);
}

TEST(http, each_call_knows_which_kept_connection_it_uses)
{
    static const struct http_step steps[] = {{.answer = OK_ANSWER},
                                             {.answer = OK_ANSWER},
                                             {.answer = OK_ANSWER},
                                             {.close = true, .cause = END_IDENTITY_GONE},
                                             {.close = true, .cause = END_CLEAN},
                                             {.close = true, .cause = END_TRUNCATED}};
    struct world w;
    struct call c[3] = {{.body_len = 10}, {.body_len = 10}, {.body_len = 10}};
    world_start(&w, steps, ARRAY_LEN(steps));
    for (size_t i = 0; i < ARRAY_LEN(c); i++)
        send_call(&w, &c[i]);
    LOOP_UNTIL(w.loop, c[0].n_done + c[1].n_done + c[2].n_done == 3);
    exchange(&w, &c[0], 10);
    assert_int_equal(c[0].r.tunnel_end.cause, END_IDENTITY_GONE);
    exchange(&w, &c[1], 10);
    assert_int_equal(c[1].r.tunnel_end.cause, END_CLEAN);
    exchange(&w, &c[2], 10);
    assert_int_equal(c[2].r.tunnel_end.cause, END_TRUNCATED);
    for (size_t i = 0; i < ARRAY_LEN(c); i++) {
        assert_false(c[i].r.is_new_connection);
        call_release(&c[i]);
    }
    assert_int_equal(w.server.n_connections, 3);
    world_stop(&w);
}

TEST(http, a_second_try_gets_a_new_connection_if_there_is_room)
{
    struct world w;
    struct call c[4];
    memset(c, 0, sizeof c);
    world_start(&w, &ok_step, 1);
    exchange(&w, &c[0], 10);
    struct http_request r = request_to(&w, &c[0]);
    r.wants_new_connection = true;
    c[0].read = 0;
    c[0].handle = http_send(w.http, &r, on_done, &c[0]);
    LOOP_UNTIL(w.loop, c[0].n_done == 2);
    assert_true(c[0].r.is_new_connection);
    for (size_t i = 0; i < ARRAY_LEN(c); i++) {
        c[i].body_len = 10;
        send_call(&w, &c[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(c); i++)
        LOOP_UNTIL(w.loop, c[i].handle == NULL);
    assert_int_equal(w.server.n_connections, 4);
    c[0].read = 0;
    c[0].handle = http_send(w.http, &r, on_done, &c[0]);
    LOOP_UNTIL(w.loop, c[0].handle == NULL);
    assert_false(c[0].r.is_new_connection);
    assert_int_equal(w.server.n_connections, 4);
    for (size_t i = 0; i < ARRAY_LEN(c); i++)
        call_release(&c[i]);
    world_stop(&w);
}

/* The socket's buffer takes what the other side has not read: that never arrives any more. */
TEST(http, what_the_other_side_has_in_full_is_unknown_and_all_else_not_sent)
{
    static const struct http_step step = {.pause_after_body = 1};
    unsigned n_unknown = 0, n_not_sent = 0;
    for (uint64_t size = 16384; size <= 600000; size += 16384) {
        struct world w;
        struct call c = {.body_len = size};
        world_start(&w, &step, 1);
        struct http_request r = request_to(&w, &c);
        r.timeout_ms = 20;
        c.handle = http_send(w.http, &r, on_done, &c);
        LOOP_UNTIL(w.loop, c.n_done == 1);
        http_server_resume(&w.server);
        loop_settle(w.loop);
        const char *body = strstr(buf_cstr(&w.server.last), "\r\n\r\n");
        bool is_whole = body != NULL && strlen(body + 4) == size;
        if ((c.r.outcome == HTTP_UNKNOWN) != is_whole)
            fail_msg("%llu bytes: outcome %d, whole %d", (unsigned long long)size, c.r.outcome,
                     is_whole);
        *(is_whole ? &n_unknown : &n_not_sent) += 1;
        call_release(&c);
        world_stop(&w);
    }
    assert_true(n_unknown > 0 && n_not_sent > 0);
}

/* A small request fits into the socket whole, before anybody reads it. */
TEST(http, a_stream_that_does_not_come_up_in_time_has_sent_nothing)
{
    for (int is_accepted = 0; is_accepted < 2; is_accepted++) {
        struct world w;
        struct call c = {.body_len = 100};
        world_start(&w, &ok_step, 1);
        w.server.is_full = !is_accepted;
        w.server.is_dialling = true;
        struct http_request r = request_to(&w, &c);
        r.timeout_ms = 50;
        c.handle = http_send(w.http, &r, on_done, &c);
        LOOP_UNTIL(w.loop, c.n_done == 1);
        assert_int_equal(c.read, 100);
        if (c.r.outcome != HTTP_NOT_SENT)
            fail_msg("accepted %d: outcome %d, %s", is_accepted, c.r.outcome, c.r.err.msg);
        assert_int_equal(c.r.err.code, ERR_TIMEOUT);
        assert_non_null(strstr(c.r.err.msg, "no mTLS stream to the gateway came up within 1 s"));
        assert_int_equal(c.r.tunnel_end.cause, END_NONE);
        http_server_resume(&w.server);
        loop_settle(w.loop);
        assert_int_equal(w.server.n_started, 0);
        call_release(&c);
        world_stop(&w);
    }
}

TEST(http, no_answer_in_time_is_unknown_and_its_connection_is_not_used_again)
{
    static const struct http_step steps[] = {{0}, {.answer = OK_ANSWER}};
    struct world w;
    struct call c = {.body_len = 1000};
    world_start(&w, steps, ARRAY_LEN(steps));
    struct http_request r = request_to(&w, &c);
    r.timeout_ms = 50;
    c.handle = http_send(w.http, &r, on_done, &c);
    LOOP_UNTIL(w.loop, c.n_done == 1);
    assert_int_equal(c.r.outcome, HTTP_UNKNOWN);
    assert_int_equal(c.r.err.code, ERR_TIMEOUT);
    assert_non_null(strstr(c.r.err.msg, "email.test: no answer within 1 s"));
    exchange(&w, &c, 100);
    assert_int_equal(c.r.status, 200);
    assert_true(c.r.is_new_connection);
    call_release(&c);
    world_stop(&w);
}

TEST(http, a_body_that_is_not_taken_in_time_was_not_sent)
{
    static const struct http_step step = {.pause_after_body = 1};
    struct world w;
    struct call c = {.body_len = BIG};
    world_start(&w, &step, 1);
    struct http_request r = request_to(&w, &c);
    r.timeout_ms = 100;
    c.handle = http_send(w.http, &r, on_done, &c);
    LOOP_UNTIL(w.loop, c.n_done == 1);
    assert_int_equal(c.r.outcome, HTTP_NOT_SENT);
    assert_int_equal(c.r.err.code, ERR_TIMEOUT);
    assert_non_null(strstr(c.r.err.msg, "could not be sent in full"));
    call_release(&c);
    world_stop(&w);
}

TEST(http, a_call_may_close_its_connection_behind_it)
{
    struct world w;
    struct call c = {.body_len = 10};
    world_start(&w, &ok_step, 1);
    struct http_request r = request_to(&w, &c);
    r.closes_connection = true;
    c.handle = http_send(w.http, &r, on_done, &c);
    LOOP_UNTIL(w.loop, c.n_done == 1);
    assert_int_equal(c.r.status, 200);
    LOOP_UNTIL(w.loop, w.server.n_ended == 1);
    exchange(&w, &c, 10);
    assert_true(c.r.is_new_connection);
    call_release(&c);
    world_stop(&w);
}

TEST(http, calls_beyond_the_limit_wait_for_a_connection)
{
    struct world w;
    struct call c[12];
    memset(c, 0, sizeof c);
    world_start(&w, &ok_step, 1);
    for (size_t i = 0; i < ARRAY_LEN(c); i++) {
        c[i].body_len = 1000;
        send_call(&w, &c[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(c); i++) {
        LOOP_UNTIL(w.loop, c[i].n_done == 1);
        assert_int_equal(c[i].r.status, 200);
        call_release(&c[i]);
    }
    assert_int_equal(w.server.n_connections, 4);
    world_stop(&w);
}

TEST(http, waiting_for_a_connection_ends_in_time_too)
{
    static const struct http_step step = {0};
    struct world w;
    struct call c[5];
    memset(c, 0, sizeof c);
    world_start(&w, &step, 1);
    for (size_t i = 0; i < ARRAY_LEN(c); i++) {
        c[i].body_len = 10;
        struct http_request r = request_to(&w, &c[i]);
        r.timeout_ms = i == 4 ? 50 : 5000;
        c[i].handle = http_send(w.http, &r, on_done, &c[i]);
    }
    LOOP_UNTIL(w.loop, c[4].n_done == 1);
    assert_int_equal(c[4].r.outcome, HTTP_NOT_SENT);
    assert_int_equal(c[4].r.err.code, ERR_TIMEOUT);
    assert_non_null(strstr(c[4].r.err.msg, "busy"));
    for (size_t i = 0; i < ARRAY_LEN(c); i++) {
        http_cancel(&c[i].handle);
        call_release(&c[i]);
    }
    world_stop(&w);
}

static char *big_answer(const char *head, size_t n, const char *tail)
{
    char *z = xcalloc(strlen(head) + n + strlen(tail) + 1, 1);
    strcpy(z, head);
    memset(z + strlen(head), 'x', n);
    strcat(z, tail);
    return z;
}

TEST(http, a_megabyte_of_header_is_refused)
{
    AUTO_FREE char *one = big_answer("HTTP/1.1 200 OK\r\nX-Long: ", 1000000, "\r\n\r\n");
    AUTO_FREE char *many = big_answer("HTTP/1.1 200 OK\r\n", 0, "");
    many = xrealloc(many, 1200000);
    for (int i = 0; i < 20000; i++)
        strcat(many + strlen(many), "X-Header-Of-Some-Length: with a value\r\n");
    const char *const answers[] = {one, many};
    for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
        struct world w;
        struct call c = {0};
        struct http_step step = {.answer = answers[i]};
        world_start(&w, &step, 1);
        exchange(&w, &c, 10);
        assert_int_equal(c.r.outcome, HTTP_UNKNOWN);
        assert_true(c.r.err.code == ERR_LIMIT ||
                    c.r.err.code == ERR_UNAVAIL); /* libcurl has a limit for one line */
        call_release(&c);
        world_stop(&w);
    }
}

TEST(http, a_megabyte_of_text_is_cut_and_the_status_stays)
{
    AUTO_FREE char *answer = big_answer("HTTP/1.1 400 Bad Request\r\nx-amzn-errortype: "
                                        "MessageRejected\r\nContent-Length: 1000000\r\n\r\n",
                                        1000000, "");
    struct world w;
    struct call c = {0};
    struct http_step step = {.answer = answer};
    world_start(&w, &step, 1);
    exchange(&w, &c, 10);
    assert_int_equal(c.r.outcome, HTTP_ANSWERED);
    assert_int_equal(c.r.err.code, ERR_LIMIT);
    assert_int_equal(c.r.status, 400);
    assert_string_equal(c.r.error_type, "MessageRejected");
    assert_int_equal(c.r.body.len, 65536);
    call_release(&c);
    world_stop(&w);
}

TEST(http, chunks_interim_answers_and_trailers_are_read_rightly)
{
    static const char answer[] =
        "HTTP/1.1 100 Continue\r\nx-amzn-requestid: noise\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
        "HTTP/1.1 200 OK\r\nx-amzn-requestid: real\r\nTransfer-Encoding: chunked\r\n\r\n"
        "3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nx-amzn-requestid: late\r\nx-amzn-errortype: "
        "Late\r\n\r\n";
    struct world w;
    struct call c = {0};
    struct http_step step = {.answer = answer};
    world_start(&w, &step, 1);
    exchange(&w, &c, 10);
    assert_int_equal(c.r.status, 200);
    assert_string_equal(c.body, "abcdefg");
    assert_string_equal(c.r.request_id, "real");
    exchange(&w, &c, 10);
    assert_false(c.r.is_new_connection);
    call_release(&c);
    world_stop(&w);
}

TEST(http, an_answer_cut_in_the_middle_is_unknown)
{
    static const char *const answers[] = {
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 400 Bad Request\r\nx-amzn-errortype: MessageRejected\r\nContent-Length: "
        "100\r\n\r\n{\"mess",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        "nonsense\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
    };
    for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
        struct world w;
        struct call c = {0};
        struct http_step step = {.answer = answers[i], .close = true};
        world_start(&w, &step, 1);
        exchange(&w, &c, 10);
        if (c.r.outcome != HTTP_UNKNOWN)
            fail_msg("%s: outcome %d", answers[i], c.r.outcome);
        if (i == 1) {
            assert_int_equal(c.r.status, 400);
            assert_string_equal(c.r.error_type, "MessageRejected");
        }
        assert_int_equal(w.server.n_started, 1);
        call_release(&c);
        world_stop(&w);
    }
}

TEST(http, an_answer_before_the_body_is_taken_counts)
{
    static const struct http_step step = {.answer =
                                              "HTTP/1.1 403 Forbidden\r\nContent-Length: "
                                              "19\r\nConnection: close\r\n\r\nRBAC: access denied",
                                          .is_early = true,
                                          .pause_after_body = 1};
    struct world w;
    struct call c = {0};
    world_start(&w, &step, 1);
    exchange(&w, &c, BIG);
    assert_int_equal(c.r.outcome, HTTP_ANSWERED);
    assert_int_equal(c.r.status, 403);
    assert_string_equal(c.body, "RBAC: access denied");
    call_release(&c);
    world_stop(&w);
}

/* The answer and the end come together, and a part of the body was never read: libcurl's socket is
 * readable and in error at once. */
TEST(http, an_answer_before_the_body_is_taken_counts_also_from_one_who_closes)
{
    static const struct http_step step = {
        .answer = "HTTP/1.1 413 Payload Too Large\r\nContent-Length: 17\r\n"
                  "Connection: close\r\n\r\nPayload Too Large",
        .is_early = true,
        .pause_after_body = 1,
        .close = true};
    static const uint64_t sizes[] = {100000, 300000, BIG};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct world w;
        struct call c = {0};
        world_start(&w, &step, 1);
        exchange(&w, &c, sizes[i]);
        if (c.r.outcome != HTTP_ANSWERED)
            fail_msg("%llu bytes: outcome %d, %s", (unsigned long long)sizes[i], c.r.outcome,
                     c.r.err.msg);
        assert_int_equal(c.r.status, 413);
        assert_string_equal(c.body, "Payload Too Large");
        call_release(&c);
        world_stop(&w);
    }
}

TEST(http, redirects_are_answers_and_cookies_are_forgotten)
{
    static const struct http_step step = {
        .answer = "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://elsewhere.test/\r\n"
                  "Set-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"};
    struct world w;
    struct call c = {0};
    world_start(&w, &step, 1);
    exchange(&w, &c, 10);
    assert_int_equal(c.r.status, 307);
    exchange(&w, &c, 10);
    assert_null(strcasestr(buf_cstr(&w.server.last), "cookie"));
    assert_int_equal(w.server.n_started, 2);
    call_release(&c);
    world_stop(&w);
}

TEST(http, a_body_that_cannot_be_read_ends_the_call)
{
    for (int ends_early = 0; ends_early < 2; ends_early++) {
        struct world w;
        struct call c = {.fail_at = 70000, .ends_early = ends_early};
        world_start(&w, &ok_step, 1);
        exchange(&w, &c, 200000);
        assert_int_equal(c.r.outcome, HTTP_NOT_SENT);
        assert_int_equal(c.r.err.code, ERR_IO);
        assert_int_equal(w.server.n_requests, 0);
        call_release(&c);
        world_stop(&w);
    }
}

TEST(http, a_header_with_control_characters_is_not_sent)
{
    struct world w;
    struct call c = {.body_len = 10};
    world_start(&w, &ok_step, 1);
    struct http_request r = request_to(&w, &c);
    const struct http_header header = {"X-Amz-Security-Token", "token\r\nX-Other: 1"};
    r.headers = &header;
    r.n_headers = 1;
    c.handle = http_send(w.http, &r, on_done, &c);
    assert_int_equal(c.n_done, 0);
    LOOP_UNTIL(w.loop, c.n_done == 1);
    assert_int_equal(c.r.outcome, HTTP_NOT_SENT);
    assert_int_equal(c.r.err.code, ERR_SYNTAX);
    assert_int_equal(w.server.n_connections, 0);
    call_release(&c);
    world_stop(&w);
}

TEST(http, a_cancelled_call_is_not_called_back_and_frees_its_place)
{
    static const struct http_step steps[] = {{0}, {0}, {0}, {0}, {.answer = OK_ANSWER}};
    struct world w;
    struct call c[5];
    memset(c, 0, sizeof c);
    world_start(&w, steps, ARRAY_LEN(steps));
    for (size_t i = 0; i < ARRAY_LEN(c); i++) {
        c[i].body_len = 10;
        send_call(&w, &c[i]);
    }
    LOOP_UNTIL(w.loop, w.server.n_requests == 4);
    http_cancel(&c[2].handle);
    assert_null(c[2].handle);
    LOOP_UNTIL(w.loop, c[4].n_done == 1);
    assert_int_equal(c[4].r.status, 200);
    assert_int_equal(c[2].n_done, 0);
    for (size_t i = 0; i < ARRAY_LEN(c); i++) {
        http_cancel(&c[i].handle);
        call_release(&c[i]);
    }
    world_stop(&w);
}

TEST(http, a_cancelled_call_tells_whether_it_may_have_arrived)
{
    static const struct http_step silence = {0}, half = {.pause_after_body = 1};
    static const struct {
        const struct http_step *step;
        bool is_dialling;
        uint64_t size;
        enum http_outcome outcome;
    } cases[] = {
        {&silence, false, 100, HTTP_UNKNOWN},
        {&silence, true, 100, HTTP_NOT_SENT},
        {&half, false, 100000, HTTP_NOT_SENT},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct world w;
        struct call c = {.body_len = cases[i].size};
        world_start(&w, cases[i].step, 1);
        w.server.is_dialling = cases[i].is_dialling;
        send_call(&w, &c);
        LOOP_UNTIL(w.loop, c.read == cases[i].size);
        if (!cases[i].is_dialling)
            LOOP_UNTIL(w.loop, w.server.n_started == 1);
        loop_settle(w.loop);
        if (http_cancel(&c.handle) != cases[i].outcome)
            fail_msg("case %zu", i);
        http_server_resume(&w.server);
        loop_settle(w.loop);
        assert_int_equal(w.server.n_requests, cases[i].outcome == HTTP_UNKNOWN);
        world_stop(&w);
    }
    struct http_call *none = NULL;
    assert_int_equal(http_cancel(&none), HTTP_NOT_SENT);
}

TEST(http, free_ends_calls_in_flight_first)
{
    static const struct http_step step = {0};
    struct world w;
    struct call c[6];
    memset(c, 0, sizeof c);
    world_start(&w, &step, 1);
    for (size_t i = 0; i < ARRAY_LEN(c); i++) {
        c[i].body_len = i == 0 ? BIG : 10;
        send_call(&w, &c[i]);
    }
    LOOP_UNTIL(w.loop, w.server.n_requests == 4);
    http_free(&w.http);
    for (size_t i = 0; i < ARRAY_LEN(c); i++) {
        assert_int_equal(c[i].n_done, 1);
        assert_int_equal(c[i].r.err.code, ERR_CANCELED);
        assert_int_equal(c[i].r.outcome, i < 4 ? HTTP_UNKNOWN : HTTP_NOT_SENT);
        call_release(&c[i]);
    }
    world_stop(&w);
}

static void free_http(struct call *c)
{
    http_free(&c->http);
}

TEST(http, free_may_come_from_a_callback)
{
    struct world w;
    struct call c[3] = {
        {.body_len = 10, .on_done = free_http}, {.body_len = 10}, {.body_len = BIG}};
    world_start(&w, &ok_step, 1);
    for (size_t i = 0; i < ARRAY_LEN(c); i++)
        send_call(&w, &c[i]);
    LOOP_UNTIL(w.loop, c[0].n_done == 1);
    w.http = NULL;
    for (size_t i = 0; i < ARRAY_LEN(c); i++) {
        assert_int_equal(c[i].n_done, 1);
        call_release(&c[i]);
    }
    world_stop(&w);
}

static struct world *sender;

static void send_again(struct call *c)
{
    if (c->n_done < 5)
        send_call(sender, c);
}

TEST(http, a_callback_may_send_and_gets_the_kept_connection)
{
    struct world w;
    struct call c = {.body_len = 10, .on_done = send_again};
    sender = &w;
    world_start(&w, &ok_step, 1);
    send_call(&w, &c);
    LOOP_UNTIL(w.loop, c.n_done == 5);
    assert_int_equal(w.server.n_connections, 1);
    call_release(&c);
    world_stop(&w);
}

TEST(http, the_connection_used_last_is_used_next)
{
    struct world w;
    struct call c[3] = {{.body_len = 10}, {.body_len = 10}, {.body_len = 10}};
    world_start(&w, &ok_step, 1);
    for (size_t i = 0; i < ARRAY_LEN(c); i++)
        send_call(&w, &c[i]);
    LOOP_UNTIL(w.loop, c[0].n_done + c[1].n_done + c[2].n_done == 3);
    for (int i = 0; i < 5; i++)
        exchange(&w, &c[0], 10);
    assert_int_equal(w.server.n_connections, 3);
    assert_int_equal(w.server.n_on_connection, 6); /* the others may grow old */
    for (size_t i = 0; i < ARRAY_LEN(c); i++)
        call_release(&c[i]);
    world_stop(&w);
}

TEST(http, hosts_behind_one_tunnel_do_not_share_connections)
{
    static const struct http_step steps[] = {
        {.answer = OK_ANSWER}, {.answer = OK_ANSWER}, {.close = true, .cause = END_CLEAN}};
    struct world w;
    struct call c = {0};
    world_start(&w, steps, ARRAY_LEN(steps));
    exchange(&w, &c, 10);
    struct http_request r = request_to(&w, &c);
    r.host = "other.test";
    c.read = 0;
    c.handle = http_send(w.http, &r, on_done, &c);
    LOOP_UNTIL(w.loop, c.n_done == 2);
    assert_true(c.r.is_new_connection);
    exchange(&w, &c, 10);
    assert_false(c.r.is_new_connection);
    assert_int_equal(c.r.tunnel_end.cause, END_CLEAN);
    assert_int_equal(w.server.n_connections, 2);
    call_release(&c);
    world_stop(&w);
}

TEST(http, a_slow_server_that_answers_byte_by_byte_is_understood)
{
    struct world w;
    struct call c[2] = {{.body_len = 10}, {.body_len = 10}};
    static const struct http_step step = {.answer = OK_ANSWER, .is_slow = true};
    world_start(&w, &step, 1);
    send_call(&w, &c[0]);
    send_call(&w, &c[1]);
    LOOP_UNTIL(w.loop, c[0].n_done + c[1].n_done == 2);
    assert_string_equal(c[0].body, "ok");
    assert_string_equal(c[1].body, "ok");
    call_release(&c[0]);
    call_release(&c[1]);
    world_stop(&w);
}
