// SPDX-License-Identifier: Apache-2.0
/* wiping: an allocator for libraries that handle secrets and free them as they are: what it takes
 * back is overwritten. Layer: aws.  Thread: any. */
#ifndef SVIDMAIL_AWS_WIPING_H
#define SVIDMAIL_AWS_WIPING_H
#include <stddef.h>

void *wiping_malloc(size_t size);
void *wiping_calloc(size_t n, size_t size);
void *wiping_realloc(void *p, size_t size);
char *wiping_strdup(const char *z);
void wiping_free(void *p);

#endif
