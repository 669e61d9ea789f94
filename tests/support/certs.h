// SPDX-License-Identifier: Apache-2.0
/* certs: certificates for tests, good by default, with any defect on demand.  Everything aborts on
 * failure.
 *
 *   struct cert ca = certs_ca("root");
 *   struct cert_spec spec = certs_leaf_spec("spiffe://td.test/app");
 *   spec.key_usage = NULL;
 *   struct cert leaf = certs_issue(&spec, &ca);
 *   ...
 *   certs_release(&leaf);
 *   certs_release(&ca); */
#ifndef SVIDMAIL_TESTS_CERTS_H
#define SVIDMAIL_TESTS_CERTS_H
#include "base/str.h"

#include <openssl/evp.h>
#include <openssl/x509.h>

#define CERTS_NOW_S  INT64_C(1780272000) /* 2026-06-01T00:00:00Z: inside the default validity */
#define CERTS_NOW_MS (CERTS_NOW_S * 1000)

struct cert {
    X509 *x509;
    EVP_PKEY *key;
};

enum cert_ca { CERT_NO_CONSTRAINTS, CERT_CA_FALSE, CERT_CA_TRUE };

struct cert_spec {
    const char *name;    /* CN; NULL: empty subject */
    struct str uris[40]; /* URI SANs, raw bytes */
    size_t n_uris;
    int n_dns;            /* further DNS SANs */
    bool is_san_repeated; /* the same extension twice */
    struct str raw_san;   /* p not NULL: this as the SAN extension's content */
    enum cert_ca ca;
    int path_len; /* -1: none */
    const char *key_usage, *ext_key_usage,
        *name_constraints; /* OpenSSL configuration syntax; NULL: absent */
    const char *extra_oid; /* one more extension, NULL: none */
    struct str extra;
    bool is_extra_critical;
    bool has_no_key_ids;
    int64_t not_before_s, not_after_s;
    EVP_PKEY *key; /* NULL: a new P-256 key; given: a reference is taken */
    const char *digest;
};

/* A workload's certificate as SPIRE makes it; a signing certificate. */
struct cert_spec certs_leaf_spec(const char *uri);
struct cert_spec certs_ca_spec(const char *name);
/* issuer NULL: self-signed. */
struct cert certs_issue(const struct cert_spec *spec, const struct cert *issuer);
/* Shorthands for the good ones; certs_ca is self-signed. */
struct cert certs_leaf(const char *uri, const struct cert *issuer);
struct cert certs_ca(const char *name);
void certs_release(struct cert *c);

EVP_PKEY *certs_rsa_key(unsigned bits);
/* A stack of n certificates with its own references (X509 *...): certs_stack_free(). */
STACK_OF(X509) *certs_stack(int n, ...);
void certs_stack_free(STACK_OF(X509) *s);
/* Malloc'd bytes in .p: free((void *)s.p). */
struct str certs_der(int n, ...); /* concatenated, of X509 *... */
struct str certs_pkcs8(EVP_PKEY *key);
struct str certs_pkcs8_encrypted(EVP_PKEY *key, const char *password);
struct str certs_traditional_key(EVP_PKEY *key); /* SEC1 or PKCS#1 */

#endif
