// SPDX-License-Identifier: Apache-2.0
#include "app/app.h"
#include "app/doctor_desk.h"
#include "app/ingest.h"
#include "app/pod.h"
#include "app/process.h"
#include "app/report.h"
#include "app/results.h"
#include "aws/credentials.h"
#include "aws/ses.h"
#include "aws/sts.h"
#include "identity/jwt_cache.h"
#include "identity/tunnel.h"
#include "identity/workload_api.h"
#include "mail/relay.h"
#include "mail/route_ses_api.h"
#include "mail/smtp_server.h"
#include "ops/admin.h"
#include "sys/log.h"
#include "sys/metrics.h"
#include "sys/timer.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ATTEMPT_LIMIT_MS 30000 /* the app waits that long at most: there is no spool yet */
#define CALL_LIMIT_MS    25000 /* one HTTP call of it */
#define USER_AGENT       "svidmail"
/* Besides sessions and calls: log, admin doors and their clients, agent, loops. */
#define DESCRIPTORS_APART 100

/* After SIGTERM; kubelet kills a late sidecar after 2 s. */
#define DRAIN_MS    1200 /* what is in flight then is cut and told so */
#define CLOSE_BY_MS 1500 /* who has not read his last words by then does without */
#define EXIT_BY_MS  1750 /* what cannot be ended is left behind: a name look-up, for one */
#define AT_ONCE_MS  200  /* the same after a second SIGTERM */
enum tunnel_kind { TUNNEL_MAIL, TUNNEL_STS, TUNNEL_COUNT };

/* Where the end stands.  Each step starts the next one from its own completion. */
enum stop_state { RUNNING, DRAINING, CLOSING };

struct app {
    const struct config *cfg;
    uv_loop_t loop;
    const struct clock *clock;
    int64_t started_at_ms;
    char hostname[256];
    char *run_dir; /* 0700, holds the tunnels' sockets */

    struct svid_store *svids;
    struct svid_watch *watch;
    struct workload_api *workload_api;
    struct jwt_cache *jwts;
    struct tls_contexts *contexts;
    struct tunnel *tunnels[TUNNEL_COUNT];
    struct http *http;
    struct credentials *credentials;
    char *credentials_of; /* the SPIFFE ID that asks AWS for them */
    struct ses *ses;
    struct spool_dir *spool;
    struct relay *relay;
    struct results results;
    struct ingest *ingest;
    struct smtp_server *smtp;
    struct admin *admin;
    struct pod pod;
    struct report_sources report;
    struct doctor_sources doctor_sources;
    struct doctor_desk *doctor;

    uv_signal_t sigterm, sigint;
    uv_check_t idle_check; /* while draining: is everybody gone? */
    uv_timer_t exit_limit; /* keeps no loop alive */
    struct timer *drain_limit;
    enum stop_state stop;
    unsigned n_closing; /* tunnels */
};

/* ---- what the identities' coming and going means for the rest ---- */

static void set_credentials_owner(struct app *a, const char *spiffe_id)
{
    if (a->credentials_of != NULL && strcmp(a->credentials_of, spiffe_id) == 0)
        return;
    if (a->credentials_of != NULL)
        credentials_drop(a->credentials);
    free(a->credentials_of);
    a->credentials_of = xstrdup(spiffe_id);
}

/* Credentials live as long as the identity that AWS has seen, and no longer; one that has merely
 * expired may be the agent's outage. */
static void on_identity_change(void *arg)
{
    struct app *a = arg;
    struct svid_set *set = NULL;
    const struct svid *svid;
    struct err e;
    if (svid_store_select(a->svids, SVID_AWS, &set, &svid, &e)) {
        set_credentials_owner(a, svid->id.text);
        svid_set_unref(&set);
        credentials_warm_up(a->credentials);
    } else if (e.code != ERR_EXPIRED) {
        credentials_drop(a->credentials);
    }
}

/* ---- stopping ---- */

static void on_handle_closed(uv_handle_t *h)
{
    (void)h;
}

