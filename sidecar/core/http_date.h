// SPDX-License-Identifier: Apache-2.0
/* http_date: a Date header's value (RFC 9110 5.6.7, IMF-fixdate).  Layer: core. */
#ifndef SVIDMAIL_CORE_HTTP_DATE_H
#define SVIDMAIL_CORE_HTTP_DATE_H
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

/* Milliseconds since the epoch.  false: it is none, or tells of a year that nobody lives in (before
 * 2020, after 2099). */
NODISCARD bool http_date_parse(const char *date, int64_t *out_ms);

#endif
