// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "app/report.h"
#include "base/mem.h"
#include "loop_fixture.h"
#include "sys/log.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NOW_MS INT64_C(1780272000000)

static int64_t wall_now(void *ctx)
{
    (void)ctx;
    return NOW_MS;
}

static uint64_t mono_now(void *ctx)
{
    (void)ctx;
    return clock_mono_us() / 1000;
}

static const struct clock standing = {wall_now, mono_now, NULL};

/* A source of credentials that answers when it is told to. */
struct source {
    credentials_fetched_cb cb;
    void *arg;
};

static void source_fetch(void *self, bool fresh, credentials_fetched_cb cb, void *arg)
{
    (void)fresh;
    *(struct source *)self = (struct source){cb, arg};
}

static void source_nothing(void *self)
{
    (void)self;
}

struct fixture {
    uv_loop_t *loop;
    struct config *config;
    struct results results;
    struct source source;
    char path[64];
    struct report_sources r;
    bool is_closed;
};

static const char config_text[] = "gateway: {host: gw.example, spiffe_ids: "
                                  "['spiffe://example.org/gw', 'spiffe://example.org/gw2']}\n"
                                  "ses: {region: eu-central-1}\n"
                                  "aws: {role_arn: 'arn:aws:iam::123456789012:role/m'}\n";

static void fixture_init(struct fixture *f)
{
    *f = (struct fixture){.loop = loop_new()};
    struct err e;
    log_init(LOG_ERROR, LOG_TEXT);
    if (!config_parse("f", str_from(config_text), &f->config, &e))
        fail_msg("%s", e.msg);
    f->r = (struct report_sources){.config = f->config,
                                   .clock = &standing,
                                   .started_at_ms = NOW_MS - 5000,
                                   .results = &f->results};
}

static void start_server(struct fixture *f)
{
    static const struct smtp_events events = {0};
    struct listen_address address = {.kind = LISTEN_UNIX, .is_loopback = true};
    struct err e;
    snprintf(f->path, sizeof f->path, "/tmp/svidmail-report-%d.sock", (int)getpid());
    str_copy(address.host, sizeof address.host, str_from(f->path));
    const struct smtp_server_config cfg = {.hostname = "pod",
                                           .listen = &address,
                                           .n_listen = 1,
                                           .max_message_bytes = 1000,
                                           .max_recipients = 1,
                                           .max_connections = 1,
                                           .idle_timeout_ms = 1000};
    if (!smtp_server_new(f->loop, &cfg, &events, f, &standing, &f->r.smtp, &e))
        fail_msg("%s", e.msg);
}

static void fixture_start(struct fixture *f)
{
    static const struct svid_choice choices[SVID_ROLE_COUNT] = {{"", ""}, {"", ""}};
    const struct credentials_source source = {"test", &f->source, source_fetch, source_nothing,
                                              source_nothing};
    fixture_init(f);
    f->r.svids = svid_store_new(choices, &standing, f->loop);
    f->r.credentials = credentials_new(source, &standing, f->loop);
    start_server(f);
}

static void on_server_closed(void *arg)
{
    struct fixture *f = arg;
    f->is_closed = true;
}

static void fixture_release(struct fixture *f)
{
    if (f->r.smtp != NULL) {
        smtp_server_close(f->r.smtp, on_server_closed, f);
        LOOP_UNTIL(f->loop, f->is_closed);
    }
    if (f->r.credentials != NULL)
        credentials_free(&f->r.credentials);
    if (f->r.svids != NULL)
        svid_store_free(&f->r.svids);
    config_free(&f->config);
    unlink(f->path);
    loop_free(&f->loop);
}

static void publish(struct fixture *f, const char *const *ids, size_t n, const char *hint)
{
    struct svid_set *s = svid_set_new(n, 1);
    struct err e;
    s->n_svids = n;
    for (size_t i = 0; i < n; i++) {
        assert_true(spiffe_id_parse(str_from(ids[i]), &s->svids[i].id, &e));
        s->svids[i].hint = xstrdup(hint);
        s->svids[i].not_before_ms = NOW_MS - 1000;
        s->svids[i].not_after_ms = NOW_MS + 3600000;
    }
    s->n_bundles = 1;
    s->bundles[0] =
        (struct svid_bundle){.trust_domain = xstrdup("example.org"), .n_cas = 2, .is_own = true};
    svid_store_publish(f->r.svids, &s);
}