static void on_workload_api_stopped(void *arg)
{
    struct app *a = arg;
    a->workload_api = NULL;
    tls_contexts_free(&a->contexts);
    svid_store_free(&a->svids);
    timer_free(&a->drain_limit);
    uv_close((uv_handle_t *)&a->sigterm, on_handle_closed);
    uv_close((uv_handle_t *)&a->sigint, on_handle_closed);
    (void)signal(SIGTERM, SIG_IGN); /* libuv has put the default back, which would kill */
    (void)signal(SIGINT, SIG_IGN);
    uv_close((uv_handle_t *)&a->idle_check, on_handle_closed);
}

static void on_tunnel_closed(void *arg)
{
    struct app *a = arg;
    if (--a->n_closing > 0)
        return;
    workload_api_stop(a->workload_api, on_workload_api_stopped, a);
}

static void on_smtp_closed(void *arg)
{
    struct app *a = arg;
    a->smtp = NULL;
    ingest_free(&a->ingest);
    relay_free(&a->relay);
    spool_dir_free(&a->spool);
    ses_free(&a->ses);
    svid_store_unwatch(&a->watch);
    credentials_free(&a->credentials);
    http_free(&a->http);
    jwt_cache_free(&a->jwts);
    a->n_closing = TUNNEL_COUNT;
    for (unsigned i = 0; i < TUNNEL_COUNT; i++)
        tunnel_close(a->tunnels[i], on_tunnel_closed, a);
}

static void stop_closing(struct app *a)
{
    if (a->stop == CLOSING)
        return;
    a->stop = CLOSING;
    uv_check_stop(&a->idle_check);
    timer_stop(a->drain_limit);
    doctor_desk_free(&a->doctor);
    admin_close(&a->admin);
    relay_cut(a->relay, "svidmail is stopping");
    smtp_server_close(a->smtp, on_smtp_closed, a);
}

static void on_drain_limit(void *arg)
{
    stop_closing(arg);
}

static void on_idle_check(uv_check_t *check)
{
    struct app *a = check->data;
    if (smtp_server_n_sessions(a->smtp) == 0 && relay_n_in_flight(a->relay) == 0)
        stop_closing(a);
}

static const char *what_is_left(const struct app *a)
{
    if (a->smtp != NULL)
        return "SMTP sessions";
    if (a->n_closing > 0)
        return "streams to the gateway";
    return a->workload_api != NULL ? "the stream to the agent" : "a name look-up";
}

/* Everybody has been told by now.  exit() would wait: libuv joins its threads there. */
static void on_exit_limit(uv_timer_t *timer)
{
    struct app *a = timer->data;
    LOG(EV_APP_STOPPED, F_INT("uptime_ms", clock_wall_ms(a->clock) - a->started_at_ms),
        F_STR("left_behind", what_is_left(a)));
    log_flush(LOG_LAST_LINES_MS);
    process_remove_run_dir(&a->run_dir);
    _exit(0);
}

static void on_signal(uv_signal_t *handle, int signum)
{
    struct app *a = handle->data;
    if (a->stop != RUNNING) { /* asked twice: at once */
        if (a->stop == CLOSING) {
            log_flush(LOG_LAST_LINES_MS);
            _exit(0);
        }
        uv_timer_start(&a->exit_limit, on_exit_limit, AT_ONCE_MS, 0);
        stop_closing(a);
        return;
    }
    LOG(EV_APP_STOPPING, F_STR("signal", signum == SIGINT ? "SIGINT" : "SIGTERM"),
        F_INT("sessions", smtp_server_n_sessions(a->smtp)),
        F_INT("in_flight", relay_n_in_flight(a->relay)));
    a->stop = DRAINING;
    smtp_server_drain(a->smtp, CLOSE_BY_MS);
    timer_start(a->drain_limit, DRAIN_MS);
    uv_timer_start(&a->exit_limit, on_exit_limit, EXIT_BY_MS, 0);
    uv_check_start(&a->idle_check, on_idle_check);
}

/* ---- starting ---- */

