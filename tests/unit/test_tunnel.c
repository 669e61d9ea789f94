// SPDX-License-Identifier: Apache-2.0
#include "identity/tunnel.h"
#include "base/mem.h"
#include "sys/log.h"
#include "sys/metrics.h"

#include "gateway_fixture.h"
#include "loop_fixture.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

struct bed {
    uv_loop_t *loop;
    struct mesh mesh;
    struct gateway *gw;
    struct tunnel_config cfg;
    struct tunnel *t;
    char directory[64];
    int n_closed;
};

/* A client as libcurl is one: a socket that was bound before it connects. */
struct client {
    int fd;
    char name[TUNNEL_NAME_MAX];
    struct buf got;
    bool has_eof;
    int error;
};

static void bed_start(struct bed *b, struct gateway_config gw)
{
    gw.leaf = gw.leaf != NULL ? gw.leaf : &b->mesh.gateway;
    gw.client_ca = gw.client_ca != NULL ? gw.client_ca : &b->mesh.ca;
    b->gw = gateway_new(b->loop, &gw);
    b->cfg.target = mesh_target(&b->mesh, b->gw->port);
    struct err e;
    if (!tunnel_new(b->loop, &b->cfg, b->mesh.contexts, b->mesh.store, &b->mesh.clock, &b->t, &e))
        fail_msg("%s", e.msg);
}

static void bed_init(struct bed *b)
{
    memset(b, 0, sizeof *b);
    b->loop = loop_new();
    log_init(LOG_ERROR, LOG_JSON);
    mesh_init(&b->mesh, b->loop);
    mesh_publish(&b->mesh, (struct mesh_offer){0});
    snprintf(b->directory, sizeof b->directory, "/tmp/svidmail-tunnel-XXXXXX");
    assert_non_null(mkdtemp(b->directory));
    b->cfg = (struct tunnel_config){.directory = b->directory, .name = "email", .max_streams = 8};
}

static void on_closed(void *arg)
{
    struct bed *b = arg;
    b->n_closed++;
}

static void bed_close(struct bed *b)
{
    tunnel_close(b->t, on_closed, b);
    b->t = NULL;
    assert_int_equal(b->n_closed, 0);
    LOOP_UNTIL(b->loop, b->n_closed == 1);
}

static void bed_release(struct bed *b)
{
    if (b->t != NULL)
        bed_close(b);
    if (b->gw != NULL)
        gateway_free(&b->gw);
    mesh_release(&b->mesh);
    loop_free(&b->loop);
    assert_int_equal(b->n_closed, 1);
    assert_int_equal(rmdir(b->directory), 0); /* nothing is left in it */
    assert_int_equal(metric_get(M_GATEWAY_CONNECTIONS, METRIC_NONE), 0);
}

static int dial_unbound(const char *path)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    memcpy(sa.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0 ? fd : -1;
}

