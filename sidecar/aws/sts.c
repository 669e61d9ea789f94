// SPDX-License-Identifier: Apache-2.0
/* One fetch: JWT-SVID -> POST -> XML -> credentials.  An ExpiredTokenException is answered once by
 * a fresh token: agents hand out half-lived ones.  Everything else is told to credentials, which
 * knows when to ask again. */
#include "aws/sts.h"

#include "base/mem.h"
#include "base/secret.h"

#include <expat.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FORM_MAX           (32u << 10) /* a token has at most 20,000 bytes */
#define MAX_RESPONSE_BYTES (32u << 10)
#define TEXT_MAX           8192
#define TIMEOUT_MS         10000
#define SESSION_MIN        2
#define SESSION_MAX        64

/* Elements whose text is wanted; the first of each counts. */
enum field { F_KEY_ID, F_SECRET, F_TOKEN, F_EXPIRATION, F_CODE, F_MESSAGE, F_REQUEST_ID, F_COUNT };
static const char *const field_names[F_COUNT] = {
    "AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration", "Code", "Message", "RequestId"};

struct answer {
    struct buf text[F_COUNT];
    enum field current; /* F_COUNT: none */
    bool is_full[F_COUNT];
    bool is_too_long;
};

struct sts {
    struct sts_config cfg;
    struct http *http;
    struct tunnel *tunnel;
    struct jwt_cache *jwts;
    struct svid_store *store;
    const struct clock *clock;
    /* the fetch under way */
    credentials_fetched_cb cb;
    void *arg;
    struct jwt_request *jwt;
    struct http_call *call;
    struct buf form; /* secret: holds the token */
    size_t form_at;
    bool was_fresh;
};

// clang-format off
/* Errors that need words of their own; what stands in no row passes by itself. */
static const struct { const char *code; enum err_code class; const char *words; } sts_errors[] = {
    { "InvalidIdentityToken", ERR_DENIED,
      "the IAM OIDC provider must have SPIRE's jwt_issuer as its URL and aws.audience as a client id" },
    { "IDPRejectedClaim",     ERR_DENIED, "compare aud and sub with the role's trust policy" },
    { "AccessDenied",         ERR_DENIED, "the role's trust policy must name this SPIFFE ID as sub and aws.audience as aud" },
    { "RegionDisabledException", ERR_SYNTAX, "activate STS in that region, or set aws.sts_region" },
    { "MalformedPolicyDocument", ERR_SYNTAX, "" },
    { "PackedPolicyTooLarge", ERR_SYNTAX, "" },
    { "ValidationError",      ERR_SYNTAX, "check aws.role_arn, aws.session_name and aws.duration" },
    { "ExpiredTokenException", ERR_EXPIRED, "check the clocks here and on the SPIRE server" },
};
// clang-format on

char *sts_session_name(char out[65], const char *spiffe_id)
{
    struct str id = str_from(spiffe_id);
    if (str_starts_with(id, STR("spiffe://")))
        id = str_sub(id, strlen("spiffe://"), id.len);
    unsigned char digest[EVP_MAX_MD_SIZE];
    CHECK(EVP_Digest(id.p, id.len, digest, NULL, EVP_sha256(), NULL) == 1);
    bool is_cut = id.len > SESSION_MAX || id.len < SESSION_MIN;
    size_t keep = is_cut ? SESSION_MAX - 9 : SESSION_MAX, n = id.len < keep ? id.len : keep;
    for (size_t i = 0; i < n; i++)
        out[i] = id.p[i] == '/' ? '.' : id.p[i]; /* the rest of a SPIFFE ID's bytes fit */
    out[n] = '\0';
    if (is_cut)
        snprintf(out + n, 10, "-%02x%02x%02x%02x", digest[0], digest[1], digest[2], digest[3]);
    return out;
}

/* ---- the answer ---- */

static void on_start(void *arg, const XML_Char *name, const XML_Char **attributes)
{
    (void)attributes;
    struct answer *a = arg;
    const char *local = strrchr(name, '|');
    local = local == NULL ? name : local + 1;
    a->current = F_COUNT;
    for (unsigned i = 0; i < F_COUNT; i++)
        if (strcmp(local, field_names[i]) == 0 && !a->is_full[i])
            a->current = (enum field)i;
}

static void on_text(void *arg, const XML_Char *text, int len)
{
    struct answer *a = arg;
    if (a->current != F_COUNT && !buf_append(&a->text[a->current], text, (size_t)len))
        a->is_too_long = true;
}

static void on_end(void *arg, const XML_Char *name)
{
    (void)name;
    struct answer *a = arg;
    if (a->current != F_COUNT)
        a->is_full[a->current] = true;
    a->current = F_COUNT;
}

