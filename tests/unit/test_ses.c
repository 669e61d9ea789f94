// SPDX-License-Identifier: Apache-2.0
/* http is the test's own: it takes a request, reads its body in pieces of a size, and answers when
 * told to. */
#include "test.h"

#include "aws/ses.h"
#include "aws/sigv4.h"
#include "base/mem.h"
#include "fake_time.h"
#include "loop_fixture.h"
#include "sys/log.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HOST    "email.eu-central-1.amazonaws.com"
#define HOUR_MS INT64_C(3600000)

/* ---- in the place of http.c ---- */

struct http_call {
    bool is_used;
};

static struct fake_http {
    struct http_call call;
    unsigned n_sent, n_cancelled;
    bool has_left; /* what a cancelled call may have done */
    struct http_request r;
    char headers[8][2][1024];
    char *body;
    size_t body_len;
    bool is_read; /* body_read never failed */
    size_t piece; /* bytes asked for at once */
    http_done_cb cb;
    void *arg;
} http;

static void read_whole_body(struct fake_http *h)
{
    free(h->body);
    h->body = xcalloc(h->r.body_len + 1, 1);
    h->body_len = 0;
    h->is_read = true;
    while (h->is_read && h->body_len < h->r.body_len) {
        size_t n = 0, left = h->r.body_len - h->body_len;
        h->is_read = h->r.body_read(h->r.body_arg, h->body + h->body_len,
                                    left < h->piece ? left : h->piece, &n) &&
                     n > 0;
        h->body_len += n;
    }
}

struct http_call *http_send(struct http *h, const struct http_request *r, http_done_cb cb,
                            void *arg)
{
    (void)h;
    assert_false(http.call.is_used);
    http.call.is_used = true;
    http.n_sent++;
    http.r = *r;
    assert_true(r->n_headers <= ARRAY_LEN(http.headers));
    for (size_t i = 0; i < r->n_headers; i++) {
        snprintf(http.headers[i][0], sizeof http.headers[i][0], "%s", r->headers[i].name);
        snprintf(http.headers[i][1], sizeof http.headers[i][1], "%s", r->headers[i].value);
    }
    http.cb = cb;
    http.arg = arg;
    return &http.call;
}

enum http_outcome http_cancel(struct http_call **c)
{
    if (*c != NULL) {
        http.n_cancelled++;
        http.call.is_used = false;
    }
    *c = NULL;
    return http.has_left ? HTTP_UNKNOWN : HTTP_NOT_SENT;
}

static const char *header(const char *name)
{
    for (size_t i = 0; i < http.r.n_headers; i++)
        if (strcasecmp(http.headers[i][0], name) == 0)
            return http.headers[i][1];
    return "";
}

static void respond(const struct http_response *r)
{
    assert_true(http.call.is_used);
    http.call.is_used = false;
    http.cb(http.arg, r);
}

static void answer(int status, const char *type, const char *body)
{
    struct http_response r = {
        .outcome = HTTP_ANSWERED, .status = status, .body = str_from(body), .total_us = 7};
    snprintf(r.error_type, sizeof r.error_type, "%s", type);
    snprintf(r.request_id, sizeof r.request_id, "req-1");
    /* Who is in between could have a mail signed for when it means to send it again. */
    snprintf(r.date, sizeof r.date, "Mon, 01 Jun 2026 00:55:00 GMT");
    snprintf(r.peer_id, sizeof r.peer_id, "spiffe://example.org/gateway");
    respond(&r);
}

/* ---- a source of credentials ---- */

static unsigned n_issued;
static bool is_source_down;
static int64_t awss_offset_ms;

struct fetch {
    credentials_fetched_cb cb;
    void *arg;
} fetch;

static void source_fetch(void *self, bool fresh_identity, credentials_fetched_cb cb, void *arg)
{
    (void)self, (void)fresh_identity;
    fetch = (struct fetch){cb, arg};
}

static void source_nothing(void *self)
{
    (void)self;
}

/* ---- the world ---- */