static struct client dial(const struct bed *b)
{
    struct client c = {.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    assert_int_equal(bind(c.fd, (struct sockaddr *)&sa, sizeof(sa_family_t)), 0);
    assert_true(tunnel_client_name_from_fd(c.fd, c.name, sizeof c.name));
    const char *path = tunnel_path(b->t);
    memcpy(sa.sun_path, path, strlen(path) + 1);
    assert_int_equal(connect(c.fd, (struct sockaddr *)&sa, sizeof sa), 0);
    buf_init(&c.got, 64u << 20);
    return c;
}

static void client_release(struct client *c)
{
    close(c->fd);
    buf_release(&c->got);
}

static void client_write(struct client *c, const char *z)
{
    assert_int_equal(write(c->fd, z, strlen(z)), strlen(z));
}

/* Takes what is there; true once there is an end. */
static bool client_read(struct client *c)
{
    char chunk[16384];
    for (;;) {
        ssize_t n = recv(c->fd, chunk, sizeof chunk, MSG_DONTWAIT);
        if (n > 0) {
            assert_true(buf_append(&c->got, chunk, (size_t)n));
            continue;
        }
        c->error = n < 0 && errno != EAGAIN ? errno : 0;
        c->has_eof = n == 0;
        return c->has_eof || c->error != 0;
    }
}

static bool client_got(struct client *c, const char *z)
{
    (void)client_read(c);
    return str_eq(buf_str(&c->got), str_from(z));
}

static struct tunnel_peer_info info(const struct bed *b, const struct client *c)
{
    struct tunnel_peer_info i;
    tunnel_peer_info(b->t, c->name, &i);
    return i;
}

static void expect_cause(const struct bed *b, const struct client *c, enum stream_end_cause cause)
{
    struct tunnel_peer_info i = info(b, c);
    assert_true(i.is_known);
    if (i.end.cause != cause)
        fail_msg("%s instead of %s: %s", stream_end_name(i.end.cause), stream_end_name(cause),
                 i.end.err.msg);
}

/* Dials and waits until the gateway has the stream. */
static struct gateway_conn *bed_dial(struct bed *b, struct client *c)
{
    unsigned n = b->gw->n_conns;
    *c = dial(b);
    LOOP_UNTIL(b->loop, b->gw->n_conns == n + 1 && b->gw->conns[n]->is_open);
    return b->gw->conns[n];
}

static void fill(char *p, size_t len, size_t at)
{
    for (size_t i = 0; i < len; i++)
        p[i] = (char)(((at + i) * 2654435761u) >> 13);
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

/* ---- the socket ---- */

static void expect_no_tunnel(struct bed *b, enum err_code code, const char *why)
{
    struct err e;
    assert_false(
        tunnel_new(b->loop, &b->cfg, b->mesh.contexts, b->mesh.store, &b->mesh.clock, &b->t, &e));
    assert_int_equal(e.code, code);
    if (strstr(e.msg, why) == NULL)
        fail_msg("%s does not tell: %s", e.msg, why);
    b->n_closed = 1; /* there is none to close */
}

TEST(tunnel, the_directory_must_be_ours_alone)
{
    struct bed b;
    bed_init(&b);
    b.cfg.target = mesh_target(&b.mesh, 1);
    chmod(b.directory, 0750);
    expect_no_tunnel(&b, ERR_DENIED, "0700");
    chmod(b.directory, 0700);
    b.cfg.directory = "/nowhere/at/all";
    expect_no_tunnel(&b, ERR_IO, "/nowhere/at/all");
    char link[80];
    snprintf(link, sizeof link, "%s-link", b.directory);
    assert_int_equal(symlink(b.directory, link), 0);
    b.cfg.directory = link;
    expect_no_tunnel(&b, ERR_DENIED, "0700");
    unlink(link);
    bed_release(&b);
}

TEST(tunnel, an_overlong_path_is_refused)
{
    struct bed b;
    bed_init(&b);
    char name[120];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    b.cfg.name = name;
    b.cfg.target = mesh_target(&b.mesh, 1);
    expect_no_tunnel(&b, ERR_SYNTAX, "too long");
    bed_release(&b);
}

TEST(tunnel, only_a_stale_socket_is_removed)
{
    struct bed b;
    bed_init(&b);
    b.cfg.target = mesh_target(&b.mesh, 1);
    char path[128];
    snprintf(path, sizeof path, "%s/email", b.directory);
    close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    expect_no_tunnel(&b, ERR_DENIED, "in the way");
    unlink(path);
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    memcpy(sa.sun_path, path, strlen(path) + 1);
    int stale = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(stale, (struct sockaddr *)&sa, sizeof sa), 0);
    assert_int_equal(listen(stale, 1), 0);
    expect_no_tunnel(&b, ERR_DENIED, "in the way");
    assert_int_equal(access(path, F_OK), 0);
    close(stale);
    b.n_closed = 0;
    bed_start(&b, (struct gateway_config){0});
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_string_equal(tunnel_path(b.t), path);
    bed_release(&b);
}

TEST(tunnel, another_process_is_sent_away)
{
    struct bed b;
    bed_init(&b);
    bed_start(&b, (struct gateway_config){0});
    pid_t child = fork();
    if (child == 0) {
        char c;
        int fd = dial_unbound(tunnel_path(b.t));
        _exit(fd != -1 && read(fd, &c, 1) == 0 ? 7 : 1);
    }
    int status;
    LOOP_UNTIL(b.loop, waitpid(child, &status, WNOHANG) == child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    assert_int_equal(b.gw->n_conns, 0);
    assert_int_equal(tunnel_n_streams(b.t), 0);
    struct client c;
    (void)bed_dial(&b, &c); /* and we are still served */
    client_release(&c);
    bed_release(&b);
}

TEST(tunnel, names_are_the_hex_digits_of_the_bound_address)
{
    char name[TUNNEL_NAME_MAX];
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_false(tunnel_client_name_from_fd(fd, name, sizeof name));
    assert_string_equal(name, "");
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    memcpy(sa.sun_path, "\0aZ\xff", 4);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa_family_t) + 4), 0);
    assert_true(tunnel_client_name_from_fd(fd, name, sizeof name));
    assert_string_equal(name, "00615aff");
    assert_true(tunnel_client_name_from_fd(fd, name, 6));
    assert_string_equal(name, "0061");
    close(fd);
    int tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_false(tunnel_client_name_from_fd(tcp, name, sizeof name));
    close(tcp);
}

/* ---- bytes ---- */

TEST(tunnel, bytes_go_both_ways_and_are_counted)
{
    struct bed b;
    struct client c;
    bed_init(&b);
    bed_start(&b, (struct gateway_config){0});
    struct gateway_conn *g = bed_dial(&b, &c);
    client_write(&c, "POST / HTTP/1.1\r\n\r\n");
    LOOP_UNTIL(b.loop, g->n_got == 19);
    gateway_write(g, STR("HTTP/1.1 200 OK\r\n\r\n"));
    LOOP_UNTIL(b.loop, client_got(&c, "HTTP/1.1 200 OK\r\n\r\n"));
    struct tunnel_peer_info i = info(&b, &c);
    assert_true(i.is_known);
    assert_int_equal(i.end.cause, END_NONE);
    assert_string_equal(i.peer_id, MESH_GATEWAY);
    assert_int_equal(i.bytes_up, 19);
    assert_int_equal(i.bytes_down, 19);
    assert_int_equal(tunnel_n_streams(b.t), 1);
    assert_int_equal(tunnel_last_failure(b.t)->cause, END_NONE);
    client_release(&c);
    bed_release(&b);
}

TEST(tunnel, connections_do_not_mix)
{
    struct bed b;
    struct client c[3];
    struct gateway_conn *g[3];
    bed_init(&b);
    bed_start(&b, (struct gateway_config){0});
    for (int i = 0; i < 3; i++)
        g[i] = bed_dial(&b, &c[i]);
    const char *words[] = {"one", "two", "three"};
    for (int i = 0; i < 3; i++)
        client_write(&c[i], words[i]);
    for (int i = 0; i < 3; i++)
        LOOP_UNTIL(b.loop, str_eq(buf_str(&g[i]->got), str_from(words[i])));
    gateway_reset(g[1]);
    LOOP_UNTIL(b.loop, client_read(&c[1]));
    expect_cause(&b, &c[1], END_RESET);
    expect_cause(&b, &c[0], END_NONE);
    expect_cause(&b, &c[2], END_NONE);
    assert_int_equal(tunnel_n_streams(b.t), 2);
    for (int i = 0; i < 3; i++)
        client_release(&c[i]);
    bed_release(&b);
}

