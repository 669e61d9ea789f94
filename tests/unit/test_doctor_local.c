// SPDX-License-Identifier: Apache-2.0
/* One check at a time, asked as a walk asks it, of a configuration and parts of the test's own. */
#include "test.h"

#include "app/doctor_exam.h"
#include "base/mem.h"
#include "certs.h"
#include "loop_fixture.h"
#include "sys/log.h"

#include <arpa/inet.h>
#include <jansson.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int64_t wall_now(void *ctx)
{
    (void)ctx;
    return CERTS_NOW_MS;
}

static uint64_t mono_now(void *ctx)
{
    (void)ctx;
    return clock_mono_us() / 1000;
}

static const struct clock standing = {wall_now, mono_now, NULL};

struct fixture {
    uv_loop_t *loop;
    struct config *config;
    struct doctor_sources sources;
    char result[32], code[8], text[600]; /* of the last examine() */
};

static void fixture_init(struct fixture *f, const char *config)
{
    struct err e;
    *f = (struct fixture){.loop = loop_new()};
    log_init(LOG_ERROR, LOG_TEXT);
    if (!config_parse("f", str_from(config), &f->config, &e))
        fail_msg("%s", e.msg);
    f->sources = (struct doctor_sources){.loop = f->loop, .config = f->config, .clock = &standing};
}

static void on_closed(void *arg)
{
    *(bool *)arg = true;
}

static void fixture_release(struct fixture *f)
{
    bool is_closed = f->sources.smtp == NULL;
    if (!is_closed)
        smtp_server_close(f->sources.smtp, on_closed, &is_closed);
    LOOP_UNTIL(f->loop, is_closed);
    if (f->sources.svids != NULL)
        svid_store_free(&f->sources.svids);
    config_free(&f->config);
    loop_free(&f->loop);
}

static void take(const json_t *check, const char *key, char *out, size_t cap)
{
    str_copy(out, cap, str_from(json_string_value(json_object_get(check, key))));
}

static void read_finding(struct fixture *f, const struct doctor *d)
{
    static const struct doctor_word words[] = {{NULL, NULL}};
    struct buf b;
    buf_init(&b, 1 << 16);
    assert_true(doctor_write(d, words, &b));
    json_t *o = json_loads(buf_cstr(&b), 0, NULL);
    const json_t *check = json_array_get(json_object_get(o, "checks"), 0);
    take(check, "result", f->result, sizeof f->result);
    take(check, "code", f->code, sizeof f->code);
    take(check, "text", f->text, sizeof f->text);
    json_decref(o);
    buf_release(&b);
}

struct examination {
    struct exam exam;
    bool is_over;
};

static void on_examined(void *arg)
{
    CONTAINER_OF(arg, struct examination, exam)->is_over = true;
}

static void examine(struct fixture *f, void (*run)(void *arg, struct doctor *d, unsigned what))
{
    const struct doctor_check check = {
        .id = "one", .category = "some", .name = "it", .needs = "", .run = run};
    struct examination x = {.exam = {.s = &f->sources}};
    const struct doctor_plan plan = {
        .checks = &check, .n_checks = 1, .arg = &x.exam, .on_done = on_examined};
    struct doctor *d = doctor_start(f->loop, &plan);
    LOOP_UNTIL(f->loop, x.is_over);
    read_finding(f, d);
    doctor_free(&d);
}

/* --- region and role */

static void examine_partition(struct fixture *f, const char *region, const char *partition)
{
    AUTO_FREE char *text =
        xasprintf("gateway: {host: gw, spiffe_ids: ['spiffe://example.org/gw']}\n"
                  "ses: {region: %s}\naws: {role_arn: 'arn:%s:iam::123456789012:role/m'}\n",
                  region, partition);
    fixture_init(f, text);
    examine(f, check_config_values);
    fixture_release(f);
}

