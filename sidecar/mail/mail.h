// SPDX-License-Identifier: Apache-2.0
/* mail: one mail, born at MAIL, freed whole.  The session owns it until the final dot, then the
 * relay does. Layer: mail.  Thread: loop. */
#ifndef SVIDMAIL_MAIL_MAIL_H
#define SVIDMAIL_MAIL_MAIL_H
#include "core/mail_address.h"
#include "core/mail_body.h"
#include "core/smtp_reply.h"
#include "mail/spool_file.h"

#define MAIL_ID_LEN 26 /* ULID: sortable by time, 80 random bits */

struct mail {
    char id[MAIL_ID_LEN + 1]; /* X-Svidmail-Id: stable over every attempt */
    char session[12];         /* of the app's connection, for the log */
    struct mail_path from;
    struct mail_path *recipients;
    size_t n_recipients;
    uint64_t received_bytes;         /* of DATA, unstuffed, before our headers */
    struct spool_file *file;         /* from DATA on */
    struct mail_body *body;          /* while DATA runs */
    struct mail_body_facts *facts;   /* after the final dot */
    struct smtp_reply refusal;       /* code != 0: refused while its body still comes in */
    uint64_t begun_at_us, dot_at_us; /* monotonic */
};

/* A mail from this sender; id and times are set. */
struct mail *mail_new(const struct mail_path *from, int64_t wall_ms);
bool mail_has_recipient(const struct mail *m, const struct mail_path *to);
/* One that mail_has_recipient() denies. */
void mail_add_recipient(struct mail *m, const struct mail_path *to);
void mail_free(struct mail **m);

#endif
