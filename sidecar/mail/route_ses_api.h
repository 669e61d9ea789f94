// SPDX-License-Identifier: Apache-2.0
/* route_ses_api: the default route: SESv2 SendEmail with temporary credentials.  Layer: mail.
 * Thread: loop. */
#ifndef SVIDMAIL_MAIL_ROUTE_SES_API_H
#define SVIDMAIL_MAIL_ROUTE_SES_API_H
#include "aws/ses.h"
#include "mail/route.h"

/* Borrows ses. */
struct route route_ses_api(struct ses *ses);

#endif
