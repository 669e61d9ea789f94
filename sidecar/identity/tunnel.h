// SPDX-License-Identifier: Apache-2.0
/* tunnel: a private unix socket whose accepted ends are each joined to an mTLS stream to the
 * gateway: what libcurl dials (D4).  One tunnel per AWS host and gateway port.  The socket lies in
 * a directory of mode 0700 and only our own pid is let in (SO_PEERCRED).  See
 * docs/internals/tunnel.md.  Layer: identity.  Thread: loop. */
#ifndef SVIDMAIL_IDENTITY_TUNNEL_H
#define SVIDMAIL_IDENTITY_TUNNEL_H
#include "identity/tls_stream.h"

/* All of it is copied. */
struct tunnel_config {
    const char *directory; /* exists, 0700, ours */
    const char *name;      /* file name of the socket */
    struct tls_stream_target target;
    unsigned max_streams; /* gateway.max_connections */
    uint64_t max_age_ms;  /* a stream is retired when idle after this; 0 = an hour */
};

struct tunnel;
/* ERR_DENIED: the directory is not ours alone, or something else than a dead socket has the name;
 * ERR_IO. */
NODISCARD bool tunnel_new(uv_loop_t *loop, const struct tunnel_config *cfg,
                          struct tls_contexts *contexts, struct svid_store *store,
                          const struct clock *clock, struct tunnel **out, struct err *e);
/* All streams are closed (what is queued and close_notify still go out); cb runs once when the
 * socket file is gone and t is freed. */
void tunnel_close(struct tunnel *t, void (*cb)(void *arg), void *arg);
const char *tunnel_path(const struct tunnel *t);

/* The name of a dialling socket, by which its tunnel knows the connection: the lower-case hex
 * digits of the address it is bound to (autobound: bind() with sizeof(sa_family_t) before
 * connect(); the leading NUL of an abstract address counts).  Addresses over 31 bytes are cut.
 * false: fd is not bound to anything, out is "". */
#define TUNNEL_NAME_MAX 64
NODISCARD bool tunnel_client_name_from_fd(int fd, char *out, size_t cap);

/* The far end of one accepted connection, by the name of the dialling socket.  Why it ended is
 * known before the dialling side can see the end, and stays known for the last 64 connections,
 * or twice max_streams where that is more. */
struct tunnel_peer_info {
    bool is_known;
    struct stream_end end;         /* cause END_NONE while it lives */
    char peer_id[256];             /* the gateway's SPIFFE ID, cut; "" before the handshake */
    uint64_t bytes_up, bytes_down; /* up: encrypted, or about to be; they may not have left */
};
void tunnel_peer_info(const struct tunnel *t, const char *client_name,
                      struct tunnel_peer_info *out);
/* The dialling side is about to send a request: until it is done, given up or cut, the stream is in
 * use whatever it looks like.  A connection that is not accepted yet is not known by name: its
 * first request counts from its first byte to the first byte that comes down. */
void tunnel_request_begun(struct tunnel *t, const char *client_name);
/* The dialling side gives its request up and closes its socket before it returns to the loop: of
 * what it wrote nothing more is read, and nothing more is sent than what is encrypted already.
 * From here on the record is final; a connection that is unknown has not been accepted, and will
 * not be. */
void tunnel_abandon(struct tunnel *t, const char *client_name);
/* The dialling side has had its answer and may ask again over this connection.  Is its stream of an
 * old SVID generation, or too old, or one of its certificates about to end, it ends now, between
 * two requests: one that is never idle would otherwise be kept until its SVID ends under it. */
void tunnel_request_done(struct tunnel *t, const char *client_name);
/* The last stream that failed to open or was cut, whoever dialled; cause END_NONE if the newest one
 * went well. */
const struct stream_end *tunnel_last_failure(const struct tunnel *t);
/* The same, if it is not older than that (monotonic time); else NULL. */
const struct stream_end *tunnel_failure_since(const struct tunnel *t, uint64_t since_ms);
unsigned tunnel_n_streams(const struct tunnel *t);

#endif
