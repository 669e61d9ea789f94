// SPDX-License-Identifier: Apache-2.0
#include "fake_time.h"
#include "base/list.h"
#include "base/mem.h"
#include "sys/timer.h"

#include <stdlib.h>

struct timer {
    struct list link;
    timer_cb cb;
    void *arg;
    bool is_active;
    uint64_t due_ms, order; /* equal times: first started, first run, as in libuv */
};

static struct list timers = {&timers, &timers};
static uint64_t mono_ms, n_starts;
static int64_t wall_ms;

static int64_t get_wall(void *ctx)
{
    (void)ctx;
    return wall_ms;
}

static uint64_t get_mono(void *ctx)
{
    (void)ctx;
    return mono_ms;
}

const struct clock *fake_time_clock(void)
{
    static const struct clock fake = {get_wall, get_mono, NULL};
    return &fake;
}

const struct clock *fake_time_start(void)
{
    CHECK(list_is_empty(&timers));
    mono_ms = 1000;
    wall_ms = FAKE_WALL_START_MS;
    return fake_time_clock();
}

static bool is_before(const struct timer *a, const struct timer *b)
{
    return a->due_ms < b->due_ms || (a->due_ms == b->due_ms && a->order < b->order);
}

static struct timer *next_due(void)
{
    struct timer *first = NULL;
    LIST_EACH(it, &timers)
    {
        struct timer *t = CONTAINER_OF(it, struct timer, link);
        if (t->is_active && (first == NULL || is_before(t, first)))
            first = t;
    }
    return first;
}

static void set_mono(uint64_t to_ms)
{
    wall_ms += (int64_t)(to_ms - mono_ms);
    mono_ms = to_ms;
}

void fake_time_advance(uint64_t ms)
{
    uint64_t end_ms = mono_ms + ms;
    struct timer *t;
    while ((t = next_due()) != NULL && t->due_ms <= end_ms) {
        if (t->due_ms > mono_ms)
            set_mono(t->due_ms);
        t->is_active = false;
        t->cb(t->arg); /* may free t */
    }
    set_mono(end_ms);
}

void fake_time_set_wall(int64_t to_wall_ms)
{
    wall_ms = to_wall_ms;
}

uint64_t fake_time_next_ms(void)
{
    const struct timer *t = next_due();
    if (t == NULL)
        return UINT64_MAX;
    return t->due_ms > mono_ms ? t->due_ms - mono_ms : 0;
}

size_t fake_time_n_timers(void)
{
    size_t n = 0;
    LIST_EACH(it, &timers)
    n++;
    return n;
}

struct timer *timer_new(uv_loop_t *loop, timer_cb cb, void *arg)
{
    (void)loop;
    struct timer *t = xcalloc(1, sizeof *t);
    t->cb = cb;
    t->arg = arg;
    list_push_back(&timers, &t->link);
    return t;
}

void timer_start(struct timer *t, uint64_t delay_ms)
{
    t->is_active = true;
    t->due_ms = mono_ms + delay_ms;
    t->order = ++n_starts;
}

void timer_stop(struct timer *t)
{
    t->is_active = false;
}

bool timer_is_active(const struct timer *t)
{
    return t->is_active;
}

void timer_free(struct timer **t)
{
    if (*t == NULL)
        return;
    list_remove(&(*t)->link);
    free(*t);
    *t = NULL;
}
