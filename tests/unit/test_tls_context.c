// SPDX-License-Identifier: Apache-2.0
/* Our client against a plain OpenSSL server, joined by a pair of BIOs. */
#include "test.h"

#include "base/mem.h"
#include "certs.h"
#include "core/x509_svid.h"
#include "fake_time.h"
#include "identity/tls_context.h"

#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof *(a))
#define OUR_ID   "spiffe://td.test/app"
#define GW_ID    "spiffe://td.test/gw"

/* ---- our side: a store with one SVID (leaf, intermediate) and the bundles of two trust domains
 * ---- */

static struct cert root, inter, own, alien_root;
static struct svid_store *store;
static struct tls_contexts *contexts;
static const struct clock *now;
static struct spiffe_id gw_id;
static struct err e;

static void set_bundle(struct svid_bundle *b, const char *trust_domain, X509 *ca)
{
    STACK_OF(X509) *cas = certs_stack(1, ca);
    b->trust_domain = xstrdup(trust_domain);
    b->store = x509_store_new(cas);
    b->n_cas = 1;
    certs_stack_free(cas);
}

static struct svid_set *make_set(const struct cert *leaf, X509 *td_ca, X509 *federated_ca)
{
    size_t n_bundles = federated_ca != NULL ? 2 : 1;
    struct svid_set *set = svid_set_new(1, n_bundles);
    struct svid *v = &set->svids[0];
    set->n_svids = 1;
    set->n_bundles = n_bundles;
    assert_true(spiffe_id_parse(STR(OUR_ID), &v->id, NULL));
    v->hint = xstrdup("");
    v->chain = certs_stack(2, leaf->x509, inter.x509);
    v->key = leaf->key;
    EVP_PKEY_up_ref(leaf->key);
    assert_true(x509_validity(leaf->x509, &v->not_before_ms, &v->not_after_ms));
    set_bundle(&set->bundles[0], "td.test", td_ca);
    if (federated_ca != NULL)
        set_bundle(&set->bundles[1], "fed.test", federated_ca);
    return set;
}

static void publish(const struct cert *leaf, X509 *td_ca, X509 *federated_ca)
{
    struct svid_set *set = make_set(leaf, td_ca, federated_ca);
    svid_store_publish(store, &set);
}

static void setup(void)
{
    static const struct svid_choice choices[SVID_ROLE_COUNT];
    struct cert_spec spec = certs_ca_spec("inter");
    root = certs_ca("root");
    inter = certs_issue(&spec, &root);
    alien_root = certs_ca("alien");
    own = certs_leaf(OUR_ID, &inter);
    now = fake_time_start();
    store = svid_store_new(choices, now, NULL);
    contexts = tls_contexts_new(store, SVID_MESH, now);
    assert_true(spiffe_id_parse(STR(GW_ID), &gw_id, NULL));
    publish(&own, root.x509, alien_root.x509);
}

static void teardown(void)
{
    tls_contexts_free(&contexts);
    svid_store_free(&store);
    certs_release(&own);
    certs_release(&inter);
    certs_release(&alien_root);
    certs_release(&root);
    assert_int_equal(fake_time_n_timers(), 0);
    assert_int_equal(ERR_peek_error(), 0);
}

static struct tls_context *get_context(void)
{
    struct tls_context *c;
    e = (struct err){0};
    if (!tls_contexts_get(contexts, &c, &e))
        assert_null(c);
    return c;
}

/* ---- the other side ---- */

struct pair {
    SSL_CTX *server_ctx;
    SSL *client, *server;
    struct tls_peer peer;
    bool is_open;               /* both think so */
    int alert;                  /* as the server got it, -1: none */
    unsigned long client_error; /* the last one of OpenSSL's */
    int n_hellos;               /* ClientHellos the server got: 2 after a HelloRetryRequest */
    char alpn[64];              /* as offered, wire form */
    size_t alpn_len;
};

static int on_any_client(X509_STORE_CTX *ctx, void *arg)
{
    (void)arg;
    X509_STORE_CTX_set_error(ctx, X509_V_OK);
    return 1;
}

