// SPDX-License-Identifier: Apache-2.0
/* workload_api_private: the seams inside the Workload API client.
 *   workload_api.c           policy: when to call, what an answer means, what is published
 *   workload_api_jwt.c       FetchJWTSVID
 *   workload_api_endpoint.c  addresses, and what the file system says when nobody answers there
 *   workload_api_update.c    one message of the agent -> one svid_set
 *   workload_api_grpc.c      calls on the wire; the only file that knows gRPC
 * Layer: identity.  Thread: loop, unless a comment says otherwise. */
#ifndef SVIDMAIL_IDENTITY_WORKLOAD_API_PRIVATE_H
#define SVIDMAIL_IDENTITY_WORKLOAD_API_PRIVATE_H
#include "base/err.h"
#include "base/list.h"
#include "core/backoff.h"
#include "identity/svid_store.h"
#include "identity/workload_api.h"
#include "sys/timer.h"

#include <protobuf-c/protobuf-c.h>
#include <proto/workload.pb-c.h>

/* --- endpoint --- */

struct workload_endpoint {
    char target[512]; /* for gRPC */
    char path[108];   /* of the unix socket, as sun_path has it; "" for TCP */
    char shown[512];  /* as it was given, for people */
};
NODISCARD bool workload_endpoint_parse(const char *endpoint, struct workload_endpoint *out,
                                       struct err *e);
/* Why nobody answers there, by what the file system knows: no directory, no socket (and what lies
 * there instead), no right to enter, nobody listening (details is gRPC's text).  out and the name
 * that is returned are "" if all looks well. */
const char *workload_endpoint_explain(const struct workload_endpoint *ep, const char *details,
                                      char *out, size_t cap);

/* --- update --- */

#define WORKLOAD_MESSAGE_MAX (8u << 20) /* bytes; gRPC refuses what is larger */
#define WORKLOAD_DIGEST_LEN  32

/* Equal for messages that mean the same: the order of a map is not kept on the wire. */
void workload_update_digest(const X509SVIDResponse *m, unsigned char out[WORKLOAD_DIGEST_LEN]);
/* C14-C22, C33.  An unusable bundle of a foreign trust domain is left without a store, an expired
 * SVID beside a good one is left out (both logged); any other defect refuses the whole message. */
NODISCARD bool workload_update_build(const X509SVIDResponse *m, int64_t wall_ms,
                                     struct svid_set **out, struct err *e);

/* --- gRPC --- */

/* gRPC's numbers. */
enum workload_status {
    WS_OK = 0,
    WS_CANCELLED,
    WS_UNKNOWN,
    WS_INVALID_ARGUMENT,
    WS_DEADLINE_EXCEEDED,
    WS_NOT_FOUND,
    WS_ALREADY_EXISTS,
    WS_PERMISSION_DENIED,
    WS_RESOURCE_EXHAUSTED,
    WS_FAILED_PRECONDITION,
    WS_ABORTED,
    WS_OUT_OF_RANGE,
    WS_UNIMPLEMENTED,
    WS_INTERNAL,
    WS_UNAVAILABLE,
    WS_DATA_LOSS,
    WS_UNAUTHENTICATED,
    WS_COUNT
};

struct workload_grpc; /* gRPC itself, one completion queue and the thread that waits on it */
struct workload_rpc;  /* one call with a channel of its own */

enum workload_method { WORKLOAD_FETCH_X509, WORKLOAD_FETCH_JWT };

struct workload_rpc_events {
    /* The next message, borrowed and overwritten afterwards; NULL: it could not be decoded.  Until
     * this returns no further one is read from the socket. */
    void (*on_message)(void *arg, const ProtobufCMessage *m);
    /* Once, the last; the call is gone.  details is the peer's text, cut.  status may be any
     * number. */
    void (*on_end)(void *arg, int status, const char *details);
};

struct workload_grpc *workload_grpc_start(uv_loop_t *loop, const char *target);
/* Once each call has ended.  cb runs once, later; after it comes workload_grpc_free(), in another
 * turn. */
void workload_grpc_stop(struct workload_grpc *g, void (*cb)(void *arg), void *arg);
void workload_grpc_free(struct workload_grpc **g);

/* deadline_ms 0: none.  request is copied. */
struct workload_rpc *workload_rpc_start(struct workload_grpc *g, enum workload_method method,
                                        const ProtobufCMessage *request, uint64_t deadline_ms,
                                        const struct workload_rpc_events *ev, void *arg);
/* No on_message any more; on_end follows. */
void workload_rpc_cancel(struct workload_rpc *r);
/* Has gRPC a connection to the endpoint?  Tells an agent that is silent from one that hangs. */
bool workload_rpc_is_connected(const struct workload_rpc *r);

/* --- the client itself: workload_api.c, workload_api_jwt.c --- */

enum watch_state {
    WATCH_NEW,
    WATCH_OPENING,   /* called, no message yet */
    WATCH_LIVE,      /* there was a message on this stream */
    WATCH_REOPENING, /* canceled by us for a new one */
    WATCH_WAITING,   /* for the timer */
    WATCH_STOPPING,  /* for the calls to end */
    WATCH_CLOSING,   /* for gRPC to end */
    WATCH_COUNT
};

struct workload_api {
    enum watch_state state;
    struct workload_endpoint endpoint;
    uint32_t max_retry_ms, grace_ms;
    struct svid_store *store;
    struct svid_watch *watch;
    const struct clock *clock;
    uv_loop_t *loop;
    struct workload_grpc *grpc;
    struct workload_rpc *rpc; /* the stream */
    struct timer *timer;      /* waiting: try again; live: a discarded message; closing: finish */
    struct timer *silence;
    struct backoff soon, denied;
    uint64_t live_since_ms, at_once_after_ms; /* monotonic */
    uint64_t denied_since_ms;                 /* monotonic; 0: not denied since the last message */
    bool has_digest;                          /* of what stands in the store */
    unsigned char digest[WORKLOAD_DIGEST_LEN];
    struct workload_api_status status;
    struct list calls;
    unsigned n_calls;
    void (*stop_cb)(void *arg);
    void *stop_arg;
};

bool workload_api_is_stopping(const struct workload_api *w);
/* While stopping: goes on once no call is left.  May be the last thing that is done with w. */
void workload_api_finish_when_idle(struct workload_api *w);
/* What a status means, in words, and its name (workload_api_status.trouble).  is_reached: the agent
 * has answered on this call before. */
const char *workload_api_explain(const struct workload_api *w, int status, const char *details,
                                 bool is_reached, struct err *e);
void workload_api_cancel_all(struct workload_api *w);

#endif
