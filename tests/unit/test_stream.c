// SPDX-License-Identifier: Apache-2.0
#include "sys/stream.h"
#include "base/buf.h"
#include "base/mem.h"

#include "loop_fixture.h"
#include "test.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define HIGH 65536u

/* ---- one end that writes down what happens to it ---- */

struct end {
    struct stream *s;
    struct buf got;
    int n_opened, n_read, n_ended, n_drained, n_closed;
    bool has_error;
    struct err e;
    bool in_call; /* a stream function runs: no callback may */
    enum place { NOTHING, ON_OPEN, ON_READ, ON_END, ON_DRAIN } close_in;
};

static void maybe_close(struct end *n, enum place where)
{
    if (n->close_in == where)
        stream_close(&n->s);
}

static void on_open(void *arg)
{
    struct end *n = arg;
    assert_false(n->in_call);
    n->n_opened++;
    maybe_close(n, ON_OPEN);
}

static void on_read(void *arg, struct str bytes)
{
    struct end *n = arg;
    assert_false(n->in_call);
    n->n_read++;
    assert_true(buf_append_str(&n->got, bytes));
    maybe_close(n, ON_READ);
}

static void on_end(void *arg, const struct err *e)
{
    struct end *n = arg;
    assert_false(n->in_call);
    n->n_ended++;
    n->has_error = e != NULL;
    if (e != NULL)
        n->e = *e;
    maybe_close(n, ON_END);
}

static void on_drain(void *arg)
{
    struct end *n = arg;
    assert_false(n->in_call);
    assert_true(stream_write_queued(n->s) <= HIGH / 2);
    n->n_drained++;
    maybe_close(n, ON_DRAIN);
}

static void on_closed(void *arg)
{
    struct end *n = arg;
    assert_false(n->in_call);
    n->n_closed++;
}

static const struct stream_events events = {on_open, on_read, on_end, on_drain, on_closed};

static void end_init(struct end *n)
{
    memset(n, 0, sizeof *n);
    buf_init(&n->got, 64u << 20);
}

static void end_close(struct end *n)
{
    n->in_call = true;
    stream_close(&n->s);
    n->in_call = false;
}

static bool put(struct end *n, struct str bytes)
{
    n->in_call = true;
    bool ok = stream_write(n->s, bytes);
    n->in_call = false;
    return ok;
}

static bool got(const struct end *n, const char *z)
{
    return str_eq(buf_str(&n->got), str_from(z));
}

/* ---- the other end: a plain socket, or a listener on the loop ---- */

struct bed {
    uv_loop_t *loop;
    union {
        uv_tcp_t tcp;
        uv_pipe_t pipe;
        uv_stream_t stream;
        uv_handle_t handle;
    } listener;
    uint16_t port;
    bool has_listener;
    struct end in; /* accepted */
    struct end out;
};

static void on_connection(uv_stream_t *l, int status)
{
    struct bed *b = l->data;
    assert_int_equal(status, 0);
    struct err e;
    assert_true(stream_accept(l, &events, &b->in, (struct stream_limits){HIGH}, &b->in.s, &e));
}

static void bed_init(struct bed *b)
{
    memset(b, 0, sizeof *b);
    b->loop = loop_new();
    end_init(&b->in);
    end_init(&b->out);
}

static void bed_listen(struct bed *b, const char *address)
{
    struct sockaddr_in sa;
    assert_int_equal(uv_ip4_addr(address, 0, &sa), 0);
    assert_int_equal(uv_tcp_init(b->loop, &b->listener.tcp), 0);
    b->listener.handle.data = b;
    b->has_listener = true;
    assert_int_equal(uv_tcp_bind(&b->listener.tcp, (struct sockaddr *)&sa, 0), 0);
    assert_int_equal(uv_listen(&b->listener.stream, 8, on_connection), 0);
    int len = sizeof sa;
    uv_tcp_getsockname(&b->listener.tcp, (struct sockaddr *)&sa, &len);
    b->port = ntohs(sa.sin_port);
}

static void dial(struct bed *b, const char *host, uint64_t timeout_ms)
{
    b->out.in_call = true;
    b->out.s = stream_connect(b->loop, host, b->port, timeout_ms, &events, &b->out,
                              (struct stream_limits){HIGH});
    b->out.in_call = false;
}

