// SPDX-License-Identifier: Apache-2.0
#include "sys/timer.h"
#include "base/mem.h"

#include <stdlib.h>

struct timer {
    uv_timer_t uv;
    timer_cb cb;
    void *arg;
};

static void on_timeout(uv_timer_t *uv)
{
    struct timer *t = uv->data;
    t->cb(t->arg); /* may free t */
}

static void on_closed(uv_handle_t *h)
{
    free(h->data);
}

struct timer *timer_new(uv_loop_t *loop, timer_cb cb, void *arg)
{
    struct timer *t = xcalloc(1, sizeof *t);
    t->cb = cb;
    t->arg = arg;
    CHECK(uv_timer_init(loop, &t->uv) == 0);
    t->uv.data = t;
    return t;
}

void timer_start(struct timer *t, uint64_t delay_ms)
{
    uv_update_time(t->uv.loop);
    CHECK(uv_timer_start(&t->uv, on_timeout, delay_ms, 0) == 0);
}

void timer_stop(struct timer *t)
{
    uv_timer_stop(&t->uv);
}

bool timer_is_active(const struct timer *t)
{
    return uv_is_active((const uv_handle_t *)&t->uv) != 0;
}

void timer_free(struct timer **t)
{
    if (*t == NULL)
        return;
    uv_timer_stop(&(*t)->uv);
    uv_close((uv_handle_t *)&(*t)->uv, on_closed);
    *t = NULL;
}
