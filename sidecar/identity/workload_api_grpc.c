// SPDX-License-Identifier: Apache-2.0
/* Calls of the Workload API on gRPC C core (1.51 and later).
 *
 * Threads.  The loop thread starts, cancels and ends calls.  The completion-queue thread waits in
 * grpc_completion_queue_next(), turns the bytes of a message into a protobuf-c message inside the
 * operation that completed, and posts that operation to the inbox.  An operation belongs to the
 * loop, except between op_start() and its delivery.
 *
 * A call is three operations: open (send everything, receive the headers), message (armed again
 * after each message), status.  When none of them is pending the call has ended.
 *
 * Each call has a channel of its own.  gRPC's own backoff is bound to a channel and goes on
 * connecting behind our back; so an attempt is a channel, the backoff in workload_api.c is the only
 * one, and the socket's path is looked up anew each time (an agent that starts makes a new file).
 */
#include "identity/workload_api_private.h"
#include "identity/workload_api.h"
#include "base/list.h"
#include "base/mem.h"
#include "base/secret.h"
#include "base/str.h"
#include "sys/inbox.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/time.h>

#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define DECODED_MAX                                                                                \
    (4u * WORKLOAD_MESSAGE_MAX) /* bytes: many tiny submessages take more than they weigh */
#define DETAILS_MAX 256
/* gRPC takes its names as char *, and copies them. */
#define ARG_INT(name, n)                                                                           \
    {                                                                                              \
        GRPC_ARG_INTEGER, (char *)(name),                                                          \
        {                                                                                          \
            .integer = (int)(n)                                                                    \
        }                                                                                          \
    }

_Static_assert((int)WS_UNAUTHENTICATED == (int)GRPC_STATUS_UNAUTHENTICATED &&
                   (int)WS_PERMISSION_DENIED == (int)GRPC_STATUS_PERMISSION_DENIED &&
                   (int)WS_UNAVAILABLE == (int)GRPC_STATUS_UNAVAILABLE,
               "enum workload_status counts as gRPC does");

static const struct {
    const char *path;
    const ProtobufCMessageDescriptor *response;
} methods[] = {
    [WORKLOAD_FETCH_X509] = {"/SpiffeWorkloadAPI/FetchX509SVID", &x509_svidresponse__descriptor},
    [WORKLOAD_FETCH_JWT] = {"/SpiffeWorkloadAPI/FetchJWTSVID", &jwtsvidresponse__descriptor},
};

/* One operation; its address is the completion queue's tag. */
struct op {
    struct inbox_msg msg;
    struct workload_rpc *rpc;
    void (*decode)(struct workload_rpc *r); /* completion-queue thread; NULL: nothing to do */
    bool is_pending;                        /* loop */
};

struct workload_grpc {
    grpc_completion_queue *cq;
    uv_thread_t thread;
    struct inbox *inbox;
    struct inbox_msg last; /* posted by the thread as the last thing it does */
    char *target;
    unsigned n_rpcs;
    /* libgrpc orders op_start() before the completion; this says so to ThreadSanitizer, which
     * cannot see into it. */
    atomic_uint n_started;
    void (*stop_cb)(void *arg);
    void *stop_arg;
};

/* Memory of one decoded message: counted, and overwritten before it is freed. */
struct decode_memory {
    ProtobufCAllocator allocator;
    size_t left;
};

struct workload_rpc {
    struct workload_grpc *g;
    enum workload_method method;
    struct workload_rpc_events ev;
    void *arg;
    bool is_canceled;
    grpc_channel *channel;
    grpc_call *call;
    struct op open, message, status;
    grpc_metadata_array headers, trailers;
    grpc_byte_buffer *received;
    bool is_received; /* there was a message; decoded is NULL if it was garbage */
    ProtobufCMessage *decoded;
    struct decode_memory memory;
    grpc_status_code code;
    grpc_slice details;
};

/* --- decoding: completion-queue thread ------------------------------------------------------- */

union decode_block {
    size_t size;
    max_align_t align;
};

static void *decode_alloc(void *data, size_t size)
{
    struct decode_memory *m = data;
    size_t whole = size + sizeof(union decode_block);
    if (whole > m->left)
        return NULL;
    union decode_block *b = malloc(whole);
    if (b == NULL)
        return NULL;
    m->left -= whole;
    b->size = size;
    return b + 1;
}

static void decode_free(void *data, void *p)
{
    (void)data;
    if (p == NULL)
        return;
    union decode_block *b = (union decode_block *)p - 1;
    secret_wipe(p, b->size);
    free(b);
}

/* The bytes in one piece; what gRPC held of them is overwritten, as they are a private key or a
 * token.  (Its read buffer of the socket is out of reach: the slices are views into it, and they
 * are what we overwrite.) */
