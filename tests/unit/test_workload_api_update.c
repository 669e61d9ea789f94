// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/mem.h"
#include "certs.h"
#include "core/x509_svid.h"
#include "identity/workload_api_private.h"

#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ID       "spiffe://td.test/app"
#define HOUR_MS  3600000
#define MANY_MAX 1000

static struct cert ca, foreign_ca, leaf;
static struct err e;

/* --- a message, good by default --- */

struct message {
    X509SVIDResponse m;
    X509SVID svids[2], *svid_ptrs[MANY_MAX];
    X509SVIDResponse__FederatedBundlesEntry entries[MANY_MAX], *entry_ptrs[MANY_MAX];
    ProtobufCBinaryData crls[4];
};

static ProtobufCBinaryData binary(struct str s)
{
    return (ProtobufCBinaryData){s.len, (uint8_t *)(void *)s.p};
}

static void fill_svid(X509SVID *v, const char *id, const struct cert *c, const struct cert *issuer)
{
    x509_svid__init(v);
    v->spiffe_id = (char *)id;
    v->x509_svid = binary(certs_der(1, c->x509));
    v->x509_svid_key = binary(certs_pkcs8(c->key));
    v->bundle = binary(certs_der(1, issuer->x509));
}

static struct message *message_new(void)
{
    struct message *t = xcalloc(1, sizeof *t);
    x509_svidresponse__init(&t->m);
    if (ca.x509 == NULL) {
        ca = certs_ca("root");
        foreign_ca = certs_ca("foreign");
        leaf = certs_leaf(ID, &ca);
    }
    fill_svid(&t->svids[0], ID, &leaf, &ca);
    t->svid_ptrs[0] = &t->svids[0];
    t->svid_ptrs[1] = &t->svids[1];
    t->m.svids = t->svid_ptrs;
    t->m.n_svids = 1;
    t->m.federated_bundles = t->entry_ptrs;
    t->m.crl = t->crls;
    return t;
}

static void replace(ProtobufCBinaryData *b, struct str with)
{
    free(b->data);
    *b = binary(with);
}

/* Takes the bytes. */
static void add_entry(struct message *t, const char *key, struct str der)
{
    size_t i = t->m.n_federated_bundles++;
    x509_svidresponse__federated_bundles_entry__init(&t->entries[i]);
    t->entries[i].key = (char *)key;
    t->entries[i].value = binary(der);
    t->entry_ptrs[i] = &t->entries[i];
}

static void message_free(struct message *t)
{
    for (size_t i = 0; i < ARRAY_LEN(t->svids); i++) {
        free(t->svids[i].x509_svid.data);
        free(t->svids[i].x509_svid_key.data);
        free(t->svids[i].bundle.data);
    }
    for (size_t i = 0; i < t->m.n_federated_bundles; i++)
        free(t->entries[i].value.data);
    for (size_t i = 0; i < t->m.n_crl; i++)
        free(t->crls[i].data);
    free(t);
    certs_release(&ca);
    certs_release(&foreign_ca);
    certs_release(&leaf);
    ca = foreign_ca = leaf = (struct cert){NULL, NULL};
}

static struct str copy(const char *z)
{
    return (struct str){xstrdup(z), strlen(z)};
}

static struct svid_set *build_at(struct message *t, int64_t wall_ms)
{
    struct svid_set *set;
    if (!workload_update_build(&t->m, wall_ms, &set, &e))
        fail_msg("%s", e.msg);
    return set;
}

static void assert_refused(struct message *t, enum err_code code, const char *words)
{
    struct svid_set *set;
    assert_false(workload_update_build(&t->m, CERTS_NOW_MS, &set, &e));
    assert_null(set);
    assert_int_equal(e.code, code);
    if (strstr(e.msg, words) == NULL)
        fail_msg("\"%s\" is not in \"%s\"", words, e.msg);
}

/* --- good ones --- */

