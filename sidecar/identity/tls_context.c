// SPDX-License-Identifier: Apache-2.0
#include "identity/tls_context.h"

#include "base/mem.h"
#include "core/x509_svid.h"

#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECURITY_LEVEL 2 /* 112 bits, as x509_svid asks of chains */
#define EXPECTED_SHOWN 160
#define SHOWN_ID       120

/* A key share for both first groups saves the round trip of a HelloRetryRequest; OpenSSL below 3.5
 * knows neither ML-KEM nor the '*'. */
static const char groups_pq[] = "*X25519MLKEM768:*X25519:P-256", groups_classic[] = "X25519:P-256";

struct tls_context {
    unsigned refs;
    SSL_CTX *ctx;
    struct svid_set *set;
    const struct svid *svid; /* in set */
    const struct clock *clock;
};

struct tls_contexts {
    struct svid_store *store;
    enum svid_role role;
    const struct clock *clock;
    struct tls_context *newest; /* or NULL */
};

/* What the verify callback of one SSL needs; freed with the SSL. */
struct judge {
    struct tls_context *context;
    const struct spiffe_id *ids;
    size_t n_ids;
    struct tls_peer *peer;
};

static int on_verify(X509_STORE_CTX *store_ctx, void *arg);
static int judge_index(void);

static void context_free(struct tls_context *c)
{
    SSL_CTX_free(c->ctx);
    svid_set_unref(&c->set);
    free(c);
}

struct tls_context *tls_context_ref(struct tls_context *c)
{
    CHECK(c->refs > 0);
    c->refs++;
    return c;
}

void tls_context_unref(struct tls_context **pc)
{
    struct tls_context *c = *pc;
    *pc = NULL;
    if (c != NULL && --c->refs == 0)
        context_free(c);
}

const struct svid *tls_context_svid(const struct tls_context *c)
{
    return c->svid;
}

struct svid_set *tls_context_set(const struct tls_context *c)
{
    return c->set;
}

NODISCARD static bool fail_openssl(const char *what, struct err *e)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    err_set(e, ERR_SYNTAX, 0, "%s: %s", what, reason != NULL ? reason : "no reason given");
    ERR_clear_error();
    return false;
}

NODISCARD static bool set_own_svid(SSL_CTX *ctx, const struct svid *v, struct err *e)
{
    STACK_OF(X509) *rest = sk_X509_dup(v->chain);
    CHECK(rest != NULL && sk_X509_num(rest) > 0);
    X509 *leaf = sk_X509_shift(rest);
    bool ok = SSL_CTX_use_certificate(ctx, leaf) == 1 && SSL_CTX_use_PrivateKey(ctx, v->key) == 1 &&
              SSL_CTX_set1_chain(ctx, rest) == 1;
    sk_X509_free(rest);
    return ok || fail_openssl("OpenSSL refuses our SVID", e);
}

static void set_protocol(SSL_CTX *ctx)
{
    CHECK(SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) == 1);
    CHECK(SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) == 1);
    SSL_CTX_set_security_level(ctx, SECURITY_LEVEL);
    if (SSL_CTX_set1_groups_list(ctx, groups_pq) != 1)
        CHECK(SSL_CTX_set1_groups_list(ctx, groups_classic) == 1);
    /* A resumed session would outlive a rotated identity, ours and the gateway's. */
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                              SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_NO_AUTO_CHAIN);
    /* The default store stays empty: on_verify brings the one of the peer's trust domain. */
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_cert_verify_callback(ctx, on_verify, NULL);
    ERR_clear_error();
}

/* Takes *set only on success. */
NODISCARD static bool build(struct svid_set **set, const struct svid *v, const struct clock *clock,
                            struct tls_context **out, struct err *e)
{
    ERR_clear_error();
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    if (ctx == NULL)
        return fail_openssl("OpenSSL makes no TLS context", e);
    set_protocol(ctx);
    if (!set_own_svid(ctx, v, e)) {
        SSL_CTX_free(ctx);
        return err_wrap(e, "SVID %.*s", SHOWN_ID, v->id.text);
    }
    struct tls_context *c = xcalloc(1, sizeof *c);
    *c = (struct tls_context){.refs = 1, .ctx = ctx, .set = *set, .svid = v, .clock = clock};
    *set = NULL;
    *out = c;
    return true;
}

struct tls_contexts *tls_contexts_new(struct svid_store *store, enum svid_role role,
                                      const struct clock *clock)
{
    struct tls_contexts *f = xcalloc(1, sizeof *f);
    *f = (struct tls_contexts){.store = store, .role = role, .clock = clock};
    return f;
}

void tls_contexts_free(struct tls_contexts **pf)
{
    struct tls_contexts *f = *pf;
    *pf = NULL;
    if (f == NULL)
        return;
    tls_context_unref(&f->newest);
    free(f);
}

bool tls_contexts_get(struct tls_contexts *f, struct tls_context **out, struct err *e)
{
    struct svid_set *set;
    const struct svid *v;
    *out = NULL;
    bool ok = svid_store_select(f->store, f->role, &set, &v, e);
    /* v is NULL where there is none: no key stays longer than its identity is in use.  The cache
     * holds a reference on its set, so the same address means the same generation. */
    if (f->newest != NULL && f->newest->svid != v)
        tls_context_unref(&f->newest);
    if (ok && f->newest == NULL)
        ok = build(&set, v, f->clock, &f->newest, e);
    svid_set_unref(&set);
    if (ok)
        *out = tls_context_ref(f->newest);
    return ok;
}