static void bed_pair(struct bed *b)
{
    bed_init(b);
    bed_listen(b, "127.0.0.1");
    dial(b, "127.0.0.1", 5000);
    LOOP_UNTIL(b->loop, b->out.n_opened == 1 && b->in.s != NULL);
}

static void bed_free(struct bed *b)
{
    end_close(&b->in);
    end_close(&b->out);
    if (b->has_listener)
        uv_close(&b->listener.handle, NULL);
    loop_free(&b->loop);
    buf_release(&b->in.got);
    buf_release(&b->out.got);
}

/* A connected blocking socket whose other end is b->in. */
static int bed_socket(struct bed *b)
{
    bed_init(b);
    bed_listen(b, "127.0.0.1");
    struct sockaddr_in sa;
    uv_ip4_addr("127.0.0.1", b->port, &sa);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    LOOP_UNTIL(b->loop, b->in.s != NULL);
    return fd;
}

static void socket_reset(int fd)
{
    struct linger now = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(fd);
}

/* A pattern in which a lost, doubled or moved byte shows. */
static void fill(char *p, size_t len, size_t at)
{
    for (size_t i = 0; i < len; i++)
        p[i] = (char)(((at + i) * 2654435761u) >> 13);
}

/* Writes until the stream takes no more; returns how much it took. */
static size_t fill_up(struct end *n, size_t at)
{
    char chunk[8192];
    size_t sum = 0;
    for (;;) {
        fill(chunk, sizeof chunk, at + sum);
        if (!put(n, (struct str){chunk, sizeof chunk}))
            return sum;
        sum += sizeof chunk;
        assert_true(sum < (64u << 20));
    }
}

static void assert_pattern(struct str s)
{
    char chunk[8192];
    for (size_t at = 0; at < s.len; at += sizeof chunk) {
        size_t n = s.len - at < sizeof chunk ? s.len - at : sizeof chunk;
        fill(chunk, n, at);
        assert_memory_equal(chunk, s.p + at, n);
    }
}

/* ---- names under our control ---- */

static struct {
    const char *host;
    struct sockaddr_storage found[3];
    int n_found;
    unsigned delay_ms;
} fake;

static void fake_add(const char *address, uint16_t port)
{
    struct sockaddr_storage *ss = &fake.found[fake.n_found++];
    if (uv_ip4_addr(address, port, (struct sockaddr_in *)ss) != 0)
        assert_int_equal(uv_ip6_addr(address, port, (struct sockaddr_in6 *)ss), 0);
}

/* Takes the place of libc's, for libuv too. */
int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                struct addrinfo **out)
{
    static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    if (fake.host == NULL || strcmp(host, fake.host) != 0) {
        *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
        return real(host, service, hints, out);
    }
    usleep(fake.delay_ms * 1000);
    *out = NULL;
    for (int i = fake.n_found - 1; i >= 0; i--) {
        struct {
            struct addrinfo ai;
            struct sockaddr_storage ss;
        } *a = calloc(1, sizeof *a); /* libc's freeaddrinfo() frees the list one by one */
        a->ss = fake.found[i];
        a->ai.ai_family = a->ss.ss_family;
        a->ai.ai_addr = (struct sockaddr *)&a->ss;
        a->ai.ai_next = *out;
        *out = &a->ai;
    }
    return *out != NULL ? 0 : EAI_AGAIN;
}

/* ---- connecting ---- */

TEST(stream, bytes_go_both_ways)
{
    struct bed b;
    bed_pair(&b);
    stream_read_start(b.in.s);
    stream_read_start(b.out.s);
    assert_true(put(&b.out, STR("EHLO")));
    assert_true(put(&b.in, STR("250 Ok")));
    LOOP_UNTIL(b.loop, got(&b.in, "EHLO") && got(&b.out, "250 Ok"));
    assert_int_equal(stream_write_queued(b.out.s), 0);
    bed_free(&b);
    assert_int_equal(b.in.n_ended + b.out.n_ended, 0);
    assert_int_equal(b.in.n_closed, 1);
    assert_int_equal(b.out.n_closed, 1);
}

TEST(stream, what_is_written_before_it_is_open_is_sent_then)
{
    struct bed b;
    bed_init(&b);
    bed_listen(&b, "127.0.0.1");
    dial(&b, "127.0.0.1", 5000);
    stream_read_start(b.out.s);
    assert_true(put(&b.out, STR("early ")));
    assert_true(put(&b.out, STR("bird")));
    LOOP_UNTIL(b.loop, b.in.s != NULL);
    stream_read_start(b.in.s);
    LOOP_UNTIL(b.loop, got(&b.in, "early bird"));
    bed_free(&b);
}

