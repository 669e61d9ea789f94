// SPDX-License-Identifier: Apache-2.0
/* rand: random bytes from the kernel.  Layer: sys.  Thread: any. */
#ifndef SVIDMAIL_SYS_RAND_H
#define SVIDMAIL_SYS_RAND_H
#include <stddef.h>
#include <stdint.h>

void random_bytes(void *out, size_t len);
uint32_t random_u32(void);
/* Uniform in 0..n-1, n > 0. */
uint32_t random_below(uint32_t n);

#endif
