// SPDX-License-Identifier: Apache-2.0
/* One call: encode or hash the body -> credentials -> sign -> send -> judge.
 * Failure modes: the stored mail cannot be read (told as ours, nothing sent); no credentials; a
 * kept connection had died, the credentials or our clock were refused: once more each, as
 * ses_judge() says; everything else is the verdict. */
#include "aws/ses.h"

#include "aws/sigv4.h"
#include "base/mem.h"
#include "base/secret.h"
#include "core/base64.h"
#include "sys/timer.h"

#include <errno.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH   "/v2/email/outbound-emails"
#define PREFIX STR("{\"Content\":{\"Raw\":{\"Data\":\"")
/* Up to here a body is encoded once and kept; a longer one is encoded twice: to hash, to send. */
#define SMALL_BYTES        (64u << 10)
#define READ_BYTES         (48u << 10)
#define PIECE_BYTES        (BASE64_LEN(READ_BYTES + 2) + 5)
#define SLICE_BYTES        (768u << 10) /* hashed per turn of the loop */
#define SUFFIX_MAX         (64u << 10)
#define MAX_RESPONSE_BYTES (64u << 10)

struct ses {
    struct ses_config cfg;
    struct http *http;
    struct tunnel *tunnel;
    struct credentials *credentials;
    const struct clock *clock;
    uv_loop_t *loop;
    EVP_MD *sha256;
    int64_t clock_offset_ms; /* AWS's clock less ours, once ours was called wrong */
    struct sigv4_key key;    /* derived from key_of */
    struct aws_credentials *key_of;
};

/* The request body, piece by piece. */
struct source {
    enum { PIECE_PREFIX, PIECE_MAIL, PIECE_SUFFIX, PIECE_END } next;
    struct str piece; /* what is left of the last one */
    uint64_t at;      /* in the mail */
    struct base64_encoder b64;
};

struct ses_call {
    struct ses *ses;
    struct ses_mail mail;
    ses_cb cb;
    void *arg;
    struct buf suffix; /* what follows the mail's base64 */
    struct buf whole;  /* a small mail's whole body; else empty */
    uint64_t body_len;
    char sha256[SIGV4_SHA256_HEX];
    struct source source;
    char *encoded; /* a long mail's piece */
    EVP_MD_CTX *hashing;
    struct timer *turn; /* while hashing */
    struct timer *unreadable;
    struct credentials_request *waiting;
    struct aws_credentials *credentials;
    struct http_call *http;
    unsigned tried; /* bit by enum ses_again */
    uint64_t asked_at_us, credentials_us;
    struct err read_error; /* the stored mail could not be read */
};

struct ses *ses_new(const struct ses_config *cfg, struct http *http, struct tunnel *tunnel,
                    struct credentials *credentials, const struct clock *clock, uv_loop_t *loop)
{
    struct ses *s = xcalloc(1, sizeof *s);
    *s = (struct ses){.cfg = *cfg,
                      .http = http,
                      .tunnel = tunnel,
                      .credentials = credentials,
                      .clock = clock,
                      .loop = loop,
                      .sha256 = EVP_MD_fetch(NULL, "SHA256", NULL)};
    CHECK(s->sha256 != NULL);
    return s;
}

void ses_free(struct ses **s)
{
    if (*s == NULL)
        return;
    EVP_MD_free((*s)->sha256);
    secret_wipe(&(*s)->key, sizeof(*s)->key);
    aws_credentials_unref(&(*s)->key_of);
    free(*s);
    *s = NULL;
}

static void call_free(struct ses_call *c)
{
    timer_free(&c->turn);
    credentials_cancel(&c->waiting);
    http_cancel(&c->http);
    timer_free(&c->unreadable);
    aws_credentials_unref(&c->credentials);
    EVP_MD_CTX_free(c->hashing);
    free(c->encoded);
    buf_release(&c->suffix);
    buf_release(&c->whole);
    free(c);
}

/* The only end of a call that was not cancelled. */
static void finish(struct ses_call *c, struct ses_verdict *v)
{
    v->credentials_us = c->credentials_us;
    ses_cb cb = c->cb;
    void *arg = c->arg;
    call_free(c);
    cb(arg, v);
}

static void fail_local(struct ses_call *c, const struct err *e)
{
    struct ses_verdict v;
    ses_judge_local(e, &v);
    finish(c, &v);
}

/* ---- the body ---- */

static void set_text(json_t *object, const char *key, const char *text)
{
    if (text[0] != '\0')
        json_object_set_new(object, key, json_string(text));
}

