// SPDX-License-Identifier: Apache-2.0
#include "app/ingest.h"
#include "app/redact.h"
#include "base/mem.h"
#include "sys/log.h"
#include "sys/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOGGED_RECIPIENTS 5

struct ingest {
    struct ingest_config cfg;
    struct svid_store *svids;
    struct spool_dir *spool;
    struct relay *relay;
    const struct clock *clock;
    struct results *results;
};

/* The app's place in line, kept beside the mail while the relay has it. */
struct pending {
    struct ingest *in;
    struct smtp_ticket *ticket;
};

struct ingest *ingest_new(const struct ingest_config *cfg, struct svid_store *svids,
                          struct spool_dir *spool, struct relay *relay, const struct clock *clock,
                          struct results *results)
{
    struct ingest *in = xcalloc(1, sizeof *in);
    *in = (struct ingest){.cfg = *cfg,
                          .svids = svids,
                          .spool = spool,
                          .relay = relay,
                          .clock = clock,
                          .results = results};
    return in;
}

void ingest_free(struct ingest **in)
{
    free(*in);
    *in = NULL;
}

/* Without a spool nothing can be kept until an identity comes: say so before the body is sent. */
static bool has_identities(struct ingest *in, struct err *e)
{
    for (unsigned role = 0; role < SVID_ROLE_COUNT; role++) {
        struct svid_set *set = NULL;
        const struct svid *svid;
        if (!svid_store_select(in->svids, (enum svid_role)role, &set, &svid, e))
            return false;
        svid_set_unref(&set);
    }
    return true;
}

static void on_mail(void *arg, const struct mail *m, struct smtp_reply *refusal)
{
    struct ingest *in = arg;
    struct err e;
    if (m->from.len == 0)
        smtp_reply_set(
            refusal, 550, "5.7.1",
            "SES cannot send with the null sender <>: bounces and notifications need a real "
            "MAIL FROM address");
    else if (!policy_allows_sender(&in->cfg.policy, &m->from))
        smtp_reply_set(refusal, 550, "5.7.1", "Sender <%s> is not in policy.senders", m->from.text);
    else if (!has_identities(in, &e))
        smtp_reply_set(refusal, 451, "4.7.0", "Not ready to send: %s", e.msg);
}

static void on_rcpt(void *arg, const struct mail *m, const struct mail_path *to,
                    struct smtp_reply *refusal)
{
    (void)m;
    struct ingest *in = arg;
    if (mail_path_domain(to).len == 0)
        smtp_reply_set(refusal, 553, "5.1.3", "<%s> has no domain: SES needs a full address",
                       to->text);
    else if (!policy_allows_recipient(&in->cfg.policy, to))
        smtp_reply_set(refusal, 550, "5.7.1", "Recipient <%s> is not allowed by policy.recipients",
                       to->text);
}

static struct spool_file *on_data(void *arg, const struct mail *m, struct smtp_reply *refusal)
{
    (void)m;
    struct ingest *in = arg;
    struct spool_file *file = NULL;
    struct err e;
    if (!spool_file_open(in->spool, &file, &e))
        smtp_reply_set(refusal, 451, "4.3.0", "No place for the mail: %s", e.msg);
    return file;
}

static void name_recipients(const struct ingest *in, const struct mail *m, char *out, size_t cap)
{
    out[0] = '\0';
    if (in->cfg.log_recipients == CONFIG_RECIPIENTS_OFF)
        return;
    size_t at = 0;
    for (size_t i = 0; i < m->n_recipients && i < LOGGED_RECIPIENTS; i++) {
        char one[MAIL_PATH_MAX + 80];
        redact_address(in->cfg.log_recipients, &m->recipients[i], one, sizeof one);
        int n = snprintf(out + at, cap - at, "%s%s", i == 0 ? "" : " ", one);
        if (n < 0 || (size_t)n >= cap - at)
            break;
        at += (size_t)n;
    }
}