TEST(stream, a_paused_reader_gets_nothing)
{
    struct bed b;
    bed_pair(&b);
    assert_true(put(&b.out, STR("wait")));
    loop_run_for(b.loop, 30);
    assert_int_equal(b.in.n_read, 0);
    stream_read_start(b.in.s);
    LOOP_UNTIL(b.loop, got(&b.in, "wait"));
    stream_read_stop(b.in.s);
    assert_true(put(&b.out, STR(" again")));
    loop_run_for(b.loop, 30);
    assert_true(got(&b.in, "wait"));
    bed_free(&b);
}

TEST(stream, nodelay_is_set_on_both_ends)
{
    struct bed b;
    bed_pair(&b);
    int on_in = 0, on_out = 0;
    socklen_t len = sizeof on_in;
    getsockopt(stream_fd(b.in.s), IPPROTO_TCP, 1 /* TCP_NODELAY */, &on_in, &len);
    getsockopt(stream_fd(b.out.s), IPPROTO_TCP, 1, &on_out, &len);
    assert_int_equal(on_in, 1);
    assert_int_equal(on_out, 1);
    bed_free(&b);
}

TEST(stream, a_name_is_looked_up_and_each_address_tried)
{
    struct bed b;
    bed_init(&b);
    bed_listen(&b, "127.0.0.1"); /* where localhost is ::1 first, that one is refused */
    dial(&b, "localhost", 5000);
    LOOP_UNTIL(b.loop, b.out.n_opened == 1);
    bed_free(&b);
    assert_int_equal(b.out.n_ended, 0);
}

TEST(stream, an_unknown_name_ends_with_the_resolvers_code)
{
    struct bed b;
    bed_init(&b);
    b.port = 1;
    dial(&b, "no-such-host.invalid", 8000);
    LOOP_UNTIL(b.loop, b.out.n_ended == 1);
    assert_int_equal(b.out.e.code, ERR_UNAVAIL);
    assert_true(b.out.e.sys == UV_EAI_NONAME || b.out.e.sys == UV_EAI_AGAIN ||
                b.out.e.sys == UV_EAI_NODATA);
    assert_non_null(strstr(b.out.e.msg, "look up no-such-host.invalid: "));
    bed_free(&b);
}

/* Where nobody listens, on an address of its own. */
static void refuse_port(struct bed *b, uint16_t *port)
{
    bed_listen(b, "127.0.0.1");
    *port = b->port;
    uv_close(&b->listener.handle, NULL);
    b->has_listener = false;
    loop_settle(b->loop);
}

static void fake_name(const char *host)
{
    memset(&fake, 0, sizeof fake);
    fake.host = host;
}

TEST(stream, a_refused_address_is_followed_by_the_next)
{
    struct bed b;
    uint16_t refused;
    bed_init(&b);
    refuse_port(&b, &refused);
    bed_listen(&b, "127.0.0.1");
    fake_name("three.test");
    fake_add("224.0.0.1", 9); /* no route */
    fake_add("127.0.0.1", refused);
    fake_add("127.0.0.1", b.port);
    dial(&b, "three.test", 5000);
    LOOP_UNTIL(b.loop, b.out.n_opened == 1);
    bed_free(&b);
    assert_int_equal(b.out.n_ended, 0);
}

TEST(stream, of_all_failures_the_most_telling_is_reported)
{
    struct bed b;
    uint16_t refused;
    bed_init(&b);
    refuse_port(&b, &refused);
    fake_name("two.test");
    fake_add("127.0.0.1", refused);
    fake_add("224.0.0.1", 9);
    dial(&b, "two.test", 5000);
    LOOP_UNTIL(b.loop, b.out.n_ended == 1);
    assert_int_equal(b.out.e.sys, UV_ECONNREFUSED);
    assert_non_null(strstr(b.out.e.msg, "connect to two.test (127.0.0.1 port"));
    end_close(&b.out);
    fake_name("two.test");
    fake_add("224.0.0.1", 9);
    fake_add("127.0.0.1", refused);
    loop_settle(b.loop);
    dial(&b, "two.test", 5000);
    LOOP_UNTIL(b.loop, b.out.n_ended == 2);
    assert_int_equal(b.out.e.sys, UV_ECONNREFUSED);
    bed_free(&b);
}

