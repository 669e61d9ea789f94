// SPDX-License-Identifier: Apache-2.0
#include "core/x509_svid.h"

#include <openssl/err.h>
#include <openssl/pkcs12.h>
#include <openssl/x509v3.h>

#include <stdio.h>
#include <time.h>

#define NAME_SHOWN_MAX 96 /* of a subject or issuer */
#define TIME_TEXT_MAX  32
#define AUTH_LEVEL     2 /* 112 bits: no RSA below 2048, no SHA-1 */

static bool is_ca(const X509 *cert);
NODISCARD static bool check_san(const X509 *leaf, struct spiffe_id *out, struct err *e);
NODISCARD static bool check_leaf_usage(const X509 *leaf, struct err *e);
NODISCARD static bool check_signer(const X509 *cert, struct err *e);
NODISCARD static bool check_path(STACK_OF(X509) *chain, X509_STORE *store, int64_t wall_ms,
                                 struct err *e);
static int on_check_issued(X509_STORE_CTX *ctx, X509 *cert, X509 *issuer);

/* OpenSSL caches the decoded extensions inside (under its own lock): const only in spirit. */
static uint32_t ext_flags(const X509 *cert)
{
    return X509_get_extension_flags((X509 *)cert);
}

bool x509_certs_parse(struct str der, int max_n, STACK_OF(X509) **out, struct err *e)
{
    *out = NULL;
    if (der.len == 0)
        return err_set(e, ERR_SYNTAX, 0, "there is no certificate");
    if (der.len > X509_BUNDLE_BYTES)
        return err_set(e, ERR_LIMIT, 0, "certificates of more than %u bytes", X509_BUNDLE_BYTES);
    STACK_OF(X509) *certs = sk_X509_new_null();
    CHECK(certs != NULL);
    const unsigned char *at = (const unsigned char *)der.p, *end = at + der.len;
    bool ok = true;
    while (ok && at < end) {
        int n = sk_X509_num(certs);
        X509 *cert = n < max_n ? d2i_X509(NULL, &at, end - at) : NULL;
        if (cert != NULL)
            CHECK(sk_X509_push(certs, cert) > 0);
        else if (n == max_n)
            ok = err_set(e, ERR_LIMIT, 0, "more than %d certificates", max_n);
        else
            ok = err_set(e, ERR_SYNTAX, 0, "byte %td, after %d certificates: not a DER certificate",
                         at - (const unsigned char *)der.p, n);
    }
    ERR_clear_error();
    if (ok)
        *out = certs;
    else
        sk_X509_pop_free(certs, X509_free);
    return ok;
}

bool x509_bundle_parse(struct str der, STACK_OF(X509) **out, struct err *e)
{
    if (der.len == 0) {
        *out = sk_X509_new_null();
        CHECK(*out != NULL);
        return true;
    }
    if (!x509_certs_parse(der, X509_BUNDLE_MAX, out, e))
        return err_wrap(e, "trust bundle");
    for (int i = sk_X509_num(*out) - 1; i >= 0; i--)
        if (!is_ca(sk_X509_value(*out, i)))
            X509_free(sk_X509_delete(*out, i));
    return true;
}

bool x509_key_parse(struct str pkcs8, EVP_PKEY **out, struct err *e)
{
    *out = NULL;
    const unsigned char *at = (const unsigned char *)pkcs8.p, *end = at + pkcs8.len;
    if (pkcs8.len == 0)
        return err_set(e, ERR_SYNTAX, 0, "there is no private key");
    if (pkcs8.len > X509_BUNDLE_BYTES)
        return err_set(e, ERR_LIMIT, 0, "the private key is too long");
    PKCS8_PRIV_KEY_INFO *info = d2i_PKCS8_PRIV_KEY_INFO(NULL, &at, end - at);
    bool is_whole = info != NULL && at == end;
    EVP_PKEY *key = is_whole ? EVP_PKCS82PKEY(info) : NULL;
    PKCS8_PRIV_KEY_INFO_free(info); /* overwrites the key bytes first */
    ERR_clear_error();
    if (key == NULL)
        return err_set(e, ERR_SYNTAX, 0, "the private key is not one unencrypted PKCS#8 key%s",
                       info != NULL && !is_whole ? " (trailing bytes)" : "");
    *out = key;
    return true;
}

