// SPDX-License-Identifier: Apache-2.0
/* credentials: temporary AWS credentials: one set in use, renewed ahead (50-80 % of its life,
 * jittered), the old one used until it expires.  Where they come from is a source (STS web
 * identity; Roles Anywhere later). Layer: aws.  Thread: loop. */
#ifndef SVIDMAIL_AWS_CREDENTIALS_H
#define SVIDMAIL_AWS_CREDENTIALS_H
#include "base/err.h"
#include "sys/clock.h"

#include <uv.h>

struct aws_credentials { /* immutable, reference-counted, wiped on the last unref */
    unsigned refs;
    char *access_key_id, *secret_access_key, *session_token;
    int64_t issued_at_ms, expires_at_ms; /* wall */
    int64_t clock_offset_ms; /* AWS's clock less ours when they were issued; 0: it did not tell */
};
struct aws_credentials *aws_credentials_ref(struct aws_credentials *c);
void aws_credentials_unref(struct aws_credentials **c);

/* One fetch at a time; cb once, never from inside; takes the reference in c on success. */
typedef void (*credentials_fetched_cb)(void *arg, struct aws_credentials *c, const struct err *e);
struct credentials_source {
    const char *name;
    void *self;
    void (*fetch)(void *self, bool fresh_identity, credentials_fetched_cb cb, void *arg);
    void (*cancel)(void *self);
    void (*free)(void *self);
};

struct credentials;
/* Takes the source's life over: source.free() is called by credentials_free(). */
struct credentials *credentials_new(struct credentials_source source, const struct clock *clock,
                                    uv_loop_t *loop);
/* Not from inside a callback of its own.  Requests still waiting get ERR_CANCELED first. */
void credentials_free(struct credentials **c);

/* Usable now (more than 10 s left): cb at the next loop turn at the latest; else it waits for one
 * fetch.  e: why none can be had (all waiters of a failed fetch get it; the next get tries again,
 * after a backoff that keeps a storm from AWS: until then the last error is answered at once). */
typedef void (*credentials_cb)(void *arg, struct aws_credentials *c,
                               const struct err *e); /* c borrowed */
struct credentials_request;
struct credentials_request *credentials_get(struct credentials *c, credentials_cb cb, void *arg);
void credentials_cancel(struct credentials_request **r);
/* AWS called this set expired or unknown: it is not used any more (no effect if it is not the
 * current one).  A set refused soon after it was issued makes the next fetch wait, or each mail
 * would ask for credentials. */
void credentials_reject(struct credentials *c, const struct aws_credentials *bad);
/* Fetch now if nothing usable is there, whatever failed before, so that the first mail finds it
 * (called when an identity appears).  From then on a set is kept at hand. */
void credentials_warm_up(struct credentials *c);
/* Drop the set at once (the identity behind it was redacted); nothing is fetched before the next
 * get or warm-up.  Why the last fetch failed stays where there were none. */
void credentials_drop(struct credentials *c);

struct credentials_status {
    bool is_usable;
    int64_t expires_at_ms;
    struct err last_error; /* ERR_NONE if the last fetch went well */
    const char *source;
};
void credentials_get_status(const struct credentials *c, struct credentials_status *out);

#endif