/* Writes until the tunnel takes no more. */
static size_t client_fill(struct bed *b, struct client *c, size_t at)
{
    char chunk[16384];
    size_t sum = 0;
    for (int still = 0; still < 20;) {
        fill(chunk, sizeof chunk, at + sum);
        ssize_t n = send(c->fd, chunk, sizeof chunk, MSG_DONTWAIT | MSG_NOSIGNAL);
        still = n > 0 ? 0 : still + 1;
        sum += n > 0 ? (size_t)n : 0;
        loop_settle(b->loop);
        assert_true(sum < (48u << 20));
    }
    return sum;
}

TEST(tunnel, a_gateway_that_does_not_read_stops_the_client)
{
    struct bed b;
    struct client c;
    bed_init(&b);
    bed_start(&b, (struct gateway_config){0});
    struct gateway_conn *g = bed_dial(&b, &c);
    gateway_pause(g, true);
    size_t sum = client_fill(&b, &c, 0);
    assert_true(info(&b, &c).bytes_up < sum);
    gateway_pause(g, false);
    LOOP_UNTIL(b.loop, g->n_got == sum);
    assert_pattern(buf_str(&g->got));
    gateway_pause(g, true);
    sum += client_fill(&b, &c, sum);
    gateway_pause(g, false);
    LOOP_UNTIL(b.loop, g->n_got == sum);
    assert_int_equal(info(&b, &c).bytes_up, sum);
    client_release(&c);
    bed_release(&b);
}

static size_t flood(struct bed *b, struct gateway_conn *g)
{
    char chunk[16384];
    size_t sum = 0;
    while (g->out.len == 0) {
        fill(chunk, sizeof chunk, sum);
        gateway_write(g, (struct str){chunk, sizeof chunk});
        sum += sizeof chunk;
        loop_settle(b->loop);
        assert_true(sum < (48u << 20));
    }
    return sum;
}

TEST(tunnel, a_client_that_does_not_read_stops_the_gateway)
{
    struct bed b;
    struct client c;
    bed_init(&b);
    bed_start(&b, (struct gateway_config){0});
    struct gateway_conn *g = bed_dial(&b, &c);
    size_t sum = flood(&b, g);
    assert_true(info(&b, &c).bytes_down < 1024 * 1024);
    LOOP_UNTIL(b.loop, (client_read(&c), c.got.len == sum));
    assert_pattern(buf_str(&c.got));
    client_release(&c);
    bed_release(&b);
}

TEST(tunnel, all_bytes_come_down_before_the_end)
{
    struct bed b;
    struct client c;
    bed_init(&b);
    bed_start(&b, (struct gateway_config){0});
    struct gateway_conn *g = bed_dial(&b, &c);
    size_t sum = flood(&b, g);
    gateway_close_notify(g);
    LOOP_UNTIL(b.loop, (loop_run_for(b.loop, 1), client_read(&c)));
    assert_true(c.has_eof);
    assert_int_equal(c.got.len, sum);
    assert_pattern(buf_str(&c.got));
    expect_cause(&b, &c, END_CLEAN);
    client_release(&c);
    bed_release(&b);
}

/* The end comes in the same breath as bytes that the client's queue has no room for: somewhere
 * between these amounts it is full. */
TEST(tunnel, bytes_that_are_held_at_the_end_still_come_down)
{
    struct bed b;
    bed_init(&b);
    bed_start(&b, (struct gateway_config){0});
    static char bytes[600 * 1024];
    fill(bytes, sizeof bytes, 0);
    for (size_t first = 100 * 1024; first < 400 * 1024; first += 10 * 1024) {
        struct client c;
        struct gateway_conn *g = bed_dial(&b, &c);
        gateway_write(g, (struct str){bytes, first});
        loop_settle(b.loop);
        gateway_last_words(g, (struct str){bytes + first, 40 * 1024});
        loop_settle(b.loop);
        LOOP_UNTIL(b.loop, client_read(&c));
        assert_true(c.has_eof);
        assert_int_equal(c.got.len, first + 40 * 1024);
        assert_pattern(buf_str(&c.got));
        expect_cause(&b, &c, END_CLEAN);
        client_release(&c);
    }
    bed_release(&b);
}

enum leave { CLIENT_CLOSES, CLIENT_ABANDONS, TUNNEL_CLOSES };

/* As above, but nobody wants the rest. */
static void leave_with_bytes_held(enum leave how)
{
    struct bed b;
    bed_init(&b);
    static char bytes[600 * 1024];
    bed_start(&b, (struct gateway_config){0});
    for (size_t first = 200 * 1024; first < 320 * 1024; first += 10 * 1024) {
        struct client c;
        struct gateway_conn *g = bed_dial(&b, &c);
        gateway_write(g, (struct str){bytes, first});
        loop_settle(b.loop);
        gateway_last_words(g, (struct str){bytes, 40 * 1024});
        loop_run_for(b.loop, 10);
        if (how == CLIENT_ABANDONS) {
            tunnel_abandon(b.t, c.name);
            assert_true(info(&b, &c).end.cause != END_NONE);
        }
        if (how != TUNNEL_CLOSES) {
            close(c.fd);
            LOOP_UNTIL(b.loop, tunnel_n_streams(b.t) == 0);
            LOOP_UNTIL(b.loop, info(&b, &c).end.cause != END_NONE);
        } else {
            bed_close(&b);
            close(c.fd);
            b.n_closed = 0;
            struct err e;
            assert_true(
                tunnel_new(b.loop, &b.cfg, b.mesh.contexts, b.mesh.store, &b.mesh.clock, &b.t, &e));
        }
        buf_release(&c.got);
    }
    bed_release(&b);
}