static bool answer_read(struct answer *a, struct str xml)
{
    XML_Parser p = XML_ParserCreateNS(NULL, '|');
    CHECK(p != NULL);
    for (unsigned i = 0; i < F_COUNT; i++)
        buf_init(&a->text[i], TEXT_MAX);
    a->current = F_COUNT;
    XML_SetUserData(p, a);
    XML_SetElementHandler(p, on_start, on_end);
    XML_SetCharacterDataHandler(p, on_text);
    bool ok = XML_Parse(p, xml.p, (int)xml.len, XML_TRUE) == XML_STATUS_OK && !a->is_too_long;
    XML_ParserFree(p);
    return ok;
}

static void answer_release(struct answer *a)
{
    for (unsigned i = 0; i < F_COUNT; i++)
        buf_release_secret(&a->text[i]);
}

static bool read_expiration(const char *text, int64_t *out)
{
    struct tm tm = {0};
    if (strptime(text, "%Y-%m-%dT%H:%M:%S", &tm) == NULL)
        return false;
    *out = (int64_t)timegm(&tm) * 1000;
    return true;
}

static struct aws_credentials *take_credentials(struct answer *a, int64_t now_ms, struct err *e)
{
    int64_t expires_at_ms = 0;
    if (a->text[F_KEY_ID].len == 0 || a->text[F_SECRET].len == 0 || a->text[F_TOKEN].len == 0 ||
        !read_expiration(buf_cstr(&a->text[F_EXPIRATION]), &expires_at_ms)) {
        err_set(e, ERR_UNAVAIL, 0, "STS answered 200 without credentials in it");
        return NULL;
    }
    struct aws_credentials *c = xcalloc(1, sizeof *c);
    *c = (struct aws_credentials){.refs = 1,
                                  .access_key_id = secret_dup(buf_str(&a->text[F_KEY_ID])),
                                  .secret_access_key = secret_dup(buf_str(&a->text[F_SECRET])),
                                  .session_token = secret_dup(buf_str(&a->text[F_TOKEN])),
                                  .issued_at_ms = now_ms,
                                  .expires_at_ms = expires_at_ms};
    return c;
}

static void refuse(struct answer *a, const struct http_response *r, struct err *e)
{
    char code[80], message[160];
    str_escape(code, sizeof code, buf_str(&a->text[F_CODE]));
    str_escape(message, sizeof message, buf_str(&a->text[F_MESSAGE]));
    for (size_t i = 0; i < ARRAY_LEN(sts_errors); i++) {
        if (strcmp(code, sts_errors[i].code) != 0)
            continue;
        err_set(e, sts_errors[i].class, 0, "STS: %s: %s%s%s%s", code, message,
                sts_errors[i].words[0] != '\0' ? " (" : "", sts_errors[i].words,
                sts_errors[i].words[0] != '\0' ? ")" : "");
        return;
    }
    if (code[0] != '\0')
        err_set(e, ERR_UNAVAIL, 0, "STS: %s: %s", code, message);
    else
        err_set(e, ERR_UNAVAIL, 0, "STS answered %d with something that is not STS's", r->status);
}

static struct aws_credentials *judge(struct sts *s, const struct http_response *r, struct err *e)
{
    if (r->outcome != HTTP_ANSWERED) {
        *e = r->err;
        err_wrap(e, "STS at %s", s->cfg.host);
        return NULL;
    }
    struct answer a = {0};
    struct aws_credentials *c = NULL;
    bool is_xml = answer_read(&a, r->body);
    if (is_xml && r->status == 200)
        c = take_credentials(&a, clock_wall_ms(s->clock), e);
    else if (r->status == 200)
        err_set(e, ERR_UNAVAIL, 0, "STS answered 200 with something that is not its XML");
    else
        refuse(&a, r, e);
    answer_release(&a);
    return c;
}

/* ---- the fetch ---- */

static void finish(struct sts *s, struct aws_credentials *c, const struct err *e)
{
    credentials_fetched_cb cb = s->cb;
    buf_release_secret(&s->form);
    s->cb = NULL;
    cb(s->arg, c, e);
}

static void ask_for_token(struct sts *s, bool is_fresh);

static void on_response(void *arg, const struct http_response *r)
{
    struct sts *s = arg;
    struct err e = {0};
    s->call = NULL;
    struct aws_credentials *c = judge(s, r, &e);
    if (c == NULL && e.code == ERR_EXPIRED && !s->was_fresh) {
        buf_release_secret(&s->form);
        ask_for_token(s, true);
        return;
    }
    finish(s, c, c == NULL ? &e : NULL);
}

