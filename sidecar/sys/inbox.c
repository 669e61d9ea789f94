// SPDX-License-Identifier: Apache-2.0
#include "sys/inbox.h"
#include "base/mem.h"

#include <stdlib.h>

struct inbox {
    uv_async_t wake;
    uv_mutex_t lock;
    struct inbox_msg *first, **last; /* under lock */
    struct inbox_msg *batch;         /* loop: taken, not yet delivered */
    void *owner;
};

static struct inbox_msg *take_all(struct inbox *ib)
{
    uv_mutex_lock(&ib->lock);
    struct inbox_msg *m = ib->first;
    ib->first = NULL;
    ib->last = &ib->first;
    uv_mutex_unlock(&ib->lock);
    return m;
}

/* The batch belongs to the inbox, not to the loop below: a delivery that frees the inbox delivers
 * the rest, in order, and the outer loop finds nothing more. */
static void deliver_batch(struct inbox *ib)
{
    while (ib->batch != NULL) {
        struct inbox_msg *m = ib->batch;
        ib->batch = m->next;
        m->deliver(m, ib->owner);
    }
}

static void on_wake(uv_async_t *wake)
{
    struct inbox *ib = wake->data;
    ib->batch = take_all(ib); /* wake-ups coalesce: drain all */
    deliver_batch(ib);
}

struct inbox *inbox_new(uv_loop_t *loop, void *owner)
{
    struct inbox *ib = xcalloc(1, sizeof *ib);
    ib->owner = owner;
    ib->last = &ib->first;
    CHECK(uv_mutex_init(&ib->lock) == 0);
    CHECK(uv_async_init(loop, &ib->wake, on_wake) == 0);
    ib->wake.data = ib;
    return ib;
}

void inbox_post(struct inbox *ib, struct inbox_msg *m)
{
    m->next = NULL;
    uv_mutex_lock(&ib->lock);
    *ib->last = m;
    ib->last = &m->next;
    uv_async_send(&ib->wake); /* under the lock: once unlocked, the loop may close ib */
    uv_mutex_unlock(&ib->lock);
}

static void on_closed(uv_handle_t *h)
{
    struct inbox *ib = h->data;
    uv_mutex_destroy(&ib->lock);
    free(ib);
}

void inbox_free(struct inbox **pib)
{
    struct inbox *ib = *pib;
    if (ib == NULL)
        return;
    *pib = NULL;
    do {
        deliver_batch(ib);
        ib->batch = take_all(ib); /* what a delivery posted */
    } while (ib->batch != NULL);
    uv_close((uv_handle_t *)&ib->wake, on_closed);
}