TEST(tunnel, a_client_may_leave_while_bytes_are_held_for_it)
{
    leave_with_bytes_held(CLIENT_CLOSES);
    leave_with_bytes_held(CLIENT_ABANDONS);
}

TEST(tunnel, it_may_be_closed_while_bytes_are_held)
{
    leave_with_bytes_held(TUNNEL_CLOSES);
}

/* ---- ends ---- */

TEST(tunnel, close_notify_is_a_clean_end_for_the_client)
{
    struct bed b;
    struct client c;
    bed_init(&b);
    bed_start(&b, (struct gateway_config){0});
    struct gateway_conn *g = bed_dial(&b, &c);
    gateway_write(g, STR("answer"));
    gateway_close_notify(g);
    LOOP_UNTIL(b.loop, client_read(&c));
    assert_true(c.has_eof);
    assert_true(client_got(&c, "answer"));
    expect_cause(&b, &c, END_CLEAN);
    assert_true(info(&b, &c).end.was_open);
    assert_int_equal(tunnel_n_streams(b.t), 0);
    assert_int_equal(tunnel_last_failure(b.t)->cause, END_NONE);
    client_release(&c);
    bed_release(&b);
}

TEST(tunnel, a_truncation_is_known_when_the_client_sees_it)
{
    struct bed b;
    struct client c;
    bed_init(&b);
    bed_start(&b, (struct gateway_config){0});
    struct gateway_conn *g = bed_dial(&b, &c);
    gateway_write(g, STR("half an ans"));
    gateway_fin(g);
    LOOP_UNTIL(b.loop, client_read(&c));
    expect_cause(&b, &c, END_TRUNCATED);
    assert_true(client_got(&c, "half an ans"));
    assert_int_equal(tunnel_last_failure(b.t)->cause, END_TRUNCATED);
    uint64_t now = clock_mono_ms(&b.mesh.clock);
    assert_ptr_equal(tunnel_failure_since(b.t, now - LOOP_DEADLINE_MS), tunnel_last_failure(b.t));
    assert_null(tunnel_failure_since(b.t, now + 1));
    client_release(&c);
    c = dial(&b);
    LOOP_UNTIL(b.loop, b.gw->n_conns == 2 && b.gw->conns[1]->is_open);
    gateway_write(b.gw->conns[1], STR("x"));
    LOOP_UNTIL(b.loop, client_got(&c, "x"));
    assert_int_equal(tunnel_last_failure(b.t)->cause, END_NONE); /* the newest one goes well */
    assert_null(tunnel_failure_since(b.t, 0));
    client_release(&c);
    bed_release(&b);
}

static void expect_failure(struct gateway_config gw, enum stream_end_cause cause, int alert)
{
    struct bed b;
    bed_init(&b);
    bed_start(&b, gw);
    b.gw->cfg.client_ca = gw.client_ca;
    struct client c = dial(&b);
    client_write(&c, "GET / HTTP/1.1\r\n\r\n");
    LOOP_UNTIL(b.loop, client_read(&c));
    expect_cause(&b, &c, cause);
    assert_int_equal(info(&b, &c).end.alert, alert);
    assert_int_equal(c.got.len, 0);
    assert_int_equal(tunnel_last_failure(b.t)->cause, cause);
    if (!info(&b, &c).end.was_open) {
        assert_int_equal(info(&b, &c).bytes_up, 0);
        assert_int_equal(c.error, ECONNRESET); /* nothing was taken */
    }
    client_release(&c);
    bed_release(&b);
}

TEST(tunnel, a_failed_dial_is_known_when_the_client_sees_it)
{
    expect_failure((struct gateway_config){.mode = GATEWAY_RESETS_AT_HELLO}, END_HELLO_RESET, 0);
    expect_failure((struct gateway_config){.mode = GATEWAY_SPEAKS_HTTP}, END_NOT_TLS, 0);
    expect_failure((struct gateway_config){.mode = GATEWAY_CUTS_HANDSHAKE}, END_HANDSHAKE_EOF, 0);
}

TEST(tunnel, a_refused_certificate_is_known_when_the_client_sees_it)
{
    expect_failure((struct gateway_config){.client_error = X509_V_ERR_SUBJECT_ISSUER_MISMATCH},
                   END_ALERT, 46);
    expect_failure((struct gateway_config){.wants_rsa_clients = true}, END_ALERT, 116);
}

TEST(tunnel, without_an_identity_the_gateway_is_not_dialled)
{
    struct bed b;
    struct client c;
    bed_init(&b);
    mesh_redact(&b.mesh);
    bed_start(&b, (struct gateway_config){0});
    c = dial(&b);
    LOOP_UNTIL(b.loop, client_read(&c));
    expect_cause(&b, &c, END_NO_IDENTITY);
    assert_non_null(strstr(info(&b, &c).end.err.msg, "no identity issued"));
    assert_int_equal(b.gw->n_conns, 0);
    client_release(&c);
    mesh_publish(&b.mesh, (struct mesh_offer){0});
    (void)bed_dial(&b, &c);
    expect_cause(&b, &c, END_NONE);
    client_release(&c);
    bed_release(&b);
}

TEST(tunnel, a_client_that_hangs_up_closes_its_stream)
{
    struct bed b;
    struct client c;
    bed_init(&b);
    bed_start(&b, (struct gateway_config){0});
    struct gateway_conn *g = bed_dial(&b, &c);
    client_write(&c, "last words");
    close(c.fd);
    LOOP_UNTIL(b.loop, g->has_eof);
    assert_true(g->has_close_notify);
    assert_true(str_eq(buf_str(&g->got), STR("last words")));
    expect_cause(&b, &c, END_CANCELED);
    assert_int_equal(tunnel_last_failure(b.t)->cause, END_NONE);
    assert_int_equal(tunnel_n_streams(b.t), 0);
    buf_release(&c.got);
    bed_release(&b);
}