TEST(workload_api_update, a_message_becomes_a_set)
{
    struct message *t = message_new();
    t->svids[0].hint = (char *)"mesh";
    add_entry(t, "spiffe://other.test", certs_der(1, foreign_ca.x509));
    struct svid_set *s = build_at(t, CERTS_NOW_MS);
    assert_int_equal(s->n_svids, 1);
    assert_string_equal(s->svids[0].id.text, ID);
    assert_string_equal(s->svids[0].hint, "mesh");
    assert_int_equal(sk_X509_num(s->svids[0].chain), 1);
    assert_int_equal(X509_check_private_key(leaf.x509, s->svids[0].key), 1);
    assert_true(s->svids[0].not_before_ms < CERTS_NOW_MS);
    assert_true(s->svids[0].not_after_ms > CERTS_NOW_MS);
    assert_int_equal(s->n_bundles, 2);
    assert_string_equal(s->bundles[0].trust_domain, "td.test");
    assert_true(s->bundles[0].is_own);
    assert_string_equal(s->bundles[1].trust_domain, "other.test");
    assert_false(s->bundles[1].is_own);
    struct spiffe_id id;
    assert_true(x509_svid_verify(s->svids[0].chain, svid_set_bundle(s, STR("td.test")),
                                 CERTS_NOW_MS, &id, &e));
    assert_false(x509_svid_verify(s->svids[0].chain, svid_set_bundle(s, STR("other.test")),
                                  CERTS_NOW_MS, &id, &e));
    svid_set_unref(&s);
    message_free(t);
}

TEST(workload_api_update, the_order_of_svids_is_kept)
{
    struct message *t = message_new();
    struct cert second = certs_leaf("spiffe://td.test/b", &ca);
    fill_svid(&t->svids[1], "spiffe://td.test/b", &second, &ca);
    t->m.n_svids = 2;
    struct svid_set *s = build_at(t, CERTS_NOW_MS);
    assert_int_equal(s->n_svids, 2);
    assert_string_equal(s->svids[0].id.text, ID);
    assert_string_equal(s->svids[1].id.text, "spiffe://td.test/b");
    assert_int_equal(s->n_bundles, 1);
    svid_set_unref(&s);
    certs_release(&second);
    message_free(t);
}

/* --- refused as a whole --- */

TEST(workload_api_update, a_message_without_an_svid_is_refused)
{
    struct message *t = message_new();
    t->m.n_svids = 0;
    assert_refused(t, ERR_SYNTAX, "holds no SVID");
    message_free(t);
}

TEST(workload_api_update, more_svids_than_the_cap_are_refused)
{
    struct message *t = message_new();
    for (size_t i = 0; i < MANY_MAX; i++)
        t->svid_ptrs[i] = &t->svids[0];
    t->m.n_svids = SVID_SET_MAX;
    struct svid_set *s = build_at(t, CERTS_NOW_MS);
    svid_set_unref(&s);
    t->m.n_svids = SVID_SET_MAX + 1;
    assert_refused(t, ERR_LIMIT, "101 SVIDs");
    message_free(t);
}

static void spoil_no_chain(X509SVID *v)
{
    replace(&v->x509_svid, copy(""));
}

static void spoil_garbage_chain(X509SVID *v)
{
    replace(&v->x509_svid, copy("garbage"));
}

static void spoil_cut_chain(X509SVID *v)
{
    v->x509_svid.len--;
}

static void spoil_no_key(X509SVID *v)
{
    replace(&v->x509_svid_key, copy(""));
}

static void spoil_garbage_key(X509SVID *v)
{
    replace(&v->x509_svid_key, copy("garbage"));
}

static void spoil_other_key(X509SVID *v)
{
    replace(&v->x509_svid_key, certs_pkcs8(ca.key));
}

static void spoil_no_bundle(X509SVID *v)
{
    replace(&v->bundle, copy(""));
}

static void spoil_garbage_bundle(X509SVID *v)
{
    replace(&v->bundle, copy("garbage"));
}

static void spoil_other_bundle(X509SVID *v)
{
    replace(&v->bundle, certs_der(1, foreign_ca.x509));
}

static void spoil_leaf_as_bundle(X509SVID *v)
{
    replace(&v->bundle, certs_der(1, leaf.x509));
}

static void spoil_no_id(X509SVID *v)
{
    v->spiffe_id = (char *)"";
}

static void spoil_other_id(X509SVID *v)
{
    v->spiffe_id = (char *)"spiffe://td.test/other";
}

static void spoil_long_id(X509SVID *v)
{
    static char longish[SPIFFE_ID_MAX + 100];
    snprintf(longish, sizeof longish, "spiffe://td.test/%0*d", SPIFFE_ID_MAX + 50, 1);
    v->spiffe_id = longish;
}

