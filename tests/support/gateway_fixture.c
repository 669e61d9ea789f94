// SPDX-License-Identifier: Apache-2.0
#include "gateway_fixture.h"

#include "base/mem.h"
#include "test.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define QUEUE_BYTES (64u << 20)

/* ---- our side ---- */

static int64_t shifted_wall_ms(void *ctx)
{
    const struct mesh *m = ctx;
    return clock_wall_ms(clock_system()) + m->wall_shift_ms;
}

static uint64_t mono_ms(void *ctx)
{
    (void)ctx;
    return clock_mono_ms(clock_system());
}

void mesh_init(struct mesh *m, uv_loop_t *loop)
{
    memset(m, 0, sizeof *m);
    m->ca = certs_ca("mesh");
    m->other_ca = certs_ca("other");
    m->own = certs_leaf(MESH_OWN_ID, &m->ca);
    m->gateway = certs_leaf(MESH_GATEWAY, &m->ca);
    m->clock = (struct clock){shifted_wall_ms, mono_ms, m};
    const struct svid_choice any[SVID_ROLE_COUNT] = {{"", ""}, {"", ""}};
    m->store = svid_store_new(any, &m->clock, loop);
    m->contexts = tls_contexts_new(m->store, SVID_MESH, &m->clock);
    struct err e;
    assert_true(spiffe_id_parse(STR(MESH_GATEWAY), &m->gateway_id, &e));
}

void mesh_release(struct mesh *m)
{
    tls_contexts_free(&m->contexts);
    svid_store_free(&m->store);
    certs_release(&m->ca);
    certs_release(&m->other_ca);
    certs_release(&m->own);
    certs_release(&m->gateway);
}

void mesh_publish(struct mesh *m, struct mesh_offer offer)
{
    const struct cert *own = offer.own != NULL ? offer.own : &m->own;
    const struct cert *bundle = offer.bundle != NULL ? offer.bundle : &m->ca;
    struct svid_set *set = svid_set_new(1, 1);
    set->n_svids = set->n_bundles = 1;
    struct svid *v = &set->svids[0];
    struct err e;
    assert_true(
        spiffe_id_parse(str_from(offer.own_id != NULL ? offer.own_id : MESH_OWN_ID), &v->id, &e));
    v->hint = xstrdup("");
    v->chain = sk_X509_new_null();
    X509_up_ref(own->x509);
    sk_X509_push(v->chain, own->x509);
    EVP_PKEY_up_ref(own->key);
    v->key = own->key;
    v->not_after_ms = offer.not_after_ms != 0 ? offer.not_after_ms : INT64_MAX;
    set->bundles[0].trust_domain = xstrdup(MESH_DOMAIN);
    set->bundles[0].is_own = true;
    if (!offer.has_no_bundle) {
        set->bundles[0].store = X509_STORE_new();
        X509_STORE_add_cert(set->bundles[0].store, bundle->x509);
        set->bundles[0].n_cas = 1;
    }
    svid_store_publish(m->store, &set);
}

void mesh_redact(struct mesh *m)
{
    struct err why;
    err_set(&why, ERR_DENIED, 0, "no identity issued");
    svid_store_redact(m->store, &why);
}

struct tls_context *mesh_context(struct mesh *m)
{
    struct tls_context *c;
    struct err e;
    if (!tls_contexts_get(m->contexts, &c, &e))
        fail_msg("no context: %s", e.msg);
    return c;
}

struct tls_stream_target mesh_target(const struct mesh *m, uint16_t port)
{
    return (struct tls_stream_target){
        .host = "127.0.0.1",
        .port = port,
        .sni = "email.eu-west-1.amazonaws.com",
        .ids = &m->gateway_id,
        .n_ids = 1,
    };
}

/* ---- the gateway ---- */

static void conn_flush(struct gateway_conn *c)
{
    char chunk[16384];
    size_t n;
    while (c->ssl != NULL && BIO_read_ex(SSL_get_wbio(c->ssl), chunk, sizeof chunk, &n) == 1)
        assert_true(buf_append(&c->out, chunk, n));
    if (c->s == NULL || c->g->cfg.is_trickling)
        return;
    if (stream_write(c->s, buf_str(&c->out)))
        buf_clear(&c->out);
}

static void on_trickle(uv_idle_t *idle)
{
    struct gateway *g = idle->data;
    for (unsigned i = 0; i < g->n_conns; i++) {
        struct gateway_conn *c = g->conns[i];
        if (c->s != NULL && c->out.len > 0 && stream_write(c->s, str_sub(buf_str(&c->out), 0, 1)))
            buf_consume(&c->out, 1);
    }
}

