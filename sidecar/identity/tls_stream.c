// SPDX-License-Identifier: Apache-2.0
/* Happy path: CONNECTING -> HANDSHAKE -> OPEN -> ENDING (cause known, on_end due) -> ENDED ->
 * CLOSED. Failure modes: each state may go to ENDING with its cause (tls_end is the only way), and
 * to CLOSED by the owner.  OpenSSL sits on a BIO of our own: it reads what on_stream_read was lent,
 * and writes into `out`, which goes to the sys/stream as one write.  No SSL call is made while
 * another one runs, and no owner's callback runs inside an SSL call. */
#include "identity/tls_stream.h"
#include "base/buf.h"
#include "base/mem.h"
#include "sys/log.h"
#include "sys/metrics.h"
#include "sys/stream.h"
#include "sys/timer.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RECORD_BYTES         16384u
#define WRITE_HIGH_BYTES     65536u
#define OUT_MAX_BYTES        (TLS_STREAM_WRITE_MAX + TLS_STREAM_WRITE_MAX / 8)
#define REST_MAX_BYTES       65536u /* what one read of a sys/stream can lend */
#define PLAIN_IN_BYTES       65536u
#define CONNECT_TIMEOUT_MS   5000u
#define HANDSHAKE_TIMEOUT_MS 10000u
#define CLOSE_TIMEOUT_MS     1000u
#define REPEAT_WINDOW_MS     60000u
#define ALERT_REASON_OFFSET  1000 /* SSL_AD_REASON_OFFSET: reason of a received alert */

enum tls_state { ST_CONNECTING, ST_HANDSHAKE, ST_OPEN, ST_ENDING, ST_ENDED, ST_CLOSED, ST_COUNT };
#define IN(s)   (1u << (s))
#define IN_LIVE (IN(ST_CONNECTING) | IN(ST_HANDSHAKE) | IN(ST_OPEN))
// clang-format off
static const uint32_t next_states[ST_COUNT] = {
    [ST_CONNECTING] = IN(ST_HANDSHAKE) | IN(ST_ENDING) | IN(ST_CLOSED),
    [ST_HANDSHAKE]  = IN(ST_OPEN) | IN(ST_ENDING) | IN(ST_CLOSED),
    [ST_OPEN]       = IN(ST_ENDING) | IN(ST_CLOSED),
    [ST_ENDING]     = IN(ST_ENDED) | IN(ST_CLOSED),
    [ST_ENDED]      = IN(ST_CLOSED),
    [ST_CLOSED]     = 0,
};
// clang-format on

struct tls_stream {
    enum tls_state state;
    struct tls_stream_events ev;
    void *arg;
    struct tls_context *ctx;
    struct stream *stream; /* NULL once it has ended */
    SSL *ssl;              /* NULL once it has ended */
    struct tls_peer peer;
    struct stream_end end;

    char *host, *sni, *alpn, *name; /* name: "gateway host:port", for messages */
    struct spiffe_id *ids;
    struct tls_peer_rule rule;
    uint64_t handshake_timeout_ms;

    struct str in;        /* lent ciphertext, during a pump only */
    struct buf rest;      /* ciphertext that came before the reader paused */
    struct buf plain_out; /* less than a record, until the loop gets to on_turn */
    struct buf out;       /* ciphertext the sys/stream has not taken */
    uint64_t n_in, n_plain_in, n_dropped;
    bool wants_read, wants_drain, is_writing;

    struct timer *timer; /* HANDSHAKE: its timeout; OPEN: resume reading; ENDING: on_end */
    uv_prepare_t turn;   /* once before the loop waits: send plain_out */
};

struct verdict {
    enum stream_end_cause cause;
    int alert;
    char detail[ERR_MSG_MAX];
};

/* One for all: the loop thread fills and empties it within a pump. */
static char plain_in[PLAIN_IN_BYTES];

static void tls_end(struct tls_stream *s, enum stream_end_cause cause, int alert,
                    const char *detail);
static void send_close_notify(struct tls_stream *s);
static void flush_out(struct tls_stream *s);

static bool is_in(const struct tls_stream *s, uint32_t states)
{
    return (states & IN(s->state)) != 0;
}

