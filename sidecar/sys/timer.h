// SPDX-License-Identifier: Apache-2.0
/* timer: a one-shot timer on the loop.  After timer_stop() or timer_free() its callback does not
 * run any more; the handle closes by itself.  Layer: sys.  Thread: loop. */
#ifndef SVIDMAIL_SYS_TIMER_H
#define SVIDMAIL_SYS_TIMER_H
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct timer;
typedef void (*timer_cb)(void *arg);

struct timer *timer_new(uv_loop_t *loop, timer_cb cb, void *arg);
/* (Re)start: cb runs once, delay_ms from now.  With 0 ms it may start itself over and over: sockets
 * and signals get their turn in between. */
void timer_start(struct timer *t, uint64_t delay_ms);
void timer_stop(struct timer *t);
bool timer_is_active(const struct timer *t);
/* May be called from the timer's own callback.  Nulls *t; NULL is fine. */
void timer_free(struct timer **t);

#endif
