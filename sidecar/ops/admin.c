// SPDX-License-Identifier: Apache-2.0
/* libmicrohttpd keeps an epoll descriptor of its own; uv_poll watches that one, and a timer stands
 * in for the library's timeouts.  Socket and metrics port are daemons of their own, so that whoever
 * fills the port's connections does not lock out the health probe.
 *
 * Happy path: uv_poll or timer -> door_run -> MHD_run -> on_request -> endpoint -> response.  An
 * endpoint that answers later: its connection is suspended until admin_reply_send(), which has the
 * library call on_request once more.  Meanwhile nobody looks whether the client is still there.
 * Failures: too many connections wait in the backlog, on the port they are shut after PER_ADDRESS
 * of one address; a client that is silent is cut after IDLE_S by the library, which knows no other
 * limit, and one that is slow after REQUEST_MS by us; a request with a body is refused before it
 * comes; one that is no HTTP, too long or in pieces is the library's to refuse, in CONNECTION_BYTES
 * at most. */
#include "ops/admin.h"
#include "base/list.h"
#include "base/mem.h"
#include "core/listen_address.h"
#include "sys/log.h"
#include "sys/unix_socket.h"
#include "sys/timer.h"

#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define MAX_CONNECTIONS  16
#define PER_ADDRESS      4 /* two Prometheuses behind one node's address, and someone who looks */
#define CONNECTION_BYTES (8u * 1024)
#define IDLE_S           5u
#define REQUEST_MS       10000u
#define BACKLOG          32
#define BODY_MAX         (1024 * 1024)
#define ENDPOINTS_MAX    16

struct door {
    struct admin *admin;
    bool is_tcp, is_closing;
    struct list clients;    /* whose time runs, the oldest first */
    struct list suspended;  /* replies whose connection waits */
    struct MHD_Daemon *mhd; /* NULL: not open */
    uv_poll_t poll;
    struct timer *timer;
};

struct admin {
    uv_loop_t *loop;
    struct admin_endpoint *endpoints;
    size_t n_endpoints;
    uint64_t request_limit_ms;
    struct door unix_door, tcp_door;
    unsigned n_open; /* polls whose close callback has not run */
    char path[LISTEN_PATH_MAX + 1];
    dev_t dev; /* of the socket file, so that only our own is removed */
    ino_t ino;
};

/* --- clients */

struct client {
    struct list item; /* of door.clients; of none while a late answer is awaited */
    struct MHD_Connection *connection;
    uint64_t since_ms; /* when it came, or had its last answer */
};

static void start_time(struct door *d, struct client *cl)
{
    list_remove(&cl->item);
    list_push_back(&d->clients, &cl->item);
    cl->since_ms = uv_now(d->admin->loop);
}

static void stop_time(struct client *cl)
{
    list_remove(&cl->item);
}

static struct client *client_of(struct MHD_Connection *c)
{
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    CHECK(i != NULL && i->socket_context != NULL);
    return i->socket_context;
}

static void on_connection(void *arg, struct MHD_Connection *c, void **socket_context,
                          enum MHD_ConnectionNotificationCode what)
{
    struct door *d = arg;
    struct client *cl = *socket_context;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        *socket_context = cl = xcalloc(1, sizeof *cl);
        cl->connection = c;
        list_init(&cl->item);
        start_time(d, cl);
    } else {
        stop_time(cl);
        free(cl);
        *socket_context = NULL;
    }
}

/* Until the oldest client's time is over; 0: it is.  false: there is none. */
static bool time_left(const struct door *d, uint64_t *ms)
{
    if (list_is_empty(&d->clients))
        return false;
    uint64_t age_ms =
        uv_now(d->admin->loop) - CONTAINER_OF(d->clients.next, struct client, item)->since_ms;
    uint64_t limit_ms = d->admin->request_limit_ms;
    *ms = age_ms < limit_ms ? limit_ms - age_ms : 0;
    return true;
}

