// SPDX-License-Identifier: Apache-2.0
/* http_server: a unix socket on the loop that reads HTTP requests and does what a script says; and,
 * in the place of identity/tunnel.c, the tunnel to it: with it a test links no tunnel.  One server
 * per test program at a time. */
#ifndef SVIDMAIL_TESTS_HTTP_SERVER_H
#define SVIDMAIL_TESTS_HTTP_SERVER_H
#include "base/buf.h"
#include "identity/tunnel.h"

#include <uv.h>

/* What is done with a request; the script's last step serves all that follow. */
struct http_step {
    const char *answer;          /* sent as it is once the request is complete; NULL: none */
    size_t answer_len;           /* 0: strlen */
    uint64_t cut_after_body;     /* close after so many bytes of the body; 0: no */
    uint64_t pause_after_body;   /* read no more after so many bytes of the body, leaving the rest
                                    unread; 0: no */
    bool is_early;               /* answer as soon as the header is there */
    bool close;                  /* close after the answer, or instead of one */
    bool is_slow;                /* the answer goes out byte by byte */
    int alert;                   /* with cause END_ALERT */
    enum stream_end_cause cause; /* what the tunnel will say of the close; 0: END_RESET */
};

struct http_server {
    uv_loop_t *loop;
    char directory[64], path[96];
    uv_pipe_t listener;
    const struct http_step *steps;
    size_t n_steps;
    bool refuses;                       /* close new connections at once */
    bool is_full;                       /* new connections wait, unknown to the tunnel */
    bool is_dialling;                   /* new ones are not read: their streams are not up yet */
    bool names_nothing;                 /* as if the kernel had no address for a dialling socket */
    unsigned n_connections, n_requests; /* requests: those whose body came in full */
    unsigned n_ended;                   /* connections that the client has closed */
    unsigned n_on_connection;           /* requests that the connection of the last one has had */
    unsigned n_started;                 /* requests of which a header came */
    unsigned n_begun, n_done;           /* requests that the tunnel was told of */
    struct stream_end last_failure;     /* of some other connection, at that time (mono) */
    uint64_t failed_at_ms;
    struct buf last;       /* the last request, header and body (the first MB) */
    struct tunnel *tunnel; /* for http_request.tunnel */
};

void http_server_start(struct http_server *s, uv_loop_t *loop, const struct http_step *steps,
                       size_t n_steps);
/* Ends the connections that are open now, as a gateway that goes away; what had come counts as
 * handed on. */
void http_server_drop_connections(struct http_server *s);
/* Reads on where a step had it pause, and pauses no more. */
void http_server_resume(struct http_server *s);
void http_server_stop(struct http_server *s);

#endif