static void tls_move(struct tls_stream *s, enum tls_state to)
{
    CHECK((next_states[s->state] & IN(to)) != 0);
    if (to == ST_OPEN)
        metric_add(M_GATEWAY_CONNECTIONS, METRIC_NONE, 1);
    if (s->state == ST_OPEN)
        metric_add(M_GATEWAY_CONNECTIONS, METRIC_NONE, -1);
    s->state = to;
    CHECK((s->stream != NULL) == is_in(s, IN_LIVE) && (s->ssl != NULL) == is_in(s, IN_LIVE));
}

/* ---- the BIO ---- */

static int bio_read(BIO *b, char *p, size_t cap, size_t *n)
{
    struct tls_stream *s = BIO_get_data(b);
    BIO_clear_retry_flags(b);
    *n = s->in.len < cap ? s->in.len : cap;
    if (*n == 0) {
        BIO_set_retry_read(b);
        return 0;
    }
    memcpy(p, s->in.p, *n);
    s->in = str_sub(s->in, *n, s->in.len);
    return 1;
}

/* What OpenSSL says by itself (answers to KeyUpdate) must not pile up behind a peer that does not
 * read. */
static int bio_write(BIO *b, const char *p, size_t len, size_t *n)
{
    struct tls_stream *s = BIO_get_data(b);
    BIO_clear_retry_flags(b);
    if ((!s->is_writing && s->out.len >= WRITE_HIGH_BYTES) || !buf_append(&s->out, p, len)) {
        BIO_set_retry_write(b);
        return 0;
    }
    *n = len;
    return 1;
}

static long bio_ctrl(BIO *b, int cmd, long num, void *ptr)
{
    (void)b;
    (void)num;
    (void)ptr;
    return cmd == BIO_CTRL_FLUSH ? 1 : 0;
}

static BIO *bio_new(struct tls_stream *s)
{
    static BIO_METHOD *method; /* lives for ever */
    if (method == NULL) {
        method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "svidmail");
        CHECK(method != NULL && BIO_meth_set_read_ex(method, bio_read) &&
              BIO_meth_set_write_ex(method, bio_write) && BIO_meth_set_ctrl(method, bio_ctrl));
    }
    BIO *b = BIO_new(method);
    CHECK(b != NULL);
    BIO_set_data(b, s);
    BIO_set_init(b, 1);
    return b;
}

/* ---- why it ended ---- */

/* What the last SSL call failed with; END_NONE if it only waits.  Alerts that were received have
 * reasons of 1000 + their number. */
