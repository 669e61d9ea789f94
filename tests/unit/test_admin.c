// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/mem.h"
#include "loop_fixture.h"
#include "ops/admin.h"
#include "sys/log.h"
#include "sys/timer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define MANY 60

struct fixture {
    uv_loop_t *loop;
    char dir[64], path[128], listen[32];
    uint16_t port;
    uint64_t request_limit_ms;
    struct admin *admin;
    char query[256];
    unsigned n_asked;
    struct admin_reply *owed[4];
    unsigned n_owed;
};

static int on_echo(void *arg, struct str query, struct buf *out)
{
    struct fixture *f = arg;
    str_copy(f->query, sizeof f->query, query);
    f->n_asked++;
    assert_true(buf_append_str(out, STR("{\"a\":1}\n")));
    return 200;
}

static int on_big(void *arg, struct str query, struct buf *out)
{
    (void)arg;
    (void)query;
    while (buf_append(out, "0123456789abcdef", 16)) {
    }
    return 503;
}

static int on_empty(void *arg, struct str query, struct buf *out)
{
    (void)arg;
    (void)query;
    (void)out;
    return 200;
}

static void on_later(void *arg, struct str query, struct admin_reply *reply)
{
    struct fixture *f = arg;
    str_copy(f->query, sizeof f->query, query);
    f->owed[f->n_owed++] = reply;
}

static void reply_to(struct fixture *f, unsigned i, const char *text)
{
    struct buf b;
    buf_init(&b, 1 << 20);
    assert_true(buf_append_str(&b, str_from(text)));
    admin_reply_send(&f->owed[i], 200, &b);
    assert_null(f->owed[i]);
    buf_release(&b);
}

static void on_soon(void *arg, struct str query, struct admin_reply *reply)
{
    struct fixture *f = arg;
    on_later(arg, query, reply);
    reply_to(f, f->n_owed - 1, "at once\n");
}

static bool open_admin(struct fixture *f, const char *socket_path, const char *listen,
                       struct err *e)
{
    const struct admin_endpoint endpoints[] = {
        {.path = "/echo", .content_type = "application/json", .run = on_echo, .arg = f},
        {.path = "/metrics",
         .content_type = "text/plain; version=0.0.4",
         .run = on_echo,
         .arg = f,
         .on_tcp = true},
        {.path = "/big", .content_type = "text/plain", .run = on_big, .arg = f},
        {.path = "/empty", .content_type = "text/plain", .run = on_empty, .arg = f},
        {.path = "/act", .content_type = "text/plain", .run = on_echo, .arg = f, .is_action = true},
        {.path = "/later", .content_type = "application/json", .start = on_later, .arg = f},
        {.path = "/soon", .content_type = "application/json", .start = on_soon, .arg = f},
    };
    const struct admin_config cfg = {socket_path, listen, f->request_limit_ms};
    return admin_new(f->loop, &cfg, endpoints, ARRAY_LEN(endpoints), &f->admin, e);
}

static void fixture_init(struct fixture *f)
{
    *f = (struct fixture){.loop = loop_new()};
    log_init(LOG_ERROR, LOG_TEXT);
    str_copy(f->dir, sizeof f->dir, STR("/tmp/svidmail-admin-XXXXXX"));
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, sizeof f->path, "%s/admin.sock", f->dir);
}

/* 0: the limit that everybody gets. */
static void fixture_open_with_limit(struct fixture *f, uint64_t request_limit_ms)
{
    struct err e;
    fixture_init(f);
    f->request_limit_ms = request_limit_ms;
    if (!open_admin(f, f->path, "", &e))
        fail_msg("%s", e.msg);
}

static void fixture_open(struct fixture *f)
{
    fixture_open_with_limit(f, 0);
}

static void fixture_release(struct fixture *f)
{
    admin_close(&f->admin);
    assert_null(f->admin);
    loop_free(&f->loop);
    unlink(f->path);
    assert_int_equal(rmdir(f->dir), 0);
}

