// SPDX-License-Identifier: Apache-2.0
/* Happy path (connect): LOOKUP -> CONNECTING -> OPEN -> ENDED -> CLOSING.
 * An address that fails: CONNECTING -> RETRYING (its handle closes) -> CONNECTING with the next
 * one. stream_close_after_flush(): OPEN or ENDED -> FLUSHING -> LINGERING -> CLOSING. There is
 * always exactly one open uv handle; its last close callback frees the stream. */
#include "sys/stream.h"
#include "base/buf.h"
#include "base/mem.h"
#include "sys/timer.h"

#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#define READ_BUFFER_BYTES 65536
#define LINGER_MS         1000u
#define KEEPALIVE_S       30u
#define USER_TIMEOUT_MS   30000
#define MIN_ATTEMPT_MS    100u

enum stream_state {
    ST_LOOKUP,
    ST_CONNECTING,
    ST_RETRYING,
    ST_OPEN,
    ST_ENDED, /* on_end has run; writing may still work */
    ST_FLUSHING,
    ST_LINGERING,
    ST_CLOSING,
    ST_COUNT
};
#define IN(s)   (1u << (s))
#define IN_DIAL (IN(ST_LOOKUP) | IN(ST_CONNECTING) | IN(ST_RETRYING))
#define IN_LIVE (IN(ST_OPEN) | IN(ST_ENDED))
// clang-format off
static const uint32_t next_states[ST_COUNT] = {
    [ST_LOOKUP]     = IN(ST_RETRYING) | IN(ST_CONNECTING) | IN(ST_ENDED) | IN(ST_CLOSING),
    [ST_CONNECTING] = IN(ST_RETRYING) | IN(ST_OPEN) | IN(ST_CLOSING),
    [ST_RETRYING]   = IN(ST_CONNECTING) | IN(ST_RETRYING) | IN(ST_ENDED) | IN(ST_CLOSING),
    [ST_OPEN]       = IN(ST_ENDED) | IN(ST_FLUSHING) | IN(ST_CLOSING),
    [ST_ENDED]      = IN(ST_FLUSHING) | IN(ST_CLOSING),
    [ST_FLUSHING]   = IN(ST_LINGERING) | IN(ST_CLOSING),
    [ST_LINGERING]  = IN(ST_CLOSING),
    [ST_CLOSING]    = 0,
};
// clang-format on

/* What only a connecting stream needs. */
struct dial {
    struct stream *s; /* NULL: it gave up on the look-up */
    bool is_looking_up;
    uv_getaddrinfo_t lookup;
    uv_connect_t req;
    struct addrinfo *found, *next; /* next: the address to try now */
    struct addrinfo literal;
    struct sockaddr_storage literal_addr;
    uint64_t deadline_ms;
    struct err worst; /* the most telling failure so far */
    uint16_t port;
    char host[256];
};

/* One write in flight. */
struct flight {
    uv_write_t req;
    struct buf bytes;
};

struct stream {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
    struct stream_events ev;
    void *arg;
    struct dial *dial;
    struct flight *flight;
    struct buf queue;    /* behind the flight */
    struct timer *timer; /* connect, deferred end, flush, linger: one at a time */
    struct err *failure; /* why writing failed: on_end is due */
    uv_shutdown_t *shutdown;
    size_t write_high;
    uint64_t close_by_ms; /* flushing and lingering */
    uint8_t state;        /* enum stream_state */
    bool wants_read, wants_drain;
};

static char
    read_buffer[READ_BUFFER_BYTES]; /* loop thread; touched by no call-back but on_uv_read */

static void flush(struct stream *s);

static bool is_in(const struct stream *s, uint32_t states)
{
    return (states & IN(s->state)) != 0;
}

static void stream_move(struct stream *s, enum stream_state to)
{
    CHECK((next_states[s->state] & IN(to)) != 0);
    s->state = (uint8_t)to;
    CHECK(s->dial == NULL || is_in(s, IN_DIAL | IN(ST_CLOSING)));
}

static uint64_t now_ms(void)
{
    return uv_hrtime() / 1000000;
}

static uint64_t ms_until(uint64_t at_ms)
{
    uint64_t now = now_ms();
    return at_ms > now ? at_ms - now : 0;
}

static void err_uv(struct err *e, int rc, const char *what)
{
    err_set(e, rc == UV_ETIMEDOUT ? ERR_TIMEOUT : ERR_UNAVAIL, 0, "%s: %s", what, uv_strerror(rc));
    e->sys = rc;
}

/* ---- life ---- */

