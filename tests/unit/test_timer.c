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

#define TURNS 100

/* A timer that always wants to go on at once, and an event that is due beside it. */
struct eager {
    uv_loop_t *loop;
    struct timer *t;
    uv_async_t event;
    int n, n_at_event; /* -1: the event has not come */
};

static void on_eager(void *arg)
{
    struct eager *g = arg;
    if (++g->n < TURNS)
        timer_start(g->t, 0);
}

static void on_event(uv_async_t *a)
{
    struct eager *g = a->data;
    g->n_at_event = g->n;
}

static void eager_init(struct eager *g)
{
    *g = (struct eager){.loop = loop_new(), .n_at_event = -1};
    assert_int_equal(uv_async_init(g->loop, &g->event, on_event), 0);
    g->event.data = g;
    g->t = timer_new(g->loop, on_eager, g);
}

static void eager_release(struct eager *g)
{
    timer_free(&g->t);
    uv_close((uv_handle_t *)&g->event, NULL);
    loop_free(&g->loop);
}

TEST(timer, one_that_starts_itself_at_once_leaves_the_others_their_turn)
{
    struct eager g;
    eager_init(&g);
    timer_start(g.t, 0);
    assert_int_equal(uv_async_send(&g.event), 0);
    LOOP_UNTIL(g.loop, g.n == TURNS);
    assert_in_range(g.n_at_event, 0, 2);
    eager_release(&g);
}

TEST(timer, one_that_starts_itself_at_once_waits_for_nothing)
{
    struct eager g;
    eager_init(&g);
    timer_start(g.t, 0);
    for (int i = 0; i < TURNS; i++)
        uv_run(g.loop, UV_RUN_NOWAIT);
    assert_int_equal(g.n, TURNS);
    assert_false(timer_is_active(g.t));
    eager_release(&g);
}

/* After its callback has asked for one more turn at once. */
static void eager_begin(struct eager *g)
{
    eager_init(g);
    timer_start(g->t, 0);
    while (g->n < 2)
        uv_run(g->loop, UV_RUN_NOWAIT);
    assert_true(timer_is_active(g->t));
}

TEST(timer, what_it_started_itself_can_be_stopped_moved_or_freed)
{
    struct eager stopped, moved, freed;
    eager_begin(&stopped);
    timer_stop(stopped.t);
    assert_false(timer_is_active(stopped.t));
    eager_begin(&moved);
    timer_start(moved.t, 10000);
    eager_begin(&freed);
    timer_free(&freed.t);
    int n = stopped.n + moved.n + freed.n;
    loop_settle(stopped.loop);
    loop_settle(moved.loop);
    loop_settle(freed.loop);
    assert_int_equal(stopped.n + moved.n + freed.n, n);
    assert_true(timer_is_active(moved.t));
    eager_release(&stopped);
    eager_release(&moved);
    eager_release(&freed);
}
