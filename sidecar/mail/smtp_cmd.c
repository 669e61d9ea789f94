// SPDX-License-Identifier: Apache-2.0
#include "base/mem.h"
#include "core/mail_header.h"
#include "mail/smtp_session.h"
#include "sys/log.h"
#include "sys/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ERRORS 20 /* bad commands without a good MAIL or RCPT between them, then 421 */

#define IN(s)  (1u << (s))
#define IN_ENV (IN(ST_MAIL) | IN(ST_RCPT))
#define IN_ANY (IN(ST_GREET) | IN(ST_READY) | IN_ENV)

typedef void answer_fn(struct session *s, int code, const char *enhanced, const char *text);

static void bad_command(struct session *s, int code, const char *enhanced, const char *text)
{
    if (++s->n_errors > MAX_ERRORS) {
        session_reply(s, 421, "4.7.0", "%s too many errors, closing", s->server->name);
        session_finish(s);
        return;
    }
    session_reply(s, code, enhanced, "%s", text);
}

/* Bad recipients, or the rest of a refused mail that was pipelined behind its MAIL, say nothing
 * against the session: with a 421 such a mail could never be sent, nor those that wait behind it.
 * As many as a mail may have recipients, and its DATA, are pardoned. */
static void bad_envelope(struct session *s, int code, const char *enhanced, const char *text)
{
    if (s->n_pardons == 0) {
        bad_command(s, code, enhanced, text);
        return;
    }
    s->n_pardons--;
    session_reply(s, code, enhanced, "%s", text);
}

static void set_helo(struct session *s, struct str name)
{
    size_t at = 0;
    for (size_t i = 0; i < name.len && at < sizeof s->helo - 1; i++) {
        char c = name.p[i];
        bool ok = (c >= '0' && c <= '9') || (ascii_lower(c) >= 'a' && ascii_lower(c) <= 'z') ||
                  strchr(".-_:[]", c) != NULL;
        if (ok && c != '\0')
            s->helo[at++] = c;
    }
    s->helo[at] = '\0';
    if (at == 0)
        str_copy(s->helo, sizeof s->helo, STR("unknown"));
}

static void run_helo(struct session *s, struct str arg)
{
    set_helo(s, arg);
    s->is_esmtp = false;
    session_end_tx(s, ST_READY); /* RFC 5321 4.1.4: a new greeting is a RSET */
    struct smtp_reply r;
    smtp_reply_set(&r, 250, "", "%s", s->server->name);
    session_reply_full(s, &r);
}

static void run_ehlo(struct session *s, struct str arg)
{
    set_helo(s, arg);
    s->is_esmtp = true;
    session_end_tx(s, ST_READY);
    char text[512];
    int n = snprintf(text, sizeof text,
                     "250-%.200s\r\n250-PIPELINING\r\n250-SIZE %llu\r\n250-8BITMIME\r\n%s"
                     "250 ENHANCEDSTATUSCODES\r\n",
                     s->server->name, (unsigned long long)s->server->cfg.max_message_bytes,
                     s->server->cfg.accepts_any_auth ? "250-AUTH PLAIN LOGIN\r\n" : "");
    session_raw(s, (struct str){text, (size_t)n}, 250);
}

static void refused(struct session *s, const struct mail *m, const struct smtp_reply *r)
{
    metric_add(M_SMTP_TRANSACTIONS, METRIC_L(r->code >= 500 ? "refused" : "deferred"), 1);
    s->server->ev.on_refused(s->server->arg, m, r);
}

static void syntax_reply(struct session *s, answer_fn *answer, const struct err *e)
{
    switch (e->code) {
    case ERR_DENIED:
        answer(s, 553, "5.6.7", e->msg);
        break;
    case ERR_LIMIT:
        answer(s, 555, "5.5.4", e->msg);
        break;
    default:
        answer(s, 501, "5.5.4", e->msg);
        break;
    }
}

static void run_mail(struct session *s, struct str arg)
{
    struct smtp_mail_args args;
    struct err e;
    s->n_pardons = s->server->cfg.max_recipients + 1;
    if (!smtp_parse_mail(arg, &args, &e)) {
        syntax_reply(s, bad_command, &e);
        return;
    }
    struct mail *m = mail_new(&args.from, clock_wall_ms(s->server->clock));
    str_copy(m->session, sizeof m->session, str_from(s->id));
    struct smtp_reply r = {0};
    if (args.size > s->server->cfg.max_message_bytes)
        smtp_reply_set(&r, 552, "5.3.4", "Message too large: %llu bytes, the limit is %llu",
                       (unsigned long long)args.size,
                       (unsigned long long)s->server->cfg.max_message_bytes);
    else
        s->server->ev.on_mail(s->server->arg, m, &r);
    if (r.code != 0) {
        refused(s, m, &r);
        mail_free(&m);
        session_reply_full(s, &r);
        return;
    }
    s->n_errors = 0;
    s->mail = m;
    session_move(s, ST_MAIL);
    session_reply(s, 250, "2.1.0", "Sender ok");
}