static struct stream *stream_new(const struct stream_events *ev, void *arg,
                                 struct stream_limits limits, enum stream_state state)
{
    CHECK(limits.write_high > 0);
    struct stream *s = xcalloc(1, sizeof *s);
    s->ev = *ev;
    s->arg = arg;
    s->write_high = limits.write_high;
    s->state = (uint8_t)state;
    buf_init(&s->queue, limits.write_high);
    return s;
}

static void dial_free(struct dial *d)
{
    if (d != NULL && d->found != NULL)
        uv_freeaddrinfo(d->found);
    free(d);
}

static void flight_free(struct flight **f)
{
    if (*f != NULL)
        buf_release(&(*f)->bytes);
    free(*f);
    *f = NULL;
}

static void on_uv_closed(uv_handle_t *h)
{
    struct stream *s = h->data;
    void (*on_closed)(void *arg) = s->ev.on_closed;
    void *arg = s->arg;
    dial_free(s->dial);
    flight_free(&s->flight);
    buf_release(&s->queue);
    free(s->failure);
    free(s);
    if (on_closed != NULL)
        on_closed(arg);
}

static void stream_set_timer(struct stream *s, timer_cb cb, uint64_t delay_ms)
{
    timer_free(&s->timer);
    s->timer = timer_new(s->uv.handle.loop, cb, s);
    timer_start(s->timer, delay_ms);
}

/* A look-up that runs cannot be cancelled; it frees itself. */
static void dial_drop(struct dial **pd)
{
    struct dial *d = *pd;
    *pd = NULL;
    if (d != NULL && d->is_looking_up) {
        d->s = NULL;
        uv_cancel((uv_req_t *)&d->lookup);
    } else {
        dial_free(d);
    }
}

static void stream_end_now(struct stream *s)
{
    bool is_closing = s->state == ST_RETRYING; /* its handle closes already and finds the state */
    if (s->state == ST_LOOKUP)
        dial_drop(&s->dial);
    stream_move(s, ST_CLOSING);
    timer_free(&s->timer);
    if (!is_closing)
        uv_close(&s->uv.handle, on_uv_closed);
}

void stream_close(struct stream **ps)
{
    struct stream *s = *ps;
    if (s == NULL)
        return;
    *ps = NULL;
    stream_end_now(s);
}

int stream_fd(const struct stream *s)
{
    uv_os_fd_t fd = -1;
    return uv_fileno(&s->uv.handle, &fd) == 0 ? fd : -1;
}

bool stream_has_peer_ended(const struct stream *s)
{
    struct pollfd p = {.fd = stream_fd(s), .events = POLLRDHUP};
    return poll(&p, 1, 0) == 1; /* POLLHUP and POLLERR, of a reset, need not be asked for */
}

/* ---- reading ---- */

/* May free s. */
static void stream_report_end(struct stream *s, const struct err *e)
{
    stream_move(s, ST_ENDED);
    timer_free(&s->timer);
    s->ev.on_end(s->arg, e);
}

static void on_uv_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *out)
{
    (void)h;
    (void)suggested;
    *out = uv_buf_init(read_buffer, sizeof read_buffer);
}

/* After a short read of a socket that has hung up libuv says end of file without asking: a reset
 * may stand behind the last bytes. */
static int pending_error(const struct stream *s)
{
    int error = 0;
    socklen_t len = sizeof error;
    if (getsockopt(stream_fd(s), SOL_SOCKET, SO_ERROR, &error, &len) != 0)
        return 0;
    return uv_translate_sys_error(error);
}

static void on_uv_read(uv_stream_t *h, ssize_t n, const uv_buf_t *b)
{
    struct stream *s = h->data;
    if (s->state != ST_OPEN || n == 0)
        return;
    if (n > 0) {
        s->ev.on_read(s->arg, (struct str){b->base, (size_t)n});
        return;
    }
    uv_read_stop(h);
    int rc = n == UV_EOF ? pending_error(s) : (int)n;
    if (s->failure != NULL) { /* the write failed first and knows more than an end of file */
        stream_report_end(s, s->failure);
    } else if (rc == 0) {
        stream_report_end(s, NULL);
    } else {
        struct err e;
        err_uv(&e, rc, "read");
        stream_report_end(s, &e);
    }
}

static void on_failure_due(void *arg)
{
    struct stream *s = arg;
    if (s->state == ST_OPEN)
        stream_report_end(s, s->failure);
}