static void on_info(const SSL *ssl, int where, int ret)
{
    struct pair *p = SSL_get_app_data(ssl);
    if ((where & SSL_CB_ALERT) && (where & SSL_CB_READ))
        p->alert = ret & 0xff;
}

static void on_message(int is_write, int version, int type, const void *bytes, size_t len, SSL *ssl,
                       void *arg)
{
    (void)version, (void)arg;
    struct pair *p = SSL_get_app_data(ssl);
    if (!is_write && type == SSL3_RT_HANDSHAKE && len > 0 &&
        *(const char *)bytes == SSL3_MT_CLIENT_HELLO)
        p->n_hellos++;
}

static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                   const unsigned char *in, unsigned in_len, void *arg)
{
    (void)arg, (void)out, (void)out_len;
    struct pair *p = SSL_get_app_data(ssl);
    p->alpn_len = in_len;
    memcpy(p->alpn, in, in_len < sizeof p->alpn ? in_len : sizeof p->alpn);
    *out = in + 1;
    *out_len = in[0];
    return SSL_TLSEXT_ERR_OK;
}

static SSL_CTX *make_server(const struct cert *leaf, X509 *extra)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    assert_int_equal(SSL_CTX_use_certificate(ctx, leaf->x509), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey(ctx, leaf->key), 1);
    if (extra != NULL)
        assert_int_equal(SSL_CTX_add1_chain_cert(ctx, extra), 1);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_cert_verify_callback(ctx, on_any_client, NULL);
    SSL_CTX_set_info_callback(ctx, on_info);
    SSL_CTX_set_msg_callback(ctx, on_message);
    SSL_CTX_set_alpn_select_cb(ctx, on_alpn, NULL);
    assert_int_equal(SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"t", 1), 1);
    return ctx;
}

/* Both sides until nothing moves; then both read, for tickets and late alerts. */
static void pump(struct pair *p)
{
    char byte;
    ERR_clear_error();
    for (int i = 0; i < 20; i++) {
        if (SSL_do_handshake(p->client) != 1 && ERR_peek_last_error() != 0)
            p->client_error = ERR_peek_last_error();
        ERR_clear_error();
        (void)SSL_do_handshake(p->server);
        ERR_clear_error();
    }
    (void)SSL_read(p->server, &byte, 1);
    (void)SSL_read(p->client, &byte, 1);
    ERR_clear_error();
    p->is_open = SSL_is_init_finished(p->client) && SSL_is_init_finished(p->server);
}

/* Takes the server's context. */
static void meet(struct pair *p, struct tls_context *c, SSL_CTX *server_ctx,
                 const struct tls_peer_rule *rule)
{
    BIO *client_end, *server_end;
    memset(p, 0, sizeof *p);
    p->alert = -1;
    p->server_ctx = server_ctx;
    assert_int_equal(BIO_new_bio_pair(&client_end, 0, &server_end, 0), 1);
    p->client = tls_context_new_ssl(c, rule, &p->peer);
    p->server = SSL_new(server_ctx);
    SSL_set_app_data(p->server, p);
    SSL_set_accept_state(p->server);
    SSL_set_bio(p->client, client_end, client_end);
    SSL_set_bio(p->server, server_end, server_end);
    pump(p);
}

static void part(struct pair *p)
{
    SSL_free(p->client);
    SSL_free(p->server);
    SSL_CTX_free(p->server_ctx);
    ERR_clear_error();
}

static struct tls_peer_rule rule_for_gw(void)
{
    return (struct tls_peer_rule){.ids = &gw_id, .n_ids = 1, .sni = "email.test"};
}

/* One handshake of the current context with a gateway that shows leaf (and extra). */
static void meet_gateway(struct pair *p, const struct cert *leaf, X509 *extra)
{
    struct tls_peer_rule rule = rule_for_gw();
    struct tls_context *c = get_context();
    assert_non_null(c);
    meet(p, c, make_server(leaf, extra), &rule);
    tls_context_unref(&c);
}