static bool start_identity(struct app *a, struct err *e)
{
    const struct config *c = a->cfg;
    const struct svid_choice choices[SVID_ROLE_COUNT] = {
        [SVID_MESH] = {c->identity.mesh.spiffe_id, c->identity.mesh.hint},
        [SVID_AWS] = {c->identity.aws.spiffe_id, c->identity.aws.hint}};
    a->svids = svid_store_new(choices, a->clock, &a->loop);
    const struct workload_api_config wl = {.endpoint = c->identity.endpoint};
    if (!workload_api_new(&wl, a->svids, a->clock, &a->loop, &a->workload_api, e))
        return false;
    a->jwts = jwt_cache_new(a->workload_api, a->svids, a->clock, &a->loop);
    a->contexts = tls_contexts_new(a->svids, SVID_MESH, a->clock);
    return true;
}

static bool start_tunnel(struct app *a, enum tunnel_kind kind, struct err *e)
{
    const struct config *c = a->cfg;
    bool is_nested = kind == TUNNEL_STS || c->gateway.tls == CONFIG_TLS_END_TO_END;
    const struct tunnel_config t = {
        .directory = a->run_dir,
        .name = kind == TUNNEL_STS ? "sts" : "mail",
        .max_streams = (unsigned)c->gateway.max_connections,
        .target = {.host = c->gateway.host,
                   .port = (uint16_t)(is_nested ? c->gateway.port_end_to_end : c->gateway.port_api),
                   .sni = kind == TUNNEL_STS ? c->aws.sts_host : c->ses.host,
                   .alpn = is_nested ? NULL : "http/1.1",
                   .ids = c->gateway.ids,
                   .n_ids = c->gateway.n_ids}};
    return tunnel_new(&a->loop, &t, a->contexts, a->svids, a->clock, &a->tunnels[kind], e);
}

static bool start_aws(struct app *a, struct err *e)
{
    const struct config *c = a->cfg;
    for (unsigned i = 0; i < TUNNEL_COUNT; i++)
        if (!start_tunnel(a, (enum tunnel_kind)i, e))
            return false;
    const struct http_config http = {.ca_file = c->aws.ca_file,
                                     .max_connections = (unsigned)c->gateway.max_connections,
                                     .user_agent = USER_AGENT};
    if (!http_new(&a->loop, &http, &a->http, e))
        return false;
    const struct sts_config sts = {.host = c->aws.sts_host,
                                   .role_arn = c->aws.role_arn,
                                   .session_name = c->aws.session_name,
                                   .audience = c->aws.audience,
                                   .duration_s = (unsigned)(c->aws.duration_ms / 1000)};
    struct credentials_source source =
        sts_source_new(&sts, a->http, a->tunnels[TUNNEL_STS], a->jwts, a->svids, a->clock);
    a->credentials = credentials_new(source, a->clock, &a->loop);
    const struct ses_config ses = {.host = c->ses.host,
                                   .region = c->ses.region,
                                   .is_end_to_end = c->gateway.tls == CONFIG_TLS_END_TO_END,
                                   .configuration_set = c->ses.configuration_set,
                                   .from_identity_arn = c->ses.from_identity_arn,
                                   .tenant = c->ses.tenant,
                                   .tags = c->ses.tags,
                                   .n_tags = c->ses.n_tags,
                                   .timeout_ms = CALL_LIMIT_MS};
    a->ses = ses_new(&ses, a->http, a->tunnels[TUNNEL_MAIL], a->credentials, a->clock, &a->loop);
    a->watch = svid_store_watch(a->svids, on_identity_change, a);
    return true;
}