TEST(tunnel, a_client_that_hangs_up_during_the_handshake_gives_its_place_back)
{
    struct bed b;
    bed_init(&b);
    bed_start(&b, (struct gateway_config){.mode = GATEWAY_STALLS});
    struct client c = dial(&b);
    LOOP_UNTIL(b.loop, b.gw->n_conns == 1);
    client_write(&c, "GET /");
    close(c.fd);
    LOOP_UNTIL_WITHIN(b.loop, tunnel_n_streams(b.t) == 0, 4000);
    expect_cause(&b, &c, END_CANCELED);
    buf_release(&c.got);
    bed_release(&b);
}

/* Its bytes are there to be read still. */
TEST(tunnel, a_client_that_hung_up_during_the_handshake_is_not_served_any_more)
{
    struct bed b;
    bed_init(&b);
    bed_start(&b, (struct gateway_config){0});
    struct client c = dial(&b);
    client_write(&c, "POST /");
    LOOP_UNTIL(b.loop, tunnel_n_streams(b.t) == 1);
    assert_int_equal(b.gw->n_conns, 0);
    close(c.fd);
    LOOP_UNTIL(b.loop, tunnel_n_streams(b.t) == 0);
    expect_cause(&b, &c, END_CANCELED);
    const struct gateway_conn *g = b.gw->conns[0];
    LOOP_UNTIL(b.loop, g->has_eof || g->has_reset);
    assert_int_equal(g->n_got, 0);
    assert_int_equal(info(&b, &c).bytes_up, 0);
    buf_release(&c.got);
    bed_release(&b);
}

TEST(tunnel, a_client_that_hung_up_while_it_waited_is_not_dialled_for)
{
    struct bed b;
    struct client first, third;
    bed_init(&b);
    b.cfg.max_streams = 1;
    bed_start(&b, (struct gateway_config){0});
    (void)bed_dial(&b, &first);
    struct client second = dial(&b);
    client_write(&second, "POST /");
    loop_settle(b.loop);
    close(second.fd);
    third = dial(&b);
    client_write(&third, "GET /");
    client_release(&first);
    LOOP_UNTIL(b.loop, b.gw->n_conns == 2 && b.gw->conns[1]->n_got == 5);
    assert_true(str_eq(buf_str(&b.gw->conns[1]->got), STR("GET /")));
    assert_false(info(&b, &second).is_known);
    buf_release(&second.got);
    client_release(&third);
    bed_release(&b);
}

/* Bytes of the client may be anywhere: unread, or taken and not yet encrypted. */
static void abandon_open(bool is_taken)
{
    struct bed b;
    struct client c;
    bed_init(&b);
    bed_start(&b, (struct gateway_config){0});
    struct gateway_conn *g = bed_dial(&b, &c);
    client_write(&c, "ask");
    LOOP_UNTIL(b.loop, g->n_got == 3);
    client_write(&c, "late");
    if (is_taken)
        LOOP_UNTIL(b.loop, info(&b, &c).bytes_up == 7);
    tunnel_abandon(b.t, c.name);
    expect_cause(&b, &c, END_CANCELED);
    assert_int_equal(info(&b, &c).bytes_up, 3);
    assert_int_equal(tunnel_n_streams(b.t), 0);
    tunnel_abandon(b.t, c.name);
    LOOP_UNTIL(b.loop, g->has_eof && client_read(&c));
    assert_true(g->has_close_notify);
    assert_int_equal(g->n_got, 3);
    assert_int_equal(tunnel_last_failure(b.t)->cause, END_NONE);
    client_release(&c);
    bed_release(&b);
}

TEST(tunnel, nothing_more_goes_up_from_an_abandoned_connection)
{
    abandon_open(false);
    abandon_open(true);
}

TEST(tunnel, a_connection_abandoned_during_the_handshake_ends_at_once)
{
    struct bed b;
    bed_init(&b);
    bed_start(&b, (struct gateway_config){.mode = GATEWAY_STALLS});
    struct client c = dial(&b);
    client_write(&c, "POST /");
    tunnel_abandon(b.t, c.name); /* not accepted yet: nothing to end */
    LOOP_UNTIL(b.loop, b.gw->n_conns == 1);
    tunnel_abandon(b.t, c.name);
    expect_cause(&b, &c, END_CANCELED);
    assert_int_equal(info(&b, &c).bytes_up, 0);
    assert_int_equal(tunnel_n_streams(b.t), 0);
    LOOP_UNTIL(b.loop, client_read(&c));
    assert_int_equal(c.error, ECONNRESET);
    client_release(&c);
    bed_release(&b);
}

static void expect_known_ends(unsigned max_streams, int n)
{
    struct bed b;
    struct client first, last = {0};
    bed_init(&b);
    b.cfg.max_streams = max_streams;
    mesh_redact(&b.mesh);
    bed_start(&b, (struct gateway_config){0});
    first = dial(&b);
    LOOP_UNTIL(b.loop, client_read(&first));
    for (int i = 0; i < n; i++) {
        assert_true(info(&b, &first).is_known);
        last = dial(&b);
        LOOP_UNTIL(b.loop, client_read(&last));
        if (i < n - 1)
            client_release(&last);
    }
    assert_false(info(&b, &first).is_known);
    assert_true(info(&b, &last).is_known);
    struct tunnel_peer_info none;
    tunnel_peer_info(b.t, "", &none);
    assert_false(none.is_known);
    tunnel_peer_info(b.t, "00ff", &none);
    assert_false(none.is_known);
    client_release(&first);
    client_release(&last);
    bed_release(&b);
}

TEST(tunnel, the_last_64_ends_are_known)
{
    expect_known_ends(8, 64);
}

