// SPDX-License-Identifier: Apache-2.0
/* Has istio-proxy put itself between us and the gateway?  iptables cannot be read without rights,
 * but its effect can be seen: a connection that istio-proxy captures ends at its port 15001, in our
 * own network namespace, and the kernel's list of sockets shows that end to everybody. */
#include "app/doctor_exam.h"
#include "base/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ISTIO_OUTBOUND 15001
#define TOUCH_MS       5000
#define LIST_MAX_BYTES (1024u * 1024)
/* States as the kernel writes them. */
#define ST_LISTEN "0A"
/* Also those of a connection that istio-proxy has closed by the time we look, as it does where the
 * mesh forbids the way; not TIME_WAIT, which may be that of an earlier connection from our port. */
#define ST_CONNECTED "01 03 04 05 08 09 0B"

static const char *const lists[] = {"/proc/net/tcp", "/proc/net/tcp6"};

static void touch(struct exam *x);

/* The next word of a line, by blanks. */
static struct str next_word(struct str *line)
{
    while (line->len > 0 && line->p[0] == ' ')
        *line = str_sub(*line, 1, line->len);
    struct str word = str_sub(*line, 0, str_index(*line, ' '));
    *line = str_sub(*line, word.len, line->len);
    return word;
}

/* "0100007F:3A99" -> 0x3A99; -1: no address */
static long port_in(struct str address)
{
    struct str hex = str_sub(address, str_index(address, ':') + 1, address.len);
    char text[8], *end;
    if (hex.len != 4)
        return -1;
    long port = strtol(str_copy(text, sizeof text, hex), &end, 16);
    return *end == '\0' ? port : -1;
}

static bool is_one_of(struct str states, struct str state)
{
    while (states.len > 0) {
        if (str_eq(next_word(&states), state))
            return true;
    }
    return false;
}

/* remote_port -1: any */
static bool has_socket(struct str text, const char *states, long local_port, long remote_port)
{
    while (text.len > 0) {
        struct str line = str_sub(text, 0, str_index(text, '\n'));
        text = str_sub(text, line.len + 1, text.len);
        (void)next_word(&line); /* its number */
        long local = port_in(next_word(&line)), remote = port_in(next_word(&line));
        if (local == local_port && (remote_port == -1 || remote == remote_port) &&
            is_one_of(str_from(states), next_word(&line)))
            return true;
    }
    return false;
}

bool proc_net_has_listener(struct str text, uint16_t port)
{
    return has_socket(text, ST_LISTEN, port, -1);
}

bool proc_net_has_connection(struct str text, uint16_t local_port, uint16_t remote_port)
{
    return has_socket(text, ST_CONNECTED, local_port, remote_port);
}

/* What cannot be read is as if it were empty. */
static void read_list(const char *file, struct buf *out)
{
    AUTO_CLOSE int fd = open(file, O_RDONLY | O_CLOEXEC);
    char piece[16384];
    ssize_t n = 1;
    while (fd != -1 && n > 0) {
        n = read(fd, piece, sizeof piece);
        if (n > 0 && !buf_append(out, piece, (size_t)n))
            return;
    }
}

/* our_port 0: is istio-proxy there at all?  Else: does it hold the other end of our connection? */
static bool look(uint16_t our_port)
{
    bool found = false;
    for (size_t i = 0; i < ARRAY_LEN(lists) && !found; i++) {
        struct buf b;
        buf_init(&b, LIST_MAX_BYTES);
        read_list(lists[i], &b);
        found = our_port == 0 ? proc_net_has_listener(buf_str(&b), ISTIO_OUTBOUND)
                              : proc_net_has_connection(buf_str(&b), ISTIO_OUTBOUND, our_port);
        buf_release(&b);
    }
    return found;
}

static uint16_t own_port(const struct stream *s)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } a = {0};
    socklen_t len = sizeof a;
    if (getsockname(stream_fd(s), &a.any, &len) != 0)
        return 0;
    return ntohs(a.any.sa_family == AF_INET6 ? a.v6.sin6_port : a.v4.sin_port);
}

/* The ports that mail and credentials take; the last one is the credentials'. */
static uint16_t port_of(const struct exam *x)
{
    const struct config *c = x->s->config;
    bool is_nested = c->gateway.tls == CONFIG_TLS_END_TO_END || x->n_touched > 0;
    return (uint16_t)(is_nested ? c->gateway.port_end_to_end : c->gateway.port_api);
}

static void on_touched(void *arg)
{
    struct exam *x = arg;
    const struct config *c = x->s->config;
    uint16_t own = own_port(x->touch), port = port_of(x);
    bool is_captured = own != 0 && look(own);
    stream_close(&x->touch);
    if (is_captured) {
        doctor_found(
            x->walk, "capture.captured",
            "a connection to %s:%u ends at istio-proxy in this pod, which may wrap our TLS "
            "in its own or refuse it: the pod does not exclude the port",
            c->gateway.host, (unsigned)port);
        return;
    }
    x->n_touched++;
    if (port == (uint16_t)c->gateway.port_end_to_end)
        doctor_ok(x->walk, "is in this pod and leaves %s alone", c->gateway.host);
    else
        touch(x);
}

static void on_untouched(void *arg, const struct err *e)
{
    struct exam *x = arg;
    stream_close(&x->touch);
    doctor_skip(x->walk, "because no connection came about: %s", e != NULL ? e->msg : "it ended");
}

static void touch(struct exam *x)
{
    static const struct stream_events events = {.on_open = on_touched, .on_end = on_untouched};
    x->touch = stream_connect(x->s->loop, x->s->config->gateway.host, port_of(x), TOUCH_MS, &events,
                              x, (struct stream_limits){1});
}

void check_capture(void *arg, struct doctor *d, unsigned what)
{
    (void)what;
    if (look(0))
        touch(arg);
    else
        doctor_ok(d, "is not in this pod");
}

void cancel_capture(void *arg, unsigned what)
{
    (void)what;
    struct exam *x = arg;
    if (x->touch != NULL)
        stream_close(&x->touch);
}
