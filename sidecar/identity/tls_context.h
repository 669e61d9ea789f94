// SPDX-License-Identifier: Apache-2.0
/* tls_context: one SSL_CTX per SVID generation: our chain and key, TLS 1.3 only, no resumption, the
 * peer judged by its SPIFFE ID and its own trust domain's bundle (checks V1-V16).  Layer: identity.
 * Thread: loop. */
#ifndef SVIDMAIL_IDENTITY_TLS_CONTEXT_H
#define SVIDMAIL_IDENTITY_TLS_CONTEXT_H
#include "identity/stream_end.h"
#include "identity/svid_store.h"

#include <openssl/ssl.h>

struct tls_context;
struct tls_contexts; /* the factory with its cache */

/* Borrows store and clock. */
struct tls_contexts *tls_contexts_new(struct svid_store *store, enum svid_role role,
                                      const struct clock *clock);
void tls_contexts_free(struct tls_contexts **f);
/* For the SVID of role in store, as it is now; built once per generation and cached: the caller
 * gets a reference.  Errors as svid_store_select(); ERR_SYNTAX: OpenSSL cannot use the SVID. */
NODISCARD bool tls_contexts_get(struct tls_contexts *f, struct tls_context **out, struct err *e);

/* A context outlives the factory and the generation's stay in the store; its streams hold it. */
struct tls_context *tls_context_ref(struct tls_context *c);
void tls_context_unref(struct tls_context **c);
const struct svid *tls_context_svid(const struct tls_context *c);
struct svid_set *tls_context_set(const struct tls_context *c); /* borrowed */

/* Whom to accept: a SPIFFE ID of ids (n_ids 0: nobody).  sni: NULL or "" sends none.  alpn: NULL,
 * "" or one protocol, as "http/1.1". */
struct tls_peer_rule {
    const struct spiffe_id *ids;
    size_t n_ids;
    const char *sni, *alpn;
};
/* What the verify callback found. */
struct tls_peer {
    struct spiffe_id id;           /* once parsed, verified or not; len 0 if none */
    enum stream_end_cause refusal; /* END_NONE, or END_PEER_... */
    struct err why;                /* with a refusal */
    int64_t not_after_ms;          /* of its leaf; 0 until accepted */
};
/* A client-side SSL, yours (SSL_free), that holds a reference on c.  *peer is cleared now and
 * filled during the handshake.  rule->ids and peer must outlive the SSL; sni and alpn are copied.
 * A refused peer is told why by alert: no SVID: unsupported_certificate, untrusted: unknown_ca or
 * certificate_expired, another identity: certificate_unknown. */
SSL *tls_context_new_ssl(struct tls_context *c, const struct tls_peer_rule *rule,
                         struct tls_peer *peer);
/* Is the peer's chain (kept in ssl) still good with the bundles of set, now?  For live streams
 * after a change. */
NODISCARD bool tls_peer_still_trusted(SSL *ssl, const struct svid_set *set, int64_t wall_ms,
                                      struct err *e);

#endif