static uint8_t *take_bytes(grpc_byte_buffer *bb, size_t *len)
{
    *len = grpc_byte_buffer_length(bb);
    uint8_t *bytes = malloc(*len + 1);
    grpc_byte_buffer_reader reader;
    grpc_slice *piece;
    size_t at = 0;
    if (bytes == NULL || grpc_byte_buffer_reader_init(&reader, bb) == 0) {
        free(bytes);
        return NULL;
    }
    while (grpc_byte_buffer_reader_peek(&reader, &piece) != 0) {
        memcpy(bytes + at, GRPC_SLICE_START_PTR(*piece), GRPC_SLICE_LENGTH(*piece));
        secret_wipe(GRPC_SLICE_START_PTR(*piece), GRPC_SLICE_LENGTH(*piece));
        at += GRPC_SLICE_LENGTH(*piece);
    }
    grpc_byte_buffer_reader_destroy(&reader);
    return bytes;
}

static void decode_message(struct workload_rpc *r)
{
    r->decoded = NULL;
    r->is_received = r->received != NULL;
    if (!r->is_received)
        return; /* the end of the stream */
    size_t len;
    uint8_t *bytes = take_bytes(r->received, &len);
    grpc_byte_buffer_destroy(r->received);
    r->received = NULL;
    if (bytes == NULL)
        return;
    r->memory = (struct decode_memory){{decode_alloc, decode_free, &r->memory}, DECODED_MAX};
    r->decoded =
        protobuf_c_message_unpack(methods[r->method].response, &r->memory.allocator, len, bytes);
    secret_wipe(bytes, len);
    free(bytes);
}

static void run_completion_queue(void *arg)
{
    struct workload_grpc *g = arg;
    for (;;) {
        grpc_event ev =
            grpc_completion_queue_next(g->cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        if (ev.type == GRPC_QUEUE_SHUTDOWN)
            break;
        if (ev.type != GRPC_OP_COMPLETE)
            continue;
        struct op *op = ev.tag;
        (void)atomic_load_explicit(&g->n_started, memory_order_acquire);
        if (op->decode != NULL)
            op->decode(op->rpc);
        inbox_post(g->inbox, &op->msg);
    }
    inbox_post(g->inbox, &g->last); /* nothing of g is touched after this */
}

/* --- life of gRPC: loop ---------------------------------------------------------------------- */

static void on_last(struct inbox_msg *m, void *owner)
{
    (void)m;
    struct workload_grpc *g = owner;
    CHECK(uv_thread_join(&g->thread) == 0);
    grpc_completion_queue_destroy(g->cq);
    grpc_shutdown();
    g->cq = NULL;
    g->stop_cb(g->stop_arg);
}

struct workload_grpc *workload_grpc_start(uv_loop_t *loop, const char *target)
{
    struct workload_grpc *g = xcalloc(1, sizeof *g);
    g->target = xstrdup(target);
    g->inbox = inbox_new(loop, g);
    g->last.deliver = on_last;
    /* Polls for channels that nobody waits on; each of ours has its call.  Its timer costs wake-ups
     * and one more thread. */
    (void)setenv("GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS", "0", 0);
    grpc_init();
    g->cq = grpc_completion_queue_create_for_next(NULL);
    CHECK(uv_thread_create(&g->thread, run_completion_queue, g) == 0);
    return g;
}

void workload_grpc_stop(struct workload_grpc *g, void (*cb)(void *arg), void *arg)
{
    CHECK(g->n_rpcs == 0);
    g->stop_cb = cb;
    g->stop_arg = arg;
    grpc_completion_queue_shutdown(g->cq);
}

void workload_grpc_free(struct workload_grpc **pg)
{
    struct workload_grpc *g = *pg;
    if (g == NULL)
        return;
    *pg = NULL;
    CHECK(g->cq == NULL);
    inbox_free(&g->inbox);
    free(g->target);
    free(g);
}

/* --- calls: loop ----------------------------------------------------------------------------- */

static void op_start(struct op *op, const grpc_op *ops, size_t n)
{
    op->is_pending = true;
    (void)atomic_fetch_add_explicit(&op->rpc->g->n_started, 1, memory_order_release);
    CHECK(grpc_call_start_batch(op->rpc->call, ops, n, op, NULL) == GRPC_CALL_OK);
}

static void start_message(struct workload_rpc *r)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message = {&r->received}};
    op_start(&r->message, &op, 1);
}

static void start_status(struct workload_rpc *r)
{
    grpc_op op = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
                  .data.recv_status_on_client = {&r->trailers, &r->code, &r->details, NULL}};
    op_start(&r->status, &op, 1);
}

static void start_open(struct workload_rpc *r, const ProtobufCMessage *request)
{
    uint8_t *bytes = xcalloc(protobuf_c_message_get_packed_size(request), 1);
    grpc_slice slice =
        grpc_slice_from_copied_buffer((const char *)bytes, protobuf_c_message_pack(request, bytes));
    grpc_byte_buffer *body = grpc_raw_byte_buffer_create(&slice, 1);
    /* C2: on every call, the value in lower case. */
    grpc_metadata security = {.key = grpc_slice_from_static_string("workload.spiffe.io"),
                              .value = grpc_slice_from_static_string("true")};
    grpc_op ops[] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA,
         .data.send_initial_metadata = {.count = 1, .metadata = &security}},
        {.op = GRPC_OP_SEND_MESSAGE, .data.send_message = {body}},
        {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
        {.op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata = {&r->headers}},
    };
    op_start(&r->open, ops, ARRAY_LEN(ops));
    grpc_byte_buffer_destroy(body);
    grpc_slice_unref(slice);
    free(bytes);
}

