// SPDX-License-Identifier: Apache-2.0
#include "mail/smtp_server.h"
#include "base/mem.h"
#include "mail/smtp_session.h"
#include "sys/log.h"
#include "sys/unix_socket.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BACKLOG 128

struct listener {
    struct smtp_server *server;
    union {
        uv_tcp_t tcp;
        uv_pipe_t pipe;
        uv_stream_t stream;
        uv_handle_t handle;
    } uv;
    char *socket_path; /* unix only: removed at the end */
    bool is_open;
};

static void on_connection(uv_stream_t *stream, int status)
{
    struct listener *l = stream->data;
    if (status == 0)
        session_start(l->server, stream, l->socket_path != NULL);
}

void smtp_server_maybe_closed(struct smtp_server *s)
{
    if (!s->is_closing || s->n_sessions > 0 || s->n_open_handles > 0)
        return;
    void (*cb)(void *) = s->on_closed;
    void *arg = s->on_closed_arg;
    for (char **name = s->listener_names; *name != NULL; name++)
        free(*name);
    free(s->listener_names);
    free(s->listeners);
    free(s);
    if (cb != NULL)
        cb(arg);
}

static void on_listener_closed(uv_handle_t *h)
{
    struct listener *l = h->data;
    l->server->n_open_handles--;
    smtp_server_maybe_closed(l->server);
}

static void close_listener(struct listener *l)
{
    if (!l->is_open)
        return;
    l->is_open = false;
    if (l->socket_path != NULL)
        unlink(l->socket_path);
    free(l->socket_path);
    l->socket_path = NULL;
    uv_close(&l->uv.handle, on_listener_closed);
}

static int bind_v4(uv_tcp_t *tcp, const char *ip, int port)
{
    struct sockaddr_in at;
    CHECK(uv_ip4_addr(ip, port, &at) ==
          0); /* listen_address_parse() has let only numbers through */
    return uv_tcp_bind(tcp, (const struct sockaddr *)&at, 0);
}

static int bind_v6(uv_tcp_t *tcp, const char *ip, int port)
{
    struct sockaddr_in6 at;
    CHECK(uv_ip6_addr(ip, port, &at) == 0);
    return uv_tcp_bind(tcp, (const struct sockaddr *)&at, 0);
}

static int bind_tcp(uv_tcp_t *tcp, const struct listen_address *a)
{
    if (a->kind == LISTEN_IPV4)
        return bind_v4(tcp, a->host, a->port);
    if (a->kind == LISTEN_IPV6)
        return bind_v6(tcp, a->host, a->port);
    int rc = bind_v6(tcp, "::", a->port); /* takes IPv4 as well */
    return rc == UV_EAFNOSUPPORT ? bind_v4(tcp, "0.0.0.0", a->port) : rc;
}

static void take_tcp_name(struct smtp_server *s, struct listener *l)
{
    struct sockaddr_storage at;
    int len = sizeof at;
    char ip[64] = "?";
    int port = 0;
    if (uv_tcp_getsockname(&l->uv.tcp, (struct sockaddr *)&at, &len) == 0) {
        uv_ip_name((struct sockaddr *)&at, ip, sizeof ip);
        port = ntohs(at.ss_family == AF_INET ? ((struct sockaddr_in *)&at)->sin_port
                                             : ((struct sockaddr_in6 *)&at)->sin6_port);
    }
    s->listener_names[s->n_listeners] =
        xasprintf(at.ss_family == AF_INET6 ? "[%s]:%d" : "%s:%d", ip, port);
}

static int listen_tcp(struct smtp_server *s, struct listener *l, const struct listen_address *a)
{
    CHECK(uv_tcp_init(s->loop, &l->uv.tcp) == 0);
    int rc = bind_tcp(&l->uv.tcp, a);
    if (rc == 0)
        rc = uv_listen(&l->uv.stream, BACKLOG, on_connection);
    if (rc == 0)
        take_tcp_name(s, l);
    return rc;
}

static int listen_unix(struct smtp_server *s, struct listener *l, const struct listen_address *a)
{
    char *path = xstrdup(a->host);
    CHECK(uv_pipe_init(s->loop, &l->uv.pipe, 0) == 0);
    (void)unix_socket_remove_stale(path); /* of a former life; a live one makes bind fail */
    int rc = uv_pipe_bind(&l->uv.pipe, path);
    if (rc == 0)
        rc = uv_listen(&l->uv.stream, BACKLOG, on_connection);
    if (rc == 0) {
        chmod(path, 0660);
        s->listener_names[s->n_listeners] = xasprintf("unix:%s", path);
        l->socket_path = path;
    } else {
        free(path);
    }
    return rc;
}

/* An address this machine does not have may be left out, one that somebody else holds may not. */
static bool may_be_skipped(int rc)
{
    return rc == UV_EADDRNOTAVAIL || rc == UV_EAFNOSUPPORT;
}

