// SPDX-License-Identifier: Apache-2.0
/* backoff: exponential delays, jittered over their upper half; randomness is passed in.  Layer:
 * core. */
#ifndef SVIDMAIL_CORE_BACKOFF_H
#define SVIDMAIL_CORE_BACKOFF_H
#include <stdint.h>

struct backoff {
    uint32_t base_ms, cap_ms;
    unsigned n_failures;
};

void backoff_init(struct backoff *b, uint32_t base_ms, uint32_t cap_ms);
/* The next delay: uniform in [cap'/2, cap'] with cap' = min(cap, base * 2^n); random is any 32
 * random bits. */
uint32_t backoff_next_ms(struct backoff *b, uint32_t random);
void backoff_reset(struct backoff *b);

#endif