static json_t *tags_json(const struct ses_config *cfg)
{
    json_t *tags = json_array();
    for (size_t i = 0; i < cfg->n_tags; i++)
        json_array_append_new(
            tags, json_pack("{s:s, s:s}", "Name", cfg->tags[i].name, "Value", cfg->tags[i].value));
    return tags;
}

/* Everything but Content; recipients all as To: SES goes by the list and leaves the headers alone.
 */
static json_t *envelope_json(const struct ses_config *cfg, const struct ses_mail *mail)
{
    json_t *to = json_array();
    for (size_t i = 0; i < mail->n_recipients; i++)
        json_array_append_new(to, json_stringn(mail->recipients[i].text, mail->recipients[i].len));
    json_t *root = json_pack("{s:{s:o}}", "Destination", "ToAddresses", to);
    set_text(root, "ConfigurationSetName", cfg->configuration_set);
    set_text(root, "FromEmailAddressIdentityArn", cfg->from_identity_arn);
    set_text(root, "TenantName", cfg->tenant);
    if (cfg->n_tags > 0)
        json_object_set_new(root, "EmailTags", tags_json(cfg));
    return root;
}

static bool make_suffix(struct ses_call *c)
{
    json_t *root = envelope_json(&c->ses->cfg, &c->mail);
    char *text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    CHECK(text != NULL); /* addresses are ASCII, the rest is ours */
    bool ok = buf_printf(&c->suffix, "\"}},%s", text + 1);
    free(text);
    return ok;
}

static bool read_mail(const struct ses_call *c, uint64_t at, char *out, size_t len, struct err *e)
{
    while (len > 0) {
        ssize_t n = pread(c->mail.fd, out, len, (off_t)at);
        if (n == -1 && errno == EINTR)
            continue;
        if (n <= 0)
            return err_set(e, ERR_IO, n == 0 ? EIO : errno, "the stored mail cannot be read");
        out += n;
        at += (uint64_t)n;
        len -= (size_t)n;
    }
    return true;
}

static void hash_whole(struct ses_call *c)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    struct str all = buf_str(&c->whole);
    CHECK(EVP_Digest(all.p, all.len, digest, NULL, c->ses->sha256, NULL) == 1);
    sigv4_format_sha256(digest, c->sha256);
}

static bool encode_whole(struct ses_call *c, struct err *e)
{
    char in[SMALL_BYTES], out[BASE64_LEN(SMALL_BYTES + 2) + 5];
    struct base64_encoder b64;
    if (!read_mail(c, 0, in, (size_t)c->mail.len, e))
        return false;
    base64_init(&b64);
    size_t n = base64_update(&b64, (struct str){in, (size_t)c->mail.len}, out);
    n += base64_final(&b64, out + n);
    bool fits = buf_append_str(&c->whole, PREFIX) && buf_append(&c->whole, out, n) &&
                buf_append_str(&c->whole, buf_str(&c->suffix));
    CHECK(fits);
    hash_whole(c);
    return true;
}

static void rewind_source(struct ses_call *c)
{
    c->source = (struct source){.next = PIECE_PREFIX};
    base64_init(&c->source.b64);
    if (c->whole.len > 0)
        c->source = (struct source){.next = PIECE_END, .piece = buf_str(&c->whole)};
}

static bool encode_piece(struct ses_call *c, struct err *e)
{
    struct source *src = &c->source;
    char in[READ_BYTES];
    uint64_t left = c->mail.len - src->at;
    size_t len = left < sizeof in ? (size_t)left : sizeof in;
    if (!read_mail(c, src->at, in, len, e))
        return false;
    size_t n = base64_update(&src->b64, (struct str){in, len}, c->encoded);
    src->at += len;
    if (src->at == c->mail.len) {
        n += base64_final(&src->b64, c->encoded + n);
        src->next = PIECE_SUFFIX;
    }
    src->piece = (struct str){c->encoded, n};
    return true;
}

/* An empty piece: it was all. */
static bool next_piece(struct ses_call *c, struct err *e)
{
    struct source *src = &c->source;
    src->piece = (struct str){"", 0};
    if (src->next == PIECE_MAIL)
        return encode_piece(c, e);
    if (src->next == PIECE_PREFIX) {
        src->piece = PREFIX;
        src->next = PIECE_MAIL;
    } else if (src->next == PIECE_SUFFIX) {
        src->piece = buf_str(&c->suffix);
        src->next = PIECE_END;
    }
    return true;
}