static void assert_refused(const struct pair *p, enum stream_end_cause cause, int alert,
                           const char *because)
{
    assert_false(p->is_open);
    assert_int_equal(p->peer.refusal, cause);
    assert_int_equal(p->alert, alert);
    if (strstr(p->peer.why.msg, because) == NULL)
        fail_msg("'%s' lacks '%s'", p->peer.why.msg, because);
}

/* ---- who is let in ---- */

TEST(tls_context, the_expected_gateway_is_met_over_tls_1_3_and_sees_our_whole_chain)
{
    setup();
    struct cert gw = certs_leaf(GW_ID, &inter);
    struct pair p;
    meet_gateway(&p, &gw, inter.x509);
    assert_true(p.is_open);
    assert_int_equal(SSL_version(p.client), TLS1_3_VERSION);
    assert_int_equal(p.peer.refusal, END_NONE);
    assert_string_equal(p.peer.id.text, GW_ID);
    assert_true(p.peer.not_after_ms == INT64_C(2493072000000));
    X509 *seen = SSL_get0_peer_certificate(p.server);
    assert_int_equal(X509_cmp(seen, own.x509), 0);
    assert_int_equal(sk_X509_num(SSL_get_peer_cert_chain(p.server)),
                     1); /* without the leaf, here */
    part(&p);
    certs_release(&gw);
    teardown();
}

TEST(tls_context, a_gateway_that_is_no_svid_is_refused)
{
    setup();
    struct pair p;
    struct cert_spec spec = certs_leaf_spec(GW_ID);
    spec.n_uris = 0;
    spec.n_dns = 1;
    struct cert gw = certs_issue(&spec, &root);
    meet_gateway(&p, &gw, NULL);
    assert_refused(&p, END_PEER_NOT_SVID, SSL_AD_UNSUPPORTED_CERTIFICATE, "0 URI names");
    assert_int_equal(p.peer.id.len, 0);
    part(&p);
    certs_release(&gw);

    spec = certs_leaf_spec(GW_ID);
    spec.ext_key_usage = "serverAuth";
    gw = certs_issue(&spec, &root);
    meet_gateway(&p, &gw, NULL);
    assert_refused(&p, END_PEER_NOT_SVID, SSL_AD_UNSUPPORTED_CERTIFICATE,
                   "lacks serverAuth or clientAuth");
    assert_string_equal(p.peer.id.text, GW_ID);
    part(&p);
    certs_release(&gw);
    teardown();
}

TEST(tls_context, a_gateway_of_another_ca_is_refused)
{
    setup();
    struct cert rogue = certs_ca("root"), gw = certs_leaf(GW_ID, &rogue);
    struct pair p;
    meet_gateway(&p, &gw, rogue.x509);
    assert_refused(&p, END_PEER_UNTRUSTED, SSL_AD_UNKNOWN_CA, "bundle lacks");
    assert_string_equal(p.peer.id.text, GW_ID);
    part(&p);
    certs_release(&gw);
    certs_release(&rogue);
    teardown();
}

TEST(tls_context, a_gateway_of_an_unknown_trust_domain_is_refused)
{
    setup();
    struct cert gw = certs_leaf("spiffe://unknown.test/gw", &root);
    struct pair p;
    meet_gateway(&p, &gw, NULL);
    assert_refused(&p, END_PEER_UNTRUSTED, SSL_AD_UNKNOWN_CA,
                   "no bundle for trust domain unknown.test");
    part(&p);
    certs_release(&gw);
    teardown();
}

/* F1: bundles are never merged.  fed.test's CA may say nothing about td.test, and the other way
 * round. */
TEST(tls_context, a_federated_ca_vouches_for_its_own_trust_domain_only)
{
    setup();
    struct pair p;
    struct cert gw = certs_leaf(GW_ID, &alien_root);
    meet_gateway(&p, &gw, NULL);
    assert_refused(&p, END_PEER_UNTRUSTED, SSL_AD_UNKNOWN_CA, "bundle lacks");
    part(&p);
    certs_release(&gw);

    assert_true(spiffe_id_parse(STR("spiffe://fed.test/gw"), &gw_id, NULL));
    gw = certs_leaf("spiffe://fed.test/gw", &root);
    meet_gateway(&p, &gw, NULL);
    assert_refused(&p, END_PEER_UNTRUSTED, SSL_AD_UNKNOWN_CA, "bundle lacks");
    part(&p);
    certs_release(&gw);

    gw = certs_leaf("spiffe://fed.test/gw", &alien_root);
    meet_gateway(&p, &gw, NULL);
    assert_true(p.is_open);
    part(&p);
    certs_release(&gw);
    teardown();
}

