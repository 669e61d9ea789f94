// SPDX-License-Identifier: Apache-2.0
/* jwt_cache: JWT-SVIDs by identity and audience, kept by their remaining life, one fetch at a time
 * per key. An agent hands out half-lived tokens, so age says nothing.  Layer: identity.  Thread:
 * loop. */
#ifndef SVIDMAIL_IDENTITY_JWT_CACHE_H
#define SVIDMAIL_IDENTITY_JWT_CACHE_H
#include "identity/workload_api.h"

#define JWT_CACHE_MAX 16 /* identities x audiences; the least recently used one makes room */

struct jwt_cache;
struct jwt_cache *jwt_cache_new(struct workload_api *w, struct svid_store *store,
                                const struct clock *clock, uv_loop_t *loop);
/* Before workload_api_stop() and svid_store_free().  Waiting callbacks get ERR_CANCELED first; they
 * must not ask again. */
void jwt_cache_free(struct jwt_cache **c);

/* A token of the role's SVID for audience: from the cache while at least 30 s of it are left (past
 * half of the life it had when it came, a new one is fetched behind your back), else from the
 * agent; if that fails, the old one for as long as it lives.
 * cb runs once, never from inside; the request is gone when it runs.  The token is borrowed and
 * secret.
 * fresh: do not answer from the cache (AWS called the last one expired).
 * Errors: as svid_store_select() and workload_api_fetch_jwt(); ERR_EXPIRED: the agent's token has
 * expired, so a clock is wrong; ERR_LIMIT: JWT_CACHE_MAX fetches are under way. */
typedef void (*jwt_cache_cb)(void *arg, const struct err *e, const char *token,
                             int64_t expires_at_ms);
struct jwt_request;
struct jwt_request *jwt_cache_get(struct jwt_cache *c, enum svid_role role, const char *audience,
                                  bool fresh, jwt_cache_cb cb, void *arg);
/* cb will not run any more.  Nulls *r; NULL is fine. */
void jwt_cache_cancel(struct jwt_request **r);

#endif
