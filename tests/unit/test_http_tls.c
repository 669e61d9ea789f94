// SPDX-License-Identifier: Apache-2.0
/* TLS inside the tunnel: a server in a thread of its own, and a tunnel that is no more than its
 * socket. */
#include "test.h"

#include "aws/http.h"
#include "base/mem.h"
#include "certs.h"
#include "loop_fixture.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define NAME "n0.test" /* what certs writes into the certificate */

enum behaviour { SERVE, CLOSE_AT_HELLO, CUT_AFTER_REQUEST };

struct tunnel {
    char directory[64], path[96], ca_file[96], key_log[96];
    int listener;
    SSL_CTX *ctx;
    enum behaviour behaviour;
    unsigned n_connections, n_requests;
    pthread_t thread;
    struct stream_end end; /* what the tunnel says of any stream */
};

/* ---- in the place of tunnel.c ---- */

const char *tunnel_path(const struct tunnel *t)
{
    return t->path;
}

bool tunnel_client_name_from_fd(int fd, char *out, size_t cap)
{
    (void)fd;
    str_copy(out, cap, STR("it"));
    return true;
}

void tunnel_request_begun(struct tunnel *t, const char *client_name)
{
    (void)t;
    (void)client_name;
}

void tunnel_request_done(struct tunnel *t, const char *client_name)
{
    (void)t;
    (void)client_name;
}

void tunnel_peer_info(const struct tunnel *t, const char *client_name, struct tunnel_peer_info *out)
{
    (void)client_name;
    *out = (struct tunnel_peer_info){.is_known = true, .end = t->end, .bytes_up = 1u << 30};
}

void tunnel_abandon(struct tunnel *t, const char *client_name)
{
    (void)t;
    (void)client_name;
}

const struct stream_end *tunnel_failure_since(const struct tunnel *t, uint64_t since_ms)
{
    (void)since_ms;
    return &t->end;
}

/* ---- the server ---- */

/* One request with a body of 4 bytes; false: the client has gone. */
static bool read_request(SSL *ssl)
{
    char in[8192];
    size_t len = 0;
    for (;;) {
        int n = SSL_read(ssl, in + len, (int)(sizeof in - len - 1));
        if (n <= 0)
            return false;
        len += (size_t)n;
        in[len] = '\0';
        const char *end = strstr(in, "\r\n\r\n");
        if (end != NULL && len == (size_t)(end + 4 - in) + 4)
            return true;
    }
}

static void serve(struct tunnel *t, SSL *ssl)
{
    static const char ok[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    if (SSL_accept(ssl) != 1)
        return;
    while (read_request(ssl)) {
        t->n_requests++;
        if (t->behaviour == CUT_AFTER_REQUEST)
            return;
        if (SSL_write(ssl, ok, sizeof ok - 1) <= 0)
            return;
    }
}

static void *run_server(void *arg)
{
    struct tunnel *t = arg;
    int fd;
    while ((fd = accept(t->listener, NULL, NULL)) != -1) {
        t->n_connections++;
        char hello[512];
        if (t->behaviour == CLOSE_AT_HELLO && read(fd, hello, sizeof hello) > 0) {
            close(fd);
            continue;
        }
        SSL *ssl = SSL_new(t->ctx);
        SSL_set_fd(ssl, fd);
        serve(t, ssl);
        ERR_clear_error();
        SSL_free(ssl);
        close(fd);
    }
    OPENSSL_thread_stop();
    return NULL;
}

static void write_ca(const struct tunnel *t, const struct cert *ca)
{
    FILE *f = fopen(t->ca_file, "w");
    assert_non_null(f);
    assert_int_equal(PEM_write_X509(f, ca->x509), 1);
    fclose(f);
}

static void listen_on(struct tunnel *t)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    snprintf(sa.sun_path, sizeof sa.sun_path, "%s", t->path);
    t->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(t->listener, (struct sockaddr *)&sa, sizeof sa), 0);
    assert_int_equal(listen(t->listener, 8), 0);
}

struct world {
    uv_loop_t *loop;
    struct tunnel t;
    struct http *http;
    unsigned n_done;
    struct http_response r;
};