static void rpc_end(struct workload_rpc *r)
{
    char details[DETAILS_MAX];
    struct str raw = {(const char *)GRPC_SLICE_START_PTR(r->details),
                      GRPC_SLICE_LENGTH(r->details)};
    str_escape(details, sizeof details, raw);
    int code = (int)r->code;
    struct workload_rpc_events ev = r->ev;
    void *arg = r->arg;
    grpc_slice_unref(r->details);
    grpc_metadata_array_destroy(&r->headers);
    grpc_metadata_array_destroy(&r->trailers);
    grpc_call_unref(r->call);
    grpc_channel_destroy(r->channel);
    r->g->n_rpcs--;
    free(r);
    ev.on_end(arg, code, details);
}

static void on_op_done(struct inbox_msg *m, void *owner)
{
    (void)owner;
    struct op *op = CONTAINER_OF(m, struct op, msg);
    struct workload_rpc *r = op->rpc;
    op->is_pending = false;
    if (!r->open.is_pending && !r->message.is_pending && !r->status.is_pending)
        rpc_end(r);
}

static void on_message_done(struct inbox_msg *m, void *owner)
{
    struct workload_rpc *r = CONTAINER_OF(m, struct op, msg)->rpc;
    if (!r->is_received) {
        on_op_done(m, owner);
        return;
    }
    if (!r->is_canceled)
        r->ev.on_message(r->arg, r->decoded); /* may cancel r */
    if (r->decoded != NULL)
        protobuf_c_message_free_unpacked(r->decoded, &r->memory.allocator);
    start_message(r);
}

static grpc_channel *open_channel(const char *target)
{
    /* Nothing to resolve, no service configuration, no retries, no keepalive (a Go server answers
     * pings with GOAWAY).  Not to be set: min_reconnect_backoff, which is the time a connection may
     * take (20 s). */
    grpc_arg args[] = {
        {GRPC_ARG_STRING, (char *)GRPC_ARG_DEFAULT_AUTHORITY, {.string = (char *)"localhost"}},
        ARG_INT(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, WORKLOAD_MESSAGE_MAX),
        ARG_INT(GRPC_ARG_ENABLE_RETRIES, 0),
        ARG_INT(GRPC_ARG_KEEPALIVE_TIME_MS, INT_MAX),
        ARG_INT(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1),
        ARG_INT(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1),
        ARG_INT(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        ARG_INT(GRPC_ARG_ENABLE_CHANNELZ, 0),
        ARG_INT(GRPC_ARG_HTTP2_BDP_PROBE, 0), /* its timer costs wake-ups and a thread */
    };
    grpc_channel_args list = {ARRAY_LEN(args), args};
    grpc_channel_credentials *plain = grpc_insecure_credentials_create(); /* C7 */
    grpc_channel *channel = grpc_channel_create(target, plain, &list);
    grpc_channel_credentials_release(plain);
    CHECK(channel != NULL);
    return channel;
}

struct workload_rpc *workload_rpc_start(struct workload_grpc *g, enum workload_method method,
                                        const ProtobufCMessage *request, uint64_t deadline_ms,
                                        const struct workload_rpc_events *ev, void *arg)
{
    struct workload_rpc *r = xcalloc(1, sizeof *r);
    *r = (struct workload_rpc){.g = g, .method = method, .ev = *ev, .arg = arg};
    r->open = (struct op){.msg.deliver = on_op_done, .rpc = r};
    r->status = (struct op){.msg.deliver = on_op_done, .rpc = r};
    r->message = (struct op){.msg.deliver = on_message_done, .rpc = r, .decode = decode_message};
    grpc_metadata_array_init(&r->headers);
    grpc_metadata_array_init(&r->trailers);
    r->details = grpc_empty_slice();
    gpr_timespec deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    if (deadline_ms != 0)
        deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                gpr_time_from_millis((int64_t)deadline_ms, GPR_TIMESPAN));
    r->channel = open_channel(g->target);
    r->call = grpc_channel_create_call(r->channel, NULL, 0, g->cq,
                                       grpc_slice_from_static_string(methods[method].path), NULL,
                                       deadline, NULL);
    CHECK(r->call != NULL);
    g->n_rpcs++;
    start_open(r, request);
    start_message(r);
    start_status(r);
    return r;
}

void workload_rpc_cancel(struct workload_rpc *r)
{
    if (r->is_canceled)
        return;
    r->is_canceled = true;
    (void)grpc_call_cancel(r->call, NULL);
}

bool workload_rpc_is_connected(const struct workload_rpc *r)
{
    return grpc_channel_check_connectivity_state(r->channel, 0) == GRPC_CHANNEL_READY;
}

const char *workload_api_library_version(void)
{
    return grpc_version_string();
}
