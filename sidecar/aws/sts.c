// SPDX-License-Identifier: Apache-2.0
/* One fetch: JWT-SVID -> POST -> XML -> credentials.  Once more by itself: with a fresh token where
 * AWS calls this one expired (agents hand out half-lived ones), with the same one where the trouble
 * passes at once.  Everything else is told to credentials, which knows when to ask again.  Asking
 * twice does no harm: each answer is a set of its own. */
#include "aws/sts.h"

#include "aws/wiping.h"
#include "base/mem.h"
#include "base/secret.h"
#include "core/http_date.h"

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
enum field { F_KEY_ID, F_SECRET, F_TOKEN, F_EXPIRATION, F_CODE, F_MESSAGE, F_COUNT };
static const char *const field_names[F_COUNT] = {
    "AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration", "Code", "Message"};

struct answer {
    struct buf text[F_COUNT];
    enum field current; /* F_COUNT: none */
    bool is_full[F_COUNT];
    XML_Parser parser;
};

enum again { AGAIN_NO, AGAIN_SAME, AGAIN_FRESH };

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
    bool is_fresh, is_second_try;
    char subject[256]; /* whom the token speaks for, cut; "" unknown */
};

#define TRUST "the trust policy of aws.role_arn must let in this sub and aud:"

// clang-format off
/* What stands in no row passes by itself.  names_token: sub and aud follow the words. */
static const struct sts_error {
    const char *code; /* with or without "Exception" */
    enum err_code class;
    enum again again;
    bool names_token;
    const char *words;
} sts_errors[] = {
    { "ExpiredToken",            ERR_EXPIRED, AGAIN_FRESH, false, "check the clocks here and on the SPIRE server" },
    { "InvalidIdentityToken",    ERR_DENIED,  AGAIN_NO,    true,
      "the IAM OIDC provider must have SPIRE's jwt_issuer as its URL, its published keys, and aws.audience as a client id:" },
    { "IDPRejectedClaim",        ERR_DENIED,  AGAIN_NO,    true,  TRUST },
    { "AccessDenied",            ERR_DENIED,  AGAIN_NO,    true,  TRUST },
    { "IDPCommunicationError",   ERR_UNAVAIL, AGAIN_SAME,  false, "AWS cannot read SPIRE's OIDC discovery document" },
    { "RegionDisabled",          ERR_SYNTAX,  AGAIN_NO,    false, "activate STS in that region, or set aws.sts_region" },
    { "MalformedPolicyDocument", ERR_SYNTAX,  AGAIN_NO,    false, "" },
    { "PackedPolicyTooLarge",    ERR_SYNTAX,  AGAIN_NO,    false, "" },
    { "ValidationError",         ERR_SYNTAX,  AGAIN_NO,    false, "check aws.role_arn, aws.session_name and aws.duration" },
    { "InvalidAction",           ERR_SYNTAX,  AGAIN_NO,    false, "is aws.sts_endpoint an STS host?" },
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
        XML_StopParser(a->parser, XML_FALSE);
}

/* No document type, so no entities: STS has none. */
static void on_doctype(void *arg, const XML_Char *name, const XML_Char *system,
                       const XML_Char *public, int has_subset)
{
    (void)name, (void)system, (void)public, (void)has_subset;
    XML_StopParser(((struct answer *)arg)->parser, XML_FALSE);
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
    static const XML_Memory_Handling_Suite memory = {wiping_malloc, wiping_realloc, wiping_free};
    a->parser = XML_ParserCreate_MM(NULL, &memory, "|"); /* "namespace|name" */
    CHECK(a->parser != NULL);
    for (unsigned i = 0; i < F_COUNT; i++)
        buf_init(&a->text[i], TEXT_MAX);
    a->current = F_COUNT;
    XML_SetUserData(a->parser, a);
    XML_SetElementHandler(a->parser, on_start, on_end);
    XML_SetCharacterDataHandler(a->parser, on_text);
    XML_SetStartDoctypeDeclHandler(a->parser, on_doctype);
    bool ok = XML_Parse(a->parser, xml.p, (int)xml.len, XML_TRUE) == XML_STATUS_OK;
    XML_ParserFree(a->parser);
    return ok;
}

static void answer_release(struct answer *a)
{
    for (unsigned i = 0; i < F_COUNT; i++)
        buf_release_secret(&a->text[i]);
}

/* "2026-11-23T17:26:04Z", perhaps with a fraction */
static bool read_expiration(const char *text, int64_t *out)
{
    struct tm tm = {0};
    const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    if (rest == NULL || (*rest != 'Z' && *rest != '.'))
        return false;
    *out = (int64_t)timegm(&tm) * 1000;
    return true;
}

/* Fit for a header, where the token goes. */
static bool is_token(const struct buf *b)
{
    struct str s = buf_str(b);
    for (size_t i = 0; i < s.len; i++)
        if (s.p[i] <= ' ' || s.p[i] >= 127)
            return false;
    return s.len > 0;
}

/* The answer's Date is AWS's own: this call is always end to end. */
static int64_t clock_offset(const char *date, int64_t now_ms)
{
    int64_t at_ms;
    return http_date_parse(date, &at_ms) ? at_ms - now_ms : 0;
}

static struct aws_credentials *take_credentials(struct answer *a, const char *date, int64_t now_ms,
                                                struct err *e)
{
    int64_t expires_at_ms = 0;
    if (!is_token(&a->text[F_KEY_ID]) || !is_token(&a->text[F_SECRET]) ||
        !is_token(&a->text[F_TOKEN]) ||
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
                                  .expires_at_ms = expires_at_ms,
                                  .clock_offset_ms = clock_offset(date, now_ms)};
    return c;
}