bool x509_svid_check_leaf(const X509 *leaf, struct spiffe_id *out, struct err *e)
{
    ERR_clear_error();
    bool ok = check_san(leaf, out, e) && check_leaf_usage(leaf, e);
    ERR_clear_error();
    return ok;
}

X509_STORE *x509_store_new(STACK_OF(X509) *cas)
{
    X509_STORE *store = X509_STORE_new();
    CHECK(store != NULL);
    X509_STORE_set_check_issued(store, on_check_issued);
    for (int i = 0; i < sk_X509_num(cas); i++)
        if (is_ca(sk_X509_value(cas, i)))
            CHECK(X509_STORE_add_cert(store, sk_X509_value(cas, i)) == 1);
    ERR_clear_error();
    return store;
}

bool x509_svid_verify(STACK_OF(X509) *chain, X509_STORE *store, int64_t wall_ms,
                      struct spiffe_id *out, struct err *e)
{
    int n = sk_X509_num(chain); /* -1 for NULL */
    if (n <= 0)
        return err_set(e, ERR_SYNTAX, 0, "there is no certificate");
    if (n > X509_CHAIN_MAX)
        return err_set(e, ERR_LIMIT, 0, "a chain of more than %d certificates", X509_CHAIN_MAX);
    if (!x509_svid_check_leaf(sk_X509_value(chain, 0), out, e))
        return false;
    struct str td = spiffe_id_trust_domain(out);
    if (store == NULL)
        return err_set(e, ERR_DENIED, 0,
                       "no bundle for trust domain %.*s: not our own, not federated", (int)td.len,
                       td.p);
    if (!check_path(chain, store, wall_ms, e))
        return err_wrap(e, "%.160s", out->text);
    return true;
}

NODISCARD static bool check_own_parts(STACK_OF(X509) *chain, EVP_PKEY *key, struct str stated_id,
                                      struct spiffe_id *out, struct err *e)
{
    X509 *leaf = sk_X509_value(chain, 0);
    if (leaf == NULL)
        return err_set(e, ERR_SYNTAX, 0, "there is no certificate");
    if (!x509_svid_check_leaf(leaf, out, e))
        return false;
    for (int i = 1; i < sk_X509_num(chain); i++)
        if (!check_signer(sk_X509_value(chain, i), e))
            return err_wrap(e, "certificate %d of the chain", i + 1);
    bool is_pair = X509_check_private_key(leaf, key) == 1;
    ERR_clear_error();
    if (!is_pair)
        return err_set(e, ERR_SYNTAX, 0, "the private key does not belong to the certificate");
    char shown[NAME_SHOWN_MAX];
    if (!str_eq(stated_id, spiffe_id_str(out)))
        return err_set(e, ERR_SYNTAX, 0, "the agent calls it \"%s\", the certificate says %.160s",
                       str_escape(shown, sizeof shown, stated_id), out->text);
    return true;
}

bool x509_svid_check_own(STACK_OF(X509) *chain, EVP_PKEY *key, STACK_OF(X509) *bundle,
                         struct str stated_id, int64_t wall_ms, struct spiffe_id *out,
                         struct err *e)
{
    if (!check_own_parts(chain, key, stated_id, out, e))
        return false;
    if (sk_X509_num(bundle) <= 0)
        return err_set(e, ERR_SYNTAX, 0, "its trust bundle holds no CA certificate");
    X509_STORE *store = x509_store_new(bundle);
    bool ok = x509_svid_verify(chain, store, wall_ms, out, e);
    X509_STORE_free(store);
    return ok;
}

NODISCARD static bool time_to_ms(const ASN1_TIME *t, int64_t *out_ms)
{
    struct tm tm;
    if (t == NULL || ASN1_TIME_to_tm(t, &tm) != 1)
        return false;
    *out_ms = (int64_t)timegm(&tm) * 1000;
    return true;
}

bool x509_validity(const X509 *cert, int64_t *not_before_ms, int64_t *not_after_ms)
{
    bool ok = time_to_ms(X509_get0_notBefore(cert), not_before_ms) &&
              time_to_ms(X509_get0_notAfter(cert), not_after_ms);
    ERR_clear_error();
    return ok;
}

