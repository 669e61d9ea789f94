// SPDX-License-Identifier: Apache-2.0
/* smtp_load PORT SESSIONS MAILS BYTES: that many sessions send that many mails in all, one after
 * the other on each connection, and wait for each verdict.  Prints one line of JSON: mails,
 * failures, seconds, mails per second, and the time from the end of the body to the reply (p50,
 * p99, max) in milliseconds.  Exit 1 if a mail was not answered 250. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int port, n_sessions;
static long n_mails;
static char *body;
static size_t body_len;
static atomic_long next_mail, n_failed;
static double *latency_ms; /* by number of the mail */

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int dial(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)&at, sizeof at) != 0) {
        perror("connect");
        exit(1);
    }
    return fd;
}

static int write_all(int fd, const char *p, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, p, len);
        if (n <= 0)
            return -1;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

/* The code of the last line of a reply, 0 if the connection ended.  Replies are read one at a time:
 * nothing is pipelined behind what is awaited. */
static int reply(int fd)
{
    char buf[4096];
    size_t len = 0;
    for (;;) {
        ssize_t n = read(fd, buf + len, sizeof buf - 1 - len);
        if (n <= 0)
            return 0;
        len += (size_t)n;
        buf[len] = '\0';
        if (len < 6 || buf[len - 1] != '\n')
            continue;
        char *line = buf + len - 1;
        while (line > buf && line[-1] != '\n')
            line--;
        if (line[3] == ' ')
            return atoi(line);
    }
}

static int say(int fd, const char *text)
{
    return write_all(fd, text, strlen(text)) == 0 ? reply(fd) : 0;
}

static void *session(void *unused)
{
    int fd = dial();
    reply(fd);
    say(fd, "EHLO load\r\n");
    for (long i; (i = atomic_fetch_add(&next_mail, 1)) < n_mails;) {
        int ok = say(fd, "MAIL FROM:<shop@shop.example>\r\n") == 250 &&
                 say(fd, "RCPT TO:<user@customer.example>\r\n") == 250 &&
                 say(fd, "DATA\r\n") == 354 && write_all(fd, body, body_len) == 0;
        double sent_at = now_s();
        if (!ok || reply(fd) != 250)
            atomic_fetch_add(&n_failed, 1);
        latency_ms[i] = (now_s() - sent_at) * 1000;
    }
    say(fd, "QUIT\r\n");
    close(fd);
    return unused;
}

static void make_body(size_t size)
{
    static const char head[] =
        "From: shop@shop.example\r\nTo: user@customer.example\r\nSubject: load\r\n"
        "Date: Mon, 23 Nov 2026 17:26:04 +0000\r\nMessage-ID: <load@shop.example>\r\n\r\n";
    body = malloc(size + 256);
    body_len = (size_t)sprintf(body, "%s", head);
    while (body_len < size) {
        memset(body + body_len, 'x', 70);
        memcpy(body + body_len + 70, "\r\n", 2);
        body_len += 72;
    }
    memcpy(body + body_len, ".\r\n", 3);
    body_len += 3;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    port = atoi(argv[1]);
    n_sessions = atoi(argv[2]);
    n_mails = atol(argv[3]);
    make_body((size_t)atol(argv[4]));
    latency_ms = calloc((size_t)n_mails, sizeof *latency_ms);
    pthread_t *threads = calloc((size_t)n_sessions, sizeof *threads);
    double begun = now_s();
    for (int i = 0; i < n_sessions; i++)
        pthread_create(&threads[i], NULL, session, NULL);
    for (int i = 0; i < n_sessions; i++)
        pthread_join(threads[i], NULL);
    double took = now_s() - begun;
    qsort(latency_ms, (size_t)n_mails, sizeof *latency_ms, by_size);
    printf("{\"mails\":%ld,\"failed\":%ld,\"seconds\":%.3f,\"per_second\":%.1f,\"p50_ms\":%.3f,"
           "\"p99_ms\":%.3f,\"max_ms\":%.3f}\n",
           n_mails, n_failed, took, (double)n_mails / took, latency_ms[n_mails / 2],
           latency_ms[n_mails * 99 / 100], latency_ms[n_mails - 1]);
    return n_failed == 0 ? 0 : 1;
}
