// SPDX-License-Identifier: Apache-2.0
#include "core/backoff.h"

void backoff_init(struct backoff *b, uint32_t base_ms, uint32_t cap_ms)
{
    *b = (struct backoff){.base_ms = base_ms, .cap_ms = cap_ms};
}

uint32_t backoff_next_ms(struct backoff *b, uint32_t random)
{
    uint64_t top = b->base_ms;
    for (unsigned i = 0; i < b->n_failures && top < b->cap_ms; i++)
        top *= 2;
    if (top > b->cap_ms)
        top = b->cap_ms;
    if (b->n_failures < UINT32_MAX)
        b->n_failures++;
    uint64_t half = top / 2;
    return (uint32_t)(half + (((top - half + 1) * random) >> 32));
}

void backoff_reset(struct backoff *b)
{
    b->n_failures = 0;
}
