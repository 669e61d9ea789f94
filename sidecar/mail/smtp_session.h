// SPDX-License-Identifier: Apache-2.0
/* smtp_session: one connection of the app (private to smtp_server, smtp_session and smtp_cmd).
 *
 * Happy path: GREET -EHLO-> READY -MAIL-> MAIL -RCPT-> RCPT -DATA-> BODY -final dot-> VERDICT
 * -reply-> READY. Failures: a refusal during BODY is kept in the mail and told after the final dot;
 * a client that leaves frees its mail unless the verdict is awaited: then the mail lives on at its
 * taker, and the ticket finds nobody. Layer: mail.  Thread: loop. */
#ifndef SVIDMAIL_MAIL_SMTP_SESSION_H
#define SVIDMAIL_MAIL_SMTP_SESSION_H
#include "base/buf.h"
#include "base/list.h"
#include "core/smtp_parser.h"
#include "mail/smtp_server.h"
#include "sys/stream.h"
#include "sys/timer.h"

enum session_state {
    ST_GREET, /* before (HE)EHLO */
    ST_READY,
    ST_AUTH, /* a line of an AUTH exchange is awaited */
    ST_MAIL,
    ST_RCPT,
    ST_BODY,
    ST_VERDICT, /* the mail is handed over, the app waits */
    ST_CLOSING,
    ST_COUNT
};

struct smtp_ticket {
    struct session *session; /* NULL: the app has left */
};

struct session {
    struct smtp_server *server;
    struct list link;
    struct stream *stream;
    struct timer *idle;
    enum session_state state, left; /* left: the state before the current one */
    char id[12];
    char helo[128]; /* safe characters only */
    bool is_esmtp;
    bool is_local_socket;
    unsigned n_errors;          /* bad commands since a MAIL or RCPT went well */
    unsigned n_pardons;         /* bad RCPT and DATA of this mail that still go uncounted */
    unsigned auth_lines_left;   /* ST_AUTH */
    struct mail *mail;          /* exactly in MAIL, RCPT, BODY */
    struct smtp_ticket *ticket; /* exactly in VERDICT */
    struct smtp_parser parser;
    struct buf in;  /* unparsed bytes that came while the app has to wait */
    struct buf out; /* replies of one batch */
};

struct smtp_server {
    struct smtp_server_config cfg;
    const char *name; /* in replies */
    struct smtp_events ev;
    void *arg;
    uv_loop_t *loop;
    const struct clock *clock;
    struct list sessions;
    unsigned n_sessions, n_listeners, n_open_handles;
    unsigned n_serving; /* sessions that are not in CLOSING */
    bool is_draining, is_closing;
    uint64_t close_by_ms; /* monotonic; while draining */
    uint64_t n_accepted;
    struct listener *listeners;
    char **listener_names;
    void (*on_closed)(void *arg);
    void *on_closed_arg;
};

/* Takes the pending connection of listener. */
void session_start(struct smtp_server *server, uv_stream_t *listener, bool is_local_socket);
/* 421 and gone, unless a body is coming in or a verdict awaited: then behind the reply to that. */
void session_drain(struct session *s);
/* 421 and gone. */
void session_dismiss(struct session *s);
/* Cut now. */
void session_cut(struct session *s);
/* After the last session or listener is gone. */
void smtp_server_maybe_closed(struct smtp_server *server);

/* For the handlers in smtp_cmd.c */
void session_move(struct session *s, enum session_state to);
void session_end_tx(struct session *s, enum session_state to);
void session_reply(struct session *s, int code, const char *enhanced, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
void session_reply_full(struct session *s, const struct smtp_reply *r);
void session_raw(struct session *s, struct str bytes, int code);
/* Send what is queued and close. */
void session_finish(struct session *s);

/* smtp_cmd.c: looks the verb up in the table and runs it. */
void smtp_cmd_run(struct session *s, const struct smtp_event *ev);
/* A line that was dropped because of its length. */
void smtp_cmd_line_too_long(struct session *s, const struct smtp_event *ev);
/* A line of an AUTH exchange. */
void smtp_cmd_auth_line(struct session *s, struct str line);
/* Body bytes and the final dot. */
void smtp_cmd_body(struct session *s, struct str bytes);
void smtp_cmd_body_end(struct session *s, const struct smtp_event *ev);

#endif