static void http_start(struct world *w, const char *ca_file)
{
    struct err e;
    const struct http_config cfg = {.ca_file = ca_file, .max_connections = 2};
    assert_true(http_new(w->loop, &cfg, &w->http, &e));
}

static void world_start(struct world *w, enum behaviour behaviour, struct cert_spec leaf)
{
    *w = (struct world){.loop = loop_new(),
                        .t = {.behaviour = behaviour, .directory = "/tmp/svidmail-tls-XXXXXX"}};
    assert_non_null(mkdtemp(w->t.directory));
    snprintf(w->t.path, sizeof w->t.path, "%s/s", w->t.directory);
    snprintf(w->t.ca_file, sizeof w->t.ca_file, "%s/ca.pem", w->t.directory);
    snprintf(w->t.key_log, sizeof w->t.key_log, "%s/keys", w->t.directory);
    struct cert ca = certs_ca("root"), own = certs_issue(&leaf, &ca);
    w->t.ctx = SSL_CTX_new(TLS_server_method());
    assert_int_equal(SSL_CTX_use_certificate(w->t.ctx, own.x509), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey(w->t.ctx, own.key), 1);
    write_ca(&w->t, &ca);
    certs_release(&own);
    certs_release(&ca);
    listen_on(&w->t);
    assert_int_equal(pthread_create(&w->t.thread, NULL, run_server, &w->t), 0);
    setenv("SSLKEYLOGFILE", w->t.key_log, 1);
    http_start(w, w->t.ca_file);
}

static void world_stop(struct world *w)
{
    http_free(&w->http);
    shutdown(w->t.listener, SHUT_RDWR);
    pthread_join(w->t.thread, NULL);
    close(w->t.listener);
    SSL_CTX_free(w->t.ctx);
    loop_free(&w->loop);
    assert_int_not_equal(access(w->t.key_log, F_OK), 0); /* no session key is ever written down */
    unsetenv("SSLKEYLOGFILE");
    unlink(w->t.ca_file);
    unlink(w->t.path);
    assert_int_equal(rmdir(w->t.directory), 0);
}

static struct cert_spec server_spec(void)
{
    struct cert_spec spec = certs_leaf_spec("spiffe://unused.test/x");
    spec.n_uris = 0;
    spec.n_dns = 1;
    return spec;
}

static bool read_body(void *arg, char *out, size_t cap, size_t *n)
{
    (void)arg;
    *n = cap < 4 ? cap : 4;
    memcpy(out, "body", *n);
    return true;
}

static void on_done(void *arg, const struct http_response *r)
{
    struct world *w = arg;
    w->n_done++;
    w->r = *r;
}

static void exchange(struct world *w, const char *host)
{
    const struct http_request r = {.tunnel = &w->t,
                                   .is_https = true,
                                   .host = host,
                                   .method = "POST",
                                   .path = "/",
                                   .body_len = 4,
                                   .body_read = read_body,
                                   .timeout_ms = 5000,
                                   .max_response_bytes = 1000};
    unsigned before = w->n_done;
    http_send(w->http, &r, on_done, w);
    LOOP_UNTIL(w->loop, w->n_done == before + 1);
}

/* ---- tests ---- */

TEST(http_tls, a_server_of_the_right_name_and_ca_is_spoken_to_and_kept)
{
    struct world w;
    world_start(&w, SERVE, server_spec());
    exchange(&w, NAME);
    assert_int_equal(w.r.status, 200);
    assert_true(w.r.is_new_connection);
    exchange(&w, NAME);
    assert_int_equal(w.r.status, 200);
    assert_false(w.r.is_new_connection);
    world_stop(&w);
    assert_int_equal(w.t.n_connections, 1);
}

TEST(http_tls, a_server_of_another_ca_is_refused_in_words)
{
    struct world w;
    world_start(&w, SERVE, server_spec());
    struct cert other = certs_ca("other");
    write_ca(&w.t, &other);
    certs_release(&other);
    exchange(&w, NAME);
    assert_int_equal(w.r.outcome, HTTP_NOT_SENT);
    assert_int_equal(w.r.err.code, ERR_DENIED);
    assert_int_equal(w.r.tunnel_end.cause, END_NONE);
    assert_non_null(strstr(w.r.err.msg, NAME));
    assert_non_null(strstr(w.r.err.msg, "certificate"));
    assert_non_null(strstr(w.r.err.msg, "aws.ca_file"));
    world_stop(&w);
    assert_int_equal(w.t.n_requests, 0);
}

