// SPDX-License-Identifier: Apache-2.0
/* doctor_desk: `svidmail doctor` at the admin socket: GET /doctor, or /doctor?offline for what
 * needs no network.  Who asks while an examination is under way gets its result.  Never a key, a
 * token or a local part.  Layer: app.  Thread: loop. */
#ifndef SVIDMAIL_APP_DOCTOR_DESK_H
#define SVIDMAIL_APP_DOCTOR_DESK_H
#include "app/config.h"
#include "app/results.h"
#include "aws/credentials.h"
#include "aws/ses.h"
#include "identity/jwt_cache.h"
#include "identity/tunnel.h"
#include "mail/smtp_server.h"
#include "ops/admin.h"

/* All borrowed. */
struct doctor_sources {
    uv_loop_t *loop;
    const struct config *config;
    const struct clock *clock;
    int64_t started_at_ms; /* wall */
    struct svid_store *svids;
    struct workload_api *workload_api;
    struct jwt_cache *jwts;
    struct tunnel *mail_tunnel, *sts_tunnel;
    struct http *http;
    struct credentials *credentials;
    struct ses *ses;
    struct smtp_server *smtp;
    const struct results *results;
};

struct doctor_desk;
/* s is borrowed; its fields may be filled until the loop runs. */
struct doctor_desk *doctor_desk_new(const struct doctor_sources *s);
/* What is under way ends, whoever waits is told 503.  While all of the sources are there. */
void doctor_desk_free(struct doctor_desk **desk);
struct admin_endpoint doctor_desk_endpoint(struct doctor_desk *desk);

#endif