static bool is_ca(const X509 *cert)
{
    return (ext_flags(cert) & (EXFLAG_CA | EXFLAG_INVALID)) == EXFLAG_CA;
}

/* V1-V3. */
NODISCARD static bool check_names(const GENERAL_NAMES *names, struct spiffe_id *out, struct err *e)
{
    int n_uris = 0, n = sk_GENERAL_NAME_num(names);
    const ASN1_IA5STRING *uri = NULL;
    if (n > X509_SAN_MAX)
        return err_set(e, ERR_LIMIT, 0, "the certificate has more than %d names", X509_SAN_MAX);
    for (int i = 0; i < n; i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != GEN_URI)
            continue;
        n_uris++;
        uri = name->d.uniformResourceIdentifier;
    }
    if (n_uris != 1)
        return err_set(e, ERR_SYNTAX, 0, "the certificate has %d URI names, an X.509-SVID has one",
                       n_uris);
    /* The bytes as they are: a NUL or a non-IA5 byte fails the syntax like any other. */
    struct str raw = {(const char *)ASN1_STRING_get0_data(uri), (size_t)ASN1_STRING_length(uri)};
    return spiffe_id_parse_workload(raw, out, e);
}

NODISCARD static bool check_san(const X509 *leaf, struct spiffe_id *out, struct err *e)
{
    int found;
    GENERAL_NAMES *names = X509_get_ext_d2i(leaf, NID_subject_alt_name, &found, NULL);
    if (names == NULL && found == -1)
        return err_set(e, ERR_SYNTAX, 0,
                       "the certificate has no subjectAltName, an X.509-SVID has one URI there");
    if (names == NULL)
        return err_set(e, ERR_SYNTAX, 0, "the certificate's subjectAltName is %s",
                       found == -2 ? "there twice" : "unreadable");
    bool ok = check_names(names, out, e);
    GENERAL_NAMES_free(names);
    return ok;
}

/* V4-V7. */
NODISCARD static bool check_leaf_usage(const X509 *leaf, struct err *e)
{
    uint32_t flags = ext_flags(leaf);
    if (flags & EXFLAG_INVALID)
        return err_set(e, ERR_SYNTAX, 0, "the certificate has a malformed or repeated extension");
    if (flags & EXFLAG_CA)
        return err_set(e, ERR_SYNTAX, 0, "the certificate is a CA (cA true), no workload's");
    if (!(flags & EXFLAG_KUSAGE))
        return err_set(e, ERR_SYNTAX, 0, "the certificate has no keyUsage");
    uint32_t usage = X509_get_key_usage((X509 *)leaf);
    if (usage & KU_KEY_CERT_SIGN)
        return err_set(e, ERR_SYNTAX, 0, "the certificate's keyUsage has keyCertSign");
    if (usage & KU_CRL_SIGN)
        return err_set(e, ERR_SYNTAX, 0, "the certificate's keyUsage has cRLSign");
    if (!(usage & KU_DIGITAL_SIGNATURE))
        return err_set(e, ERR_SYNTAX, 0, "the certificate's keyUsage lacks digitalSignature");
    uint32_t both = XKU_SSL_SERVER | XKU_SSL_CLIENT; /* an absent extension has all bits */
    if ((X509_get_extended_key_usage((X509 *)leaf) & both) != both)
        return err_set(e, ERR_SYNTAX, 0,
                       "the certificate's extendedKeyUsage lacks serverAuth or clientAuth");
    return true;
}

/* V9, for an intermediate.  An anchor is less strictly judged: what stands in the bundle is
 * trusted, and honest private roots exist without keyUsage. */
NODISCARD static bool check_signer(const X509 *cert, struct err *e)
{
    uint32_t flags = ext_flags(cert);
    if (flags & EXFLAG_INVALID)
        return err_set(e, ERR_SYNTAX, 0, "a malformed or repeated extension");
    if (!(flags & EXFLAG_CA))
        return err_set(e, ERR_SYNTAX, 0, "an intermediate that is no CA (cA not true)");
    if (!(flags & EXFLAG_KUSAGE) || !(X509_get_key_usage((X509 *)cert) & KU_KEY_CERT_SIGN))
        return err_set(e, ERR_SYNTAX, 0, "an intermediate without keyCertSign");
    return true;
}

