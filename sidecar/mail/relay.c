// SPDX-License-Identifier: Apache-2.0
#include "mail/relay.h"
#include "base/list.h"
#include "sys/log.h"
#include "sys/metrics.h"
#include "sys/timer.h"

#include <stdlib.h>

struct relay {
    uv_loop_t *loop;
    struct relay_config cfg;
    struct route route;
    struct list attempts;
    unsigned n_in_flight;
};

struct attempt {
    struct relay *relay;
    struct list link;
    struct mail *mail;
    struct timer *limit;
    void *call; /* of the route */
    relay_done_cb cb;
    void *arg;
};

static const char *const outcome_names[] = {[ROUTE_DELIVERED] = "delivered",
                                            [ROUTE_RETRY] = "retry",
                                            [ROUTE_REJECTED] = "rejected",
                                            [ROUTE_UNKNOWN] = "unknown"};

const char *route_outcome_name(enum route_outcome o)
{
    return outcome_names[o];
}

struct relay *relay_new(uv_loop_t *loop, const struct relay_config *cfg, struct route route)
{
    struct relay *r = xcalloc(1, sizeof *r);
    r->loop = loop;
    r->cfg = *cfg;
    r->route = route;
    list_init(&r->attempts);
    return r;
}

void relay_free(struct relay **r)
{
    if (*r == NULL)
        return;
    CHECK((*r)->n_in_flight == 0);
    free(*r);
    *r = NULL;
}

static void count(const struct attempt *a, const struct route_result *res)
{
    const char *route = a->relay->route.name;
    metric_add(M_ATTEMPTS, METRIC_L(route, route_outcome_name(res->outcome), res->error), 1);
    LOG(EV_RELAY_ATTEMPT, F_STR("mail", a->mail->id), F_STR("route", route),
        F_STR("outcome", route_outcome_name(res->outcome)), F_STR("class", res->error),
        F_INT("total_us", res->total_us));
    if (res->outcome != ROUTE_UNKNOWN)
        return;
    metric_add(M_AMBIGUOUS, METRIC_NONE, 1);
    LOG(EV_RELAY_UNKNOWN, F_STR("mail", a->mail->id), F_STR("class", res->error),
        F_STR("error", res->reply.text));
}

/* The only end of an attempt. */
static void finish(struct attempt *a, const struct route_result *res)
{
    count(a, res);
    timer_free(&a->limit);
    list_remove(&a->link);
    a->relay->n_in_flight--;
    a->cb(a->arg, a->mail, res);
    mail_free(&a->mail);
    free(a);
}

static void on_result(void *arg, const struct route_result *res)
{
    finish(arg, res);
}

static void give_up(struct attempt *a, const char *why)
{
    struct route_result res = {.message_id = "", .request_id = "", .peer_id = ""};
    const char *waited_for = a->relay->route.cancel(a->relay->route.self, a->call);
    res.outcome = waited_for != NULL ? ROUTE_RETRY : ROUTE_UNKNOWN;
    res.error = waited_for != NULL ? "not_sent" : "no_answer";
    if (waited_for != NULL)
        smtp_reply_set(&res.reply, 451, "4.4.1", "%s; not sent: the mail waited for %s", why,
                       waited_for);
    else
        smtp_reply_set(&res.reply, 451, "4.4.2",
                       "%s; SES may have taken the mail (X-Svidmail-Id %s)", why, a->mail->id);
    finish(a, &res);
}

static void on_limit(void *arg)
{
    give_up(arg, "No verdict from SES in time");
}

void relay_submit(struct relay *r, struct mail *m, relay_done_cb cb, void *arg)
{
    CHECK(m->n_recipients <= r->route.max_recipients);
    struct attempt *a = xcalloc(1, sizeof *a);
    *a = (struct attempt){.relay = r, .mail = m, .cb = cb, .arg = arg};
    a->limit = timer_new(r->loop, on_limit, a);
    timer_start(a->limit, r->cfg.attempt_limit_ms);
    list_push_back(&r->attempts, &a->link);
    r->n_in_flight++;
    struct route_mail rm = {.fd = spool_file_fd(m->file),
                            .len = spool_file_len(m->file),
                            .recipients = m->recipients,
                            .n_recipients = m->n_recipients};
    a->call = r->route.send(r->route.self, &rm, on_result, a);
}

unsigned relay_n_in_flight(const struct relay *r)
{
    return r->n_in_flight;
}

void relay_cut(struct relay *r, const char *why)
{
    while (!list_is_empty(&r->attempts))
        give_up(CONTAINER_OF(r->attempts.next, struct attempt, link), why);
}