TEST(tls_context, validity_is_judged_by_the_clock_that_was_given)
{
    setup();
    struct cert_spec spec = certs_leaf_spec(GW_ID);
    spec.not_before_s = CERTS_NOW_S - 10;
    spec.not_after_s = CERTS_NOW_S + 60;
    struct cert gw = certs_issue(&spec, &root);
    struct pair p;
    meet_gateway(&p, &gw, NULL);
    assert_true(p.is_open);
    part(&p);
    fake_time_set_wall(CERTS_NOW_MS + 61000);
    meet_gateway(&p, &gw, NULL);
    assert_refused(&p, END_PEER_UNTRUSTED, SSL_AD_CERTIFICATE_EXPIRED,
                   "has expired (not after 2026-06-01T00:01");
    part(&p);
    fake_time_set_wall(CERTS_NOW_MS - 11000);
    meet_gateway(&p, &gw, NULL);
    assert_refused(&p, END_PEER_UNTRUSTED, SSL_AD_CERTIFICATE_EXPIRED, "is not yet valid");
    part(&p);
    certs_release(&gw);
    teardown();
}

TEST(tls_context, a_valid_svid_that_is_not_the_gateways_is_refused_by_name)
{
    setup();
    struct cert gw = certs_leaf("spiffe://td.test/gw/x", &root);
    struct pair p;
    meet_gateway(&p, &gw, NULL);
    assert_refused(&p, END_PEER_IDENTITY, SSL_AD_CERTIFICATE_UNKNOWN,
                   "the gateway is spiffe://td.test/gw/x, expected spiffe://td.test/gw");
    assert_int_equal(p.peer.why.code, ERR_DENIED);
    part(&p);
    certs_release(&gw);
    teardown();
}

TEST(tls_context, one_of_several_expected_ids_is_enough_and_none_lets_nobody_in)
{
    setup();
    struct spiffe_id ids[3];
    assert_true(spiffe_id_parse(STR("spiffe://td.test/a"), &ids[0], NULL));
    assert_true(spiffe_id_parse(STR("spiffe://td.test/b"), &ids[1], NULL));
    ids[2] = gw_id;
    struct cert gw = certs_leaf(GW_ID, &root);
    struct pair p;
    struct tls_context *c = get_context();
    for (size_t n = 0; n <= 3; n++) {
        struct tls_peer_rule rule = {.ids = ids, .n_ids = n, .sni = "email.test"};
        meet(&p, c, make_server(&gw, NULL), &rule);
        assert_int_equal(p.is_open, n == 3);
        if (n == 0)
            assert_refused(&p, END_PEER_IDENTITY, SSL_AD_CERTIFICATE_UNKNOWN, "expected none (");
        if (n == 2)
            assert_refused(&p, END_PEER_IDENTITY, SSL_AD_CERTIFICATE_UNKNOWN,
                           "expected spiffe://td.test/a or spiffe://td.test/b");
        part(&p);
    }
    tls_context_unref(&c);
    certs_release(&gw);
    teardown();
}

TEST(tls_context, very_long_ids_are_cut_in_the_message)
{
    setup();
    char text[2000] = "spiffe://td.test/";
    memset(text + 17, 'a', 1900);
    struct spiffe_id ids[2];
    assert_true(spiffe_id_parse(str_from(text), &ids[0], NULL));
    ids[1] = ids[0];
    text[17] = 'b';
    struct cert gw = certs_leaf(text, &root);
    struct tls_peer_rule rule = {.ids = ids, .n_ids = 2, .sni = "email.test"};
    struct pair p;
    struct tls_context *c = get_context();
    meet(&p, c, make_server(&gw, NULL), &rule);
    assert_refused(&p, END_PEER_IDENTITY, SSL_AD_CERTIFICATE_UNKNOWN,
                   ", expected spiffe://td.test/aaa");
    part(&p);
    tls_context_unref(&c);
    certs_release(&gw);
    teardown();
}