void stream_read_start(struct stream *s)
{
    s->wants_read = true;
    if (s->state != ST_OPEN || uv_is_closing(&s->uv.handle))
        return;
    int rc = uv_read_start(&s->uv.stream, on_uv_alloc, on_uv_read);
    CHECK(rc == 0 || rc == UV_EALREADY || rc == UV_ENOTCONN);
}

void stream_read_stop(struct stream *s)
{
    s->wants_read = false;
    if (s->state != ST_OPEN)
        return;
    uv_read_stop(&s->uv.stream);
    if (s->failure != NULL)
        stream_set_timer(s, on_failure_due, 0);
}

/* ---- writing ---- */

size_t stream_write_queued(const struct stream *s)
{
    return s->queue.len + uv_stream_get_write_queue_size(&s->uv.stream);
}

static void stream_finish_close(struct stream *s)
{
    if (s->state != ST_CLOSING)
        stream_end_now(s);
}

/* Writing is over: nothing more goes out; who reads on gets the peer's last words first. */
static void stream_write_failed(struct stream *s, int rc)
{
    buf_release(&s->queue);
    if (is_in(s, IN(ST_FLUSHING) | IN(ST_LINGERING))) {
        stream_end_now(s);
        return;
    }
    if (s->failure != NULL)
        return;
    s->failure = xcalloc(1, sizeof *s->failure);
    err_uv(s->failure, rc, "write");
    if (s->state == ST_OPEN && !s->wants_read)
        stream_set_timer(s, on_failure_due, 0);
}

static void on_uv_written(uv_write_t *req, int status)
{
    struct stream *s = req->handle->data;
    flight_free(&s->flight);
    if (s->state == ST_CLOSING)
        return;
    if (status < 0)
        stream_write_failed(s, status);
    else
        flush(s);
    if (s->wants_drain && is_in(s, IN_LIVE) && stream_write_queued(s) <= s->write_high / 2) {
        s->wants_drain = false;
        if (s->ev.on_drain != NULL)
            s->ev.on_drain(s->arg);
    }
}

/* The queue takes off as one write. */
static void stream_take_off(struct stream *s)
{
    struct flight *f = s->flight = xcalloc(1, sizeof *f);
    f->bytes = s->queue;
    buf_init(&s->queue, s->write_high);
    struct str b = buf_str(&f->bytes);
    uv_buf_t uv = uv_buf_init((char *)(uintptr_t)b.p, (unsigned)b.len);
    int rc = uv_write(&f->req, &s->uv.stream, &uv, 1, on_uv_written);
    if (rc != 0) {
        flight_free(&s->flight);
        stream_write_failed(s, rc);
    }
}

static void on_uv_shutdown(uv_shutdown_t *req, int status)
{
    (void)status; /* the reading side tells the same */
    struct stream *s = req->handle->data;
    s->shutdown = NULL;
    free(req);
}

static void stream_send_fin(struct stream *s)
{
    s->shutdown = xcalloc(1, sizeof *s->shutdown);
    if (uv_shutdown(s->shutdown, &s->uv.stream, on_uv_shutdown) != 0) {
        free(s->shutdown);
        s->shutdown = NULL;
    }
}

static void on_linger_over(void *arg)
{
    stream_finish_close(arg);
}

static void on_linger_read(uv_stream_t *h, ssize_t n, const uv_buf_t *b)
{
    (void)b;
    struct stream *s = h->data;
    if (n < 0)
        stream_finish_close(s);
}

static void stream_linger(struct stream *s)
{
    stream_move(s, ST_LINGERING);
    stream_send_fin(s);
    uint64_t left_ms = ms_until(s->close_by_ms);
    stream_set_timer(s, on_linger_over, left_ms < LINGER_MS ? left_ms : LINGER_MS);
    uv_read_stop(&s->uv.stream);
    if (uv_read_start(&s->uv.stream, on_uv_alloc, on_linger_read) != 0)
        stream_end_now(s);
}

/* Start what waits behind the write that has ended. */
static void flush(struct stream *s)
{
    if (s->flight != NULL)
        return;
    if (s->queue.len > 0) {
        stream_take_off(s);
    } else if (s->state == ST_FLUSHING) {
        stream_linger(s);
    }
}

static void queue_append(struct stream *s, struct str bytes)
{
    if (s->queue.len == 0 && bytes.len > s->write_high) {
        buf_release(&s->queue);
        buf_init(&s->queue, bytes.len);
    }
    bool ok = buf_append_str(&s->queue, bytes);
    CHECK(ok);
}

