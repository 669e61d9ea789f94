// SPDX-License-Identifier: Apache-2.0
#include "app/report.h"
#include "base/mem.h"
#include "sys/metrics.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <svidmail_build_info.h>

static const char *const role_names[SVID_ROLE_COUNT] = {[SVID_MESH] = "mesh", [SVID_AWS] = "aws"};

const char *report_version(void)
{
    return BUILD_VERSION;
}

const char *report_commit(void)
{
    return BUILD_COMMIT;
}

/* --- JSON by hand: a NULL value is left out, bytes that are no UTF-8 are escaped */

static void put(json_t *to, const char *key, json_t *value)
{
    CHECK(value != NULL && json_object_set_new(to, key, value) == 0);
}

static json_t *text(const char *z)
{
    json_t *s = json_string(z);
    if (s != NULL)
        return s;
    char escaped[1024];
    return json_string(str_escape(escaped, sizeof escaped, str_from(z)));
}

static void put_text(json_t *to, const char *key, const char *z)
{
    put(to, key, text(z));
}

static void put_text_unless_empty(json_t *to, const char *key, const char *z)
{
    if (z != NULL && z[0] != '\0')
        put_text(to, key, z);
}

static void put_number(json_t *to, const char *key, int64_t n)
{
    put(to, key, json_integer(n));
}

static void put_bool(json_t *to, const char *key, bool b)
{
    put(to, key, json_boolean(b));
}

static void put_error(json_t *to, const char *key, const struct err *e)
{
    if (e->code != ERR_NONE)
        put_text(to, key, e->msg);
}

static int64_t seconds_until(const struct report_sources *r, int64_t wall_ms)
{
    return (wall_ms - clock_wall_ms(r->clock)) / 1000;
}

static json_t *list_of(char *const *items)
{
    json_t *list = json_array();
    for (size_t i = 0; items[i] != NULL; i++)
        CHECK(json_array_append_new(list, text(items[i])) == 0);
    return list;
}

/* --- sections */

static json_t *pod_section(const struct report_sources *r)
{
    json_t *o = json_object();
    put_bool(o, "ending", r->pod->end_announced_at_ms != 0);
    if (r->pod->end_announced_at_ms != 0)
        put_number(o, "announced_s", -seconds_until(r, r->pod->end_announced_at_ms));
    put_bool(o, "shares_processes", r->pod->shares_processes);
    put_bool(o, "memory_open", r->pod->is_memory_open);
    return o;
}

static json_t *smtp_section(const struct report_sources *r)
{
    json_t *o = json_object(), *listeners = json_array();
    const char *const *open = r->smtp == NULL ? NULL : smtp_server_listeners(r->smtp);
    for (size_t i = 0; open != NULL && open[i] != NULL; i++)
        CHECK(json_array_append_new(listeners, text(open[i])) == 0);
    put(o, "listeners", listeners);
    put_number(o, "sessions", r->smtp == NULL ? 0 : smtp_server_n_serving(r->smtp));
    return o;
}

static json_t *svid_object(const struct report_sources *r, const struct svid *v)
{
    json_t *o = json_object();
    put_text(o, "spiffe_id", v->id.text);
    put_text_unless_empty(o, "hint", v->hint);
    put_number(o, "expires_in_s", seconds_until(r, v->not_after_ms));
    return o;
}

static json_t *role_object(const struct report_sources *r, enum svid_role role)
{
    struct svid_set *set = NULL;
    const struct svid *v;
    struct err e = {0};
    if (!svid_store_select(r->svids, role, &set, &v, &e)) {
        json_t *o = json_object();
        put_text(o, "error", e.msg);
        return o;
    }
    json_t *o = svid_object(r, v);
    svid_set_unref(&set);
    return o;
}

static json_t *bundle_object(const struct svid_bundle *b)
{
    json_t *o = json_object();
    put_text(o, "trust_domain", b->trust_domain);
    put_number(o, "cas", b->n_cas);
    put_bool(o, "own", b->is_own);
    put_bool(o, "usable", b->store != NULL);
    return o;
}

