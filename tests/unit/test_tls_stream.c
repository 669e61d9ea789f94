// SPDX-License-Identifier: Apache-2.0
#include "identity/tls_stream.h"
#include "base/mem.h"
#include "sys/log.h"
#include "sys/metrics.h"

#include "gateway_fixture.h"
#include "loop_fixture.h"
#include "test.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- an owner that writes down what happens ---- */

enum place { NOWHERE, ON_OPEN, ON_READ, ON_DRAIN, ON_END };

struct bed {
    uv_loop_t *loop;
    struct mesh mesh;
    struct gateway *gw;
    struct tls_stream_target target;
    struct tls_stream *s;
    struct buf got;
    int n_opened, n_reads, n_drained, n_ended;
    struct stream_end end;
    bool in_call, is_paused, stops_after_read;
    enum place close_in, abort_in;
};

static void act(struct bed *b, enum place where)
{
    assert_false(b->in_call);
    if (b->abort_in == where)
        tls_stream_abort(b->s, END_CANCELED, "");
    if (b->close_in == where)
        tls_stream_close(&b->s);
}

static void on_open(void *arg)
{
    struct bed *b = arg;
    b->n_opened++;
    if (!b->is_paused)
        tls_stream_read_start(b->s);
    act(b, ON_OPEN);
}

static void on_read(void *arg, struct str plain)
{
    struct bed *b = arg;
    assert_int_equal(b->n_ended, 0);
    b->n_reads++;
    assert_true(buf_append_str(&b->got, plain));
    if (b->stops_after_read)
        tls_stream_read_stop(b->s);
    act(b, ON_READ);
}

static void on_drain(void *arg)
{
    struct bed *b = arg;
    b->n_drained++;
    act(b, ON_DRAIN);
}

static void on_end(void *arg, const struct stream_end *end)
{
    struct bed *b = arg;
    b->n_ended++;
    b->end = *end;
    act(b, ON_END);
}

static const struct tls_stream_events events = {on_open, on_read, on_drain, on_end};

static struct gateway_config serving(const struct bed *b)
{
    return (struct gateway_config){.leaf = &b->mesh.gateway, .client_ca = &b->mesh.ca};
}

static void bed_init(struct bed *b)
{
    memset(b, 0, sizeof *b);
    b->loop = loop_new();
    buf_init(&b->got, 64u << 20);
    mesh_init(&b->mesh, b->loop);
    mesh_publish(&b->mesh, (struct mesh_offer){0});
    log_init(LOG_ERROR, LOG_JSON);
}

static void bed_open(struct bed *b)
{
    struct tls_context *c = mesh_context(&b->mesh);
    b->in_call = true;
    b->s = tls_stream_open(b->loop, c, &b->target, &events, b);
    b->in_call = false;
    tls_context_unref(&c);
}

static void bed_serve(struct bed *b, struct gateway_config cfg)
{
    b->gw = gateway_new(b->loop, &cfg);
    b->target = mesh_target(&b->mesh, b->gw->port);
    bed_open(b);
}

/* The usual case: both sides are open. */
static struct gateway_conn *bed_connect(struct bed *b)
{
    bed_init(b);
    bed_serve(b, serving(b));
    LOOP_UNTIL(b->loop, b->n_opened == 1 && b->gw->n_conns == 1 && b->gw->conns[0]->is_open);
    return b->gw->conns[0];
}

static void bed_release(struct bed *b)
{
    tls_stream_close(&b->s);
    if (b->gw != NULL)
        gateway_free(&b->gw);
    mesh_release(&b->mesh);
    loop_free(&b->loop);
    buf_release(&b->got);
    assert_int_equal(metric_get(M_GATEWAY_CONNECTIONS, METRIC_NONE), 0);
}

static bool put(struct bed *b, struct str plain)
{
    b->in_call = true;
    bool ok = tls_stream_write(b->s, plain);
    b->in_call = false;
    return ok;
}

static void resume(struct bed *b)
{
    b->in_call = true;
    tls_stream_read_start(b->s);
    b->in_call = false;
}

static bool gateway_got(const struct gateway_conn *c, const char *z)
{
    return str_eq(buf_str(&c->got), str_from(z));
}

static void fill(char *p, size_t len, size_t at)
{
    for (size_t i = 0; i < len; i++)
        p[i] = (char)(((at + i) * 2654435761u) >> 13);
}

static void assert_pattern(struct str s)
{
    char chunk[8192];
    for (size_t at = 0; at < s.len; at += sizeof chunk) {
        size_t n = s.len - at < sizeof chunk ? s.len - at : sizeof chunk;
        fill(chunk, n, at);
        assert_memory_equal(chunk, s.p + at, n);
    }
}

static size_t fill_up(struct bed *b, size_t at, size_t chunk_len)
{
    char *chunk = xcalloc(1, chunk_len);
    size_t sum = 0;
    for (;;) {
        fill(chunk, chunk_len, at + sum);
        if (!put(b, (struct str){chunk, chunk_len}))
            break;
        sum += chunk_len;
        assert_true(sum < (48u << 20));
    }
    free(chunk);
    return sum;
}