static void conn_close(struct gateway_conn *c)
{
    stream_close(&c->s);
}

static void socket_reset(struct stream *s)
{
    struct linger now = {1, 0};
    setsockopt(stream_fd(s), SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

void gateway_reset(struct gateway_conn *c)
{
    socket_reset(c->s);
    conn_close(c);
}

/* What was written has gone out: it is little. */
static void conn_fin(struct gateway_conn *c)
{
    assert_int_equal(stream_write_queued(c->s), 0);
    assert_int_equal(shutdown(stream_fd(c->s), SHUT_WR), 0);
}

static void conn_read(struct gateway_conn *c)
{
    char plain[16384];
    size_t n;
    if (c->has_failed)
        return;
    ERR_clear_error();
    int rc = c->is_open ? 1 : SSL_accept(c->ssl);
    if (rc != 1 && SSL_get_error(c->ssl, rc) == SSL_ERROR_SSL) {
        c->has_failed = true;
        conn_flush(c); /* its alert */
        conn_fin(c);
        return;
    }
    if (rc == 1 && !c->is_open) {
        c->is_open = true;
        const char *sni = SSL_get_servername(c->ssl, TLSEXT_NAMETYPE_host_name);
        str_copy(c->sni, sizeof c->sni, str_from(sni));
    }
    while (c->is_open && SSL_read_ex(c->ssl, plain, sizeof plain, &n) == 1) {
        c->n_got += n;
        assert_true(buf_append(&c->got, plain, n));
        if (c->g->cfg.is_echo)
            gateway_write(c, (struct str){plain, n});
    }
    if ((SSL_get_shutdown(c->ssl) & SSL_RECEIVED_SHUTDOWN) != 0)
        c->has_close_notify = true;
    ERR_clear_error();
    conn_flush(c);
}

/* The flight that answers the ClientHello, cut short. */
static void conn_cut_handshake(struct gateway_conn *c)
{
    ERR_clear_error();
    (void)SSL_accept(c->ssl);
    char part[60];
    size_t n;
    assert_int_equal(BIO_read_ex(SSL_get_wbio(c->ssl), part, sizeof part, &n), 1);
    assert_true(stream_write(c->s, (struct str){part, n}));
    conn_fin(c);
}

static void on_conn_read(void *arg, struct str bytes)
{
    struct gateway_conn *c = arg;
    size_t n;
    assert_int_equal(BIO_write_ex(SSL_get_rbio(c->ssl), bytes.p, bytes.len, &n), 1);
    switch (c->g->cfg.mode) {
    case GATEWAY_SERVES:
        conn_read(c);
        return;
    case GATEWAY_RESETS_AT_HELLO:
        gateway_reset(c);
        return;
    case GATEWAY_CLOSES_AT_HELLO:
        conn_close(c);
        return;
    case GATEWAY_CUTS_HANDSHAKE:
        conn_cut_handshake(c);
        return;
    case GATEWAY_RESETS_HANDSHAKE:
        conn_cut_handshake(c);
        gateway_reset(c);
        return;
    case GATEWAY_SPEAKS_HTTP:
        assert_true(stream_write(c->s, STR("HTTP/1.1 400 Bad Request\r\n\r\n")));
        conn_fin(c);
        return;
    case GATEWAY_STALLS:
        return;
    }
}

static void on_conn_end(void *arg, const struct err *e)
{
    struct gateway_conn *c = arg;
    c->has_eof = e == NULL;
    c->has_reset = e != NULL;
}

static void on_conn_drain(void *arg)
{
    conn_flush(arg);
}

static void on_conn_closed(void *arg)
{
    struct gateway_conn *c = arg;
    c->is_closed = true;
}

static void on_connection(uv_stream_t *listener, int status)
{
    static const struct stream_events events = {NULL, on_conn_read, on_conn_end, on_conn_drain,
                                                on_conn_closed};
    struct gateway *g = listener->data;
    struct err e;
    assert_int_equal(status, 0);
    assert_true(g->n_conns < GATEWAY_MAX_CONNS);
    struct gateway_conn *c = g->conns[g->n_conns] = xcalloc(1, sizeof *c);
    c->g = g;
    buf_init(&c->got, QUEUE_BYTES);
    buf_init(&c->out, QUEUE_BYTES);
    c->ssl = SSL_new(g->ctx);
    SSL_set_bio(c->ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    assert_true(stream_accept(listener, &events, c, (struct stream_limits){65536}, &c->s, &e));
    stream_read_start(c->s);
    g->n_conns++;
}

static int on_verify_client(X509_STORE_CTX *store_ctx, void *arg)
{
    const struct gateway *g = arg;
    if (g->cfg.client_error != 0) {
        X509_STORE_CTX_set_error(store_ctx, g->cfg.client_error);
        return 0;
    }
    return X509_verify_cert(store_ctx);
}

static SSL_CTX *ctx_new(struct gateway *g)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    assert_int_equal(SSL_CTX_use_certificate(ctx, g->cfg.leaf->x509), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey(ctx, g->cfg.leaf->key), 1);
    if (g->cfg.max_version != 0)
        SSL_CTX_set_max_proto_version(ctx, g->cfg.max_version);
    if (g->cfg.groups != NULL)
        assert_int_equal(SSL_CTX_set1_groups_list(ctx, g->cfg.groups), 1);
    if (g->cfg.client_ca != NULL) {
        X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), g->cfg.client_ca->x509);
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
        SSL_CTX_set_cert_verify_callback(ctx, on_verify_client, g);
    }
    if (g->cfg.wants_rsa_clients)
        assert_int_equal(SSL_CTX_set1_client_sigalgs_list(ctx, "RSA-PSS+SHA256"), 1);
    return ctx;
}