static bool open_listener(struct smtp_server *s, const struct listen_address *a, struct err *e)
{
    struct listener *l = &s->listeners[s->n_listeners];
    l->server = s;
    l->is_open = true;
    s->n_open_handles++;
    int rc = a->kind == LISTEN_UNIX ? listen_unix(s, l, a) : listen_tcp(s, l, a);
    l->uv.handle.data = l;
    char **name = &s->listener_names[s->n_listeners++];
    if (rc == 0) {
        LOG(EV_SMTP_LISTENING, F_STR("address", *name));
        return true;
    }
    *name = xstrdup(""); /* the handle is still closing: its slot stays used */
    close_listener(l);
    if (!may_be_skipped(rc))
        return err_set(e, ERR_UNAVAIL, rc, "cannot listen on %s port %u", a->host, a->port);
    LOG(EV_SMTP_LISTEN_SKIPPED, F_STR("address", a->host), F_STR("error", uv_strerror(rc)));
    return true;
}

/* Skipped ones leave an empty name behind. */
static bool drop_empty_names(struct smtp_server *s)
{
    size_t kept = 0;
    for (unsigned i = 0; i < s->n_listeners; i++) {
        if (s->listener_names[i][0] == '\0')
            free(s->listener_names[i]);
        else
            s->listener_names[kept++] = s->listener_names[i];
    }
    s->listener_names[kept] = NULL;
    return kept > 0;
}

/* Clients look for keywords anywhere in the reply to EHLO: a pod named starttls-1 would have them
 * start TLS. */
static const char *name_for_replies(const char *hostname)
{
    static const char *const keywords[] = {
        "STARTTLS",      "AUTH",    "SIZE",     "PIPELINING", "8BITMIME",   "ENHANCEDSTATUSCODES",
        "SMTPUTF8",      "DSN",     "CHUNKING", "BINARYMIME", "REQUIRETLS", "DELIVERBY",
        "FUTURERELEASE", "XCLIENT", "LIMITS",
    };
    for (size_t i = 0; i < ARRAY_LEN(keywords); i++)
        if (strcasestr(hostname, keywords[i]) != NULL)
            return "localhost";
    return hostname;
}

bool smtp_server_new(uv_loop_t *loop, const struct smtp_server_config *cfg,
                     const struct smtp_events *ev, void *arg, const struct clock *clock,
                     struct smtp_server **out, struct err *e)
{
    size_t n = cfg->n_listen;
    struct smtp_server *s = xcalloc(1, sizeof *s);
    s->cfg = *cfg;
    s->name = name_for_replies(cfg->hostname);
    s->ev = *ev;
    s->arg = arg;
    s->loop = loop;
    s->clock = clock;
    list_init(&s->sessions);
    s->listeners = xcalloc(n, sizeof *s->listeners);
    s->listener_names = xcalloc(n + 1, sizeof *s->listener_names);
    bool ok = true;
    for (size_t i = 0; i < n && ok; i++)
        ok = open_listener(s, &cfg->listen[i], e);
    if (!drop_empty_names(s) && ok)
        ok = err_set(e, ERR_UNAVAIL, 0,
                     "none of the addresses in smtp.listen can be had on this machine");
    if (!ok) {
        smtp_server_close(s, NULL, NULL);
        return false;
    }
    *out = s;
    return true;
}

void smtp_server_drain(struct smtp_server *s, uint64_t close_within_ms)
{
    s->is_draining = true;
    s->close_by_ms = clock_mono_ms(s->clock) + close_within_ms;
    for (unsigned i = 0; i < s->n_listeners; i++)
        close_listener(&s->listeners[i]);
    LIST_EACH(it, &s->sessions)
    session_drain(CONTAINER_OF(it, struct session, link));
}

void smtp_server_close(struct smtp_server *s, void (*cb)(void *arg), void *arg)
{
    s->is_closing = true;
    s->on_closed = cb;
    s->on_closed_arg = arg;
    for (unsigned i = 0; i < s->n_listeners; i++)
        close_listener(&s->listeners[i]);
    LIST_EACH(it, &s->sessions)
    {
        struct session *session = CONTAINER_OF(it, struct session, link);
        if (s->is_draining)
            session_dismiss(session);
        else
            session_cut(session);
    }
    if (s->n_sessions == 0 && s->n_open_handles == 0)
        smtp_server_maybe_closed(s);
}

unsigned smtp_server_n_sessions(const struct smtp_server *s)
{
    return s->n_sessions;
}

unsigned smtp_server_n_serving(const struct smtp_server *s)
{
    return s->n_serving;
}

const char *const *smtp_server_listeners(const struct smtp_server *s)
{
    return (const char *const *)s->listener_names;
}