/* ---- the protocol ---- */

TEST(tls_context, a_server_without_tls_1_3_is_refused)
{
    setup();
    struct cert gw = certs_leaf(GW_ID, &root);
    SSL_CTX *server = make_server(&gw, NULL);
    SSL_CTX_set_max_proto_version(server, TLS1_2_VERSION);
    struct tls_peer_rule rule = rule_for_gw();
    struct tls_context *c = get_context();
    struct pair p;
    meet(&p, c, server, &rule);
    assert_false(p.is_open);
    assert_int_equal(p.peer.refusal, END_NONE);
    assert_int_equal(ERR_GET_REASON(p.client_error), SSL_R_TLSV1_ALERT_PROTOCOL_VERSION);
    part(&p);
    tls_context_unref(&c);
    certs_release(&gw);
    teardown();
}

TEST(tls_context, sni_and_alpn_are_sent_as_the_rule_says)
{
    setup();
    struct cert gw = certs_leaf(GW_ID, &root);
    struct tls_peer_rule rule = rule_for_gw();
    struct tls_context *c = get_context();
    struct pair p;
    rule.sni = "email.eu-west-1.amazonaws.com";
    rule.alpn = "http/1.1";
    meet(&p, c, make_server(&gw, NULL), &rule);
    assert_true(p.is_open);
    assert_string_equal(SSL_get_servername(p.server, TLSEXT_NAMETYPE_host_name),
                        "email.eu-west-1.amazonaws.com");
    assert_int_equal(p.alpn_len, 9);
    assert_memory_equal(p.alpn, "\x08http/1.1", 9);
    part(&p);

    rule.sni = NULL;
    rule.alpn = NULL;
    meet(&p, c, make_server(&gw, NULL), &rule);
    assert_true(p.is_open);
    assert_null(SSL_get_servername(p.server, TLSEXT_NAMETYPE_host_name));
    assert_int_equal(p.alpn_len, 0);
    part(&p);
    tls_context_unref(&c);
    certs_release(&gw);
    teardown();
}

TEST(tls_context, no_session_is_kept_or_resumed_though_the_server_sends_tickets)
{
    setup();
    struct cert gw = certs_leaf(GW_ID, &root);
    struct tls_peer_rule rule = rule_for_gw();
    struct tls_context *c = get_context();
    SSL_CTX *server = make_server(&gw, NULL);
    struct pair p;
    for (int i = 0; i < 3; i++) {
        SSL_CTX_up_ref(server);
        meet(&p, c, server, &rule);
        assert_true(p.is_open);
        assert_int_equal(SSL_session_reused(p.server), 0);
        SSL_CTX *client_ctx = SSL_get_SSL_CTX(p.client);
        assert_int_equal(SSL_CTX_get_session_cache_mode(client_ctx), SSL_SESS_CACHE_OFF);
        assert_int_equal(SSL_CTX_sess_number(client_ctx), 0);
        part(&p);
    }
    SSL_CTX_free(server);
    tls_context_unref(&c);
    certs_release(&gw);
    teardown();
}

