// SPDX-License-Identifier: Apache-2.0
/* Happy path of a link: accepted -> DIALLING (the unix end is not read) -> OPEN -> CLOSING ->
 * freed. Failure modes: no identity, a failed dial, the client hangs up, the gateway ends it, we
 * retire or abort it: all go through link_end(), which records the cause before the client can see
 * the end. */
#include "identity/tunnel.h"
#include "base/buf.h"
#include "base/list.h"
#include "base/mem.h"
#include "sys/log.h"
#include "sys/metrics.h"
#include "sys/stream.h"
#include "sys/timer.h"
#include "sys/unix_socket.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define ENDED_MIN        64
#define BACKLOG          128
#define LOCAL_HIGH_BYTES 65536u
#define HELD_MAX_BYTES   65536u /* one read of either side */
#define SWEEP_MS         1000u
#define IDLE_MS          1000u
#define MAX_AGE_MS       3600000u
#define MAX_STREAMS      4u
#define EXPIRY_MARGIN_MS 60000
#define FLUSH_TIMEOUT_MS 1000u
#define REPEAT_WINDOW_MS 60000u
#define HUNG_UP          "the client hung up"
#define ABANDONED        "the client gave up"

enum link_state { LINK_DIALLING, LINK_OPEN, LINK_RETIRING, LINK_CLOSING, LINK_STATE_COUNT };
#define IN(s) (1u << (s))
// clang-format off
static const uint32_t next_states[LINK_STATE_COUNT] = {
    [LINK_DIALLING] = IN(LINK_OPEN) | IN(LINK_CLOSING),
    [LINK_OPEN]     = IN(LINK_RETIRING) | IN(LINK_CLOSING),
    [LINK_RETIRING] = IN(LINK_CLOSING),
    [LINK_CLOSING]  = 0,
};
// clang-format on

/* One accepted connection and its far end. */
struct link {
    struct list item;
    struct tunnel *t;
    enum link_state state;
    struct stream *local;
    struct tls_stream *far;
    struct buf held_up, held_down; /* what the other side would not take; its giver is paused */
    struct stream_end end;
    uint64_t opened_at_ms, last_byte_at_ms, bytes_up, bytes_down;
    int64_t due_at_wall_ms;        /* a certificate ends soon after */
    bool is_busy;                  /* with a request that we were told of */
    bool was_up_last, is_far_over; /* far over: it has ended, held_down still goes to the client */
    char name[TUNNEL_NAME_MAX];
};

struct ended {
    char name[TUNNEL_NAME_MAX];
    struct tunnel_peer_info info;
};

struct tunnel {
    uv_loop_t *loop;
    struct tls_contexts *contexts;
    struct svid_store *store;
    const struct clock *clock;
    struct svid_watch *watch;
    struct timer *sweep;
    uint64_t sweep_at_ms;
    uv_pipe_t listener;
    struct list links;
    unsigned n_links, n_streams; /* all; those that are not closing */
    unsigned max_streams;
    uint64_t max_age_ms;
    bool has_waiting; /* libuv holds an accepted connection until there is room */
    bool is_closing, is_listener_closed;
    void (*on_closed)(void *arg);
    void *on_closed_arg;
    struct stream_end last_failure;
    uint64_t failed_at_ms;
    struct ended **ended; /* ring */
    unsigned n_ended, ended_max;
    struct tls_stream_target target; /* deep copy */
    struct spiffe_id *ids;
    char *host, *sni, *alpn, *path, *name;
};

static void accept_next(struct tunnel *t);

static uint64_t now_ms(const struct tunnel *t)
{
    return clock_mono_ms(t->clock);
}

static void link_move(struct link *l, enum link_state to)
{
    CHECK((next_states[l->state] & IN(to)) != 0);
    l->state = to;
}

/* ---- names ---- */

/* An address without a name leaves "". */
static void format_name(const struct sockaddr_un *sa, socklen_t len, char *out, size_t cap)
{
    size_t n = len > offsetof(struct sockaddr_un, sun_path)
                   ? len - offsetof(struct sockaddr_un, sun_path)
                   : 0;
    CHECK(cap > 0);
    out[0] = '\0';
    for (size_t i = 0; i < n && 2 * i + 2 < cap && 2 * i + 2 < TUNNEL_NAME_MAX; i++)
        snprintf(out + 2 * i, 3, "%02x", (unsigned char)sa->sun_path[i]);
}