static int connect_to(const struct fixture *f)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    str_copy(addr.sun_path, sizeof addr.sun_path, str_from(f->path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    return fd;
}

static void send_bytes(int fd, const char *bytes, size_t len)
{
    (void)!send(fd, bytes, len, MSG_NOSIGNAL); /* the other side may have hung up already */
}

static void send_text(int fd, const char *text)
{
    send_bytes(fd, text, strlen(text));
}

/* What comes until end of file, or until it holds marker (not NULL); NUL-terminated. */
static char *receive(struct fixture *f, int fd, const char *marker)
{
    size_t cap = 2u << 20, len = 0;
    char *text = xcalloc(cap, 1);
    uint64_t deadline = loop_deadline_ms(LOOP_DEADLINE_MS);
    for (;;) {
        ssize_t n = recv(fd, text + len, cap - len - 1, 0);
        if (n == 0 || (n == -1 && errno != EAGAIN) ||
            (marker != NULL && strstr(text, marker) != NULL))
            return text;
        if (n > 0)
            len += (size_t)n;
        else
            loop_step(f->loop, deadline, "an answer", __FILE__, __LINE__);
    }
}

static char *ask(struct fixture *f, const char *request)
{
    AUTO_CLOSE int fd = connect_to(f);
    send_text(fd, request);
    return receive(f, fd, NULL);
}

static void assert_status(const char *response, int status)
{
    char line[32];
    snprintf(line, sizeof line, "HTTP/1.1 %d ", status);
    if (strncmp(response, line, strlen(line)) != 0)
        fail_msg("%.200s", response);
}

#define CLOSE "Host: x\r\nConnection: close\r\n\r\n"

TEST(admin, answers_a_get_with_the_endpoints_body)
{
    struct fixture f;
    fixture_open(&f);
    AUTO_FREE char *r = ask(&f, "GET /echo?q=%41b&x=a%20b+c HTTP/1.1\r\n" CLOSE);
    assert_status(r, 200);
    assert_non_null(strstr(r, "\r\nContent-Type: application/json\r\n"));
    assert_non_null(strstr(r, "\r\nCache-Control: no-store\r\n"));
    assert_non_null(strstr(r, "\r\n\r\n{\"a\":1}\n"));
    assert_string_equal(f.query, "q=%41b&x=a%20b+c");
    fixture_release(&f);
}

TEST(admin, gives_an_empty_query_where_there_is_none)
{
    struct fixture f;
    fixture_open(&f);
    str_copy(f.query, sizeof f.query, STR("old"));
    AUTO_FREE char *r = ask(&f, "GET /echo HTTP/1.1\r\n" CLOSE);
    assert_status(r, 200);
    assert_string_equal(f.query, "");
    fixture_release(&f);
}

TEST(admin, serves_several_requests_on_one_connection)
{
    struct fixture f;
    fixture_open(&f);
    AUTO_CLOSE int fd = connect_to(&f);
    send_text(fd, "GET /echo HTTP/1.1\r\nHost: x\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
                  "GET /echo HTTP/1.1\r\n" CLOSE);
    AUTO_FREE char *r = receive(&f, fd, NULL);
    assert_status(r, 200);
    assert_non_null(strstr(r, "HTTP/1.1 404 "));
    assert_int_equal(f.n_asked, 2);
    fixture_release(&f);
}

TEST(admin, passes_on_status_and_a_body_larger_than_the_socket_takes_at_once)
{
    struct fixture f;
    fixture_open(&f);
    AUTO_FREE char *r = ask(&f, "GET /big HTTP/1.1\r\n" CLOSE);
    assert_status(r, 503);
    const char *body = strstr(r, "\r\n\r\n");
    assert_non_null(body);
    assert_int_equal(strlen(body + 4), 1 << 20);
    fixture_release(&f);
}

TEST(admin, an_empty_body_is_an_answer_too)
{
    struct fixture f;
    fixture_open(&f);
    AUTO_FREE char *r = ask(&f, "GET /empty HTTP/1.1\r\n" CLOSE);
    assert_status(r, 200);
    assert_non_null(strstr(r, "\r\nContent-Length: 0\r\n"));
    fixture_release(&f);
}

TEST(admin, refuses_every_method_but_get)
{
    static const char *const methods[] = {"POST",    "PUT",  "DELETE", "HEAD",
                                          "OPTIONS", "BREW", "get"};
    struct fixture f;
    fixture_open(&f);
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        AUTO_FREE char *request = xasprintf("%s /echo HTTP/1.1\r\n" CLOSE, methods[i]);
        AUTO_FREE char *r = ask(&f, request);
        assert_status(r, 405);
        assert_non_null(strstr(r, "\r\nAllow: GET\r\n"));
    }
    assert_int_equal(f.n_asked, 0);
    fixture_release(&f);
}