TEST(tls_context, the_context_is_set_up_for_a_strict_client)
{
    setup();
    struct tls_context *c = get_context();
    struct tls_peer_rule rule = rule_for_gw();
    struct tls_peer peer;
    SSL *ssl = tls_context_new_ssl(c, &rule, &peer);
    long mode = SSL_get_mode(ssl);
    assert_true(mode & SSL_MODE_RELEASE_BUFFERS);
    assert_true(mode & SSL_MODE_ENABLE_PARTIAL_WRITE);
    assert_true(mode & SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    assert_true(mode & SSL_MODE_NO_AUTO_CHAIN);
    assert_int_equal(SSL_get_verify_mode(ssl), SSL_VERIFY_PEER);
    assert_int_equal(SSL_get_min_proto_version(ssl), TLS1_3_VERSION);
    assert_int_equal(SSL_get_max_proto_version(ssl), TLS1_3_VERSION);
    assert_int_equal(SSL_get_security_level(ssl), 2);
    assert_true(SSL_get_options(ssl) & SSL_OP_NO_TICKET);
    assert_null(X509_VERIFY_PARAM_get0_host(SSL_get0_param(ssl), 0));
    X509_STORE *defaults = SSL_CTX_get_cert_store(SSL_get_SSL_CTX(ssl));
    assert_int_equal(sk_X509_OBJECT_num(X509_STORE_get0_objects(defaults)), 0);
    SSL_free(ssl);
    tls_context_unref(&c);
    teardown();
}

TEST(tls_context, a_hybrid_group_comes_first_where_openssl_knows_it)
{
    setup();
    static const struct {
        const char *server_groups;
        long group; /* agreed upon */
        int n_hellos;
        bool is_new; /* OpenSSL 3.5 */
    } cases[] = {
        {"X25519:X25519MLKEM768:P-256", TLSEXT_nid_unknown | 0x11ec, 1, true},
        {"X25519MLKEM768", TLSEXT_nid_unknown | 0x11ec, 1, true},
        {"X25519", NID_X25519, 1, false},
        {"P-256", NID_X9_62_prime256v1, 2, false},
    };
    struct cert gw = certs_leaf(GW_ID, &root);
    struct tls_peer_rule rule = rule_for_gw();
    struct tls_context *c = get_context();
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct pair p;
        SSL_CTX *server = make_server(&gw, NULL);
        if (SSL_CTX_set1_groups_list(server, cases[i].server_groups) != 1) {
            assert_true(cases[i].is_new && OpenSSL_version_num() < 0x30500000L);
            SSL_CTX_free(server);
            ERR_clear_error();
            continue;
        }
        meet(&p, c, server, &rule);
        assert_true(p.is_open);
        assert_int_equal(SSL_get_negotiated_group(p.client), cases[i].group);
        assert_int_equal(p.n_hellos, cases[i].n_hellos);
        part(&p);
    }
    tls_context_unref(&c);
    certs_release(&gw);
    teardown();
}

/* ---- generations ---- */

TEST(tls_context, a_context_is_built_once_per_generation)
{
    setup();
    struct tls_context *a = get_context(), *b = get_context();
    assert_ptr_equal(a, b);
    assert_string_equal(tls_context_svid(a)->id.text, OUR_ID);
    assert_ptr_equal(tls_context_set(a), svid_store_current(store));
    struct cert next = certs_leaf(OUR_ID, &inter);
    publish(&next, root.x509, NULL);
    struct tls_context *c = get_context();
    assert_ptr_not_equal(a, c);
    assert_int_equal(tls_context_set(a)->generation, 1);
    assert_int_equal(tls_context_set(c)->generation, 2);
    tls_context_unref(&a);
    tls_context_unref(&b);
    tls_context_unref(&c);
    assert_null(c);
    certs_release(&next);
    teardown();
}

TEST(tls_context, a_stream_keeps_its_generation_alive_through_rotation)
{
    setup();
    struct cert gw = certs_leaf(GW_ID, &root), next = certs_leaf(OUR_ID, &inter);
    struct tls_peer_rule rule = rule_for_gw();
    struct tls_context *c = get_context();
    struct tls_peer peer;
    SSL *ssl = tls_context_new_ssl(c, &rule, &peer);
    tls_context_unref(&c);
    publish(&next, alien_root.x509, NULL); /* would refuse this gateway */
    c = get_context();
    tls_context_unref(&c);
    tls_contexts_free(&contexts);
    struct pair p = {.client = ssl, .server_ctx = make_server(&gw, NULL), .alert = -1};
    BIO *client_end, *server_end;
    assert_int_equal(BIO_new_bio_pair(&client_end, 0, &server_end, 0), 1);
    p.server = SSL_new(p.server_ctx);
    SSL_set_app_data(p.server, &p);
    SSL_set_accept_state(p.server);
    SSL_set_bio(p.client, client_end, client_end);
    SSL_set_bio(p.server, server_end, server_end);
    pump(&p);
    assert_true(p.is_open);
    assert_int_equal(X509_cmp(SSL_get0_peer_certificate(p.server), own.x509), 0);
    part(&p);
    certs_release(&next);
    certs_release(&gw);
    teardown();
}