bool tunnel_client_name_from_fd(int fd, char *out, size_t cap)
{
    struct sockaddr_un sa;
    socklen_t len = sizeof sa;
    out[0] = '\0';
    if (getsockname(fd, (struct sockaddr *)&sa, &len) == 0 && sa.sun_family == AF_UNIX)
        format_name(&sa, len, out, cap);
    return out[0] != '\0';
}

static void peer_name(int fd, char *out, size_t cap)
{
    struct sockaddr_un sa;
    socklen_t len = sizeof sa;
    out[0] = '\0';
    if (getpeername(fd, (struct sockaddr *)&sa, &len) == 0)
        format_name(&sa, len, out, cap);
}

/* ---- what is known of links ---- */

static void link_info(const struct link *l, struct tunnel_peer_info *out)
{
    *out = (struct tunnel_peer_info){
        .is_known = true, .end = l->end, .bytes_up = l->bytes_up, .bytes_down = l->bytes_down};
    if (l->far == NULL)
        return;
    out->bytes_up -= tls_stream_n_dropped(l->far);
    str_copy(out->peer_id, sizeof out->peer_id, spiffe_id_str(&tls_stream_peer(l->far)->id));
}

/* Neither by our own will nor, after an answer, by the gateway's. */
static bool is_failure(const struct link *l)
{
    enum stream_end_cause c = l->end.cause;
    if (c == END_CLEAN)
        return l->bytes_down == 0;
    return c != END_ROTATED && c != END_IDLE_TIMEOUT && c != END_CANCELED;
}

static void link_record(struct link *l)
{
    struct tunnel *t = l->t;
    struct ended **slot = &t->ended[t->n_ended++ % t->ended_max];
    if (*slot == NULL)
        *slot = xcalloc(1, sizeof **slot);
    str_copy((*slot)->name, sizeof(*slot)->name, str_from(l->name));
    link_info(l, &(*slot)->info);
    if (!is_failure(l))
        return;
    t->last_failure = l->end;
    t->failed_at_ms = now_ms(t);
}

/* The live one of that name, or NULL. */
static struct link *find_link(const struct tunnel *t, const char *client_name)
{
    LIST_EACH(it, &t->links)
    {
        struct link *l = CONTAINER_OF(it, struct link, item);
        if (l->state != LINK_CLOSING && strcmp(l->name, client_name) == 0)
            return l;
    }
    return NULL;
}

void tunnel_peer_info(const struct tunnel *t, const char *client_name, struct tunnel_peer_info *out)
{
    memset(out, 0, sizeof *out);
    if (client_name[0] == '\0')
        return;
    const struct link *l = find_link(t, client_name);
    if (l != NULL) {
        link_info(l, out);
        return;
    }
    for (unsigned i = t->n_ended; i > 0 && i + t->ended_max > t->n_ended; i--) { /* newest first */
        const struct ended *r = t->ended[(i - 1) % t->ended_max];
        if (strcmp(r->name, client_name) == 0) {
            *out = r->info;
            return;
        }
    }
}

const struct stream_end *tunnel_last_failure(const struct tunnel *t)
{
    return &t->last_failure;
}

const struct stream_end *tunnel_failure_since(const struct tunnel *t, uint64_t since_ms)
{
    bool is_there = t->last_failure.cause != END_NONE && t->failed_at_ms >= since_ms;
    return is_there ? &t->last_failure : NULL;
}

unsigned tunnel_n_streams(const struct tunnel *t)
{
    return t->n_streams;
}

const char *tunnel_path(const struct tunnel *t)
{
    return t->path;
}

/* ---- the end of a link ---- */

static void tunnel_maybe_free(struct tunnel *t)
{
    if (!t->is_listener_closed || t->n_links > 0)
        return;
    void (*cb)(void *arg) = t->on_closed;
    void *arg = t->on_closed_arg;
    for (unsigned i = 0; i < t->ended_max; i++)
        free(t->ended[i]);
    free(t->ended);
    free(t->ids);
    free(t->host);
    free(t->sni);
    free(t->alpn);
    free(t->path);
    free(t->name);
    free(t);
    if (cb != NULL)
        cb(arg);
}

static void on_local_closed(void *arg)
{
    struct link *l = arg;
    struct tunnel *t = l->t;
    list_remove(&l->item);
    buf_release(&l->held_up);
    buf_release(&l->held_down);
    free(l);
    t->n_links--;
    tunnel_maybe_free(t);
}

/* The client reads what came down before it sees the end; else its bytes that lie unread make the
 * end a reset, which says that they were not taken. */
