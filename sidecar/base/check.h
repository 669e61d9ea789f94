// SPDX-License-Identifier: Apache-2.0
/* check: assertions that stay on in a release.  For our own bugs only, never for what a peer, the
 * disk or the agent sends.  Layer: base. */
#ifndef SVIDMAIL_BASE_CHECK_H
#define SVIDMAIL_BASE_CHECK_H

#define NODISCARD         __attribute__((warn_unused_result))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))

/* Prints where and what to stderr and aborts. */
_Noreturn void check_failed(const char *file, int line, const char *what);

#define CHECK(cond) ((cond) ? (void)0 : check_failed(__FILE__, __LINE__, #cond))

#endif
