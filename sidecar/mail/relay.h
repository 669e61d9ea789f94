// SPDX-License-Identifier: Apache-2.0
/* relay: takes a whole mail, brings it to SES by a route, tells how it went.  Without a spool there
 * is one attempt per mail, and the app waits for it: a slow SES must not be answered by a 451 that
 * makes a duplicate. Layer: mail.  Thread: loop. */
#ifndef SVIDMAIL_MAIL_RELAY_H
#define SVIDMAIL_MAIL_RELAY_H
#include "mail/mail.h"
#include "mail/route.h"

#include <uv.h>

struct relay_config {
    uint64_t attempt_limit_ms; /* an attempt without a result by then is given up */
};

struct relay;
struct relay *relay_new(uv_loop_t *loop, const struct relay_config *cfg, struct route route);
void relay_free(struct relay **r); /* nothing may be in flight */

/* m is borrowed for the callback and freed after it; r is borrowed.  Once, never from inside. */
typedef void (*relay_done_cb)(void *arg, const struct mail *m, const struct route_result *r);
/* Takes m. */
void relay_submit(struct relay *r, struct mail *m, relay_done_cb cb, void *arg);
unsigned relay_n_in_flight(const struct relay *r);
/* Give every attempt up now: ROUTE_UNKNOWN, or ROUTE_RETRY if its mail cannot have left in
 * full.  Their callbacks run before it returns. */
void relay_cut(struct relay *r, const char *why);

#endif
