// SPDX-License-Identifier: Apache-2.0
/* quick_ses PORT CERT.pem KEY.pem CA.pem [DELAY_MS]: the cheapest possible gateway and SES in one,
 * for benchmarks: mutual TLS 1.3, HTTP/1.1 kept alive, every request read to its end and answered
 * 200 with a MessageId.  It checks nothing.  One thread a connection.  On SIGTERM it prints
 * {"requests":..,"handshakes":..,"bytes":..} and ends. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_ulong n_requests, n_handshakes, n_bytes;
static SSL_CTX *ctx;
static int delay_ms;

static void die(const char *what)
{
    perror(what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

/* The value of Content-Length in a NUL-terminated head, 0 if there is none. */
static size_t content_length(const char *head)
{
    const char *at = strcasestr(head, "\r\ncontent-length:");
    return at == NULL ? 0 : strtoul(at + strlen("\r\ncontent-length:"), NULL, 10);
}

static int answer(SSL *ssl)
{
    static const char body_format[] =
        "{\"MessageId\":\"0107018f00000000-%08lx-0000-0000-0000-000000000000-000000\"}";
    char body[128], out[512];
    unsigned long n = atomic_fetch_add(&n_requests, 1);
    int body_len = snprintf(body, sizeof body, body_format, n & 0xffffffff);
    int len = snprintf(out, sizeof out,
                       "HTTP/1.1 200 OK\r\nx-amzn-RequestId: 00000000-0000-4000-8000-%012lx\r\n"
                       "x-envoy-upstream-service-time: 0\r\nContent-Type: "
                       "application/json\r\nContent-Length: %d\r\n\r\n%s",
                       n, body_len, body);
    if (delay_ms > 0)
        usleep((useconds_t)delay_ms * 1000);
    return SSL_write(ssl, out, len);
}

/* One request: the head, then as many bytes as it says; what came behind stays in buf. */
static int serve_one(SSL *ssl, char *buf, size_t cap, size_t *len)
{
    char *end;
    while ((end = memmem(buf, *len, "\r\n\r\n", 4)) == NULL) {
        if (*len == cap)
            return -1;
        int n = SSL_read(ssl, buf + *len, (int)(cap - *len));
        if (n <= 0)
            return n;
        *len += (size_t)n;
    }
    *end = '\0';
    size_t head = (size_t)(end - buf) + 4, left = content_length(buf), have = *len - head;
    atomic_fetch_add(&n_bytes, head + left);
    size_t taken = have < left ? have : left;
    memmove(buf, buf + head + taken, have - taken);
    *len = have - taken;
    left -= taken;
    while (left > 0) {
        int n = SSL_read(ssl, buf, (int)(left < cap ? left : cap));
        if (n <= 0)
            return n;
        left -= (size_t)n;
    }
    return answer(ssl);
}

static void *serve(void *arg)
{
    int fd = (int)(long)arg, one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    SSL *ssl = SSL_new(ctx);
    char *buf = malloc(65536);
    size_t len = 0;
    SSL_set_fd(ssl, fd);
    if (SSL_accept(ssl) == 1) {
        atomic_fetch_add(&n_handshakes, 1);
        while (serve_one(ssl, buf, 65536, &len) > 0)
            ;
        SSL_shutdown(ssl);
    }
    SSL_free(ssl);
    free(buf);
    close(fd);
    return NULL;
}

static void make_context(const char *cert, const char *key, const char *ca)
{
    ctx = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
    SSL_CTX_set_num_tickets(ctx, 0);
    if (SSL_CTX_use_certificate_chain_file(ctx, cert) != 1 ||
        SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_load_verify_locations(ctx, ca, NULL) != 1)
        die("certificates");
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
}

static void *report_at_end(void *set)
{
    int sig;
    sigwait(set, &sig);
    printf("{\"requests\":%lu,\"handshakes\":%lu,\"bytes\":%lu}\n", n_requests, n_handshakes,
           n_bytes);
    fflush(stdout);
    _exit(0);
}

int main(int argc, char **argv)
{
    if (argc < 5)
        return 2;
    delay_ms = argc > 5 ? atoi(argv[5]) : 0;
    make_context(argv[2], argv[3], argv[4]);
    static sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    pthread_t t;
    pthread_create(&t, NULL, report_at_end, &set);
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)atoi(argv[1])),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) != 0 || listen(listener, 128) != 0)
        die("listen");
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd == -1)
            die("accept");
        if (pthread_create(&t, NULL, serve, (void *)(long)fd) != 0)
            die("thread");
        pthread_detach(t);
    }
}
