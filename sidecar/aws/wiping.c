// SPDX-License-Identifier: Apache-2.0
#include "aws/wiping.h"

#include "base/secret.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

void *wiping_malloc(size_t size)
{
    return malloc(size);
}

void *wiping_calloc(size_t n, size_t size)
{
    return calloc(n, size);
}

void *wiping_realloc(void *p, size_t size)
{
    void *q = malloc(size);
    if (p == NULL || q == NULL)
        return q;
    size_t old = malloc_usable_size(p);
    memcpy(q, p, old < size ? old : size);
    wiping_free(p);
    return q;
}

char *wiping_strdup(const char *z)
{
    return strdup(z);
}

void wiping_free(void *p)
{
    if (p != NULL)
        secret_wipe(p, malloc_usable_size(p));
    free(p);
}