static struct verdict judge_ssl(const struct tls_stream *s, int rc)
{
    struct verdict v = {.cause = END_NONE};
    int why = SSL_get_error(s->ssl, rc);
    unsigned long code = ERR_peek_error();
    int reason = ERR_GET_LIB(code) == ERR_LIB_SSL ? ERR_GET_REASON(code) : 0;
    const char *text = code != 0 ? ERR_reason_error_string(code) : NULL;
    if (why == SSL_ERROR_NONE || why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
        return v;
    if (why == SSL_ERROR_ZERO_RETURN) {
        v.cause = END_CLEAN;
    } else if (s->peer.refusal != END_NONE) {
        v.cause = s->peer.refusal;
        text = s->peer.why.msg;
    } else if (reason > ALERT_REASON_OFFSET) {
        v.cause = END_ALERT;
        v.alert = reason - ALERT_REASON_OFFSET;
        text = NULL;
    } else {
        v.cause = END_NOT_TLS;
        text = reason == SSL_R_UNSUPPORTED_PROTOCOL ? "it speaks TLS 1.2 or older" : text;
    }
    str_copy(v.detail, sizeof v.detail, str_from(text));
    ERR_clear_error();
    return v;
}

static enum stream_end_cause connect_cause(const struct err *e)
{
    if (e->sys <= UV_EAI_ADDRFAMILY && e->sys >= UV_EAI_SOCKTYPE)
        return END_NAME;
    if (e->sys == UV_ECONNREFUSED)
        return END_REFUSED;
    return e->code == ERR_TIMEOUT ? END_CONNECT_TIMEOUT : END_CONNECT;
}

static void on_stream_end(void *arg, const struct err *e)
{
    struct tls_stream *s = arg;
    const char *why = e != NULL ? e->msg : "end of file";
    char detail[ERR_MSG_MAX];
    switch (s->state) {
    case ST_CONNECTING:
        tls_end(s, connect_cause(e), 0, why);
        return;
    case ST_HANDSHAKE:
        snprintf(detail, sizeof detail, "%.150s, SNI %.100s", why, s->sni);
        tls_end(s, s->n_in == 0 ? END_HELLO_RESET : END_HANDSHAKE_EOF, 0, detail);
        return;
    case ST_OPEN:
        tls_end(s, e == NULL ? END_TRUNCATED : END_RESET, 0, why);
        return;
    case ST_ENDING:
    case ST_ENDED:
    case ST_CLOSED:
    case ST_COUNT:
        return;
    }
}

static bool is_graceful(enum stream_end_cause cause)
{
    return cause == END_ROTATED || cause == END_IDLE_TIMEOUT || cause == END_CANCELED ||
           cause == END_CLEAN;
}

/* The gateway never worked for us on this stream: someone may have to look. */
static bool is_failure(const struct tls_stream *s)
{
    if (is_graceful(s->end.cause) && s->end.cause != END_CLEAN)
        return false;
    return !s->end.was_open || s->end.cause == END_ALERT ||
           (s->n_plain_in == 0 && s->end.cause != END_IDENTITY_GONE);
}

static void tell_end(const struct tls_stream *s)
{
    const char *cause = stream_end_name(s->end.cause);
    if (!s->end.was_open || s->end.cause == END_ALERT)
        metric_add(M_GATEWAY_HANDSHAKES, METRIC_L(cause), 1);
    if (!is_failure(s)) {
        LOG_ERR(EV_GATEWAY_CLOSED, &s->end.err, F_STR("gateway", s->name), F_STR("sni", s->sni),
                F_STR("cause", cause));
        return;
    }
    char key[600];
    snprintf(key, sizeof key, "%s %s %s %d", s->name, s->sni, cause, s->end.alert);
    if (!log_is_repeat(EV_GATEWAY_FAILED, key, REPEAT_WINDOW_MS))
        LOG_ERR(EV_GATEWAY_FAILED, &s->end.err, F_STR("gateway", s->name), F_STR("sni", s->sni),
                F_STR("cause", cause), F_STR("peer", s->peer.id.text),
                F_BOOL("was_open", s->end.was_open));
}

/* Ours to end, without the peer's help.  Its last record (an alert, close_notify) goes out unless
 * the connection is to be cut. */
static void drop_connection(struct tls_stream *s, bool is_cut)
{
    if (!is_cut)
        flush_out(s);
    if (is_cut || s->state == ST_CONNECTING)
        stream_close(&s->stream);
    else
        stream_close_after_flush(&s->stream, CLOSE_TIMEOUT_MS);
    SSL_free(s->ssl);
    s->ssl = NULL;
    s->in = (struct str){"", 0};
    s->n_dropped += s->plain_out.len;
    buf_release(&s->rest);
    buf_release(&s->plain_out);
    buf_release(&s->out);
    uv_prepare_stop(&s->turn);
}

/* The only way to an end; on_end follows from the loop. */
static void tls_end(struct tls_stream *s, enum stream_end_cause cause, int alert,
                    const char *detail)
{
    if (!is_in(s, IN_LIVE))
        return;
    s->end.alert = alert;
    stream_end_set(&s->end, cause, s->name, detail);
    if (s->state == ST_OPEN && is_graceful(cause))
        send_close_notify(s);
    drop_connection(s, cause == END_IDENTITY_GONE);
    tls_move(s, ST_ENDING);
    timer_start(s->timer, 0);
    tell_end(s);
}

static void tls_end_by(struct tls_stream *s, struct verdict v)
{
    if (v.cause != END_NONE)
        tls_end(s, v.cause, v.alert, v.detail);
}

/* ---- sending ---- */

static void flush_out(struct tls_stream *s)
{
    if (s->out.len > 0 && stream_write(s->stream, buf_str(&s->out)))
        buf_clear(&s->out);
}

/* The sys/stream has refused some, so it will tell when it drains. */
static bool is_over_high(const struct tls_stream *s)
{
    return s->out.len > 0;
}

/* The BIO takes everything, so that SSL_write() never leaves a record half written. */
static void encrypt(struct tls_stream *s, struct str plain)
{
    if (plain.len == 0)
        return;
    size_t n = 0;
    s->is_writing = true;
    ERR_clear_error();
    int ok = SSL_write_ex(s->ssl, plain.p, plain.len, &n);
    s->is_writing = false;
    if (ok != 1)
        tls_end_by(s, judge_ssl(s, ok));
}

static void send_close_notify(struct tls_stream *s)
{
    s->is_writing = true;
    ERR_clear_error();
    (void)SSL_shutdown(s->ssl); /* one way; what comes back is read as ever */
    ERR_clear_error();
    s->is_writing = false;
}

static void send_plain_out(struct tls_stream *s)
{
    if (s->state != ST_OPEN)
        return;
    encrypt(s, buf_str(&s->plain_out));
    buf_clear(&s->plain_out);
    if (s->state == ST_OPEN)
        flush_out(s);
}

static void on_turn(uv_prepare_t *turn)
{
    uv_prepare_stop(turn);
    send_plain_out(turn->data);
}

static void send_soon(struct tls_stream *s)
{
    uv_prepare_start(&s->turn, on_turn);
}

static void gather(struct tls_stream *s, struct str plain)
{
    bool ok = buf_append_str(&s->plain_out, plain);
    CHECK(ok);
    send_soon(s);
}

/* More than plain_out has room for: whole records at once, the rest is gathered.  Any of the calls
 * may end the stream. */
static void write_records(struct tls_stream *s, struct str plain)
{
    size_t n = buf_room(&s->plain_out);
    gather(s, str_sub(plain, 0, n));
    plain = str_sub(plain, n, plain.len);
    encrypt(s, buf_str(&s->plain_out));
    buf_clear(&s->plain_out);
    struct str whole = str_sub(plain, 0, plain.len - plain.len % RECORD_BYTES);
    struct str rest = str_sub(plain, whole.len, plain.len);
    if (s->state == ST_OPEN)
        encrypt(s, whole);
    else
        s->n_dropped += whole.len;
    if (s->state == ST_OPEN) {
        flush_out(s);
        gather(s, rest);
    } else {
        s->n_dropped += rest.len;
    }
}

bool tls_stream_write(struct tls_stream *s, struct str plain)
{
    CHECK(plain.len <= TLS_STREAM_WRITE_MAX);
    if (!is_in(s, IN_LIVE)) {
        s->n_dropped += plain.len; /* on_end tells */
        return true;
    }
    if (s->state == ST_OPEN ? is_over_high(s) : plain.len > buf_room(&s->plain_out)) {
        s->wants_drain = true;
        return false;
    }
    if (plain.len <= buf_room(&s->plain_out)) {
        gather(s, plain);
        return true;
    }
    write_records(s, plain);
    return true;
}

/* ---- receiving ---- */

static void tell_drain(struct tls_stream *s)
{
    if (!s->wants_drain || s->state != ST_OPEN || is_over_high(s))
        return;
    s->wants_drain = false;
    if (s->ev.on_drain != NULL)
        s->ev.on_drain(s->arg);
}

static void handshake_done(struct tls_stream *s)
{
    timer_stop(s->timer);
    tls_move(s, ST_OPEN);
    s->end.was_open = true;
    metric_add(M_GATEWAY_HANDSHAKES, METRIC_L("ok"), 1);
    LOG(EV_GATEWAY_CONNECTED, F_STR("gateway", s->name), F_STR("sni", s->sni),
        F_STR("peer", s->peer.id.text), F_INT("generation", tls_context_set(s->ctx)->generation));
    flush_out(s); /* our Finished */
    s->ev.on_open(s->arg);
    if (s->state == ST_OPEN)
        send_soon(s);
    tell_drain(s);
}

/* false: nothing more to be had from s->in now. */
static bool pump_handshake(struct tls_stream *s)
{
    ERR_clear_error();
    int rc = SSL_do_handshake(s->ssl);
    if (rc == 1)
        handshake_done(s);
    else
        tls_end_by(s, judge_ssl(s, rc));
    return rc == 1;
}

/* As many records as are there, handed on as one run of bytes. */
static bool pump_open(struct tls_stream *s)
{
    size_t len = 0, n = 0;
    int rc = 1;
    ERR_clear_error();
    while (rc == 1 && len + RECORD_BYTES <= sizeof plain_in) {
        rc = SSL_read_ex(s->ssl, plain_in + len, sizeof plain_in - len, &n);
        len += rc == 1 ? n : 0;
    }
    struct verdict v = judge_ssl(s, rc);
    s->n_plain_in += len;
    if (len > 0)
        s->ev.on_read(s->arg, (struct str){plain_in, len});
    tls_end_by(s, v);
    return rc == 1;
}

static void pump(struct tls_stream *s)
{
    bool go_on = true;
    while (go_on) {
        if (s->state == ST_HANDSHAKE)
            go_on = pump_handshake(s);
        else
            go_on = s->state == ST_OPEN && s->wants_read && pump_open(s);
    }
    if (!is_in(s, IN_LIVE))
        return;
    flush_out(s);
    if (s->state == ST_OPEN && (!s->wants_read || s->in.len > 0))
        stream_read_stop(s->stream);
}

/* What a paused reader, or a BIO that is full, has left over. */
static void pump_rest(struct tls_stream *s)
{
    size_t before = s->rest.len;
    s->in = buf_str(&s->rest);
    pump(s);
    if (!is_in(s, IN_LIVE))
        return;
    buf_consume(&s->rest, before - s->in.len);
    s->in = (struct str){"", 0};
    if (s->rest.len > 0)
        return;
    buf_release(&s->rest);
    if (s->wants_read)
        stream_read_start(s->stream);
}

static void end_as_not_tls(struct tls_stream *s, struct str bytes)
{
    char shown[128], detail[160];
    str_escape(shown, sizeof shown, str_sub(bytes, 0, 30));
    snprintf(detail, sizeof detail, "\"%s\"", shown);
    tls_end(s, END_NOT_TLS, 0, detail);
}

static void on_stream_read(void *arg, struct str bytes)
{
    struct tls_stream *s = arg;
    bool is_first = s->n_in == 0;
    s->n_in += bytes.len;
    if (is_first && bytes.p[0] != SSL3_RT_HANDSHAKE && bytes.p[0] != SSL3_RT_ALERT) {
        end_as_not_tls(s, bytes);
        return;
    }
    s->in = bytes;
    pump(s);
    if (is_in(s, IN_LIVE) && s->in.len > 0) {
        bool ok = buf_append_str(&s->rest, s->in);
        CHECK(ok);
    }
    s->in = (struct str){"", 0};
}

static void on_stream_drain(void *arg)
{
    struct tls_stream *s = arg;
    flush_out(s);
    if (s->out.len == 0 && s->rest.len > 0 && s->wants_read)
        pump_rest(s);
    tell_drain(s);
}

static void on_stream_open(void *arg)
{
    struct tls_stream *s = arg;
    tls_move(s, ST_HANDSHAKE);
    timer_start(s->timer, s->handshake_timeout_ms);
    stream_read_start(s->stream);
    pump(s); /* ClientHello */
}

void tls_stream_read_start(struct tls_stream *s)
{
    s->wants_read = true;
    if (s->state != ST_OPEN)
        return;
    if (s->rest.len > 0)
        timer_start(s->timer, 0);
    else
        stream_read_start(s->stream);
}

void tls_stream_read_stop(struct tls_stream *s)
{
    s->wants_read = false;
    if (s->state == ST_OPEN)
        stream_read_stop(s->stream);
}

/* ---- life ---- */

static void on_timer(void *arg)
{
    struct tls_stream *s = arg;
    if (s->state == ST_HANDSHAKE) {
        tls_end(s, END_HANDSHAKE_TIMEOUT, 0, s->n_in == 0 ? "not a byte" : "");
    } else if (s->state == ST_OPEN) {
        if (s->wants_read && s->rest.len > 0)
            pump_rest(s);
    } else if (s->state == ST_ENDING) {
        tls_move(s, ST_ENDED);
        s->ev.on_end(s->arg, &s->end);
    }
}

static void copy_target(struct tls_stream *s, const struct tls_stream_target *t)
{
    s->host = xstrdup(t->host);
    s->sni = xstrdup(t->sni);
    s->alpn = t->alpn != NULL ? xstrdup(t->alpn) : NULL;
    s->name = xasprintf("gateway %s:%u", t->host, t->port);
    s->ids = xcalloc(t->n_ids, sizeof *s->ids);
    if (t->n_ids > 0)
        memcpy(s->ids, t->ids, t->n_ids * sizeof *s->ids);
    s->rule = (struct tls_peer_rule){s->ids, t->n_ids, s->sni, s->alpn};
    s->handshake_timeout_ms =
        t->handshake_timeout_ms != 0 ? t->handshake_timeout_ms : HANDSHAKE_TIMEOUT_MS;
}

static void ssl_new(struct tls_stream *s)
{
    s->ssl = tls_context_new_ssl(s->ctx, &s->rule, &s->peer);
    CHECK(s->ssl != NULL);
    BIO *bio = bio_new(s);
    SSL_set_bio(s->ssl, bio, bio);
    SSL_set_connect_state(s->ssl);
    SSL_set_mode(s->ssl, SSL_MODE_RELEASE_BUFFERS);
    SSL_clear_mode(s->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE); /* the BIO takes all */
}

struct tls_stream *tls_stream_open(uv_loop_t *loop, struct tls_context *ctx,
                                   const struct tls_stream_target *target,
                                   const struct tls_stream_events *ev, void *arg)
{
    static const struct stream_events events = {on_stream_open, on_stream_read, on_stream_end,
                                                on_stream_drain, NULL};
    struct tls_stream *s = xcalloc(1, sizeof *s);
    s->ev = *ev;
    s->arg = arg;
    s->ctx = tls_context_ref(ctx);
    copy_target(s, target);
    buf_init(&s->rest, REST_MAX_BYTES);
    buf_init(&s->plain_out, RECORD_BYTES);
    buf_init(&s->out, OUT_MAX_BYTES);
    s->timer = timer_new(loop, on_timer, s);
    CHECK(uv_prepare_init(loop, &s->turn) == 0);
    s->turn.data = s;
    ssl_new(s);
    uint64_t timeout_ms =
        target->connect_timeout_ms != 0 ? target->connect_timeout_ms : CONNECT_TIMEOUT_MS;
    s->stream = stream_connect(loop, s->host, target->port, timeout_ms, &events, s,
                               (struct stream_limits){WRITE_HIGH_BYTES});
    return s;
}

void tls_stream_abort(struct tls_stream *s, enum stream_end_cause cause, const char *detail)
{
    tls_end(s, cause, 0, detail);
}

static void on_turn_closed(uv_handle_t *turn)
{
    struct tls_stream *s = turn->data;
    tls_context_unref(&s->ctx);
    free(s->host);
    free(s->sni);
    free(s->alpn);
    free(s->name);
    free(s->ids);
    free(s);
}

void tls_stream_close(struct tls_stream **ps)
{
    struct tls_stream *s = *ps;
    if (s == NULL)
        return;
    *ps = NULL;
    send_plain_out(s); /* may end it */
    if (s->state == ST_OPEN)
        send_close_notify(s);
    if (is_in(s, IN_LIVE)) {
        LOG(EV_GATEWAY_CLOSED, F_STR("gateway", s->name), F_STR("sni", s->sni),
            F_STR("cause", "by us"));
        drop_connection(s, false);
    }
    tls_move(s, ST_CLOSED);
    timer_free(&s->timer);
    uv_close((uv_handle_t *)&s->turn, on_turn_closed);
}

/* ---- what it knows ---- */

const struct tls_peer *tls_stream_peer(const struct tls_stream *s)
{
    return &s->peer;
}

uint64_t tls_stream_n_dropped(const struct tls_stream *s)
{
    return s->n_dropped;
}

struct tls_context *tls_stream_context(const struct tls_stream *s)
{
    return s->ctx;
}

/* true: it may live on.  A newer SVID of the same ID is a rotation, no redaction. */
static bool is_still_good(struct tls_stream *s, const struct svid_store *store,
                          const struct clock *clock, struct err *e)
{
    const struct svid *own = tls_context_svid(s->ctx);
    const struct svid_set *set = svid_store_current(store);
    int64_t now = clock_wall_ms(clock);
    if (set == NULL)
        return err_set(e, ERR_UNAVAIL, 0, "our SVID was taken back by the agent");
    if (!svid_set_offers(set, own->id.text))
        return err_set(e, ERR_UNAVAIL, 0, "%.200s is no longer offered by the agent", own->id.text);
    if (now >= own->not_after_ms)
        return err_set(e, ERR_EXPIRED, 0, "our SVID %.200s has expired", own->id.text);
    return s->state != ST_OPEN || tls_peer_still_trusted(s->ssl, set, now, e);
}

bool tls_stream_recheck(struct tls_stream *s, const struct svid_store *store,
                        const struct clock *clock)
{
    struct err e;
    if (is_in(s, IN_LIVE) && !is_still_good(s, store, clock, &e))
        tls_end(s, END_IDENTITY_GONE, 0, e.msg);
    return is_in(s, IN_LIVE);
}

int64_t tls_stream_not_after_ms(const struct tls_stream *s)
{
    int64_t own_ms = tls_context_svid(s->ctx)->not_after_ms;
    return s->end.was_open && s->peer.not_after_ms < own_ms ? s->peer.not_after_ms : own_ms;
}

bool tls_stream_is_expired(const struct tls_stream *s, const struct clock *clock)
{
    return clock_wall_ms(clock) >= tls_stream_not_after_ms(s);
}