/* Of the whole process; 0 without ASan. */
size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));
static size_t allocated(void)
{
    return __sanitizer_get_current_allocated_bytes != NULL
               ? __sanitizer_get_current_allocated_bytes()
               : 0;
}

static double handshakes(const char *result)
{
    return metric_get(M_GATEWAY_HANDSHAKES, METRIC_L(result));
}

/* Opens against a gateway with this configuration and waits for the end. */
static void expect_end(struct bed *b, struct gateway_config cfg, enum stream_end_cause cause)
{
    double before = handshakes(stream_end_name(cause));
    bed_serve(b, cfg);
    LOOP_UNTIL(b->loop, b->n_ended == 1);
    if (b->end.cause != cause)
        fail_msg("%s instead of %s: %s", stream_end_name(b->end.cause), stream_end_name(cause),
                 b->end.err.msg);
    assert_true(b->end.err.code != ERR_NONE);
    assert_non_null(strstr(b->end.err.msg, "gateway 127.0.0.1:"));
    assert_true(handshakes(stream_end_name(cause)) == before + 1);
    loop_settle(b->loop);
    assert_int_equal(b->n_ended, 1);
}

/* ---- working ---- */

TEST(tls_stream, bytes_go_both_ways)
{
    struct bed b;
    double ok = handshakes("ok");
    struct gateway_conn *c = bed_connect(&b);
    assert_true(handshakes("ok") == ok + 1);
    assert_int_equal(metric_get(M_GATEWAY_CONNECTIONS, METRIC_NONE), 1);
    assert_string_equal(tls_stream_peer(b.s)->id.text, MESH_GATEWAY);
    assert_string_equal(c->sni, "email.eu-west-1.amazonaws.com");
    assert_string_equal(SSL_get_version(c->ssl), "TLSv1.3");
    assert_true(put(&b, STR("POST /")));
    LOOP_UNTIL(b.loop, gateway_got(c, "POST /"));
    gateway_write(c, STR("200 OK"));
    LOOP_UNTIL(b.loop, str_eq(buf_str(&b.got), STR("200 OK")));
    assert_int_equal(b.n_ended, 0);
    bed_release(&b);
}

TEST(tls_stream, what_is_written_before_it_is_open_is_sent_then)
{
    struct bed b;
    bed_init(&b);
    bed_serve(&b, serving(&b));
    assert_true(put(&b, STR("early ")));
    assert_true(put(&b, STR("bird")));
    LOOP_UNTIL(b.loop, b.gw->n_conns == 1 && gateway_got(b.gw->conns[0], "early bird"));
    assert_int_equal(b.n_opened, 1);
    bed_release(&b);
}

TEST(tls_stream, more_than_a_record_waits_for_the_handshake)
{
    struct bed b;
    bed_init(&b);
    bed_serve(&b, serving(&b));
    size_t sum = fill_up(&b, 0, 1000);
    assert_in_range(sum, 1, 16384);
    LOOP_UNTIL(b.loop, b.n_drained == 1);
    assert_int_equal(b.n_opened, 1);
    LOOP_UNTIL(b.loop, b.gw->conns[0]->n_got == sum);
    bed_release(&b);
}

TEST(tls_stream, small_writes_of_one_turn_make_one_record)
{
    struct bed b;
    struct gateway_conn *c = bed_connect(&b);
    for (int i = 0; i < 100; i++)
        assert_true(put(&b, STR("RCPT TO:<a@example.org>\r\n")));
    size_t before = (size_t)BIO_number_read(SSL_get_rbio(c->ssl));
    LOOP_UNTIL(b.loop, c->n_got == 2500);
    size_t wire = (size_t)BIO_number_written(SSL_get_rbio(c->ssl)) - before;
    assert_in_range(wire, 2500, 2500 + 30); /* one header, one tag */
    bed_release(&b);
}

TEST(tls_stream, a_large_write_arrives_whole_and_in_order)
{
    struct bed b;
    struct gateway_conn *c = bed_connect(&b);
    size_t len = 777777;
    char *big = xcalloc(1, len);
    fill(big, len, 0);
    assert_true(put(&b, (struct str){big, 100}));
    assert_true(put(&b, (struct str){big + 100, len - 100}));
    LOOP_UNTIL(b.loop, c->n_got == len);
    assert_pattern(buf_str(&c->got));
    free(big);
    bed_release(&b);
}

