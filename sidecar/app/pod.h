// SPDX-License-Identifier: Apache-2.0
/* pod: what svidmail learns of the pod around it.  Its end is announced by a preStop hook that
 * kubelet runs beside the app's SIGTERM; the app may still send its last mails, so the announcement
 * is noted and changes nothing else.  Layer: app.  Thread: loop. */
#ifndef SVIDMAIL_APP_POD_H
#define SVIDMAIL_APP_POD_H
#include "ops/admin.h"
#include "sys/clock.h"

#define POD_ANNOUNCE_PATH "/announce-stop"

struct pod {
    const struct clock *clock;
    int64_t end_announced_at_ms; /* wall; 0: not announced */
    bool shares_processes;       /* other containers see this process: shareProcessNamespace */
    bool is_memory_open;         /* to whoever sees it and has its uid */
};

/* Looks around, and warns of what should be known. */
void pod_init(struct pod *p, const struct clock *clock);
/* POST POD_ANNOUNCE_PATH, again and again if need be.  p must outlive the admin that gets it. */
struct admin_endpoint pod_endpoint(struct pod *p);

#endif
