// SPDX-License-Identifier: Apache-2.0
/* x509_svid: what makes a certificate an X.509-SVID, and whether a peer's chain is one.  Pure: no
 * clock, no I/O; the time is passed in.  Sources: X509-SVID standard (checks named V1..V16 in
 * docs/internals/svid.md). X509_V_FLAG_X509_STRICT is not used (it fails honest private CAs); the
 * rules are checked by hand. Layer: core. */
#ifndef SVIDMAIL_CORE_X509_SVID_H
#define SVIDMAIL_CORE_X509_SVID_H
#include "base/err.h"
#include "base/str.h"
#include "core/spiffe_id.h"

#include <openssl/evp.h>
#include <openssl/x509.h>
#include <stdint.h>

#define X509_CHAIN_MAX    16
#define X509_BUNDLE_MAX   128 /* certificates per trust domain */
#define X509_BUNDLE_BYTES (4u << 20)
#define X509_SAN_MAX      32

/* Concatenated DER certificates.  ERR_SYNTAX: trailing bytes, not DER, none at all; ERR_LIMIT: over
 * max_n. The stack is yours: sk_X509_pop_free(.., X509_free). */
NODISCARD bool x509_certs_parse(struct str der, int max_n, STACK_OF(X509) **out, struct err *e);
/* As above for a trust bundle: only certificates with cA true are kept (a leaf in the bundle must
 * not become an anchor); an empty result or empty input gives an empty stack and true (that trust
 * domain is untrusted). */
NODISCARD bool x509_bundle_parse(struct str der, STACK_OF(X509) **out, struct err *e);
/* Unencrypted PKCS#8 DER. */
NODISCARD bool x509_key_parse(struct str pkcs8, EVP_PKEY **out, struct err *e);

/* V1-V7 on one leaf: exactly one URI SAN, a workload SPIFFE ID, cA false, no keyCertSign/cRLSign,
 * keyUsage present with digitalSignature, EKU absent or with both serverAuth and clientAuth.
 * ERR_SYNTAX, ERR_LIMIT (more than X509_SAN_MAX names).  *out is set as soon as the ID could be
 * read, also if a later rule fails. */
NODISCARD bool x509_svid_check_leaf(const X509 *leaf, struct spiffe_id *out, struct err *e);

/* A store that trusts exactly these CAs, roots or not (PARTIAL_CHAIN); expired ones do no harm, and
 * what is no CA is left out.  Yours: X509_STORE_free. */
X509_STORE *x509_store_new(STACK_OF(X509) *cas);

/* The whole check of a peer: leaf rules, then RFC 5280 path validation of chain (leaf first) to
 * store at wall_ms.  store NULL: "no bundle for trust domain ..." (ERR_DENIED).  ERR_SYNTAX: no
 * SVID; ERR_LIMIT: over X509_CHAIN_MAX; ERR_EXPIRED: outside its validity, too early as well;
 * ERR_DENIED: any other defect of the path.  store must come from x509_store_new(). */
NODISCARD bool x509_svid_verify(STACK_OF(X509) *chain, X509_STORE *store, int64_t wall_ms,
                                struct spiffe_id *out, struct err *e);

/* Our own SVID as the agent sent it: key matches leaf, leaf rules, intermediates are CAs, the
 * stated spiffe_id equals the certificate's, the chain validates to its own bundle at wall_ms. */
NODISCARD bool x509_svid_check_own(STACK_OF(X509) *chain, EVP_PKEY *key, STACK_OF(X509) *bundle,
                                   struct str stated_id, int64_t wall_ms, struct spiffe_id *out,
                                   struct err *e);

/* Validity bounds in milliseconds since the epoch. */
NODISCARD bool x509_validity(const X509 *cert, int64_t *not_before_ms, int64_t *not_after_ms);

#endif
