// SPDX-License-Identifier: Apache-2.0
/* ingest: the glue of a mail's life: smtp_server's events -> policy -> spool file -> relay ->
 * reply, log line, metrics.  Layer: app.  Thread: loop. */
#ifndef SVIDMAIL_APP_INGEST_H
#define SVIDMAIL_APP_INGEST_H
#include "app/config.h"
#include "app/results.h"
#include "identity/svid_store.h"
#include "mail/relay.h"
#include "mail/smtp_server.h"
#include "sys/clock.h"

struct ingest_config {
    struct policy_config policy;
    enum config_recipients log_recipients;
};

struct ingest;
/* All pointers are borrowed for its life. */
struct ingest *ingest_new(const struct ingest_config *cfg, struct svid_store *svids,
                          struct spool_dir *spool, struct relay *relay, const struct clock *clock,
                          struct results *results);
void ingest_free(struct ingest **in);
/* What smtp_server is to call, with in as its arg. */
extern const struct smtp_events ingest_events;

#endif