static struct world {
    const struct clock *clock;
    uv_loop_t *loop;
    struct credentials *credentials;
    struct ses *ses;
    struct ses_tag tags[2];
    struct ses_config cfg;
    struct mail_path to[SES_RECIPIENTS_MAX];
    struct ses_mail mail;
    struct ses_call *call;
    unsigned n_done;
    struct ses_verdict v;
} w;

static void issue(void)
{
    struct fetch f = fetch;
    fetch.cb = NULL;
    if (is_source_down) {
        struct err e;
        err_set(&e, ERR_DENIED, 0, "STS: AccessDenied");
        f.cb(f.arg, NULL, &e);
        return;
    }
    struct aws_credentials *set = xcalloc(1, sizeof *set);
    set->refs = 1;
    set->access_key_id = xasprintf("ASIA%u", ++n_issued);
    set->secret_access_key = xasprintf("secret%u", n_issued);
    set->session_token = xasprintf("token%u", n_issued);
    set->issued_at_ms = clock_wall_ms(w.clock);
    set->expires_at_ms = set->issued_at_ms + HOUR_MS;
    set->clock_offset_ms = awss_offset_ms;
    f.cb(f.arg, set, NULL);
}

/* Time, the loop and credentials, until it wants something else. */
static void turn(void)
{
    for (int i = 0; i < 30; i++) {
        fake_time_advance(0);
        uv_run(w.loop, UV_RUN_NOWAIT);
        if (fetch.cb != NULL)
            issue();
    }
}

static void add_recipient(const char *address)
{
    struct mail_path *p = &w.to[w.mail.n_recipients++];
    p->len = (uint16_t)strlen(address);
    snprintf(p->text, sizeof p->text, "%s", address);
}

static void world_start(void)
{
    log_init(LOG_ERROR, LOG_JSON);
    free(http.body);
    http = (struct fake_http){.piece = 16384};
    n_issued = 0;
    is_source_down = false;
    awss_offset_ms = 0;
    fetch.cb = NULL;
    w = (struct world){.clock = fake_time_start(), .loop = loop_new()};
    w.credentials = credentials_new(
        (struct credentials_source){"fake", NULL, source_fetch, source_nothing, source_nothing},
        w.clock, NULL);
    w.cfg = (struct ses_config){.host = HOST,
                                .region = "eu-central-1",
                                .configuration_set = "",
                                .from_identity_arn = "",
                                .tenant = "",
                                .timeout_ms = 30000};
    w.mail.recipients = w.to;
    w.mail.fd = -1;
    add_recipient("a@b.example");
}

static char mail_byte(uint64_t i)
{
    return (char)(i * 31 + i / 251 + i / 65537);
}

static void make_mail(uint64_t len)
{
    w.mail.fd = memfd_create("mail", MFD_CLOEXEC);
    w.mail.len = len;
    AUTO_FREE char *bytes = xcalloc(len + 1, 1);
    for (uint64_t i = 0; i < len; i++)
        bytes[i] = mail_byte(i);
    assert_int_equal(write(w.mail.fd, bytes, len), len);
}

static void on_verdict(void *arg, const struct ses_verdict *v)
{
    (void)arg;
    w.n_done++;
    w.v = *v;
    w.call = NULL;
}

static void start_send(void)
{
    if (w.ses == NULL)
        w.ses = ses_new(&w.cfg, NULL, NULL, w.credentials, w.clock, w.loop);
    unsigned before = w.n_done;
    w.call = ses_send(w.ses, &w.mail, on_verdict, NULL);
    assert_int_equal(w.n_done, before); /* never from inside */
}

static void world_stop(void)
{
    ses_free(&w.ses);
    credentials_free(&w.credentials);
    assert_int_equal(fake_time_n_timers(), 0);
    loop_free(&w.loop);
    free(http.body);
    http.body = NULL;
    if (w.mail.fd >= 0)
        close(w.mail.fd);
}

/* ---- reading what was sent ---- */

static int sextet(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *p = strchr(digits, c);
    assert_true(c != '\0' && p != NULL);
    return (int)(p - digits);
}

