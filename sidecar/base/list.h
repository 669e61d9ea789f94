// SPDX-License-Identifier: Apache-2.0
/* list: an intrusive doubly linked list.  A head and its items are the same type; an item that is
 * on no list points to itself.  Layer: base. */
#ifndef SVIDMAIL_BASE_LIST_H
#define SVIDMAIL_BASE_LIST_H
#include "base/mem.h"

#include <stdbool.h>

struct list {
    struct list *prev, *next;
};

static inline void list_init(struct list *l)
{
    l->prev = l->next = l;
}

static inline bool list_is_empty(const struct list *head)
{
    return head->next == head;
}

static inline void list_push_back(struct list *head, struct list *item)
{
    item->prev = head->prev;
    item->next = head;
    head->prev->next = item;
    head->prev = item;
}

/* Safe on an item that is on no list. */
static inline void list_remove(struct list *item)
{
    item->prev->next = item->next;
    item->next->prev = item->prev;
    list_init(item);
}

/* Walks head; the body may remove and free the item it was given, no other. */
#define LIST_EACH(it, head)                                                                        \
    for (struct list *it = (head)->next, *it##_next = it->next; it != (head);                      \
         it = it##_next, it##_next = it->next)

#endif
