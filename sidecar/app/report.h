// SPDX-License-Identifier: Apache-2.0
/* report: what a running svidmail tells about itself over the admin socket: /status, /identity,
 * /health, /ready, /metrics.  Never a key, a token or a local part.  Layer: app.  Thread: loop. */
#ifndef SVIDMAIL_APP_REPORT_H
#define SVIDMAIL_APP_REPORT_H
#include "app/config.h"
#include "app/pod.h"
#include "app/results.h"
#include "aws/credentials.h"
#include "identity/tunnel.h"
#include "identity/workload_api.h"
#include "mail/smtp_server.h"
#include "ops/admin.h"

/* All borrowed; what is NULL (not yet started) is left out of the answers, and svidmail is not
 * ready. */
struct report_sources {
    const struct config *config;
    const struct clock *clock;
    int64_t started_at_ms; /* wall */
    struct svid_store *svids;
    struct workload_api *workload_api;
    struct credentials *credentials;
    struct tunnel *const *tunnels;
    size_t n_tunnels;
    struct smtp_server *smtp;
    const struct pod *pod;
    const struct results *results;
};

#define REPORT_ENDPOINTS 5
/* r must outlive the admin that gets them; its fields may be filled until the loop runs. */
void report_endpoints(struct report_sources *r, struct admin_endpoint out[REPORT_ENDPOINTS]);

/* Could a mail be tried now: an identity to show, and credentials or a way to get them?  why: one
 * line. */
bool report_is_ready(const struct report_sources *r, char *why, size_t cap);

/* Of this build. */
const char *report_version(void);
const char *report_commit(void);

#endif
