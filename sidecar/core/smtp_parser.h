// SPDX-License-Identifier: Apache-2.0
/* smtp_parser: bytes from the app -> typed commands and body bytes.  Pure and split-invariant: however the
 * bytes are cut into pieces, the same events come out.  Layer: core.
 *
 * Commands: a line ends in CRLF or LF; longer than SMTP_LINE_MAX is SMTP_EV_LINE_TOO_LONG once, the rest of the
 * line dropped.  Body (after smtp_parser_expect_body): only CRLF.CRLF ends it (RFC 5321 4.1.1.4); dots are
 * unstuffed; a bare LF becomes CRLF (and the line of a lone dot made by it stays data, never an end); bare CR
 * and NUL poison the mail: SMTP_EV_BODY_END then carries the defect, and the bytes are still read to the end. */
#ifndef SVIDMAIL_CORE_SMTP_PARSER_H
#define SVIDMAIL_CORE_SMTP_PARSER_H
#include "base/err.h"
#include "base/str.h"
#include "core/mail_address.h"

#define SMTP_LINE_MAX 2048 /* command line without its end; RFC 5321 asks for 512, extensions add */

enum smtp_verb {
    SMTP_EHLO, SMTP_HELO, SMTP_MAIL, SMTP_RCPT, SMTP_DATA, SMTP_RSET, SMTP_NOOP, SMTP_VRFY, SMTP_HELP,
    SMTP_QUIT, SMTP_AUTH, SMTP_STARTTLS, SMTP_EXPN, SMTP_BDAT, SMTP_ETRN,
    SMTP_HTTP,    /* GET, POST, ...: somebody talks HTTP to us (cross-protocol attack): 421 and close */
    SMTP_UNKNOWN, SMTP_VERB_COUNT
};

enum smtp_body_defect {
    SMTP_BODY_OK,
    SMTP_BODY_BARE_CR,
    SMTP_BODY_NUL,
    SMTP_BODY_LONG_LINE, /* a line over 998 bytes; RFC 5321 4.5.3.1.6 */
    SMTP_BODY_BARE_LF,   /* only if the parser was told to refuse it */
};

struct smtp_mail_args {
    struct mail_path from;
    uint64_t size;    /* SIZE=, 0 if absent */
    bool is_8bit;     /* BODY=8BITMIME */
};

struct smtp_rcpt_args {
    struct mail_path to;
};

enum smtp_event_kind {
    SMTP_EV_NONE,          /* all input consumed */
    SMTP_EV_COMMAND,       /* verb, arg */
    SMTP_EV_LINE_TOO_LONG,
    SMTP_EV_BODY,          /* body bytes: CRLF only, unstuffed */
    SMTP_EV_BODY_END,      /* defect says whether the mail may be taken */
};

struct smtp_event {
    enum smtp_event_kind kind;
    enum smtp_verb verb;
    struct str arg;               /* trimmed rest of the line; borrowed until the next call */
    struct str body;              /* borrowed until the next call; may point into the input or into the parser */
    enum smtp_body_defect defect;
    bool had_bare_lf;             /* BODY_END: at least one was normalised */
};

struct smtp_parser {
    int state;                    /* private */
    bool refuse_bare_lf;
    bool is_too_long;
    enum smtp_body_defect defect;
    bool had_bare_lf;
    size_t line_len;              /* of the current body line */
    size_t len;
    char line[SMTP_LINE_MAX + 4];
};

void smtp_parser_init(struct smtp_parser *p, bool refuse_bare_lf);
/* From the next byte on it is a body, until SMTP_EV_BODY_END. */
void smtp_parser_expect_body(struct smtp_parser *p);
/* Take the next event from *in, which is advanced past what was consumed.  SMTP_EV_NONE: *in is empty now. */
struct smtp_event smtp_parser_next(struct smtp_parser *p, struct str *in);

/* Arguments of MAIL ("FROM:<..> SIZE=.. BODY=..") and RCPT ("TO:<..>").  ERR_SYNTAX: 501; ERR_DENIED: 553 (address
 * not possible at SES); ERR_LIMIT: unknown parameter: 555. */
NODISCARD bool smtp_parse_mail(struct str arg, struct smtp_mail_args *out, struct err *e);
NODISCARD bool smtp_parse_rcpt(struct str arg, struct smtp_rcpt_args *out, struct err *e);
const char *smtp_verb_name(enum smtp_verb v);

#endif
