// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/mem.h"
#include "certs.h"
#include "core/x509_svid.h"

#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof *(a))
#define ID       "spiffe://td.test/app"

static void assert_says(const struct err *e, const char *because)
{
    if (strstr(e->msg, because) == NULL)
        fail_msg("'%s' lacks '%s'", e->msg, because);
}

/* Verifies chain against a store of cas, at now_s; both stacks are given up. */
static bool verify_at(STACK_OF(X509) *chain, STACK_OF(X509) *cas, int64_t now_s, struct err *e)
{
    struct spiffe_id id;
    X509_STORE *store = cas != NULL ? x509_store_new(cas) : NULL;
    *e = (struct err){0};
    bool ok = x509_svid_verify(chain, store, now_s * 1000, &id, e);
    assert_int_equal(ok, e->code == ERR_NONE);
    assert_int_equal(ERR_peek_error(), 0);
    X509_STORE_free(store);
    certs_stack_free(chain);
    certs_stack_free(cas);
    return ok;
}

/* Issues spec by a fresh root and verifies it to that root. */
static bool verify_spec(const struct cert_spec *spec, struct err *e)
{
    struct cert root = certs_ca("root"), leaf = certs_issue(spec, &root);
    bool ok = verify_at(certs_stack(1, leaf.x509), certs_stack(1, root.x509), CERTS_NOW_S, e);
    certs_release(&leaf);
    certs_release(&root);
    return ok;
}

static void assert_spec_refused(const struct cert_spec *spec, const char *because)
{
    struct err e;
    if (verify_spec(spec, &e))
        fail_msg("accepted, though: %s", because);
    assert_int_equal(e.code, ERR_SYNTAX);
    assert_says(&e, because);
}

static void assert_spec_accepted(const struct cert_spec *spec)
{
    struct err e;
    if (!verify_spec(spec, &e))
        fail_msg("refused: %s", e.msg);
}

/* root -> inter (as spec says) -> leaf; the peer sends leaf and inter. */
static bool verify_with_intermediate(const struct cert_spec *inter_spec, struct err *e)
{
    struct cert root = certs_ca("root"), inter = certs_issue(inter_spec, &root);
    struct cert leaf = certs_leaf(ID, &inter);
    bool ok =
        verify_at(certs_stack(2, leaf.x509, inter.x509), certs_stack(1, root.x509), CERTS_NOW_S, e);
    certs_release(&leaf);
    certs_release(&inter);
    certs_release(&root);
    return ok;
}

/* ---- V1-V3: the name ---- */

TEST(x509_svid, a_good_leaf_gives_its_spiffe_id)
{
    struct cert root = certs_ca("root"), leaf = certs_leaf(ID, &root);
    STACK_OF(X509) *chain = certs_stack(1, leaf.x509), *cas = certs_stack(1, root.x509);
    X509_STORE *store = x509_store_new(cas);
    struct spiffe_id id;
    assert_true(x509_svid_verify(chain, store, CERTS_NOW_MS, &id, NULL));
    assert_string_equal(id.text, ID);
    assert_true(x509_svid_check_leaf(leaf.x509, &id, NULL));
    X509_STORE_free(store);
    certs_stack_free(chain);
    certs_stack_free(cas);
    certs_release(&leaf);
    certs_release(&root);
}

TEST(x509_svid, v1_no_san_at_all_is_refused)
{
    struct cert_spec spec = certs_leaf_spec(ID);
    spec.n_uris = 0;
    assert_spec_refused(&spec, "no subjectAltName");
}

TEST(x509_svid, v1_dns_names_without_a_uri_are_refused)
{
    struct cert_spec spec = certs_leaf_spec(ID);
    spec.n_uris = 0;
    spec.n_dns = 2;
    assert_spec_refused(&spec, "has 0 URI names");
}

TEST(x509_svid, v1_two_uris_are_refused_even_if_equal)
{
    struct cert_spec spec = certs_leaf_spec(ID);
    spec.uris[spec.n_uris++] = STR("https://td.test/app");
    assert_spec_refused(&spec, "has 2 URI names");
    spec.uris[1] = STR(ID);
    assert_spec_refused(&spec, "has 2 URI names");
}

TEST(x509_svid, v1_dns_names_beside_the_uri_are_fine_up_to_32_names)
{
    struct cert_spec spec = certs_leaf_spec(ID);
    spec.n_dns = X509_SAN_MAX - 1;
    assert_spec_accepted(&spec);
    spec.n_dns = X509_SAN_MAX;
    struct err e;
    assert_false(verify_spec(&spec, &e));
    assert_int_equal(e.code, ERR_LIMIT);
    assert_says(&e, "more than 32 names");
}

TEST(x509_svid, v1_a_repeated_san_extension_is_refused)
{
    struct cert_spec spec = certs_leaf_spec(ID);
    spec.is_san_repeated = true;
    assert_spec_refused(&spec, "subjectAltName is there twice");
}