static bool on_body_read(void *arg, char *out, size_t cap, size_t *n)
{
    struct ses_call *c = arg;
    struct str *piece = &c->source.piece;
    for (*n = 0; *n < cap;) {
        if (piece->len == 0 && !next_piece(c, &c->read_error))
            return false;
        if (piece->len == 0)
            break;
        struct str part = str_sub(*piece, 0, cap - *n);
        memcpy(out + *n, part.p, part.len);
        *n += part.len;
        *piece = str_sub(*piece, part.len, piece->len);
    }
    return true;
}

/* ---- the call ---- */

static void ask_for_credentials(struct ses_call *c);

/* true: by the verdict's cure, for the first time.  Where our clock is called wrong, new
 * credentials tell the right one: the Date of this answer may be the gateway's, who could have a
 * mail signed for a time when it means to send it again. */
static bool try_again(struct ses_call *c, enum ses_again again)
{
    if (again == SES_AGAIN_NO || (c->tried & (1u << again)) != 0)
        return false;
    if (again == SES_AGAIN_CREDENTIALS || again == SES_AGAIN_CLOCK)
        credentials_reject(c->ses->credentials, c->credentials);
    c->tried |= 1u << again;
    ask_for_credentials(c);
    return true;
}

static void on_response(void *arg, const struct http_response *r)
{
    struct ses_call *c = arg;
    struct ses_verdict v;
    c->http = NULL;
    if (c->read_error.code != ERR_NONE && r->outcome == HTTP_NOT_SENT) {
        fail_local(c, &c->read_error);
        return;
    }
    ses_judge(&c->ses->cfg, &c->mail, r, &v);
    if (!try_again(c, v.again))
        finish(c, &v);
}

static struct sigv4_key *key_for(struct ses *s, struct aws_credentials *credentials)
{
    if (s->key_of != credentials) {
        secret_wipe(&s->key, sizeof s->key);
        aws_credentials_unref(&s->key_of);
        s->key_of = aws_credentials_ref(credentials);
    }
    return &s->key;
}

static bool sign(struct ses_call *c, const struct http_header *headers, size_t n_headers,
                 int64_t now_ms, struct buf *authorization, struct err *e)
{
    struct sigv4_header signed_headers[8];
    for (size_t i = 0; i < n_headers; i++)
        signed_headers[i] = (struct sigv4_header){headers[i].name, headers[i].value};
    signed_headers[n_headers] = (struct sigv4_header){"host", c->ses->cfg.host};
    const struct sigv4_request request = {.method = "POST",
                                          .path = STR(PATH),
                                          .query = STR(""),
                                          .headers = signed_headers,
                                          .n_headers = n_headers + 1,
                                          .body_sha256 = c->sha256,
                                          .normalize_path = true};
    const struct sigv4_credentials keys = {c->credentials->access_key_id,
                                           c->credentials->secret_access_key,
                                           key_for(c->ses, c->credentials)};
    const struct sigv4_scope scope = {
        .region = c->ses->cfg.region, .service = "ses", .wall_ms = now_ms};
    return sigv4_sign(&request, &keys, &scope, authorization, NULL, NULL, e);
}

static void send_request(struct ses_call *c)
{
    int64_t now_ms = clock_wall_ms(c->ses->clock) + c->ses->clock_offset_ms;
    char date[17];
    struct http_header headers[4] = {
        {"content-type", "application/json"},
        {"x-amz-date", sigv4_date(date, now_ms)},
        {"x-amz-security-token", c->credentials->session_token},
    };
    struct buf authorization;
    struct err e;
    buf_init(&authorization, 2048);
    if (!sign(c, headers, 3, now_ms, &authorization, &e)) {
        buf_release(&authorization);
        fail_local(c, &e);
        return;
    }
    headers[3] = (struct http_header){"authorization", buf_cstr(&authorization)};
    rewind_source(c);
    const struct http_request request = {.tunnel = c->ses->tunnel,
                                         .is_https = c->ses->cfg.is_end_to_end,
                                         .wants_new_connection =
                                             (c->tried & (1u << SES_AGAIN_CONNECTION)) != 0,
                                         .host = c->ses->cfg.host,
                                         .method = "POST",
                                         .path = PATH,
                                         .headers = headers,
                                         .n_headers = ARRAY_LEN(headers),
                                         .body_len = c->body_len,
                                         .body_read = on_body_read,
                                         .body_arg = c,
                                         .timeout_ms = c->ses->cfg.timeout_ms,
                                         .max_response_bytes = MAX_RESPONSE_BYTES};
    c->http = http_send(c->ses->http, &request, on_response, c);
    buf_release(&authorization);
}