static void close_local(struct link *l)
{
    if (stream_write_queued(l->local) > 0)
        stream_close_after_flush(&l->local, FLUSH_TIMEOUT_MS);
    else
        stream_close(&l->local);
}

/* The only way out: l->end is set.  First the record, then what the client can see. */
static void link_end(struct link *l)
{
    struct tunnel *t = l->t;
    CHECK(l->end.cause != END_NONE);
    link_record(l);
    link_move(l, LINK_CLOSING);
    t->n_streams--;
    tls_stream_close(&l->far);
    close_local(l);
    if (t->has_waiting && !t->is_closing)
        accept_next(t);
}

/* A client whose end is not read: what it has written is not wanted any more. */
static bool has_hung_up(const struct link *l)
{
    struct pollfd p = {.fd = stream_fd(l->local)};
    return poll(&p, 1, 0) == 1 && (p.revents & POLLHUP) != 0;
}

static void link_cancel(struct link *l, const char *why)
{
    l->end.was_open = l->state != LINK_DIALLING;
    stream_end_set(&l->end, END_CANCELED, l->t->name, why);
    link_end(l);
}

void tunnel_abandon(struct tunnel *t, const char *client_name)
{
    struct link *l = find_link(t, client_name);
    if (l == NULL)
        return;
    if (l->is_far_over) {
        link_end(l); /* the gateway's cause stands */
        return;
    }
    tls_stream_abort(l->far, END_CANCELED, ABANDONED);
    link_cancel(l, ABANDONED);
}

/* ---- bytes ---- */

static void note_byte(struct link *l, bool is_up)
{
    l->last_byte_at_ms = now_ms(l->t);
    l->was_up_last = is_up;
}

static void hold(struct buf *held, struct str bytes)
{
    bool ok = buf_append_str(held, bytes);
    CHECK(ok);
}

static void on_local_read(void *arg, struct str bytes)
{
    struct link *l = arg;
    struct tunnel *t = l->t;
    if (l->state != LINK_OPEN)
        return;
    /* a new request: timers stand still in a suspended machine, so the clock is asked */
    if (!l->was_up_last && tls_stream_is_expired(l->far, t->clock) &&
        !tls_stream_recheck(l->far, t->store, t->clock))
        return;
    note_byte(l, true);
    if (tls_stream_write(l->far, bytes)) {
        l->bytes_up += bytes.len;
        return;
    }
    hold(&l->held_up, bytes);
    stream_read_stop(l->local);
}

static void on_far_drain(void *arg)
{
    struct link *l = arg;
    if (l->state != LINK_OPEN || l->held_up.len == 0)
        return;
    note_byte(l, true);
    if (!tls_stream_write(l->far, buf_str(&l->held_up)))
        return;
    l->bytes_up += l->held_up.len;
    buf_release(&l->held_up);
    stream_read_start(l->local);
}

static void on_far_read(void *arg, struct str plain)
{
    struct link *l = arg;
    if (l->bytes_down == 0)
        l->t->last_failure = (struct stream_end){.cause = END_NONE};
    note_byte(l, false);
    l->bytes_down += plain.len;
    if (stream_write(l->local, plain))
        return;
    hold(&l->held_down, plain);
    tls_stream_read_stop(l->far);
}

static void on_local_drain(void *arg)
{
    struct link *l = arg;
    if (l->state == LINK_CLOSING || l->held_down.len == 0)
        return;
    note_byte(l, false);
    if (!stream_write(l->local, buf_str(&l->held_down)))
        return;
    buf_release(&l->held_down);
    if (l->is_far_over)
        link_end(l);
    else
        tls_stream_read_start(l->far);
}

static void on_local_end(void *arg, const struct err *e)
{
    struct link *l = arg;
    if (l->is_far_over)
        link_end(l); /* UNTESTED: a lost client drains first; the gateway's cause stands */
    else if (l->state != LINK_CLOSING)
        link_cancel(l, e != NULL ? e->msg : HUNG_UP);
}

static void on_far_end(void *arg, const struct stream_end *end)
{
    struct link *l = arg;
    l->end = *end;
    l->is_far_over = true;
    if (l->held_down.len == 0)
        link_end(l);
    else
        stream_read_stop(l->local);
}

/* A newer generation than the one it was dialled with, or none any more, may be in use. */
static bool is_old(const struct link *l)
{
    const struct svid_set *current = svid_store_current(l->t->store);
    const struct svid_set *used = tls_context_set(tls_stream_context(l->far));
    return current == NULL || current->generation != used->generation;
}

