// SPDX-License-Identifier: Apache-2.0
/* The agent's bytes as a chain, as a bundle and as a key, and the chain judged against the bundle
 * made of the same bytes: nothing crashes or leaks, an accepted leaf keeps the rules, OpenSSL's
 * error queue stays clean. */
#include "core/x509_svid.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>

#define NOW_MS INT64_C(1780272000000)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void check_leaf(X509 *leaf)
{
    struct spiffe_id id;
    struct err e = {0};
    if (!x509_svid_check_leaf(leaf, &id, &e)) {
        CHECK(e.code != ERR_NONE);
        return;
    }
    CHECK(spiffe_id_path(&id).len > 0);
    CHECK((X509_get_extension_flags(leaf) & (EXFLAG_CA | EXFLAG_INVALID)) == 0);
    CHECK((X509_get_key_usage(leaf) & (KU_KEY_CERT_SIGN | KU_CRL_SIGN)) == 0);
}

static void judge(STACK_OF(X509) *chain, STACK_OF(X509) *bundle, EVP_PKEY *key)
{
    struct spiffe_id id = {0}, own;
    struct err e = {0};
    X509_STORE *store = x509_store_new(bundle);
    if (x509_svid_verify(chain, store, NOW_MS, &id, &e))
        CHECK(sk_X509_num(bundle) > 0 && X509_check_ca(sk_X509_value(chain, 0)) == 0);
    if (key != NULL)
        (void)!x509_svid_check_own(chain, key, bundle, spiffe_id_str(&id), NOW_MS, &own, &e);
    X509_STORE_free(store);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct str der = {(const char *)data, len};
    STACK_OF(X509) *chain = NULL, *bundle = NULL;
    EVP_PKEY *key = NULL;
    int64_t from_ms, to_ms;
    (void)!x509_key_parse(der, &key, NULL);
    if (x509_bundle_parse(der, &bundle, NULL) &&
        x509_certs_parse(der, X509_CHAIN_MAX, &chain, NULL)) {
        for (int i = 0; i < sk_X509_num(chain); i++) {
            check_leaf(sk_X509_value(chain, i));
            (void)!x509_validity(sk_X509_value(chain, i), &from_ms, &to_ms);
        }
        judge(chain, bundle, key);
    }
    CHECK(ERR_peek_error() == 0);
    EVP_PKEY_free(key);
    sk_X509_pop_free(chain, X509_free);
    sk_X509_pop_free(bundle, X509_free);
    return 0;
}
