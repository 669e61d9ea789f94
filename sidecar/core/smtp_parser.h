// SPDX-License-Identifier: Apache-2.0
/* smtp_parser: bytes from the app -> typed commands and body bytes.  Pure and split-invariant:
 * however the bytes are cut into pieces, the same events come out (neighbouring body events
 * joined).  Layer: core.
 *
 * Commands: a line ends in CRLF or LF; longer than SMTP_LINE_MAX is SMTP_EV_LINE_TOO_LONG once,
 * when its end has come, and the line is dropped.  A line with a CR or NUL inside is never a
 * command (SMTP_UNKNOWN).  AUTH and the responses to it may have SMTP_AUTH_LINE_MAX bytes, of which
 * those beyond SMTP_LINE_MAX are counted and forgotten: nobody believes a password here.
 *
 * Body (after smtp_parser_expect_body): only CRLF.CRLF ends it (RFC 5321 4.1.1.4), the CRLF in
 * front being that of the DATA line for an empty body.  Dots are unstuffed.  A bare LF becomes
 * CRLF, and the line behind it is a line but not one that can end the mail: a lone dot there, or
 * one in front of a bare LF, stays as data; ".." loses a dot (smtplib stuffs behind a bare LF too),
 * ".x" does not (others do not stuff there).
 * Bare CR and NUL (and bare LF, if so told) poison the mail: no body bytes come from there on, all
 * is read up to the true end, and SMTP_EV_BODY_END carries the first such defect.  So body bytes
 * never hold a NUL, nor a CR or an LF but as CRLF.
 * They are the unstuffed text and may well hold CRLF.CRLF: who speaks DATA to a next hop must stuff
 * them again; the SES API and the spool, which know lengths, need not. */
#ifndef SVIDMAIL_CORE_SMTP_PARSER_H
#define SVIDMAIL_CORE_SMTP_PARSER_H
#include "base/err.h"
#include "base/str.h"
#include "core/mail_address.h"

#define SMTP_LINE_MAX      2048  /* command line without its end; RFC 5321 asks for 512 and more */
#define SMTP_AUTH_LINE_MAX 12288 /* AUTH and the responses to it; RFC 4954 4 */
#define SMTP_BODY_LINE_MAX 998   /* text line without its end; RFC 5321 4.5.3.1.6 */

// clang-format off
enum smtp_verb {
    SMTP_EHLO, SMTP_HELO, SMTP_MAIL, SMTP_RCPT, SMTP_DATA, SMTP_RSET, SMTP_NOOP, SMTP_VRFY, SMTP_HELP,
    SMTP_QUIT, SMTP_AUTH, SMTP_STARTTLS, SMTP_EXPN, SMTP_BDAT, SMTP_ETRN,
    SMTP_HTTP,    /* GET, POST, ...: somebody talks HTTP to us (cross-protocol attack): 421 and close */
    SMTP_UNKNOWN, SMTP_VERB_COUNT
};
// clang-format on

enum smtp_body_defect {
    SMTP_BODY_OK,
    SMTP_BODY_BARE_CR,
    SMTP_BODY_NUL,
    SMTP_BODY_LONG_LINE, /* a line over SMTP_BODY_LINE_MAX; the only defect that does not stop the
                            body bytes */
    SMTP_BODY_BARE_LF,   /* only if the parser was told to refuse it */
};

struct smtp_mail_args {
    struct mail_path from;
    uint64_t size; /* SIZE=, 0 if absent */
};

struct smtp_rcpt_args {
    struct mail_path to;
};

enum smtp_event_kind {
    SMTP_EV_NONE,          /* all input consumed */
    SMTP_EV_COMMAND,       /* verb, arg */
    SMTP_EV_AUTH_LINE,     /* arg: the response, no more than its first SMTP_LINE_MAX bytes */
    SMTP_EV_LINE_TOO_LONG, /* verb: what its beginning says; a long GET is SMTP_HTTP too */
    SMTP_EV_BODY,          /* body bytes: CRLF only, unstuffed */
    SMTP_EV_BODY_END,      /* defect says whether the mail may be taken */
};

struct smtp_event {
    enum smtp_event_kind kind;
    enum smtp_verb verb;
    struct str arg;  /* trimmed rest of the line, for SMTP_UNKNOWN and SMTP_HTTP the whole line: raw
                        peer bytes; borrowed until the next call */
    struct str body; /* borrowed until the next call; may point into the input or into the parser */
    enum smtp_body_defect defect;
    bool had_bare_lf; /* BODY_END: at least one was met before any defect that stops the body */
};

struct smtp_parser {
    int state; /* private */
    bool refuse_bare_lf;
    enum smtp_body_defect defect;
    bool had_bare_lf;
    size_t line_len; /* of the current body line */
    size_t len;      /* of the current command line, kept or not */
    char last;       /* byte of it */
    char line[SMTP_LINE_MAX + 4];
};

void smtp_parser_init(struct smtp_parser *p, bool refuse_bare_lf);
/* From the next byte on it is a body, until SMTP_EV_BODY_END.  Only between two commands. */
void smtp_parser_expect_body(struct smtp_parser *p);
/* The next line is a response in an AUTH exchange: SMTP_EV_AUTH_LINE.  Only between two commands.
 */
void smtp_parser_expect_auth_line(struct smtp_parser *p);
/* Take the next event from *in, which is advanced past what was consumed.  SMTP_EV_NONE: *in is
 * empty now. */
struct smtp_event smtp_parser_next(struct smtp_parser *p, struct str *in);

/* Arguments of MAIL ("FROM:<..> SIZE=.. BODY=..") and RCPT ("TO:<..>").  ERR_SYNTAX: 501;
 * ERR_DENIED: 553 5.6.7 (8-bit address, not possible at SES); ERR_LIMIT: unknown parameter: 555.
 * <postmaster> without a domain passes as a recipient only, <> as a sender only. */
NODISCARD bool smtp_parse_mail(struct str arg, struct smtp_mail_args *out, struct err *e);
NODISCARD bool smtp_parse_rcpt(struct str arg, struct smtp_rcpt_args *out, struct err *e);

#endif