struct gateway *gateway_new(uv_loop_t *loop, const struct gateway_config *cfg)
{
    struct gateway *g = xcalloc(1, sizeof *g);
    g->loop = loop;
    g->cfg = *cfg;
    g->ctx = ctx_new(g);
    struct sockaddr_in sa;
    int len = sizeof sa;
    uv_ip4_addr("127.0.0.1", 0, &sa);
    uv_tcp_init(loop, &g->listener.tcp);
    uv_idle_init(loop, &g->trickle);
    g->listener.handle.data = g->trickle.data = g;
    g->n_handles = 2;
    assert_int_equal(uv_tcp_bind(&g->listener.tcp, (struct sockaddr *)&sa, 0), 0);
    assert_int_equal(uv_listen(&g->listener.stream, 128, on_connection), 0);
    uv_tcp_getsockname(&g->listener.tcp, (struct sockaddr *)&sa, &len);
    g->port = ntohs(sa.sin_port);
    if (cfg->is_trickling)
        uv_idle_start(&g->trickle, on_trickle);
    return g;
}

static void conn_free(struct gateway_conn *c)
{
    SSL_free(c->ssl);
    buf_release(&c->got);
    buf_release(&c->out);
    free(c);
}

static void on_handle_closed(uv_handle_t *h)
{
    struct gateway *g = h->data;
    if (--g->n_handles > 0)
        return;
    for (unsigned i = 0; i < g->n_conns; i++)
        conn_free(g->conns[i]);
    SSL_CTX_free(g->ctx);
    free(g);
}

/* Streams closed here are gone one close phase before the handles closed after them. */
void gateway_free(struct gateway **pg)
{
    struct gateway *g = *pg;
    *pg = NULL;
    for (unsigned i = 0; i < g->n_conns; i++) {
        conn_close(g->conns[i]);
        uv_loop_t *loop = g->loop;
        while (!g->conns[i]->is_closed)
            uv_run(loop, UV_RUN_NOWAIT);
    }
    uv_close(&g->listener.handle, on_handle_closed);
    uv_close((uv_handle_t *)&g->trickle, on_handle_closed);
}

void gateway_write(struct gateway_conn *c, struct str plain)
{
    size_t n;
    ERR_clear_error();
    while (plain.len > 0 && SSL_write_ex(c->ssl, plain.p, plain.len, &n) == 1)
        plain = str_sub(plain, n, plain.len);
    conn_flush(c);
}

void gateway_last_words(struct gateway_conn *c, struct str plain)
{
    size_t n;
    assert_int_equal(SSL_write_ex(c->ssl, plain.p, plain.len, &n), 1);
    gateway_close_notify(c);
}

void gateway_close_notify(struct gateway_conn *c)
{
    (void)SSL_shutdown(c->ssl);
    conn_flush(c);
}

void gateway_key_update(struct gateway_conn *c)
{
    assert_int_equal(SSL_key_update(c->ssl, SSL_KEY_UPDATE_REQUESTED), 1);
    (void)SSL_do_handshake(c->ssl);
    conn_flush(c);
}

void gateway_raw(struct gateway_conn *c, struct str bytes)
{
    assert_true(stream_write(c->s, bytes));
}

void gateway_fin(struct gateway_conn *c)
{
    conn_fin(c);
}

void gateway_pause(struct gateway_conn *c, bool is_paused)
{
    if (is_paused)
        stream_read_stop(c->s);
    else
        stream_read_start(c->s);
}
