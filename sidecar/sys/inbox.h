// SPDX-License-Identifier: Apache-2.0
/* inbox: the only place where two threads meet.  Any thread posts, the loop delivers in order.
 * Layer: sys.  Thread: as each function says. */
#ifndef SVIDMAIL_SYS_INBOX_H
#define SVIDMAIL_SYS_INBOX_H
#include <uv.h>

/* Embed as the first member of the real message. */
struct inbox_msg {
    struct inbox_msg *next;
    /* Loop thread.  Takes m (frees it); may stop, but not free, the inbox's owner. */
    void (*deliver)(struct inbox_msg *m, void *owner);
};

struct inbox;

/* Loop thread. */
struct inbox *inbox_new(uv_loop_t *loop, void *owner);
/* Any thread; takes m. */
void inbox_post(struct inbox *ib, struct inbox_msg *m);
/* Loop thread, once no other thread can post any more; also from a delivery.  What is still inside
 * is delivered first, in order. */
void inbox_free(struct inbox **ib);

#endif