TEST(tls_context, without_a_usable_svid_there_is_no_context)
{
    setup();
    struct tls_context *c = get_context();
    struct svid_set *set = svid_set_ref(tls_context_set(c));
    tls_context_unref(&c);
    assert_int_equal(set->refs, 3); /* the store's, ours, and the cached context's */
    struct err why;
    err_set(&why, ERR_DENIED, 0, "the agent took it back");
    svid_store_redact(store, &why);
    assert_null(get_context());
    assert_int_equal(e.code, ERR_UNAVAIL);
    assert_non_null(strstr(e.msg, "the agent took it back"));
    assert_int_equal(set->refs, 1); /* the key is not kept either */
    svid_set_unref(&set);
    teardown();
}

TEST(tls_context, an_expired_svid_of_our_own_is_not_used)
{
    setup();
    struct tls_context *c = get_context();
    assert_non_null(c);
    tls_context_unref(&c);
    fake_time_set_wall(INT64_C(2493072000000));
    assert_null(get_context());
    assert_int_equal(e.code, ERR_EXPIRED);
    fake_time_set_wall(CERTS_NOW_MS);
    teardown();
}

TEST(tls_context, an_svid_that_openssl_refuses_is_told_with_its_id)
{
    setup();
    struct cert_spec spec = certs_leaf_spec(OUR_ID);
    spec.key = certs_rsa_key(1024);
    struct cert weak = certs_issue(&spec, &inter);
    EVP_PKEY_free(spec.key);
    publish(&weak, root.x509, NULL);
    assert_null(get_context());
    assert_int_equal(e.code, ERR_SYNTAX);
    assert_string_equal(e.msg, "SVID " OUR_ID ": OpenSSL refuses our SVID: ee key too small");
    certs_release(&weak);
    teardown();
}

/* ---- live streams ---- */

TEST(tls_context, a_live_peer_is_judged_again_by_new_bundles_and_by_time)
{
    setup();
    struct cert_spec spec = certs_leaf_spec(GW_ID);
    spec.not_after_s = CERTS_NOW_S + 60;
    struct cert gw = certs_issue(&spec, &inter);
    struct pair p;
    meet_gateway(&p, &gw, inter.x509);
    assert_true(p.is_open);
    struct svid_set *same = make_set(&own, root.x509, NULL),
                    *other = make_set(&own, alien_root.x509, NULL);
    struct svid_set *none = svid_set_new(1, 1);
    assert_true(tls_peer_still_trusted(p.client, same, CERTS_NOW_MS, &e));
    assert_false(tls_peer_still_trusted(p.client, same, CERTS_NOW_MS + 61000, &e));
    assert_int_equal(e.code, ERR_EXPIRED);
    assert_false(tls_peer_still_trusted(p.client, other, CERTS_NOW_MS, &e));
    assert_int_equal(e.code, ERR_DENIED);
    assert_false(tls_peer_still_trusted(p.client, none, CERTS_NOW_MS, &e));
    assert_non_null(strstr(e.msg, "no bundle for trust domain td.test"));
    svid_set_unref(&same);
    svid_set_unref(&other);
    svid_set_unref(&none);
    part(&p);
    certs_release(&gw);
    teardown();
}

TEST(tls_context, a_stream_without_a_peer_certificate_is_not_trusted)
{
    setup();
    struct tls_context *c = get_context();
    struct tls_peer_rule rule = rule_for_gw();
    struct tls_peer peer;
    SSL *ssl = tls_context_new_ssl(c, &rule, &peer);
    assert_false(tls_peer_still_trusted(ssl, tls_context_set(c), CERTS_NOW_MS, &e));
    assert_int_equal(e.code, ERR_SYNTAX);
    SSL_free(ssl);
    tls_context_unref(&c);
    teardown();
}