/* Retired a while before it has to be cut, but not at once where certificates live for seconds. */
static void set_due(struct link *l)
{
    int64_t end_ms = tls_stream_not_after_ms(l->far);
    int64_t quarter_ms = (end_ms - clock_wall_ms(l->t->clock)) / 4;
    l->due_at_wall_ms = end_ms - (quarter_ms < EXPIRY_MARGIN_MS ? quarter_ms : EXPIRY_MARGIN_MS);
}

/* The handshake judged the gateway by the bundles of the time when it was dialled. */
static void on_far_open(void *arg)
{
    struct link *l = arg;
    if (has_hung_up(l)) {
        link_cancel(l, HUNG_UP);
        return;
    }
    if (is_old(l) && !tls_stream_recheck(l->far, l->t->store, l->t->clock))
        return;
    link_move(l, LINK_OPEN);
    l->opened_at_ms = now_ms(l->t);
    set_due(l);
    note_byte(l, false);
    stream_read_start(l->local);
    tls_stream_read_start(l->far);
}

/* ---- retiring ---- */

/* 0: it has to go when idle. */
static uint64_t due_in_ms(const struct link *l, uint64_t now)
{
    uint64_t age_ms = now - l->opened_at_ms, max_ms = l->t->max_age_ms;
    int64_t wall_ms = clock_wall_ms(l->t->clock);
    if (is_old(l) || age_ms >= max_ms || wall_ms >= l->due_at_wall_ms)
        return 0;
    uint64_t left_ms = (uint64_t)(l->due_at_wall_ms - wall_ms);
    return left_ms < max_ms - age_ms ? left_ms : max_ms - age_ms;
}

static bool is_due(const struct link *l, uint64_t now)
{
    return due_in_ms(l, now) == 0;
}

/* No request that we know of; and as far as bytes tell: the last ones were an answer, a while ago,
 * and nothing waits anywhere. */
static bool is_idle(const struct link *l, uint64_t now)
{
    int unread = 0;
    if (ioctl(stream_fd(l->local), FIONREAD, &unread) != 0)
        unread = 0;
    return !l->is_busy && !l->was_up_last && now - l->last_byte_at_ms >= IDLE_MS && unread == 0 &&
           l->held_up.len == 0 && l->held_down.len == 0 && stream_write_queued(l->local) == 0;
}

static void link_retire(struct link *l, uint64_t now)
{
    bool is_old_age = now - l->opened_at_ms >= l->t->max_age_ms;
    bool ends_soon = clock_wall_ms(l->t->clock) >= l->due_at_wall_ms;
    link_move(l, LINK_RETIRING);
    stream_read_stop(l->local); /* what comes now stays unread: the client sees a reset */
    if (is_old_age)
        tls_stream_abort(l->far, END_IDLE_TIMEOUT, "retired by age");
    else
        tls_stream_abort(l->far, END_ROTATED, ends_soon ? "a certificate ends soon" : "");
}

void tunnel_request_begun(struct tunnel *t, const char *client_name)
{
    struct link *l = find_link(t, client_name);
    if (l != NULL)
        l->is_busy = true;
}

void tunnel_request_done(struct tunnel *t, const char *client_name)
{
    uint64_t now = now_ms(t);
    struct link *l = find_link(t, client_name);
    if (l == NULL)
        return;
    l->is_busy = false;
    if (l->state == LINK_OPEN && !l->is_far_over && l->held_down.len == 0 && is_due(l, now))
        link_retire(l, now);
}

static uint64_t link_sweep_in_ms(const struct link *l, uint64_t now)
{
    uint64_t in_ms = l->state == LINK_DIALLING ? 0 : due_in_ms(l, now);
    return in_ms > 0 ? in_ms : SWEEP_MS;
}

static void schedule_sweep(struct tunnel *t)
{
    uint64_t now = now_ms(t), in_ms = UINT64_MAX;
    LIST_EACH(it, &t->links)
    {
        const struct link *l = CONTAINER_OF(it, struct link, item);
        bool is_swept = l->state == LINK_DIALLING || (l->state == LINK_OPEN && !l->is_far_over);
        uint64_t its_ms = is_swept ? link_sweep_in_ms(l, now) : UINT64_MAX;
        in_ms = its_ms < in_ms ? its_ms : in_ms;
    }
    if (in_ms == UINT64_MAX || (timer_is_active(t->sweep) && t->sweep_at_ms <= now + in_ms))
        return;
    t->sweep_at_ms = now + in_ms;
    timer_start(t->sweep, in_ms);
}