static void issue_credentials(struct fixture *f, bool ok)
{
    credentials_warm_up(f->r.credentials);
    LOOP_UNTIL(f->loop, f->source.cb != NULL);
    struct err e = {0};
    if (!ok) {
        err_set(&e, ERR_DENIED, 0, "AccessDenied: not authorized");
        f->source.cb(f->source.arg, NULL, &e);
        return;
    }
    struct aws_credentials *c = xcalloc(1, sizeof *c);
    *c = (struct aws_credentials){.refs = 1,
                                  .access_key_id = xstrdup("ASIATESTKEYID"),
                                  .secret_access_key = xstrdup("a-secret-key"),
                                  .session_token = xstrdup("a-session-token"),
                                  .issued_at_ms = NOW_MS,
                                  .expires_at_ms = NOW_MS + 7200000};
    f->source.cb(f->source.arg, c, NULL);
}

/* The body of an endpoint; yours. */
static char *ask(struct fixture *f, const char *path, int status)
{
    struct admin_endpoint all[REPORT_ENDPOINTS];
    report_endpoints(&f->r, all);
    for (size_t i = 0; i < REPORT_ENDPOINTS; i++) {
        if (strcmp(all[i].path, path) != 0)
            continue;
        struct buf b;
        buf_init(&b, 1 << 20);
        assert_int_equal(all[i].run(all[i].arg, STR(""), &b), status);
        return buf_take(&b);
    }
    fail_msg("no %s", path);
    return NULL;
}

static json_t *ask_json(struct fixture *f, const char *path)
{
    AUTO_FREE char *text = ask(f, path, 200);
    json_t *json = json_loads(text, 0, NULL);
    assert_non_null(json);
    return json;
}

static void assert_same(const json_t *json, const char *expected)
{
    json_t *want = json_loads(expected, 0, NULL);
    assert_non_null(want);
    if (!json_equal(json, want)) {
        char *got = json_dumps(json, JSON_INDENT(1));
        fail_msg("%s", got);
    }
    json_decref(want);
}

TEST(report, before_anything_has_started_it_says_so)
{
    struct fixture f;
    fixture_init(&f);
    json_t *s = ask_json(&f, "/status");
    assert_true(json_is_false(json_object_get(s, "ready")));
    assert_string_equal(json_string_value(json_object_get(s, "not_ready_because")), "starting");
    assert_same(json_object_get(s, "smtp"), "{\"listeners\":[],\"sessions\":0}");
    assert_same(json_object_get(s, "identity"), "{\"generation\":0,\"offered\":[],\"bundles\":[]}");
    assert_same(json_object_get(s, "last"), "[]");
    assert_int_equal(json_integer_value(json_object_get(s, "uptime_s")), 5);
    json_decref(s);
    AUTO_FREE char *health = ask(&f, "/health", 200);
    assert_string_equal(health, "ok\n");
    AUTO_FREE char *ready = ask(&f, "/ready", 503);
    assert_string_equal(ready, "not ready: starting\n");
    fixture_release(&f);
}

TEST(report, ready_needs_an_identity_and_no_refusal_from_aws)
{
    static const char *const one[] = {"spiffe://example.org/a"};
    struct fixture f;
    fixture_start(&f);
    AUTO_FREE char *no_identity = ask(&f, "/ready", 503);
    assert_int_equal(strncmp(no_identity, "not ready: no identity", 22), 0);
    publish(&f, one, 1, "");
    AUTO_FREE char *fresh = ask(&f, "/ready", 200);
    assert_string_equal(fresh, "ready\n");
    issue_credentials(&f, false);
    AUTO_FREE char *refused = ask(&f, "/ready", 503);
    assert_string_equal(refused, "not ready: no AWS credentials: AccessDenied: not authorized\n");
    f.source.cb = NULL;
    issue_credentials(&f, true);
    AUTO_FREE char *good = ask(&f, "/ready", 200);
    assert_string_equal(good, "ready\n");
    fixture_release(&f);
}

