// SPDX-License-Identifier: Apache-2.0
/* mail_header: header fields: names, singleton rule of SES, RFC 5322 dates.  Layer: core. */
#ifndef SVIDMAIL_CORE_MAIL_HEADER_H
#define SVIDMAIL_CORE_MAIL_HEADER_H
#include "base/str.h"

#include <stdint.h>

/* Length of the field name in a header line, 0 if the line is no header field (RFC 5322 2.2).
 * Spaces and tabs between name and ':' are allowed (4.5, obsolete) and not counted: "Bcc :" is a
 * Bcc. */
size_t mail_header_name_len(struct str line);
/* Index of a field SES takes only once (developer guide, "header fields"), or -1. */
int mail_header_singleton(struct str name);
#define MAIL_HEADER_SINGLETONS_MAX 80
#define MAIL_HEADER_DATE_MAX       32
/* "Mon, 23 Nov 2026 17:26:04 +0000" into out (MAIL_HEADER_DATE_MAX bytes); returns out.  Years 1970
 * to 9999. */
char *mail_header_date(char *out, int64_t wall_ms);

#endif