TEST(stream, a_slow_look_up_is_a_timeout_and_may_end_later)
{
    struct bed b;
    bed_init(&b);
    fake_name("slow.test");
    fake.delay_ms = 300;
    fake_add("127.0.0.1", 9);
    dial(&b, "slow.test", 50);
    LOOP_UNTIL(b.loop, b.out.n_ended == 1);
    assert_int_equal(b.out.e.code, ERR_TIMEOUT);
    assert_int_equal(b.out.e.sys, UV_EAI_AGAIN);
    assert_non_null(strstr(b.out.e.msg, "look up slow.test"));
    end_close(&b.out);
    dial(&b, "slow.test", 5000);
    loop_run_for(b.loop, 20); /* it runs: it cannot be cancelled */
    end_close(&b.out);
    bed_free(&b);
    assert_int_equal(b.out.n_closed, 2);
}

TEST(stream, a_name_that_cannot_be_asked_ends_later_not_inside_the_call)
{
    struct bed b;
    bed_init(&b);
    dial(&b, "\xff\xfe", 60000);
    LOOP_UNTIL(b.loop, b.out.n_ended == 1);
    assert_int_equal(b.out.e.code, ERR_UNAVAIL);
    assert_non_null(strstr(b.out.e.msg, "look up "));
    end_close(&b.out);
    dial(&b, "\xff\xfe", 60000);
    end_close(&b.out);
    bed_free(&b);
}