static void log_mail(const struct ingest *in, const struct mail *m, const struct route_result *r,
                     bool has_app_left)
{
    char to[600], reply[SMTP_REPLY_TEXT_MAX + 1];
    name_recipients(in, m, to, sizeof to);
    redact_text(in->cfg.log_recipients, m, str_from(r->reply.text), reply, sizeof reply);
    uint64_t now = clock_mono_us();
    LOG(EV_MAIL_DONE, F_STR("mail", m->id), F_STR("session", m->session),
        F_STR("outcome", route_outcome_name(r->outcome)), F_INT("code", r->reply.code),
        F_STR("class", r->error), F_STR("reply", reply), F_STR("message_id", m->facts->message_id),
        F_STR("ses_message_id", r->message_id), F_STR("aws_request_id", r->request_id),
        F_STR("gateway", r->peer_id), F_S("from_domain", mail_path_domain(&m->from)),
        F_STR("to", to), F_INT("recipients", m->n_recipients),
        F_INT("bytes", spool_file_len(m->file)), F_INT("receive_us", m->dot_at_us - m->begun_at_us),
        F_INT("credentials_us", r->credentials_us), F_INT("connect_us", r->connect_us),
        F_INT("sent_us", r->sent_us), F_INT("attempt_us", r->total_us),
        F_INT("total_us", now - m->begun_at_us), F_BOOL("new_connection", r->is_new_connection),
        F_BOOL("operator_fault", r->is_operator_fault), F_BOOL("app_left", has_app_left));
}

static const char *result_name(const struct smtp_reply *r)
{
    return r->code < 300 ? "accepted" : r->code < 500 ? "deferred" : "refused";
}

static void remember(struct ingest *in, const struct mail *m, const struct route_result *r)
{
    struct result *slot = results_add(in->results);
    str_copy(slot->mail, sizeof slot->mail, str_from(m->id));
    str_copy(slot->outcome, sizeof slot->outcome, str_from(route_outcome_name(r->outcome)));
    redact_text(in->cfg.log_recipients, m, str_from(r->reply.text), slot->text, sizeof slot->text);
    str_copy(slot->ses_message_id, sizeof slot->ses_message_id, str_from(r->message_id));
    str_copy(slot->peer_id, sizeof slot->peer_id, str_from(r->peer_id));
    slot->code = r->reply.code;
    slot->at_ms = clock_wall_ms(in->clock);
    slot->took_us = clock_mono_us() - m->begun_at_us;
}

static void on_done(void *arg, const struct mail *m, const struct route_result *r)
{
    struct pending *p = arg;
    uint64_t now = clock_mono_us();
    metric_observe(M_VERDICT_SECONDS, METRIC_NONE, (double)(now - m->dot_at_us) / 1e6);
    if (r->outcome == ROUTE_DELIVERED)
        metric_observe(M_DELIVERY_SECONDS, METRIC_NONE, (double)(now - m->begun_at_us) / 1e6);
    metric_add(M_SMTP_TRANSACTIONS, METRIC_L(result_name(&r->reply)), 1);
    bool has_app_left = !smtp_server_reply(&p->ticket, &r->reply);
    log_mail(p->in, m, r, has_app_left);
    remember(p->in, m, r);
    free(p);
}

static void on_message(void *arg, struct mail *m, struct smtp_ticket *t)
{
    struct pending *p = xcalloc(1, sizeof *p);
    p->in = arg;
    p->ticket = t;
    relay_submit(p->in->relay, m, on_done, p);
}

static void on_refused(void *arg, const struct mail *m, const struct smtp_reply *r)
{
    struct ingest *in = arg;
    char to[600], reply[SMTP_REPLY_TEXT_MAX + 1];
    name_recipients(in, m, to, sizeof to);
    redact_text(in->cfg.log_recipients, m, str_from(r->text), reply, sizeof reply);
    LOG(EV_SMTP_TX_REFUSED, F_STR("mail", m->id), F_STR("session", m->session),
        F_INT("code", r->code), F_STR("enhanced", r->enhanced), F_STR("reply", reply),
        F_S("from_domain", mail_path_domain(&m->from)), F_STR("to", to));
}

const struct smtp_events ingest_events = {.on_mail = on_mail,
                                          .on_rcpt = on_rcpt,
                                          .on_data = on_data,
                                          .on_message = on_message,
                                          .on_refused = on_refused};