TEST(x509_svid, v1_an_undecodable_san_is_refused)
{
    struct cert_spec spec = certs_leaf_spec(ID);
    spec.raw_san = STR("\x30\x05\x86\x7f" ID);
    assert_spec_refused(&spec, "subjectAltName is unreadable");
}

TEST(x509_svid, v2_a_uri_that_is_no_spiffe_id_is_refused)
{
    static const struct {
        struct str uri;
        const char *because;
    } cases[] = {
        {{"", 0}, "it is empty"},
        {{"https://td.test/app", 19}, "does not begin with spiffe://"},
        {{"Spiffe://td.test/app", 20}, "scheme must be in lower case"},
        {{"spiffe://TD.test/app", 20}, "upper case"},
        {{"spiffe:///app", 13}, "trust domain is missing"},
        {{"spiffe://td.test/app\0.evil", 26}, "must not hold '\\x00'"},
        {{"spiffe://td.test\0/app", 21}, "must not hold '\\x00'"},
        {{"spiffe://td.test/\xc3\xa4", 19}, "must not hold '\\xc3'"},
        {{"spiffe://td.test/a%2fb", 22}, "no percent-encoding"},
        {{"spiffe://td.test/../app", 23}, "segment '.' or '..'"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct cert_spec spec = certs_leaf_spec(ID);
        spec.uris[0] = cases[i].uri;
        assert_spec_refused(&spec, cases[i].because);
    }
}

TEST(x509_svid, v3_a_leaf_without_a_path_is_refused)
{
    struct cert_spec spec = certs_leaf_spec("spiffe://td.test");
    assert_spec_refused(&spec, "names a whole trust domain");
    spec = certs_leaf_spec("spiffe://td.test/");
    assert_spec_refused(&spec, "ends in '/'");
}

/* ---- V4-V7: what the key may do ---- */

TEST(x509_svid, v4_a_ca_is_no_leaf)
{
    struct cert_spec spec = certs_leaf_spec(ID);
    spec.ca = CERT_CA_TRUE;
    assert_spec_refused(&spec, "is a CA");
}

TEST(x509_svid, v4_absent_basic_constraints_mean_no_ca)
{
    struct cert_spec spec = certs_leaf_spec(ID);
    spec.ca = CERT_NO_CONSTRAINTS;
    assert_spec_accepted(&spec);
}

TEST(x509_svid, v5_v6_key_usage_is_judged)
{
    static const struct {
        const char *usage, *because;
    } cases[] = {
        {"critical,digitalSignature", NULL},
        {"digitalSignature", NULL},
        {"critical,digitalSignature,keyEncipherment", NULL},
        {"critical,digitalSignature,keyCertSign", "has keyCertSign"},
        {"critical,digitalSignature,cRLSign", "has cRLSign"},
        {"critical,keyEncipherment", "lacks digitalSignature"},
        {NULL, "no keyUsage"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct cert_spec spec = certs_leaf_spec(ID);
        spec.key_usage = cases[i].usage;
        if (cases[i].because == NULL)
            assert_spec_accepted(&spec);
        else
            assert_spec_refused(&spec, cases[i].because);
    }
}

TEST(x509_svid, v7_extended_key_usage_has_both_roles_or_is_absent)
{
    static const struct {
        const char *usage;
        bool is_good;
    } cases[] = {
        {"serverAuth,clientAuth", true},
        {NULL, true},
        {"clientAuth,serverAuth,codeSigning", true},
        {"serverAuth", false},
        {"clientAuth", false},
        {"codeSigning", false},
        {"anyExtendedKeyUsage", false},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct cert_spec spec = certs_leaf_spec(ID);
        spec.ext_key_usage = cases[i].usage;
        if (cases[i].is_good)
            assert_spec_accepted(&spec);
        else
            assert_spec_refused(&spec, "lacks serverAuth or clientAuth");
    }
}

TEST(x509_svid, v13_an_empty_subject_is_fine)
{
    struct cert_spec spec = certs_leaf_spec(ID);
    spec.name = NULL;
    assert_spec_accepted(&spec);
}

TEST(x509_svid, an_unknown_critical_extension_is_refused)
{
    struct cert_spec spec = certs_leaf_spec(ID);
    spec.extra_oid = "1.2.3.4.5";
    spec.extra = STR("\x05\x00");
    spec.is_extra_critical = true;
    struct err e;
    assert_false(verify_spec(&spec, &e));
    assert_int_equal(e.code, ERR_DENIED);
    assert_says(&e, "critical extension");
}

TEST(x509_svid, a_malformed_or_repeated_extension_is_refused)
{
    struct cert_spec spec = certs_leaf_spec(ID);
    spec.extra_oid = "2.5.29.19"; /* basicConstraints, a second time */
    spec.extra = STR("\x30\x00");
    assert_spec_refused(&spec, "malformed or repeated extension");
    spec.extra_oid = "2.5.29.15"; /* keyUsage */
    spec.extra = STR("\x03\x02\x07\x80");
    assert_spec_refused(&spec, "malformed or repeated extension");
    spec.key_usage = NULL;
    assert_spec_accepted(&spec);
    spec.extra = STR("\x04\x01");
    assert_spec_refused(&spec, "malformed or repeated extension");
    spec = certs_ca_spec("inter");
    spec.extra_oid = "2.5.29.19";
    spec.extra = STR("\x30\x03\x01\x01\xff");
    struct err e;
    assert_false(verify_with_intermediate(&spec, &e));
}

TEST(x509_svid, a_leaf_that_fails_later_still_gives_its_id)
{
    struct cert root = certs_ca("root");
    struct cert_spec spec = certs_leaf_spec(ID);
    spec.key_usage = NULL;
    struct cert leaf = certs_issue(&spec, &root);
    struct spiffe_id id = {0};
    assert_false(x509_svid_check_leaf(leaf.x509, &id, NULL));
    assert_string_equal(id.text, ID);
    certs_release(&leaf);
    certs_release(&root);
}

/* ---- V8-V16: the path ---- */

TEST(x509_svid, v8_an_empty_chain_is_refused)
{
    struct cert root = certs_ca("root");
    struct err e;
    assert_false(verify_at(certs_stack(0), certs_stack(1, root.x509), CERTS_NOW_S, &e));
    assert_says(&e, "no certificate");
    assert_false(verify_at(NULL, certs_stack(1, root.x509), CERTS_NOW_S, &e));
    certs_release(&root);
}

TEST(x509_svid, v8_without_a_bundle_the_trust_domain_is_named)
{
    struct cert root = certs_ca("root"), leaf = certs_leaf(ID, &root);
    struct err e;
    assert_false(verify_at(certs_stack(1, leaf.x509), NULL, CERTS_NOW_S, &e));
    assert_int_equal(e.code, ERR_DENIED);
    assert_says(&e, "no bundle for trust domain td.test");
    assert_false(verify_at(certs_stack(1, leaf.x509), certs_stack(0), CERTS_NOW_S, &e));
    assert_int_equal(e.code, ERR_DENIED);
    certs_release(&leaf);
    certs_release(&root);
}

TEST(x509_svid, v8_another_root_of_another_or_the_same_name_is_refused)
{
    struct cert root = certs_ca("root"), twin = certs_ca("root"), other = certs_ca("other");
    struct cert leaf = certs_leaf(ID, &root);
    struct err e;
    assert_false(verify_at(certs_stack(1, leaf.x509), certs_stack(1, other.x509), CERTS_NOW_S, &e));
    assert_int_equal(e.code, ERR_DENIED);
    assert_says(&e, "issued by \"/CN=root\", which its trust domain's bundle lacks");
    assert_false(verify_at(certs_stack(1, leaf.x509), certs_stack(1, twin.x509), CERTS_NOW_S, &e));
    assert_int_equal(e.code, ERR_DENIED);
    /* The peer may send its root along: that makes no anchor. */
    assert_false(verify_at(certs_stack(2, leaf.x509, root.x509), certs_stack(1, other.x509),
                           CERTS_NOW_S, &e));
    assert_says(&e, "bundle lacks");
    certs_release(&leaf);
    certs_release(&other);
    certs_release(&twin);
    certs_release(&root);
}

TEST(x509_svid, v8_a_self_signed_leaf_is_refused)
{
    struct cert root = certs_ca("root"), leaf = certs_leaf(ID, NULL);
    struct err e;
    assert_false(verify_at(certs_stack(1, leaf.x509), certs_stack(1, root.x509), CERTS_NOW_S, &e));
    assert_int_equal(e.code, ERR_DENIED);
    certs_release(&leaf);
    certs_release(&root);
}

TEST(x509_svid, v8_a_leaf_in_the_bundle_is_never_an_anchor)
{
    struct cert root = certs_ca("root"), other = certs_ca("other"), leaf = certs_leaf(ID, &other);
    struct err e;
    assert_false(verify_at(certs_stack(1, leaf.x509), certs_stack(2, root.x509, leaf.x509),
                           CERTS_NOW_S, &e));
    struct str der = certs_der(2, leaf.x509, root.x509);
    STACK_OF(X509) *bundle = NULL;
    assert_true(x509_bundle_parse(der, &bundle, &e));
    assert_int_equal(sk_X509_num(bundle), 1);
    assert_int_equal(X509_cmp(sk_X509_value(bundle, 0), root.x509), 0);
    certs_stack_free(bundle);
    free((void *)der.p);
    certs_release(&leaf);
    certs_release(&other);
    certs_release(&root);
}

TEST(x509_svid, v8_a_ca_with_a_malformed_extension_is_no_anchor)
{
    struct cert_spec spec = certs_ca_spec("root");
    spec.key_usage = NULL;
    spec.extra_oid = "2.5.29.15";
    spec.extra = STR("\x04\x01");
    struct cert root = certs_issue(&spec, NULL);
    struct str der = certs_der(1, root.x509);
    STACK_OF(X509) *bundle = NULL;
    assert_true(x509_bundle_parse(der, &bundle, NULL));
    assert_int_equal(sk_X509_num(bundle), 0);
    certs_stack_free(bundle);
    free((void *)der.p);
    certs_release(&root);
}

TEST(x509_svid, v8_a_tampered_signature_is_refused)
{
    struct cert root = certs_ca("root"), leaf = certs_leaf(ID, &root);
    struct str der = certs_der(1, leaf.x509);
    ((char *)der.p)[der.len - 1] ^= 1;
    STACK_OF(X509) *chain = NULL;
    struct err e;
    assert_true(x509_certs_parse(der, 1, &chain, &e));
    assert_false(verify_at(chain, certs_stack(1, root.x509), CERTS_NOW_S, &e));
    assert_int_equal(e.code, ERR_DENIED);
    free((void *)der.p);
    certs_release(&leaf);
    certs_release(&root);
}

TEST(x509_svid, v8_weak_keys_and_digests_are_refused)
{
    struct cert_spec spec = certs_leaf_spec(ID);
    struct err e;
    spec.key = certs_rsa_key(1024);
    assert_false(verify_spec(&spec, &e));
    assert_says(&e, "key too weak");
    EVP_PKEY_free(spec.key);
    spec = certs_leaf_spec(ID);
    spec.digest = "SHA1";
    assert_false(verify_spec(&spec, &e));
    assert_says(&e, "digest algorithm too weak");
    spec.digest = "SHA256";
    spec.key = certs_rsa_key(2048);
    assert_spec_accepted(&spec);
    EVP_PKEY_free(spec.key);
}

TEST(x509_svid, v9_a_path_over_an_intermediate_is_accepted)
{
    struct cert_spec spec = certs_ca_spec("inter");
    struct err e;
    assert_true(verify_with_intermediate(&spec, &e));
    spec.path_len = 0;
    assert_true(verify_with_intermediate(&spec, &e));
}

TEST(x509_svid, v9_an_intermediate_must_be_a_ca_that_may_sign)
{
    struct err e;
    struct cert_spec spec = certs_ca_spec("inter");
    spec.ca = CERT_CA_FALSE;
    assert_false(verify_with_intermediate(&spec, &e));
    spec.ca = CERT_NO_CONSTRAINTS;
    assert_false(verify_with_intermediate(&spec, &e));
    spec.ca = CERT_CA_TRUE;
    spec.key_usage = "critical,cRLSign";
    assert_false(verify_with_intermediate(&spec, &e));
    spec.key_usage = "critical,digitalSignature";
    assert_false(verify_with_intermediate(&spec, &e));
    spec.key_usage = NULL;
    assert_false(verify_with_intermediate(&spec, &e));
    assert_says(&e, "an intermediate without keyCertSign");
}

TEST(x509_svid, v9_v10_a_workload_cannot_sign_for_another)
{
    struct cert root = certs_ca("root"), mallory = certs_leaf("spiffe://td.test/mallory", &root);
    struct cert leaf = certs_leaf(ID, &mallory);
    struct err e;
    assert_false(verify_at(certs_stack(2, leaf.x509, mallory.x509), certs_stack(1, root.x509),
                           CERTS_NOW_S, &e));
    assert_int_equal(e.code, ERR_DENIED);
    certs_release(&leaf);
    certs_release(&mallory);
    certs_release(&root);
}

TEST(x509_svid, v9_path_length_binds)
{
    struct cert_spec spec = certs_ca_spec("root");
    spec.path_len = 0;
    struct cert root = certs_issue(&spec, NULL);
    spec = certs_ca_spec("inter");
    struct cert inter = certs_issue(&spec, &root), leaf = certs_leaf(ID, &inter);
    struct err e;
    assert_false(verify_at(certs_stack(2, leaf.x509, inter.x509), certs_stack(1, root.x509),
                           CERTS_NOW_S, &e));
    assert_says(&e, "path length constraint exceeded");
    certs_release(&leaf);
    certs_release(&inter);
    certs_release(&root);
}

TEST(x509_svid, v8_an_intermediate_can_be_the_anchor)
{
    struct cert root = certs_ca("root");
    struct cert_spec spec = certs_ca_spec("inter");
    struct cert inter = certs_issue(&spec, &root), leaf = certs_leaf(ID, &inter);
    struct err e;
    assert_true(verify_at(certs_stack(1, leaf.x509), certs_stack(1, inter.x509), CERTS_NOW_S, &e));
    assert_true(verify_at(certs_stack(3, leaf.x509, inter.x509, root.x509),
                          certs_stack(1, inter.x509), CERTS_NOW_S, &e));
    certs_release(&leaf);
    certs_release(&inter);
    certs_release(&root);
}

TEST(x509_svid, v8_an_anchor_without_key_usage_is_honest)
{
    struct cert_spec spec = certs_ca_spec("root");
    spec.key_usage = NULL;
    struct cert root = certs_issue(&spec, NULL), leaf = certs_leaf(ID, &root);
    struct err e;
    assert_true(verify_at(certs_stack(1, leaf.x509), certs_stack(1, root.x509), CERTS_NOW_S, &e));
    certs_release(&leaf);
    certs_release(&root);
    spec.key_usage = "critical,cRLSign";
    root = certs_issue(&spec, NULL);
    leaf = certs_leaf(ID, &root);
    assert_false(verify_at(certs_stack(1, leaf.x509), certs_stack(1, root.x509), CERTS_NOW_S, &e));
    assert_says(&e, "the CA \"/CN=root\": ");
    certs_release(&leaf);
    certs_release(&root);
}

TEST(x509_svid, v8_unused_certificates_in_the_chain_do_no_harm)
{
    struct cert root = certs_ca("root"), leaf = certs_leaf(ID, &root), other = certs_ca("other");
    struct cert stray = certs_leaf("spiffe://td.test/stray", &other);
    struct err e;
    assert_true(verify_at(certs_stack(3, leaf.x509, stray.x509, other.x509),
                          certs_stack(1, root.x509), CERTS_NOW_S, &e));
    certs_release(&stray);
    certs_release(&other);
    certs_release(&leaf);
    certs_release(&root);
}

TEST(x509_svid, v8_cas_of_one_name_without_key_ids_are_told_apart_by_signature)
{
    struct cert_spec spec = certs_ca_spec("root");
    spec.has_no_key_ids = true;
    struct cert old = certs_issue(&spec, NULL), new = certs_issue(&spec, NULL);
    spec = certs_leaf_spec(ID);
    spec.has_no_key_ids = true;
    struct cert by_old = certs_issue(&spec, &old), by_new = certs_issue(&spec, &new);
    struct err e;
    for (int i = 0; i < 2; i++) {
        X509 *leaf = i == 0 ? by_old.x509 : by_new.x509;
        assert_true(
            verify_at(certs_stack(1, leaf), certs_stack(2, old.x509, new.x509), CERTS_NOW_S, &e));
        assert_true(
            verify_at(certs_stack(1, leaf), certs_stack(2, new.x509, old.x509), CERTS_NOW_S, &e));
    }
    assert_false(verify_at(certs_stack(1, by_new.x509), certs_stack(1, old.x509), CERTS_NOW_S, &e));
    certs_release(&by_new);
    certs_release(&by_old);
    certs_release(&new);
    certs_release(&old);
}

/* root -> 15 intermediates -> leaf is 16 sent; one more is refused unseen. */
TEST(x509_svid, chains_up_to_16_are_verified)
{
    struct cert cas[X509_CHAIN_MAX + 1] = {certs_ca("root")};
    for (int i = 1; i <= X509_CHAIN_MAX; i++) {
        struct cert_spec spec = certs_ca_spec("inter");
        cas[i] = certs_issue(&spec, &cas[i - 1]);
    }
    struct err e;
    for (int n = X509_CHAIN_MAX - 1; n <= X509_CHAIN_MAX; n++) {
        struct cert leaf = certs_leaf(ID, &cas[n]);
        STACK_OF(X509) *chain = certs_stack(1, leaf.x509);
        for (int i = n; i > 0; i--)
            assert_int_equal(X509_add_cert(chain, cas[i].x509, X509_ADD_FLAG_UP_REF), 1);
        bool ok = verify_at(chain, certs_stack(1, cas[0].x509), CERTS_NOW_S, &e);
        assert_int_equal(ok, n < X509_CHAIN_MAX);
        certs_release(&leaf);
    }
    assert_int_equal(e.code, ERR_LIMIT);
    for (int i = 0; i <= X509_CHAIN_MAX; i++)
        certs_release(&cas[i]);
}

TEST(x509_svid, v12_uri_name_constraints_are_honoured)
{
    static const struct {
        const char *constraints;
        bool is_good;
    } cases[] = {
        {"critical,permitted;URI:td.test", true},     {"critical,permitted;URI:.test", true},
        {"critical,permitted;URI:other.test", false}, {"permitted;URI:.td.test", false},
        {"critical,excluded;URI:td.test", false},     {"critical,excluded;URI:other.test", true},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct cert_spec spec = certs_ca_spec("inter");
        spec.name_constraints = cases[i].constraints;
        struct err e;
        if (verify_with_intermediate(&spec, &e) != cases[i].is_good)
            fail_msg("%s: %s", cases[i].constraints, e.msg);
    }
}

TEST(x509_svid, v16_the_time_passed_in_decides)
{
    struct cert root = certs_ca("root");
    struct cert_spec spec = certs_leaf_spec(ID);
    spec.not_before_s = CERTS_NOW_S - 10;
    spec.not_after_s = CERTS_NOW_S + 3600;
    struct cert leaf = certs_issue(&spec, &root);
    static const struct {
        int64_t at;
        enum err_code code;
    } cases[] = {
        {-11, ERR_EXPIRED}, {-10, ERR_NONE}, {0, ERR_NONE}, {3599, ERR_NONE}, {3601, ERR_EXPIRED},
    };
    struct err e;
    for (size_t i = 0; i < COUNT(cases); i++) {
        (void)verify_at(certs_stack(1, leaf.x509), certs_stack(1, root.x509),
                        CERTS_NOW_S + cases[i].at, &e);
        assert_int_equal(e.code, cases[i].code);
        if (e.code == ERR_EXPIRED)
            assert_says(&e, cases[i].at > 0 ? "has expired (not after 2026-06-01T01:00:00Z)"
                                            : "is not yet valid (not before 2026-05-31T23:59:50Z)");
    }
    certs_release(&leaf);
    certs_release(&root);
}

TEST(x509_svid, v16_an_expired_intermediate_or_root_ends_its_path)
{
    struct cert_spec spec = certs_ca_spec("old");
    spec.not_after_s = CERTS_NOW_S - 1;
    struct err e;
    assert_false(verify_with_intermediate(&spec, &e));
    assert_int_equal(e.code, ERR_EXPIRED);
    assert_says(&e, "the CA \"/CN=old\" has expired");
    struct cert old = certs_issue(&spec, NULL), leaf = certs_leaf(ID, &old);
    assert_false(verify_at(certs_stack(1, leaf.x509), certs_stack(1, old.x509), CERTS_NOW_S, &e));
    assert_int_equal(e.code, ERR_EXPIRED);
    certs_release(&leaf);
    certs_release(&old);
}

TEST(x509_svid, v16_an_expired_ca_beside_a_good_one_does_no_harm)
{
    struct cert_spec spec = certs_ca_spec("root");
    spec.not_after_s = CERTS_NOW_S - 1;
    struct cert old = certs_issue(&spec, NULL);
    spec.not_after_s = CERTS_NOW_S + 1000;
    spec.key = old.key; /* the same CA, its certificate renewed */
    struct cert renewed = certs_issue(&spec, NULL), leaf = certs_leaf(ID, &renewed);
    struct str der = certs_der(2, old.x509, renewed.x509);
    STACK_OF(X509) *bundle = NULL;
    struct err e;
    assert_true(x509_bundle_parse(der, &bundle, &e));
    assert_int_equal(sk_X509_num(bundle), 2);
    assert_true(verify_at(certs_stack(1, leaf.x509), bundle, CERTS_NOW_S, &e));
    free((void *)der.p);
    certs_release(&leaf);
    certs_release(&renewed);
    certs_release(&old);
}

TEST(x509_svid, v11_a_ca_of_another_trust_domain_in_the_path_is_no_reason)
{
    struct cert_spec spec = certs_ca_spec("inter");
    spec.uris[spec.n_uris++] = STR("spiffe://other.test");
    struct err e;
    assert_true(verify_with_intermediate(&spec, &e));
}

/* ---- DER ---- */

TEST(x509_svid, concatenated_certificates_are_parsed_in_order)
{
    struct cert root = certs_ca("root"), leaf = certs_leaf(ID, &root);
    struct str der = certs_der(2, leaf.x509, root.x509);
    STACK_OF(X509) *certs = NULL;
    assert_true(x509_certs_parse(der, 2, &certs, NULL));
    assert_int_equal(sk_X509_num(certs), 2);
    assert_int_equal(X509_cmp(sk_X509_value(certs, 0), leaf.x509), 0);
    certs_stack_free(certs);
    struct err e;
    assert_false(x509_certs_parse(der, 1, &certs, &e));
    assert_int_equal(e.code, ERR_LIMIT);
    assert_null(certs);
    free((void *)der.p);
    certs_release(&leaf);
    certs_release(&root);
}

TEST(x509_svid, each_truncation_and_each_trailing_byte_is_refused)
{
    struct cert root = certs_ca("root");
    struct str der = certs_der(2, root.x509, root.x509);
    size_t half = der.len / 2;
    STACK_OF(X509) *certs = NULL;
    struct err e;
    for (size_t n = 0; n < der.len; n++) {
        bool ok = x509_certs_parse((struct str){der.p, n}, 2, &certs, &e);
        assert_int_equal(ok, n == half);
        if (!ok)
            assert_int_equal(e.code, ERR_SYNTAX);
        assert_int_equal(ERR_peek_error(), 0);
        certs_stack_free(certs);
    }
    assert_says(&e, "after 1 certificates: not a DER certificate");
    free((void *)der.p);
    certs_release(&root);
}

TEST(x509_svid, pem_and_garbage_are_no_certificates)
{
    STACK_OF(X509) *certs = NULL;
    struct err e;
    assert_false(x509_certs_parse(STR("-----BEGIN CERTIFICATE-----\nMII"), 1, &certs, &e));
    assert_says(&e, "not a DER certificate");
    assert_false(x509_certs_parse(STR("\x30\x84\xff\xff\xff\xff"), 1, &certs, &e));
    assert_false(x509_certs_parse(STR("\x30\x00"), 1, &certs, &e));
    assert_false(x509_bundle_parse(STR("garbage"), &certs, &e));
    assert_says(&e, "trust bundle: ");
    assert_null(certs);
}

TEST(x509_svid, an_empty_bundle_is_an_empty_stack)
{
    STACK_OF(X509) *bundle = NULL;
    assert_true(x509_bundle_parse(STR(""), &bundle, NULL));
    assert_int_equal(sk_X509_num(bundle), 0);
    certs_stack_free(bundle);
}

TEST(x509_svid, a_bundle_holds_at_most_128_certificates)
{
    struct cert root = certs_ca("root");
    struct str one = certs_der(1, root.x509);
    char *many = xcalloc(X509_BUNDLE_MAX + 1, one.len);
    for (size_t i = 0; i <= X509_BUNDLE_MAX; i++)
        memcpy(many + i * one.len, one.p, one.len);
    STACK_OF(X509) *bundle = NULL;
    struct err e;
    assert_true(x509_bundle_parse((struct str){many, X509_BUNDLE_MAX * one.len}, &bundle, &e));
    certs_stack_free(bundle);
    assert_false(
        x509_bundle_parse((struct str){many, (X509_BUNDLE_MAX + 1) * one.len}, &bundle, &e));
    assert_int_equal(e.code, ERR_LIMIT);
    assert_false(x509_bundle_parse((struct str){many, X509_BUNDLE_BYTES + 1}, &bundle, &e));
    assert_int_equal(e.code, ERR_LIMIT);
    assert_says(&e, "bytes");
    free(many);
    free((void *)one.p);
    certs_release(&root);
}

static void assert_key(struct str der, const char *because)
{
    EVP_PKEY *key = NULL;
    struct err e = {0};
    bool ok = x509_key_parse(der, &key, &e);
    assert_int_equal(ok, because == NULL);
    assert_int_equal(ok, key != NULL);
    assert_int_equal(ERR_peek_error(), 0);
    if (!ok)
        assert_says(&e, because);
    EVP_PKEY_free(key);
}

TEST(x509_svid, keys_are_unencrypted_pkcs8_and_nothing_else)
{
    EVP_PKEY *ec = EVP_EC_gen("P-256"), *rsa = certs_rsa_key(2048);
    struct str good = certs_pkcs8(ec), good_rsa = certs_pkcs8(rsa),
               sec1 = certs_traditional_key(ec), pkcs1 = certs_traditional_key(rsa),
               locked = certs_pkcs8_encrypted(ec, "pw");
    assert_key(good, NULL);
    assert_key(good_rsa, NULL);
    assert_key(sec1, "not one unencrypted PKCS#8 key");
    assert_key(pkcs1, "not one unencrypted PKCS#8 key");
    assert_key(locked, "not one unencrypted PKCS#8 key");
    assert_key(STR(""), "there is no private key");
    assert_key(STR("-----BEGIN PRIVATE KEY-----"), "not one unencrypted PKCS#8 key");
    char *more = str_dup((struct str){good.p, good.len});
    assert_key((struct str){more, good.len + 1}, "trailing bytes");
    for (size_t n = 1; n < good.len; n++)
        assert_key((struct str){good.p, n}, "not one unencrypted PKCS#8 key");
    free(more);
    free((void *)good.p);
    free((void *)good_rsa.p);
    free((void *)sec1.p);
    free((void *)pkcs1.p);
    free((void *)locked.p);
    EVP_PKEY_free(ec);
    EVP_PKEY_free(rsa);
}

TEST(x509_svid, validity_is_given_in_milliseconds)
{
    struct cert_spec spec = certs_leaf_spec(ID);
    spec.not_before_s = 1;
    spec.not_after_s = INT64_C(253402300799); /* 9999-12-31T23:59:59Z: "no end" */
    struct cert leaf = certs_issue(&spec, NULL);
    int64_t from, to;
    assert_true(x509_validity(leaf.x509, &from, &to));
    assert_true(from == 1000);
    assert_true(to == INT64_C(253402300799000));
    certs_release(&leaf);
}

/* ---- our own SVID ---- */

struct own {
    struct cert root, inter, leaf;
    STACK_OF(X509) *chain, *bundle;
};

static struct own own_new(void)
{
    struct own o = {.root = certs_ca("root")};
    struct cert_spec spec = certs_ca_spec("inter");
    o.inter = certs_issue(&spec, &o.root);
    o.leaf = certs_leaf(ID, &o.inter);
    o.chain = certs_stack(2, o.leaf.x509, o.inter.x509);
    o.bundle = certs_stack(1, o.root.x509);
    return o;
}

static void own_free(struct own *o)
{
    certs_stack_free(o->chain);
    certs_stack_free(o->bundle);
    certs_release(&o->leaf);
    certs_release(&o->inter);
    certs_release(&o->root);
}

static void own_set_chain(struct own *o, STACK_OF(X509) *chain)
{
    certs_stack_free(o->chain);
    o->chain = chain;
}

static void assert_own(const struct own *o, int64_t at_s, enum err_code code, const char *because)
{
    struct spiffe_id id;
    struct err e = {0};
    bool ok = x509_svid_check_own(o->chain, o->leaf.key, o->bundle, STR(ID), at_s * 1000, &id, &e);
    assert_int_equal(ok, code == ERR_NONE);
    assert_int_equal(e.code, code);
    assert_int_equal(ERR_peek_error(), 0);
    if (!ok)
        assert_says(&e, because);
    else
        assert_string_equal(id.text, ID);
}

TEST(x509_svid, own_svid_as_the_agent_sends_it_is_accepted)
{
    struct own o = own_new();
    assert_own(&o, CERTS_NOW_S, ERR_NONE, "");
    own_free(&o);
}

TEST(x509_svid, own_svid_with_another_key_is_refused)
{
    struct own o = own_new();
    EVP_PKEY_free(o.leaf.key);
    o.leaf.key = EVP_EC_gen("P-256");
    assert_own(&o, CERTS_NOW_S, ERR_SYNTAX, "private key does not belong");
    EVP_PKEY_free(o.leaf.key);
    o.leaf.key = certs_rsa_key(2048);
    assert_own(&o, CERTS_NOW_S, ERR_SYNTAX, "private key does not belong");
    own_free(&o);
}

TEST(x509_svid, own_svid_in_wrong_order_or_empty_is_refused)
{
    struct own o = own_new();
    own_set_chain(&o, certs_stack(2, o.inter.x509, o.leaf.x509));
    assert_own(&o, CERTS_NOW_S, ERR_SYNTAX, "no subjectAltName");
    own_set_chain(&o, certs_stack(0));
    assert_own(&o, CERTS_NOW_S, ERR_SYNTAX, "there is no certificate");
    own_set_chain(&o, NULL);
    assert_own(&o, CERTS_NOW_S, ERR_SYNTAX, "there is no certificate");
    own_free(&o);
}

TEST(x509_svid, own_svid_with_a_bad_intermediate_is_refused_even_if_unused)
{
    struct own o = own_new();
    struct cert_spec spec = certs_ca_spec("stray");
    spec.ca = CERT_CA_FALSE;
    struct cert stray = certs_issue(&spec, &o.root);
    own_set_chain(&o, certs_stack(3, o.leaf.x509, o.inter.x509, stray.x509));
    assert_own(&o, CERTS_NOW_S, ERR_SYNTAX,
               "certificate 3 of the chain: an intermediate that is no CA");
    certs_release(&stray);
    spec.ca = CERT_CA_TRUE;
    spec.key_usage = "critical,cRLSign";
    stray = certs_issue(&spec, &o.root);
    own_set_chain(&o, certs_stack(3, o.leaf.x509, o.inter.x509, stray.x509));
    assert_own(&o, CERTS_NOW_S, ERR_SYNTAX, "without keyCertSign");
    certs_release(&stray);
    own_free(&o);
}

TEST(x509_svid, own_svid_that_breaks_a_leaf_rule_is_refused)
{
    struct own o = own_new();
    struct cert_spec spec = certs_leaf_spec("spiffe://td.test");
    certs_release(&o.leaf);
    o.leaf = certs_issue(&spec, &o.inter);
    own_set_chain(&o, certs_stack(2, o.leaf.x509, o.inter.x509));
    assert_own(&o, CERTS_NOW_S, ERR_SYNTAX, "names a whole trust domain");
    own_free(&o);
}

TEST(x509_svid, own_svid_under_another_stated_id_is_refused)
{
    struct own o = own_new();
    struct spiffe_id id;
    struct err e;
    static const struct str stated[] = {
        {"spiffe://td.test/ap", 19},
        {"spiffe://td.test/App", 20},
        {"", 0},
        {ID "\0", 21},
        {ID "/x\n", 23},
    };
    for (size_t i = 0; i < COUNT(stated); i++) {
        assert_false(
            x509_svid_check_own(o.chain, o.leaf.key, o.bundle, stated[i], CERTS_NOW_MS, &id, &e));
        assert_int_equal(e.code, ERR_SYNTAX);
        assert_says(&e, "the certificate says " ID);
    }
    own_free(&o);
}

TEST(x509_svid, own_svid_without_a_path_to_its_own_bundle_is_refused)
{
    struct own o = own_new();
    struct cert other = certs_ca("other");
    certs_stack_free(o.bundle);
    o.bundle = certs_stack(1, other.x509);
    assert_own(&o, CERTS_NOW_S, ERR_DENIED, "bundle lacks");
    certs_stack_free(o.bundle);
    o.bundle = certs_stack(0);
    assert_own(&o, CERTS_NOW_S, ERR_SYNTAX, "holds no CA certificate");
    certs_stack_free(o.bundle);
    o.bundle = NULL;
    assert_own(&o, CERTS_NOW_S, ERR_SYNTAX, "holds no CA certificate");
    certs_release(&other);
    own_free(&o);
}

TEST(x509_svid, own_svid_outside_its_validity_is_refused)
{
    struct own o = own_new();
    assert_own(&o, INT64_C(2493072001), ERR_EXPIRED,
               "has expired (not after 2049-01-01T00:00:00Z)");
    assert_own(&o, INT64_C(1577836799), ERR_EXPIRED, "not yet valid");
    own_free(&o);
}
