// SPDX-License-Identifier: Apache-2.0
/* mail_body: the one pass over a mail's bytes on their way to the spool: adds our trace headers on top,
 * drops Bcc and (unless allowed) X-SES-*, adds Date and Message-ID where missing, learns From, Message-ID and
 * Subject, counts Received, leaves every other byte as it came.  Input: CRLF lines, unstuffed, in any split.
 * Layer: core. */
#ifndef SVIDMAIL_CORE_MAIL_BODY_H
#define SVIDMAIL_CORE_MAIL_BODY_H
#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"

#define MAIL_HEADER_MAX       (256u << 10) /* bytes of the header section */
#define MAIL_RECEIVED_MAX     100          /* RFC 5321 6.3: loops */
#define MAIL_HEADER_VALUE_MAX 512          /* of what is learned */

/* What goes on top; all strings are ours (checked for CR and LF by CHECK). */
struct mail_body_config {
    const char *received;              /* complete value of the Received header, may hold "\r\n\t" folds */
    const char *id;                    /* X-Svidmail-Id */
    const char *date;                  /* RFC 5322 date for a missing Date */
    const char *message_id;            /* "<id@host>" for a missing Message-ID */
    const char *const *allow_headers;  /* NULL-terminated names of X-SES-* let through; NULL: none */
};

/* What was learned; valid after mail_body_end().  Values are unfolded, cut, still raw peer text. */
struct mail_body_facts {
    char from[MAIL_HEADER_VALUE_MAX], message_id[MAIL_HEADER_VALUE_MAX], subject[MAIL_HEADER_VALUE_MAX];
    unsigned n_received, n_dropped; /* n_dropped: Bcc and X-SES-* fields removed */
    bool has_date;
};

/* Gets each run of output bytes.  false: stop (the error stays with whoever is behind it). */
typedef bool (*mail_body_sink)(void *arg, struct str bytes);

struct mail_body;
struct mail_body *mail_body_new(const struct mail_body_config *cfg, mail_body_sink sink, void *sink_arg);
/* false: the sink refused (e untouched), or a rule of the header was broken (ERR_SYNTAX, ERR_LIMIT: answer 554). */
NODISCARD bool mail_body_write(struct mail_body *b, struct str bytes, struct err *e);
NODISCARD bool mail_body_end(struct mail_body *b, struct mail_body_facts *out, struct err *e);
void mail_body_free(struct mail_body **b);

#endif
