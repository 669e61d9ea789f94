// SPDX-License-Identifier: Apache-2.0
#include "sys/inbox.h"
#include "base/mem.h"

#include "loop_fixture.h"
#include "test.h"

#include <stdlib.h>
#include <string.h>

#define N_THREADS 4
#define N_EACH    5000

struct note {
    struct inbox_msg head;
    int from, number;
};

struct owner {
    struct inbox *ib;
    int n, last[N_THREADS];
    bool is_ordered;
    int n_at_free;
    int frees_at, posts_at; /* number of the note that does so; 0 = none */
    uv_thread_t loop_thread;
};

static struct note *note_new(int from, int number, void (*deliver)(struct inbox_msg *, void *))
{
    struct note *m = xcalloc(1, sizeof *m);
    m->head.deliver = deliver;
    m->from = from;
    m->number = number;
    return m;
}

static void deliver(struct inbox_msg *head, void *arg)
{
    struct note *m = (struct note *)head;
    struct owner *o = arg;
    uv_thread_t self = uv_thread_self();
    assert_true(uv_thread_equal(&self, &o->loop_thread));
    o->is_ordered = o->is_ordered && m->number == o->last[m->from] + 1;
    o->last[m->from] = m->number;
    o->n++;
    if (m->number == o->posts_at)
        inbox_post(o->ib, &note_new(m->from, 4, deliver)->head);
    if (m->number == o->frees_at) {
        inbox_free(&o->ib);
        o->n_at_free = o->n;
    }
    free(m);
}

static void owner_init(struct owner *o, uv_loop_t *loop)
{
    memset(o, 0, sizeof *o);
    o->is_ordered = true;
    o->loop_thread = uv_thread_self();
    o->ib = inbox_new(loop, o);
}

struct poster {
    struct inbox *ib;
    int id;
};

static void post_many(void *arg)
{
    struct poster *p = arg;
    for (int i = 1; i <= N_EACH; i++)
        inbox_post(p->ib, &note_new(p->id, i, deliver)->head);
}

TEST(inbox, many_threads_post_and_each_keeps_its_order)
{
    uv_loop_t *loop = loop_new();
    struct owner o;
    owner_init(&o, loop);
    uv_thread_t threads[N_THREADS];
    struct poster posters[N_THREADS];
    for (int i = 0; i < N_THREADS; i++) {
        posters[i] = (struct poster){o.ib, i};
        assert_int_equal(uv_thread_create(&threads[i], post_many, &posters[i]), 0);
    }
    LOOP_UNTIL(loop, o.n == N_THREADS * N_EACH);
    assert_true(o.is_ordered);
    for (int i = 0; i < N_THREADS; i++)
        uv_thread_join(&threads[i]);
    inbox_free(&o.ib);
    loop_free(&loop);
}

TEST(inbox, nothing_is_delivered_inside_post)
{
    uv_loop_t *loop = loop_new();
    struct owner o;
    owner_init(&o, loop);
    inbox_post(o.ib, &note_new(0, 1, deliver)->head);
    assert_int_equal(o.n, 0);
    LOOP_UNTIL(loop, o.n == 1);
    inbox_free(&o.ib);
    loop_free(&loop);
}

TEST(inbox, free_delivers_what_is_still_inside)
{
    uv_loop_t *loop = loop_new();
    struct owner o;
    owner_init(&o, loop);
    o.posts_at = 3; /* a delivery that posts once more */
    for (int i = 1; i <= 3; i++)
        inbox_post(o.ib, &note_new(0, i, deliver)->head);
    struct inbox *ib = o.ib;
    inbox_free(&ib);
    assert_null(ib);
    assert_int_equal(o.n, 4);
    assert_true(o.is_ordered);
    loop_free(&loop);
}

TEST(inbox, a_delivery_may_free_it_and_the_rest_comes_in_order)
{
    uv_loop_t *loop = loop_new();
    struct owner o;
    owner_init(&o, loop);
    o.frees_at = 1;
    for (int i = 1; i <= 3; i++)
        inbox_post(o.ib, &note_new(0, i, deliver)->head);
    LOOP_UNTIL(loop, o.n >= 1);
    assert_null(o.ib);
    assert_int_equal(o.n_at_free, 3); /* its owner may be gone afterwards */
    assert_true(o.is_ordered);
    loop_free(&loop);
    assert_int_equal(o.n, 3);
}

TEST(inbox, a_delivery_may_post_again)
{
    uv_loop_t *loop = loop_new();
    struct owner o;
    owner_init(&o, loop);
    o.posts_at = 3;
    for (int i = 1; i <= 3; i++)
        inbox_post(o.ib, &note_new(0, i, deliver)->head);
    LOOP_UNTIL(loop, o.n == 4);
    assert_true(o.is_ordered);
    inbox_free(&o.ib);
    loop_free(&loop);
}

TEST(inbox, free_of_null_is_fine)
{
    struct inbox *none = NULL;
    inbox_free(&none);
}