TEST(tls_stream, a_trickling_gateway_is_understood_byte_by_byte)
{
    struct bed b;
    bed_init(&b);
    struct gateway_config cfg = serving(&b);
    cfg.is_trickling = true;
    cfg.is_echo = true;
    bed_serve(&b, cfg);
    LOOP_UNTIL(b.loop, b.n_opened == 1);
    assert_true(put(&b, STR("drop by drop")));
    LOOP_UNTIL(b.loop, str_eq(buf_str(&b.got), STR("drop by drop")));
    gateway_close_notify(b.gw->conns[0]);
    LOOP_UNTIL(b.loop, b.n_ended == 1);
    assert_int_equal(b.end.cause, END_CLEAN);
    bed_release(&b);
}

TEST(tls_stream, a_gateway_that_does_not_read_bounds_what_is_taken)
{
    struct bed b;
    struct gateway_conn *c = bed_connect(&b);
    gateway_pause(c, true);
    size_t before = allocated(), sum = fill_up(&b, 0, 30000);
    assert_true(allocated() <= before + 512 * 1024);
    assert_false(put(&b, STR("x")));
    loop_run_for(b.loop, 30);
    assert_false(put(&b, STR("x")));
    assert_int_equal(b.n_drained, 0);
    gateway_pause(c, false);
    for (int i = 1; i <= 3; i++) {
        LOOP_UNTIL(b.loop, b.n_drained >= i);
        sum += fill_up(&b, sum, i == 2 ? 1 : 30000);
    }
    LOOP_UNTIL(b.loop, c->n_got == sum);
    assert_pattern(buf_str(&c->got));
    bed_release(&b);
}

TEST(tls_stream, a_drain_is_told_once_and_only_after_a_refusal)
{
    struct bed b;
    struct gateway_conn *c = bed_connect(&b);
    gateway_pause(c, true);
    size_t sum = fill_up(&b, 0, 30000);
    gateway_pause(c, false);
    LOOP_UNTIL(b.loop, c->n_got == sum);
    assert_int_equal(b.n_drained, 1);
    for (int i = 0; i < 20; i++) {
        assert_true(put(&b, STR("one more")));
        loop_settle(b.loop);
    }
    gateway_pause(c, true);
    sum += 160 + fill_up(&b, 0, 30000);
    gateway_pause(c, false);
    LOOP_UNTIL(b.loop, c->n_got == sum);
    assert_int_equal(b.n_drained, 2);
    bed_release(&b);
}

/* What the gateway could get rid of while we did not read. */
static size_t flood(struct bed *b, struct gateway_conn *c, size_t record)
{
    char chunk[16384];
    size_t sum = 0;
    while (c->out.len == 0) {
        fill(chunk, record, sum);
        gateway_write(c, (struct str){chunk, record});
        sum += record;
        loop_settle(b->loop);
    }
    return sum;
}

TEST(tls_stream, a_paused_reader_stops_the_gateway)
{
    struct bed b;
    struct gateway_conn *c = bed_connect(&b);
    b.stops_after_read = true;
    size_t before = allocated(), sum = flood(&b, c, 16384);
    loop_run_for(b.loop, 20);
    assert_int_equal(b.n_reads, 1);
    assert_true(allocated() <= before + 512 * 1024);
    b.stops_after_read = false;
    resume(&b);
    LOOP_UNTIL(b.loop, b.got.len == sum);
    assert_pattern(buf_str(&b.got));
    gateway_close_notify(c);
    LOOP_UNTIL(b.loop, b.n_ended == 1);
    bed_release(&b);
}

TEST(tls_stream, pausing_after_each_read_loses_nothing)
{
    struct bed b;
    struct gateway_conn *c = bed_connect(&b);
    b.stops_after_read = true;
    size_t sum = flood(&b, c, 1000);
    gateway_close_notify(c);
    LOOP_UNTIL(b.loop, (resume(&b), b.n_ended == 1));
    assert_int_equal(b.end.cause, END_CLEAN);
    assert_int_equal(b.got.len, sum);
    assert_pattern(buf_str(&b.got));
    bed_release(&b);
}

TEST(tls_stream, a_paused_stream_sees_no_end)
{
    struct bed b;
    bed_init(&b);
    b.is_paused = true;
    bed_serve(&b, serving(&b));
    LOOP_UNTIL(b.loop, b.n_opened == 1 && b.gw->conns[0]->is_open);
    gateway_write(b.gw->conns[0], STR("last"));
    gateway_close_notify(b.gw->conns[0]);
    gateway_fin(b.gw->conns[0]);
    loop_run_for(b.loop, 30);
    assert_int_equal(b.n_ended + b.n_reads, 0);
    tls_stream_read_start(b.s);
    LOOP_UNTIL(b.loop, b.n_ended == 1);
    assert_true(str_eq(buf_str(&b.got), STR("last")));
    assert_int_equal(b.end.cause, END_CLEAN);
    bed_release(&b);
}

TEST(tls_stream, key_updates_are_answered)
{
    struct bed b;
    struct gateway_conn *c = bed_connect(&b);
    for (int i = 0; i < 20; i++) {
        gateway_key_update(c);
        gateway_write(c, STR("x"));
        assert_true(put(&b, STR("y")));
        LOOP_UNTIL(b.loop, b.got.len == (size_t)i + 1 && c->n_got == (size_t)i + 1);
    }
    assert_int_equal(b.n_ended, 0);
    bed_release(&b);
}

