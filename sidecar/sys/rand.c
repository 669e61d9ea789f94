// SPDX-License-Identifier: Apache-2.0
#include "sys/rand.h"
#include "base/check.h"

#include <errno.h>
#include <sys/random.h>

void random_bytes(void *out, size_t len)
{
    unsigned char *p = out;
    while (len > 0) {
        ssize_t n = getrandom(p, len, 0);
        if (n == -1 && errno == EINTR)
            continue;
        CHECK(n > 0); /* the kernel's pool is always there once booted */
        p += n;
        len -= (size_t)n;
    }
}

uint32_t random_u32(void)
{
    uint32_t v;
    random_bytes(&v, sizeof v);
    return v;
}

uint32_t random_below(uint32_t n)
{
    CHECK(n > 0);
    return (uint32_t)(((uint64_t)random_u32() * n) >> 32);
}
