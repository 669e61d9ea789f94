// SPDX-License-Identifier: Apache-2.0
/* clock: what time it is, injectable for tests.  Wall time judges validity (certificates, tokens: a
 * timer stands still in a suspended machine); monotonic time measures and schedules. Layer: sys.
 * Thread: any. */
#ifndef SVIDMAIL_SYS_CLOCK_H
#define SVIDMAIL_SYS_CLOCK_H
#include <stdint.h>

struct clock {
    int64_t (*wall_ms)(void *ctx);  /* since the epoch */
    uint64_t (*mono_ms)(void *ctx); /* since some start, never goes back */
    void *ctx;
};

/* The machine's clock; lives for ever. */
const struct clock *clock_system(void);

static inline int64_t clock_wall_ms(const struct clock *c)
{
    return c->wall_ms(c->ctx);
}

static inline uint64_t clock_mono_ms(const struct clock *c)
{
    return c->mono_ms(c->ctx);
}

/* Monotonic, microseconds: for latencies in logs and histograms only. */
uint64_t clock_mono_us(void);

/* "2026-01-31T12:34:56.789Z" into out (at least 25 bytes); returns out. */
char *clock_format_rfc3339(char *out, int64_t wall_ms);

#endif