TEST(stream, an_overlong_name_ends_later_not_inside_the_call)
{
    char name[255];
    memset(name, 'a', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    struct bed b;
    bed_init(&b);
    dial(&b, name, 5000);
    LOOP_UNTIL(b.loop, b.out.n_ended == 1);
    assert_non_null(strstr(b.out.e.msg, "look up aaa"));
    bed_free(&b);
}

TEST(stream, a_refused_connect_names_the_address)
{
    struct bed b;
    bed_init(&b);
    bed_listen(&b, "127.0.0.1");
    uv_close(&b.listener.handle, NULL);
    b.has_listener = false;
    loop_settle(b.loop);
    dial(&b, "127.0.0.1", 5000);
    LOOP_UNTIL(b.loop, b.out.n_ended == 1);
    assert_int_equal(b.out.e.code, ERR_UNAVAIL);
    assert_int_equal(b.out.e.sys, UV_ECONNREFUSED);
    assert_non_null(strstr(b.out.e.msg, "connect to 127.0.0.1 (127.0.0.1 port "));
    assert_non_null(strstr(b.out.e.msg, "connection refused"));
    assert_int_equal(b.out.n_opened, 0);
    loop_settle(b.loop);
    assert_int_equal(b.out.n_closed, 0); /* it is the owner's to close */
    bed_free(&b);
    assert_int_equal(b.out.n_ended, 1);
    assert_int_equal(b.out.n_closed, 1);
}

TEST(stream, a_silent_address_ends_with_a_timeout)
{
    struct bed b;
    int fillers[2];
    bed_init(&b);
    int l = socket_black_hole(&b.port, fillers);
    uint64_t begin = uv_hrtime();
    dial(&b, "127.0.0.1", 150);
    LOOP_UNTIL(b.loop, b.out.n_ended == 1);
    assert_in_range((uv_hrtime() - begin) / 1000000, 140, 3000);
    assert_int_equal(b.out.e.code, ERR_TIMEOUT);
    assert_int_equal(b.out.e.sys, UV_ETIMEDOUT);
    bed_free(&b);
    close(l);
    close(fillers[0]);
    close(fillers[1]);
}

TEST(stream, a_silent_address_leaves_time_for_the_next)
{
    struct bed b;
    int fillers[2];
    uint16_t silent;
    bed_init(&b);
    int l = socket_black_hole(&silent, fillers);
    bed_listen(&b, "127.0.0.1");
    fake_name("two.test");
    fake_add("127.0.0.1", silent);
    fake_add("127.0.0.1", b.port);
    dial(&b, "two.test", 800);
    LOOP_UNTIL(b.loop, b.out.n_opened + b.out.n_ended == 1);
    assert_int_equal(b.out.n_opened, 1);
    bed_free(&b);
    close(l);
    close(fillers[0]);
    close(fillers[1]);
}

TEST(stream, closing_while_it_connects_ends_without_a_word)
{
    struct bed b;
    int fillers[2];
    bed_init(&b);
    int l = socket_black_hole(&b.port, fillers);
    dial(&b, "127.0.0.1", 5000);
    end_close(&b.out);
    LOOP_UNTIL(b.loop, b.out.n_closed == 1);
    dial(&b, "127.0.0.1", 5000);
    loop_settle(b.loop);
    end_close(&b.out);
    LOOP_UNTIL(b.loop, b.out.n_closed == 2);
    dial(&b, "localhost", 5000); /* in the look-up */
    end_close(&b.out);
    LOOP_UNTIL(b.loop, b.out.n_closed == 3);
    assert_int_equal(b.out.n_ended + b.out.n_opened, 0);
    bed_free(&b);
    close(l);
    close(fillers[0]);
    close(fillers[1]);
}

TEST(stream, closing_between_two_addresses_ends_without_a_word)
{
    struct bed b;
    bed_init(&b);
    bed_listen(&b, "127.0.0.1");
    uv_close(&b.listener.handle, NULL);
    b.has_listener = false;
    loop_settle(b.loop);
    for (int turns = 0; turns < 6; turns++) {
        b.out.n_closed = 0;
        dial(&b, "127.0.0.1", 5000);
        for (int i = 0; i < turns && b.out.n_ended == 0; i++)
            uv_run(b.loop, UV_RUN_NOWAIT);
        end_close(&b.out);
        LOOP_UNTIL(b.loop, b.out.n_closed == 1);
    }
    bed_free(&b);
}

TEST(stream, closing_while_an_address_is_given_up_ends_without_a_word)
{
    struct bed b;
    bed_init(&b);
    dial(&b, "224.0.0.1", 5000); /* multicast: fails inside the call */
    end_close(&b.out);
    LOOP_UNTIL(b.loop, b.out.n_closed == 1);
    assert_int_equal(b.out.n_ended, 0);
    dial(&b, "224.0.0.1", 5000);
    LOOP_UNTIL(b.loop, b.out.n_ended == 1); /* and is told later */
    assert_int_equal(b.out.e.sys, UV_ENETUNREACH);
    bed_free(&b);
}

TEST(stream, an_ipv6_address_is_named_too)
{
    struct bed b;
    bed_init(&b);
    refuse_port(&b, &b.port);
    dial(&b, "::1", 5000);
    LOOP_UNTIL(b.loop, b.out.n_ended == 1);
    assert_non_null(strstr(b.out.e.msg, "connect to ::1 (::1 port "));
    bed_free(&b);
}

TEST(stream, accepting_nothing_is_an_error)
{
    struct bed b;
    struct err e;
    bed_init(&b);
    bed_listen(&b, "127.0.0.1");
    assert_false(stream_accept(&b.listener.stream, &events, &b.in, (struct stream_limits){HIGH},
                               &b.in.s, &e));
    assert_int_equal(e.sys, UV_EAGAIN);
    assert_non_null(strstr(e.msg, "accept: "));
    bed_free(&b);
    assert_int_equal(b.in.n_closed, 0); /* it never was */
}

/* ---- ends ---- */

TEST(stream, a_clean_end_leaves_writing_alive)
{
    struct bed b;
    int fd = bed_socket(&b);
    stream_read_start(b.in.s);
    shutdown(fd, SHUT_WR);
    LOOP_UNTIL(b.loop, b.in.n_ended == 1);
    assert_false(b.in.has_error);
    assert_true(put(&b.in, STR("bye")));
    char answer[8] = "";
    assert_int_equal(read(fd, answer, sizeof answer), 3);
    assert_string_equal(answer, "bye");
    close(fd);
    bed_free(&b);
    assert_int_equal(b.in.n_ended, 1);
}

TEST(stream, a_reset_is_told_from_a_clean_end)
{
    struct bed b;
    int fd = bed_socket(&b);
    stream_read_start(b.in.s);
    socket_reset(fd);
    LOOP_UNTIL(b.loop, b.in.n_ended == 1);
    assert_true(b.in.has_error);
    assert_int_equal(b.in.e.sys, UV_ECONNRESET);
    assert_int_equal(b.in.e.code, ERR_UNAVAIL);
    bed_free(&b);
}

TEST(stream, a_reset_behind_the_last_bytes_is_no_clean_end)
{
    struct bed b;
    int fd = bed_socket(&b);
    assert_int_equal(write(fd, "250 O", 5), 5);
    socket_reset(fd);
    usleep(20000);
    stream_read_start(b.in.s);
    LOOP_UNTIL(b.loop, b.in.n_ended == 1);
    assert_true(got(&b.in, "250 O"));
    assert_true(b.in.has_error);
    assert_int_equal(b.in.e.sys, UV_ECONNRESET);
    bed_free(&b);
}

TEST(stream, last_words_are_read_although_a_write_has_failed)
{
    struct bed b;
    int fd = bed_socket(&b);
    stream_read_start(b.in.s);
    assert_true(put(&b.in, STR("unread, so that closing resets")));
    assert_int_equal(write(fd, "alert", 5), 5);
    close(fd);
    usleep(20000); /* the reset has arrived, the loop has not looked yet */
    assert_true(put(&b.in, STR("this fails")));
    assert_true(put(&b.in, STR("this is dropped")));
    assert_int_equal(stream_write_queued(b.in.s), 0);
    LOOP_UNTIL(b.loop, b.in.n_ended == 1);
    assert_true(got(&b.in, "alert"));
    assert_true(b.in.has_error);
    assert_non_null(strstr(b.in.e.msg, "write: "));
    bed_free(&b);
    assert_int_equal(b.in.n_ended, 1);
}

TEST(stream, a_failed_write_ends_a_paused_stream_at_once)
{
    struct bed b;
    int fd = bed_socket(&b);
    assert_int_equal(write(fd, "unseen", 6), 6);
    socket_reset(fd);
    usleep(20000);
    assert_true(put(&b.in, STR("this fails")));
    LOOP_UNTIL(b.loop, b.in.n_ended == 1);
    assert_true(b.in.has_error);
    assert_int_equal(b.in.n_read, 0);
    bed_free(&b);
}

TEST(stream, pausing_after_a_failed_write_ends_it_too)
{
    struct bed b;
    int fd = bed_socket(&b);
    stream_read_start(b.in.s);
    socket_reset(fd);
    usleep(20000);
    assert_true(put(&b.in, STR("this fails")));
    stream_read_stop(b.in.s);
    LOOP_UNTIL(b.loop, b.in.n_ended == 1);
    bed_free(&b);
    assert_int_equal(b.in.n_ended, 1);
}

/* ---- back-pressure ---- */

TEST(stream, a_stopped_reader_bounds_the_queue_and_no_byte_is_lost)
{
    struct bed b;
    bed_pair(&b);
    size_t sum = fill_up(&b.out, 0);
    assert_in_range(stream_write_queued(b.out.s), HIGH - 8192 + 1, HIGH);
    loop_run_for(b.loop, 30);
    assert_int_equal(b.out.n_drained, 0);
    stream_read_start(b.in.s);
    for (int rounds = 0; rounds < 4; rounds++) {
        int before = b.out.n_drained;
        LOOP_UNTIL(b.loop, b.out.n_drained > before);
        assert_true(stream_write_queued(b.out.s) <= HIGH / 2);
        sum += fill_up(&b.out, sum);
        assert_true(stream_write_queued(b.out.s) <= HIGH);
    }
    stream_close_after_flush(&b.out.s, 5000);
    LOOP_UNTIL(b.loop, b.in.n_ended == 1);
    assert_false(b.in.has_error);
    assert_int_equal(b.in.got.len, sum);
    assert_pattern(buf_str(&b.in.got));
    bed_free(&b);
}

TEST(stream, an_empty_queue_takes_more_than_its_high_mark)
{
    struct bed b;
    bed_pair(&b);
    size_t len = 24u << 20;
    char *big = xcalloc(1, len);
    fill(big, len, 0);
    assert_true(put(&b.out, (struct str){big, len}));
    free(big);
    assert_false(put(&b.out, STR("x")));
    stream_read_start(b.in.s);
    LOOP_UNTIL(b.loop, b.out.n_drained == 1);
    LOOP_UNTIL(b.loop, b.in.got.len == len);
    assert_pattern(buf_str(&b.in.got));
    bed_free(&b);
}

TEST(stream, a_drain_is_told_when_the_peer_is_lost_after_its_clean_end)
{
    struct bed b;
    int fd = bed_socket(&b);
    stream_read_start(b.in.s);
    shutdown(fd, SHUT_WR);
    LOOP_UNTIL(b.loop, b.in.n_ended == 1);
    (void)fill_up(&b.in, 0);
    socket_reset(fd);
    LOOP_UNTIL(b.loop, b.in.n_drained == 1); /* or its owner would wait for ever */
    assert_true(put(&b.in, STR("dropped")));
    bed_free(&b);
    assert_int_equal(b.in.n_ended, 1);
}

TEST(stream, a_drain_waits_for_the_low_mark)
{
    struct bed b;
    bed_pair(&b);
    int small = 4096; /* so that the kernel takes the queue in pieces */
    setsockopt(stream_fd(b.out.s), SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    setsockopt(stream_fd(b.in.s), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    size_t sum = 0;
    stream_read_start(b.in.s);
    for (int i = 1; i <= 2; i++) {
        sum += fill_up(&b.out, sum);
        LOOP_UNTIL(b.loop, b.out.n_drained == i); /* on_drain looks at the queue */
    }
    LOOP_UNTIL(b.loop, b.in.got.len == sum);
    bed_free(&b);
}

TEST(stream, a_drain_is_told_once_and_only_after_a_refusal)
{
    struct bed b;
    bed_pair(&b);
    size_t sum = fill_up(&b.out, 0);
    stream_read_start(b.in.s);
    LOOP_UNTIL(b.loop, b.in.got.len == sum);
    assert_int_equal(b.out.n_drained, 1);
    stream_read_stop(b.in.s);
    char chunk[8192] = "";
    while (stream_write_queued(b.out.s) == 0) {
        assert_true(put(&b.out, (struct str){chunk, sizeof chunk}));
        sum += sizeof chunk;
    }
    stream_read_start(b.in.s);
    LOOP_UNTIL(b.loop, b.in.got.len == sum);
    loop_settle(b.loop);
    assert_int_equal(b.out.n_drained, 1);
    bed_free(&b);
}

/* ---- closing ---- */

TEST(stream, close_drops_what_is_queued_and_calls_back_once)
{
    struct bed b;
    bed_pair(&b);
    (void)fill_up(&b.out, 0);
    end_close(&b.out);
    assert_null(b.out.s);
    assert_int_equal(b.out.n_closed, 0);
    LOOP_UNTIL(b.loop, b.out.n_closed == 1);
    assert_int_equal(b.out.n_drained + b.out.n_ended, 0);
    bed_free(&b);
    assert_int_equal(b.out.n_closed, 1);
}

static void close_in(enum place where)
{
    struct bed b;
    bed_init(&b);
    bed_listen(&b, "127.0.0.1");
    b.out.close_in = where;
    dial(&b, "127.0.0.1", 5000);
    stream_read_start(b.out.s);
    LOOP_UNTIL(b.loop, b.in.s != NULL && b.out.n_opened == 1);
    if (b.out.s != NULL)
        (void)fill_up(&b.out, 0);
    stream_read_start(b.in.s);
    assert_true(put(&b.in, STR("hello")));
    if (where == ON_END)
        shutdown(stream_fd(b.in.s), SHUT_WR);
    LOOP_UNTIL(b.loop, b.out.n_closed == 1);
    bed_free(&b);
}

TEST(stream, it_may_be_closed_in_any_callback)
{
    close_in(ON_OPEN);
    close_in(ON_READ);
    close_in(ON_END);
    close_in(ON_DRAIN);
}

TEST(stream, close_after_flush_sends_everything)
{
    struct bed b;
    bed_pair(&b);
    size_t sum = fill_up(&b.out, 0);
    stream_close_after_flush(&b.out.s, 5000);
    assert_null(b.out.s);
    loop_run_for(b.loop, 20);
    assert_int_equal(b.out.n_closed, 0);
    stream_read_start(b.in.s);
    LOOP_UNTIL(b.loop, b.in.n_ended == 1);
    assert_int_equal(b.in.got.len, sum);
    end_close(&b.in);
    LOOP_UNTIL(b.loop, b.out.n_closed == 1);
    bed_free(&b);
    assert_int_equal(b.out.n_drained + b.out.n_ended, 0);
}

TEST(stream, last_words_reach_a_peer_that_is_still_sending)
{
    struct bed b;
    int fd = bed_socket(&b);
    char junk[1000] = "";
    assert_int_equal(write(fd, junk, sizeof junk), sizeof junk);
    assert_true(put(&b.in, STR("421 too much")));
    stream_close_after_flush(&b.in.s, 5000);
    loop_settle(b.loop);
    assert_int_equal(send(fd, junk, sizeof junk, MSG_NOSIGNAL), sizeof junk);
    loop_run_for(b.loop, 20);
    assert_int_equal(send(fd, junk, sizeof junk, MSG_NOSIGNAL), sizeof junk);
    char answer[32] = "";
    assert_int_equal(recv(fd, answer, sizeof answer, 0), 12);
    assert_string_equal(answer, "421 too much");
    assert_int_equal(recv(fd, answer, sizeof answer, 0), 0);
    close(fd);
    LOOP_UNTIL(b.loop, b.in.n_closed == 1);
    assert_int_equal(b.in.n_read, 0);
    bed_free(&b);
}

TEST(stream, close_after_flush_does_not_wait_for_ever)
{
    struct bed b;
    bed_pair(&b);
    (void)fill_up(&b.out, 0); /* never read */
    uint64_t begin = uv_hrtime();
    stream_close_after_flush(&b.out.s, 100);
    LOOP_UNTIL(b.loop, b.out.n_closed == 1);
    assert_in_range((uv_hrtime() - begin) / 1000000, 90, 3000);
    begin = uv_hrtime();
    stream_close_after_flush(&b.in.s, 100); /* nothing to send, but the peer does not close */
    LOOP_UNTIL(b.loop, b.in.n_closed == 1);
    assert_in_range((uv_hrtime() - begin) / 1000000, 0, 3000);
    bed_free(&b);
}

TEST(stream, lingering_is_short)
{
    struct bed b;
    bed_pair(&b);
    uint64_t begin = uv_hrtime();
    stream_close_after_flush(&b.out.s, 60000);
    LOOP_UNTIL(b.loop, b.out.n_closed == 1);
    assert_in_range((uv_hrtime() - begin) / 1000000, 900, 4000);
    bed_free(&b);
}

TEST(stream, close_after_flush_ends_when_the_peer_resets)
{
    struct bed b;
    int fd = bed_socket(&b);
    (void)fill_up(&b.in, 0);
    stream_close_after_flush(&b.in.s, 60000);
    loop_settle(b.loop);
    socket_reset(fd);
    LOOP_UNTIL(b.loop, b.in.n_closed == 1);
    bed_free(&b);
    assert_int_equal(b.in.n_ended, 0);
}

TEST(stream, close_of_null_is_fine)
{
    struct stream *none = NULL;
    stream_close(&none);
    stream_close_after_flush(&none, 1);
}

/* ---- unix sockets ---- */

TEST(stream, a_unix_socket_is_accepted_too)
{
    struct bed b;
    bed_init(&b);
    char path[64];
    snprintf(path, sizeof path, "/tmp/svidmail-test-stream-%d", (int)getpid());
    unlink(path);
    assert_int_equal(uv_pipe_init(b.loop, &b.listener.pipe, 0), 0);
    b.listener.handle.data = &b;
    b.has_listener = true;
    assert_int_equal(uv_pipe_bind(&b.listener.pipe, path), 0);
    assert_int_equal(uv_listen(&b.listener.stream, 8, on_connection), 0);
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    memcpy(sa.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    LOOP_UNTIL(b.loop, b.in.s != NULL);
    stream_read_start(b.in.s);
    struct ucred who;
    socklen_t len = sizeof who;
    assert_int_equal(getsockopt(stream_fd(b.in.s), SOL_SOCKET, SO_PEERCRED, &who, &len), 0);
    assert_int_equal(who.pid, getpid());
    assert_int_equal(write(fd, "ping", 4), 4);
    LOOP_UNTIL(b.loop, got(&b.in, "ping"));
    assert_true(put(&b.in, STR("pong")));
    char answer[8] = "";
    assert_int_equal(read(fd, answer, sizeof answer), 4);
    close(fd);
    LOOP_UNTIL(b.loop, b.in.n_ended == 1);
    assert_false(b.in.has_error);
    bed_free(&b);
    unlink(path);
}