/* All may be cut in one turn, before the first is asked for. */
TEST(tunnel, twice_as_many_ends_as_there_may_be_streams_are_known)
{
    expect_known_ends(40, 80);
}

/* Both happen in one turn of the loop; which first, is what the caller did first. */
static void expect_nothing_more_up(bool writes_first)
{
    struct bed b;
    struct client c;
    bed_init(&b);
    bed_start(&b, (struct gateway_config){0});
    struct gateway_conn *g = bed_dial(&b, &c);
    client_write(&c, "ask");
    LOOP_UNTIL(b.loop, g->n_got == 3);
    if (writes_first)
        client_write(&c, "ask again");
    gateway_reset(g);
    if (!writes_first)
        client_write(&c, "ask again");
    LOOP_UNTIL(b.loop, client_read(&c));
    expect_cause(&b, &c, END_RESET);
    assert_int_equal(info(&b, &c).bytes_up, 3);
    client_release(&c);
    bed_release(&b);
}

TEST(tunnel, bytes_that_come_after_the_streams_end_do_not_count)
{
    expect_nothing_more_up(false);
}

TEST(tunnel, bytes_that_the_streams_end_overtakes_do_not_count)
{
    expect_nothing_more_up(true);
}

/* ---- limits ---- */

TEST(tunnel, over_the_limit_connections_wait)
{
    struct bed b;
    struct client c[4];
    bed_init(&b);
    b.cfg.max_streams = 2;
    bed_start(&b, (struct gateway_config){0});
    for (int i = 0; i < 4; i++)
        c[i] = dial(&b);
    client_write(&c[2], "third");
    loop_run_for(b.loop, 60);
    assert_int_equal(b.gw->n_conns, 2);
    assert_int_equal(tunnel_n_streams(b.t), 2);
    assert_false(info(&b, &c[2]).is_known);
    client_release(&c[0]);
    LOOP_UNTIL(b.loop, b.gw->n_conns == 3 && b.gw->conns[2]->n_got == 5);
    client_release(&c[1]);
    LOOP_UNTIL(b.loop, b.gw->n_conns == 4 && b.gw->conns[3]->is_open);
    assert_int_equal(tunnel_n_streams(b.t), 2);
    client_release(&c[2]);
    client_release(&c[3]);
    bed_release(&b);
}

TEST(tunnel, failures_over_the_limit_serve_all_who_wait)
{
    struct bed b;
    struct client c[5];
    bed_init(&b);
    b.cfg.max_streams = 1;
    bed_start(&b, (struct gateway_config){.mode = GATEWAY_CLOSES_AT_HELLO});
    for (int i = 0; i < 5; i++)
        c[i] = dial(&b);
    for (int i = 0; i < 5; i++) {
        LOOP_UNTIL(b.loop, client_read(&c[i]));
        expect_cause(&b, &c[i], END_HELLO_RESET);
        client_release(&c[i]);
    }
    bed_release(&b);
}

/* ---- identities come and go ---- */

TEST(tunnel, a_rotation_retires_idle_streams_only)
{
    struct bed b;
    struct client idle, busy, fresh;
    bed_init(&b);
    bed_start(&b, (struct gateway_config){0});
    struct gateway_conn *g_idle = bed_dial(&b, &idle), *g_busy = bed_dial(&b, &busy);
    client_write(&idle, "ask");
    client_write(&busy, "ask");
    LOOP_UNTIL(b.loop, g_idle->n_got == 3 && g_busy->n_got == 3);
    gateway_write(g_idle, STR("answer"));
    LOOP_UNTIL(b.loop, client_got(&idle, "answer"));
    loop_run_for(b.loop, 1100); /* no sweep is due any more */
    mesh_publish(&b.mesh, (struct mesh_offer){0});
    loop_run_for(b.loop, 600);
    client_write(&idle, "ask");
    LOOP_UNTIL(b.loop, g_idle->n_got == 6);
    gateway_write(g_idle, STR("."));
    loop_run_for(b.loop, 700); /* the sweep came, but not a second after the answer */
    assert_false(client_read(&idle));
    LOOP_UNTIL(b.loop, client_read(&idle));
    (void)bed_dial(&b, &fresh);
    assert_true(idle.has_eof);
    expect_cause(&b, &idle, END_ROTATED);
    LOOP_UNTIL(b.loop, g_idle->has_close_notify);
    loop_run_for(b.loop, 1500);
    expect_cause(&b, &busy, END_NONE); /* its answer is still to come */
    expect_cause(&b, &fresh, END_NONE);
    gateway_write(g_busy, STR("at last"));
    LOOP_UNTIL(b.loop, client_got(&busy, "at last"));
    LOOP_UNTIL(b.loop, client_read(&busy));
    expect_cause(&b, &busy, END_ROTATED);
    assert_int_equal(tunnel_last_failure(b.t)->cause, END_NONE);
    expect_cause(&b, &fresh, END_NONE);
    client_release(&idle);
    client_release(&busy);
    client_release(&fresh);
    bed_release(&b);
}

TEST(tunnel, a_redaction_cuts_every_stream_at_once)
{
    struct bed b;
    struct client c[3];
    bed_init(&b);
    bed_start(&b, (struct gateway_config){0});
    for (int i = 0; i < 3; i++)
        (void)bed_dial(&b, &c[i]);
    client_write(&c[1], "in flight");
    LOOP_UNTIL(b.loop, b.gw->conns[1]->n_got == 9);
    uint64_t begin = uv_hrtime();
    mesh_redact(&b.mesh);
    for (int i = 0; i < 3; i++) {
        LOOP_UNTIL(b.loop, client_read(&c[i]));
        expect_cause(&b, &c[i], END_IDENTITY_GONE);
        LOOP_UNTIL(b.loop, b.gw->conns[i]->has_eof || b.gw->conns[i]->has_reset);
        client_release(&c[i]);
    }
    assert_true(uv_hrtime() - begin < 900u * 1000000);
    assert_int_equal(tunnel_n_streams(b.t), 0);
    bed_release(&b);
}

