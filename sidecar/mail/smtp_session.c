// SPDX-License-Identifier: Apache-2.0
#include "mail/smtp_session.h"
#include "base/mem.h"
#include "sys/log.h"
#include "sys/metrics.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OUT_MAX    (64u << 10)
#define IN_MAX     (128u << 10) /* twice what one read can bring */
#define FLUSH_MS   2000
#define REPLY_ROOM 2048u /* more than any command is answered by */

#define IN(s) (1u << (s))
#define IN_TX (IN(ST_MAIL) | IN(ST_RCPT) | IN(ST_BODY))

// clang-format off
static const struct { const char *name; uint32_t next; } states[ST_COUNT] = {
    [ST_GREET]   = { "greet",   IN(ST_READY) | IN(ST_CLOSING) },
    [ST_READY]   = { "ready",   IN(ST_READY) | IN(ST_AUTH) | IN(ST_MAIL) | IN(ST_CLOSING) },
    [ST_AUTH]    = { "auth",    IN(ST_READY) | IN(ST_CLOSING) },
    [ST_MAIL]    = { "mail",    IN(ST_RCPT) | IN(ST_READY) | IN(ST_CLOSING) },
    [ST_RCPT]    = { "rcpt",    IN(ST_RCPT) | IN(ST_BODY) | IN(ST_READY) | IN(ST_CLOSING) },
    [ST_BODY]    = { "body",    IN(ST_VERDICT) | IN(ST_READY) | IN(ST_CLOSING) },
    [ST_VERDICT] = { "verdict", IN(ST_READY) | IN(ST_CLOSING) },
    [ST_CLOSING] = { "closing", 0 },
};
// clang-format on

static void set_serving(struct smtp_server *server, unsigned n)
{
    server->n_serving = n;
    metric_set(M_SMTP_SESSIONS, METRIC_NONE, n);
}

void session_move(struct session *s, enum session_state to) /* the only writer of s->state */
{
    CHECK(states[s->state].next & IN(to));
    s->left = s->state;
    s->state = to;
    if (to == ST_CLOSING) /* its place is free, however long its client takes to close */
        set_serving(s->server, s->server->n_serving - 1);
    CHECK((s->mail != NULL) == ((IN(to) & IN_TX) != 0)); /* nothing of a mail outlives it */
    CHECK((s->ticket != NULL) == (to == ST_VERDICT));
}

void session_end_tx(struct session *s,
                    enum session_state to) /* every end of a mail the session still owns */
{
    mail_free(&s->mail);
    session_move(s, to);
}

static void count_reply(int code)
{
    char text[16];
    snprintf(text, sizeof text, "%d", code);
    metric_add(M_SMTP_REPLY, METRIC_L(text), 1);
}

void session_raw(struct session *s, struct str bytes, int code)
{
    count_reply(code);
    if (!buf_append_str(&s->out, bytes))
        session_cut(s); /* it sends commands and reads no answers */
}

void session_reply_full(struct session *s, const struct smtp_reply *r)
{
    count_reply(r->code);
    if (!smtp_reply_write(r, &s->out))
        session_cut(s);
}

void session_reply(struct session *s, int code, const char *enhanced, const char *fmt, ...)
{
    char text[SMTP_REPLY_TEXT_MAX + 1];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    struct smtp_reply r;
    smtp_reply_set(&r, code, enhanced, "%s", text);
    session_reply_full(s, &r);
}

static void forget(struct session *s) /* the stream is closed or closing by itself */
{
    struct smtp_server *server = s->server;
    LOG(EV_SMTP_SESSION_CLOSED, F_STR("session", s->id), F_STR("state", states[s->left].name));
    if (s->ticket != NULL)
        s->ticket->session = NULL;
    mail_free(&s->mail);
    timer_free(&s->idle);
    list_remove(&s->link);
    server->n_sessions--;
    buf_release(&s->in);
    buf_release(&s->out);
    free(s);
    smtp_server_maybe_closed(server);
}

static void on_closed(void *arg)
{
    struct session *s = arg;
    forget(s);
}

/* It went away, said QUIT, was idle, or we stop: an operator who looks for the mail finds it here.
 */
