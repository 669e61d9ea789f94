// SPDX-License-Identifier: Apache-2.0
/* The name of the gateway, and the ways through it.
 *
 * A way is tried by one request over the tunnel that mail, or STS, uses too: what it meets, they
 * meet.  The request is not signed, so AWS refuses it whatever it says; it is the very one that the
 * gateway's policy lets through (POST of the path for mail), so that the policy judges it.  Then
 *   AWS's own refusal               the way is open: policy, route, TLS to AWS
 *   403 without AWS's request id    the policy
 *   404, 503, 504 of the gateway    no route, no AWS behind it (aws/ses_errors.def)
 *   an end of the stream            where it ended (identity/stream_end.c)
 * End to end the policy sees an identity and a port, no request; its refusal is an end of the
 * stream. */
#include "app/doctor_exam.h"
#include "base/mem.h"

#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WAY_MS             18000 /* more than connecting and the handshake may take */
#define MAX_RESPONSE_BYTES 8192
#define ADDRESSES_SHOWN    4
#define MAIL_PATH          "/v2/email/outbound-emails"

/* --- the name: asked as mail asks, by the C library, so that search domains, hosts file and caches
 * are the same; a second resolver could only tell of itself */

struct lookup {
    uv_getaddrinfo_t req;
    struct exam *exam; /* NULL: nobody waits any more */
};

static void list_addresses(const struct addrinfo *found, char *out, size_t cap)
{
    struct buf b;
    buf_init(&b, cap - 1);
    unsigned n = 0;
    for (const struct addrinfo *a = found; a != NULL && n < ADDRESSES_SHOWN; a = a->ai_next) {
        char text[INET6_ADDRSTRLEN];
        if (uv_ip_name(a->ai_addr, text, sizeof text) != 0 ||
            !buf_printf(&b, "%s%s", n++ > 0 ? ", " : "", text))
            break;
    }
    str_copy(out, cap, buf_str(&b));
    buf_release(&b);
}

static void on_name(uv_getaddrinfo_t *req, int status, struct addrinfo *found)
{
    struct lookup *l = req->data;
    struct exam *x = l->exam;
    free(l);
    if (x != NULL) {
        const char *host = x->s->config->gateway.host;
        char text[256];
        x->lookup = NULL;
        list_addresses(found, text, sizeof text);
        if (status == 0)
            doctor_ok(x->walk, "%s is %s", host, text);
        else
            doctor_found(x->walk,
                         status == UV_EAI_NONAME || status == UV_EAI_NODATA ? "name.unknown"
                                                                            : "name.no_answer",
                         "%s: %s", host, uv_strerror(status));
    }
    uv_freeaddrinfo(found);
}

void check_name(void *arg, struct doctor *d, unsigned what)
{
    (void)what;
    struct exam *x = arg;
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    const char *host = x->s->config->gateway.host;
    x->lookup = xcalloc(1, sizeof *x->lookup);
    x->lookup->exam = x;
    x->lookup->req.data = x->lookup;
    int rc = uv_getaddrinfo(x->s->loop, &x->lookup->req, on_name, host, NULL, &hints);
    if (rc == 0)
        return;
    free(x->lookup);
    x->lookup = NULL;
    doctor_found(d, "name.unknown", "%s: %s", host, uv_strerror(rc));
}

/* The resolver cannot be stopped once it has begun: it ends alone. */
void cancel_name(void *arg, unsigned what)
{
    (void)what;
    struct exam *x = arg;
    if (x->lookup == NULL)
        return;
    x->lookup->exam = NULL;
    (void)uv_cancel((uv_req_t *)&x->lookup->req);
    x->lookup = NULL;
}

/* --- what the end of a try means */

// clang-format off
/* How far a stream came that ended so.  An alert, and what comes after the handshake: see below. */
static const enum way_stage stages[END_CAUSE_COUNT] = {
    [END_NAME] = WAY_TCP, [END_REFUSED] = WAY_TCP, [END_CONNECT] = WAY_TCP, [END_CONNECT_TIMEOUT] = WAY_TCP,
    [END_HELLO_RESET] = WAY_TLS, [END_HANDSHAKE_EOF] = WAY_TLS, [END_HANDSHAKE_TIMEOUT] = WAY_TLS,
    [END_NOT_TLS] = WAY_TLS, [END_ALERT] = WAY_TLS,
    [END_PEER_NOT_SVID] = WAY_PEER, [END_PEER_UNTRUSTED] = WAY_PEER, [END_PEER_IDENTITY] = WAY_PEER,
    [END_CLEAN] = WAY_POLICY, [END_TRUNCATED] = WAY_POLICY, [END_RESET] = WAY_POLICY,
    [END_NO_IDENTITY] = WAY_TCP, [END_IDENTITY_GONE] = WAY_TLS,
};

