// SPDX-License-Identifier: Apache-2.0
#include "app/smtp_dialogue.h"
#include "base/mem.h"
#include "core/listen_address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static bool connect_to(struct smtp_dialogue *d, const struct sockaddr *addr, socklen_t len,
                       const char *text, struct err *e)
{
    d->fd = socket(addr->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (d->fd == -1)
        return err_set(e, ERR_IO, errno, "socket");
    if (connect(d->fd, addr, len) == 0)
        return true;
    return err_set(e, ERR_UNAVAIL, errno, "nobody listens on %s", text);
}

bool smtp_dialogue_open(struct smtp_dialogue *d, const char *address, struct err *e)
{
    struct listen_address a;
    *d = (struct smtp_dialogue){.fd = -1};
    buf_init(&d->in, SMTP_DIALOGUE_LINE_MAX);
    if (!listen_address_parse(str_from(address), &a, e))
        return err_wrap(e, "%s", address);
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(a.port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(a.port)};
    switch (a.kind) {
    case LISTEN_UNIX:
        str_copy(un.sun_path, sizeof un.sun_path, str_from(a.host));
        return connect_to(d, (struct sockaddr *)&un, sizeof un, address, e);
    case LISTEN_IPV6:
        CHECK(inet_pton(AF_INET6, a.host, &v6.sin6_addr) == 1);
        return connect_to(d, (struct sockaddr *)&v6, sizeof v6, address, e);
    case LISTEN_IPV4:
    case LISTEN_ALL:
        CHECK(inet_pton(AF_INET, a.kind == LISTEN_ALL ? "127.0.0.1" : a.host, &v4.sin_addr) == 1);
        return connect_to(d, (struct sockaddr *)&v4, sizeof v4, address, e);
    }
    return false;
}

static bool wait_for(struct smtp_dialogue *d, short events, struct err *e)
{
    struct pollfd p = {.fd = d->fd, .events = events};
    int n;
    do
        n = poll(&p, 1, SMTP_DIALOGUE_TIMEOUT_MS);
    while (n == -1 && errno == EINTR);
    if (n > 0)
        return true;
    return n == 0 ? err_set(e, ERR_TIMEOUT, 0, "no answer within %d s",
                            SMTP_DIALOGUE_TIMEOUT_MS / 1000)
                  : err_set(e, ERR_IO, errno, "poll");
}

static bool send_all(struct smtp_dialogue *d, struct str bytes, struct err *e)
{
    while (bytes.len > 0) {
        if (!wait_for(d, POLLOUT, e))
            return false;
        ssize_t n = send(d->fd, bytes.p, bytes.len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n >= 0)
            bytes = str_sub(bytes, (size_t)n, bytes.len);
        else if (errno != EINTR && errno != EAGAIN)
            return err_set(e, ERR_UNAVAIL, errno, "the connection broke");
    }
    return true;
}

/* One more line into d->reply, without its end. */
static bool read_line(struct smtp_dialogue *d, struct err *e)
{
    for (;;) {
        struct str in = buf_str(&d->in);
        size_t n = str_index(in, '\n');
        if (n < in.len) {
            struct str line = str_sub(in, 0, n > 0 && in.p[n - 1] == '\r' ? n - 1 : n);
            str_copy(d->reply, sizeof d->reply, line);
            buf_consume(&d->in, n + 1);
            return true;
        }
        char piece[512];
        size_t room = buf_room(&d->in);
        if (room == 0)
            return err_set(e, ERR_LIMIT, 0, "a reply line without end");
        if (!wait_for(d, POLLIN, e))
            return false;
        ssize_t got = recv(d->fd, piece, room < sizeof piece ? room : sizeof piece, 0);
        if (got == 0)
            return err_set(e, ERR_UNAVAIL, 0, "the connection was closed");
        if (got == -1 && errno != EINTR)
            return err_set(e, ERR_UNAVAIL, errno, "the connection broke");
        if (got > 0)
            CHECK(buf_append(&d->in, piece, (size_t)got));
    }
}

static bool read_reply(struct smtp_dialogue *d, int wanted, struct err *e)
{
    for (size_t i = 0; i < SMTP_DIALOGUE_LINES_MAX; i++) {
        char shown[SMTP_DIALOGUE_LINE_MAX + 1];
        uint64_t code;
        if (!read_line(d, e))
            return false;
        printf("  <- %s\n", str_escape(shown, sizeof shown, str_from(d->reply)));
        if (!str_to_u64(str_sub(str_from(d->reply), 0, 3), &code) || code < 200 || code > 599)
            return err_set(e, ERR_SYNTAX, 0, "that is no SMTP reply");
        d->code = (int)code;
        if (d->reply[3] == '-')
            continue;
        return d->code == wanted || err_set(e, ERR_DENIED, 0, "%.200s", shown);
    }
    return err_set(e, ERR_LIMIT, 0, "a reply without end");
}

static bool exchange(struct smtp_dialogue *d, struct str bytes, int wanted, struct err *e)
{
    int before = d->code;
    d->code = 0;
    if (send_all(d, bytes, e) && read_reply(d, wanted, e))
        return true;
    d->is_broken = d->code == 0;
    d->code = d->is_broken ? before : d->code;
    return false;
}

bool smtp_dialogue_greet(struct smtp_dialogue *d, struct err *e)
{
    return exchange(d, STR(""), 220, e);
}

bool smtp_dialogue_say(struct smtp_dialogue *d, const char *line, int wanted, struct err *e)
{
    printf("  -> %s\n", line);
    AUTO_FREE char *bytes = xasprintf("%s\r\n", line);
    return exchange(d, str_from(bytes), wanted, e);
}

/* One line of the mail as it goes over the wire.  Without a line break at its end it gets one. */
static bool put_line(struct buf *out, struct str line)
{
    size_t n = line.len;
    if (n > 0 && line.p[n - 1] == '\n')
        n--;
    if (n > 0 && n < line.len && line.p[n - 1] == '\r')
        n--;
    return (n == 0 || line.p[0] != '.' || buf_append(out, ".", 1)) && buf_append(out, line.p, n) &&
           buf_append(out, "\r\n", 2);
}

bool smtp_dialogue_send_body(struct smtp_dialogue *d, struct str mail, struct err *e)
{
    struct buf out;
    bool ok = true;
    size_t size = mail.len;
    buf_init(&out, mail.len * 3 + 16); /* a lone "\n" becomes two bytes, a lone "." four */
    while (ok && mail.len > 0) {
        size_t n = str_index(mail, '\n');
        ok = put_line(&out, str_sub(mail, 0, n + 1));
        mail = str_sub(mail, n + 1, mail.len);
    }
    CHECK(ok && buf_append(&out, ".\r\n", 3));
    printf("  -> (%zu bytes)\n", size);
    fflush(stdout);
    d->has_sent_body = true; /* or part of it */
    ok = exchange(d, buf_str(&out), 250, e);
    buf_release(&out);
    return ok;
}

void smtp_dialogue_close(struct smtp_dialogue *d)
{
    char reply[sizeof d->reply];
    int code = d->code;
    memcpy(reply, d->reply, sizeof reply); /* the verdict, not what is said to QUIT */
    if (d->fd != -1) {
        if (d->code != 0 && d->code != 421 && !d->is_broken)
            (void)!smtp_dialogue_say(d, "QUIT", 221, NULL);
        close(d->fd);
    }
    d->fd = -1;
    d->code = code;
    memcpy(d->reply, reply, sizeof reply);
    buf_release(&d->in);
}