TEST(admin, an_action_is_asked_by_post_and_nothing_else)
{
    struct fixture f;
    fixture_open(&f);
    AUTO_FREE char *get = ask(&f, "GET /act HTTP/1.1\r\n" CLOSE);
    assert_status(get, 405);
    assert_non_null(strstr(get, "\r\nAllow: POST\r\n"));
    assert_int_equal(f.n_asked, 0);
    AUTO_FREE char *empty = ask(&f, "POST /act?a=b HTTP/1.1\r\nContent-Length: 0\r\n" CLOSE);
    assert_status(empty, 200);
    assert_string_equal(f.query, "a=b");
    assert_int_equal(f.n_asked, 1);
    fixture_release(&f);
}

/* The answer ends the connection, although the client has not asked for that and goes on. */
TEST(admin, who_announces_a_body_is_refused_before_it_comes)
{
    static const char *const announcements[] = {
        "Content-Length: 4",
        "content-length: 1000000000000",
        "Content-Length: 0\r\nContent-Length: 4",
        "Content-Length: 4\r\nExpect: 100-continue",
        "Transfer-Encoding: chunked",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
    };
    static const char *const requests[] = {"GET /echo", "POST /act", "GET /later"};
    struct fixture f;
    fixture_open(&f);
    for (size_t i = 0; i < ARRAY_LEN(announcements) * ARRAY_LEN(requests); i++) {
        AUTO_FREE char *request = xasprintf("%s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n4\r\nbody\r\n",
                                            requests[i % 3], announcements[i / 3]);
        AUTO_FREE char *r = ask(&f, request);
        assert_status(r, 413);
        assert_non_null(strstr(r, "\r\nConnection: close\r\n"));
        assert_null(strstr(r + 1, "HTTP/1.1 "));
    }
    assert_int_equal(f.n_asked + f.n_owed, 0);
    fixture_release(&f);
}

/* --- late answers */

static void assert_alive(struct fixture *f);

TEST(admin, an_answer_may_come_later_and_others_are_served_meanwhile)
{
    struct fixture f;
    fixture_open(&f);
    AUTO_CLOSE int fd = connect_to(&f);
    send_text(fd, "GET /later?x=1 HTTP/1.1\r\n" CLOSE);
    LOOP_UNTIL(f.loop, f.n_owed == 1);
    assert_string_equal(f.query, "x=1");
    AUTO_FREE char *other = ask(&f, "GET /echo HTTP/1.1\r\n" CLOSE);
    assert_status(other, 200);
    reply_to(&f, 0, "late\n");
    AUTO_FREE char *r = receive(&f, fd, NULL);
    assert_status(r, 200);
    assert_non_null(strstr(r, "\r\nContent-Type: application/json\r\n"));
    assert_non_null(strstr(r, "\r\n\r\nlate\n"));
    assert_int_equal(f.n_owed, 1);
    fixture_release(&f);
}

TEST(admin, a_late_answer_may_come_from_inside_the_starter)
{
    struct fixture f;
    fixture_open(&f);
    AUTO_FREE char *r = ask(&f, "GET /soon HTTP/1.1\r\n" CLOSE);
    assert_status(r, 200);
    assert_non_null(strstr(r, "\r\n\r\nat once\n"));
    fixture_release(&f);
}

TEST(admin, a_late_answer_outlasts_the_limits_for_silent_and_for_slow_clients)
{
    struct fixture f;
    fixture_open_with_limit(&f, 1000);
    AUTO_CLOSE int fd = connect_to(&f);
    send_text(fd, "GET /later HTTP/1.1\r\n" CLOSE);
    LOOP_UNTIL(f.loop, f.n_owed == 1);
    loop_run_for(f.loop, 6500); /* who is silent is cut after 5 s */
    reply_to(&f, 0, "late\n");
    AUTO_FREE char *r = receive(&f, fd, NULL);
    assert_status(r, 200);
    fixture_release(&f);
}

