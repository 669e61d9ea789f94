// SPDX-License-Identifier: Apache-2.0
#include "app/admin_client.h"
#include "base/mem.h"
#include "base/str.h"
#include "sys/clock.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define HEAD_MAX 8192

struct call {
    int fd;
    const char *path;
    uint64_t deadline_ms;
    struct err *e;
};

static bool fail_connect(const char *path, struct err *e)
{
    if (errno == ENOENT || errno == ECONNREFUSED || errno == ENOTDIR)
        return err_set(
            e, ERR_UNAVAIL, errno,
            "svidmail is not running here, or its admin.socket is another one (pass --socket or "
            "--config): %s",
            path);
    if (errno == EACCES)
        return err_set(e, ERR_DENIED, errno, "only svidmail's own user and group may ask it: %s",
                       path);
    return err_set(e, ERR_UNAVAIL, errno, "cannot ask svidmail: %s", path);
}

/* Until fd is ready for it, or the deadline has passed. */
static bool wait_for(struct call *c, short events)
{
    for (;;) {
        uint64_t now = clock_mono_us() / 1000;
        struct pollfd p = {.fd = c->fd, .events = events};
        int n = now >= c->deadline_ms ? 0 : poll(&p, 1, (int)(c->deadline_ms - now));
        if (n > 0)
            return true;
        if (n == 0)
            return err_set(c->e, ERR_TIMEOUT, 0, "svidmail does not answer: %s", c->path);
        if (errno != EINTR)
            return err_set(c->e, ERR_IO, errno, "poll");
    }
}

static bool dial(struct call *c)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    if (c->path[0] == '\0' || strlen(c->path) >= sizeof addr.sun_path)
        return err_set(c->e, ERR_SYNTAX, 0, "no path of a socket: \"%s\"", c->path);
    str_copy(addr.sun_path, sizeof addr.sun_path, str_from(c->path));
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->fd == -1)
        return err_set(c->e, ERR_IO, errno, "socket");
    if (connect(c->fd, (struct sockaddr *)&addr, sizeof addr) == 0)
        return true;
    return fail_connect(
        c->path, c->e); /* EAGAIN: its backlog is full, it is there and does not come round */
}

static bool send_all(struct call *c, struct str bytes)
{
    while (bytes.len > 0) {
        ssize_t n = send(c->fd, bytes.p, bytes.len, MSG_NOSIGNAL);
        if (n >= 0)
            bytes = str_sub(bytes, (size_t)n, bytes.len);
        else if (errno != EAGAIN && errno != EINTR)
            return err_set(c->e, ERR_UNAVAIL, errno, "svidmail hung up: %s", c->path);
        else if (!wait_for(c, POLLOUT))
            return false;
    }
    return true;
}

static bool receive_all(struct call *c, struct buf *in)
{
    for (;;) {
        char piece[16384];
        ssize_t n = recv(c->fd, piece, sizeof piece, 0);
        if (n == 0)
            return true;
        if (n > 0 && !buf_append(in, piece, (size_t)n))
            return err_set(c->e, ERR_LIMIT, 0, "svidmail's answer is too long: %s", c->path);
        if (n > 0)
            continue;
        if (errno != EAGAIN && errno != EINTR)
            return err_set(c->e, ERR_UNAVAIL, errno, "svidmail hung up: %s", c->path);
        if (!wait_for(c, POLLIN))
            return false;
    }
}

static size_t find_text(struct str in, struct str what)
{
    const char *at = in.len == 0 ? NULL : memmem(in.p, in.len, what.p, what.len);
    return at == NULL ? in.len : (size_t)(at - in.p);
}

/* "Content-Length: 12" in the head, or all that came. */
static uint64_t announced_len(struct str head, uint64_t otherwise)
{
    static const struct str name = {"Content-Length:", 15};
    for (struct str rest = head; rest.len > 0;) {
        size_t n = find_text(rest, STR("\r\n"));
        struct str line = str_sub(rest, 0, n);
        uint64_t len;
        if (str_starts_with_nocase(line, name) &&
            str_to_u64(str_trim(str_sub(line, name.len, line.len)), &len))
            return len;
        rest = str_sub(rest, n + 2, rest.len);
    }
    return otherwise;
}

static bool parse_answer(struct call *c, struct str in, int *status, struct buf *body)
{
    uint64_t code = 0;
    size_t head_len = find_text(in, STR("\r\n\r\n"));
    struct str head = str_sub(in, 0, head_len);
    struct str rest = str_sub(in, head_len + 4, in.len);
    bool is_http = str_starts_with(head, STR("HTTP/1.")) && head_len < in.len &&
                   str_to_u64(str_sub(head, 9, 3), &code) && code >= 100;
    if (!is_http)
        return err_set(c->e, ERR_SYNTAX, 0, "what answers there is not svidmail: %s", c->path);
    if (announced_len(head, rest.len) != rest.len)
        return err_set(c->e, ERR_UNAVAIL, 0, "svidmail's answer was cut off: %s", c->path);
    *status = (int)code;
    return buf_append_str(body, rest) ||
           err_set(c->e, ERR_LIMIT, 0, "svidmail's answer is too long: %s", c->path);
}

static bool ask(const char *socket_path, const char *request, uint64_t timeout_ms, int *status,
                struct buf *body, struct err *e)
{
    struct call c = {
        .fd = -1, .path = socket_path, .deadline_ms = clock_mono_us() / 1000 + timeout_ms, .e = e};
    struct buf in;
    buf_init(&in, ADMIN_CLIENT_BODY_MAX + HEAD_MAX);
    bool ok = dial(&c) && send_all(&c, str_from(request)) && receive_all(&c, &in) &&
              parse_answer(&c, buf_str(&in), status, body);
    if (c.fd != -1)
        close(c.fd);
    buf_release(&in);
    return ok;
}

#define REST_OF_HEAD "HTTP/1.1\r\nHost: svidmail\r\nConnection: close\r\n"

bool admin_client_get(const char *socket_path, const char *target, uint64_t timeout_ms, int *status,
                      struct buf *body, struct err *e)
{
    AUTO_FREE char *request = xasprintf("GET %s " REST_OF_HEAD "\r\n", target);
    return ask(socket_path, request, timeout_ms, status, body, e);
}

bool admin_client_post(const char *socket_path, const char *target, uint64_t timeout_ms,
                       int *status, struct buf *body, struct err *e)
{
    AUTO_FREE char *request =
        xasprintf("POST %s " REST_OF_HEAD "Content-Length: 0\r\n\r\n", target);
    return ask(socket_path, request, timeout_ms, status, body, e);
}