static void tell_aborted(const struct session *s)
{
    metric_add(M_SMTP_TRANSACTIONS, METRIC_L("aborted"), 1);
    LOG(EV_SMTP_TX_ABORTED, F_STR("mail", s->mail->id), F_STR("session", s->id),
        F_STR("state", states[s->state].name), F_S("from_domain", mail_path_domain(&s->mail->from)),
        F_INT("recipients", s->mail->n_recipients), F_INT("bytes", s->mail->received_bytes));
}

static void leave_tx(struct session *s)
{
    if (s->mail != NULL)
        tell_aborted(s);
    mail_free(&s->mail);
    if (s->ticket != NULL)
        s->ticket->session = NULL;
    s->ticket = NULL;
    timer_stop(s->idle);
    session_move(s, ST_CLOSING);
}

void session_cut(struct session *s)
{
    if (s->state == ST_CLOSING)
        return;
    leave_tx(s);
    stream_close(&s->stream);
}

/* An app that neither reads nor closes must not outlast the grace of a SIGTERM. */
static uint64_t flush_ms(const struct smtp_server *server)
{
    uint64_t now_ms = clock_mono_ms(server->clock);
    if (!server->is_draining)
        return FLUSH_MS;
    uint64_t left_ms = server->close_by_ms > now_ms ? server->close_by_ms - now_ms : 0;
    return left_ms < FLUSH_MS ? left_ms : FLUSH_MS;
}

void session_finish(struct session *s)
{
    if (s->state == ST_CLOSING)
        return;
    leave_tx(s);
    if (s->out.len > 0 && !stream_write(s->stream, buf_str(&s->out)))
        buf_clear(&s->out); /* it reads nothing anyway */
    stream_close_after_flush(&s->stream, flush_ms(s->server));
}

void session_dismiss(struct session *s)
{
    if (s->state == ST_CLOSING)
        return;
    session_reply(s, 421, "4.3.2", "%s svidmail is stopping, try again soon", s->server->name);
    session_finish(s);
}

void session_drain(struct session *s)
{
    if (s->state != ST_BODY && s->state != ST_VERDICT)
        session_dismiss(s);
}

static void flush(struct session *s)
{
    if (s->state == ST_CLOSING || s->out.len == 0)
        return;
    if (stream_write(s->stream, buf_str(&s->out)))
        buf_clear(&s->out);
    else
        stream_read_stop(s->stream); /* no more commands until the answers are read; see on_drain */
}

static void run_event(struct session *s, const struct smtp_event *ev)
{
    switch (ev->kind) {
    case SMTP_EV_NONE:
        break;
    case SMTP_EV_COMMAND:
        smtp_cmd_run(s, ev);
        break;
    case SMTP_EV_AUTH_LINE:
        smtp_cmd_auth_line(s, ev->arg);
        break;
    case SMTP_EV_LINE_TOO_LONG:
        smtp_cmd_line_too_long(s, ev);
        break;
    case SMTP_EV_BODY:
        smtp_cmd_body(s, ev->body);
        break;
    case SMTP_EV_BODY_END:
        smtp_cmd_body_end(s, ev);
        break;
    }
}

/* No room for the replies to one more command: the app does not read as fast as it writes. */
static bool is_full(struct session *s)
{
    if (buf_room(&s->out) < REPLY_ROOM)
        flush(s);
    return buf_room(&s->out) < REPLY_ROOM;
}

/* Feed bytes to the parser until they are used up, or the app has to wait for a verdict or to read
 * its replies. */
static void feed(struct session *s, struct str *bytes)
{
    while (s->state != ST_CLOSING && s->state != ST_VERDICT && !is_full(s)) {
        struct smtp_event ev = smtp_parser_next(&s->parser, bytes);
        if (ev.kind == SMTP_EV_NONE)
            break;
        run_event(s, &ev);
    }
}