static bool start_mail(struct app *a, struct err *e)
{
    const struct config *c = a->cfg;
    if (!process_find_spool(c->delivery.spool_path, &a->spool, e))
        return false;
    const struct relay_config relay = {.attempt_limit_ms = ATTEMPT_LIMIT_MS};
    a->relay = relay_new(&a->loop, &relay, route_ses_api(a->ses));
    const struct ingest_config in = {.policy = {.senders = c->policy.senders,
                                                .recipients_allow = c->policy.recipients_allow,
                                                .recipients_deny = c->policy.recipients_deny},
                                     .log_recipients = c->log.recipients};
    a->ingest = ingest_new(&in, a->svids, a->spool, a->relay, a->clock, &a->results);
    const unsigned recipients = c->smtp.max_recipients < SES_RECIPIENTS_MAX
                                    ? (unsigned)c->smtp.max_recipients
                                    : SES_RECIPIENTS_MAX;
    const struct smtp_server_config smtp = {
        .hostname = a->hostname,
        .listen = c->smtp.addresses,
        .n_listen = c->smtp.n_addresses,
        .max_message_bytes = c->smtp.max_message_bytes,
        .max_recipients = recipients, /* splitting comes with the spool */
        .max_connections = (unsigned)c->smtp.max_connections,
        .idle_timeout_ms = c->smtp.idle_timeout_ms,
        .refuse_bare_lf = c->smtp.bare_newline == CONFIG_NEWLINE_REJECT,
        .accepts_any_auth = c->smtp.auth == CONFIG_AUTH_ACCEPT_ANY,
        .allow_headers = (const char *const *)c->ses.allow_headers};
    return smtp_server_new(&a->loop, &smtp, &ingest_events, a->ingest, a->clock, &a->smtp, e);
}

/* First of all: a second svidmail with the same admin socket ends here, before it touches anything.
 */
static bool start_admin(struct app *a, struct err *e)
{
    const struct admin_config admin = {.socket_path = a->cfg->admin.socket,
                                       .metrics_listen = a->cfg->admin.metrics_listen};
    struct admin_endpoint endpoints[REPORT_ENDPOINTS + 2];
    report_endpoints(&a->report, endpoints);
    endpoints[REPORT_ENDPOINTS] = pod_endpoint(&a->pod);
    a->doctor = doctor_desk_new(&a->doctor_sources);
    endpoints[REPORT_ENDPOINTS + 1] = doctor_desk_endpoint(a->doctor);
    return admin_new(&a->loop, &admin, endpoints, ARRAY_LEN(endpoints), &a->admin, e);
}

/* Before the loop runs, so before anybody can ask. */
static void fill_sources(struct app *a)
{
    a->report = (struct report_sources){.config = a->cfg,
                                        .clock = a->clock,
                                        .started_at_ms = a->started_at_ms,
                                        .svids = a->svids,
                                        .workload_api = a->workload_api,
                                        .credentials = a->credentials,
                                        .tunnels = a->tunnels,
                                        .n_tunnels = TUNNEL_COUNT,
                                        .smtp = a->smtp,
                                        .pod = &a->pod,
                                        .results = &a->results};
    a->doctor_sources = (struct doctor_sources){.loop = &a->loop,
                                                .config = a->cfg,
                                                .clock = a->clock,
                                                .started_at_ms = a->started_at_ms,
                                                .svids = a->svids,
                                                .workload_api = a->workload_api,
                                                .jwts = a->jwts,
                                                .mail_tunnel = a->tunnels[TUNNEL_MAIL],
                                                .sts_tunnel = a->tunnels[TUNNEL_STS],
                                                .http = a->http,
                                                .credentials = a->credentials,
                                                .ses = a->ses,
                                                .smtp = a->smtp,
                                                .results = &a->results};
}

/* What was asked for and works, and should not be forgotten. */
static void warn_of_config(const struct config *c)
{
    for (size_t i = 0; i < c->smtp.n_addresses; i++)
        if (!c->smtp.addresses[i].is_loopback)
            LOG(EV_APP_CONFIG, F_STR("key", "smtp.listen"), F_STR("value", c->smtp.listen[i]),
                F_STR("why", "whoever reaches this address can send mail as this pod"));
}

/* A manifest that was written by hand may lack what the charts and the injection put in. */
static void warn_of_network(const struct config *c)
{
    if (c->smtp.allow_host_network || !process_is_network_unknown())
        return;
    LOG(EV_APP_CONFIG, F_STR("key", "smtp.allow_host_network"), F_BOOL("value", false),
        F_STR("why",
              "nobody can tell whether this pod uses the host's network, where every process of "
              "the node could send mail through 127.0.0.1: the container lacks SVIDMAIL_POD_IP "
              "or SVIDMAIL_HOST_IP"),
        F_STR("cure",
              "add to the container's env: {name: SVIDMAIL_POD_IP, valueFrom: {fieldRef: "
              "{fieldPath: status.podIP}}} and {name: SVIDMAIL_HOST_IP, valueFrom: {fieldRef: "
              "{fieldPath: status.hostIP}}}"));
}