static void check_base64_is_the_mail(const char *text)
{
    size_t len = strlen(text);
    assert_int_equal(len, (w.mail.len + 2) / 3 * 4);
    for (uint64_t i = 0; i < w.mail.len; i++) {
        const char *q = text + i / 3 * 4 + i % 3;
        int got =
            ((sextet(q[0]) << (2 + 2 * (int)(i % 3))) | (sextet(q[1]) >> (4 - 2 * (int)(i % 3)))) &
            255;
        if ((char)got != mail_byte(i))
            fail_msg("byte %llu", (unsigned long long)i);
    }
    for (size_t pad = (3 - w.mail.len % 3) % 3; pad > 0; pad--)
        assert_int_equal(text[len - pad], '=');
}

static json_t *read_body(void)
{
    read_whole_body(&http);
    assert_true(http.is_read);
    json_error_t e;
    json_t *root = json_loadb(http.body, http.body_len, JSON_REJECT_DUPLICATES, &e);
    if (root == NULL)
        fail_msg("%s at %d", e.text, e.position);
    return root;
}

static const char *text_at(const json_t *root, const char *a, const char *b, const char *c)
{
    const json_t *v = json_object_get(root, a);
    if (b != NULL)
        v = json_object_get(v, b);
    if (c != NULL)
        v = json_object_get(v, c);
    return json_string_value(v);
}

/* The signature covers what was really sent. */
static void check_signature(const char *key, const char *secret, int64_t wall_ms)
{
    char hash[SIGV4_SHA256_HEX], date[17];
    sigv4_sha256_hex((struct str){http.body, http.body_len}, hash);
    assert_string_equal(header("x-amz-date"), sigv4_date(date, wall_ms));
    const struct sigv4_header headers[] = {
        {"host", HOST},
        {"content-type", "application/json"},
        {"x-amz-date", header("x-amz-date")},
        {"x-amz-security-token", header("x-amz-security-token")}};
    const struct sigv4_request r = {.method = "POST",
                                    .path = STR("/v2/email/outbound-emails"),
                                    .query = STR(""),
                                    .headers = headers,
                                    .n_headers = ARRAY_LEN(headers),
                                    .body_sha256 = hash,
                                    .normalize_path = true};
    const struct sigv4_credentials c = {key, secret, NULL};
    const struct sigv4_scope s = {"eu-central-1", "ses", wall_ms};
    struct buf authorization;
    struct err e;
    buf_init(&authorization, 4096);
    assert_true(sigv4_sign(&r, &c, &s, &authorization, NULL, NULL, &e));
    assert_string_equal(header("authorization"), buf_cstr(&authorization));
    buf_release(&authorization);
}

/* ---- tests ---- */

TEST(ses, the_request_is_what_ses_wants)
{
    world_start();
    add_recipient("\"odd \\\"name\\\"\"@c.example");
    static char names[2][4] = {"app", "env"}, values[2][5] = {"shop", "prod"};
    w.tags[0] = (struct ses_tag){names[0], values[0]};
    w.tags[1] = (struct ses_tag){names[1], values[1]};
    w.cfg.tags = w.tags;
    w.cfg.n_tags = 2;
    w.cfg.configuration_set = "shop-set";
    w.cfg.from_identity_arn = "arn:aws:ses:eu-central-1:1:identity/x";
    w.cfg.tenant = "t1";
    make_mail(1000);
    start_send();
    turn();
    assert_int_equal(http.n_sent, 1);
    assert_string_equal(http.r.method, "POST");
    assert_string_equal(http.r.path, "/v2/email/outbound-emails");
    assert_string_equal(http.r.host, HOST);
    assert_false(http.r.is_https);
    assert_false(http.r.wants_new_connection);
    assert_int_equal(http.r.timeout_ms, 30000);
    json_t *root = read_body();
    check_base64_is_the_mail(text_at(root, "Content", "Raw", "Data"));
    const json_t *to = json_object_get(json_object_get(root, "Destination"), "ToAddresses");
    assert_int_equal(json_array_size(to), 2);
    assert_string_equal(json_string_value(json_array_get(to, 0)), "a@b.example");
    assert_string_equal(json_string_value(json_array_get(to, 1)), "\"odd \\\"name\\\"\"@c.example");
    assert_string_equal(text_at(root, "ConfigurationSetName", NULL, NULL), "shop-set");
    assert_string_equal(text_at(root, "FromEmailAddressIdentityArn", NULL, NULL),
                        w.cfg.from_identity_arn);
    assert_string_equal(text_at(root, "TenantName", NULL, NULL), "t1");
    const json_t *tag = json_array_get(json_object_get(root, "EmailTags"), 1);
    assert_string_equal(text_at(tag, "Name", NULL, NULL), "env");
    assert_string_equal(text_at(tag, "Value", NULL, NULL), "prod");
    assert_int_equal(json_object_size(root), 6);
    json_decref(root);
    assert_int_equal(http.r.n_headers, 4);
    assert_string_equal(header("x-amz-security-token"), "token1");
    check_signature("ASIA1", "secret1", FAKE_WALL_START_MS);
    answer(200, "", "{\"MessageId\":\"m-1\"}");
    assert_int_equal(w.n_done, 1);
    assert_int_equal(w.v.outcome, SES_DELIVERED);
    assert_string_equal(w.v.message_id, "m-1");
    assert_string_equal(w.v.peer_id, "spiffe://example.org/gateway");
    assert_int_equal(w.v.total_us, 7);
    world_stop();
}

