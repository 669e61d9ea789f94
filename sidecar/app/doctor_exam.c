// SPDX-License-Identifier: Apache-2.0
#include "app/doctor_exam.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_MS 6000u
#define AWS_MS  12000u

// clang-format off
#define LOCAL(id, category, name, needs, run, what) \
    {id, category, name, needs, false, what, run, NULL, 0, NULL}
#define ASKS(id, category, name, needs, run, what, cancel, limit_ms, late) \
    {id, category, name, needs, true, what, run, cancel, limit_ms, late}
#define WAY(prefix, kind, title, needs) \
    ASKS(prefix ".tcp",    "gateway", title ": connection", needs,          check_way, WAY_WHAT(kind, WAY_TCP),    cancel_way, 0, NULL), \
    ASKS(prefix ".tls",    "gateway", title ": handshake", prefix ".tcp",   check_way, WAY_WHAT(kind, WAY_TLS),    cancel_way, 0, NULL), \
    ASKS(prefix ".peer",   "gateway", title ": its identity", prefix ".tls", check_way, WAY_WHAT(kind, WAY_PEER),  cancel_way, 0, NULL), \
    ASKS(prefix ".policy", "gateway", title ": it takes us", prefix ".peer",     check_way, WAY_WHAT(kind, WAY_POLICY), cancel_way, 0, NULL), \
    ASKS(prefix ".aws",    "gateway", title ": AWS behind it", prefix ".policy", check_way, WAY_WHAT(kind, WAY_AWS), cancel_way, 0, NULL)

static const struct doctor_check checks[] = {
    LOCAL("config.file",    "configuration", "configuration file", "", check_config_file, 0),
    LOCAL("config.values",  "configuration", "settings", "", check_config_values, 0),
    LOCAL("config.roots",   "configuration", "roots for TLS to AWS", "", check_config_roots, 0),
    LOCAL("smtp.listen",    "configuration", "SMTP addresses", "", check_listeners, 0),
    LOCAL("agent.socket",   "identity", "SPIRE agent", "", check_agent, 0),
    LOCAL("svid.offered",   "identity", "SVIDs offered", "", check_offered, 0),
    LOCAL("svid.mesh",      "identity", "SVID for the gateway", "svid.offered", check_svid, SVID_MESH),
    LOCAL("svid.aws",       "identity", "SVID for AWS", "svid.offered", check_svid, SVID_AWS),
    LOCAL("bundle.gateway", "identity", "bundle for the gateway", "svid.offered", check_bundle, 0),
    ASKS("gateway.name",    "gateway", "name", "", check_name, 0, cancel_name, NAME_MS, "name.no_answer"),
    ASKS("gateway.capture", "gateway", "istio-proxy", "gateway.name", check_capture, 0, cancel_capture, 0, NULL),
    WAY("gateway.mail", WAY_MAIL, "way of the mail", "gateway.name|svid.mesh"),
    WAY("gateway.sts",  WAY_STS,  "way of the credentials", "gateway.name|svid.mesh"),
    ASKS("aws.clock",       "aws", "clock", "gateway.name|svid.mesh", check_clock, 0, NULL, 0, NULL),
    ASKS("aws.token",       "aws", "JWT-SVID", "svid.aws", check_token, 0, cancel_token, AWS_MS, "jwt"),
    ASKS("aws.credentials", "aws", "STS", "aws.token|gateway.sts.aws", check_credentials, 0, cancel_credentials, AWS_MS, "sts"),
    ASKS("aws.ses",         "aws", "SES", "aws.credentials|gateway.mail.aws", check_ses, 0, cancel_ses, AWS_MS, "ses.answer_timeout"),
    ASKS("aws.account",     "aws", "SES account", "", check_account, 0, NULL, 0, NULL),
    LOCAL("mail.last",      "mail", "last mail", "", check_last_mail, 0),
};
// clang-format on