TEST(doctor_local, region_and_role_of_one_partition_are_fine_and_others_are_not)
{
    static const struct {
        const char *region, *partition;
    } cases[] = {
        {"eu-central-1", "aws"},
        {"mx-central-1", "aws"},
        {"us-east-1", "aws"},
        {"cn-north-1", "aws-cn"},
        {"us-gov-west-1", "aws-us-gov"},
        {"eusc-de-east-1", "aws-eusc"},
        {"us-iso-east-1", "aws-iso"},
        {"us-isob-east-1", "aws-iso-b"},
        {"eu-isoe-west-1", "aws-iso-e"},
        {"us-isof-south-1", "aws-iso-f"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        for (size_t k = 0; k < ARRAY_LEN(cases); k++) {
            struct fixture f;
            bool is_same = strcmp(cases[i].partition, cases[k].partition) == 0;
            examine_partition(&f, cases[i].region, cases[k].partition);
            if (strcmp(f.code, is_same ? "" : "SM003") != 0)
                fail_msg("%s, %s: %s %s", cases[i].region, cases[k].partition, f.code, f.text);
        }
}

/* --- listeners */

static void start_server(struct fixture *f)
{
    static const struct smtp_events events = {0};
    const struct smtp_server_config cfg = {.hostname = "pod",
                                           .listen = f->config->smtp.addresses,
                                           .n_listen = f->config->smtp.n_addresses,
                                           .max_message_bytes = 1000,
                                           .max_recipients = 1,
                                           .max_connections = 1,
                                           .idle_timeout_ms = 1000};
    struct err e;
    if (!smtp_server_new(f->loop, &cfg, &events, f, &standing, &f->sources.smtp, &e))
        fail_msg("%s", e.msg);
}

static unsigned free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    AUTO_CLOSE int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    return ntohs(at.sin_port);
}

static void listen_on_port(struct fixture *f, const char *form, unsigned port)
{
    AUTO_FREE char *text = xasprintf(
        "gateway: {host: gw, spiffe_ids: ['spiffe://example.org/gw']}\n"
        "ses: {region: eu-central-1}\naws: {role_arn: 'arn:aws:iam::123456789012:role/m'}\n"
        "smtp: {allow_any_address: true, listen: ['%s%u']}\n",
        form, port);
    fixture_init(f, text);
}

static void listen_on(struct fixture *f, const char *form)
{
    listen_on_port(f, form, free_port());
}

TEST(doctor_local, an_address_that_is_open_is_found_however_it_was_written)
{
    static const char *const forms[] = {
        "127.0.0.1:", "127.0.0.1:0", "0.0.0.0:", ":", "[::]:", "[0:0::1]:"};
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        struct fixture f;
        listen_on(&f, forms[i]);
        start_server(&f);
        examine(&f, check_listeners);
        if (f.code[0] != '\0' || strstr(f.text, f.config->smtp.listen[0]) == NULL)
            fail_msg("%s: %s", f.code, f.text);
        fixture_release(&f);
    }
}

TEST(doctor_local, every_address_is_open_by_ipv4_alone_where_there_is_no_ipv6)
{
    static const struct {
        const char *wanted, *code;
    } cases[] = {{":", ""}, {"[::]:", "SM006"}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct fixture f, open;
        listen_on(&open, "0.0.0.0:");
        start_server(&open);
        listen_on_port(&f, cases[i].wanted, open.config->smtp.addresses[0].port);
        f.sources.smtp = open.sources.smtp;
        examine(&f, check_listeners);
        assert_string_equal(f.code, cases[i].code);
        f.sources.smtp = NULL;
        fixture_release(&f);
        fixture_release(&open);
    }
}

TEST(doctor_local, an_address_that_is_not_open_is_told)
{
    struct fixture f, other;
    listen_on(&other, "127.0.0.1:");
    start_server(&other);
    listen_on(&f, "127.0.0.2:");
    f.sources.smtp = other.sources.smtp;
    examine(&f, check_listeners);
    assert_string_equal(f.code, "SM006");
    assert_non_null(strstr(f.text, f.config->smtp.listen[0]));
    f.sources.smtp = NULL;
    fixture_release(&f);
    fixture_release(&other);
}

/* --- bundles */

static struct svid_bundle bundle_of(const char *domain, int64_t left_s)
{
    struct cert_spec spec = certs_ca_spec(domain);
    spec.not_after_s = CERTS_NOW_S + left_s;
    struct cert ca = certs_issue(&spec, NULL);
    struct svid_bundle b = {.trust_domain = xstrdup(domain), .store = X509_STORE_new(), .n_cas = 1};
    assert_int_equal(X509_STORE_add_cert(b.store, ca.x509), 1);
    certs_release(&ca);
    return b;
}

/* For a gateway of either of two trust domains. */
static void examine_bundles(struct fixture *f, int64_t first_left_s, int64_t second_left_s)
{
    static const struct svid_choice choices[SVID_ROLE_COUNT] = {{"", ""}, {"", ""}};
    fixture_init(f, "gateway: {host: gw, spiffe_ids: ['spiffe://first.test/gw', "
                    "'spiffe://second.test/gw']}\nses: {region: eu-central-1}\n"
                    "aws: {role_arn: 'arn:aws:iam::123456789012:role/m'}\n");
    f->sources.svids = svid_store_new(choices, &standing, f->loop);
    struct svid_set *set = svid_set_new(0, 2);
    set->n_bundles = 2;
    set->bundles[0] = bundle_of("first.test", first_left_s);
    set->bundles[1] = bundle_of("second.test", second_left_s);
    svid_store_publish(f->sources.svids, &set);
    examine(f, check_bundle);
    fixture_release(f);
}

TEST(doctor_local, the_bundle_that_ends_first_is_named_with_its_own_time)
{
    struct fixture f;
    examine_bundles(&f, 2 * 3600, 50 * 86400);
    assert_string_equal(f.text, "of first.test, its last CA has 2 h left");
    examine_bundles(&f, 50 * 86400, 2 * 3600);
    assert_string_equal(f.text, "of second.test, its last CA has 2 h left");
    examine_bundles(&f, 2 * 3600, -3600);
    assert_string_equal(f.code, "SM029");
}