/* The library sees the end, and closes. */
static void cut_slow(struct door *d)
{
    uint64_t left_ms;
    while (time_left(d, &left_ms) && left_ms == 0) {
        struct client *cl = CONTAINER_OF(d->clients.next, struct client, item);
        const union MHD_ConnectionInfo *i =
            MHD_get_connection_info(cl->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        CHECK(i != NULL);
        shutdown(i->connect_fd, SHUT_RDWR);
        stop_time(cl);
    }
}

/* --- requests */

/* What is owed to a request; it may outlive it. */
struct admin_reply {
    struct list item;        /* of door.suspended, or of none */
    struct request *request; /* NULL: it has gone */
    struct door *door;
    struct MHD_Connection *connection;
};

/* Its address as it came, query included: the library hands the query out only in pieces. */
struct request {
    char *uri;
    bool is_begun;
    struct admin_reply *owed;
    bool is_answered; /* late; the answer is below */
    int status;
    struct buf body;
    const char *content_type;
};

static void *on_uri(void *arg, const char *uri, struct MHD_Connection *c)
{
    (void)arg;
    (void)c;
    struct request *r = xcalloc(1, sizeof *r);
    r->uri = xstrdup(uri);
    buf_init(&r->body, BODY_MAX);
    return r;
}

static void on_completed(void *arg, struct MHD_Connection *c, void **cls,
                         enum MHD_RequestTerminationCode why)
{
    (void)why;
    struct request *r = *cls;
    if (r == NULL)
        return;
    start_time(arg, client_of(c));
    if (r->owed != NULL)
        r->owed->request = NULL;
    buf_release(&r->body);
    free(r->uri);
    free(r);
    *cls = NULL;
}

/* Takes what b holds.  header, value: one more, or NULL. */
static enum MHD_Result answer(struct MHD_Connection *c, int status, const char *type, struct buf *b,
                              const char *header, const char *value)
{
    size_t len = b->len;
    struct MHD_Response *r =
        MHD_create_response_from_buffer(len, buf_take(b), MHD_RESPMEM_MUST_FREE);
    CHECK(r != NULL);
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    MHD_add_response_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    if (header != NULL)
        MHD_add_response_header(r, header, value);
    enum MHD_Result ok = MHD_queue_response(c, (unsigned)status, r);
    MHD_destroy_response(r);
    return ok;
}

static enum MHD_Result answer_text(struct MHD_Connection *c, int status, const char *text,
                                   const char *header, const char *value)
{
    struct buf b;
    buf_init(&b, BODY_MAX);
    CHECK(buf_append_str(&b, str_from(text)));
    return answer(c, status, "text/plain", &b, header, value);
}

static enum MHD_Result on_content_header(void *arg, enum MHD_ValueKind kind, const char *name,
                                         const char *value)
{
    (void)kind;
    bool is_len = strcasecmp(name, MHD_HTTP_HEADER_CONTENT_LENGTH) == 0;
    if ((is_len && strcmp(value, "0") != 0) ||
        strcasecmp(name, MHD_HTTP_HEADER_TRANSFER_ENCODING) == 0)
        *(bool *)arg = true;
    return MHD_YES;
}

static bool announces_body(struct MHD_Connection *c)
{
    bool does = false;
    MHD_get_connection_values(c, MHD_HEADER_KIND, on_content_header, &does);
    return does;
}

static enum MHD_Result refuse_method(struct MHD_Connection *c, const char *allow)
{
    char text[64];
    snprintf(text, sizeof text, "only %s is known here\n", allow);
    return answer_text(c, MHD_HTTP_METHOD_NOT_ALLOWED, text, MHD_HTTP_HEADER_ALLOW, allow);
}

/* Nothing here takes one, and reading it would keep us busy for as long as the client likes. */
static enum MHD_Result refuse_body(struct MHD_Connection *c)
{
    return answer_text(c, MHD_HTTP_CONTENT_TOO_LARGE, "no request here has a body\n",
                       MHD_HTTP_HEADER_CONNECTION, "close");
}

/* By the path as it was sent: the library's decoded one ends at a %00. */
static const struct admin_endpoint *find_endpoint(const struct door *d, struct str path)
{
    const struct admin *a = d->admin;
    for (size_t i = 0; i < a->n_endpoints; i++)
        if (str_eq(path, str_from(a->endpoints[i].path)))
            return d->is_tcp && !a->endpoints[i].on_tcp ? NULL : &a->endpoints[i];
    return NULL;
}

/* The starter may have answered already. */
static enum MHD_Result start_late(struct door *d, struct MHD_Connection *c, struct request *r,
                                  const struct admin_endpoint *p, struct str query)
{
    struct admin_reply *reply = xcalloc(1, sizeof *reply);
    *reply = (struct admin_reply){.request = r, .door = d, .connection = c};
    list_init(&reply->item);
    r->owed = reply;
    r->content_type = p->content_type;
    p->start(p->arg, query, reply);
    if (r->is_answered)
        return answer(c, r->status, r->content_type, &r->body, NULL, NULL);
    list_push_back(&d->suspended, &reply->item);
    stop_time(client_of(c));
    MHD_suspend_connection(c);
    return MHD_YES;
}

/* true: it had been. */
static bool resume(struct admin_reply *reply)
{
    if (list_is_empty(&reply->item))
        return false;
    list_remove(&reply->item);
    start_time(reply->door, client_of(reply->connection));
    MHD_resume_connection(reply->connection);
    return true;
}

void admin_reply_send(struct admin_reply **preply, int status, struct buf *body)
{
    struct admin_reply *reply = *preply;
    struct request *r = reply->request;
    *preply = NULL;
    if (r == NULL) {
        buf_release(body);
        free(reply);
        return;
    }
    r->owed = NULL;
    r->is_answered = true;
    r->status = status;
    r->body = *body;
    buf_init(body, 1);
    if (resume(reply))
        timer_start(reply->door->timer, 0);
    free(reply);
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *c, const char *path,
                                  const char *method, const char *version, const char *upload,
                                  size_t *n_upload, void **cls)
{
    (void)path;
    (void)version;
    (void)upload;
    (void)n_upload;
    struct door *d = arg;
    struct request *r = *cls;
    if (!r->is_begun) {
        r->is_begun = true;
        return announces_body(c) ? refuse_body(c) : MHD_YES;
    }
    struct str uri = str_from(r->uri);
    size_t path_len = str_index(uri, '?');
    const struct admin_endpoint *p = find_endpoint(d, str_sub(uri, 0, path_len));
    const char *allowed = p != NULL && p->is_action ? MHD_HTTP_METHOD_POST : MHD_HTTP_METHOD_GET;
    if (strcmp(method, allowed) != 0)
        return refuse_method(c, allowed);
    if (r->is_answered)
        return answer(c, r->status, r->content_type, &r->body, NULL, NULL);
    if (d->is_closing)
        return answer_text(c, MHD_HTTP_SERVICE_UNAVAILABLE, "svidmail is stopping\n", NULL, NULL);
    if (p == NULL)
        return answer_text(c, MHD_HTTP_NOT_FOUND, "nothing is here\n", NULL, NULL);
    struct str query = str_sub(uri, path_len + 1, uri.len);
    if (p->start != NULL)
        return start_late(d, c, r, p, query);
    struct buf b;
    buf_init(&b, BODY_MAX);
    int status = p->run(p->arg, query, &b);
    return answer(c, status, p->content_type, &b, NULL, NULL);
}

/* --- doors */

static bool is_full(const struct door *d)
{
    const union MHD_DaemonInfo *i =
        MHD_get_daemon_info(d->mhd, MHD_DAEMON_INFO_CURRENT_CONNECTIONS);
    return i != NULL && i->num_connections >= MAX_CONNECTIONS;
}

/* A full daemon does not listen; when places have become free, only its next run looks for whoever
 * waits. */
static void door_run(struct door *d)
{
    bool was_full = is_full(d);
    cut_slow(d);
    MHD_run(d->mhd);
    if (was_full && !is_full(d))
        MHD_run(d->mhd);
    MHD_UNSIGNED_LONG_LONG library_ms = UINT64_MAX;
    uint64_t ours_ms = UINT64_MAX;
    bool is_timed = MHD_get_timeout(d->mhd, &library_ms) == MHD_YES;
    if (time_left(d, &ours_ms) || is_timed)
        timer_start(d->timer, library_ms < ours_ms ? library_ms : ours_ms);
    else
        timer_stop(d->timer);
}

static void on_timer(void *arg)
{
    door_run(arg);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    door_run(poll->data);
}

/* Takes fd. */
static bool door_open(struct door *d, int fd, struct err *e)
{
    unsigned flags = MHD_USE_EPOLL | (d->is_tcp ? 0u : (unsigned)MHD_ALLOW_SUSPEND_RESUME);
    d->mhd = MHD_start_daemon(
        flags, 0, NULL, NULL, on_request, d, MHD_OPTION_LISTEN_SOCKET, fd,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)MAX_CONNECTIONS, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
        d->is_tcp ? (unsigned)PER_ADDRESS : 0u, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_S,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_BYTES, MHD_OPTION_URI_LOG_CALLBACK,
        on_uri, NULL, MHD_OPTION_NOTIFY_CONNECTION, on_connection, d, MHD_OPTION_NOTIFY_COMPLETED,
        on_completed, d, MHD_OPTION_END);
    if (d->mhd == NULL) { /* UNTESTED: out of descriptors */
        close(fd);
        return err_set(e, ERR_IO, 0, "libmicrohttpd does not start");
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(d->mhd, MHD_DAEMON_INFO_EPOLL_FD);
    CHECK(info != NULL);
    CHECK(uv_poll_init(d->admin->loop, &d->poll, info->epoll_fd) == 0);
    d->poll.data = d;
    CHECK(uv_poll_start(&d->poll, UV_READABLE, on_poll) == 0);
    d->timer = timer_new(d->admin->loop, on_timer, d);
    d->admin->n_open++;
    return true;
}

static void free_admin(struct admin *a)
{
    free(a->endpoints);
    free(a);
}

static void on_poll_closed(uv_handle_t *h)
{
    struct door *d = h->data;
    if (--d->admin->n_open == 0)
        free_admin(d->admin);
}

static void door_close(struct door *d)
{
    if (d->mhd == NULL)
        return;
    d->is_closing = true;
    while (!list_is_empty(&d->suspended)) /* the library ends no connection that is suspended */
        (void)resume(CONTAINER_OF(d->suspended.next, struct admin_reply, item));
    MHD_run(d->mhd); /* their last words, and those of who was answered just now */
    timer_free(&d->timer);
    uv_close((uv_handle_t *)&d->poll, on_poll_closed); /* before its descriptor goes */
    MHD_stop_daemon(d->mhd);
    d->mhd = NULL;
}

/* --- the unix socket */

static bool bind_unix(int fd, const struct sockaddr_un *addr, struct err *e)
{
    if (bind(fd, (const struct sockaddr *)addr, sizeof *addr) == 0)
        return true;
    if (errno != EADDRINUSE)
        return err_set(e, ERR_IO, errno, "admin socket %s", addr->sun_path);
    struct stat st;
    if (lstat(addr->sun_path, &st) == 0 && !S_ISSOCK(st.st_mode))
        return err_set(e, ERR_IO, 0, "admin socket %s: something is there that is no socket",
                       addr->sun_path);
    if (!unix_socket_remove_stale(addr->sun_path))
        return err_set(
            e, ERR_UNAVAIL, 0,
            "admin socket %s: another svidmail is running on it, or has left it under another "
            "user: remove it then",
            addr->sun_path);
    if (bind(fd, (const struct sockaddr *)addr, sizeof *addr) == -1)
        return err_set(e, ERR_IO, errno, "admin socket %s", addr->sun_path);
    return true;
}

/* Nobody can connect before listen(), so the mode is in force from the first connection on. */
static bool listen_unix(struct admin *a, int fd, const struct sockaddr_un *addr, struct err *e)
{
    struct stat st;
    if (!bind_unix(fd, addr, e))
        return false;
    if (chmod(addr->sun_path, 0660) == -1 || stat(addr->sun_path, &st) == -1 ||
        listen(fd, BACKLOG) == -1)
        return err_set(e, ERR_IO, errno, "admin socket %s", addr->sun_path);
    str_copy(a->path, sizeof a->path, str_from(addr->sun_path));
    a->dev = st.st_dev;
    a->ino = st.st_ino;
    return true;
}

static bool open_unix(struct admin *a, const char *path, struct err *e)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof addr.sun_path)
        return err_set(e, ERR_SYNTAX, 0, "admin socket %s: the path is too long", path);
    str_copy(addr.sun_path, sizeof addr.sun_path, str_from(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd == -1)
        return err_set(e, ERR_IO, errno, "admin socket %s", path);
    if (!listen_unix(a, fd, &addr, e)) {
        close(fd);
        return false;
    }
    return door_open(&a->unix_door, fd, e);
}

