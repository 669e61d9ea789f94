// SPDX-License-Identifier: Apache-2.0
#include "http_server.h"

#include "base/list.h"
#include "sys/timer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define KEPT_MAX (1u << 20)

struct tunnel {
    struct http_server *server;
};

struct conn {
    struct list item;
    struct http_server *s;
    uv_pipe_t pipe;
    bool is_closed;
    char name[TUNNEL_NAME_MAX];
    struct tunnel_peer_info info;
    const struct http_step *step; /* of the request being read; NULL: none yet */
    struct buf head;
    uint64_t body_len, body_seen;
    unsigned n_requests;
    char chunk[65536];
};

static struct list conns = {&conns, &conns}; /* closed ones stay: their record is asked for */
static const struct http_server *current;

static void conn_close(struct conn *c, enum stream_end_cause cause);

/* ---- the tunnel to it ---- */

const char *tunnel_path(const struct tunnel *t)
{
    return t->server->path;
}

static void format_name(const struct sockaddr_un *sa, socklen_t len, char *out, size_t cap)
{
    size_t n = len - offsetof(struct sockaddr_un, sun_path);
    out[0] = '\0';
    for (size_t i = 0; i < n && 2 * i + 2 < cap; i++)
        snprintf(out + 2 * i, 3, "%02x", (unsigned char)sa->sun_path[i]);
}

bool tunnel_client_name_from_fd(int fd, char *out, size_t cap)
{
    struct sockaddr_un sa;
    socklen_t len = sizeof sa;
    CHECK(getsockname(fd, (struct sockaddr *)&sa, &len) == 0);
    format_name(&sa, len, out, cap);
    if (current->names_nothing)
        out[0] = '\0';
    return out[0] != '\0';
}

void tunnel_request_begun(struct tunnel *t, const char *client_name)
{
    (void)client_name;
    t->server->n_begun++;
}

void tunnel_request_done(struct tunnel *t, const char *client_name)
{
    (void)client_name;
    t->server->n_done++;
}

void tunnel_peer_info(const struct tunnel *t, const char *client_name, struct tunnel_peer_info *out)
{
    (void)t;
    *out = (struct tunnel_peer_info){0};
    LIST_EACH(it, &conns)
    {
        const struct conn *c = CONTAINER_OF(it, struct conn, item);
        if (strcmp(c->name, client_name) == 0)
            *out = c->info;
    }
}

void tunnel_abandon(struct tunnel *t, const char *client_name)
{
    (void)t;
    LIST_EACH(it, &conns)
    {
        struct conn *c = CONTAINER_OF(it, struct conn, item);
        if (strcmp(c->name, client_name) == 0)
            conn_close(c, END_CANCELED);
    }
}

const struct stream_end *tunnel_failure_since(const struct tunnel *t, uint64_t since_ms)
{
    const struct http_server *s = t->server;
    return s->last_failure.cause != END_NONE && s->failed_at_ms >= since_ms ? &s->last_failure
                                                                            : NULL;
}

/* ---- connections ---- */

static void on_conn_closed(uv_handle_t *h)
{
    struct conn *c = h->data;
    c->is_closed = true;
}

static void conn_close(struct conn *c, enum stream_end_cause cause)
{
    if (uv_is_closing((uv_handle_t *)&c->pipe))
        return;
    c->info.end.alert = c->step != NULL ? c->step->alert : 0;
    stream_end_set(&c->info.end, cause != END_NONE ? cause : END_RESET, "gateway test", "");
    uv_close((uv_handle_t *)&c->pipe, on_conn_closed);
}

struct out {
    uv_write_t req;
    struct conn *c;
    char *bytes;
    size_t len, sent, step_len;
    bool close; /* after it */
    enum stream_end_cause cause;
};

static void write_next(struct out *o);

static void on_written(uv_write_t *req, int status)
{
    struct out *o = CONTAINER_OF(req, struct out, req);
    if (status == 0 && o->sent < o->len) {
        write_next(o);
        return;
    }
    if (o->close)
        conn_close(o->c, o->cause);
    free(o->bytes);
    free(o);
}