TEST(ses, what_is_not_configured_is_not_said)
{
    world_start();
    w.cfg.is_end_to_end = true;
    make_mail(10);
    start_send();
    turn();
    assert_true(http.r.is_https);
    json_t *root = read_body();
    assert_int_equal(json_object_size(root), 2);
    json_decref(root);
    answer(200, "", "{\"MessageId\":\"m-1\"}");
    world_stop();
}

TEST(ses, a_mail_of_any_length_comes_in_pieces_of_any_size)
{
    static const uint64_t lengths[] = {0,     1,     2,     3,     65535, 65536,
                                       65537, 98303, 98304, 98305, 98306, 1000000};
    static const size_t pieces[] = {1, 3, 15, 4096, 16384, 65536, 10000000};
    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        for (size_t k = lengths[i] > 100000 ? 2 : 0; k < ARRAY_LEN(pieces); k++) {
            world_start();
            http.piece = pieces[k];
            make_mail(lengths[i]);
            start_send();
            turn();
            json_t *root = read_body();
            if (k == 3)
                check_base64_is_the_mail(text_at(root, "Content", "Raw", "Data"));
            json_decref(root);
            check_signature("ASIA1", "secret1", FAKE_WALL_START_MS);
            answer(200, "", "{\"MessageId\":\"m\"}");
            assert_int_equal(w.v.outcome, SES_DELIVERED);
            world_stop();
        }
    }
}

TEST(ses, fifty_long_recipients_fit)
{
    world_start();
    char longest[320];
    memset(longest, 'x', 64);
    snprintf(longest + 64, sizeof longest - 64, "@%0*d.example", 190, 7);
    while (w.mail.n_recipients < SES_RECIPIENTS_MAX)
        add_recipient(longest);
    make_mail(100);
    start_send();
    turn();
    json_t *root = read_body();
    assert_int_equal(
        json_array_size(json_object_get(json_object_get(root, "Destination"), "ToAddresses")), 50);
    json_decref(root);
    answer(200, "", "{\"MessageId\":\"m\"}");
    world_stop();
}

TEST(ses, a_refusal_is_the_verdict)
{
    world_start();
    make_mail(100);
    start_send();
    turn();
    answer(400, "MessageRejected",
           "{\"message\":\"Email address is not verified. The following identities failed the "
           "check in region EU-CENTRAL-1: a@b.example\"}");
    assert_int_equal(w.v.outcome, SES_REJECTED);
    assert_string_equal(w.v.error, "recipient_not_verified"); /* it knows the recipients */
    assert_int_equal(http.n_sent, 1);
    world_stop();
}