TEST(tunnel, a_lost_bundle_cuts_every_stream)
{
    struct bed b;
    struct client c;
    bed_init(&b);
    bed_start(&b, (struct gateway_config){0});
    (void)bed_dial(&b, &c);
    mesh_publish(&b.mesh, (struct mesh_offer){.has_no_bundle = true});
    LOOP_UNTIL(b.loop, client_read(&c));
    expect_cause(&b, &c, END_IDENTITY_GONE);
    client_release(&c);
    bed_release(&b);
}

/* Its context still holds the bundles of the time when it was dialled. */
TEST(tunnel, a_ca_withdrawn_during_the_handshake_is_trusted_no_more)
{
    struct bed b;
    bed_init(&b);
    bed_start(&b, (struct gateway_config){0});
    struct client c = dial(&b);
    client_write(&c, "POST /");
    LOOP_UNTIL(b.loop, tunnel_n_streams(b.t) == 1);
    assert_int_equal(b.gw->n_conns, 0);
    mesh_publish(&b.mesh, (struct mesh_offer){.bundle = &b.mesh.other_ca});
    LOOP_UNTIL_WITHIN(b.loop, client_read(&c), 5000);
    expect_cause(&b, &c, END_IDENTITY_GONE);
    assert_int_equal(info(&b, &c).bytes_up, 0);
    LOOP_UNTIL(b.loop, b.gw->conns[0]->has_eof || b.gw->conns[0]->has_reset);
    assert_int_equal(b.gw->conns[0]->n_got, 0);
    client_release(&c);
    bed_release(&b);
}

TEST(tunnel, a_request_that_comes_with_the_sweep_is_served)
{
    struct bed b;
    struct client c;
    bed_init(&b);
    bed_start(&b, (struct gateway_config){0});
    struct gateway_conn *g = bed_dial(&b, &c);
    mesh_publish(&b.mesh, (struct mesh_offer){0});
    loop_run_for(b.loop, 700);
    usleep(400000); /* the sweep is due, the stream idle */
    client_write(&c, "just in time");
    LOOP_UNTIL(b.loop, g->n_got == 12);
    expect_cause(&b, &c, END_NONE);
    client_release(&c);
    bed_release(&b);
}

TEST(tunnel, a_request_that_is_done_lets_an_old_stream_go_at_once)
{
    struct bed b;
    struct client c;
    bed_init(&b);
    bed_start(&b, (struct gateway_config){0});
    struct gateway_conn *g = bed_dial(&b, &c);
    client_write(&c, "ask");
    LOOP_UNTIL(b.loop, g->n_got == 3);
    tunnel_request_done(b.t, c.name); /* nothing newer: it stays */
    tunnel_request_done(b.t, "00ff");
    loop_run_for(b.loop, 20);
    expect_cause(&b, &c, END_NONE);
    mesh_publish(&b.mesh, (struct mesh_offer){0});
    gateway_write(g, STR("answer"));
    LOOP_UNTIL(b.loop, client_got(&c, "answer"));
    uint64_t begin = uv_hrtime();
    tunnel_request_done(b.t, c.name);
    LOOP_UNTIL(b.loop, client_read(&c));
    assert_true(uv_hrtime() - begin < 700u * 1000000);
    expect_cause(&b, &c, END_ROTATED);
    tunnel_request_done(b.t, c.name); /* it is gone */
    LOOP_UNTIL(b.loop, g->has_close_notify);
    client_release(&c);
    bed_release(&b);
}

/* A gateway, or the server behind it, may say something of its own first: a session ticket. */
TEST(tunnel, a_request_that_has_begun_keeps_its_stream_until_it_is_done)
{
    struct bed b;
    struct client c;
    bed_init(&b);
    bed_start(&b, (struct gateway_config){0});
    struct gateway_conn *g = bed_dial(&b, &c);
    tunnel_request_begun(b.t, "00ff");
    tunnel_request_begun(b.t, c.name);
    client_write(&c, "ask");
    LOOP_UNTIL(b.loop, g->n_got == 3);
    gateway_write(g, STR("ticket"));
    LOOP_UNTIL(b.loop, client_got(&c, "ticket"));
    mesh_publish(&b.mesh, (struct mesh_offer){0});
    loop_run_for(b.loop, 2300); /* two sweeps find it quiet for a second */
    expect_cause(&b, &c, END_NONE);
    gateway_write(g, STR("answer"));
    LOOP_UNTIL(b.loop, client_got(&c, "ticketanswer"));
    tunnel_request_done(b.t, c.name);
    LOOP_UNTIL(b.loop, client_read(&c));
    expect_cause(&b, &c, END_ROTATED);
    client_release(&c);
    bed_release(&b);
}

static void move_clock_behind(struct bed *b, enum stream_end_cause cause)
{
    struct client c;
    struct gateway_conn *g = bed_dial(b, &c);
    client_write(&c, "ask");
    LOOP_UNTIL(b->loop, g->n_got == 3);
    gateway_write(g, STR("answer"));
    LOOP_UNTIL(b->loop, client_got(&c, "answer"));
    b->mesh.wall_shift_ms = 3601000; /* a suspended machine wakes up: no timer has run */
    client_write(&c, "ask again");
    LOOP_UNTIL_WITHIN(b->loop, client_read(&c), 5000);
    expect_cause(b, &c, cause);
    assert_int_equal(g->n_got, 3);
    assert_int_equal(info(b, &c).bytes_up, 3);
    client_release(&c);
}

