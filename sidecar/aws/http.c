// SPDX-License-Identifier: Apache-2.0
/* Happy path of a call: http_send -> a slot is free -> libcurl connects or reuses the slot's
 * connection (on_prereq)
 * -> on_body_wanted* -> on_header* -> on_body* -> reap -> finish -> cb.  Failure modes: no slot in
 * time, the deadline, a cut stream, a body that cannot be read, an answer over its limits,
 * http_free: all go through finish().
 *
 * A slot is one connection, kept or to be made.  libcurl is kept to it by CURLOPT_LOCALPORT, which
 * takes part in its choice of a kept connection and does nothing else on a unix socket: so each
 * call knows its socket, and by that the tunnel's record of why a stream ended.
 * (CURLINFO_ACTIVESOCKET knows it only after a success.) */
#include "aws/http.h"

#include "aws/curl_loop.h"
#include "aws/wiping.h"
#include "base/list.h"
#include "base/secret.h"
#include "sys/clock.h"
#include "sys/timer.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#define HEADER_BYTES_MAX (64u << 10)
#define SMALL_BODY_BYTES (16u << 10)
#define BUFFER_BYTES     (16L << 10)
#define BIG_UPLOAD_BYTES (64L << 10)
#define KEEP_PLAIN_S     300L /* the gateway's idle timeout is an hour */
#define KEEP_HTTPS_S     50L  /* AWS's own is about a minute */
#define LIFETIME_S       3600L
#define MAX_CONNECTIONS  4u
#define SLOTS_MAX        4096u

/* A number out of range or memory is all that can fail here. */
#define SET(easy, option, value) CHECK(curl_easy_setopt((easy), (option), (value)) == CURLE_OK)

/* Why we ended a call ourselves. */
enum stop {
    STOP_NO,
    STOP_REQUEST,
    STOP_READ,
    STOP_RESTART,
    STOP_HEADER,
    STOP_BODY,
    STOP_DEADLINE,
    STOP_FREE
};

struct slot {
    struct list item; /* of http.slots: last used first */
    struct http *h;
    long id;
    char *path, *host;
    bool is_https;
    struct http_call *call; /* NULL: idle */
    int fd;                 /* -1: no connection */
    char name[TUNNEL_NAME_MAX];
};

struct http {
    uv_loop_t *loop;
    CURLM *multi;
    struct curl_loop *curl_loop;
    struct list calls, slots;
    unsigned n_slots, max_connections;
    unsigned depth; /* of frames that use h after a callback */
    bool is_closing;
    char *ca_file, *user_agent;
};

struct http_call {
    struct list item;
    struct http *h;
    struct slot *slot; /* NULL: waits for one */
    CURL *easy;
    struct curl_slist *headers;
    char detail[CURL_ERROR_SIZE];
    struct timer *deadline;
    http_done_cb cb;
    void *arg;

    struct tunnel *tunnel;
    bool is_https, wants_new_connection, closes_connection;
    char *host, *method, *path;
    uint64_t body_len, timeout_ms;
    http_body_read body_read;
    void *body_arg;

    enum stop stop;
    uint64_t header_len;        /* at least; libcurl adds some */
    uint64_t handed;            /* body bytes that libcurl has taken */
    bool has_begun;             /* libcurl was let send */
    uint64_t up_before;         /* tunnel's count when the request began */
    char name[TUNNEL_NAME_MAX]; /* of the connection that got the request */
    uint64_t started_us;
    size_t header_bytes;
    bool has_whole_header; /* to libcurl an end of file within the header is an end of the answer */
    struct buf body;
    struct http_response r;
};

static void on_deadline(void *arg);
static void finish(struct http_call *call, CURLcode code);
static void start_waiting(struct http *h);

/* ---- what libcurl is done with ---- */

static void reap(struct http *h)
{
    int n;
    CURLMsg *m;
    while (!h->is_closing && (m = curl_multi_info_read(h->multi, &n)) != NULL) {
        struct http_call *call = NULL;
        CURLcode code = m->data.result; /* m dies with its handle */
        CHECK(m->msg == CURLMSG_DONE);
        CHECK(curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&call) == CURLE_OK);
        finish(call, code);
    }
}

static void leave(struct http *h)
{
    if (--h->depth == 0 && h->is_closing)
        free(h);
}

static void on_curl_moved(void *arg)
{
    struct http *h = arg;
    h->depth++;
    reap(h);
    leave(h);
}