static void put_workload_api(const struct report_sources *r, json_t *to)
{
    struct workload_api_status s;
    if (r->workload_api == NULL)
        return;
    workload_api_get_status(r->workload_api, &s);
    put_text_unless_empty(to, "endpoint", s.endpoint);
    put_bool(to, "connected", s.is_connected);
    put_error(to, "last_error", &s.last_error);
    put_number(to, "updates", s.n_updates);
    if (s.last_update_at_ms != 0)
        put_number(to, "last_update_s", -seconds_until(r, s.last_update_at_ms));
}

static json_t *identity_section(const struct report_sources *r)
{
    json_t *o = json_object(), *offered = json_array(), *bundles = json_array();
    put_workload_api(r, o);
    struct svid_set *set = r->svids == NULL ? NULL : svid_store_current(r->svids);
    put_number(o, "generation", set == NULL ? 0 : set->generation);
    for (unsigned i = 0; r->svids != NULL && i < SVID_ROLE_COUNT; i++)
        put(o, role_names[i], role_object(r, (enum svid_role)i));
    for (size_t i = 0; set != NULL && i < set->n_svids; i++)
        CHECK(json_array_append_new(offered, svid_object(r, &set->svids[i])) == 0);
    for (size_t i = 0; set != NULL && i < set->n_bundles; i++)
        CHECK(json_array_append_new(bundles, bundle_object(&set->bundles[i])) == 0);
    put(o, "offered", offered);
    put(o, "bundles", bundles);
    return o;
}

static json_t *gateway_section(const struct report_sources *r)
{
    json_t *o = json_object();
    unsigned n_streams = 0;
    const struct stream_end *failure = NULL;
    for (size_t i = 0; i < r->n_tunnels; i++) {
        if (r->tunnels[i] == NULL)
            continue;
        const struct stream_end *end = tunnel_last_failure(r->tunnels[i]);
        n_streams += tunnel_n_streams(r->tunnels[i]);
        if (failure == NULL && end->cause != END_NONE)
            failure = end;
    }
    put_text(o, "host", r->config->gateway.host);
    put(o, "spiffe_ids", list_of(r->config->gateway.spiffe_ids));
    put_text(o, "tls", r->config->gateway.tls == CONFIG_TLS_GATEWAY ? "gateway" : "end-to-end");
    put_number(o, "streams", n_streams);
    if (failure != NULL)
        put_text(o, "last_failure", failure->err.msg);
    return o;
}

static json_t *credentials_section(const struct report_sources *r)
{
    json_t *o = json_object();
    struct credentials_status s = {0};
    put_text(o, "role_arn", r->config->aws.role_arn);
    put_text(o, "region", r->config->ses.region);
    if (r->credentials == NULL)
        return o;
    credentials_get_status(r->credentials, &s);
    put_text_unless_empty(o, "source", s.source);
    put_bool(o, "usable", s.is_usable);
    if (s.is_usable)
        put_number(o, "expires_in_s", seconds_until(r, s.expires_at_ms));
    put_error(o, "last_error", &s.last_error);
    return o;
}

static json_t *last_section(const struct report_sources *r)
{
    json_t *list = json_array();
    const struct result *m;
    for (size_t i = 0; r->results != NULL && (m = results_get(r->results, i)) != NULL; i++) {
        json_t *o = json_object();
        put_text(o, "mail", m->mail);
        put_text(o, "outcome", m->outcome);
        put_number(o, "code", m->code);
        put_text(o, "text", m->text);
        put_text_unless_empty(o, "ses_message_id", m->ses_message_id);
        put_text_unless_empty(o, "gateway", m->peer_id);
        put_number(o, "age_s", -seconds_until(r, m->at_ms));
        put_number(o, "took_ms", (int64_t)(m->took_us / 1000));
        CHECK(json_array_append_new(list, o) == 0);
    }
    return list;
}