TEST(ses, a_probe_is_signed_and_holds_no_mail)
{
    world_start();
    w.ses = ses_new(&w.cfg, NULL, NULL, w.credentials, w.clock, w.loop);
    w.call = ses_probe(w.ses, on_verdict, NULL);
    assert_int_equal(w.n_done, 0);
    turn();
    assert_string_equal(http.r.method, "POST");
    assert_string_equal(http.r.path, "/v2/email/outbound-emails");
    read_whole_body(&http);
    assert_string_equal(http.body, "{}");
    assert_string_equal(header("x-amz-security-token"), "token1");
    assert_int_equal(strncmp(header("authorization"), "AWS4-HMAC-SHA256 Credential=ASIA1/", 34), 0);
    answer(400, "BadRequestException", "{\"message\":\"no content\"}");
    assert_int_equal(w.n_done, 1);
    assert_string_equal(w.v.error, "bad_request");
    w.call = ses_probe(w.ses, on_verdict, NULL);
    assert_null(ses_cancel(&w.call) == NULL ? "what it waits for" : NULL);
    world_stop();
}

TEST(ses, expired_credentials_are_replaced_once)
{
    world_start();
    make_mail(200000);
    start_send();
    turn();
    answer(403, "ExpiredTokenException", "{}");
    turn();
    assert_int_equal(w.n_done, 0);
    assert_int_equal(http.n_sent, 2);
    assert_string_equal(header("x-amz-security-token"), "token2");
    json_decref(read_body()); /* from the start again */
    check_signature("ASIA2", "secret2", FAKE_WALL_START_MS);
    answer(403, "ExpiredTokenException", "{}");
    assert_int_equal(w.n_done, 1);
    assert_int_equal(w.v.outcome, SES_RETRY);
    assert_int_equal(w.v.reply.code, 451);
    world_stop();
}

TEST(ses, a_wrong_clock_is_corrected_by_new_credentials_and_never_by_the_answers_date)
{
    world_start();
    awss_offset_ms = 600000;
    make_mail(100);
    start_send();
    turn();
    answer(403, "InvalidSignatureException",
           "{\"message\":\"Signature expired: x is now earlier than y\"}");
    turn();
    assert_int_equal(http.n_sent, 2);
    json_decref(read_body());
    check_signature("ASIA2", "secret2", FAKE_WALL_START_MS + 600000);
    answer(200, "", "{\"MessageId\":\"m\"}");
    start_send();
    turn();
    json_decref(read_body());
    check_signature("ASIA2", "secret2", FAKE_WALL_START_MS + 600000);
    answer(200, "", "{\"MessageId\":\"m\"}");
    assert_int_equal(w.n_done, 2);
    assert_int_equal(http.n_sent, 3);
    world_stop();
}

TEST(ses, a_wrong_clock_that_new_credentials_do_not_correct_is_told)
{
    world_start();
    make_mail(100);
    start_send();
    turn();
    answer(403, "RequestTimeTooSkewed", "{}");
    turn();
    assert_int_equal(w.n_done, 0);
    json_decref(read_body());
    check_signature("ASIA2", "secret2", FAKE_WALL_START_MS);
    answer(403, "RequestTimeTooSkewed", "{}");
    assert_int_equal(w.n_done, 1);
    assert_string_equal(w.v.error, "clock_skew");
    world_stop();
}

static struct http_response lost(enum http_outcome outcome, bool is_new)
{
    struct http_response r = {.outcome = outcome, .is_new_connection = is_new};
    stream_end_set(&r.tunnel_end, END_RESET, "gateway", "");
    r.err = r.tunnel_end.err;
    return r;
}

TEST(ses, a_dead_kept_connection_is_tried_once_more_on_a_new_one)
{
    world_start();
    make_mail(100);
    start_send();
    turn();
    struct http_response r = lost(HTTP_NOT_SENT, false);
    respond(&r);
    turn();
    assert_int_equal(http.n_sent, 2);
    assert_true(http.r.wants_new_connection);
    assert_int_equal(n_issued, 1);
    respond(&r);
    turn();
    assert_int_equal(w.n_done, 1);
    assert_int_equal(http.n_sent, 2);
    assert_string_equal(w.v.error, "stream_reset");
    world_stop();
}

TEST(ses, what_may_have_been_taken_is_never_sent_again)
{
    for (int is_new = 0; is_new < 2; is_new++) {
        world_start();
        make_mail(100);
        start_send();
        turn();
        struct http_response r = lost(HTTP_UNKNOWN, is_new);
        respond(&r);
        turn();
        assert_int_equal(w.n_done, 1);
        assert_int_equal(w.v.outcome, SES_UNKNOWN);
        assert_int_equal(http.n_sent, 1);
        world_stop();
    }
}

