// SPDX-License-Identifier: Apache-2.0
/* smtp_reply: a reply to the app: code, enhanced status (RFC 2034, 3463), text made safe and short.
 * Layer: core. */
#ifndef SVIDMAIL_CORE_SMTP_REPLY_H
#define SVIDMAIL_CORE_SMTP_REPLY_H
#include "base/buf.h"

#define SMTP_REPLY_TEXT_MAX 400 /* PHPMailer reads replies in pieces of 512 */

struct smtp_reply {
    int code;          /* 250, 451, ... */
    char enhanced[12]; /* "2.0.0"; "" for greeting, EHLO and 354 */
    char text[SMTP_REPLY_TEXT_MAX + 1];
};

/* Fill *r; the text is cut to SMTP_REPLY_TEXT_MAX and every byte outside printable ASCII becomes
 * '?' (CR, LF and the like a space): peer text may be passed. */
void smtp_reply_set(struct smtp_reply *r, int code, const char *enhanced, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
/* One line "250 2.0.0 text\r\n". */
NODISCARD bool smtp_reply_write(const struct smtp_reply *r, struct buf *out);

#endif
