// SPDX-License-Identifier: Apache-2.0
/* svid_store: the identities this process has right now.  A generation (svid_set) is immutable and
 * reference-counted: rotation swaps a pointer, sessions in flight keep the old one.
 * Layer: identity.  Thread: loop. */
#ifndef SVIDMAIL_IDENTITY_SVID_STORE_H
#define SVIDMAIL_IDENTITY_SVID_STORE_H
#include "base/err.h"
#include "core/spiffe_id.h"
#include "sys/clock.h"

#include <openssl/evp.h>
#include <openssl/x509.h>
#include <uv.h>

#define SVID_SET_MAX     100
#define SVID_BUNDLES_MAX 200
#define SVID_HINT_MAX    1024

struct svid {
    struct spiffe_id id;
    char *hint;            /* "" if none */
    STACK_OF(X509) *chain; /* leaf first */
    EVP_PKEY *key;
    int64_t not_before_ms, not_after_ms; /* wall */
};

struct svid_bundle {
    char *trust_domain;
    X509_STORE *store; /* NULL: empty or unusable, the domain is untrusted */
    int n_cas;
    bool is_own; /* came with one of our SVIDs, not as a federated bundle */
};

struct svid_set { /* immutable once published */
    unsigned refs;
    unsigned generation; /* 1, 2, ... */
    size_t n_svids, n_bundles;
    struct svid *svids; /* in the agent's order */
    struct svid_bundle *bundles;
};

/* One reference, room for that many, nothing in it. */
struct svid_set *svid_set_new(size_t n_svids, size_t n_bundles);
struct svid_set *svid_set_ref(struct svid_set *s);
void svid_set_unref(struct svid_set **s);
/* Is there an SVID of that ID? */
bool svid_set_offers(const struct svid_set *s, const char *spiffe_id);
/* NULL if the trust domain has no usable bundle. */
X509_STORE *svid_set_bundle(const struct svid_set *s, struct str trust_domain);

enum svid_role { SVID_MESH, SVID_AWS, SVID_ROLE_COUNT };

/* Which SVID a role uses: the first offered one that has what is named (D15; "first in the list"
 * alone is a random order).  Both empty: the only identity offered; several: none, with a list;
 * several SVIDs of one and the same SPIFFE ID are one identity.  For SVID_AWS both empty means: as
 * SVID_MESH. */
struct svid_choice {
    const char *spiffe_id, *hint;
};

struct svid_store;
struct svid_store *svid_store_new(const struct svid_choice choices[SVID_ROLE_COUNT],
                                  const struct clock *clock, uv_loop_t *loop);
/* Once nobody watches any more. */
void svid_store_free(struct svid_store **st);

/* workload_api publishes: takes *set and numbers it.  Watchers run from a later loop turn. */
void svid_store_publish(struct svid_store *st, struct svid_set **set);
/* The agent said the same again: nothing changes but the age of the bundles, and what was waited
 * for is over. */
void svid_store_confirm(struct svid_store *st);
/* The agent took everything back, or it is gone for too long: nothing may be used any more.  why is
 * kept for messages. */
void svid_store_redact(struct svid_store *st, const struct err *why);
/* Why there is nothing, or nothing newer: shown by svid_store_select() until the next publish or
 * confirm. */
void svid_store_set_waiting(struct svid_store *st, const struct err *why);

/* Current generation, borrowed, or NULL. */
struct svid_set *svid_store_current(const struct svid_store *st);
/* The role's SVID, valid now by wall clock; *set gets a reference that keeps *out alive.
 * ERR_UNAVAIL: nothing there yet (why); ERR_DENIED: several and none named, or the named one is not
 * offered (the message lists what was offered); ERR_EXPIRED: also when it is not valid yet. */
NODISCARD bool svid_store_select(const struct svid_store *st, enum svid_role role,
                                 struct svid_set **set, const struct svid **out, struct err *e);

/* The role's SVID is there, and its time is over. */
bool svid_store_has_expired(const struct svid_store *st, enum svid_role role);

/* Called (loop, never from inside publish/redact/select) whenever the set, its expiry or the
 * redaction state changed.  The watcher stays until removed. */
typedef void (*svid_watch_cb)(void *arg);
struct svid_watch;
struct svid_watch *svid_store_watch(struct svid_store *st, svid_watch_cb cb, void *arg);
void svid_store_unwatch(struct svid_watch **w);

/* bundle_age_seconds, which only a look can tell: call it before the metrics are written. */
void svid_store_refresh_metrics(const struct svid_store *st);

#endif