static void recipient_ok(struct session *s)
{
    s->n_errors = 0;
    session_reply(s, 250, "2.1.5", "Recipient ok");
}

static void run_rcpt(struct session *s, struct str arg)
{
    struct smtp_rcpt_args args;
    struct err e;
    if (!smtp_parse_rcpt(arg, &args, &e)) {
        syntax_reply(s, bad_envelope, &e);
        return;
    }
    if (mail_has_recipient(s->mail, &args.to)) { /* sent once; at the limit too, see below */
        recipient_ok(s);
        return;
    }
    if (s->mail->n_recipients >= s->server->cfg.max_recipients) { /* the app sends to it again */
        session_reply(s, 452, "4.5.3", "Too many recipients: at most %u in one mail",
                      s->server->cfg.max_recipients);
        return;
    }
    struct smtp_reply r = {0};
    s->server->ev.on_rcpt(s->server->arg, s->mail, &args.to, &r);
    if (r.code != 0) {
        session_reply_full(s, &r);
        return;
    }
    mail_add_recipient(s->mail, &args.to);
    session_move(s, ST_RCPT);
    recipient_ok(s);
}

static bool write_body(void *arg, struct str bytes)
{
    struct mail *m = arg;
    struct err e;
    if (spool_file_write(m->file, bytes, &e))
        return true;
    if (e.code == ERR_LIMIT)
        smtp_reply_set(&m->refusal, 452, "4.3.1", "No room for the mail: %s", e.msg);
    else
        smtp_reply_set(&m->refusal, 451, "4.3.0", "The mail cannot be stored: %s", e.msg);
    return false;
}

static void start_body(struct session *s)
{
    const struct smtp_server_config *cfg = &s->server->cfg;
    char date[40], received[600], message_id[320];
    mail_header_date(date, clock_wall_ms(s->server->clock));
    snprintf(received, sizeof received,
             "from %s (%s)\r\n\tby %.200s (svidmail) with %s id %s;\r\n\t%s", s->helo,
             s->is_local_socket ? "local socket" : "localhost", cfg->hostname,
             s->is_esmtp ? "ESMTP" : "SMTP", s->mail->id, date);
    snprintf(message_id, sizeof message_id, "<%s@%.200s>", s->mail->id, cfg->hostname);
    struct mail_body_config body = {.received = received,
                                    .id = s->mail->id,
                                    .date = date,
                                    .message_id = message_id,
                                    .allow_headers = cfg->allow_headers};
    s->mail->body = mail_body_new(&body, write_body, s->mail);
}

static void run_data(struct session *s, struct str arg)
{
    (void)arg;
    struct smtp_reply r = {0};
    s->mail->file = s->server->ev.on_data(s->server->arg, s->mail, &r);
    if (r.code != 0) {
        refused(s, s->mail, &r);
        session_end_tx(s, ST_READY);
        session_reply_full(s, &r);
        return;
    }
    start_body(s);
    session_move(s, ST_BODY);
    smtp_parser_expect_body(&s->parser);
    smtp_reply_set(&r, 354, "", "End data with <CR><LF>.<CR><LF>");
    session_reply_full(s, &r);
}

/* A mail that is refused is still read to its end: the reply belongs behind the final dot. */
static void header_refusal(struct mail *m, const struct err *e)
{
    if (m->refusal.code != 0)
        return;                                   /* the disk has spoken */
    static const struct str loop = {"5.4.6 ", 6}; /* mail_body names the one status that differs */
    if (e->code == ERR_LIMIT)
        smtp_reply_set(&m->refusal, 552, "5.3.4", "%s", e->msg);
    else if (str_starts_with(str_from(e->msg), loop))
        smtp_reply_set(&m->refusal, 554, "5.4.6", "%s", e->msg + loop.len);
    else
        smtp_reply_set(&m->refusal, 554, "5.6.0", "%s", e->msg);
}

void smtp_cmd_body(struct session *s, struct str bytes)
{
    struct mail *m = s->mail;
    uint64_t limit = s->server->cfg.max_message_bytes;
    m->received_bytes += bytes.len;
    if (m->refusal.code != 0)
        return;
    struct err e;
    if (m->received_bytes > limit)
        smtp_reply_set(&m->refusal, 552, "5.3.4", "Message too large: the limit is %llu bytes",
                       (unsigned long long)limit);
    else if (!mail_body_write(m->body, bytes, &e))
        header_refusal(m, &e);
}