TEST(tls_stream, key_updates_without_end_do_not_fill_our_memory)
{
    struct bed b;
    struct gateway_conn *c = bed_connect(&b);
    gateway_pause(c, true); /* it asks and never reads the answers */
    size_t sum = fill_up(&b, 0, 30000);
    size_t before = allocated();
    for (int i = 0; i < 12000 && b.n_ended == 0; i++) {
        gateway_key_update(c);
        if (i % 100 == 0)
            loop_settle(b.loop);
    }
    loop_run_for(b.loop, 50);
    assert_true(allocated() <= before + 256 * 1024);
    gateway_pause(c, false);
    LOOP_UNTIL(b.loop, c->n_got == sum);
    gateway_write(c, STR("peace"));
    LOOP_UNTIL(b.loop, str_eq(buf_str(&b.got), STR("peace")));
    bed_release(&b);
}

/* ---- ends ---- */

TEST(tls_stream, close_notify_is_a_clean_end)
{
    struct bed b;
    struct gateway_conn *c = bed_connect(&b);
    gateway_write(c, STR("bye"));
    gateway_close_notify(c);
    LOOP_UNTIL(b.loop, b.n_ended == 1);
    assert_true(str_eq(buf_str(&b.got), STR("bye")));
    assert_int_equal(b.end.cause, END_CLEAN);
    assert_true(b.end.was_open);
    LOOP_UNTIL(b.loop, c->has_close_notify && c->has_eof); /* answered in kind */
    assert_true(put(&b, STR("dropped")));
    bed_release(&b);
}

TEST(tls_stream, end_of_file_without_close_notify_is_a_truncation)
{
    struct bed b;
    struct gateway_conn *c = bed_connect(&b);
    gateway_write(c, STR("250 O"));
    gateway_fin(c);
    LOOP_UNTIL(b.loop, b.n_ended == 1);
    assert_true(str_eq(buf_str(&b.got), STR("250 O")));
    assert_int_equal(b.end.cause, END_TRUNCATED);
    assert_true(b.end.was_open);
    bed_release(&b);
}

TEST(tls_stream, half_a_record_then_end_of_file_is_a_truncation)
{
    struct bed b;
    struct gateway_conn *c = bed_connect(&b);
    gateway_raw(c, (struct str){"\x17\x03\x03\x01\x00half", 9});
    gateway_fin(c);
    LOOP_UNTIL(b.loop, b.n_ended == 1);
    assert_int_equal(b.end.cause, END_TRUNCATED);
    assert_int_equal(b.n_reads, 0);
    bed_release(&b);
}

TEST(tls_stream, a_reset_after_the_handshake_is_a_reset)
{
    struct bed b;
    struct gateway_conn *c = bed_connect(&b);
    gateway_reset(c);
    LOOP_UNTIL(b.loop, b.n_ended == 1);
    assert_int_equal(b.end.cause, END_RESET);
    assert_true(b.end.was_open);
    bed_release(&b);
}

TEST(tls_stream, garbage_on_an_open_stream_ends_it)
{
    struct bed b;
    struct gateway_conn *c = bed_connect(&b);
    gateway_write(c, STR("good"));
    gateway_raw(c, STR("HTTP/1.1 500 out of the blue\r\n"));
    LOOP_UNTIL(b.loop, b.n_ended == 1);
    assert_true(str_eq(buf_str(&b.got), STR("good")));
    assert_int_equal(b.end.cause, END_NOT_TLS);
    assert_true(b.end.was_open);
    bed_release(&b);
}

TEST(tls_stream, a_name_that_does_not_resolve)
{
    struct bed b;
    bed_init(&b);
    b.target = mesh_target(&b.mesh, 9443);
    b.target.host = "no-such-gateway.invalid";
    bed_open(&b);
    LOOP_UNTIL(b.loop, b.n_ended == 1);
    assert_int_equal(b.end.cause, END_NAME);
    assert_false(b.end.was_open);
    assert_non_null(strstr(b.end.err.msg, "gateway no-such-gateway.invalid:9443"));
    bed_release(&b);
}

TEST(tls_stream, nobody_listens)
{
    struct bed b;
    bed_init(&b);
    struct gateway_config cfg = serving(&b);
    struct gateway *gone = gateway_new(b.loop, &cfg);
    b.target = mesh_target(&b.mesh, gone->port);
    gateway_free(&gone);
    loop_settle(b.loop);
    bed_open(&b);
    LOOP_UNTIL(b.loop, b.n_ended == 1);
    assert_int_equal(b.end.cause, END_REFUSED);
    bed_release(&b);
}

