// SPDX-License-Identifier: Apache-2.0
/* workload_api: the client of the SPIFFE Workload API: keeps the X.509 stream open for ever,
 * publishes to the svid_store, fetches JWT-SVIDs.  Rules C1-C29 of the standards' client duties are
 * listed with their place in docs/internals/workload_api.md.  The gRPC part is in
 * workload_api_grpc.c alone. Layer: identity.  Thread: loop. */
#ifndef SVIDMAIL_IDENTITY_WORKLOAD_API_H
#define SVIDMAIL_IDENTITY_WORKLOAD_API_H
#include "base/err.h"
#include "identity/svid_store.h"

struct workload_api_config {
    const char *endpoint; /* unix:///path or tcp://ip:port; NULL or "": $SPIFFE_ENDPOINT_SOCKET */
    uint32_t first_retry_ms, max_retry_ms; /* Unavailable, end of stream: 0 = 200, 10000 */
    uint32_t redaction_grace_ms;           /* 0 = 60000 (D16) */
};

/* C3-C6: checks and turns an endpoint address into a gRPC target ("unix:/path", "ipv4:1.2.3.4:5").
 * out has room for 512 bytes. */
NODISCARD bool workload_api_parse_endpoint(const char *endpoint, char *out, size_t cap,
                                           struct err *e);

struct workload_api;
/* Nothing is started yet.  ERR_SYNTAX: bad endpoint. */
NODISCARD bool workload_api_new(const struct workload_api_config *cfg, struct svid_store *store,
                                const struct clock *clock, uv_loop_t *loop,
                                struct workload_api **out, struct err *e);
void workload_api_start(struct workload_api *w);
/* Ends the stream, the fetches (they are told ERR_CANCELED) and the gRPC thread; cb runs once,
 * later, when all is closed and w is freed.  Until then a second call is ignored. */
void workload_api_stop(struct workload_api *w, void (*cb)(void *arg), void *arg);

/* FetchJWTSVID for one audience; spiffe_id "" = the agent's choice.  cb runs once, never from
 * inside, and the call is gone when it runs: e NULL, the token (borrowed, secret), its SPIFFE ID,
 * and iat/exp read from the token itself (wall ms, 0 if unreadable). Deadline 40 s: an agent whose
 * server is away takes 30 s to answer from its cache. ERR_LIMIT: 32 are under way. */
typedef void (*workload_api_jwt_cb)(void *arg, const struct err *e, const char *token,
                                    const char *spiffe_id, int64_t issued_at_ms,
                                    int64_t expires_at_ms);
struct workload_api_call;
struct workload_api_call *workload_api_fetch_jwt(struct workload_api *w, const char *audience,
                                                 const char *spiffe_id, workload_api_jwt_cb cb,
                                                 void *arg);
/* cb will not run any more.  Nulls *c. */
void workload_api_cancel(struct workload_api_call **c);

/* For status: is the stream live, what went wrong last, how many updates. */
struct workload_api_status {
    bool is_connected;
    unsigned n_updates, n_reconnects;
    struct err last_error;     /* code ERR_NONE if all is well */
    const char *trouble;       /* last_error's name, "" if all is well: a gRPC status
                                  ("permission_denied"), what the file system knows instead of
                                  "unavailable" ("no_directory", "no_socket", "not_a_socket",
                                  "not_allowed", "not_listening"), "lost", "silent", "hangs",
                                  "discarded" */
    int64_t last_update_at_ms; /* wall, 0 = never */
    const char *endpoint;
};
void workload_api_get_status(const struct workload_api *w, struct workload_api_status *out);
/* Of gRPC. */
const char *workload_api_library_version(void);

#endif
