// SPDX-License-Identifier: Apache-2.0
/* However a session is cut, the same events come out; a mail ends at the first CRLF.CRLF and
 * nowhere else; body bytes hold neither NUL nor a CR or LF of its own.  First byte: how it is cut,
 * and whether a bare LF is refused. */
#include "base/buf.h"
#include "core/smtp_parser.h"

#include <string.h>

#define OUT_MAX (16u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct session {
    struct smtp_parser parser;
    struct buf log;    /* all events, neighbouring body bytes joined */
    char last;         /* body byte before the next */
    const char *start; /* of the body in the input; only when fed whole */
};

static void check_arguments(const struct smtp_event *ev)
{
    struct smtp_mail_args mail;
    struct smtp_rcpt_args rcpt;
    struct err e = {0};
    if (!smtp_parse_mail(ev->arg, &mail, &e))
        CHECK(e.code == ERR_SYNTAX || e.code == ERR_DENIED || e.code == ERR_LIMIT);
    if (!smtp_parse_rcpt(ev->arg, &rcpt, &e))
        CHECK(e.code == ERR_SYNTAX || e.code == ERR_DENIED || e.code == ERR_LIMIT);
    for (const char *z = e.msg; *z != '\0'; z++)
        CHECK(*z >= ' ' && *z <= '~');
}

static void check_body(struct session *s, struct str body)
{
    CHECK(body.len > 0);
    for (size_t i = 0; i < body.len; i++) {
        CHECK(body.p[i] != '\0');
        CHECK((s->last == '\r') == (body.p[i] == '\n'));
        s->last = body.p[i];
    }
}

/* at: behind the end of the mail. */
static void check_end(struct session *s, const struct smtp_event *ev, const char *at)
{
    CHECK(ev->defect != SMTP_BODY_OK || s->last == '\n' || s->last == '\0');
    if (s->start == NULL)
        return;
    struct str body = {s->start, (size_t)(at - s->start)};
    const char *end = memmem(body.p, body.len, "\r\n.\r\n", 5);
    if (str_starts_with(body, STR(".\r\n")))
        CHECK(body.len == 3);
    else
        CHECK(end != NULL && end + 5 == at);
}

static void take_event(struct session *s, const struct smtp_event *ev, const char *at,
                       bool is_whole)
{
    if (ev->kind == SMTP_EV_BODY) {
        check_body(s, ev->body);
        CHECK(buf_append_str(&s->log, ev->body));
        return;
    }
    CHECK(buf_printf(&s->log, "\n%d %d %d %d ", (int)ev->kind, (int)ev->verb, (int)ev->defect,
                     ev->had_bare_lf));
    CHECK(buf_append_str(&s->log, ev->arg));
    if (ev->kind == SMTP_EV_BODY_END)
        check_end(s, ev, at);
    if (ev->kind == SMTP_EV_AUTH_LINE)
        CHECK(ev->arg.len <= SMTP_LINE_MAX && str_index(ev->arg, '\n') == ev->arg.len);
    if (ev->kind != SMTP_EV_COMMAND)
        return;
    CHECK(ev->arg.len <= SMTP_LINE_MAX && str_index(ev->arg, '\n') == ev->arg.len);
    CHECK(ev->verb >= SMTP_HTTP || str_index(ev->arg, '\r') == ev->arg.len);
    check_arguments(ev);
    if (ev->verb == SMTP_DATA) {
        smtp_parser_expect_body(&s->parser);
        s->start = is_whole ? at : NULL;
        s->last = '\0';
    }
    if (ev->verb == SMTP_AUTH)
        smtp_parser_expect_auth_line(&s->parser);
}

static void run(struct str in, bool refuse_bare_lf, size_t step, struct session *s)
{
    *s = (struct session){.last = '\0'};
    smtp_parser_init(&s->parser, refuse_bare_lf);
    buf_init(&s->log, OUT_MAX);
    for (size_t at = 0; at < in.len; at += step) {
        struct str piece = str_sub(in, at, step);
        for (;;) {
            struct smtp_event ev = smtp_parser_next(&s->parser, &piece);
            if (ev.kind == SMTP_EV_NONE)
                break;
            take_event(s, &ev, piece.p, step > in.len);
        }
        CHECK(piece.len == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (len == 0)
        return 0;
    struct str in = {(const char *)data + 1, len - 1};
    struct session whole, pieces;
    run(in, (data[0] & 1) != 0, in.len + 1, &whole);
    run(in, (data[0] & 1) != 0, 1 + (data[0] >> 1) % 32u, &pieces);
    CHECK(str_eq(buf_str(&whole.log), buf_str(&pieces.log)));
    buf_release(&whole.log);
    buf_release(&pieces.log);
    return 0;
}