static void on_walk_done(void *arg)
{
    struct exam *e = arg;
    e->on_done(e->arg);
}

struct exam *exam_start(const struct doctor_sources *s, bool is_offline, void (*on_done)(void *arg),
                        void *arg)
{
    struct exam *e = xcalloc(1, sizeof *e);
    *e = (struct exam){.s = s, .on_done = on_done, .arg = arg};
    for (unsigned i = 0; i < WAY_COUNT; i++)
        e->ways[i] = (struct way){.exam = e, .kind = (enum way_kind)i};
    const struct doctor_plan plan = {.checks = checks,
                                     .n_checks = ARRAY_LEN(checks),
                                     .is_offline = is_offline,
                                     .arg = e,
                                     .on_done = on_walk_done};
    e->walk = doctor_start(s->loop, &plan);
    return e;
}

void exam_free(struct exam **pe)
{
    struct exam *e = *pe;
    *pe = NULL;
    if (e == NULL)
        return;
    doctor_free(&e->walk);
    for (unsigned i = 0; i < WAY_COUNT; i++)
        http_cancel(&e->ways[i].call);
    free(e);
}

/* --- what fills the {WORDS} of a cure */

static const char *after_last(const char *text, char c)
{
    const char *at = strrchr(text, c);
    return at == NULL ? text : at + 1;
}

/* "mail-egress.mail-egress.svc": Service and namespace; "" where it is no such name. */
static void split_service(const char *host, char service[64], char space[64])
{
    struct str h = str_from(host);
    struct str first = str_sub(h, 0, str_index(h, '.'));
    struct str rest = str_sub(h, first.len + 1, h.len);
    struct str second = str_sub(rest, 0, str_index(rest, '.'));
    bool is_service = str_starts_with(str_sub(rest, second.len, rest.len), STR(".svc"));
    str_copy(service, 64, is_service ? first : STR(""));
    str_copy(space, 64, is_service ? second : STR(""));
}

/* The SPIFFE ID of a role, "" where there is none. */
static void copy_id(const struct svid_store *svids, enum svid_role role, char *out, size_t cap)
{
    struct svid_set *set = NULL;
    const struct svid *v;
    out[0] = '\0';
    if (!svid_store_select(svids, role, &set, &v, NULL))
        return;
    str_copy(out, cap, spiffe_id_str(&v->id));
    svid_set_unref(&set);
}

bool exam_write(const struct exam *e, struct buf *out)
{
    const struct config *c = e->s->config;
    char service[64], space[64], api[8], nested[8], mesh[512], aws[512];
    split_service(c->gateway.host, service, space);
    snprintf(api, sizeof api, "%u", (unsigned)(uint16_t)c->gateway.port_api);
    snprintf(nested, sizeof nested, "%u", (unsigned)(uint16_t)c->gateway.port_end_to_end);
    copy_id(e->s->svids, SVID_MESH, mesh, sizeof mesh);
    copy_id(e->s->svids, SVID_AWS, aws, sizeof aws);
    const char *principal = mesh[0] == '\0' ? "" : mesh + strlen("spiffe://");
    const struct doctor_word words[] = {{"POD", getenv("POD_NAME")},
                                        {"NAMESPACE", getenv("POD_NAMESPACE")},
                                        {"NODE", getenv("NODE_NAME")},
                                        {"GATEWAY", service},
                                        {"GATEWAY_NAMESPACE", space},
                                        {"API_PORT", api},
                                        {"END_TO_END_PORT", nested},
                                        {"SES_HOST", c->ses.host},
                                        {"STS_HOST", c->aws.sts_host},
                                        {"REGION", c->ses.region},
                                        {"ROLE", after_last(c->aws.role_arn, '/')},
                                        {"PRINCIPAL", principal},
                                        {"AWS_SPIFFE_ID", aws},
                                        {"CONFIG_FILE", c->file},
                                        {NULL, NULL}};
    return doctor_write(e->walk, words, out);
}
