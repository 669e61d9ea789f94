// SPDX-License-Identifier: Apache-2.0
#include "app/pod.h"
#include "sys/log.h"
#include "sys/metrics.h"

#include <stdlib.h>

void pod_init(struct pod *p, const struct clock *clock)
{
    *p = (struct pod){.clock = clock};
}

static int on_announce_stop(void *arg, struct str query, struct buf *out)
{
    (void)query;
    struct pod *p = arg;
    if (p->end_announced_at_ms == 0) {
        p->end_announced_at_ms = clock_wall_ms(p->clock);
        metric_set(M_POD_ENDING, METRIC_NONE, 1);
        const char *name = getenv("POD_NAME");
        LOG(EV_POD_ENDING, F_STR("pod", name == NULL ? "" : name));
    }
    return buf_append_str(out, STR("noted: mail is taken until SIGTERM\n")) ? 200 : 500;
}

struct admin_endpoint pod_endpoint(struct pod *p)
{
    return (struct admin_endpoint){.path = POD_ANNOUNCE_PATH,
                                   .content_type = "text/plain; charset=utf-8",
                                   .run = on_announce_stop,
                                   .arg = p,
                                   .is_action = true};
}