bool stream_write(struct stream *s, struct str bytes)
{
    if (s->failure != NULL || !is_in(s, IN_DIAL | IN_LIVE))
        return true; /* dropped; on_end tells */
    size_t queued = stream_write_queued(s);
    if (queued > 0 && (bytes.len > s->write_high || queued > s->write_high - bytes.len)) {
        s->wants_drain = true;
        return false;
    }
    if (queued == 0 && bytes.len > 0 && is_in(s, IN_LIVE)) {
        uv_buf_t uv = uv_buf_init((char *)(uintptr_t)bytes.p, (unsigned)bytes.len);
        int n = uv_try_write(&s->uv.stream, &uv, 1);
        if (n < 0 && n != UV_EAGAIN && n != UV_ENOBUFS) {
            stream_write_failed(s, n);
            return true;
        }
        bytes = str_sub(bytes, n > 0 ? (size_t)n : 0, bytes.len);
    }
    if (bytes.len > 0)
        queue_append(s, bytes);
    if (is_in(s, IN_LIVE))
        flush(s);
    return true;
}

void stream_close_after_flush(struct stream **ps, uint64_t timeout_ms)
{
    struct stream *s = *ps;
    if (s == NULL)
        return;
    *ps = NULL;
    if (!is_in(s, IN_LIVE) || s->failure != NULL) {
        stream_end_now(s);
        return;
    }
    stream_move(s, ST_FLUSHING);
    uv_read_stop(&s->uv.stream);
    s->close_by_ms = now_ms() + timeout_ms;
    stream_set_timer(s, on_linger_over, timeout_ms);
    flush(s);
}

/* ---- accepting ---- */

static bool handle_init(struct stream *s, uv_stream_t *listener)
{
    int rc = listener->type == UV_NAMED_PIPE ? uv_pipe_init(listener->loop, &s->uv.pipe, 0)
                                             : uv_tcp_init(listener->loop, &s->uv.tcp);
    s->uv.handle.data = s;
    return rc == 0;
}

bool stream_accept(uv_stream_t *listener, const struct stream_events *ev, void *arg,
                   struct stream_limits limits, struct stream **out, struct err *e)
{
    struct stream *s = stream_new(ev, arg, limits, ST_OPEN);
    CHECK(handle_init(s, listener));
    int rc = uv_accept(listener, &s->uv.stream);
    if (rc != 0) {
        err_uv(e, rc, "accept");
        s->ev.on_closed = NULL;
        stream_end_now(s);
        return false;
    }
    if (listener->type == UV_TCP)
        uv_tcp_nodelay(&s->uv.tcp, 1); /* fails only on a connection that is dead already */
    *out = s;
    return true;
}

/* ---- connecting ---- */

static void stream_opened(struct stream *s)
{
    dial_drop(&s->dial);
    timer_free(&s->timer);
    stream_move(s, ST_OPEN);
    uv_tcp_nodelay(&s->uv.tcp, 1);
    uv_tcp_keepalive(&s->uv.tcp, 1, KEEPALIVE_S);
    int ms = USER_TIMEOUT_MS; /* a peer that vanished: minutes of retransmissions otherwise */
    setsockopt(stream_fd(s), IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof ms);
    if (s->wants_read)
        stream_read_start(s);
    flush(s);
    if (s->ev.on_open != NULL)
        s->ev.on_open(s->arg);
}

/* From a loop callback, never from stream_connect().  May free s. */
static void dial_failed(struct stream *s)
{
    struct err e = s->dial->worst;
    dial_drop(&s->dial);
    stream_report_end(s, &e);
}

static bool is_unreachable(int rc)
{
    return rc == UV_ENETUNREACH || rc == UV_EHOSTUNREACH || rc == UV_EADDRNOTAVAIL ||
           rc == UV_EAFNOSUPPORT;
}

/* An address family we have no route for says less than a refusal by another address. */
static void dial_note(struct dial *d, int rc)
{
    if (d->worst.code != ERR_NONE && is_unreachable(rc))
        return;
    char address[INET6_ADDRSTRLEN] = "", what[sizeof d->host + 80];
    const struct sockaddr *sa = d->next->ai_addr;
    if (sa->sa_family == AF_INET6)
        uv_ip6_name((const struct sockaddr_in6 *)(const void *)sa, address, sizeof address);
    else
        uv_ip4_name((const struct sockaddr_in *)(const void *)sa, address, sizeof address);
    snprintf(what, sizeof what, "connect to %s (%s port %u)", d->host, address, d->port);
    err_uv(&d->worst, rc, what);
}

static void try_next_address(struct stream *s);