TEST(tls_stream, an_address_that_does_not_answer)
{
    struct bed b;
    int fillers[2];
    uint16_t port;
    bed_init(&b);
    int l = socket_black_hole(&port, fillers);
    b.target = mesh_target(&b.mesh, port);
    b.target.connect_timeout_ms = 100;
    bed_open(&b);
    LOOP_UNTIL_WITHIN(b.loop, b.n_ended == 1, 4000);
    assert_int_equal(b.end.cause, END_CONNECT_TIMEOUT);
    bed_release(&b);
    close(l);
    close(fillers[0]);
    close(fillers[1]);
}

TEST(tls_stream, an_address_without_a_route)
{
    struct bed b;
    bed_init(&b);
    b.target = mesh_target(&b.mesh, 9443);
    b.target.host = "224.0.0.1"; /* multicast: no TCP */
    bed_open(&b);
    LOOP_UNTIL(b.loop, b.n_ended == 1);
    assert_int_equal(b.end.cause, END_CONNECT);
    bed_release(&b);
}

TEST(tls_stream, a_reset_at_the_client_hello)
{
    struct bed b;
    bed_init(&b);
    struct gateway_config cfg = serving(&b);
    cfg.mode = GATEWAY_RESETS_AT_HELLO;
    expect_end(&b, cfg, END_HELLO_RESET);
    assert_non_null(strstr(b.end.err.msg, "SNI email.eu-west-1.amazonaws.com"));
    bed_release(&b);
}

TEST(tls_stream, an_end_of_file_at_the_client_hello)
{
    struct bed b;
    bed_init(&b);
    struct gateway_config cfg = serving(&b);
    cfg.mode = GATEWAY_CLOSES_AT_HELLO;
    expect_end(&b, cfg, END_HELLO_RESET);
    bed_release(&b);
}

TEST(tls_stream, an_end_of_file_within_the_handshake)
{
    struct bed b;
    bed_init(&b);
    struct gateway_config cfg = serving(&b);
    cfg.mode = GATEWAY_CUTS_HANDSHAKE;
    expect_end(&b, cfg, END_HANDSHAKE_EOF);
    assert_false(b.end.was_open);
    bed_release(&b);
}

TEST(tls_stream, a_reset_within_the_handshake)
{
    struct bed b;
    bed_init(&b);
    struct gateway_config cfg = serving(&b);
    cfg.mode = GATEWAY_RESETS_HANDSHAKE;
    bed_serve(&b, cfg);
    LOOP_UNTIL(b.loop, b.n_ended == 1);
    /* the kernel may drop what came before the reset */
    assert_true(b.end.cause == END_HANDSHAKE_EOF || b.end.cause == END_HELLO_RESET);
    bed_release(&b);
}

TEST(tls_stream, a_plain_http_answer_is_shown)
{
    struct bed b;
    bed_init(&b);
    struct gateway_config cfg = serving(&b);
    cfg.mode = GATEWAY_SPEAKS_HTTP;
    expect_end(&b, cfg, END_NOT_TLS);
    assert_non_null(strstr(b.end.err.msg, "\"HTTP/1.1 400 Bad Request"));
    bed_release(&b);
}

TEST(tls_stream, a_gateway_that_stalls_times_out)
{
    struct bed b;
    bed_init(&b);
    struct gateway_config cfg = serving(&b);
    cfg.mode = GATEWAY_STALLS;
    b.gw = gateway_new(b.loop, &cfg);
    b.target = mesh_target(&b.mesh, b.gw->port);
    b.target.handshake_timeout_ms = 100;
    uint64_t begin = uv_hrtime();
    bed_open(&b);
    LOOP_UNTIL(b.loop, b.n_ended == 1);
    assert_in_range((uv_hrtime() - begin) / 1000000, 95, 3000);
    assert_int_equal(b.end.cause, END_HANDSHAKE_TIMEOUT);
    bed_release(&b);
}

TEST(tls_stream, an_old_tls_version_is_refused)
{
    struct bed b;
    bed_init(&b);
    struct gateway_config cfg = serving(&b);
    cfg.max_version = TLS1_2_VERSION;
    expect_end(&b, cfg, END_ALERT); /* protocol_version */
    assert_int_equal(b.end.alert, 70);
    assert_false(b.end.was_open);
    bed_release(&b);
}

static void expect_refusal(int error, int alert)
{
    struct bed b;
    bed_init(&b);
    struct gateway_config cfg = serving(&b);
    cfg.client_error = error;
    expect_end(&b, cfg, END_ALERT);
    assert_int_equal(b.end.alert, alert);
    assert_true(b.end.was_open); /* TLS 1.3: our side of the handshake was over */
    assert_int_equal(b.n_opened, 1);
    bed_release(&b);
}

TEST(tls_stream, a_refused_certificate_is_an_alert_after_the_handshake)
{
    expect_refusal(X509_V_ERR_SUBJECT_ISSUER_MISMATCH, 46);
    expect_refusal(X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY, 48);
    expect_refusal(X509_V_ERR_CERT_HAS_EXPIRED, 45);
}

