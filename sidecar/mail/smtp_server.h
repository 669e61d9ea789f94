// SPDX-License-Identifier: Apache-2.0
/* smtp_server: the door for the app: SMTP on loopback and unix sockets.  Listeners, limits,
 * sessions. It knows the protocol; what is done with a mail is told by the owner through struct
 * smtp_events. Layer: mail.  Thread: loop.  Sources: RFC 5321, 1870 (SIZE), 2034 (codes), 2920
 * (PIPELINING), 6152 (8BITMIME), 4954 (AUTH). */
#ifndef SVIDMAIL_MAIL_SMTP_SERVER_H
#define SVIDMAIL_MAIL_SMTP_SERVER_H
#include "core/listen_address.h"
#include "core/smtp_reply.h"
#include "mail/mail.h"
#include "sys/clock.h"

#include <uv.h>

struct smtp_server_config {
    const char *hostname; /* for Received and Message-ID; for replies, if no client could read an
                             SMTP keyword in it */
    const struct listen_address *listen; /* borrowed while smtp_server_new() runs */
    size_t n_listen;
    uint64_t max_message_bytes;
    unsigned max_recipients; /* the next one gets 452 4.5.3 */
    unsigned
        max_connections; /* the next one gets 421 4.3.2, or nothing while as many are leaving */
    uint64_t idle_timeout_ms;
    bool refuse_bare_lf;              /* else normalised to CRLF */
    bool accepts_any_auth;            /* AUTH PLAIN and LOGIN are offered and accept everything */
    const char *const *allow_headers; /* X-SES-* let through, NULL-terminated */
};

struct smtp_ticket; /* the app's place in the line while its mail's verdict is awaited */

struct smtp_events {
    /* May the transaction go on?  A refusal is a reply with code != 0; leave it at 0 to accept. */
    void (*on_mail)(void *arg, const struct mail *m, struct smtp_reply *refusal);
    void (*on_rcpt)(void *arg, const struct mail *m, const struct mail_path *to,
                    struct smtp_reply *refusal);
    /* A place for the body.  NULL: refused. */
    struct spool_file *(*on_data)(void *arg, const struct mail *m, struct smtp_reply *refusal);
    /* The whole mail is in m->file.  Takes m.  Answer exactly once with smtp_server_reply(t). */
    void (*on_message)(void *arg, struct mail *m, struct smtp_ticket *t);
    /* A mail was refused before on_message: for the log.  m is borrowed. */
    void (*on_refused)(void *arg, const struct mail *m, const struct smtp_reply *r);
};

struct smtp_server;
/* Opens every listener.  One that the machine cannot have (no IPv6) is logged and left out as long
 * as another is open.  ERR_UNAVAIL: an address is in use, or none could be opened. */
NODISCARD bool smtp_server_new(uv_loop_t *loop, const struct smtp_server_config *cfg,
                               const struct smtp_events *ev, void *arg, const struct clock *clock,
                               struct smtp_server **out, struct err *e);
/* The verdict for the mail of this ticket, which is gone afterwards.  false: the app had left
 * meanwhile, or had shut its sending side, as far as can be known; who still reads is answered. */
bool smtp_server_reply(struct smtp_ticket **t, const struct smtp_reply *r);

/* No new connections; sessions get 421, but for those whose body is coming in or whose verdict is
 * awaited: they get it behind the reply to their mail.  Within close_within_ms every session that
 * is ending has gone, read or unread; the others are for smtp_server_close(). */
void smtp_server_drain(struct smtp_server *s, uint64_t close_within_ms);
/* What is still there is cut, or gets 421 if it was drained before; cb runs once when everything is
 * closed and s is freed.  Tickets still out stay valid (smtp_server_reply() then says false). */
void smtp_server_close(struct smtp_server *s, void (*cb)(void *arg), void *arg);
/* Those that are on their way out included: 0 when nobody is owed a word any more. */
unsigned smtp_server_n_sessions(const struct smtp_server *s);
/* Those that count for max_connections. */
unsigned smtp_server_n_serving(const struct smtp_server *s);
/* Addresses really open, as text, NULL-terminated, borrowed ("127.0.0.1:2525"). */
const char *const *smtp_server_listeners(const struct smtp_server *s);

#endif