static bool on_form_read(void *arg, char *out, size_t cap, size_t *n)
{
    struct sts *s = arg;
    struct str left = str_sub(buf_str(&s->form), s->form_at, cap);
    memcpy(out, left.p, left.len);
    s->form_at += left.len;
    *n = left.len;
    return true;
}

static bool add_parameter(struct buf *form, const char *name, const char *value)
{
    bool ok = buf_printf(form, "%s%s=", form->len == 0 ? "" : "&", name);
    for (; ok && *value != '\0'; value++) {
        unsigned char c = (unsigned char)*value;
        bool plain = (c >= '0' && c <= '9') ||
                     (ascii_lower(*value) >= 'a' && ascii_lower(*value) <= 'z') ||
                     strchr("-._~", c) != NULL;
        ok = plain ? buf_append(form, value, 1) : buf_printf(form, "%%%02X", c);
    }
    return ok;
}

/* The identity the token speaks for, for the session's name in CloudTrail. */
static void session_name(const struct sts *s, char out[65])
{
    struct svid_set *set = NULL;
    const struct svid *svid;
    if (s->cfg.session_name[0] != '\0') {
        str_copy(out, 65, str_from(s->cfg.session_name));
    } else if (svid_store_select(s->store, SVID_AWS, &set, &svid, NULL)) {
        sts_session_name(out, svid->id.text);
        svid_set_unref(&set);
    } else {
        str_copy(out, 65, STR("svidmail"));
    }
}

static bool make_form(struct sts *s, const char *token)
{
    char name[65], duration[16];
    session_name(s, name);
    snprintf(duration, sizeof duration, "%u", s->cfg.duration_s);
    buf_init(&s->form, FORM_MAX);
    s->form_at = 0;
    return add_parameter(&s->form, "Action", "AssumeRoleWithWebIdentity") &&
           add_parameter(&s->form, "Version", "2011-06-15") &&
           add_parameter(&s->form, "RoleArn", s->cfg.role_arn) &&
           add_parameter(&s->form, "RoleSessionName", name) &&
           add_parameter(&s->form, "DurationSeconds", duration) &&
           add_parameter(&s->form, "WebIdentityToken", token);
}

static void on_token(void *arg, const struct err *e, const char *token, int64_t expires_at_ms)
{
    (void)expires_at_ms;
    struct sts *s = arg;
    s->jwt = NULL;
    struct err own;
    if (e == NULL && !make_form(s, token)) {
        err_set(&own, ERR_LIMIT, 0, "the JWT-SVID is too long for STS");
        e = &own;
    }
    if (e != NULL) {
        finish(s, NULL, e);
        return;
    }
    static const struct http_header headers[] = {
        {"content-type", "application/x-www-form-urlencoded; charset=utf-8"}};
    const struct http_request r = {.tunnel = s->tunnel,
                                   .is_https = true,
                                   .host = s->cfg.host,
                                   .method = "POST",
                                   .path = "/",
                                   .headers = headers,
                                   .n_headers = ARRAY_LEN(headers),
                                   .body_len = s->form.len,
                                   .body_read = on_form_read,
                                   .body_arg = s,
                                   .timeout_ms = TIMEOUT_MS,
                                   .max_response_bytes = MAX_RESPONSE_BYTES};
    s->call = http_send(s->http, &r, on_response, s);
}

static void ask_for_token(struct sts *s, bool is_fresh)
{
    s->was_fresh = is_fresh;
    s->jwt = jwt_cache_get(s->jwts, SVID_AWS, s->cfg.audience, is_fresh, on_token, s);
}

static void source_fetch(void *self, bool fresh_identity, credentials_fetched_cb cb, void *arg)
{
    struct sts *s = self;
    CHECK(s->cb == NULL); /* one fetch at a time */
    s->cb = cb;
    s->arg = arg;
    ask_for_token(s, fresh_identity);
}

static void source_cancel(void *self)
{
    struct sts *s = self;
    jwt_cache_cancel(&s->jwt);
    http_cancel(&s->call);
    buf_release_secret(&s->form);
    s->cb = NULL;
}

static void source_free(void *self)
{
    source_cancel(self);
    free(self);
}

struct credentials_source sts_source_new(const struct sts_config *cfg, struct http *http,
                                         struct tunnel *tunnel, struct jwt_cache *jwts,
                                         struct svid_store *store, const struct clock *clock)
{
    struct sts *s = xcalloc(1, sizeof *s);
    *s = (struct sts){
        .cfg = *cfg, .http = http, .tunnel = tunnel, .jwts = jwts, .store = store, .clock = clock};
    buf_init(&s->form, FORM_MAX);
    return (struct credentials_source){.name = "web-identity",
                                       .self = s,
                                       .fetch = source_fetch,
                                       .cancel = source_cancel,
                                       .free = source_free};
}
