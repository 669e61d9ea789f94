// SPDX-License-Identifier: Apache-2.0
/* http: HTTPS calls to AWS through a tunnel, by libcurl's multi interface on the loop.  Knows
 * curl.h, with curl_loop.  Layer: aws.  Thread: loop.
 *
 * Never resent unseen: bodies are read once by callback, without a rewind, so that libcurl's own
 * resend on a dead reused connection ends in CURLE_SEND_FAIL_REWIND; what has not left this process
 * in full is HTTP_NOT_SENT and may be tried again by us, what has left without a complete answer is
 * HTTP_UNKNOWN. */
#ifndef SVIDMAIL_AWS_HTTP_H
#define SVIDMAIL_AWS_HTTP_H
#include "base/buf.h"
#include "base/err.h"
#include "identity/tunnel.h"

struct http; /* one multi handle with its connection cache */

struct http_config {
    const char *ca_file;      /* roots for end-to-end TLS; NULL or "": the system's */
    unsigned max_connections; /* per tunnel */
    const char *user_agent;
};
NODISCARD bool http_new(uv_loop_t *loop, const struct http_config *cfg, struct http **out,
                        struct err *e);
/* Calls in flight end with ERR_CANCELED before it returns (their tunnels must still be there; no
 * new call from their callbacks); the rest closes by itself. */
void http_free(struct http **h);

struct http_header {
    const char *name, *value;
};

/* Up to cap bytes of the body into out; cap may be as little as 1, and is never more than what is
 * left of the body, so *n = 0 means trouble.  false: give up the call (disk trouble). */
typedef bool (*http_body_read)(void *arg, char *out, size_t cap, size_t *n);

struct http_request {
    struct tunnel *tunnel;
    bool is_https;             /* TLS inside the tunnel, host verified against ca_file */
    bool wants_new_connection; /* not a kept one, if there is room: the second try */
    bool closes_connection;    /* it is not kept for the next call */
    const char *host;          /* Host header and, inside, server name */
    const char *method, *path; /* path with query, already encoded */
    const struct http_header *headers;
    size_t n_headers;
    uint64_t body_len; /* exact */
    http_body_read body_read;
    void *body_arg;
    uint64_t timeout_ms;
    size_t max_response_bytes; /* more is cut: HTTP_ANSWERED with err ERR_LIMIT */
};

enum http_outcome {
    HTTP_ANSWERED, /* a complete response with this status; err.code ERR_LIMIT: its body was cut */
    HTTP_NOT_SENT, /* the server cannot have the whole request: safe to try again */
    HTTP_UNKNOWN,  /* the whole request left us, no complete answer came */
};

struct http_response {
    enum http_outcome outcome;
    int status;           /* also with HTTP_UNKNOWN, if one had come; 0: none */
    struct str body;      /* borrowed for the callback */
    char error_type[128]; /* x-amzn-errortype */
    char request_id[80];  /* x-amzn-requestid */
    char content_type[80];
    char date[40];
    bool has_envoy_upstream; /* x-envoy-upstream-service-time: the answer came from behind the
                                gateway */
    bool is_new_connection;
    char peer_id[256]; /* gateway's SPIFFE ID on that stream */
    struct stream_end
        tunnel_end; /* why the tunnel's stream ended, if that is what ended the call */
    struct err err; /* outcome != HTTP_ANSWERED: the real cause in words */
    uint64_t connect_us, sent_us, total_us; /* since http_send() */
};
typedef void (*http_done_cb)(void *arg, const struct http_response *r);

struct http_call;
/* Everything in r is copied but tunnel and body_arg.  cb runs once, never from inside. */
struct http_call *http_send(struct http *h, const struct http_request *r, http_done_cb cb,
                            void *arg);
/* cb will not run.  Nulls *c.  HTTP_UNKNOWN: the server may have the whole request; HTTP_NOT_SENT:
 * it has not, and will not get it (also for NULL). */
enum http_outcome http_cancel(struct http_call **c);
/* Of libcurl, with its TLS library. */
const char *http_library_version(void);

#endif