static void spoil_long_chain(X509SVID *v)
{
    struct str one = certs_der(1, leaf.x509);
    char *all = xcalloc(X509_CHAIN_MAX + 1, one.len);
    for (size_t i = 0; i < X509_CHAIN_MAX + 1; i++)
        memcpy(all + i * one.len, one.p, one.len);
    replace(&v->x509_svid, (struct str){all, (X509_CHAIN_MAX + 1) * one.len});
    free((void *)one.p);
}

static void spoil_large_bundle(X509SVID *v)
{
    free(v->bundle.data);
    v->bundle = (ProtobufCBinaryData){X509_BUNDLE_BYTES + 1, xcalloc(X509_BUNDLE_BYTES + 1, 1)};
}

TEST(workload_api_update, any_unusable_part_of_an_svid_refuses_the_message)
{
    static const struct {
        void (*spoil)(X509SVID *v);
        enum err_code code;
        const char *words;
    } cases[] = {
        {spoil_no_chain, ERR_SYNTAX, "x509_svid: there is no certificate"},
        {spoil_garbage_chain, ERR_SYNTAX, "not a DER certificate"},
        {spoil_cut_chain, ERR_SYNTAX, "not a DER certificate"},
        {spoil_no_key, ERR_SYNTAX, "no private key"},
        {spoil_garbage_key, ERR_SYNTAX, "private key is not"},
        {spoil_other_key, ERR_SYNTAX, "does not belong"},
        {spoil_no_bundle, ERR_SYNTAX, "holds no CA"},
        {spoil_garbage_bundle, ERR_SYNTAX, "trust bundle"},
        {spoil_other_bundle, ERR_DENIED, "bundle lacks"},
        {spoil_leaf_as_bundle, ERR_SYNTAX, "holds no CA"},
        {spoil_no_id, ERR_SYNTAX, "the agent calls it \"\""},
        {spoil_other_id, ERR_SYNTAX, "the agent calls it \"spiffe://td.test/other\""},
        {spoil_long_id, ERR_SYNTAX, "the agent calls it"},
        {spoil_long_chain, ERR_LIMIT, "more than 16"},
        {spoil_large_bundle, ERR_LIMIT, "trust bundle"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct message *t = message_new();
        cases[i].spoil(&t->svids[0]);
        assert_refused(t, cases[i].code, cases[i].words);
        assert_refused(t, cases[i].code, "the agent's message: SVID \"");
        message_free(t);
    }
}

TEST(workload_api_update, one_bad_svid_beside_a_good_one_refuses_the_message)
{
    struct message *t = message_new();
    struct cert second = certs_leaf("spiffe://td.test/b", &ca);
    fill_svid(&t->svids[1], "spiffe://td.test/b", &second, &foreign_ca);
    t->m.n_svids = 2;
    assert_refused(t, ERR_DENIED, "SVID \"spiffe://td.test/b\"");
    certs_release(&second);
    message_free(t);
}

/* --- time --- */

static struct cert leaf_valid(const char *id, int64_t from_s, int64_t to_s)
{
    struct cert_spec spec = certs_leaf_spec(id);
    spec.not_before_s = CERTS_NOW_S + from_s;
    spec.not_after_s = CERTS_NOW_S + to_s;
    return certs_issue(&spec, &ca);
}

TEST(workload_api_update, an_expired_svid_alone_refuses_the_message)
{
    struct message *t = message_new();
    struct cert old = leaf_valid(ID, -100, -1);
    replace(&t->svids[0].x509_svid, certs_der(1, old.x509));
    replace(&t->svids[0].x509_svid_key, certs_pkcs8(old.key));
    assert_refused(t, ERR_EXPIRED, "has expired");
    certs_release(&old);
    message_free(t);
}

TEST(workload_api_update, an_expired_svid_beside_a_good_one_is_left_out)
{
    for (size_t first = 0; first < 2; first++) {
        struct message *t = message_new();
        struct cert old = leaf_valid("spiffe://td.test/old", -100, -1);
        fill_svid(&t->svids[1], "spiffe://td.test/old", &old, &ca);
        t->svid_ptrs[first] = &t->svids[1];
        t->svid_ptrs[1 - first] = &t->svids[0];
        t->m.n_svids = 2;
        struct svid_set *s = build_at(t, CERTS_NOW_MS);
        assert_int_equal(s->n_svids, 1);
        assert_string_equal(s->svids[0].id.text, ID);
        svid_set_unref(&s);
        certs_release(&old);
        message_free(t);
    }
}

TEST(workload_api_update, an_svid_of_the_near_future_is_kept)
{
    struct message *t = message_new();
    struct cert next = leaf_valid(ID, 60, 3600);
    replace(&t->svids[0].x509_svid, certs_der(1, next.x509));
    replace(&t->svids[0].x509_svid_key, certs_pkcs8(next.key));
    struct svid_set *s = build_at(t, CERTS_NOW_MS);
    assert_int_equal(s->svids[0].not_before_ms, CERTS_NOW_MS + 60000);
    svid_set_unref(&s);
    certs_release(&next);
    message_free(t);
}

/* --- bundles --- */

TEST(workload_api_update, an_unusable_federated_bundle_leaves_only_its_domain_untrusted)
{
    struct message *t = message_new();
    struct cert foreign_leaf = certs_leaf("spiffe://leaf.test/x", &foreign_ca);
    add_entry(t, "spiffe://empty.test", copy(""));
    add_entry(t, "spiffe://garbage.test", copy("garbage"));
    add_entry(t, "spiffe://leaf.test", certs_der(1, foreign_leaf.x509));
    add_entry(t, "spiffe://good.test", certs_der(1, foreign_ca.x509));
    struct svid_set *s = build_at(t, CERTS_NOW_MS);
    assert_int_equal(s->n_svids, 1);
    assert_int_equal(s->n_bundles, 5);
    for (size_t i = 0; i < s->n_bundles; i++)
        assert_int_equal(s->bundles[i].n_cas, s->bundles[i].store != NULL ? 1 : 0);
    assert_null(svid_set_bundle(s, STR("empty.test")));
    assert_null(svid_set_bundle(s, STR("garbage.test")));
    assert_null(svid_set_bundle(s, STR("leaf.test")));
    assert_non_null(svid_set_bundle(s, STR("good.test")));
    svid_set_unref(&s);
    certs_release(&foreign_leaf);
    message_free(t);
}

TEST(workload_api_update, a_federated_bundle_without_a_trust_domains_name_is_ignored)
{
    static const char *const names[] = {"",
                                        "good.test",
                                        "spiffe://",
                                        "spiffe://good.test/path",
                                        "spiffe://GOOD.test",
                                        "https://good.test"};
    struct message *t = message_new();
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        add_entry(t, names[i], certs_der(1, foreign_ca.x509));
    struct svid_set *s = build_at(t, CERTS_NOW_MS);
    assert_int_equal(s->n_bundles, 1);
    svid_set_unref(&s);
    message_free(t);
}

TEST(workload_api_update, our_own_domain_among_the_federated_ones_changes_nothing)
{
    struct message *t = message_new();
    add_entry(t, "spiffe://td.test", certs_der(1, foreign_ca.x509));
    struct svid_set *s = build_at(t, CERTS_NOW_MS);
    assert_int_equal(s->n_bundles, 1);
    struct spiffe_id id;
    assert_true(x509_svid_verify(s->svids[0].chain, svid_set_bundle(s, STR("td.test")),
                                 CERTS_NOW_MS, &id, &e));
    svid_set_unref(&s);
    message_free(t);
}

TEST(workload_api_update, two_bundles_of_one_own_domain_are_not_merged)
{
    struct message *t = message_new();
    struct cert second = certs_leaf("spiffe://td.test/b", &foreign_ca);
    fill_svid(&t->svids[1], "spiffe://td.test/b", &second, &foreign_ca);
    t->m.n_svids = 2;
    struct svid_set *s = build_at(t, CERTS_NOW_MS);
    struct spiffe_id id;
    X509_STORE *store = svid_set_bundle(s, STR("td.test"));
    assert_true(x509_svid_verify(s->svids[0].chain, store, CERTS_NOW_MS, &id, &e));
    assert_false(x509_svid_verify(s->svids[1].chain, store, CERTS_NOW_MS, &id, &e));
    svid_set_unref(&s);
    certs_release(&second);
    message_free(t);
}

TEST(workload_api_update, of_too_many_federated_bundles_always_the_same_are_kept)
{
    struct message *t = message_new();
    static char names[SVID_BUNDLES_MAX + 50][40];
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        snprintf(names[i], sizeof names[i], "spiffe://n%03zu.test", ARRAY_LEN(names) - 1 - i);
        add_entry(t, names[i], certs_der(1, foreign_ca.x509));
    }
    struct svid_set *s = build_at(t, CERTS_NOW_MS);
    assert_int_equal(s->n_bundles, SVID_BUNDLES_MAX + 1);
    assert_non_null(svid_set_bundle(s, STR("n000.test")));
    assert_non_null(svid_set_bundle(s, STR("n199.test")));
    assert_null(svid_set_bundle(s, STR("n200.test")));
    svid_set_unref(&s);
    message_free(t);
}