/* Rows of ses_errors.def that are the gateway's own word on us; its other ones are about AWS. */
static const char *const about_us[] = {
    "gateway_denied", "gateway_no_route", "gateway_overload", "gateway_rate", "gateway_no_cluster",
    "gateway_protocol",
};
// clang-format on

static bool is_by_us(enum stream_end_cause cause)
{
    return cause == END_CANCELED || cause == END_ROTATED || cause == END_IDLE_TIMEOUT;
}

void way_stream_sign(const struct stream_end *end, char *out, size_t cap)
{
    const char *more = "";
    if (end->cause == END_ALERT) {
        snprintf(out, cap, "alert.%d", end->alert);
        return;
    }
    if (end->cause == END_NOT_TLS && strstr(end->err.msg, "\"HTTP/1.") != NULL)
        more = ".http";
    else if (end->cause == END_NOT_TLS && strstr(end->err.msg, "it speaks TLS 1.2") != NULL)
        more = ".old";
    else if (end->cause == END_PEER_UNTRUSTED && strstr(end->err.msg, "no bundle") != NULL)
        more = ".no_bundle";
    snprintf(out, cap, "stream.%s%s", stream_end_name(end->cause), more);
}

static void fail(struct way *w, enum way_stage stage, const char *sign, const char *text)
{
    w->failed_at = stage;
    str_copy(w->sign, sizeof w->sign, str_from(sign));
    str_copy(w->text, sizeof w->text, str_from(text));
}

static void judge_stream(struct way *w, const struct stream_end *end)
{
    char sign[sizeof w->sign];
    enum way_stage stage = stages[end->cause];
    way_stream_sign(end, sign, sizeof sign);
    if (end->cause == END_ALERT && end->was_open)
        stage = WAY_POLICY; /* TLS 1.3: our certificate is judged after our side has ended */
    fail(w, stage, is_by_us(end->cause) ? "" : sign, end->err.msg);
}

static void judge_answer(struct way *w, const struct ses_verdict *v)
{
    char sign[sizeof w->sign];
    enum way_stage stage = WAY_AWS;
    for (size_t i = 0; i < ARRAY_LEN(about_us); i++)
        if (strcmp(v->error, about_us[i]) == 0)
            stage = WAY_POLICY;
    bool is_other = strcmp(v->error, "gateway_denied") == 0 &&
                    strstr(v->reply.text, "RBAC: access denied") == NULL;
    snprintf(sign, sizeof sign, "ses.%s%s", v->error, is_other ? ".other" : "");
    fail(w, stage, sign, v->reply.text);
}

/* No answer, and no stream to blame. */
static void judge_silence(struct way *w, const struct http_response *r)
{
    if (r->err.code == ERR_TIMEOUT && r->connect_us == 0)
        fail(w, WAY_TCP, "", "because all connections to the gateway are busy with mail");
    else if (r->err.code == ERR_TIMEOUT)
        fail(w, WAY_AWS, "ses.answer_timeout", r->err.msg);
    else if (r->err.code == ERR_DENIED)
        fail(w, WAY_AWS, "ses.aws_certificate", r->err.msg);
    else
        fail(w, WAY_AWS, "probe", r->err.msg);
}

void way_judge(struct way *w, bool is_end_to_end, const struct http_response *r)
{
    const struct ses_config cfg = {.is_end_to_end = is_end_to_end};
    struct ses_verdict v;
    w->failed_at = WAY_THROUGH;
    str_copy(w->peer_id, sizeof w->peer_id, str_from(r->peer_id));
    str_copy(w->date, sizeof w->date, str_from(r->date));
    str_copy(w->request_id, sizeof w->request_id, str_from(r->request_id));
    if (r->outcome != HTTP_ANSWERED && r->tunnel_end.cause != END_NONE) {
        judge_stream(w, &r->tunnel_end);
    } else if (r->outcome != HTTP_ANSWERED) {
        judge_silence(w, r);
    } else if (!is_end_to_end && r->request_id[0] == '\0' && r->error_type[0] == '\0') {
        ses_judge(&cfg, NULL, r, &v);
        judge_answer(w, &v);
    }
}