TEST(report, status_names_identities_gateway_credentials_and_mails)
{
    static const char *const one[] = {"spiffe://example.org/a"};
    struct fixture f;
    fixture_start(&f);
    publish(&f, one, 1, "internal");
    issue_credentials(&f, true);
    struct result *m = results_add(&f.results);
    *m = (struct result){.mail = "01ID",
                         .outcome = "delivered",
                         .text = "Ok 0100",
                         .ses_message_id = "0100",
                         .peer_id = "spiffe://example.org/gw2",
                         .code = 250,
                         .at_ms = NOW_MS - 9000,
                         .took_us = 41900};
    json_t *s = ask_json(&f, "/status");
    assert_true(json_is_true(json_object_get(s, "ready")));
    assert_null(json_object_get(s, "not_ready_because"));
    assert_string_equal(json_string_value(json_object_get(s, "version")), report_version());
    assert_int_equal(json_array_size(json_object_get(json_object_get(s, "smtp"), "listeners")), 1);
    assert_same(json_object_get(s, "identity"),
                "{\"generation\":1,"
                "\"mesh\":{\"spiffe_id\":\"spiffe://example.org/"
                "a\",\"hint\":\"internal\",\"expires_in_s\":3600},"
                "\"aws\":{\"spiffe_id\":\"spiffe://example.org/"
                "a\",\"hint\":\"internal\",\"expires_in_s\":3600},"
                "\"offered\":[{\"spiffe_id\":\"spiffe://example.org/"
                "a\",\"hint\":\"internal\",\"expires_in_s\":3600}],"
                "\"bundles\":[{\"trust_domain\":\"example.org\",\"cas\":2,\"own\":true,\"usable\":"
                "false}]}");
    assert_same(json_object_get(s, "gateway"), "{\"host\":\"gw.example\",\"spiffe_ids\":[\"spiffe:/"
                                               "/example.org/gw\",\"spiffe://example.org/gw2\"],"
                                               "\"tls\":\"gateway\",\"streams\":0}");
    assert_same(json_object_get(s, "credentials"),
                "{\"role_arn\":\"arn:aws:iam::123456789012:role/"
                "m\",\"region\":\"eu-central-1\",\"source\":\"test\","
                "\"usable\":true,\"expires_in_s\":7200}");
    assert_same(json_object_get(s, "last"),
                "[{\"mail\":\"01ID\",\"outcome\":\"delivered\",\"code\":250,\"text\":\"Ok 0100\","
                "\"ses_message_id\":\"0100\",\"gateway\":\"spiffe://example.org/"
                "gw2\",\"age_s\":9,\"took_ms\":41}]");
    json_decref(s);
    fixture_release(&f);
}

TEST(report, several_identities_and_none_named_are_listed)
{
    static const char *const two[] = {"spiffe://example.org/a", "spiffe://example.org/b"};
    struct fixture f;
    fixture_start(&f);
    publish(&f, two, 2, "");
    json_t *i = ask_json(&f, "/identity");
    assert_int_equal(json_array_size(json_object_get(i, "offered")), 2);
    const char *why = json_string_value(json_object_get(json_object_get(i, "mesh"), "error"));
    assert_non_null(strstr(why, "spiffe://example.org/b"));
    json_decref(i);
    fixture_release(&f);
}

TEST(report, no_endpoint_gives_a_secret_away)
{
    static const char *const one[] = {"spiffe://example.org/a"};
    static const char *const paths[] = {"/status", "/identity", "/metrics", "/health", "/ready"};
    struct fixture f;
    fixture_start(&f);
    publish(&f, one, 1, "");
    issue_credentials(&f, true);
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        AUTO_FREE char *text = ask(&f, paths[i], 200);
        assert_null(strstr(text, "a-secret-key"));
        assert_null(strstr(text, "a-session-token"));
        assert_null(strstr(text, "ASIATESTKEYID"));
    }
    fixture_release(&f);
}

TEST(report, bytes_that_are_no_utf8_make_valid_json_all_the_same)
{
    static const char *const one[] = {"spiffe://example.org/a"};
    struct fixture f;
    fixture_start(&f);
    publish(&f, one, 1, "h\xff\x01\"");
    str_copy(results_add(&f.results)->text, 20, STR("\xc3\x28"));
    json_t *s = ask_json(&f, "/status");
    const json_t *mesh = json_object_get(json_object_get(s, "identity"), "mesh");
    assert_string_equal(json_string_value(json_object_get(mesh, "hint")), "h\\xff\\x01\"");
    json_decref(s);
    fixture_release(&f);
}

TEST(report, only_metrics_are_for_the_port)
{
    struct fixture f;
    struct admin_endpoint all[REPORT_ENDPOINTS];
    fixture_init(&f);
    report_endpoints(&f.r, all);
    for (size_t i = 0; i < REPORT_ENDPOINTS; i++)
        assert_int_equal(all[i].on_tcp, strcmp(all[i].path, "/metrics") == 0);
    AUTO_FREE char *text = ask(&f, "/metrics", 200);
    assert_non_null(strstr(text, "# HELP svidmail_"));
    fixture_release(&f);
}

TEST(report, the_build_is_named)
{
    assert_true(strlen(report_version()) > 0);
    assert_true(strlen(report_commit()) > 0);
}