TEST(admin, a_late_answer_to_a_client_that_has_gone_is_dropped)
{
    struct fixture f;
    fixture_open(&f);
    int fd = connect_to(&f);
    send_text(fd, "GET /later HTTP/1.1\r\n" CLOSE);
    LOOP_UNTIL(f.loop, f.n_owed == 1);
    close(fd);
    loop_settle(f.loop);
    reply_to(&f, 0, "late\n");
    loop_settle(f.loop);
    assert_alive(&f);
    fixture_release(&f);
}

TEST(admin, closing_tells_who_waits_for_a_late_answer)
{
    struct fixture f;
    fixture_open(&f);
    AUTO_CLOSE int answered = connect_to(&f);
    AUTO_CLOSE int waiting = connect_to(&f);
    send_text(answered, "GET /later HTTP/1.1\r\n" CLOSE);
    LOOP_UNTIL(f.loop, f.n_owed == 1);
    send_text(waiting, "GET /later HTTP/1.1\r\n" CLOSE);
    LOOP_UNTIL(f.loop, f.n_owed == 2);
    reply_to(&f, 0, "just in time\n");
    admin_close(&f.admin);
    AUTO_FREE char *first = receive(&f, answered, NULL);
    assert_non_null(strstr(first, "\r\n\r\njust in time\n"));
    AUTO_FREE char *second = receive(&f, waiting, NULL);
    assert_status(second, 503);
    reply_to(&f, 1, "too late\n");
    fixture_release(&f);
}

TEST(admin, paths_match_exactly)
{
    static const char *const paths[] = {"/",      "/ech",     "/echo/", "/echo%00",
                                        "//echo", "/../echo", "*",      "/ECHO"};
    struct fixture f;
    fixture_open(&f);
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        AUTO_FREE char *request = xasprintf("GET %s HTTP/1.1\r\n" CLOSE, paths[i]);
        AUTO_FREE char *r = ask(&f, request);
        assert_int_equal(strncmp(r, "HTTP/1.1 4", 10), 0);
    }
    assert_int_equal(f.n_asked, 0);
    fixture_release(&f);
}

static void assert_alive(struct fixture *f)
{
    AUTO_FREE char *r = ask(f, "GET /echo HTTP/1.1\r\n" CLOSE);
    assert_status(r, 200);
}

#define BYTES(literal)                                                                             \
    {                                                                                              \
        literal, sizeof(literal) - 1                                                               \
    }