TEST(workload_api_update, a_hint_is_cut_at_the_standards_bound)
{
    static char hint[SVID_HINT_MAX + 10];
    memset(hint, 'h', sizeof hint - 1);
    struct message *t = message_new();
    t->svids[0].hint = hint;
    struct svid_set *s = build_at(t, CERTS_NOW_MS);
    assert_int_equal(strlen(s->svids[0].hint), SVID_HINT_MAX);
    svid_set_unref(&s);
    message_free(t);
}

/* --- CRLs --- */

static struct str make_crl(const struct cert *issuer, const X509 *revoked, int64_t next_update_s)
{
    X509_CRL *crl = X509_CRL_new();
    ASN1_TIME *when = ASN1_TIME_set(NULL, (time_t)(CERTS_NOW_S - 3600));
    ASN1_TIME *next = ASN1_TIME_set(NULL, (time_t)next_update_s);
    X509_REVOKED *entry = X509_REVOKED_new();
    X509_CRL_set_version(crl, 1);
    X509_CRL_set_issuer_name(crl, X509_get_subject_name(issuer->x509));
    X509_CRL_set1_lastUpdate(crl, when);
    X509_CRL_set1_nextUpdate(crl, next);
    X509_REVOKED_set_serialNumber(entry, (ASN1_INTEGER *)X509_get0_serialNumber(revoked));
    X509_REVOKED_set_revocationDate(entry, when);
    X509_CRL_add0_revoked(crl, entry);
    X509_CRL_sort(crl);
    assert_true(X509_CRL_sign(crl, issuer->key, EVP_sha256()) > 0);
    unsigned char *der = NULL;
    int len = i2d_X509_CRL(crl, &der);
    assert_true(len > 0);
    struct str mine = {str_dup((struct str){(char *)der, (size_t)len}), (size_t)len};
    OPENSSL_free(der);
    X509_CRL_free(crl);
    ASN1_TIME_free(when);
    ASN1_TIME_free(next);
    return mine;
}

