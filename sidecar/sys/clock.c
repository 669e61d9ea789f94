// SPDX-License-Identifier: Apache-2.0
#include "sys/clock.h"

#include <stddef.h>
#include <stdio.h>
#include <time.h>

static int64_t system_wall_ms(void *ctx)
{
    (void)ctx;
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

uint64_t clock_mono_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static uint64_t system_mono_ms(void *ctx)
{
    (void)ctx;
    return clock_mono_us() / 1000;
}

const struct clock *clock_system(void)
{
    static const struct clock sys = {system_wall_ms, system_mono_ms, NULL};
    return &sys;
}

char *clock_format_rfc3339(char *out, int64_t wall_ms)
{
    time_t s = (time_t)(wall_ms / 1000);
    struct tm tm;
    gmtime_r(&s, &tm);
    char day[21];
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out, 25, "%.19s.%03uZ", day, (unsigned)(wall_ms % 1000) % 1000u);
    return out;
}
