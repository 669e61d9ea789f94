// SPDX-License-Identifier: Apache-2.0
/* admin: HTTP + JSON on a unix socket (0660) for the subcommands, and GET /metrics also on TCP for
 * Prometheus. libmicrohttpd driven from the loop, without threads of its own.  Layer: ops.  Thread:
 * loop. */
#ifndef SVIDMAIL_OPS_ADMIN_H
#define SVIDMAIL_OPS_ADMIN_H
#include "base/buf.h"
#include "base/err.h"

#include <uv.h>

/* Writes the response body (JSON or text) into out; returns the HTTP status. */
typedef int (*admin_handler)(void *arg, struct str query, struct buf *out);

/* A request that is answered later.  It waits without a limit of its own, holding one of the few
 * connections, so whoever took it answers in bounded time. */
struct admin_reply;
typedef void (*admin_starter)(void *arg, struct str query, struct admin_reply *reply);
/* Once for each reply, from the starter or any time after, also when the client or the admin has
 * gone meanwhile.  Takes what body holds.  Nulls *reply. */
void admin_reply_send(struct admin_reply **reply, int status, struct buf *body);

struct admin_endpoint {
    const char *path; /* "/status" */
    const char *content_type;
    admin_handler run;
    void *arg;
    bool on_tcp;         /* also served on the metrics port */
    bool is_action;      /* changes something: asked by POST, not by GET */
    admin_starter start; /* instead of run, which is NULL then; not on_tcp */
};

struct admin_config {
    const char *socket_path;    /* "" = none */
    const char *metrics_listen; /* "127.0.0.1:9925", ":9925", "" = off */
    uint64_t request_limit_ms;  /* from connecting, or the last answer, until a request's answer has
                                 * been taken; waiting for a late one is left out.  0: 10 s */
};

struct admin;
/* Endpoints are copied.  A metrics port that is taken is logged and left out; a socket that cannot
 * be had is an error.  A stale socket file is replaced, a live one is not (ERR_UNAVAIL: another
 * svidmail runs). */
NODISCARD bool admin_new(uv_loop_t *loop, const struct admin_config *cfg,
                         const struct admin_endpoint *endpoints, size_t n, struct admin **out,
                         struct err *e);
/* Whoever still waits for a late answer is told 503. */
void admin_close(struct admin **a);
/* Of libmicrohttpd. */
const char *admin_library_version(void);

#endif