TEST(tunnel, our_expiry_is_seen_at_the_next_request)
{
    struct bed b;
    bed_init(&b);
    int64_t soon = clock_wall_ms(&b.mesh.clock) + 3600000;
    mesh_publish(&b.mesh, (struct mesh_offer){.not_after_ms = soon});
    bed_start(&b, (struct gateway_config){0});
    move_clock_behind(&b, END_IDENTITY_GONE);
    bed_release(&b);
}

TEST(tunnel, the_gateways_expiry_is_seen_at_the_next_request)
{
    struct bed b;
    bed_init(&b);
    struct cert_spec spec = certs_leaf_spec(MESH_GATEWAY);
    spec.not_after_s = clock_wall_ms(&b.mesh.clock) / 1000 + 3600;
    struct cert brief = certs_issue(&spec, &b.mesh.ca);
    bed_start(&b, (struct gateway_config){.leaf = &brief});
    move_clock_behind(&b, END_IDENTITY_GONE);
    bed_release(&b);
    certs_release(&brief);
}

/* One request; then the clock is moved on, and the answer is done. */
static void ask(struct bed *b, struct client *c, struct gateway_conn *g)
{
    client_write(c, "ask");
    LOOP_UNTIL(b->loop, g->n_got == 3);
    gateway_write(g, STR("answer"));
    LOOP_UNTIL(b->loop, client_got(c, "answer"));
}

static void expect_retired_before(struct bed *b, int64_t life_s, int64_t margin_s)
{
    struct client c;
    b->mesh.wall_shift_ms = 0;
    struct gateway_conn *g = bed_dial(b, &c);
    ask(b, &c, g);
    b->mesh.wall_shift_ms = (life_s - margin_s - 2) * 1000;
    tunnel_request_done(b->t, c.name);
    loop_settle(b->loop);
    expect_cause(b, &c, END_NONE);
    b->mesh.wall_shift_ms = (life_s - margin_s + 1) * 1000;
    tunnel_request_done(b->t, c.name);
    LOOP_UNTIL(b->loop, client_read(&c));
    expect_cause(b, &c, END_ROTATED);
    client_release(&c);
}

TEST(tunnel, a_stream_is_retired_before_the_gateways_certificate_ends)
{
    static const struct {
        int64_t life_s, margin_s;
    } cases[] = {{3600, 60}, {40, 10}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct bed b;
        bed_init(&b);
        struct cert_spec spec = certs_leaf_spec(MESH_GATEWAY);
        spec.not_after_s = clock_wall_ms(&b.mesh.clock) / 1000 + cases[i].life_s;
        struct cert brief = certs_issue(&spec, &b.mesh.ca);
        bed_start(&b, (struct gateway_config){.leaf = &brief});
        expect_retired_before(&b, cases[i].life_s, cases[i].margin_s);
        bed_release(&b);
        certs_release(&brief);
    }
}

TEST(tunnel, a_stream_is_retired_before_our_certificate_ends)
{
    struct bed b;
    bed_init(&b);
    int64_t end_ms = clock_wall_ms(&b.mesh.clock) + 3600000;
    mesh_publish(&b.mesh, (struct mesh_offer){.not_after_ms = end_ms});
    bed_start(&b, (struct gateway_config){0});
    expect_retired_before(&b, 3600, 60);
    bed_release(&b);
}

TEST(tunnel, an_idle_stream_is_retired_before_a_certificate_ends)
{
    struct bed b;
    struct client c;
    bed_init(&b);
    int64_t end_ms = clock_wall_ms(&b.mesh.clock) + 4000;
    mesh_publish(&b.mesh, (struct mesh_offer){.not_after_ms = end_ms});
    bed_start(&b, (struct gateway_config){0});
    struct gateway_conn *g = bed_dial(&b, &c);
    ask(&b, &c, g);
    LOOP_UNTIL(b.loop, client_read(&c));
    expect_cause(&b, &c, END_ROTATED);
    assert_in_range(end_ms - clock_wall_ms(&b.mesh.clock), 1, 1100); /* a quarter of its life */
    client_release(&c);
    bed_release(&b);
}

TEST(tunnel, an_old_stream_is_retired_when_idle)
{
    struct bed b;
    struct client c;
    bed_init(&b);
    b.cfg.max_age_ms = 300;
    bed_start(&b, (struct gateway_config){0});
    struct gateway_conn *g = bed_dial(&b, &c);
    client_write(&c, "ask");
    loop_run_for(b.loop, 1700);
    expect_cause(&b, &c, END_NONE); /* old, but not idle */
    gateway_write(g, STR("answer"));
    LOOP_UNTIL(b.loop, client_read(&c));
    assert_true(client_got(&c, "answer"));
    expect_cause(&b, &c, END_IDLE_TIMEOUT);
    client_release(&c);
    bed_release(&b);
}

/* ---- closing ---- */

TEST(tunnel, closing_ends_everything_once)
{
    struct bed b;
    struct client open, dialling, waiting;
    bed_init(&b);
    b.cfg.max_streams = 2;
    bed_start(&b, (struct gateway_config){0});
    struct gateway_conn *g = bed_dial(&b, &open);
    dialling = dial(&b);
    waiting = dial(&b);
    loop_settle(b.loop);
    char path[128];
    snprintf(path, sizeof path, "%s", tunnel_path(b.t));
    bed_close(&b);
    assert_int_equal(access(path, F_OK), -1);
    LOOP_UNTIL(b.loop, client_read(&open) && client_read(&dialling) && client_read(&waiting));
    LOOP_UNTIL(b.loop, g->has_close_notify);
    client_release(&open);
    client_release(&dialling);
    client_release(&waiting);
    bed_release(&b);
}

TEST(tunnel, closing_without_connections)
{
    struct bed b;
    bed_init(&b);
    bed_start(&b, (struct gateway_config){0});
    bed_release(&b);
}