static void on_sweep(void *arg)
{
    struct tunnel *t = arg;
    uint64_t now = now_ms(t);
    LIST_EACH(it, &t->links)
    {
        struct link *l = CONTAINER_OF(it, struct link, item);
        if (l->state == LINK_DIALLING && has_hung_up(l))
            link_cancel(l, HUNG_UP);
        else if (l->state == LINK_OPEN && !l->is_far_over && is_due(l, now) && is_idle(l, now))
            link_retire(l, now);
    }
    schedule_sweep(t);
}

static void on_svid_change(void *arg)
{
    struct tunnel *t = arg;
    LIST_EACH(it, &t->links)
    {
        struct link *l = CONTAINER_OF(it, struct link, item);
        if (l->far != NULL)
            tls_stream_recheck(l->far, t->store, t->clock);
    }
    schedule_sweep(t);
}

/* ---- accepting ---- */

/* true: it is this very process. */
static bool is_own_peer(const struct tunnel *t, int fd)
{
    struct ucred who = {.pid = 0};
    socklen_t len = sizeof who;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0 && who.pid == getpid())
        return true;
    if (!log_is_repeat(EV_TUNNEL_REFUSED, t->path, REPEAT_WINDOW_MS))
        LOG(EV_TUNNEL_REFUSED, F_STR("socket", t->path), F_INT("pid", who.pid),
            F_INT("uid", who.uid));
    return false;
}

static void no_identity(struct link *l, const struct err *e)
{
    struct tunnel *t = l->t;
    stream_end_set(&l->end, END_NO_IDENTITY, t->name, e->msg);
    metric_add(M_GATEWAY_HANDSHAKES, METRIC_L(stream_end_name(END_NO_IDENTITY)), 1);
    if (!log_is_repeat(EV_GATEWAY_FAILED, e->msg, REPEAT_WINDOW_MS))
        LOG_ERR(EV_GATEWAY_FAILED, &l->end.err, F_STR("gateway", t->name), F_STR("sni", t->sni),
                F_STR("cause", stream_end_name(END_NO_IDENTITY)));
    link_end(l);
}

static void link_dial(struct link *l)
{
    static const struct tls_stream_events events = {on_far_open, on_far_read, on_far_drain,
                                                    on_far_end};
    struct tunnel *t = l->t;
    struct tls_context *c;
    struct err e;
    t->n_streams++;
    if (!tls_contexts_get(t->contexts, &c, &e)) {
        no_identity(l, &e);
        return;
    }
    l->far = tls_stream_open(t->loop, c, &t->target, &events, l);
    tls_context_unref(&c);
    schedule_sweep(t);
}

static void accept_next(struct tunnel *t)
{
    static const struct stream_events events = {NULL, on_local_read, on_local_end, on_local_drain,
                                                on_local_closed};
    struct link *l = xcalloc(1, sizeof *l);
    struct err e;
    t->has_waiting = false;
    l->t = t;
    list_init(&l->item);
    buf_init(&l->held_up, HELD_MAX_BYTES);
    buf_init(&l->held_down, HELD_MAX_BYTES);
    if (!stream_accept((uv_stream_t *)&t->listener, &events, l,
                       (struct stream_limits){LOCAL_HIGH_BYTES}, &l->local, &e)) {
        free(l);
        return;
    }
    list_push_back(&t->links, &l->item);
    t->n_links++;
    peer_name(stream_fd(l->local), l->name, sizeof l->name);
    if (is_own_peer(t, stream_fd(l->local)) && !has_hung_up(l)) {
        link_dial(l);
    } else {
        link_move(l, LINK_CLOSING);
        stream_close(&l->local);
    }
}

/* With all streams taken the connection stays with libuv, which stops accepting until it is taken.
 */
static void on_connection(uv_stream_t *listener, int status)
{
    struct tunnel *t = listener->data;
    if (status < 0 || t->is_closing)
        return;
    if (t->n_streams >= t->max_streams)
        t->has_waiting = true;
    else
        accept_next(t);
}

/* ---- life ---- */

NODISCARD static bool check_directory(const char *path, struct err *e)
{
    struct stat st;
    if (lstat(path, &st) != 0)
        return err_set(e, ERR_IO, errno, "tunnel directory %.200s", path);
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077) != 0)
        return err_set(e, ERR_DENIED, 0,
                       "tunnel directory %.200s must be a directory of mode 0700 that is ours",
                       path);
    return true;
}