TEST(tls_stream, a_client_of_another_ca_is_told_by_an_alert)
{
    struct bed b;
    bed_init(&b);
    struct gateway_config cfg = serving(&b);
    cfg.client_ca = &b.mesh.other_ca;
    expect_end(&b, cfg, END_ALERT);
    assert_int_equal(b.end.alert, 48);
    bed_release(&b);
}

TEST(tls_stream, no_client_certificate_is_alert_116)
{
    struct bed b;
    bed_init(&b);
    struct gateway_config cfg = serving(&b);
    cfg.wants_rsa_clients = true;
    expect_end(&b, cfg, END_ALERT);
    assert_int_equal(b.end.alert, 116);
    assert_true(b.end.was_open);
    bed_release(&b);
}

/* The write fails first: the connection is reset, and the alert stands before the reset. */
TEST(tls_stream, the_alert_is_read_although_a_write_has_failed)
{
    struct bed b;
    bed_init(&b);
    struct gateway_config cfg = serving(&b);
    cfg.client_error = X509_V_ERR_SUBJECT_ISSUER_MISMATCH;
    b.is_paused = true;
    bed_serve(&b, cfg);
    LOOP_UNTIL(b.loop, b.n_opened == 1 && b.gw->conns[0]->s != NULL);
    loop_run_for(b.loop, 20); /* the alert lies in our receive queue */
    assert_int_equal(b.n_ended, 0);
    gateway_pause(b.gw->conns[0], true);
    gateway_reset(b.gw->conns[0]);
    loop_settle(b.loop);
    tls_stream_read_start(b.s);
    assert_true(put(&b, STR("a request that fails")));
    LOOP_UNTIL(b.loop, b.n_ended == 1);
    assert_int_equal(b.end.cause, END_ALERT);
    assert_int_equal(b.end.alert, 46);
    bed_release(&b);
}

TEST(tls_stream, a_gateway_with_another_identity_is_refused)
{
    struct bed b;
    bed_init(&b);
    struct cert other = certs_leaf("spiffe://mesh.test/ns/shop/sa/impostor", &b.mesh.ca);
    struct gateway_config cfg = serving(&b);
    cfg.leaf = &other;
    expect_end(&b, cfg, END_PEER_IDENTITY);
    assert_non_null(strstr(b.end.err.msg, "impostor"));
    assert_int_equal(b.n_opened, 0);
    bed_release(&b);
    certs_release(&other);
}

TEST(tls_stream, a_gateway_of_another_trust_domain_is_refused)
{
    struct bed b;
    bed_init(&b);
    struct cert other = certs_leaf("spiffe://other.test/ns/egress/sa/gateway", &b.mesh.other_ca);
    struct gateway_config cfg = serving(&b);
    cfg.leaf = &other;
    expect_end(&b, cfg, END_PEER_UNTRUSTED);
    bed_release(&b);
    certs_release(&other);
}

TEST(tls_stream, a_forged_gateway_is_refused)
{
    struct bed b;
    bed_init(&b);
    struct cert forged = certs_leaf(MESH_GATEWAY, &b.mesh.other_ca);
    struct gateway_config cfg = serving(&b);
    cfg.leaf = &forged;
    expect_end(&b, cfg, END_PEER_UNTRUSTED);
    bed_release(&b);
    certs_release(&forged);
}

TEST(tls_stream, a_gateway_without_an_svid_is_refused)
{
    struct bed b;
    bed_init(&b);
    struct cert_spec spec = certs_leaf_spec(MESH_GATEWAY);
    spec.n_uris = 0;
    spec.n_dns = 1;
    struct cert plain = certs_issue(&spec, &b.mesh.ca);
    struct gateway_config cfg = serving(&b);
    cfg.leaf = &plain;
    expect_end(&b, cfg, END_PEER_NOT_SVID);
    bed_release(&b);
    certs_release(&plain);
}

TEST(tls_stream, a_refused_gateway_gets_our_alert)
{
    struct bed b;
    bed_init(&b);
    struct cert forged = certs_leaf(MESH_GATEWAY, &b.mesh.other_ca);
    struct gateway_config cfg = serving(&b);
    cfg.leaf = &forged;
    expect_end(&b, cfg, END_PEER_UNTRUSTED);
    LOOP_UNTIL(b.loop,
               b.gw->conns[0]->has_eof); /* a proper end, no reset that would eat the alert */
    assert_false(b.gw->conns[0]->is_open);
    bed_release(&b);
    certs_release(&forged);
}

/* ---- closing ---- */

TEST(tls_stream, close_sends_what_was_written_and_close_notify)
{
    struct bed b;
    struct gateway_conn *c = bed_connect(&b);
    assert_true(put(&b, STR("QUIT\r\n")));
    tls_stream_close(&b.s);
    LOOP_UNTIL(b.loop, c->has_eof);
    assert_true(c->has_close_notify);
    assert_true(gateway_got(c, "QUIT\r\n"));
    bed_release(&b);
    assert_int_equal(b.n_ended, 0);
}

