// SPDX-License-Identifier: Apache-2.0
/* smtp_dialogue: a blocking SMTP client for people to watch: every line said and heard is printed.
 * For the subcommands that mail through a running svidmail; the daemon itself never blocks.  Layer:
 * app. */
#ifndef SVIDMAIL_APP_SMTP_DIALOGUE_H
#define SVIDMAIL_APP_SMTP_DIALOGUE_H
#include "base/buf.h"
#include "base/err.h"

#define SMTP_DIALOGUE_TIMEOUT_MS 60000 /* a verdict takes 30 s at most */
#define SMTP_DIALOGUE_LINE_MAX   4096
#define SMTP_DIALOGUE_LINES_MAX  64

struct smtp_dialogue {
    int fd;
    struct buf in;
    int code;                               /* of the last reply */
    char reply[SMTP_DIALOGUE_LINE_MAX + 1]; /* its last line */
    bool has_sent_body;
    bool is_broken; /* no use to say QUIT */
};

/* address: IP:PORT or unix:/PATH.  To be closed whatever it returns. */
NODISCARD bool smtp_dialogue_open(struct smtp_dialogue *d, const char *address, struct err *e);
NODISCARD bool smtp_dialogue_greet(struct smtp_dialogue *d, struct err *e);
/* One command, without its end of line, and its reply.  ERR_DENIED: another code than wanted. */
NODISCARD bool smtp_dialogue_say(struct smtp_dialogue *d, const char *line, int wanted,
                                 struct err *e);
/* After 354: the mail with every line ended by CRLF and its dots stuffed, the final dot, the
 * verdict (250). */
NODISCARD bool smtp_dialogue_send_body(struct smtp_dialogue *d, struct str mail, struct err *e);
/* Says QUIT if it still can. */
void smtp_dialogue_close(struct smtp_dialogue *d);

#endif
