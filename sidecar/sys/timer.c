// SPDX-License-Identifier: Apache-2.0
/* libuv 1.44 runs timers for as long as one is due: one that its own callback starts anew with 0 ms
 * would be so for ever, and nothing else would get its turn.  So that start goes to an idle handle,
 * which runs once in each turn of the loop, without waiting. */
#include "sys/timer.h"
#include "base/mem.h"

#include <stdlib.h>

struct timer {
    uv_timer_t uv;
    uv_idle_t again;
    timer_cb cb;
    void *arg;
    bool is_in_cb;
    unsigned n_open; /* handles */
};

static void run(struct timer *t)
{
    t->is_in_cb = true;
    t->cb(t->arg); /* may free t: it lives on until its handles are closed */
    t->is_in_cb = false;
}

static void on_timeout(uv_timer_t *uv)
{
    run(uv->data);
}

static void on_again(uv_idle_t *again)
{
    uv_idle_stop(again);
    run(again->data);
}

static void on_closed(uv_handle_t *h)
{
    struct timer *t = h->data;
    if (--t->n_open == 0)
        free(t);
}

struct timer *timer_new(uv_loop_t *loop, timer_cb cb, void *arg)
{
    struct timer *t = xcalloc(1, sizeof *t);
    t->cb = cb;
    t->arg = arg;
    CHECK(uv_timer_init(loop, &t->uv) == 0 && uv_idle_init(loop, &t->again) == 0);
    t->uv.data = t->again.data = t;
    t->n_open = 2;
    return t;
}

void timer_start(struct timer *t, uint64_t delay_ms)
{
    timer_stop(t);
    if (t->is_in_cb && delay_ms == 0) {
        CHECK(uv_idle_start(&t->again, on_again) == 0);
        return;
    }
    uv_update_time(t->uv.loop);
    CHECK(uv_timer_start(&t->uv, on_timeout, delay_ms, 0) == 0);
}

void timer_stop(struct timer *t)
{
    uv_timer_stop(&t->uv);
    uv_idle_stop(&t->again);
}

bool timer_is_active(const struct timer *t)
{
    return uv_is_active((const uv_handle_t *)&t->uv) != 0 ||
           uv_is_active((const uv_handle_t *)&t->again) != 0;
}

void timer_free(struct timer **t)
{
    if (*t == NULL)
        return;
    timer_stop(*t);
    uv_close((uv_handle_t *)&(*t)->uv, on_closed);
    uv_close((uv_handle_t *)&(*t)->again, on_closed);
    *t = NULL;
}