/* A socket that an earlier run left behind goes; anything else stays. */
NODISCARD static bool remove_stale(const char *path, struct err *e)
{
    struct stat st;
    if (unix_socket_remove_stale(path) || (lstat(path, &st) != 0 && errno == ENOENT))
        return true;
    return err_set(e, ERR_DENIED, 0,
                   "%.200s is in the way: no socket, or one in use, or another user's", path);
}

NODISCARD static bool tunnel_listen(struct tunnel *t, struct err *e)
{
    int rc = uv_pipe_bind(&t->listener, t->path);
    if (rc == 0 && chmod(t->path, 0600) != 0)
        rc = -errno;
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)&t->listener, BACKLOG, on_connection);
    return rc == 0 || err_set(e, ERR_IO, rc, "listen on %.200s", t->path);
}

static struct tunnel *tunnel_alloc(uv_loop_t *loop, const struct tunnel_config *cfg,
                                   struct tls_contexts *contexts, struct svid_store *store,
                                   const struct clock *clock)
{
    struct tunnel *t = xcalloc(1, sizeof *t);
    t->loop = loop;
    t->contexts = contexts;
    t->store = store;
    t->clock = clock;
    t->max_streams = cfg->max_streams != 0 ? cfg->max_streams : MAX_STREAMS;
    t->max_age_ms = cfg->max_age_ms != 0 ? cfg->max_age_ms : MAX_AGE_MS;
    /* All may end in one turn, before anybody asks why. */
    t->ended_max = 2 * t->max_streams > ENDED_MIN ? 2 * t->max_streams : ENDED_MIN;
    t->ended = xcalloc(t->ended_max, sizeof *t->ended);
    list_init(&t->links);
    t->path = xasprintf("%s/%s", cfg->directory, cfg->name);
    t->name = xasprintf("gateway %s:%u", cfg->target.host, cfg->target.port);
    t->target = cfg->target;
    t->target.host = t->host = xstrdup(cfg->target.host);
    t->target.sni = t->sni = xstrdup(cfg->target.sni);
    t->target.alpn = t->alpn = cfg->target.alpn != NULL ? xstrdup(cfg->target.alpn) : NULL;
    t->target.ids = t->ids = xcalloc(cfg->target.n_ids, sizeof *t->ids);
    if (cfg->target.n_ids > 0)
        memcpy(t->ids, cfg->target.ids, cfg->target.n_ids * sizeof *t->ids);
    return t;
}

static void on_listener_closed(uv_handle_t *h)
{
    struct tunnel *t = h->data;
    t->is_listener_closed = true;
    tunnel_maybe_free(t);
}

bool tunnel_new(uv_loop_t *loop, const struct tunnel_config *cfg, struct tls_contexts *contexts,
                struct svid_store *store, const struct clock *clock, struct tunnel **out,
                struct err *e)
{
    *out = NULL;
    if (strlen(cfg->directory) + strlen(cfg->name) + 2 > sizeof((struct sockaddr_un *)0)->sun_path)
        return err_set(e, ERR_SYNTAX, 0, "socket path %.200s/%.50s is too long", cfg->directory,
                       cfg->name);
    if (!check_directory(cfg->directory, e))
        return false;
    struct tunnel *t = tunnel_alloc(loop, cfg, contexts, store, clock);
    CHECK(uv_pipe_init(loop, &t->listener, 0) == 0);
    t->listener.data = t;
    if (!remove_stale(t->path, e) || !tunnel_listen(t, e)) {
        uv_close((uv_handle_t *)&t->listener, on_listener_closed);
        return false;
    }
    t->sweep = timer_new(loop, on_sweep, t);
    t->watch = svid_store_watch(store, on_svid_change, t);
    *out = t;
    return true;
}

void tunnel_close(struct tunnel *t, void (*cb)(void *arg), void *arg)
{
    CHECK(!t->is_closing);
    t->is_closing = true;
    t->on_closed = cb;
    t->on_closed_arg = arg;
    svid_store_unwatch(&t->watch);
    timer_free(&t->sweep);
    LIST_EACH(it, &t->links)
    {
        struct link *l = CONTAINER_OF(it, struct link, item);
        if (l->is_far_over && l->state != LINK_CLOSING)
            link_end(l);
        else if (l->state != LINK_CLOSING)
            link_cancel(l, "shutting down");
    }
    uv_close((uv_handle_t *)&t->listener, on_listener_closed); /* removes the socket file */
}