/* --- ready */

bool report_is_ready(const struct report_sources *r, char *why, size_t cap)
{
    why[0] = '\0';
    struct credentials_status s = {0};
    if (r->svids == NULL || r->credentials == NULL || r->smtp == NULL) {
        snprintf(why, cap, "starting");
        return false;
    }
    for (unsigned i = 0; i < SVID_ROLE_COUNT; i++) {
        struct svid_set *set = NULL;
        const struct svid *v;
        struct err e = {0};
        if (!svid_store_select(r->svids, (enum svid_role)i, &set, &v, &e)) {
            str_copy(why, cap, str_from(e.msg));
            return false;
        }
        svid_set_unref(&set);
    }
    credentials_get_status(r->credentials, &s);
    if (s.is_usable || s.last_error.code == ERR_NONE)
        return true;
    snprintf(why, cap, "no AWS credentials: %s", s.last_error.msg);
    return false;
}

/* --- endpoints */

/* Takes o. */
static int answer(json_t *o, struct buf *out)
{
    char *json = json_dumps(o, JSON_INDENT(2) | JSON_ENSURE_ASCII);
    json_decref(o);
    CHECK(json != NULL);
    bool ok = buf_printf(out, "%s\n", json);
    free(json);
    return ok ? 200 : 500;
}

static int on_status(void *arg, struct str query, struct buf *out)
{
    (void)query;
    struct report_sources *r = arg;
    char why[512];
    json_t *o = json_object();
    put_text(o, "version", BUILD_VERSION);
    put_text(o, "commit", BUILD_COMMIT);
    put_number(o, "uptime_s", -seconds_until(r, r->started_at_ms));
    put_bool(o, "ready", report_is_ready(r, why, sizeof why));
    put_text_unless_empty(o, "not_ready_because", why);
    if (r->pod != NULL)
        put(o, "pod", pod_section(r));
    put(o, "smtp", smtp_section(r));
    put(o, "identity", identity_section(r));
    put(o, "gateway", gateway_section(r));
    put(o, "credentials", credentials_section(r));
    put(o, "last", last_section(r));
    return answer(o, out);
}

static int on_identity(void *arg, struct str query, struct buf *out)
{
    (void)query;
    return answer(identity_section(arg), out);
}

static int on_health(void *arg, struct str query, struct buf *out)
{
    (void)arg;
    (void)query;
    return buf_append_str(out, STR("ok\n")) ? 200 : 500;
}

static int on_ready(void *arg, struct str query, struct buf *out)
{
    (void)query;
    struct report_sources *r = arg;
    char why[512];
    if (report_is_ready(r, why, sizeof why))
        return buf_append_str(out, STR("ready\n")) ? 200 : 500;
    return buf_printf(out, "not ready: %s\n", why) ? 503 : 500;
}

static int on_metrics(void *arg, struct str query, struct buf *out)
{
    (void)query;
    struct report_sources *r = arg;
    if (r->svids != NULL)
        svid_store_refresh_metrics(r->svids);
    return metrics_write(out) ? 200 : 500;
}

void report_endpoints(struct report_sources *r, struct admin_endpoint out[REPORT_ENDPOINTS])
{
    static const char json[] = "application/json", plain[] = "text/plain; charset=utf-8";
    const struct admin_endpoint endpoints[REPORT_ENDPOINTS] = {
        {.path = "/status", .content_type = json, .run = on_status, .arg = r},
        {.path = "/identity", .content_type = json, .run = on_identity, .arg = r},
        {.path = "/health", .content_type = plain, .run = on_health, .arg = r},
        {.path = "/ready", .content_type = plain, .run = on_ready, .arg = r},
        {.path = "/metrics",
         .content_type = "text/plain; version=0.0.4; charset=utf-8",
         .run = on_metrics,
         .arg = r,
         .on_tcp = true},
    };
    memcpy(out, endpoints, sizeof endpoints);
}
