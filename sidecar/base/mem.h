// SPDX-License-Identifier: Apache-2.0
/* mem: small allocations that cannot fail (they abort), and scope-bound release.  What a peer sizes
 * is capped before it comes here.  Layer: base. */
#ifndef SVIDMAIL_BASE_MEM_H
#define SVIDMAIL_BASE_MEM_H
#include "base/check.h"

#include <stddef.h>

void *xcalloc(size_t n, size_t size);
void *xrealloc(void *p, size_t size);
char *xstrdup(const char *z);
char *xasprintf(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* AUTO_FREE char *p = ...; AUTO_CLOSE int fd = ...; released at the end of the scope. */
void mem_auto_free(void *pp);
void mem_auto_close(int *fd);
#define AUTO_FREE  __attribute__((cleanup(mem_auto_free)))
#define AUTO_CLOSE __attribute__((cleanup(mem_auto_close)))

#define ARRAY_LEN(a)                 (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(p, type, field) ((type *)(void *)((char *)(p)-offsetof(type, field)))

#endif
