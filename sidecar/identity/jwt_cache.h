// SPDX-License-Identifier: Apache-2.0
/* jwt_cache: JWT-SVIDs by identity and audience, kept by their remaining life, one fetch at a time per key.
 * An agent hands out half-lived tokens, so age says nothing.  Layer: identity.  Thread: loop. */
#ifndef SVIDMAIL_IDENTITY_JWT_CACHE_H
#define SVIDMAIL_IDENTITY_JWT_CACHE_H
#include "identity/workload_api.h"

struct jwt_cache;
struct jwt_cache *jwt_cache_new(struct workload_api *w, struct svid_store *store,
                                const struct clock *clock, uv_loop_t *loop);
void jwt_cache_free(struct jwt_cache **c); /* waiting callbacks get ERR_CANCELED first */

/* A token of the role's SVID for audience with at least min_life_ms left.  cb runs once, never from inside.
 * The token is borrowed and secret.  fresh: do not answer from the cache (AWS called the last one expired). */
typedef void (*jwt_cache_cb)(void *arg, const struct err *e, const char *token, int64_t expires_at_ms);
struct jwt_request;
struct jwt_request *jwt_cache_get(struct jwt_cache *c, enum svid_role role, const char *audience,
                                  bool fresh, jwt_cache_cb cb, void *arg);
void jwt_cache_cancel(struct jwt_request **r);

#endif