/* --- the try */

static bool is_nested(const struct way *w)
{
    return w->kind == WAY_STS || w->exam->s->config->gateway.tls == CONFIG_TLS_END_TO_END;
}

static unsigned port_of(const struct way *w)
{
    const struct config *c = w->exam->s->config;
    return (unsigned)(is_nested(w) ? c->gateway.port_end_to_end : c->gateway.port_api);
}

static const char *host_of(const struct way *w)
{
    const struct config *c = w->exam->s->config;
    return w->kind == WAY_STS ? c->aws.sts_host : c->ses.host;
}

static void tell_good(const struct way *w, struct doctor *d, enum way_stage stage)
{
    const struct config *c = w->exam->s->config;
    switch (stage) {
    case WAY_TCP:
        doctor_ok(d, "%s:%u takes connections", c->gateway.host, port_of(w));
        break;
    case WAY_TLS:
        doctor_ok(d, "TLS 1.3 with SNI %s", host_of(w));
        break;
    case WAY_PEER:
        doctor_ok(d, "%s", w->peer_id);
        break;
    case WAY_POLICY:
        doctor_ok(
            d, is_nested(w) ? "it passes our bytes to %s" : "it lets us POST " MAIL_PATH " to %s",
            host_of(w));
        break;
    case WAY_AWS:
    case WAY_THROUGH:
        doctor_ok(d, "%s answers%s%s", host_of(w), w->request_id[0] != '\0' ? ", request " : "",
                  w->request_id);
        break;
    }
}

static void tell(const struct way *w, struct doctor *d, enum way_stage stage)
{
    if (w->failed_at != stage)
        tell_good(w, d, stage);
    else if (w->sign[0] == '\0')
        doctor_skip(d, "%s", w->text);
    else
        doctor_found(d, w->sign, "%s", w->text);
}

static void on_answer(void *arg, const struct http_response *r)
{
    struct way *w = arg;
    w->call = NULL;
    w->is_over = true;
    w->answered_at_ms = clock_wall_ms(w->exam->s->clock);
    way_judge(w, is_nested(w), r);
    if (!w->is_awaited)
        return;
    w->is_awaited = false;
    tell(w, w->exam->walk, w->awaited);
}

static bool on_body_read(void *arg, char *out, size_t cap, size_t *n)
{
    struct way *w = arg;
    struct str part = str_sub(str_from(w->body), w->body_at, cap);
    memcpy(out, part.p, part.len);
    w->body_at += part.len;
    *n = part.len;
    return true;
}

static void try_way(struct way *w)
{
    static const struct http_header form = {"content-type",
                                            "application/x-www-form-urlencoded; charset=utf-8"};
    static const struct http_header json = {"content-type", "application/json"};
    const struct doctor_sources *s = w->exam->s;
    bool is_sts = w->kind == WAY_STS;
    w->body = is_sts ? "Action=GetCallerIdentity&Version=2011-06-15" : "{}";
    const struct http_request r = {.tunnel = is_sts ? s->sts_tunnel : s->mail_tunnel,
                                   .is_https = is_nested(w),
                                   .wants_new_connection = true,
                                   .closes_connection = true,
                                   .host = host_of(w),
                                   .method = "POST",
                                   .path = is_sts ? "/" : MAIL_PATH,
                                   .headers = is_sts ? &form : &json,
                                   .n_headers = 1,
                                   .body_len = strlen(w->body),
                                   .body_read = on_body_read,
                                   .body_arg = w,
                                   .timeout_ms = WAY_MS,
                                   .max_response_bytes = MAX_RESPONSE_BYTES};
    w->call = http_send(s->http, &r, on_answer, w);
}

/* Both ways are tried at once: each may take all of its time. */
void check_way(void *arg, struct doctor *d, unsigned what)
{
    struct exam *x = arg;
    struct way *w = &x->ways[what >> 8];
    for (unsigned i = 0; i < WAY_COUNT; i++)
        if (x->ways[i].call == NULL && !x->ways[i].is_over)
            try_way(&x->ways[i]);
    w->awaited = (enum way_stage)(what & 0xff);
    w->is_awaited = !w->is_over;
    if (w->is_over)
        tell(w, d, w->awaited);
}

void cancel_way(void *arg, unsigned what)
{
    struct way *w = &((struct exam *)arg)->ways[what >> 8];
    http_cancel(&w->call);
    w->is_awaited = false;
    w->is_over = true;
}