static void add_crl(struct message *t, struct str der)
{
    t->crls[t->m.n_crl++] = binary(der);
}

static bool is_trusted(const struct svid_set *s, const char *td, struct cert *c)
{
    struct spiffe_id id;
    STACK_OF(X509) *chain = certs_stack(1, c->x509);
    bool ok = x509_svid_verify(chain, svid_set_bundle(s, str_from(td)), CERTS_NOW_MS, &id, &e);
    certs_stack_free(chain);
    return ok;
}

TEST(workload_api_update, a_revoked_peer_is_refused_and_its_neighbours_are_not)
{
    for (int64_t next = CERTS_NOW_S - 60; next < CERTS_NOW_S + 3600;
         next += 1800) { /* late or not */
        struct message *t = message_new();
        struct cert revoked = certs_leaf("spiffe://td.test/bad", &ca);
        struct cert fine = certs_leaf("spiffe://td.test/good", &ca);
        struct cert foreign = certs_leaf("spiffe://other.test/x", &foreign_ca);
        add_entry(t, "spiffe://other.test", certs_der(1, foreign_ca.x509));
        add_crl(t, copy("garbage"));
        add_crl(t, make_crl(&ca, revoked.x509, next));
        struct svid_set *s = build_at(t, CERTS_NOW_MS);
        assert_false(is_trusted(s, "td.test", &revoked));
        assert_non_null(strstr(e.msg, "revoked"));
        assert_true(is_trusted(s, "td.test", &fine));
        assert_true(is_trusted(s, "other.test", &foreign));
        svid_set_unref(&s);
        certs_release(&revoked);
        certs_release(&fine);
        certs_release(&foreign);
        message_free(t);
    }
}