/* A session has its socket and its mail's file, a call to AWS three sockets; two tunnels. */
static void warn_of_descriptors(const struct config *c)
{
    uint64_t has = process_raise_descriptors();
    uint64_t wants = 2 * (uint64_t)c->smtp.max_connections +
                     6 * (uint64_t)c->gateway.max_connections + DESCRIPTORS_APART;
    if (wants > has)
        LOG(EV_APP_CONFIG, F_STR("key", "smtp.max_connections"),
            F_INT("value", c->smtp.max_connections), F_INT("descriptors_wanted", wants),
            F_INT("descriptors", has),
            F_STR("why",
                  "more sessions than the limit of open files (ulimit -n) has room for: some "
                  "would be closed without a word"));
}

static void start_signals(struct app *a)
{
    a->drain_limit = timer_new(&a->loop, on_drain_limit, a);
    uv_check_init(&a->loop, &a->idle_check);
    a->idle_check.data = a;
    uv_timer_init(&a->loop, &a->exit_limit);
    uv_unref((uv_handle_t *)&a->exit_limit);
    a->exit_limit.data = a;
    uv_signal_init(&a->loop, &a->sigterm);
    uv_signal_init(&a->loop, &a->sigint);
    a->sigterm.data = a->sigint.data = a;
    uv_signal_start(&a->sigterm, on_signal, SIGTERM);
    uv_signal_start(&a->sigint, on_signal, SIGINT);
    process_release_sigterm();
}

static bool start(struct app *a, struct err *e)
{
    process_hostname(a->hostname, sizeof a->hostname);
    if (!process_check_network(a->cfg->smtp.allow_host_network, e) || !start_admin(a, e) ||
        !process_make_run_dir(a->cfg->admin.socket, &a->run_dir, e))
        return false;
    if (!start_identity(a, e) || !start_aws(a, e) || !start_mail(a, e))
        return false;
    fill_sources(a);
    warn_of_config(a->cfg);
    warn_of_network(a->cfg);
    warn_of_descriptors(a->cfg);
    start_signals(a);
    workload_api_start(a->workload_api);
    return true;
}

bool app_run(const struct config *cfg, struct err *e)
{
    process_harden();
    log_init(cfg->log.level, cfg->log.format);
    struct app *a = xcalloc(1, sizeof *a);
    a->cfg = cfg;
    a->clock = clock_system();
    a->started_at_ms = clock_wall_ms(a->clock);
    pod_init(&a->pod, a->clock);
    CHECK(uv_loop_init(&a->loop) == 0);
    log_attach(&a->loop);
    if (!start(a, e)) {
        /* The process ends: what had been started is left to it, but not out of the leak checker's
         * sight (volatile, or the store is optimized away). */
        static struct app *volatile left_behind;
        left_behind = a;
        process_remove_run_dir(&left_behind->run_dir);
        return false;
    }
    metric_set(M_BUILD_INFO, METRIC_L(report_version(), report_commit()), 1);
    LOG(EV_APP_STARTED, F_STR("version", report_version()), F_STR("commit", report_commit()),
        F_STR("hostname", a->hostname), F_STR("spool", spool_dir_path(a->spool)));
    uv_run(&a->loop, UV_RUN_DEFAULT);
    uv_close((uv_handle_t *)&a->exit_limit, on_handle_closed);
    log_detach();
    uv_run(&a->loop, UV_RUN_DEFAULT);
    LOG(EV_APP_STOPPED, F_INT("uptime_ms", clock_wall_ms(a->clock) - a->started_at_ms));
    log_flush(LOG_LAST_LINES_MS);
    CHECK(uv_loop_close(&a->loop) == 0); /* every handle was closed by its owner */
    process_remove_run_dir(&a->run_dir);
    free(a->credentials_of);
    free(a);
    return true;
}