static void on_attempt_closed(uv_handle_t *h)
{
    struct stream *s = h->data;
    if (s->state == ST_CLOSING) {
        on_uv_closed(h);
        return;
    }
    CHECK(uv_tcp_init(h->loop, &s->uv.tcp) == 0);
    if (s->dial->next == NULL || ms_until(s->dial->deadline_ms) == 0)
        dial_failed(s);
    else
        try_next_address(s);
}

static void attempt_failed(struct stream *s, int rc)
{
    dial_note(s->dial, rc);
    s->dial->next = s->dial->next->ai_next;
    timer_free(&s->timer);
    stream_move(s, ST_RETRYING);
    uv_close(&s->uv.handle, on_attempt_closed);
}

static void on_attempt_timeout(void *arg)
{
    struct stream *s = arg;
    if (s->state == ST_CONNECTING)
        attempt_failed(s, UV_ETIMEDOUT);
}

static void on_uv_connected(uv_connect_t *req, int status)
{
    struct stream *s = req->handle->data;
    if (s->state != ST_CONNECTING)
        return;
    if (status < 0)
        attempt_failed(s, status);
    else
        stream_opened(s);
}

/* Each address gets its share of the time that is left: a silent one must not starve the others. */
static void try_next_address(struct stream *s)
{
    struct dial *d = s->dial;
    unsigned n_left = 0;
    for (const struct addrinfo *a = d->next; a != NULL; a = a->ai_next)
        n_left++;
    uint64_t share_ms = ms_until(d->deadline_ms) / n_left;
    stream_set_timer(s, on_attempt_timeout, share_ms > MIN_ATTEMPT_MS ? share_ms : MIN_ATTEMPT_MS);
    stream_move(s, ST_CONNECTING);
    int rc = uv_tcp_connect(&d->req, &s->uv.tcp, d->next->ai_addr, on_uv_connected);
    if (rc != 0)
        attempt_failed(s, rc);
}

static void dial_note_name(struct dial *d, int rc)
{
    char what[sizeof d->host + 32];
    snprintf(what, sizeof what, "look up %s", d->host);
    err_uv(&d->worst, rc, what);
}

static void on_lookup_timeout(void *arg)
{
    struct stream *s = arg;
    if (s->dial->worst.code == ERR_NONE) {
        dial_note_name(s->dial, UV_EAI_AGAIN);
        s->dial->worst.code = ERR_TIMEOUT;
    }
    dial_failed(s);
}

static void on_lookup(uv_getaddrinfo_t *req, int status, struct addrinfo *found)
{
    struct dial *d = req->data;
    d->is_looking_up = false;
    d->found = d->next = found;
    struct stream *s = d->s;
    if (s == NULL) {
        dial_free(d);
        return;
    }
    if (status == 0 && found != NULL) {
        try_next_address(s);
        return;
    }
    dial_note_name(d, status != 0 ? status : UV_EAI_NODATA);
    dial_failed(s);
}

static bool dial_set_literal(struct dial *d)
{
    struct sockaddr_storage *ss = &d->literal_addr;
    if (uv_ip4_addr(d->host, d->port, (struct sockaddr_in *)ss) != 0 &&
        uv_ip6_addr(d->host, d->port, (struct sockaddr_in6 *)ss) != 0)
        return false;
    d->literal.ai_addr = (struct sockaddr *)ss;
    d->next = &d->literal;
    return true;
}

static void dial_look_up(struct stream *s, uv_loop_t *loop)
{
    struct dial *d = s->dial;
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    char service[8];
    snprintf(service, sizeof service, "%u", d->port);
    d->lookup.data = d;
    int rc = uv_getaddrinfo(loop, &d->lookup, on_lookup, d->host, service, &hints);
    d->is_looking_up = rc == 0;
    if (rc != 0)
        dial_note_name(d, rc);
    stream_set_timer(s, on_lookup_timeout, rc == 0 ? ms_until(d->deadline_ms) : 0);
}

struct stream *stream_connect(uv_loop_t *loop, const char *host, uint16_t port, uint64_t timeout_ms,
                              const struct stream_events *ev, void *arg,
                              struct stream_limits limits)
{
    struct stream *s = stream_new(ev, arg, limits, ST_LOOKUP);
    CHECK(uv_tcp_init(loop, &s->uv.tcp) == 0);
    s->uv.handle.data = s;
    struct dial *d = s->dial = xcalloc(1, sizeof *d);
    d->s = s;
    d->port = port;
    d->deadline_ms = now_ms() + timeout_ms;
    str_copy(d->host, sizeof d->host, str_from(host));
    if (dial_set_literal(d))
        try_next_address(s);
    else
        dial_look_up(s, loop);
    return s;
}