TEST(admin, garbage_never_hurts)
{
    static const struct str pieces[] = {
        BYTES(""),
        BYTES("\0\0\0\0"),
        BYTES("\r\n\r\n\r\n\r\n"),
        BYTES("GET\r\n\r\n"),
        BYTES("GET /echo\r\n\r\n"),
        BYTES("GET /echo HTTP/9.9\r\n\r\n"),
        BYTES("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        BYTES("GET /echo HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n"),
        BYTES("GET /echo HTTP/1.1\r\nContent-Length:\r\n\r\n"),
        BYTES("GET /echo HTTP/1.1\r\nContent-Length: -1\r\n\r\n"),
        BYTES("GET /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        BYTES("GET /echo HTTP/1.1\r\n: no name\r\n\r\n"),
        BYTES("GET /%zz%%\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n"),
        BYTES("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    };
    struct fixture f;
    fixture_open(&f);
    for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
        int fd = connect_to(&f);
        send_bytes(fd, pieces[i].p, pieces[i].len);
        loop_settle(
            f.loop); /* bytes and end at once: the library sees the end only when it is cut */
        shutdown(fd, SHUT_WR);
        free(receive(&f, fd, NULL));
        close(fd);
    }
    assert_alive(&f);
    fixture_release(&f);
}

TEST(admin, a_request_larger_than_its_memory_is_refused)
{
    struct fixture f;
    fixture_open(&f);
    AUTO_FREE char *request = xcalloc(100001, 1);
    memset(request, 'a', 100000);
    memcpy(request, "GET /", 5);
    AUTO_CLOSE int fd = connect_to(&f);
    send_text(fd, request);
    AUTO_FREE char *r = receive(&f, fd, NULL);
    assert_int_equal(strncmp(r, "HTTP/1.1 4", 10), 0);
    assert_alive(&f);
    fixture_release(&f);
}

TEST(admin, a_request_byte_by_byte_is_understood)
{
    static const char request[] = "GET /echo?a=b HTTP/1.1\r\n" CLOSE;
    struct fixture f;
    fixture_open(&f);
    AUTO_CLOSE int fd = connect_to(&f);
    for (size_t i = 0; i < sizeof request - 1; i++) {
        send_bytes(fd, request + i, 1);
        loop_settle(f.loop);
    }
    AUTO_FREE char *r = receive(&f, fd, NULL);
    assert_status(r, 200);
    assert_string_equal(f.query, "a=b");
    fixture_release(&f);
}

TEST(admin, half_requests_are_cut_after_a_while_and_who_waited_is_served)
{
    struct fixture f;
    fixture_open(&f);
    int fds[MANY]; /* more than are let in at a time */
    for (size_t i = 0; i < 24; i++) {
        fds[i] = connect_to(&f);
        send_text(fds[i], "GET /ec");
    }
    loop_settle(f.loop);
    assert_alive(&f); /* waits in the backlog until the silent ones are cut */
    for (size_t i = 0; i < 24; i++)
        close(fds[i]);
    fixture_release(&f);
}

/* One byte of a header field after the other, from each of them. */
struct drips {
    int *fds;
    size_t n;
    struct timer *timer;
};

static void on_drip(void *arg)
{
    struct drips *d = arg;
    for (size_t i = 0; i < d->n; i++)
        send_text(d->fds[i], "a");
    timer_start(d->timer, 20);
}

static void drips_start(struct drips *d, uv_loop_t *loop, int *fds, size_t n)
{
    *d = (struct drips){.fds = fds, .n = n, .timer = timer_new(loop, on_drip, d)};
    for (size_t i = 0; i < n; i++)
        send_text(fds[i], "GET /echo HTTP/1.1\r\nX: ");
    timer_start(d->timer, 20);
}

static void drips_stop(struct drips *d)
{
    timer_free(&d->timer);
    for (size_t i = 0; i < d->n; i++)
        close(d->fds[i]);
}

TEST(admin, requests_in_drips_are_cut_and_who_waited_is_served)
{
    struct fixture f;
    struct drips d;
    int fds[16]; /* as many as are let in at a time */
    fixture_open_with_limit(&f, 300);
    for (size_t i = 0; i < ARRAY_LEN(fds); i++)
        fds[i] = connect_to(&f);
    drips_start(&d, f.loop, fds, ARRAY_LEN(fds));
    loop_settle(f.loop);
    assert_alive(&f);
    for (size_t i = 0; i < ARRAY_LEN(fds); i++)
        free(receive(&f, fds[i], NULL)); /* until its end */
    drips_stop(&d);
    fixture_release(&f);
}

TEST(admin, an_answer_that_is_taken_in_drips_is_cut)
{
    struct fixture f;
    fixture_open_with_limit(&f, 300);
    AUTO_CLOSE int fd = connect_to(&f);
    send_text(fd, "GET /big HTTP/1.1\r\n" CLOSE);
    char piece[4096];
    size_t len = 0;
    uint64_t deadline = loop_deadline_ms(LOOP_DEADLINE_MS);
    for (ssize_t n = -1; n != 0;) {
        n = recv(fd, piece, sizeof piece, 0);
        len += n > 0 ? (size_t)n : 0;
        loop_step(f.loop, deadline, "its end", __FILE__, __LINE__);
    }
    assert_in_range(len, 1, (1 << 20) - 1);
    assert_alive(&f);
    fixture_release(&f);
}

TEST(admin, each_request_on_a_connection_has_its_own_time)
{
    struct fixture f;
    fixture_open_with_limit(&f, 1000);
    AUTO_CLOSE int fd = connect_to(&f);
    uint64_t begin = uv_hrtime();
    while (uv_hrtime() - begin < 2500u * 1000000) {
        send_text(fd, "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n");
        AUTO_FREE char *r = receive(&f, fd, "{\"a\":1}\n");
        assert_status(r, 200);
        loop_run_for(f.loop, 100);
    }
    fixture_release(&f);
}

TEST(admin, a_client_that_leaves_before_its_answer_is_forgotten)
{
    struct fixture f;
    fixture_open(&f);
    for (size_t i = 0; i < MANY; i++) {
        int fd = connect_to(&f);
        send_text(fd, "GET /big HTTP/1.1\r\nHost: x\r\n\r\n");
        if (i % 2 == 0)
            loop_settle(f.loop);
        close(fd);
        loop_settle(f.loop);
    }
    assert_alive(&f);
    fixture_release(&f);
}

TEST(admin, closing_with_clients_inside_leaves_nothing_behind)
{
    struct fixture f;
    fixture_open(&f);
    AUTO_CLOSE int silent = connect_to(&f);
    AUTO_CLOSE int half = connect_to(&f);
    AUTO_CLOSE int unread = connect_to(&f);
    send_text(half, "GET /echo HTTP/1.1\r\nHo");
    send_text(unread, "GET /big HTTP/1.1\r\nHost: x\r\n\r\n");
    loop_settle(f.loop);
    fixture_release(&f);
}

TEST(admin, the_socket_is_for_its_user_and_group_only_and_goes_with_its_owner)
{
    struct fixture f;
    mode_t old = umask(0777);
    fixture_open(&f);
    umask(old);
    struct stat st;
    assert_int_equal(stat(f.path, &st), 0);
    assert_true(S_ISSOCK(st.st_mode));
    assert_int_equal(st.st_mode & 07777, 0660);
    admin_close(&f.admin);
    assert_int_equal(stat(f.path, &st), -1);
    fixture_release(&f);
}

TEST(admin, a_stale_socket_is_replaced)
{
    struct fixture f;
    fixture_init(&f);
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    str_copy(addr.sun_path, sizeof addr.sun_path, str_from(f.path));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    close(fd);
    struct err e = {0};
    assert_true(open_admin(&f, f.path, "", &e));
    assert_alive(&f);
    fixture_release(&f);
}

TEST(admin, a_live_socket_is_left_alone)
{
    struct fixture f;
    fixture_open(&f);
    struct admin *first = f.admin;
    struct err e = {0};
    assert_false(open_admin(&f, f.path, "", &e));
    assert_null(f.admin);
    assert_int_equal(e.code, ERR_UNAVAIL);
    assert_non_null(strstr(e.msg, "another svidmail is running on it"));
    f.admin = first;
    assert_alive(&f);
    fixture_release(&f);
}

TEST(admin, a_successors_socket_is_not_removed)
{
    struct fixture f;
    fixture_open(&f);
    struct admin *first = f.admin;
    unlink(f.path);
    struct err e = {0};
    assert_true(open_admin(&f, f.path, "", &e));
    admin_close(&first);
    assert_alive(&f);
    fixture_release(&f);
}

TEST(admin, a_file_that_is_no_socket_is_left_alone)
{
    struct fixture f;
    fixture_init(&f);
    FILE *file = fopen(f.path, "w");
    fputs("precious", file);
    fclose(file);
    struct err e = {0};
    assert_false(open_admin(&f, f.path, "", &e));
    assert_int_equal(e.code, ERR_IO);
    assert_non_null(strstr(e.msg, "something is there that is no socket"));
    struct stat st;
    assert_int_equal(stat(f.path, &st), 0);
    assert_int_equal(st.st_size, 8);
    fixture_release(&f);
}

TEST(admin, a_socket_that_cannot_be_had_is_an_error)
{
    struct fixture f;
    fixture_init(&f);
    struct err e = {0};
    assert_false(open_admin(&f, "/nonexistent/admin.sock", "", &e));
    assert_string_equal(e.msg, "admin socket /nonexistent/admin.sock: No such file or directory");
    char path[200];
    memset(path, 'a', sizeof path);
    memcpy(path, "/tmp/", 5);
    path[108] = '\0';
    assert_false(open_admin(&f, path, "", &e));
    assert_int_equal(e.code, ERR_SYNTAX);
    fixture_release(&f);
}

/* --- the metrics port */

static uint16_t take_port(int *fd)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof addr;
    *fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(*fd, (struct sockaddr *)&addr, sizeof addr), 0);
    assert_int_equal(getsockname(*fd, (struct sockaddr *)&addr, &len), 0);
    return ntohs(addr.sin_port);
}

static int connect_port(uint16_t port, const char *from)
{
    struct sockaddr_in addr = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(inet_pton(AF_INET, from, &addr.sin_addr), 1);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    addr.sin_port = htons(port);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    struct timeval tick = {.tv_usec = 1000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tick, sizeof tick);
    return fd;
}

static char *ask_port_from(struct fixture *f, const char *from, const char *request)
{
    AUTO_CLOSE int fd = connect_port(f->port, from);
    send_text(fd, request);
    return receive(f, fd, NULL);
}

static char *ask_port(struct fixture *f, const char *request)
{
    return ask_port_from(f, "127.0.0.1", request);
}

static void open_port(struct fixture *f, const char *host)
{
    int fd;
    struct err e;
    fixture_init(f);
    f->port = take_port(&fd);
    close(fd);
    snprintf(f->listen, sizeof f->listen, "%s:%u", host, (unsigned)f->port);
    if (!open_admin(f, f->path, f->listen, &e))
        fail_msg("%s", e.msg);
}

TEST(admin, the_port_serves_only_what_is_meant_for_it)
{
    static const char *const hosts[] = {"127.0.0.1", ""};
    for (size_t i = 0; i < ARRAY_LEN(hosts); i++) {
        struct fixture f;
        open_port(&f, hosts[i]);
        AUTO_FREE char *metrics = ask_port(&f, "GET /metrics HTTP/1.1\r\n" CLOSE);
        assert_status(metrics, 200);
        assert_non_null(strstr(metrics, "text/plain; version=0.0.4"));
        AUTO_FREE char *echo = ask_port(&f, "GET /echo HTTP/1.1\r\n" CLOSE);
        assert_status(echo, 404);
        assert_int_equal(f.n_asked, 1);
        assert_alive(&f);
        fixture_release(&f);
    }
}

TEST(admin, one_address_can_take_only_a_few_of_the_ports_connections)
{
    struct fixture f;
    int fds[4];
    open_port(&f, "");
    for (size_t i = 0; i < ARRAY_LEN(fds); i++)
        fds[i] = connect_port(f.port, "127.0.0.2");
    loop_settle(f.loop);
    AUTO_FREE char *fifth = ask_port_from(&f, "127.0.0.2", "GET /metrics HTTP/1.1\r\n" CLOSE);
    assert_string_equal(fifth, "");
    AUTO_FREE char *other = ask_port(&f, "GET /metrics HTTP/1.1\r\n" CLOSE);
    assert_status(other, 200);
    close(fds[0]);
    loop_settle(f.loop);
    AUTO_FREE char *again = ask_port_from(&f, "127.0.0.2", "GET /metrics HTTP/1.1\r\n" CLOSE);
    assert_status(again, 200);
    for (size_t i = 1; i < ARRAY_LEN(fds); i++)
        close(fds[i]);
    fixture_release(&f);
}

TEST(admin, a_port_that_is_taken_is_left_out_and_the_socket_serves_on)
{
    struct fixture f;
    fixture_init(&f);
    AUTO_CLOSE int taken = -1;
    snprintf(f.listen, sizeof f.listen, "127.0.0.1:%u", (unsigned)take_port(&taken));
    assert_int_equal(listen(taken, 1), 0);
    struct err e = {0};
    assert_true(open_admin(&f, f.path, f.listen, &e));
    assert_alive(&f);
    fixture_release(&f);
}

TEST(admin, without_any_address_there_is_nothing_to_close)
{
    struct fixture f;
    struct err e;
    fixture_init(&f);
    assert_true(open_admin(&f, "", "", &e));
    fixture_release(&f);
}