static void on_read(void *arg, struct str bytes)
{
    struct session *s = arg;
    timer_start(s->idle, s->server->cfg.idle_timeout_ms);
    feed(s, &bytes);
    flush(s);
    if (s->state == ST_VERDICT || (s->state != ST_CLOSING && bytes.len > 0)) {
        stream_read_stop(s->stream);
        if (!buf_append_str(&s->in, bytes)) /* pipelined */
            session_cut(s);
    }
}

/* After a verdict, or replies that were read at last: what was pipelined, then the socket again. */
static void resume(struct session *s)
{
    struct str left = buf_str(&s->in);
    size_t before = left.len;
    feed(s, &left);
    if (s->state == ST_CLOSING)
        return;
    buf_consume(&s->in, before - left.len);
    flush(s);
    if (s->state != ST_VERDICT && s->state != ST_CLOSING && s->out.len == 0 && s->in.len == 0)
        stream_read_start(s->stream);
}

static void on_drain(void *arg)
{
    struct session *s = arg;
    flush(s);
    if (s->out.len == 0 && s->state != ST_VERDICT && s->state != ST_CLOSING)
        resume(s);
}

static void on_end(void *arg, const struct err *e)
{
    (void)e;
    session_cut(arg);
}

static void on_idle(void *arg)
{
    struct session *s = arg;
    if (s->state == ST_VERDICT) { /* the relay has its own limit */
        timer_start(s->idle, s->server->cfg.idle_timeout_ms);
        return;
    }
    session_reply(s, 421, "4.4.2", "%s idle for too long, closing", s->server->name);
    session_finish(s);
}

bool smtp_server_reply(struct smtp_ticket **pt, const struct smtp_reply *r)
{
    struct smtp_ticket *t = *pt;
    struct session *s = t->session;
    *pt = NULL;
    free(t);
    if (s == NULL) {
        count_reply(r->code);
        return false;
    }
    s->ticket = NULL;
    bool has_left = stream_has_peer_ended(s->stream);
    session_move(s, ST_READY);
    session_reply_full(s, r);
    timer_start(s->idle, s->server->cfg.idle_timeout_ms);
    if (s->server->is_draining)
        session_drain(s);
    else
        resume(s);
    return !has_left;
}

/* Told so, and given time to read it, unless too many others are still reading theirs. */
static void refuse(struct session *s)
{
    const struct smtp_server *server = s->server;
    LOG(EV_SMTP_SESSION_REFUSED, F_INT("sessions", server->n_serving - 1));
    if (server->n_sessions > 2 * server->cfg.max_connections) {
        session_cut(s);
        return;
    }
    session_reply(s, 421, "4.3.2", "%s too many connections, try again soon", server->name);
    session_finish(s);
}

void session_start(struct smtp_server *server, uv_stream_t *listener, bool is_local_socket)
{
    static const struct stream_events events = {
        .on_read = on_read, .on_end = on_end, .on_drain = on_drain, .on_closed = on_closed};
    struct session *s = xcalloc(1, sizeof *s);
    struct err e;
    if (!stream_accept(listener, &events, s, (struct stream_limits){OUT_MAX}, &s->stream, &e)) {
        free(s); /* out of descriptors or already gone: nobody to answer */
        return;
    }
    s->server = server;
    s->is_local_socket = is_local_socket;
    snprintf(s->id, sizeof s->id, "s%llx",
             (unsigned long long)++server->n_accepted & 0xffffffffffull);
    buf_init(&s->in, IN_MAX);
    buf_init(&s->out, OUT_MAX);
    smtp_parser_init(&s->parser, server->cfg.refuse_bare_lf);
    s->idle = timer_new(server->loop, on_idle, s);
    list_push_back(&server->sessions, &s->link);
    server->n_sessions++;
    set_serving(server, server->n_serving + 1);
    LOG(EV_SMTP_SESSION_OPENED, F_STR("session", s->id));
    if (server->n_serving > server->cfg.max_connections || server->is_draining) {
        refuse(s);
        return;
    }
    struct smtp_reply hello;
    smtp_reply_set(&hello, 220, "", "%s svidmail ESMTP", server->name);
    session_reply_full(s, &hello);
    flush(s);
    timer_start(s->idle, server->cfg.idle_timeout_ms);
    stream_read_start(s->stream);
}
