// SPDX-License-Identifier: Apache-2.0
/* stream: a connected byte stream (TCP or unix socket) on the loop with bounded buffers both ways.
 * Layer: sys.  Thread: loop.
 *
 * Life: stream_accept() or stream_connect() -> on_open (connect only) -> on_read* -> on_end once ->
 * (owner) stream_close() -> on_closed once.  No callback runs inside the call that caused it.  The
 * owner calls stream_close() at any time, also from a callback; after that only on_closed follows,
 * and then the stream is gone.
 *
 * A failed write ends the stream late: what the peer said before it went away is still read, then
 * on_end tells of the failed write.  With reading paused on_end comes at once.  Until then
 * stream_write() takes bytes and drops them.
 *
 * One read buffer serves all streams of the process, so an idle one costs some 500 bytes; streams
 * must therefore all be on one loop. */
#ifndef SVIDMAIL_SYS_STREAM_H
#define SVIDMAIL_SYS_STREAM_H
#include "base/err.h"
#include "base/str.h"

#include <uv.h>

struct stream;

struct stream_events {
    void (*on_open)(void *arg); /* connected; may be NULL for accepted ones */
    void (*on_read)(void *arg,
                    struct str bytes); /* borrowed until it returns; may call any stream function */
    /* No more bytes will come: e is NULL at a clean end of file, else why (ECONNRESET ...). Writing
     * may still work after a clean end.  Also reports a failed connect. */
    void (*on_end)(void *arg, const struct err *e);
    void (*on_drain)(void *arg);  /* the write queue fell below its low mark; may be NULL */
    void (*on_closed)(void *arg); /* the stream no longer exists; may be NULL */
};

struct stream_limits {
    size_t write_high; /* > 0: stream_write() answers false above this many queued bytes */
};

/* Take a pending connection of a listening uv_tcp_t or uv_pipe_t.  TCP_NODELAY is set.  Reading is
 * paused. */
NODISCARD bool stream_accept(uv_stream_t *listener, const struct stream_events *ev, void *arg,
                             struct stream_limits limits, struct stream **out, struct err *e);
/* Resolve host (name or address) and connect, trying each address in turn, within timeout_ms.
 * Reading is paused.  Keep-alive is on, and a peer that acknowledges nothing for 30 s ends it.
 * Errors arrive through on_end: ERR_TIMEOUT, else ERR_UNAVAIL with sys a negative libuv code
 * (UV_EAI_... for the name, UV_ECONNREFUSED ...). */
struct stream *stream_connect(uv_loop_t *loop, const char *host, uint16_t port, uint64_t timeout_ms,
                              const struct stream_events *ev, void *arg,
                              struct stream_limits limits);
/* Write at once what goes, copy the rest into the queue.  false: the queue would pass its high
 * mark; the bytes were NOT taken, wait for on_drain (an empty queue takes any length). */
NODISCARD bool stream_write(struct stream *s, struct str bytes);
size_t stream_write_queued(const struct stream *s);
void stream_read_start(struct stream *s);
void stream_read_stop(struct stream *s);
/* The peer sends nothing any more, beyond what is unread: it has closed, or shut its sending side.
 * Asks the kernel, so it is known while reading is paused too. */
bool stream_has_peer_ended(const struct stream *s);
/* Close now; queued bytes are dropped unless stream_close_after_flush(). Nulls *s. */
void stream_close(struct stream **s);
/* Close once what is queued has gone out, at the latest after timeout_ms.  Nulls *s; no on_read,
 * on_end or on_drain any more.  Lingers up to a second for the peer to close first: closing over
 * bytes it is still sending would reset the connection and could destroy our last words. */
void stream_close_after_flush(struct stream **s, uint64_t timeout_ms);
/* The socket, for SO_PEERCRED and the like.  Never read or write it. */
int stream_fd(const struct stream *s);

#endif