/* ---- slots ---- */

static bool slot_serves(const struct slot *s, const struct http_call *call)
{
    return s->is_https == call->is_https && strcmp(s->path, tunnel_path(call->tunnel)) == 0 &&
           strcmp(s->host, call->host) == 0;
}

static void slot_set_target(struct slot *s, const struct http_call *call)
{
    free(s->path);
    free(s->host);
    s->path = xstrdup(tunnel_path(call->tunnel));
    s->host = xstrdup(call->host);
    s->is_https = call->is_https;
}

static struct slot *slot_new(struct http *h)
{
    CHECK(h->n_slots < SLOTS_MAX);
    struct slot *s = xcalloc(1, sizeof *s);
    s->h = h;
    s->id = (long)++h->n_slots;
    s->fd = -1;
    list_push_back(&h->slots, &s->item);
    return s;
}

/* An idle slot, with a connection already if there is one (the one used last); NULL: as many as may
 * be are busy. A kept connection has its stream in the tunnel, so it counts where a new one is
 * wanted. */
static struct slot *slot_find(struct http *h, const struct http_call *call)
{
    struct slot *connected = NULL, *other = NULL;
    unsigned n_busy = 0, n_kept = 0;
    LIST_EACH(it, &h->slots)
    {
        struct slot *s = CONTAINER_OF(it, struct slot, item);
        if (s->call != NULL) {
            n_busy += strcmp(s->path, tunnel_path(call->tunnel)) == 0;
        } else if (s->fd == -1) {
            other = s;
        } else if (slot_serves(s, call)) {
            connected = connected == NULL ? s : connected;
            n_kept++;
        }
    }
    if (n_busy >= h->max_connections)
        return NULL;
    if (connected != NULL && (!call->wants_new_connection || n_busy + n_kept >= h->max_connections))
        return connected;
    return other != NULL ? other : slot_new(h);
}

static void slot_release(struct slot *s)
{
    struct list *head = &s->call->h->slots;
    s->call = NULL;
    list_remove(&s->item);
    list_push_back(head->next, &s->item); /* before the first */
}

/* What happened, happened on the kept connection, not on the one that libcurl opened to send it all
 * again. */
static void refuse_restart(struct http_call *call)
{
    call->stop = STOP_RESTART;
    call->r.is_new_connection = false;
}

/* Bound to a name of the kernel's choice, by which the tunnel knows it. */
static bool slot_name_socket(struct slot *s)
{
    const struct sockaddr autobind = {.sa_family = AF_UNIX};
    return bind(s->fd, &autobind, sizeof autobind.sa_family) == 0 &&
           tunnel_client_name_from_fd(s->fd, s->name, sizeof s->name);
}

/* Without a name nobody could tell what became of the request: no such connection is made. */
static curl_socket_t on_open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
    struct http_call *call = arg;
    struct slot *s = call->slot;
    (void)purpose;
    if (call->handed > 0) {
        refuse_restart(call);
        return CURL_SOCKET_BAD;
    }
    s->name[0] = '\0';
    s->fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
    if (s->fd == -1)
        return CURL_SOCKET_BAD;
    if (!slot_name_socket(s)) {
        close(s->fd);
        s->fd = -1;
        return CURL_SOCKET_BAD;
    }
    call->r.is_new_connection = true;
    return s->fd;
}

static int on_close_socket(void *arg, curl_socket_t fd)
{
    struct slot *s = arg;
    curl_loop_forget(s->h->curl_loop, fd);
    if (s->fd == fd)
        s->fd = -1;
    return close(fd);
}

/* ---- a request on its way ---- */

/* Connected, nothing sent yet. */
static int on_prereq(void *arg, char *remote_ip, char *local_ip, int remote_port, int local_port)
{
    struct http_call *call = arg;
    (void)remote_ip, (void)local_ip, (void)remote_port, (void)local_port;
    if (call->handed > 0) {
        refuse_restart(call);
        return CURL_PREREQFUNC_ABORT;
    }
    struct tunnel_peer_info info;
    call->has_begun = true;
    memcpy(call->name, call->slot->name, sizeof call->name);
    tunnel_request_begun(call->tunnel, call->name);
    tunnel_peer_info(call->tunnel, call->name, &info);
    /* a new connection may not be accepted yet, and its name may have been another's */
    call->up_before = call->r.is_new_connection && !call->is_https ? 0 : info.bytes_up;
    call->r.connect_us = clock_mono_us() - call->started_us;
    return CURL_PREREQFUNC_OK;
}

