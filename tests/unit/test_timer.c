// SPDX-License-Identifier: Apache-2.0
#include "sys/timer.h"

#include "loop_fixture.h"
#include "test.h"

struct seen {
    struct timer *t;
    int n;
    bool frees, restarts;
};

static void on_time(void *arg)
{
    struct seen *s = arg;
    s->n++;
    if (s->restarts && s->n < 3)
        timer_start(s->t, 1);
    if (s->frees)
        timer_free(&s->t);
}

TEST(timer, it_runs_once_not_before_its_time)
{
    uv_loop_t *loop = loop_new();
    struct seen s = {0};
    s.t = timer_new(loop, on_time, &s);
    assert_false(timer_is_active(s.t));
    uint64_t begin = uv_hrtime();
    timer_start(s.t, 30);
    assert_true(timer_is_active(s.t));
    assert_int_equal(s.n, 0);
    LOOP_UNTIL(loop, s.n == 1);
    assert_true(uv_hrtime() - begin >= 29u * 1000000);
    assert_false(timer_is_active(s.t));
    loop_run_for(loop, 50);
    assert_int_equal(s.n, 1);
    timer_free(&s.t);
    loop_free(&loop);
}

TEST(timer, zero_runs_later_not_inside_the_call)
{
    uv_loop_t *loop = loop_new();
    struct seen s = {0};
    s.t = timer_new(loop, on_time, &s);
    timer_start(s.t, 0);
    assert_int_equal(s.n, 0);
    loop_settle(loop);
    assert_int_equal(s.n, 1);
    timer_free(&s.t);
    loop_free(&loop);
}

TEST(timer, a_delay_counts_from_now_not_from_the_turns_begin)
{
    uv_loop_t *loop = loop_new();
    struct seen s = {0};
    s.t = timer_new(loop, on_time, &s);
    uv_update_time(loop);
    uint64_t begin = uv_hrtime();
    while (uv_hrtime() - begin < 40u * 1000000) { /* a long callback */
    }
    timer_start(s.t, 30);
    LOOP_UNTIL(loop, s.n == 1);
    assert_true(uv_hrtime() - begin >= 69u * 1000000);
    timer_free(&s.t);
    loop_free(&loop);
}

TEST(timer, a_new_start_moves_it)
{
    uv_loop_t *loop = loop_new();
    struct seen s = {0};
    s.t = timer_new(loop, on_time, &s);
    timer_start(s.t, 10000);
    timer_start(s.t, 1);
    LOOP_UNTIL_WITHIN(loop, s.n == 1, 5000);
    timer_free(&s.t);
    loop_free(&loop);
}

TEST(timer, stopped_or_freed_it_is_silent)
{
    uv_loop_t *loop = loop_new();
    struct seen s = {0}, f = {0};
    s.t = timer_new(loop, on_time, &s);
    f.t = timer_new(loop, on_time, &f);
    timer_start(s.t, 0);
    timer_start(f.t, 0);
    timer_stop(s.t);
    timer_free(&f.t);
    assert_null(f.t);
    loop_run_for(loop, 20);
    assert_int_equal(s.n + f.n, 0);
    timer_free(&s.t);
    timer_free(&s.t); /* NULL is fine */
    loop_free(&loop);
}

TEST(timer, its_callback_may_restart_or_free_it)
{
    uv_loop_t *loop = loop_new();
    struct seen r = {.restarts = true}, f = {.frees = true};
    r.t = timer_new(loop, on_time, &r);
    f.t = timer_new(loop, on_time, &f);
    timer_start(r.t, 1);
    timer_start(f.t, 1);
    LOOP_UNTIL(loop, r.n == 3 && f.n == 1);
    assert_null(f.t);
    timer_free(&r.t);
    loop_free(&loop);
}
