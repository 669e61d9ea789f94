// SPDX-License-Identifier: Apache-2.0
/* secret: bytes that are overwritten before they are freed and never logged.  Layer: base. */
#ifndef SVIDMAIL_BASE_SECRET_H
#define SVIDMAIL_BASE_SECRET_H
#include "base/str.h"

/* Overwrite; the compiler may not leave it out. */
void secret_wipe(void *p, size_t len);
/* A copy of s that is yours, NUL-terminated; end it with secret_free(). */
char *secret_dup(struct str s);
/* Overwrites and frees a NUL-terminated secret; nulls the pointer.  NULL is fine. */
void secret_free(char **z);

#endif