static void remove_socket(const struct admin *a)
{
    struct stat st;
    if (a->path[0] != '\0' && lstat(a->path, &st) == 0 && st.st_dev == a->dev &&
        st.st_ino == a->ino)
        unlink(a->path);
}

/* --- the metrics port */

static int listen_on(const struct sockaddr *addr, socklen_t len)
{
    int fd = socket(addr->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd == -1)
        return -1;
    int on = 1, off = 0;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (addr->sa_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(fd, addr, len) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

static int listen_v6(const struct listen_address *l)
{
    struct sockaddr_in6 addr = {.sin6_family = AF_INET6, .sin6_port = htons(l->port)};
    if (l->kind == LISTEN_IPV6)
        CHECK(inet_pton(AF_INET6, l->host, &addr.sin6_addr) == 1);
    return listen_on((struct sockaddr *)&addr, sizeof addr);
}

static int listen_v4(const struct listen_address *l)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(l->port)};
    if (l->kind == LISTEN_IPV4)
        CHECK(inet_pton(AF_INET, l->host, &addr.sin_addr) == 1);
    return listen_on((struct sockaddr *)&addr, sizeof addr);
}

static bool open_tcp(struct admin *a, const char *text, struct err *e)
{
    struct listen_address l;
    if (!listen_address_parse(str_from(text), &l, e))
        return err_wrap(e, "metrics port %s", text);
    if (l.kind == LISTEN_UNIX)
        return err_set(e, ERR_SYNTAX, 0, "metrics port %s: not a TCP address", text);
    int fd = l.kind == LISTEN_IPV4 ? listen_v4(&l) : listen_v6(&l);
    if (fd == -1 && l.kind == LISTEN_ALL && errno != EADDRINUSE && errno != EACCES)
        fd = listen_v4(&l); /* a machine without IPv6 */
    if (fd == -1)
        return err_set(e, ERR_UNAVAIL, errno, "metrics port %s", text);
    return door_open(&a->tcp_door, fd, e);
}