static size_t on_body_wanted(char *out, size_t size, size_t n_items, void *arg)
{
    struct http_call *call = arg;
    uint64_t left = call->body_len - call->handed;
    size_t n = 0, cap = size * n_items < left ? size * n_items : (size_t)left;
    if (cap > 0 && (!call->body_read(call->body_arg, out, cap, &n) || n == 0)) {
        call->stop = STOP_READ;
        return CURL_READFUNC_ABORT;
    }
    CHECK(n <= cap);
    call->handed += n;
    if (call->handed == call->body_len)
        call->r.sent_us = clock_mono_us() - call->started_us;
    return n;
}

/* The body is read once: what libcurl would send again it cannot. */
static int on_seek(void *arg, curl_off_t offset, int origin)
{
    struct http_call *call = arg;
    (void)offset, (void)origin;
    refuse_restart(call);
    return CURL_SEEKFUNC_FAIL;
}

static void forget_headers(struct http_call *call)
{
    struct http_response *r = &call->r;
    call->has_whole_header = false;
    r->error_type[0] = r->request_id[0] = r->content_type[0] = r->date[0] = '\0';
    r->has_envoy_upstream = false;
}

/* The first of a name counts: a trailer cannot change it. */
static void keep(char *out, size_t cap, struct str value)
{
    if (out[0] == '\0')
        str_escape(out, cap, value);
}

static void note_header(struct http_response *r, struct str line)
{
    size_t colon = str_index(line, ':');
    struct str name = str_sub(line, 0, colon), value = str_sub(line, colon + 1, line.len);
    while (value.len > 0 && (value.p[value.len - 1] == '\r' || value.p[value.len - 1] == '\n'))
        value.len--;
    value = str_trim(value);
    if (str_eq_nocase(name, STR("x-amzn-errortype")))
        keep(r->error_type, sizeof r->error_type, value);
    else if (str_eq_nocase(name, STR("x-amzn-requestid")))
        keep(r->request_id, sizeof r->request_id, value);
    else if (str_eq_nocase(name, STR("content-type")))
        keep(r->content_type, sizeof r->content_type, value);
    else if (str_eq_nocase(name, STR("date")))
        keep(r->date, sizeof r->date, value);
    else if (str_eq_nocase(name, STR("x-envoy-upstream-service-time")))
        r->has_envoy_upstream = true;
}

static size_t on_header(char *p, size_t size, size_t n_items, void *arg)
{
    struct http_call *call = arg;
    struct str line = {p, size * n_items};
    call->header_bytes += line.len;
    if (call->header_bytes > HEADER_BYTES_MAX) {
        call->stop = STOP_HEADER;
        return 0;
    }
    if (str_starts_with_nocase(line, STR("HTTP/"))) /* 100-continue and the like came before */
        forget_headers(call);
    else if (line.p[0] == '\r' || line.p[0] == '\n')
        call->has_whole_header = true;
    else
        note_header(&call->r, line);
    return line.len;
}

static size_t on_body(char *p, size_t size, size_t n_items, void *arg)
{
    struct http_call *call = arg;
    size_t len = size * n_items, room = buf_room(&call->body);
    CHECK(buf_append(&call->body, p, len < room ? len : room));
    if (len <= room)
        return len;
    call->stop = STOP_BODY;
    return 0;
}

/* ---- the options of a call ---- */

static bool is_safe_text(const char *z)
{
    for (; *z != '\0'; z++)
        if ((unsigned char)*z < ' ' || *z == 127)
            return false;
    return true;
}

static void append_header(struct http_call *call, const char *line)
{
    call->headers = curl_slist_append(call->headers, line);
    CHECK(call->headers != NULL);
}

static void add_header(struct http_call *call, const char *name, const char *value)
{
    size_t len = strlen(name) + 2 + strlen(value);
    char *line = xcalloc(len + 1, 1);
    snprintf(line, len + 1, "%s: %s", name, value);
    append_header(call, line);
    call->header_len += len + 2;
    wiping_free(line); /* a session token may be in it */
}

