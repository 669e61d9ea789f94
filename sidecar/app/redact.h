// SPDX-License-Identifier: Apache-2.0
/* redact: how addresses are shown where they are kept, in the log and in /status.  Local parts are
 * personal data: by default a short digest stands for one, which support can compare.  The app's
 * own reply is not our business: it knows the addresses.  Layer: app.  Pure. */
#ifndef SVIDMAIL_APP_REDACT_H
#define SVIDMAIL_APP_REDACT_H
#include "app/config.h"
#include "mail/mail.h"

/* As log.recipients says: "0123456789ab@shop.example", the address itself, or "***@shop.example".
 * Cut to cap. */
void redact_address(enum config_recipients how, const struct mail_path *address, char *out,
                    size_t cap);
/* Another's words, SES's for one, with every address of the mail in them shown like that.  Cut to
 * cap. */
void redact_text(enum config_recipients how, const struct mail *m, struct str text, char *out,
                 size_t cap);

#endif
