// SPDX-License-Identifier: Apache-2.0
/* admin_client: ask a running svidmail over its admin socket: one request, blocking, with a
 * deadline. Layer: app. */
#ifndef SVIDMAIL_APP_ADMIN_CLIENT_H
#define SVIDMAIL_APP_ADMIN_CLIENT_H
#include "base/buf.h"
#include "base/err.h"

#include <stdint.h>

#define ADMIN_CLIENT_TIMEOUT_MS 5000
#define ADMIN_CLIENT_BODY_MAX   (4 * 1024 * 1024)

/* The answer's status and body, whatever the status is.  body: at least ADMIN_CLIENT_BODY_MAX.
 * ERR_UNAVAIL: nobody is there; ERR_DENIED: we may not; ERR_TIMEOUT; ERR_SYNTAX: that was no HTTP.
 */
NODISCARD bool admin_client_get(const char *socket_path, const char *target, uint64_t timeout_ms,
                                int *status, struct buf *body, struct err *e);
/* The same for what changes something. */
NODISCARD bool admin_client_post(const char *socket_path, const char *target, uint64_t timeout_ms,
                                 int *status, struct buf *body, struct err *e);

#endif