static void judge_defect(struct mail *m, enum smtp_body_defect defect)
{
    if (m->refusal.code != 0)
        return;
    switch (defect) {
    case SMTP_BODY_OK:
        break;
    case SMTP_BODY_BARE_CR:
        smtp_reply_set(
            &m->refusal, 554, "5.6.11",
            "The mail holds a carriage return without a line feed: lines must end in CRLF");
        break;
    case SMTP_BODY_BARE_LF:
        smtp_reply_set(&m->refusal, 554, "5.6.11",
                       "The mail holds a bare line feed, and smtp.bare_newline is reject");
        break;
    case SMTP_BODY_NUL:
        smtp_reply_set(&m->refusal, 554, "5.6.0", "The mail holds a NUL byte");
        break;
    case SMTP_BODY_LONG_LINE:
        smtp_reply_set(&m->refusal, 554, "5.6.0",
                       "The mail holds a line of more than 998 bytes, which SES does not take");
        break;
    }
}

static void count_bare_newlines(const struct smtp_event *ev)
{
    if (ev->had_bare_lf)
        metric_add(M_SMTP_BARE_NEWLINES, METRIC_L("lf"), 1);
    if (ev->defect == SMTP_BODY_BARE_CR)
        metric_add(M_SMTP_BARE_NEWLINES, METRIC_L("cr"), 1);
}

static void finish_body(struct mail *m)
{
    struct err e;
    m->facts = xcalloc(1, sizeof *m->facts);
    if (m->refusal.code == 0 && !mail_body_end(m->body, m->facts, &e))
        header_refusal(m, &e);
    if (m->refusal.code == 0 && !spool_file_finish(m->file, &e))
        smtp_reply_set(&m->refusal, e.code == ERR_LIMIT ? 452 : 451,
                       e.code == ERR_LIMIT ? "4.3.1" : "4.3.0", "The mail cannot be stored: %s",
                       e.msg);
    mail_body_free(&m->body);
}

void smtp_cmd_body_end(struct session *s, const struct smtp_event *ev)
{
    struct mail *m = s->mail;
    m->dot_at_us = clock_mono_us();
    count_bare_newlines(ev);
    judge_defect(m, ev->defect);
    finish_body(m);
    if (m->refusal.code != 0) {
        struct smtp_reply r = m->refusal;
        refused(s, m, &r);
        session_end_tx(s, ST_READY);
        session_reply_full(s, &r);
        if (s->server->is_draining)
            session_drain(s);
        return;
    }
    s->mail = NULL;
    s->ticket = xcalloc(1, sizeof *s->ticket);
    s->ticket->session = s;
    session_move(s, ST_VERDICT);
    s->server->ev.on_message(s->server->arg, m, s->ticket);
}

static void run_rset(struct session *s, struct str arg)
{
    (void)arg;
    if (s->state != ST_GREET)
        session_end_tx(s, ST_READY);
    session_reply(s, 250, "2.0.0", "Ok");
}

static void run_noop(struct session *s, struct str arg)
{
    (void)arg;
    session_reply(s, 250, "2.0.0", "Ok");
}

static void run_vrfy(struct session *s, struct str arg)
{
    (void)arg;
    session_reply(s, 252, "2.5.2", "Send the mail and SES will tell");
}

static void run_help(struct session *s, struct str arg)
{
    (void)arg;
    session_reply(s, 214, "2.0.0",
                  "svidmail takes EHLO HELO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT and relays to "
                  "Amazon SES; "
                  "see svidmail(8), or ask: svidmail status");
}

static void run_quit(struct session *s, struct str arg)
{
    (void)arg;
    session_reply(s, 221, "2.0.0", "%s closing", s->server->name);
    session_finish(s);
}

static void run_http(struct session *s, struct str arg)
{
    (void)arg;
    session_reply(s, 421, "4.7.0", "%s speaks SMTP, not HTTP", s->server->name);
    session_finish(s);
}

static void ask_auth_line(struct session *s, struct str challenge)
{
    smtp_parser_expect_auth_line(&s->parser);
    session_raw(s, challenge, 334);
}

/* Apps insist on user and password fields: whatever comes is accepted, decoration only (RFC 4954).
 */