static void write_next(struct out *o)
{
    uv_buf_t b = uv_buf_init(o->bytes + o->sent, (unsigned)o->step_len);
    o->c->info.bytes_down += o->step_len;
    o->sent += o->step_len;
    if (uv_write(&o->req, (uv_stream_t *)&o->c->pipe, &b, 1, on_written) != 0) {
        free(o->bytes);
        free(o);
    }
}

static void conn_answer(struct conn *c, const struct http_step *step)
{
    struct out *o = xcalloc(1, sizeof *o);
    o->c = c;
    o->len = step->answer_len > 0 ? step->answer_len : strlen(step->answer);
    o->bytes = xcalloc(o->len, 1);
    memcpy(o->bytes, step->answer, o->len);
    o->step_len = step->is_slow ? 1 : o->len;
    o->close = step->close;
    o->cause = step->cause;
    write_next(o);
}

static void run_step(struct conn *c)
{
    const struct http_step *step = c->step;
    if (step->answer != NULL)
        conn_answer(c, step);
    else if (step->close)
        conn_close(c, step->cause);
}

static uint64_t content_length(struct buf *head)
{
    const char *p = strcasestr(buf_cstr(head), "\r\nContent-Length:");
    return p == NULL ? 0 : strtoull(p + strlen("\r\nContent-Length:"), NULL, 10);
}

static void begin_request(struct conn *c)
{
    struct http_server *s = c->s;
    size_t i = s->n_started < s->n_steps ? s->n_started : s->n_steps - 1;
    s->n_started++;
    s->n_on_connection = ++c->n_requests;
    c->step = &s->steps[i];
    c->body_len = content_length(&c->head);
    c->body_seen = 0;
    buf_clear(&s->last);
    CHECK(buf_append_str(&s->last, buf_str(&c->head)));
    if (c->step->is_early)
        run_step(c);
}

static void end_request(struct conn *c)
{
    c->s->n_requests++;
    if (!c->step->is_early)
        run_step(c);
    c->step = NULL;
    buf_clear(&c->head);
}

static void take_body(struct conn *c, const char *p, size_t len)
{
    const struct http_step *step = c->step;
    c->body_seen += len;
    size_t room = buf_room(&c->s->last);
    CHECK(buf_append(&c->s->last, p, len < room ? len : room));
    if (step->cut_after_body > 0 && c->body_seen >= step->cut_after_body)
        conn_close(c, step->cause);
    else if (step->pause_after_body > 0 && c->body_seen >= step->pause_after_body)
        uv_read_stop((uv_stream_t *)&c->pipe);
    else if (c->body_seen >= c->body_len)
        end_request(c);
}

static void take_bytes(struct conn *c, const char *p, size_t len)
{
    if (c->step != NULL) {
        take_body(c, p, len);
        return;
    }
    CHECK(buf_append(&c->head, p, len));
    char *end = strstr(buf_cstr(&c->head), "\r\n\r\n");
    if (end == NULL)
        return;
    size_t head_len = (size_t)(end + 4 - buf_cstr(&c->head)), rest = c->head.len - head_len;
    AUTO_FREE char *body = xcalloc(rest, 1);
    memcpy(body, buf_cstr(&c->head) + head_len, rest);
    c->head.len = head_len;
    begin_request(c);
    take_body(c, body, rest);
}

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *out)
{
    struct conn *c = h->data;
    (void)suggested;
    *out = uv_buf_init(c->chunk, sizeof c->chunk);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *b)
{
    struct conn *c = stream->data;
    if (n < 0) {
        c->s->n_ended++;
        conn_close(c, END_CANCELED);
        return;
    }
    c->info.bytes_up += (uint64_t)n;
    take_bytes(c, b->base, (size_t)n);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct http_server *s = listener->data;
    CHECK(status == 0);
    if (s->is_full)
        return;
    struct conn *c = xcalloc(1, sizeof *c);
    c->s = s;
    c->pipe.data = c;
    s->n_connections++;
    list_push_back(&conns, &c->item);
    buf_init(&c->head, KEPT_MAX + sizeof c->chunk);
    CHECK(uv_pipe_init(s->loop, &c->pipe, 0) == 0);
    CHECK(uv_accept(listener, (uv_stream_t *)&c->pipe) == 0);
    uv_os_fd_t fd;
    struct sockaddr_un sa;
    socklen_t len = sizeof sa;
    CHECK(uv_fileno((uv_handle_t *)&c->pipe, &fd) == 0 &&
          getpeername(fd, (struct sockaddr *)&sa, &len) == 0);
    format_name(&sa, len, c->name, sizeof c->name);
    c->info.is_known = true;
    if (!s->is_dialling)
        str_copy(c->info.peer_id, sizeof c->info.peer_id, STR("spiffe://example.org/gateway"));
    if (s->refuses)
        conn_close(c, END_REFUSED);
    else if (!s->is_dialling)
        CHECK(uv_read_start((uv_stream_t *)&c->pipe, on_alloc, on_read) == 0);
}