TEST(tls_stream, abort_ends_with_its_cause_later)
{
    struct bed b;
    struct gateway_conn *c = bed_connect(&b);
    b.in_call = true;
    tls_stream_abort(b.s, END_ROTATED, "generation 2");
    tls_stream_abort(b.s, END_CANCELED, "too late");
    b.in_call = false;
    assert_int_equal(b.n_ended, 0);
    LOOP_UNTIL(b.loop, b.n_ended == 1);
    assert_int_equal(b.end.cause, END_ROTATED);
    LOOP_UNTIL(b.loop, c->has_eof);
    assert_true(c->has_close_notify);
    bed_release(&b);
    assert_int_equal(b.n_ended, 1);
}

TEST(tls_stream, what_was_taken_and_never_left_is_counted)
{
    struct bed b;
    struct gateway_conn *c = bed_connect(&b);
    assert_true(put(&b, STR("sent")));
    LOOP_UNTIL(b.loop, c->n_got == 4);
    assert_true(put(&b, STR("overtaken")));
    assert_int_equal(tls_stream_n_dropped(b.s), 0); /* it may still leave */
    tls_stream_abort(b.s, END_CANCELED, "");
    assert_int_equal(tls_stream_n_dropped(b.s), 9);
    assert_true(put(&b, STR("too late")));
    assert_int_equal(tls_stream_n_dropped(b.s), 17);
    LOOP_UNTIL(b.loop, c->has_eof);
    assert_int_equal(c->n_got, 4);
    bed_release(&b);
}

TEST(tls_stream, abort_during_each_phase_ends_once)
{
    for (int turns = 0; turns < 12; turns++) {
        struct bed b;
        bed_init(&b);
        bed_serve(&b, serving(&b));
        for (int i = 0; i < turns; i++)
            uv_run(b.loop, UV_RUN_NOWAIT);
        tls_stream_abort(b.s, END_CANCELED, "");
        LOOP_UNTIL(b.loop, b.n_ended == 1);
        assert_int_equal(b.end.cause, END_CANCELED);
        bed_release(&b);
    }
}

TEST(tls_stream, close_during_each_phase_ends_without_a_word)
{
    for (int turns = 0; turns < 12; turns++) {
        struct bed b;
        bed_init(&b);
        bed_serve(&b, serving(&b));
        assert_true(put(&b, STR("whatever")));
        for (int i = 0; i < turns; i++)
            uv_run(b.loop, UV_RUN_NOWAIT);
        tls_stream_close(&b.s);
        assert_null(b.s);
        bed_release(&b);
        assert_int_equal(b.n_ended, 0);
    }
}

static void act_in(enum place close_in, enum place abort_in)
{
    struct bed b;
    bed_init(&b);
    b.close_in = close_in;
    b.abort_in = abort_in;
    struct gateway_config cfg = serving(&b);
    cfg.is_echo = true;
    bed_serve(&b, cfg);
    assert_true(put(&b, STR("hello")));
    LOOP_UNTIL(b.loop, b.n_opened == 1);
    if (b.s != NULL && (close_in == ON_DRAIN || abort_in == ON_DRAIN))
        (void)fill_up(&b, 0, 30000);
    if (close_in == ON_END) {
        LOOP_UNTIL(b.loop, b.n_reads == 1);
        gateway_write(b.gw->conns[0], STR("bye"));
        gateway_close_notify(b.gw->conns[0]);
    }
    LOOP_UNTIL(b.loop, close_in != NOWHERE ? b.s == NULL : b.n_ended == 1);
    bed_release(&b);
}

TEST(tls_stream, it_may_be_closed_in_any_callback)
{
    act_in(ON_OPEN, NOWHERE);
    act_in(ON_READ, NOWHERE);
    act_in(ON_DRAIN, NOWHERE);
    act_in(ON_END, NOWHERE);
}

TEST(tls_stream, it_may_be_aborted_in_any_callback)
{
    act_in(NOWHERE, ON_OPEN);
    act_in(NOWHERE, ON_READ);
    act_in(NOWHERE, ON_DRAIN);
    act_in(ON_READ, ON_READ);
}

/* ---- living on, or not, when identities change ---- */

static void recheck(struct bed *b)
{
    b->in_call = true;
    tls_stream_recheck(b->s, b->mesh.store, &b->mesh.clock);
    b->in_call = false;
}

static void expect_gone(struct bed *b, struct gateway_conn *c, const char *why)
{
    recheck(b);
    LOOP_UNTIL(b->loop, b->n_ended == 1);
    assert_int_equal(b->end.cause, END_IDENTITY_GONE);
    if (strstr(b->end.err.msg, why) == NULL)
        fail_msg("%s does not tell: %s", b->end.err.msg, why);
    LOOP_UNTIL(b->loop, c->has_eof || c->has_reset);
    assert_false(c->has_close_notify); /* cut */
    assert_int_equal(c->n_got, 0);
    bed_release(b);
}