/* --- */

bool admin_new(uv_loop_t *loop, const struct admin_config *cfg,
               const struct admin_endpoint *endpoints, size_t n, struct admin **out, struct err *e)
{
    CHECK(n <= ENDPOINTS_MAX);
    struct admin *a = xcalloc(1, sizeof *a);
    a->loop = loop;
    a->endpoints = xcalloc(n, sizeof *endpoints);
    a->n_endpoints = n;
    memcpy(a->endpoints, endpoints, n * sizeof *endpoints);
    a->unix_door.admin = a->tcp_door.admin = a;
    a->tcp_door.is_tcp = true;
    a->request_limit_ms = cfg->request_limit_ms > 0 ? cfg->request_limit_ms : REQUEST_MS;
    list_init(&a->unix_door.clients);
    list_init(&a->tcp_door.clients);
    list_init(&a->unix_door.suspended);
    list_init(&a->tcp_door.suspended);
    *out = NULL;
    if (cfg->socket_path[0] != '\0' && !open_unix(a, cfg->socket_path, e)) {
        remove_socket(a);
        free_admin(a);
        return false;
    }
    struct err why;
    if (cfg->socket_path[0] != '\0')
        LOG(EV_ADMIN_LISTENING, F_STR("address", cfg->socket_path));
    if (cfg->metrics_listen[0] != '\0') {
        if (open_tcp(a, cfg->metrics_listen, &why))
            LOG(EV_ADMIN_LISTENING, F_STR("address", cfg->metrics_listen));
        else
            LOG_ERR(EV_ADMIN_SKIPPED, &why, F_STR("address", cfg->metrics_listen));
    }
    *out = a;
    return true;
}

void admin_close(struct admin **pa)
{
    struct admin *a = *pa;
    *pa = NULL;
    if (a == NULL)
        return;
    remove_socket(a);
    a->n_open++; /* held while both doors close */
    door_close(&a->unix_door);
    door_close(&a->tcp_door);
    if (--a->n_open == 0)
        free_admin(a);
}

const char *admin_library_version(void)
{
    return MHD_get_version();
}
