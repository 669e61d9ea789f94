// SPDX-License-Identifier: Apache-2.0
/* tls_stream: an mTLS client stream to the gateway over a sys/stream.  Bounded buffers both ways;
 * close_notify is told from truncation; why it ended is kept.  Layer: identity.  Thread: loop.  See
 * docs/internals/tls_stream.md.
 *
 * Life: tls_stream_open -> on_open -> on_read* / on_drain* -> on_end once -> (owner)
 * tls_stream_close.  A failed open goes straight to on_end.  No callback runs inside the call that
 * caused it.  Reading is paused until tls_stream_read_start(); a paused stream sees neither an
 * alert nor an end.
 *
 * TLS 1.3: on_open comes before the gateway has judged our certificate.  Its refusal is an
 * END_ALERT with was_open, after on_open. */
#ifndef SVIDMAIL_IDENTITY_TLS_STREAM_H
#define SVIDMAIL_IDENTITY_TLS_STREAM_H
#include "identity/stream_end.h"
#include "identity/tls_context.h"

#include <uv.h>

struct tls_stream_target {
    const char *host; /* the gateway */
    uint16_t port;
    const char *sni, *alpn;
    const struct spiffe_id *ids;
    size_t n_ids;
    uint64_t connect_timeout_ms, handshake_timeout_ms; /* 0 = 5000, 10000 */
};

struct tls_stream_events {
    void (*on_open)(void *arg);
    void (*on_read)(void *arg, struct str plain);
    void (*on_drain)(void *arg);
    void (*on_end)(void *arg, const struct stream_end *end);
};

struct tls_stream;
/* Takes a reference on ctx.  All of target and *ev are copied. */
struct tls_stream *tls_stream_open(uv_loop_t *loop, struct tls_context *ctx,
                                   const struct tls_stream_target *target,
                                   const struct tls_stream_events *ev, void *arg);
/* Sent in records of up to 16 kB when the loop gets to it.  At most TLS_STREAM_WRITE_MAX bytes a
 * call.  false: over the high mark, nothing taken; wait for on_drain.  Once it has ended bytes are
 * taken and dropped. */
#define TLS_STREAM_WRITE_MAX (1024u * 1024u)
NODISCARD bool tls_stream_write(struct tls_stream *s, struct str plain);
void tls_stream_read_start(struct tls_stream *s);
void tls_stream_read_stop(struct tls_stream *s);
/* Ends it with this cause: on_end still runs (later), unless tls_stream_close() comes first.  The
 * first cause stands.  What the gateway sees: close_notify if it is we who lost interest
 * (END_ROTATED, END_IDLE_TIMEOUT, END_CANCELED), else the connection is cut. */
void tls_stream_abort(struct tls_stream *s, enum stream_end_cause cause, const char *detail);
/* No callback any more; what is queued and close_notify still go out; frees in the background.
 * Nulls *s; NULL is fine. */
void tls_stream_close(struct tls_stream **s);

const struct tls_peer *tls_stream_peer(const struct tls_stream *s);
struct tls_context *tls_stream_context(const struct tls_stream *s);
/* Of the plain bytes that were taken those that can no longer leave: dropped before they were
 * encrypted, or written after its end. */
uint64_t tls_stream_n_dropped(const struct tls_stream *s);
/* Re-judge a stream against the store's current state (own SVID redacted or expired, peer's bundle
 * or chain gone or expired): ends it with END_IDENTITY_GONE if it may not live on.  Costs a chain
 * verification.  false: it has ended, now or before. */
bool tls_stream_recheck(struct tls_stream *s, const struct svid_store *store,
                        const struct clock *clock);
/* When our leaf or the peer's expires (wall), whichever is first; before on_open: ours. */
int64_t tls_stream_not_after_ms(const struct tls_stream *s);
/* Has one of them expired by the clock?  Cheap: for each use (D16). */
bool tls_stream_is_expired(const struct tls_stream *s, const struct clock *clock);

#endif