static const char *format_time(char out[TIME_TEXT_MAX], const ASN1_TIME *t)
{
    struct tm tm;
    if (ASN1_TIME_to_tm(t, &tm) != 1 ||
        strftime(out, TIME_TEXT_MAX, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
        snprintf(out, TIME_TEXT_MAX, "unreadable");
    return out;
}

/* Which certificate, and what OpenSSL found, in words. */
NODISCARD static bool refuse_path(X509_STORE_CTX *ctx, struct err *e)
{
    char name[NAME_SHOWN_MAX] = "?", when[TIME_TEXT_MAX], whose[NAME_SHOWN_MAX + 16];
    int code = X509_STORE_CTX_get_error(ctx), depth = X509_STORE_CTX_get_error_depth(ctx);
    const X509 *cert = X509_STORE_CTX_get_current_cert(ctx);
    if (cert != NULL)
        X509_NAME_oneline(X509_get_subject_name(cert), name, sizeof name);
    if (depth == 0)
        snprintf(whose, sizeof whose, "the certificate");
    else
        snprintf(whose, sizeof whose, "the CA \"%s\"", name);
    switch (code) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
        return err_set(e, ERR_EXPIRED, 0, "%s has expired (not after %s)", whose,
                       format_time(when, X509_get0_notAfter(cert)));
    case X509_V_ERR_CERT_NOT_YET_VALID:
        return err_set(e, ERR_EXPIRED, 0, "%s is not yet valid (not before %s)", whose,
                       format_time(when, X509_get0_notBefore(cert)));
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
        if (cert != NULL)
            X509_NAME_oneline(X509_get_issuer_name(cert), name, sizeof name);
        return err_set(e, ERR_DENIED, 0,
                       "%s was issued by \"%s\", which its trust domain's bundle lacks",
                       depth == 0 ? "the certificate" : "a CA", name);
    default:
        return err_set(e, ERR_DENIED, 0, "%s: %s", whose, X509_verify_cert_error_string(code));
    }
}

/* V9 on what the path was really built of; the last n - n_untrusted are ours. */
NODISCARD static bool check_intermediates(X509_STORE_CTX *ctx, struct err *e)
{
    STACK_OF(X509) *path = X509_STORE_CTX_get0_chain(ctx);
    for (int i = 1; i < X509_STORE_CTX_get_num_untrusted(ctx); i++)
        if (!check_signer(sk_X509_value(path, i), e))
            return false;
    return true;
}

/* V8, V9, V12, V16.  No purpose is set: V7 has been checked by hand, and a CA's own
 * extendedKeyUsage says nothing about SVIDs.  No host name is ever checked (V14). */
static bool check_path(STACK_OF(X509) *chain, X509_STORE *store, int64_t wall_ms, struct err *e)
{
    X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    CHECK(ctx != NULL);
    ERR_clear_error();
    CHECK(X509_STORE_CTX_init(ctx, store, sk_X509_value(chain, 0), chain) == 1);
    X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(ctx);
    X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_PARTIAL_CHAIN);
    X509_VERIFY_PARAM_set_depth(param, X509_CHAIN_MAX);
    X509_VERIFY_PARAM_set_auth_level(param, AUTH_LEVEL);
    X509_VERIFY_PARAM_set_time(param, (time_t)(wall_ms / 1000));
    bool ok = X509_verify_cert(ctx) == 1 ? check_intermediates(ctx, e) : refuse_path(ctx, e);
    X509_STORE_CTX_free(ctx);
    ERR_clear_error();
    return ok;
}

/* OpenSSL takes the first CA whose name fits.  Where key identifiers cannot tell two CAs of one
 * name apart (a root renewed with a new key), the signature does. */
static int on_check_issued(X509_STORE_CTX *ctx, X509 *cert, X509 *issuer)
{
    (void)ctx;
    int found = X509_check_issued(issuer, cert);
    if (found != X509_V_OK && found != X509_V_ERR_KEYUSAGE_NO_CERTSIGN)
        return 0;
    if (X509_get0_authority_key_id(cert) != NULL && X509_get0_subject_key_id(issuer) != NULL)
        return 1;
    EVP_PKEY *key = X509_get0_pubkey(issuer);
    return key != NULL && X509_verify(cert, key) == 1;
}