TEST(tls_stream, a_rotation_leaves_a_good_stream_alone)
{
    struct bed b;
    struct gateway_conn *c = bed_connect(&b);
    struct cert newer = certs_leaf(MESH_OWN_ID, &b.mesh.ca);
    mesh_publish(&b.mesh, (struct mesh_offer){.own = &newer});
    recheck(&b);
    loop_run_for(b.loop, 20);
    assert_int_equal(b.n_ended, 0);
    assert_true(put(&b, STR("alive")));
    LOOP_UNTIL(b.loop, gateway_got(c, "alive"));
    assert_int_equal(tls_context_set(tls_stream_context(b.s))->generation, 1);
    bed_release(&b);
    certs_release(&newer);
}

TEST(tls_stream, a_redaction_cuts_an_open_stream)
{
    struct bed b;
    struct gateway_conn *c = bed_connect(&b);
    assert_true(put(&b, STR("never sent")));
    mesh_redact(&b.mesh);
    expect_gone(&b, c, "taken back");
}

TEST(tls_stream, a_redaction_drops_what_is_queued)
{
    struct bed b;
    struct gateway_conn *c = bed_connect(&b);
    gateway_pause(c, true);
    size_t sum = fill_up(&b, 0, 30000);
    mesh_redact(&b.mesh);
    recheck(&b);
    LOOP_UNTIL(b.loop, b.n_ended == 1);
    gateway_pause(c, false);
    LOOP_UNTIL(b.loop, c->has_eof || c->has_reset);
    assert_true(c->n_got + 60000 < sum); /* neither ours nor the sys/stream's queue */
    assert_false(c->has_close_notify);
    bed_release(&b);
}

TEST(tls_stream, another_identity_instead_of_ours_cuts_it)
{
    struct bed b;
    struct gateway_conn *c = bed_connect(&b);
    struct cert other = certs_leaf("spiffe://mesh.test/ns/shop/sa/other", &b.mesh.ca);
    mesh_publish(&b.mesh, (struct mesh_offer){.own = &other,
                                              .own_id = "spiffe://mesh.test/ns/shop/sa/other"});
    expect_gone(&b, c, "no longer offered");
    certs_release(&other);
}

TEST(tls_stream, our_expiry_cuts_it)
{
    struct bed b;
    bed_init(&b);
    int64_t now = clock_wall_ms(&b.mesh.clock);
    mesh_publish(&b.mesh, (struct mesh_offer){.not_after_ms = now + 3600000});
    bed_serve(&b, serving(&b));
    LOOP_UNTIL(b.loop, b.n_opened == 1 && b.gw->conns[0]->is_open);
    recheck(&b);
    loop_settle(b.loop);
    assert_int_equal(b.n_ended, 0);
    b.mesh.wall_shift_ms = 3600001;
    expect_gone(&b, b.gw->conns[0], "expired");
}

TEST(tls_stream, a_lost_bundle_cuts_it)
{
    struct bed b;
    struct gateway_conn *c = bed_connect(&b);
    mesh_publish(&b.mesh, (struct mesh_offer){.has_no_bundle = true});
    expect_gone(&b, c, "mesh.test");
}

TEST(tls_stream, a_bundle_without_the_gateways_ca_cuts_it)
{
    struct bed b;
    struct gateway_conn *c = bed_connect(&b);
    mesh_publish(&b.mesh, (struct mesh_offer){.bundle = &b.mesh.other_ca});
    expect_gone(&b, c, "");
}

TEST(tls_stream, the_gateways_expiry_cuts_it)
{
    struct bed b;
    bed_init(&b);
    struct cert_spec spec = certs_leaf_spec(MESH_GATEWAY);
    spec.not_after_s = clock_wall_ms(&b.mesh.clock) / 1000 + 3600;
    struct cert brief = certs_issue(&spec, &b.mesh.ca);
    struct gateway_config cfg = serving(&b);
    cfg.leaf = &brief;
    bed_serve(&b, cfg);
    LOOP_UNTIL(b.loop, b.n_opened == 1 && b.gw->conns[0]->is_open);
    b.mesh.wall_shift_ms = 3601000;
    expect_gone(&b, b.gw->conns[0], "expired");
    certs_release(&brief);
}

TEST(tls_stream, a_redaction_stops_a_handshake)
{
    struct bed b;
    bed_init(&b);
    struct gateway_config cfg = serving(&b);
    cfg.mode = GATEWAY_STALLS;
    bed_serve(&b, cfg);
    LOOP_UNTIL(b.loop, b.gw->n_conns == 1);
    mesh_redact(&b.mesh);
    recheck(&b);
    LOOP_UNTIL(b.loop, b.n_ended == 1);
    assert_int_equal(b.end.cause, END_IDENTITY_GONE);
    assert_false(b.end.was_open);
    bed_release(&b);
}
