// SPDX-License-Identifier: Apache-2.0
/* gateway_fixture: a mesh for one test: our identity in a store, and a gateway on loopback, on the
 * same loop, that serves, or fails in the way it is told. */
#ifndef SVIDMAIL_TESTS_GATEWAY_FIXTURE_H
#define SVIDMAIL_TESTS_GATEWAY_FIXTURE_H
#include "certs.h"

#include "base/buf.h"
#include "identity/tls_context.h"
#include "identity/tls_stream.h"
#include "sys/stream.h"

#define MESH_DOMAIN  "mesh.test"
#define MESH_OWN_ID  "spiffe://mesh.test/ns/shop/sa/checkout"
#define MESH_GATEWAY "spiffe://mesh.test/ns/egress/sa/gateway"

/* ---- our side ---- */

struct mesh {
    struct cert ca, other_ca, own, gateway;
    struct clock clock; /* the machine's, moved by wall_shift_ms */
    int64_t wall_shift_ms;
    struct svid_store *store;
    struct tls_contexts *contexts;
    struct spiffe_id gateway_id;
};

void mesh_init(struct mesh *m, uv_loop_t *loop);
void mesh_release(struct mesh *m);

/* What the agent offers: own NULL = m->own, own_id NULL = MESH_OWN_ID, bundle NULL = m->ca;
 * has_no_bundle: the trust domain has none; not_after_ms 0 = the certificate's. */
struct mesh_offer {
    const struct cert *own;
    const char *own_id;
    const struct cert *bundle;
    bool has_no_bundle;
    int64_t not_after_ms;
};
void mesh_publish(struct mesh *m, struct mesh_offer offer);
void mesh_redact(struct mesh *m);
struct tls_context *mesh_context(struct mesh *m);
struct tls_stream_target mesh_target(const struct mesh *m, uint16_t port);

/* ---- the gateway ---- */

enum gateway_mode {
    GATEWAY_SERVES,
    GATEWAY_RESETS_AT_HELLO,
    GATEWAY_CLOSES_AT_HELLO,
    GATEWAY_CUTS_HANDSHAKE,   /* a part of its ServerHello, then end of file */
    GATEWAY_RESETS_HANDSHAKE, /* a part of its ServerHello, then a reset */
    GATEWAY_SPEAKS_HTTP,
    GATEWAY_STALLS, /* accepts and reads, says nothing */
};

struct gateway_config {
    enum gateway_mode mode;
    const struct cert *leaf;
    const struct cert *client_ca; /* NULL: no client certificate is asked for */
    int client_error;             /* X509_V_ERR_...: what it finds wrong with any client */
    bool wants_rsa_clients;       /* so that ours, P-256, sends no certificate at all */
    int max_version;              /* 0 = TLS 1.3 */
    const char *groups;
    bool is_echo, is_trickling; /* trickling: one byte per loop turn */
};

struct gateway_conn {
    struct gateway *g;
    struct stream *s;
    SSL *ssl;
    struct buf got, out;
    uint64_t n_got; /* plain bytes, also where got is cleared by the test */
    bool is_open, has_failed, has_close_notify, has_eof, has_reset, is_closed;
    char sni[256], alpn[32];
};

#define GATEWAY_MAX_CONNS 256

struct gateway {
    uv_loop_t *loop;
    struct gateway_config cfg;
    union {
        uv_tcp_t tcp;
        uv_stream_t stream;
        uv_handle_t handle;
    } listener;
    uv_idle_t trickle;
    SSL_CTX *ctx;
    uint16_t port;
    unsigned n_conns, n_handles; /* accepted ever; open handles of its own */
    struct gateway_conn *conns[GATEWAY_MAX_CONNS];
};

struct gateway *gateway_new(uv_loop_t *loop, const struct gateway_config *cfg);
void gateway_free(struct gateway **g);

void gateway_write(struct gateway_conn *c, struct str plain);
void gateway_close_notify(struct gateway_conn *c);
void gateway_last_words(struct gateway_conn *c,
                        struct str plain); /* and close_notify, as one write */
void gateway_key_update(struct gateway_conn *c);
void gateway_raw(struct gateway_conn *c, struct str bytes); /* past TLS */
void gateway_fin(struct gateway_conn *c);                   /* TCP end of file, no close_notify */
void gateway_reset(struct gateway_conn *c);
void gateway_pause(struct gateway_conn *c, bool is_paused);

#endif
