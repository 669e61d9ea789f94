// SPDX-License-Identifier: Apache-2.0
/* metrics: counters, gauges and histograms in Prometheus text format, named once in metrics.def.
 * Layer: sys.  Thread: loop. */
#ifndef SVIDMAIL_SYS_METRICS_H
#define SVIDMAIL_SYS_METRICS_H
#include "base/buf.h"

#include <stdint.h>

enum metric {
#define COUNTER(name, text, labels, help)   M_##name,
#define GAUGE(name, text, labels, help)     M_##name,
#define MOMENT(name, text, labels, help)    M_##name,
#define HISTOGRAM(name, text, labels, help) M_##name,
#include "sys/metrics.def"
#undef COUNTER
#undef GAUGE
#undef MOMENT
#undef HISTOGRAM
    M_COUNT
};

/* Label values in the order of metrics.def, at most 3, "" where absent: METRIC_L("ses-api",
 * "delivered"). */
struct metric_labels {
    const char *v[3];
};
#define METRIC_L(...) ((struct metric_labels){{__VA_ARGS__}})
#define METRIC_NONE   ((struct metric_labels){{NULL}})

void metric_add(enum metric m, struct metric_labels labels, double by);
void metric_set(enum metric m, struct metric_labels labels, double value);
/* Histogram: seconds. */
void metric_observe(enum metric m, struct metric_labels labels, double seconds);
/* Forget all series of a gauge (before it is set anew). */
void metric_clear(enum metric m);
/* Current value; 0 if the series does not exist.  For a histogram: how many observations. */
double metric_get(enum metric m, struct metric_labels labels);
/* Append the exposition text.  false: it does not fit. */
NODISCARD bool metrics_write(struct buf *out);

#endif
