// SPDX-License-Identifier: Apache-2.0
#include "app/results.h"

#include <string.h>

struct result *results_add(struct results *r)
{
    struct result *slot = &r->ring[r->n_added++ % RESULTS_MAX];
    memset(slot, 0, sizeof *slot);
    return slot;
}

const struct result *results_get(const struct results *r, size_t i)
{
    if (i >= r->n_added || i >= RESULTS_MAX)
        return NULL;
    return &r->ring[(r->n_added - 1 - i) % RESULTS_MAX];
}