TEST(ses, each_cure_is_tried_but_only_once)
{
    world_start();
    make_mail(100);
    start_send();
    turn();
    struct http_response r = lost(HTTP_NOT_SENT, false);
    respond(&r);
    turn();
    answer(403, "ExpiredTokenException", "{}");
    turn();
    fake_time_advance(120000); /* refused sooner, the second set would make the third one wait */
    answer(403, "RequestTimeTooSkewed", "{}");
    turn();
    assert_int_equal(http.n_sent, 4);
    answer(403, "ExpiredTokenException", "{}");
    turn();
    assert_int_equal(w.n_done, 1);
    assert_int_equal(http.n_sent, 4);
    world_stop();
}

TEST(ses, without_credentials_nothing_is_sent)
{
    world_start();
    is_source_down = true;
    make_mail(100);
    start_send();
    turn();
    assert_int_equal(w.n_done, 1);
    assert_int_equal(http.n_sent, 0);
    assert_string_equal(w.v.error, "credentials_denied");
    assert_non_null(strstr(w.v.reply.text, "STS: AccessDenied"));
    world_stop();
}

TEST(ses, what_cannot_be_signed_is_not_sent)
{
    world_start();
    make_mail(100);
    w.cfg.region = xcalloc(5000, 1);
    memset((char *)(uintptr_t)w.cfg.region, 'x', 4999);
    start_send();
    turn();
    assert_int_equal(w.n_done, 1);
    assert_int_equal(w.v.outcome, SES_RETRY);
    assert_int_equal(http.n_sent, 0);
    free((char *)(uintptr_t)w.cfg.region);
    world_stop();
}

TEST(ses, a_mail_that_cannot_be_read_is_told_as_ours)
{
    static const uint64_t lengths[] = {100, 200000};
    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        world_start();
        make_mail(lengths[i]);
        w.mail.len += 5; /* shorter than it should be */
        start_send();
        turn();
        assert_int_equal(w.n_done, 1);
        assert_int_equal(w.v.outcome, SES_RETRY);
        assert_string_equal(w.v.error, "spool_read");
        assert_int_equal(http.n_sent, 0);
        world_stop();
    }
}

TEST(ses, a_mail_that_is_lost_while_it_is_sent_is_told_as_ours)
{
    world_start();
    make_mail(200000);
    start_send();
    turn();
    assert_int_equal(http.n_sent, 1);
    assert_int_equal(ftruncate(w.mail.fd, 150000), 0);
    read_whole_body(&http);
    assert_false(http.is_read);
    struct http_response r = {.outcome = HTTP_NOT_SENT, .is_new_connection = true};
    err_set(&r.err, ERR_IO, 0, "the body could not be read");
    respond(&r);
    assert_string_equal(w.v.error, "spool_read");
    assert_non_null(strstr(w.v.reply.text, "the stored mail cannot be read: Input/output error"));
    world_stop();
}

TEST(ses, a_cancelled_call_is_over_at_every_stage_and_says_what_it_waited_for)
{
    static const struct {
        uint64_t len;
        bool has_credentials, is_taken, has_left;
        const char *waited_for; /* NULL: it may have left */
    } stages[] = {
        {2000000, false, false, false, "its turn"},
        {100, false, false, false, "AWS credentials"},
        {100, true, false, false, "the gateway to take it"},
        {100, true, true, false, "the gateway to take it"}, /* it lies in a socket */
        {100, true, true, true, NULL},
        {200000, true, true, true, NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(stages); i++) {
        world_start();
        make_mail(stages[i].len);
        start_send();
        if (stages[i].has_credentials)
            turn();
        if (stages[i].is_taken)
            read_whole_body(&http);
        http.has_left = stages[i].has_left;
        const char *waited_for = ses_cancel(&w.call);
        assert_null(w.call);
        if (stages[i].waited_for == NULL)
            assert_null(waited_for);
        else
            assert_string_equal(waited_for, stages[i].waited_for);
        turn();
        assert_int_equal(w.n_done, 0);
        assert_int_equal(http.n_cancelled, stages[i].has_credentials);
        world_stop();
    }
}