static void on_credentials(void *arg, struct aws_credentials *credentials, const struct err *e)
{
    struct ses_call *c = arg;
    c->waiting = NULL;
    c->credentials_us += clock_mono_us() - c->asked_at_us;
    if (credentials == NULL) {
        struct ses_verdict v;
        ses_judge_credentials(e, &v);
        finish(c, &v);
        return;
    }
    aws_credentials_unref(&c->credentials);
    c->credentials = aws_credentials_ref(credentials);
    if ((c->tried & (1u << SES_AGAIN_CLOCK)) != 0)
        c->ses->clock_offset_ms = credentials->clock_offset_ms;
    send_request(c);
}

static void ask_for_credentials(struct ses_call *c)
{
    c->asked_at_us = clock_mono_us();
    c->waiting = credentials_get(c->ses->credentials, on_credentials, c);
}

static void finish_hash(struct ses_call *c)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    CHECK(EVP_DigestFinal_ex(c->hashing, digest, NULL) == 1);
    sigv4_format_sha256(digest, c->sha256);
    EVP_MD_CTX_free(c->hashing);
    c->hashing = NULL;
    timer_free(&c->turn);
    ask_for_credentials(c);
}

/* A long mail must not hold the loop: a slice, then the others' turn. */
static void on_turn(void *arg)
{
    struct ses_call *c = arg;
    struct err e;
    for (size_t done = 0; done < SLICE_BYTES; done += c->source.piece.len) {
        if (!next_piece(c, &e)) {
            fail_local(c, &e);
            return;
        }
        if (c->source.piece.len == 0) {
            finish_hash(c);
            return;
        }
        CHECK(EVP_DigestUpdate(c->hashing, c->source.piece.p, c->source.piece.len) == 1);
    }
    timer_start(c->turn, 0);
}

static void start_hash(struct ses_call *c)
{
    c->encoded = xcalloc(PIECE_BYTES, 1);
    rewind_source(c);
    c->hashing = EVP_MD_CTX_new();
    CHECK(c->hashing != NULL && EVP_DigestInit_ex2(c->hashing, c->ses->sha256, NULL) == 1);
    c->turn = timer_new(c->ses->loop, on_turn, c);
    timer_start(c->turn, 0);
}

static void on_unreadable(void *arg)
{
    struct ses_call *c = arg;
    fail_local(c, &c->read_error);
}

struct ses_call *ses_send(struct ses *s, const struct ses_mail *mail, ses_cb cb, void *arg)
{
    CHECK(mail->n_recipients > 0 && mail->n_recipients <= SES_RECIPIENTS_MAX);
    struct ses_call *c = xcalloc(1, sizeof *c);
    *c = (struct ses_call){.ses = s, .mail = *mail, .cb = cb, .arg = arg};
    buf_init(&c->suffix, SUFFIX_MAX);
    buf_init(&c->whole, BASE64_LEN(SMALL_BYTES) + 2 * SUFFIX_MAX);
    CHECK(make_suffix(c)); /* 50 addresses and what the configuration caps */
    c->body_len = PREFIX.len + BASE64_LEN(mail->len) + c->suffix.len;
    if (mail->len > SMALL_BYTES) {
        start_hash(c);
    } else if (encode_whole(c, &c->read_error)) {
        ask_for_credentials(c);
    } else {
        c->unreadable = timer_new(s->loop, on_unreadable, c);
        timer_start(c->unreadable, 0);
    }
    return c;
}

struct ses_call *ses_probe(struct ses *s, ses_cb cb, void *arg)
{
    static const struct str nothing = {"{}", 2};
    struct ses_call *c = xcalloc(1, sizeof *c);
    *c = (struct ses_call){.ses = s, .cb = cb, .arg = arg};
    buf_init(&c->suffix, 1);
    buf_init(&c->whole, nothing.len);
    CHECK(buf_append_str(&c->whole, nothing));
    hash_whole(c);
    c->body_len = nothing.len;
    ask_for_credentials(c);
    return c;
}

/* What it was waiting for; NULL: it may have left. */
static const char *stop_waiting(struct ses_call *c)
{
    if (c->waiting != NULL)
        return "AWS credentials";
    if (c->http == NULL)
        return "its turn";
    return http_cancel(&c->http) == HTTP_NOT_SENT ? "the gateway to take it" : NULL;
}

const char *ses_cancel(struct ses_call **c)
{
    const char *what = stop_waiting(*c);
    call_free(*c);
    *c = NULL;
    return what;
}