static void run_auth(struct session *s, struct str arg)
{
    if (!s->server->cfg.accepts_any_auth) {
        bad_command(s, 502, "5.5.1", "AUTH is not needed here; smtp.auth: accept-any offers it");
        return;
    }
    bool is_login = str_starts_with_nocase(arg, STR("LOGIN"));
    if (!is_login && !str_starts_with_nocase(arg, STR("PLAIN"))) {
        bad_command(s, 504, "5.5.4", "Mechanisms: PLAIN, LOGIN");
        return;
    }
    bool has_initial = str_index(arg, ' ') < arg.len;
    s->auth_lines_left = (is_login ? 2u : 1u) - (has_initial ? 1u : 0u);
    if (s->auth_lines_left == 0) {
        session_reply(s, 235, "2.7.0", "Ok");
        return;
    }
    session_move(s, ST_AUTH);
    ask_auth_line(s, is_login
                         ? (has_initial ? STR("334 UGFzc3dvcmQ6\r\n") : STR("334 VXNlcm5hbWU6\r\n"))
                         : STR("334 \r\n"));
}

void smtp_cmd_auth_line(struct session *s, struct str line)
{
    if (str_eq(str_trim(line), STR("*"))) {
        session_move(s, ST_READY);
        session_reply(s, 501, "5.7.0", "Cancelled");
    } else if (--s->auth_lines_left == 0) {
        session_move(s, ST_READY);
        session_reply(s, 235, "2.7.0", "Ok");
    } else {
        ask_auth_line(s, STR("334 UGFzc3dvcmQ6\r\n"));
    }
}

static void run_not_implemented(struct session *s, struct str arg)
{
    (void)arg;
    bad_command(s, 502, "5.5.1", "Not implemented");
}

static void run_unknown(struct session *s, struct str arg)
{
    (void)arg;
    bad_command(s, 500, "5.5.2", "Unknown command");
}

void smtp_cmd_line_too_long(struct session *s, const struct smtp_event *ev)
{
    if (s->state == ST_AUTH) { /* RFC 4954 6; the exchange is over */
        session_move(s, ST_READY);
        bad_command(s, 500, "5.5.6", "Authentication exchange line too long");
    } else if (ev->verb == SMTP_HTTP) {
        run_http(s, ev->arg);
    } else {
        bad_command(s, 500, "5.5.2", "Line too long");
    }
}

// clang-format off
static const struct {
    uint32_t legal_in;
    void (*run)(struct session *s, struct str arg); /* may end the session */
    const char *out_of_order;                       /* 503 text in every other state */
} cmds[SMTP_VERB_COUNT] = {
    [SMTP_EHLO]     = { IN_ANY,                         run_ehlo, "" },
    [SMTP_HELO]     = { IN_ANY,                         run_helo, "" },
    [SMTP_MAIL]     = { IN(ST_READY),                   run_mail, "EHLO first, and one mail at a time" },
    [SMTP_RCPT]     = { IN_ENV,                         run_rcpt, "MAIL first" },
    [SMTP_DATA]     = { IN(ST_RCPT),                    run_data, "No valid recipient: RCPT first" },
    [SMTP_RSET]     = { IN_ANY,                         run_rset, "" },
    [SMTP_NOOP]     = { IN_ANY,                         run_noop, "" },
    [SMTP_VRFY]     = { IN_ANY,                         run_vrfy, "" },
    [SMTP_HELP]     = { IN_ANY,                         run_help, "" },
    [SMTP_QUIT]     = { IN_ANY,                         run_quit, "" },
    [SMTP_AUTH]     = { IN(ST_READY),                   run_auth, "AUTH comes after EHLO and outside of a mail" },
    [SMTP_STARTTLS] = { IN_ANY,                         run_not_implemented, "" },
    [SMTP_EXPN]     = { IN_ANY,                         run_not_implemented, "" },
    [SMTP_BDAT]     = { IN_ANY,                         run_not_implemented, "" },
    [SMTP_ETRN]     = { IN_ANY,                         run_not_implemented, "" },
    [SMTP_HTTP]     = { IN_ANY,                         run_http, "" },
    [SMTP_UNKNOWN]  = { IN_ANY,                         run_unknown, "" },
};
// clang-format on

void smtp_cmd_run(struct session *s, const struct smtp_event *ev)
{
    if ((cmds[ev->verb].legal_in & IN(s->state)) == 0) {
        bool is_envelope = ev->verb == SMTP_RCPT || ev->verb == SMTP_DATA;
        answer_fn *answer = is_envelope ? bad_envelope : bad_command;
        answer(s, 503, "5.5.1", cmds[ev->verb].out_of_order);
        return;
    }
    cmds[ev->verb].run(s, ev->arg);
}
