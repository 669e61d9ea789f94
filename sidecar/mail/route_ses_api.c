// SPDX-License-Identifier: Apache-2.0
#include "mail/route_ses_api.h"
#include "base/mem.h"

#include <stdlib.h>

struct send_call {
    struct ses_call *ses;
    route_cb cb;
    void *arg;
};

static const enum route_outcome outcomes[] = {[SES_DELIVERED] = ROUTE_DELIVERED,
                                              [SES_RETRY] = ROUTE_RETRY,
                                              [SES_REJECTED] = ROUTE_REJECTED,
                                              [SES_UNKNOWN] = ROUTE_UNKNOWN};

static void on_verdict(void *arg, const struct ses_verdict *v)
{
    struct send_call *call = arg;
    struct route_result r = {.outcome = outcomes[v->outcome],
                             .reply = v->reply,
                             .error = v->error,
                             .message_id = v->message_id,
                             .request_id = v->request_id,
                             .peer_id = v->peer_id,
                             .is_operator_fault = v->is_operator_fault,
                             .is_new_connection = v->is_new_connection,
                             .credentials_us = v->credentials_us,
                             .connect_us = v->connect_us,
                             .sent_us = v->sent_us,
                             .total_us = v->total_us};
    route_cb cb = call->cb;
    void *cb_arg = call->arg;
    free(call);
    cb(cb_arg, &r);
}

static void *send_mail(void *self, const struct route_mail *m, route_cb cb, void *arg)
{
    struct send_call *call = xcalloc(1, sizeof *call);
    call->cb = cb;
    call->arg = arg;
    struct ses_mail mail = {
        .fd = m->fd, .len = m->len, .recipients = m->recipients, .n_recipients = m->n_recipients};
    call->ses = ses_send(self, &mail, on_verdict, call);
    return call;
}

static const char *cancel_mail(void *self, void *arg)
{
    (void)self;
    struct send_call *call = arg;
    const char *waited_for = ses_cancel(&call->ses);
    free(call);
    return waited_for;
}

struct route route_ses_api(struct ses *ses)
{
    return (struct route){.name = "ses-api",
                          .self = ses,
                          .max_recipients = SES_RECIPIENTS_MAX,
                          .send = send_mail,
                          .cancel = cancel_mail};
}