static const struct sts_error *find_error(struct str code)
{
    static const struct str suffix = {"Exception", 9};
    if (code.len > suffix.len && str_ends_with_nocase(code, suffix))
        code.len -= suffix.len;
    for (size_t i = 0; i < ARRAY_LEN(sts_errors); i++)
        if (str_eq(code, str_from(sts_errors[i].code)))
            return &sts_errors[i];
    return NULL;
}

/* "STS: AccessDenied: its text (our words: sub, aud)" */
static enum again refuse(const struct sts *s, const struct answer *a, int status, struct err *e)
{
    char code[64], message[128], token[400] = "";
    str_escape(code, sizeof code, buf_str(&a->text[F_CODE]));
    str_escape(message, sizeof message, buf_str(&a->text[F_MESSAGE]));
    const struct sts_error *row = find_error(buf_str(&a->text[F_CODE]));
    if (code[0] == '\0') {
        err_set(e, ERR_UNAVAIL, 0, "STS answered %d with something that is not STS's", status);
        return AGAIN_NO;
    }
    if (row == NULL || row->words[0] == '\0') {
        err_set(e, row != NULL ? row->class : ERR_UNAVAIL, 0, "STS: %s: %s", code, message);
        return AGAIN_NO;
    }
    if (row->names_token)
        snprintf(token, sizeof token, " %s, %s", s->subject, s->cfg.audience);
    err_set(e, row->class, 0, "STS: %s: %s (%s%s)", code, message, row->words, token);
    return row->again;
}

static enum again judge_failure(const struct sts *s, const struct http_response *r, struct err *e)
{
    *e = r->err;
    err_wrap(e, "STS at %s", s->cfg.host);
    return r->is_new_connection || r->err.code == ERR_TIMEOUT || r->err.code == ERR_CANCELED
               ? AGAIN_NO
               : AGAIN_SAME;
}

static struct aws_credentials *judge(const struct sts *s, const struct http_response *r,
                                     enum again *again, struct err *e)
{
    *again = AGAIN_NO;
    if (r->outcome != HTTP_ANSWERED) {
        *again = judge_failure(s, r, e);
        return NULL;
    }
    struct answer a = {0};
    struct aws_credentials *c = NULL;
    bool is_xml = answer_read(&a, r->body);
    if (is_xml && r->status == 200)
        c = take_credentials(&a, r->date, clock_wall_ms(s->clock), e);
    else if (r->status == 200)
        err_set(e, ERR_UNAVAIL, 0, "STS answered 200 with something that is not its XML");
    else
        *again = refuse(s, &a, r->status, e);
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
static void send_request(struct sts *s);

static bool try_again(struct sts *s, enum again again)
{
    if (s->is_second_try || again == AGAIN_NO || (again == AGAIN_FRESH && s->is_fresh))
        return false;
    s->is_second_try = true;
    if (again == AGAIN_SAME)
        send_request(s);
    else
        ask_for_token(s, true);
    return true;
}

static void on_response(void *arg, const struct http_response *r)
{
    struct sts *s = arg;
    struct err e = {0};
    enum again again;
    s->call = NULL;
    struct aws_credentials *c = judge(s, r, &again, &e);
    if (c == NULL && try_again(s, again))
        return;
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

/* The identity the token speaks for; its name in CloudTrail is made of it. */
static void learn_subject(struct sts *s, char session[65])
{
    struct svid_set *set = NULL;
    const struct svid *svid;
    s->subject[0] = '\0';
    str_copy(session, 65, STR("svidmail"));
    if (svid_store_select(s->store, SVID_AWS, &set, &svid, NULL)) {
        str_copy(s->subject, sizeof s->subject, spiffe_id_str(&svid->id));
        sts_session_name(session, svid->id.text);
        svid_set_unref(&set);
    }
    if (s->cfg.session_name[0] != '\0')
        str_copy(session, 65, str_from(s->cfg.session_name));
}

static bool make_form(struct sts *s, const char *token)
{
    char session[65], duration[16];
    learn_subject(s, session);
    snprintf(duration, sizeof duration, "%u", s->cfg.duration_s);
    buf_release_secret(&s->form);
    return add_parameter(&s->form, "Action", "AssumeRoleWithWebIdentity") &&
           add_parameter(&s->form, "Version", "2011-06-15") &&
           add_parameter(&s->form, "RoleArn", s->cfg.role_arn) &&
           add_parameter(&s->form, "RoleSessionName", session) &&
           add_parameter(&s->form, "DurationSeconds", duration) &&
           add_parameter(&s->form, "WebIdentityToken", token);
}

static void send_request(struct sts *s)
{
    static const struct http_header headers[] = {
        {"content-type", "application/x-www-form-urlencoded; charset=utf-8"}};
    const struct http_request r = {.tunnel = s->tunnel,
                                   .is_https = true,
                                   .wants_new_connection = s->is_second_try,
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
    s->form_at = 0;
    s->call = http_send(s->http, &r, on_response, s);
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
    if (e != NULL)
        finish(s, NULL, e);
    else
        send_request(s);
}

static void ask_for_token(struct sts *s, bool is_fresh)
{
    s->is_fresh = is_fresh;
    s->jwt = jwt_cache_get(s->jwts, SVID_AWS, s->cfg.audience, is_fresh, on_token, s);
}

static void source_fetch(void *self, bool fresh_identity, credentials_fetched_cb cb, void *arg)
{
    struct sts *s = self;
    CHECK(s->cb == NULL); /* one fetch at a time */
    s->cb = cb;
    s->arg = arg;
    s->is_second_try = false;
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