static void set_names(SSL *ssl, const struct tls_peer_rule *rule)
{
    if (rule->sni != NULL && rule->sni[0] != '\0')
        CHECK(SSL_set_tlsext_host_name(ssl, rule->sni) == 1);
    size_t len = rule->alpn != NULL ? strlen(rule->alpn) : 0;
    if (len == 0)
        return;
    unsigned char wire[256];
    CHECK(len < sizeof wire);
    wire[0] = (unsigned char)len;
    memcpy(wire + 1, rule->alpn, len);
    CHECK(SSL_set_alpn_protos(ssl, wire, (unsigned)len + 1) == 0); /* 0 is success here */
}

SSL *tls_context_new_ssl(struct tls_context *c, const struct tls_peer_rule *rule,
                         struct tls_peer *peer)
{
    SSL *ssl = SSL_new(c->ctx);
    CHECK(ssl != NULL);
    memset(peer, 0, sizeof *peer);
    struct judge *j = xcalloc(1, sizeof *j);
    *j = (struct judge){tls_context_ref(c), rule->ids, rule->n_ids, peer};
    CHECK(SSL_set_ex_data(ssl, judge_index(), j) == 1);
    SSL_set_connect_state(ssl);
    set_names(ssl, rule);
    return ssl;
}

static void on_ssl_free(void *ssl, void *data, CRYPTO_EX_DATA *ad, int index, long argl, void *argp)
{
    (void)ssl, (void)ad, (void)index, (void)argl, (void)argp;
    struct judge *j = data;
    if (j == NULL)
        return;
    tls_context_unref(&j->context);
    free(j);
}

/* Loop thread only; given back with the process. */
static int judge_index(void)
{
    static int index = -1;
    if (index == -1)
        index = SSL_get_ex_new_index(0, NULL, NULL, NULL, on_ssl_free);
    CHECK(index != -1);
    return index;
}

/* V1-V16 with the bundles of set: END_NONE, or why not. */
static enum stream_end_cause judge_chain(STACK_OF(X509) *chain, const struct svid_set *set,
                                         int64_t wall_ms, struct spiffe_id *id, struct err *e)
{
    const X509 *leaf = sk_X509_value(chain, 0); /* NULL for an empty or absent chain */
    if (leaf == NULL) {
        err_set(e, ERR_SYNTAX, 0, "the gateway showed no certificate");
        return END_PEER_NOT_SVID;
    }
    if (!x509_svid_check_leaf(leaf, id, e))
        return END_PEER_NOT_SVID;
    X509_STORE *store = svid_set_bundle(set, spiffe_id_trust_domain(id));
    return x509_svid_verify(chain, store, wall_ms, id, e) ? END_NONE : END_PEER_UNTRUSTED;
}

static void format_expected(const struct judge *j, char out[EXPECTED_SHOWN])
{
    size_t len = 0;
    snprintf(out, EXPECTED_SHOWN, "none (gateway.spiffe_ids is empty)");
    for (size_t i = 0; i < j->n_ids && len < EXPECTED_SHOWN - 1; i++) {
        int n =
            snprintf(out + len, EXPECTED_SHOWN - len, "%s%s", i > 0 ? " or " : "", j->ids[i].text);
        len += (size_t)n;
    }
}

static enum stream_end_cause judge_identity(const struct judge *j, const struct spiffe_id *id,
                                            struct err *e)
{
    for (size_t i = 0; i < j->n_ids; i++)
        if (spiffe_id_equal(&j->ids[i], id))
            return END_NONE;
    char expected[EXPECTED_SHOWN];
    format_expected(j, expected);
    err_set(e, ERR_DENIED, 0, "the gateway is %.*s, expected %s", SHOWN_ID, id->text, expected);
    return END_PEER_IDENTITY;
}

/* A code that OpenSSL turns into the TLS alert in brackets. */
static int alert_code(enum stream_end_cause refusal, const struct err *why)
{
    if (refusal == END_NONE)
        return X509_V_OK;
    if (refusal == END_PEER_NOT_SVID)
        return X509_V_ERR_INVALID_PURPOSE; /* unsupported_certificate (43) */
    if (refusal == END_PEER_IDENTITY)
        return X509_V_ERR_SUBJECT_ISSUER_MISMATCH; /* certificate_unknown (46), as Envoy says it */
    if (why->code == ERR_EXPIRED)
        return X509_V_ERR_CERT_HAS_EXPIRED;              /* certificate_expired (45) */
    return X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY; /* unknown_ca (48) */
}

static int on_verify(X509_STORE_CTX *store_ctx, void *arg)
{
    (void)arg;
    SSL *ssl = X509_STORE_CTX_get_ex_data(store_ctx, SSL_get_ex_data_X509_STORE_CTX_idx());
    const struct judge *j = SSL_get_ex_data(ssl, judge_index());
    struct tls_peer *peer = j->peer;
    STACK_OF(X509) *chain = X509_STORE_CTX_get0_untrusted(store_ctx); /* leaf first, as sent */
    memset(peer, 0, sizeof *peer);
    peer->refusal = judge_chain(chain, j->context->set, clock_wall_ms(j->context->clock), &peer->id,
                                &peer->why);
    if (peer->refusal == END_NONE)
        peer->refusal = judge_identity(j, &peer->id, &peer->why);
    int64_t not_before_ms;
    if (peer->refusal == END_NONE &&
        !x509_validity(sk_X509_value(chain, 0), &not_before_ms, &peer->not_after_ms))
        peer->refusal = END_PEER_NOT_SVID; /* UNTESTED: path validation has read these times */
    X509_STORE_CTX_set_error(store_ctx, alert_code(peer->refusal, &peer->why));
    return peer->refusal == END_NONE;
}

bool tls_peer_still_trusted(SSL *ssl, const struct svid_set *set, int64_t wall_ms, struct err *e)
{
    struct spiffe_id id;
    return judge_chain(SSL_get_peer_cert_chain(ssl), set, wall_ms, &id, e) == END_NONE;
}
