// SPDX-License-Identifier: Apache-2.0
/* route: a way to SES.  One vtable so that the relay does not know which.  Layer: mail.  Thread:
 * loop. */
#ifndef SVIDMAIL_MAIL_ROUTE_H
#define SVIDMAIL_MAIL_ROUTE_H
#include "core/mail_address.h"
#include "core/smtp_reply.h"

enum route_outcome { ROUTE_DELIVERED, ROUTE_RETRY, ROUTE_REJECTED, ROUTE_UNKNOWN };
const char *route_outcome_name(enum route_outcome o);

struct route_mail {
    int fd; /* canonical bytes, pread only */
    uint64_t len;
    const struct mail_path *recipients; /* one group; borrowed until done */
    size_t n_recipients;
};

struct route_result {
    enum route_outcome outcome;
    struct smtp_reply reply;
    const char *error;                             /* class for metrics; "" when delivered */
    const char *message_id, *request_id, *peer_id; /* borrowed for the callback, "" if none */
    bool is_operator_fault;                        /* the set-up is wrong, not the mail */
    bool is_new_connection;
    uint64_t credentials_us, connect_us, sent_us, total_us;
};
typedef void (*route_cb)(void *arg, const struct route_result *r);

struct route {
    const char *name;
    void *self;
    size_t max_recipients;
    void *(*send)(void *self, const struct route_mail *m, route_cb cb,
                  void *arg); /* a call to cancel */
    /* cb will not run.  What it was waiting for; NULL: the mail may have left in full. */
    const char *(*cancel)(void *self, void *call);
};

#endif
