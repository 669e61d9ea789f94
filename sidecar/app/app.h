// SPDX-License-Identifier: Apache-2.0
/* app: the daemon: start order, drain, stop order (the mirror image).  Layer: app.  Thread: loop.
 */
#ifndef SVIDMAIL_APP_APP_H
#define SVIDMAIL_APP_APP_H
#include "app/config.h"
#include "base/err.h"

/* Runs until a signal asks it to stop.  cfg is borrowed.  false: it could not start (e says why);
 * the log is as configured by then. */
NODISCARD bool app_run(const struct config *cfg, struct err *e);

#endif