static bool copy_headers(struct http_call *call, const struct http_request *r)
{
    bool ok = is_safe_text(r->host) && is_safe_text(r->path), has_type = false;
    add_header(call, "Host", r->host);
    for (size_t i = 0; ok && i < r->n_headers; i++) {
        ok = is_safe_text(r->headers[i].name) && is_safe_text(r->headers[i].value);
        has_type = has_type || str_eq_nocase(str_from(r->headers[i].name), STR("content-type"));
        if (ok)
            add_header(call, r->headers[i].name, r->headers[i].value);
    }
    append_header(call, "Expect:"); /* an empty value keeps libcurl from adding its own */
    append_header(call, "Accept:");
    if (!has_type)
        append_header(call, "Content-Type:");
    return ok;
}

static void free_headers(struct curl_slist *headers)
{
    for (struct curl_slist *it = headers; it != NULL; it = it->next)
        secret_wipe(it->data, strlen(it->data)); /* a session token may be in one */
    curl_slist_free_all(headers);
}

static void set_target(struct http_call *call)
{
    CURL *easy = call->easy;
    AUTO_FREE char *url =
        xasprintf("%s://%s%s", call->is_https ? "https" : "http", call->host, call->path);
    SET(easy, CURLOPT_URL, url);
    SET(easy, CURLOPT_PATH_AS_IS, 1L);
    SET(easy, CURLOPT_UNIX_SOCKET_PATH, tunnel_path(call->tunnel));
    SET(easy, CURLOPT_LOCALPORT, call->slot->id);
    SET(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    SET(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(easy, CURLOPT_PROXY, "");
    SET(easy, CURLOPT_NOPROXY, "*");
    SET(easy, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    SET(easy, CURLOPT_FOLLOWLOCATION, 0L);
    SET(easy, CURLOPT_NOSIGNAL, 1L);
    SET(easy, CURLOPT_MAXAGE_CONN, call->is_https ? KEEP_HTTPS_S : KEEP_PLAIN_S);
    SET(easy, CURLOPT_MAXLIFETIME_CONN, LIFETIME_S);
    SET(easy, CURLOPT_FORBID_REUSE, call->closes_connection ? 1L : 0L);
    SET(easy, CURLOPT_HTTPHEADER, call->headers);
    if (call->h->user_agent != NULL)
        SET(easy, CURLOPT_USERAGENT, call->h->user_agent);
}

static void set_tls(struct http_call *call)
{
    CURL *easy = call->easy;
    SET(easy, CURLOPT_SSL_VERIFYPEER, 1L);
    SET(easy, CURLOPT_SSL_VERIFYHOST, 2L);
    SET(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (call->h->ca_file == NULL)
        return;
    SET(easy, CURLOPT_CAINFO, call->h->ca_file);
    SET(easy, CURLOPT_CAPATH, NULL);
}

static void set_body(struct http_call *call)
{
    CURL *easy = call->easy;
    SET(easy, CURLOPT_BUFFERSIZE, BUFFER_BYTES);
    if (call->body_len == 0 && strcmp(call->method, "POST") != 0) {
        SET(easy, CURLOPT_HTTPGET, 1L);
    } else {
        SET(easy, CURLOPT_POST, 1L);
        SET(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->body_len);
        SET(easy, CURLOPT_UPLOAD_BUFFERSIZE,
            call->body_len <= SMALL_BODY_BYTES ? BUFFER_BYTES : BIG_UPLOAD_BYTES);
        SET(easy, CURLOPT_READFUNCTION, on_body_wanted);
        SET(easy, CURLOPT_READDATA, call);
        SET(easy, CURLOPT_SEEKFUNCTION, on_seek);
        SET(easy, CURLOPT_SEEKDATA, call);
    }
    SET(easy, CURLOPT_CUSTOMREQUEST, call->method);
}

static void set_callbacks(struct http_call *call)
{
    CURL *easy = call->easy;
    SET(easy, CURLOPT_PRIVATE, call);
    SET(easy, CURLOPT_ERRORBUFFER, call->detail);
    SET(easy, CURLOPT_OPENSOCKETFUNCTION, on_open_socket);
    SET(easy, CURLOPT_OPENSOCKETDATA, call);
    SET(easy, CURLOPT_CLOSESOCKETFUNCTION, on_close_socket);
    SET(easy, CURLOPT_CLOSESOCKETDATA, call->slot); /* outlives the call, with the connection */
    SET(easy, CURLOPT_PREREQFUNCTION, on_prereq);
    SET(easy, CURLOPT_PREREQDATA, call);
    SET(easy, CURLOPT_HEADERFUNCTION, on_header);
    SET(easy, CURLOPT_HEADERDATA, call);
    SET(easy, CURLOPT_WRITEFUNCTION, on_body);
    SET(easy, CURLOPT_WRITEDATA, call);
}

/* ---- the end of a call ---- */

/* Could the server have the whole request?  In doubt: yes. */
static bool has_left(const struct http_call *call, const struct tunnel_peer_info *info)
{
    curl_off_t uploaded = 0;
    if (call->handed < call->body_len)
        return false;
    /* after a restart libcurl counts from zero */
    if (call->stop != STOP_RESTART &&
        curl_easy_getinfo(call->easy, CURLINFO_SIZE_UPLOAD_T, &uploaded) == CURLE_OK &&
        (uint64_t)uploaded < call->body_len)
        return false;
    /* nobody has accepted a new connection yet, nor will: it closes now.  (What speaks TLS inside
     * was accepted.) */
    if (!info->is_known)
        return !call->r.is_new_connection || call->is_https;
    bool is_final = info->end.cause != END_NONE;
    /* a complaint about our certificate ends the handshake: no gateway reads a request before it */
    if (is_final && info->end.cause == END_ALERT && info->end.err.code == ERR_DENIED &&
        info->bytes_down == 0)
        return false;
    return !is_final || info->bytes_up - call->up_before >= call->header_len + call->body_len;
}

/* Given up, so that the tunnel's count is final.  The caller closes the connection. */
static enum http_outcome judge_loss(const struct http_call *call)
{
    struct tunnel_peer_info info;
    if (!call->has_begun)
        return HTTP_NOT_SENT;
    tunnel_abandon(call->tunnel, call->name);
    tunnel_peer_info(call->tunnel, call->name, &info);
    return has_left(call, &info) ? HTTP_UNKNOWN : HTTP_NOT_SENT;
}

static void tell_deadline(struct http_call *call, const struct tunnel_peer_info *info)
{
    const char *seen = "no answer";
    if (call->slot == NULL)
        seen = "all connections to the gateway were busy";
    else if (!info->is_known || info->peer_id[0] == '\0')
        seen = "no mTLS stream to the gateway came up";
    else if (call->r.outcome == HTTP_NOT_SENT)
        seen = "the request could not be sent in full";
    err_set(&call->r.err, ERR_TIMEOUT, 0, "%s: %s within %llu s", call->host, seen,
            (unsigned long long)((call->timeout_ms + 999) / 1000));
}

/* What only libcurl knows. */
static void tell_code(struct http_call *call, CURLcode code)
{
    const char *why = call->detail[0] != '\0' ? call->detail : curl_easy_strerror(code);
    if (call->stop == STOP_RESTART)
        why = "the kept connection was closed";
    else if (code == CURLE_OK)
        why = "the answer broke off in its header";
    struct err *e = &call->r.err;
    if (code == CURLE_PEER_FAILED_VERIFICATION)
        err_set(e, ERR_DENIED, 0,
                "the certificate of %s, seen through the gateway, is not accepted: %s; its roots "
                "are those of aws.ca_file",
                call->host, why);
    else if (code == CURLE_SSL_CACERT_BADFILE || code == CURLE_SSL_ISSUER_ERROR)
        err_set(e, ERR_SYNTAX, 0, "aws.ca_file cannot be used: %s", why);
    else if (code == CURLE_SSL_CONNECT_ERROR)
        err_set(e, ERR_UNAVAIL, 0, "TLS with %s through the gateway failed: %s", call->host, why);
    else
        err_set(e, ERR_UNAVAIL, 0, "%s: %s", call->host, why);
}

static bool is_ours(CURLcode code)
{
    return code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE ||
           code == CURLE_SSL_ISSUER_ERROR;
}

/* The stream's own end, if that is what the transfer met; where the tunnel does not know it, what
 * has failed there since. */
static const struct stream_end *find_stream_end(const struct http_call *call,
                                                const struct tunnel_peer_info *info)
{
    if (info->is_known)
        return info->end.cause != END_NONE ? &info->end : NULL;
    return tunnel_failure_since(call->tunnel, call->started_us / 1000);
}

static void tell_failure(struct http_call *call, CURLcode code, const struct tunnel_peer_info *info)
{
    struct err *e = &call->r.err;
    const struct stream_end *end;
    switch (call->stop) {
    case STOP_REQUEST:
        err_set(e, ERR_SYNTAX, 0, "a header of the request to %s holds control characters",
                call->host);
        return;
    case STOP_READ:
        err_set(e, ERR_IO, 0, "the body of the request to %s could not be read", call->host);
        return;
    case STOP_HEADER:
        err_set(e, ERR_LIMIT, 0, "%s answered with more than %u kB of header", call->host,
                HEADER_BYTES_MAX >> 10);
        return;
    case STOP_DEADLINE:
        tell_deadline(call, info);
        return;
    case STOP_FREE:
        err_set(e, ERR_CANCELED, 0, "svidmail is stopping");
        return;
    default:
        break;
    }
    end = is_ours(code) ? NULL : find_stream_end(call, info);
    if (end == NULL) {
        tell_code(call, code);
        return;
    }
    call->r.tunnel_end = *end;
    *e = end->err;
}

static void fill_response(struct http_call *call, CURLcode code)
{
    struct http_response *r = &call->r;
    struct tunnel_peer_info info = {0};
    long status = 0;
    if (call->slot != NULL)
        tunnel_peer_info(call->tunnel, call->has_begun ? call->name : call->slot->name, &info);
    if (call->easy != NULL &&
        curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status) == CURLE_OK)
        r->status = (int)status;
    r->body = buf_str(&call->body);
    r->total_us = clock_mono_us() - call->started_us;
    str_copy(r->peer_id, sizeof r->peer_id, str_from(info.peer_id));
    if (call->stop == STOP_BODY) {
        r->outcome = HTTP_ANSWERED; /* what is missing would only have been more text */
        err_set(&r->err, ERR_LIMIT, 0, "%s answered with more than %zu bytes", call->host,
                call->body.max);
        return;
    }
    if (code == CURLE_OK && call->stop == STOP_NO && call->has_whole_header && r->status >= 200) {
        r->outcome = HTTP_ANSWERED;
        return;
    }
    r->outcome = judge_loss(call);
    tell_failure(call, code, &info);
}

/* Off every list; libcurl closes the connection of a transfer that was not over. */
static void detach(struct http_call *call)
{
    CHECK(!curl_loop_is_in_curl(call->h->curl_loop));
    list_remove(&call->item);
    if (call->easy != NULL) {
        CHECK(curl_multi_remove_handle(call->h->multi, call->easy) == CURLM_OK);
        curl_easy_cleanup(call->easy);
    }
    if (call->slot != NULL)
        slot_release(call->slot);
    timer_free(&call->deadline);
}

static void call_free(struct http_call *call)
{
    free_headers(call->headers);
    buf_release_secret(&call->body);
    free(call->host);
    free(call->method);
    free(call->path);
    free(call);
}

static void finish(struct http_call *call, CURLcode code)
{
    struct http *h = call->h;
    h->depth++;
    fill_response(call, code);
    detach(call);
    if (call->r.outcome == HTTP_ANSWERED)
        tunnel_request_done(call->tunnel, call->name);
    start_waiting(h);
    call->cb(call->arg, &call->r);
    call_free(call);
    leave(h);
}

static void on_deadline(void *arg)
{
    struct http_call *call = arg;
    if (call->stop == STOP_NO)
        call->stop = STOP_DEADLINE;
    finish(call, CURLE_OPERATION_TIMEDOUT);
}

/* ---- public ---- */

static void start(struct http_call *call, struct slot *s)
{
    slot_set_target(s, call);
    s->call = call;
    call->slot = s;
    call->easy = curl_easy_init();
    CHECK(call->easy != NULL);
    set_target(call);
    set_tls(call);
    set_body(call);
    set_callbacks(call);
    CHECK(curl_multi_add_handle(call->h->multi, call->easy) ==
          CURLM_OK); /* begins by the timer of curl_loop */
}

static void start_waiting(struct http *h)
{
    LIST_EACH(it, &h->calls)
    {
        struct http_call *call = CONTAINER_OF(it, struct http_call, item);
        struct slot *s = NULL;
        if (!h->is_closing && call->slot == NULL && call->stop == STOP_NO)
            s = slot_find(h, call);
        if (s != NULL)
            start(call, s);
    }
}

/* One file, ours or the one built into libcurl: with a directory of certificates beside it, as
 * Debian's libcurl has, libcurl keeps no parsed copy and reads the file for each connection.  NULL:
 * there is no file, and the directory will have to do. */
static char *find_ca_file(const char *configured)
{
    const char *builtin = curl_version_info(CURLVERSION_NOW)->cainfo;
    if (configured != NULL && configured[0] != '\0')
        return xstrdup(configured);
    return builtin != NULL && access(builtin, R_OK) == 0 ? xstrdup(builtin) : NULL;
}

bool http_new(uv_loop_t *loop, const struct http_config *cfg, struct http **out, struct err *e)
{
    unsetenv("SSLKEYLOGFILE"); /* libcurl would write the keys of each session there */
    /* tokens and secret keys pass through its buffers */
    if (curl_global_init_mem(CURL_GLOBAL_DEFAULT, wiping_malloc, wiping_free, wiping_realloc,
                             wiping_strdup, wiping_calloc) != CURLE_OK)
        return err_set(e, ERR_UNAVAIL, 0, "libcurl does not start");
    struct http *h = xcalloc(1, sizeof *h);
    h->multi = curl_multi_init();
    CHECK(h->multi != NULL);
    h->loop = loop;
    list_init(&h->calls);
    list_init(&h->slots);
    h->max_connections = cfg->max_connections > 0 ? cfg->max_connections : MAX_CONNECTIONS;
    h->ca_file = find_ca_file(cfg->ca_file);
    h->user_agent = cfg->user_agent != NULL ? xstrdup(cfg->user_agent) : NULL;
    h->curl_loop = curl_loop_new(loop, h->multi, on_curl_moved, h);
    bool ok =
        curl_multi_setopt(h->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING) == CURLM_OK &&
        curl_multi_setopt(h->multi, CURLMOPT_MAXCONNECTS, (long)SLOTS_MAX) == CURLM_OK;
    CHECK(ok);
    *out = h;
    return true;
}

static void free_slots(struct http *h)
{
    LIST_EACH(it, &h->slots)
    {
        struct slot *s = CONTAINER_OF(it, struct slot, item);
        list_remove(it);
        free(s->path);
        free(s->host);
        free(s);
    }
}

void http_free(struct http **hp)
{
    struct http *h = *hp;
    *hp = NULL;
    if (h == NULL)
        return;
    CHECK(!curl_loop_is_in_curl(h->curl_loop));
    h->depth++;
    h->is_closing = true;
    while (!list_is_empty(&h->calls)) {
        struct http_call *call = CONTAINER_OF(h->calls.next, struct http_call, item);
        call->stop = STOP_FREE;
        finish(call, CURLE_ABORTED_BY_CALLBACK);
    }
    curl_multi_cleanup(h->multi); /* closes the kept connections: the slots are still there */
    curl_global_cleanup();
    free_slots(h);
    curl_loop_free(&h->curl_loop);
    free(h->ca_file);
    free(h->user_agent);
    leave(h);
}

struct http_call *http_send(struct http *h, const struct http_request *r, http_done_cb cb,
                            void *arg)
{
    CHECK(!h->is_closing && !curl_loop_is_in_curl(h->curl_loop));
    struct http_call *call = xcalloc(1, sizeof *call);
    call->h = h;
    call->cb = cb;
    call->arg = arg;
    call->tunnel = r->tunnel;
    call->is_https = r->is_https;
    call->wants_new_connection = r->wants_new_connection;
    call->closes_connection = r->closes_connection;
    call->host = xstrdup(r->host);
    call->method = xstrdup(r->method);
    call->path = xstrdup(r->path);
    call->body_len = r->body_len;
    call->body_read = r->body_read;
    call->body_arg = r->body_arg;
    call->timeout_ms = r->timeout_ms;
    call->started_us = clock_mono_us();
    buf_init(&call->body, r->max_response_bytes);
    if (!copy_headers(call, r))
        call->stop = STOP_REQUEST;
    call->deadline = timer_new(h->loop, on_deadline, call);
    timer_start(call->deadline, call->stop == STOP_NO ? r->timeout_ms : 0);
    list_push_back(&h->calls, &call->item);
    start_waiting(h);
    return call;
}

enum http_outcome http_cancel(struct http_call **cp)
{
    struct http_call *call = *cp;
    *cp = NULL;
    if (call == NULL)
        return HTTP_NOT_SENT;
    struct http *h = call->h;
    enum http_outcome outcome = judge_loss(call);
    detach(call);
    call_free(call);
    start_waiting(h);
    return outcome;
}

const char *http_library_version(void)
{
    return curl_version_info(CURLVERSION_NOW)->version;
}
