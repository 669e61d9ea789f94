// SPDX-License-Identifier: Apache-2.0
/* mail_body: the one pass over a mail's bytes on their way to the spool.  Input: CRLF lines without
 * NUL, unstuffed, in any split.  Layer: core.
 *
 * On top go "Received: <received>" and "X-Svidmail-Id: <id>".  Dropped with their folded lines:
 * Bcc, Resent-Bcc, X-SES-* (unless allowed), an X-Svidmail-Id of the app's, and an mbox "From "
 * line in front.  A missing Date or Message-ID is added as the last field.  Every other byte leaves
 * as it came, order and folding included.
 * The header section ends at the empty line, or at the first line that is neither a field nor a
 * folded one: that line is then text, and an empty line is put before it (so text can never be
 * folded onto a header of ours). */
#ifndef SVIDMAIL_CORE_MAIL_BODY_H
#define SVIDMAIL_CORE_MAIL_BODY_H
#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"

#define MAIL_HEADER_MAX       (256u << 10) /* the header section as it came, with its empty line */
#define MAIL_RECEIVED_MAX     100          /* RFC 5321 6.3: loops */
#define MAIL_HEADER_VALUE_MAX 512          /* of what is learned */

/* What goes on top; all strings are ours (checked for CR and LF by CHECK) and copied, but for
 * allow_headers, which must outlive the mail_body. */
struct mail_body_config {
    const char *received;   /* complete value of the Received header, may hold "\r\n\t" folds */
    const char *id;         /* X-Svidmail-Id */
    const char *date;       /* RFC 5322 date for a missing Date */
    const char *message_id; /* "<id@host>" for a missing Message-ID */
    const char *const *allow_headers; /* NULL-terminated names of X-SES-* let through; NULL: none */
};

/* What was learned; valid after mail_body_end().  Values are the first of their name, unfolded,
 * cut, still raw peer text; "" where the mail has none (an added Message-ID is not learned). */
struct mail_body_facts {
    char from[MAIL_HEADER_VALUE_MAX];
    char message_id[MAIL_HEADER_VALUE_MAX];
    unsigned n_received;
    bool has_date;
};

/* Gets each run of output bytes; they point into the input where it can be.  false: stop (the error
 * stays with whoever is behind it). */
typedef bool (*mail_body_sink)(void *arg, struct str bytes);

struct mail_body;
struct mail_body *mail_body_new(const struct mail_body_config *cfg, mail_body_sink sink,
                                void *sink_arg);
/* false: the sink refused (e untouched), or a rule of the header was broken (ERR_SYNTAX, ERR_LIMIT:
 * answer 554); the message is fit for the reply.  From then on every call says the same again and
 * the sink gets nothing. */
NODISCARD bool mail_body_write(struct mail_body *b, struct str bytes, struct err *e);
/* The mail is complete.  A header section without its empty line gets one. */
NODISCARD bool mail_body_end(struct mail_body *b, struct mail_body_facts *out, struct err *e);
void mail_body_free(struct mail_body **b);

#endif