TEST(workload_api_update, a_crl_signed_by_another_key_is_ignored)
{
    struct message *t = message_new();
    struct cert impostor = certs_ca("root"); /* the same name */
    struct cert peer = certs_leaf("spiffe://td.test/peer", &ca);
    add_crl(t, make_crl(&impostor, peer.x509, CERTS_NOW_S + 3600));
    struct svid_set *s = build_at(t, CERTS_NOW_MS);
    assert_true(is_trusted(s, "td.test", &peer));
    svid_set_unref(&s);
    certs_release(&impostor);
    certs_release(&peer);
    message_free(t);
}

TEST(workload_api_update, a_crl_of_one_ca_leaves_the_other_ca_of_the_bundle_alone)
{
    struct message *t = message_new();
    struct cert peer = certs_leaf("spiffe://td.test/peer", &foreign_ca);
    replace(&t->svids[0].bundle, certs_der(2, ca.x509, foreign_ca.x509));
    add_crl(t, make_crl(&ca, foreign_ca.x509, CERTS_NOW_S + 3600));
    struct svid_set *s = build_at(t, CERTS_NOW_MS);
    assert_true(is_trusted(s, "td.test", &peer));
    svid_set_unref(&s);
    certs_release(&peer);
    message_free(t);
}

/* --- digest --- */

static void change_id(struct message *t)
{
    t->svids[0].spiffe_id = (char *)"spiffe://td.test/apq";
}

static void change_hint(struct message *t)
{
    t->svids[0].hint = (char *)"x";
}

static void change_chain(struct message *t)
{
    t->svids[0].x509_svid.data[t->svids[0].x509_svid.len - 1] ^= 1;
}

static void change_own_bundle(struct message *t)
{
    t->svids[0].bundle.data[0] ^= 1;
}

static void change_n_svids(struct message *t)
{
    t->m.n_svids = 0;
}

static void change_foreign_name(struct message *t)
{
    t->entries[0].key = (char *)"spiffe://x.test";
}

static void change_foreign_bundle(struct message *t)
{
    t->entries[1].value.data[0] ^= 1;
}

static void swap_foreign_bundles(struct message *t)
{
    t->entries[0].key = (char *)"spiffe://b.test";
    t->entries[1].key = (char *)"spiffe://a.test";
}

static void change_n_bundles(struct message *t)
{
    free(t->entries[--t->m.n_federated_bundles].value.data);
}

static void change_crl(struct message *t)
{
    add_crl(t, copy(""));
}

static struct message *message_with_bundles(void)
{
    struct message *t = message_new();
    add_entry(t, "spiffe://a.test", copy("A"));
    add_entry(t, "spiffe://b.test", copy("B"));
    return t;
}

TEST(workload_api_update, every_part_of_a_message_counts_for_its_digest)
{
    static void (*const changes[])(struct message *) = {
        change_id,        change_hint,         change_chain,          change_own_bundle,
        change_n_svids,   change_foreign_name, change_foreign_bundle, swap_foreign_bundles,
        change_n_bundles, change_crl,
    };
    for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
        unsigned char before[WORKLOAD_DIGEST_LEN], after[WORKLOAD_DIGEST_LEN];
        struct message *t = message_with_bundles();
        workload_update_digest(&t->m, before);
        changes[i](t);
        workload_update_digest(&t->m, after);
        if (memcmp(before, after, sizeof before) == 0)
            fail_msg("change %zu went unnoticed", i);
        message_free(t);
    }
}

TEST(workload_api_update, the_order_of_federated_bundles_does_not_count)
{
    unsigned char before[WORKLOAD_DIGEST_LEN], after[WORKLOAD_DIGEST_LEN];
    struct message *t = message_with_bundles();
    workload_update_digest(&t->m, before);
    t->entry_ptrs[0] = &t->entries[1];
    t->entry_ptrs[1] = &t->entries[0];
    workload_update_digest(&t->m, after);
    assert_memory_equal(before, after, sizeof before);
    message_free(t);
}
