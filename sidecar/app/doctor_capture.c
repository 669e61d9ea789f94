// SPDX-License-Identifier: Apache-2.0
/* Has istio-proxy put itself between us and the gateway?  iptables cannot be read without rights,
 * but its effect can be seen: a connection that istio-proxy captures ends at its port 15001, in our
 * own network namespace, and the kernel's list of sockets shows that end to everybody. */
#include "app/doctor_exam.h"
#include "base/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ISTIO_OUTBOUND 15001
#define TOUCH_MS       5000
#define LINE_MAX_BYTES 512 /* the kernel's have 180 */
/* States as the kernel writes them. */
#define ST_LISTEN "0A"
/* Also those of a connection that istio-proxy has closed by the time we look, as it does where the
 * mesh forbids the way; not TIME_WAIT, which may be that of an earlier connection from our port. */
#define ST_CONNECTED "01 03 04 05 08 09 0B"

static const struct socket_list {
    const char *file;
    bool is_optional; /* a kernel without IPv6 has none */
} lists[] = {{"/proc/net/tcp", false}, {"/proc/net/tcp6", true}};

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
static bool is_socket(struct str line, const char *states, long local_port, long remote_port)
{
    (void)next_word(&line); /* its number */
    long local = port_in(next_word(&line)), remote = port_in(next_word(&line));
    return local == local_port && (remote_port == -1 || remote == remote_port) &&
           is_one_of(str_from(states), next_word(&line));
}

/* Line by line, for a busy pod has more sockets than anybody wants to hold in memory. */
static enum proc_net_answer find_socket(FILE *list, const char *states, long local_port,
                                        long remote_port)
{
    char line[LINE_MAX_BYTES];
    while (fgets(line, sizeof line, list) != NULL) {
        struct str text = str_from(line);
        if (is_socket(str_sub(text, 0, str_index(text, '\n')), states, local_port, remote_port))
            return PROC_NET_YES;
    }
    return ferror(list) ? PROC_NET_UNREAD : PROC_NET_NO;
}

enum proc_net_answer proc_net_has_listener(FILE *list, uint16_t port)
{
    return find_socket(list, ST_LISTEN, port, -1);
}

enum proc_net_answer proc_net_has_connection(FILE *list, uint16_t local_port, uint16_t remote_port)
{
    return find_socket(list, ST_CONNECTED, local_port, remote_port);
}

/* our_port 0: is istio-proxy there at all?  Else: does it hold the other end of our connection? */
static enum proc_net_answer look_into(const struct socket_list *list, uint16_t our_port)
{
    char room[16384]; /* of its own accord stdio would ask for one KiB at a time */
    FILE *f = fopen(list->file, "re");
    if (f == NULL)
        return list->is_optional && errno == ENOENT ? PROC_NET_NO : PROC_NET_UNREAD;
    setvbuf(f, room, _IOFBF, sizeof room);
    enum proc_net_answer answer = our_port == 0
                                      ? proc_net_has_listener(f, ISTIO_OUTBOUND)
                                      : proc_net_has_connection(f, ISTIO_OUTBOUND, our_port);
    fclose(f);
    return answer;
}

static enum proc_net_answer look(uint16_t our_port)
{
    enum proc_net_answer all = PROC_NET_NO;
    for (size_t i = 0; i < ARRAY_LEN(lists) && all != PROC_NET_YES; i++) {
        enum proc_net_answer one = look_into(&lists[i], our_port);
        if (one != PROC_NET_NO)
            all = one;
    }
    return all;
}

static void tell_unread(struct doctor *d)
{
    doctor_skip(d, "because the kernel did not tell all of the pod's sockets");
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
    enum proc_net_answer captured = own == 0 ? PROC_NET_UNREAD : look(own);
    stream_close(&x->touch);
    if (captured == PROC_NET_UNREAD) {
        tell_unread(x->walk);
        return;
    }
    if (captured == PROC_NET_YES) {
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
    enum proc_net_answer there = look(0);
    if (there == PROC_NET_YES)
        touch(arg);
    else if (there == PROC_NET_NO)
        doctor_ok(d, "is not in this pod");
    else
        tell_unread(d);
}

void cancel_capture(void *arg, unsigned what)
{
    (void)what;
    struct exam *x = arg;
    if (x->touch != NULL)
        stream_close(&x->touch);
}