#define SYSTEM_ROOTS "/etc/ssl/certs/ca-certificates.crt" /* built into Debian's libcurl */

/* Since the last time; equal events that nobody has read are one. */
static bool was_opened(int inotify)
{
    char events[4096];
    return read(inotify, events, sizeof events) > 0;
}

/* Some 150 certificates: parsed on the loop for each connection they would hold everybody up. */
TEST(http_tls, the_systems_roots_are_read_once)
{
    if (access(SYSTEM_ROOTS, R_OK) != 0)
        skip();
    struct world w;
    world_start(&w, SERVE, server_spec());
    http_free(&w.http);
    http_start(&w, "");
    int inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    assert_int_not_equal(inotify_add_watch(inotify, SYSTEM_ROOTS, IN_OPEN), -1);
    for (int i = 0; i < 3; i++) {
        exchange(&w, NAME);
        assert_int_equal(w.r.err.code, ERR_DENIED); /* our root is not among them */
        assert_int_equal(was_opened(inotify), i == 0);
    }
    close(inotify);
    world_stop(&w);
    assert_int_equal(w.t.n_connections, 3);
}

TEST(http_tls, a_server_of_another_name_is_refused)
{
    struct world w;
    world_start(&w, SERVE, server_spec());
    exchange(&w, "email.eu-central-1.amazonaws.com");
    assert_int_equal(w.r.outcome, HTTP_NOT_SENT);
    assert_int_equal(w.r.err.code, ERR_DENIED);
    assert_non_null(strstr(w.r.err.msg, "email.eu-central-1.amazonaws.com"));
    world_stop(&w);
    assert_int_equal(w.t.n_requests, 0);
}

TEST(http_tls, an_expired_certificate_is_refused)
{
    struct world w;
    struct cert_spec spec = server_spec();
    spec.not_after_s = CERTS_NOW_S - 1000;
    world_start(&w, SERVE, spec);
    exchange(&w, NAME);
    assert_int_equal(w.r.err.code, ERR_DENIED);
    assert_non_null(strstr(w.r.err.msg, "expired"));
    world_stop(&w);
}

TEST(http_tls, a_gateway_that_closes_at_the_hello_is_told_by_the_tunnel)
{
    struct world w;
    world_start(&w, CLOSE_AT_HELLO, server_spec());
    stream_end_set(&w.t.end, END_CLEAN, "gateway gw:9444", "");
    exchange(&w, NAME);
    assert_int_equal(w.r.outcome, HTTP_NOT_SENT);
    assert_int_equal(w.r.tunnel_end.cause, END_CLEAN);
    assert_non_null(strstr(w.r.err.msg, "gateway gw:9444"));
    w.t.end = (struct stream_end){0};
    exchange(&w, NAME);
    assert_int_equal(w.r.outcome, HTTP_NOT_SENT);
    assert_int_equal(w.r.err.code, ERR_UNAVAIL);
    assert_non_null(strstr(w.r.err.msg, "TLS with " NAME));
    world_stop(&w);
}

TEST(http_tls, a_cut_after_the_whole_request_is_unknown)
{
    struct world w;
    world_start(&w, CUT_AFTER_REQUEST, server_spec());
    exchange(&w, NAME);
    assert_int_equal(w.r.outcome, HTTP_UNKNOWN);
    world_stop(&w);
    assert_int_equal(w.t.n_requests, 1);
}

TEST(http_tls, a_ca_file_that_is_none_is_told)
{
    struct world w;
    world_start(&w, SERVE, server_spec());
    unlink(w.t.ca_file);
    exchange(&w, NAME);
    assert_int_equal(w.r.outcome, HTTP_NOT_SENT);
    assert_int_equal(w.r.err.code, ERR_SYNTAX);
    assert_non_null(strstr(w.r.err.msg, "aws.ca_file"));
    world_stop(&w);
}