static void count_unread(struct conn *c)
{
    uv_os_fd_t fd;
    ssize_t n;
    CHECK(uv_fileno((uv_handle_t *)&c->pipe, &fd) == 0);
    while ((n = read(fd, c->chunk, sizeof c->chunk)) > 0)
        c->info.bytes_up += (uint64_t)n;
}

/* ---- public ---- */

void http_server_start(struct http_server *s, uv_loop_t *loop, const struct http_step *steps,
                       size_t n_steps)
{
    *s = (struct http_server){
        .loop = loop, .steps = steps, .n_steps = n_steps, .directory = "/tmp/svidmail-http-XXXXXX"};
    current = s;
    CHECK(mkdtemp(s->directory) != NULL);
    snprintf(s->path, sizeof s->path, "%s/s", s->directory);
    buf_init(&s->last, KEPT_MAX);
    s->tunnel = xcalloc(1, sizeof *s->tunnel);
    s->tunnel->server = s;
    s->listener.data = s;
    CHECK(uv_pipe_init(loop, &s->listener, 0) == 0);
    CHECK(uv_pipe_bind(&s->listener, s->path) == 0);
    CHECK(uv_listen((uv_stream_t *)&s->listener, 64, on_connection) == 0);
}

void http_server_drop_connections(struct http_server *s)
{
    LIST_EACH(it, &conns)
    {
        struct conn *c = CONTAINER_OF(it, struct conn, item);
        if (c->s != s || uv_is_closing((uv_handle_t *)&c->pipe))
            continue;
        count_unread(c);
        conn_close(c, END_RESET);
    }
}

void http_server_resume(struct http_server *s)
{
    static const struct http_step just_read = {0};
    s->steps = &just_read;
    s->n_steps = 1;
    LIST_EACH(it, &conns)
    {
        struct conn *c = CONTAINER_OF(it, struct conn, item);
        if (c->s != s || uv_is_closing((uv_handle_t *)&c->pipe))
            continue;
        if (c->step != NULL) /* else its request, when it has come, takes the server's step */
            c->step = &just_read;
        int rc = uv_read_start((uv_stream_t *)&c->pipe, on_alloc, on_read);
        CHECK(rc == 0 || rc == UV_EALREADY); /* it may not have come to its pause yet */
    }
}

void http_server_stop(struct http_server *s)
{
    http_server_drop_connections(s);
    if (!uv_is_closing((uv_handle_t *)&s->listener))
        uv_close((uv_handle_t *)&s->listener, NULL);
    for (int i = 0; i < 3; i++)
        uv_run(s->loop, UV_RUN_NOWAIT);
    LIST_EACH(it, &conns)
    {
        struct conn *c = CONTAINER_OF(it, struct conn, item);
        CHECK(c->is_closed);
        list_remove(it);
        buf_release(&c->head);
        free(c);
    }
    buf_release(&s->last);
    free(s->tunnel);
    unlink(s->path);
    rmdir(s->directory);
}
