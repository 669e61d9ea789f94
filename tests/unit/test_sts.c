// SPDX-License-Identifier: Apache-2.0
/* http, jwt_cache and svid_store are the test's own. */
#include "test.h"

#include "aws/sts.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HOST    "sts.eu-central-1.amazonaws.com"
#define ROLE    "arn:aws:iam::123456789012:role/svidmail"
#define SUBJECT "spiffe://example.org/ns/shop/sa/checkout/svidmail"
#define NOW_MS  INT64_C(1780272000000) /* 2026-06-01T00:00:00Z */

/* ---- in the place of http.c ---- */

struct http_call {
    bool is_used;
};

static struct {
    struct http_call call;
    unsigned n_sent, n_cancelled;
    struct http_request r;
    char body[40000];
    http_done_cb cb;
    void *arg;
} http;

struct http_call *http_send(struct http *h, const struct http_request *r, http_done_cb cb,
                            void *arg)
{
    (void)h;
    assert_false(http.call.is_used);
    http.call.is_used = true;
    http.n_sent++;
    http.r = *r;
    http.cb = cb;
    http.arg = arg;
    assert_true(r->body_len < sizeof http.body);
    size_t n = 0, len = 0;
    while (len < r->body_len) {
        size_t left = r->body_len - len;
        assert_true(r->body_read(r->body_arg, http.body + len, left < 100 ? left : 100, &n) &&
                    n > 0);
        len += n;
    }
    http.body[len] = '\0';
    return &http.call;
}

enum http_outcome http_cancel(struct http_call **c)
{
    if (*c != NULL) {
        http.n_cancelled++;
        http.call.is_used = false;
    }
    *c = NULL;
    return HTTP_NOT_SENT;
}

static void respond(const struct http_response *r)
{
    assert_true(http.call.is_used);
    http.call.is_used = false;
    http.cb(http.arg, r);
}

static const char *date_of_answer = "";

static void answer(int status, const char *body)
{
    struct http_response r = {.outcome = HTTP_ANSWERED, .status = status, .body = str_from(body)};
    snprintf(r.date, sizeof r.date, "%s", date_of_answer);
    respond(&r);
}

static void refuse(int status, const char *code, const char *message)
{
    char body[2000];
    snprintf(body, sizeof body,
             "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n  <Error>\n"
             "    <Type>Sender</Type>\n    <Code>%s</Code>\n    <Message>%s</Message>\n  </Error>\n"
             "  <RequestId>r-1</RequestId>\n</ErrorResponse>\n",
             code, message);
    answer(status, body);
}

static void grant(const char *key, const char *secret, const char *token, const char *expiration)
{
    static char body[40000];
    snprintf(
        body, sizeof body,
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n"
        "<AssumeRoleWithWebIdentityResult><Audience>a</Audience><Credentials>\n"
        "<AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey>\n"
        "<SessionToken>%s</SessionToken><Expiration>%s</Expiration></Credentials>\n"
        "</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
        key, secret, token, expiration);
    answer(200, body);
}

/* ---- in the place of jwt_cache.c and svid_store.c ---- */

struct jwt_request {
    bool is_used;
};

static struct {
    struct jwt_request request;
    unsigned n_asked, n_fresh, n_cancelled;
    enum svid_role role;
    char audience[100];
    jwt_cache_cb cb;
    void *arg;
} jwts;

struct jwt_request *jwt_cache_get(struct jwt_cache *c, enum svid_role role, const char *audience,
                                  bool fresh, jwt_cache_cb cb, void *arg)
{
    (void)c;
    assert_false(jwts.request.is_used);
    jwts.request.is_used = true;
    jwts.n_asked++;
    jwts.n_fresh += fresh;
    jwts.role = role;
    snprintf(jwts.audience, sizeof jwts.audience, "%s", audience);
    jwts.cb = cb;
    jwts.arg = arg;
    return &jwts.request;
}

void jwt_cache_cancel(struct jwt_request **r)
{
    if (*r != NULL) {
        jwts.n_cancelled++;
        jwts.request.is_used = false;
    }
    *r = NULL;
}

static void give_token(const char *token)
{
    assert_true(jwts.request.is_used);
    jwts.request.is_used = false;
    jwts.cb(jwts.arg, NULL, token, NOW_MS + 300000);
}

static struct svid svid;
static bool has_svid;

bool svid_store_select(const struct svid_store *st, enum svid_role role, struct svid_set **set,
                       const struct svid **out, struct err *e)
{
    (void)st, (void)role, (void)e;
    *set = NULL;
    *out = &svid;
    return has_svid;
}

void svid_set_unref(struct svid_set **s)
{
    *s = NULL;
}

/* ---- the world ---- */

static int64_t get_wall(void *ctx)
{
    (void)ctx;
    return NOW_MS;
}

static const struct clock fixed = {.wall_ms = get_wall};

static struct {
    struct sts_config cfg;
    struct credentials_source source;
    unsigned n_done;
    struct aws_credentials *set;
    struct err e;
} w;

static void on_fetched(void *arg, struct aws_credentials *c, const struct err *e)
{
    (void)arg;
    assert_true((c == NULL) != (e == NULL));
    w.n_done++;
    w.set = c;
    if (e != NULL)
        w.e = *e;
}

static void start(void)
{
    memset(&http, 0, sizeof http);
    memset(&jwts, 0, sizeof jwts);
    memset(&w, 0, sizeof w);
    has_svid = true;
    svid.id.len = (uint16_t)strlen(SUBJECT);
    snprintf(svid.id.text, sizeof svid.id.text, "%s", SUBJECT);
    w.cfg = (struct sts_config){.host = HOST,
                                .role_arn = ROLE,
                                .session_name = "",
                                .audience = "sts.amazonaws.com",
                                .duration_s = 3600};
    w.source = sts_source_new(&w.cfg, NULL, NULL, NULL, NULL, &fixed);
}

static void fetch(bool fresh)
{
    unsigned before = w.n_done;
    w.source.fetch(w.source.self, fresh, on_fetched, NULL);
    assert_int_equal(w.n_done, before);
}

static void stop(void)
{
    w.source.free(w.source.self);
}

/* Fetches and has STS answer with an error; gives the error told. */
static const struct err *error_of(int status, const char *code, const char *message)
{
    fetch(false);
    give_token("jwt");
    refuse(status, code, message);
    return &w.e;
}

/* ---- tests ---- */

TEST(sts, the_request_is_what_sts_wants)
{
    start();
    fetch(false);
    assert_int_equal(jwts.role, SVID_AWS);
    assert_string_equal(jwts.audience, "sts.amazonaws.com");
    assert_int_equal(jwts.n_fresh, 0);
    give_token("eyJ.a-b_c.d+e");
    assert_true(http.r.is_https); /* always end to end */
    assert_string_equal(http.r.host, HOST);
    assert_string_equal(http.r.method, "POST");
    assert_string_equal(http.r.path, "/");
    assert_string_equal(http.r.headers[0].name, "content-type");
    assert_string_equal(
        http.body, "Action=AssumeRoleWithWebIdentity&Version=2011-06-15"
                   "&RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fsvidmail"
                   "&RoleSessionName=example.org.ns.shop.sa.checkout.svidmail&DurationSeconds=3600"
                   "&WebIdentityToken=eyJ.a-b_c.d%2Be");
    grant("ASIA1", "se/cr+et", "tok/en==", "2026-06-01T01:00:00Z");
    assert_int_equal(w.n_done, 1);
    assert_string_equal(w.set->access_key_id, "ASIA1");
    assert_string_equal(w.set->secret_access_key, "se/cr+et");
    assert_string_equal(w.set->session_token, "tok/en==");
    assert_int_equal(w.set->issued_at_ms, NOW_MS);
    assert_int_equal(w.set->expires_at_ms, NOW_MS + 3600000);
    assert_int_equal(w.set->refs, 1);
    aws_credentials_unref(&w.set);
    stop();
}

TEST(sts, escapes_and_fractions_of_the_answer_are_read)
{
    start();
    fetch(false);
    give_token("jwt");
    grant("ASIA1", "a&amp;b", "<![CDATA[c<d]]>&#101;", "2026-06-01T01:00:00.123Z");
    assert_string_equal(w.set->secret_access_key, "a&b");
    assert_string_equal(w.set->session_token, "c<de");
    assert_int_equal(w.set->expires_at_ms, NOW_MS + 3600000);
    aws_credentials_unref(&w.set);
    stop();
}

TEST(sts, the_answers_date_tells_how_far_our_clock_is_off)
{
    static const struct {
        const char *date;
        int64_t offset_ms;
    } cases[] = {{"Mon, 01 Jun 2026 00:10:00 GMT", 600000},
                 {"Sun, 31 May 2026 23:59:30 GMT", -30000},
                 {"", 0},
                 {"Fri, 31 Dec 9999 23:59:59 GMT", 0}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        start();
        fetch(false);
        give_token("jwt");
        date_of_answer = cases[i].date;
        grant("A", "b", "c", "2026-06-01T01:00:00Z");
        assert_int_equal(w.set->clock_offset_ms, cases[i].offset_ms);
        aws_credentials_unref(&w.set);
        stop();
    }
}

TEST(sts, of_elements_that_come_twice_the_first_counts)
{
    start();
    fetch(false);
    give_token("jwt");
    grant("A", "b</SecretAccessKey><SecretAccessKey>c", "d", "2026-06-01T01:00:00Z");
    assert_string_equal(w.set->secret_access_key, "b");
    aws_credentials_unref(&w.set);
    stop();
}

TEST(sts, a_configured_session_name_wins_and_none_is_needed)
{
    start();
    w.source.free(w.source.self);
    w.cfg.session_name = "mailer";
    w.source = sts_source_new(&w.cfg, NULL, NULL, NULL, NULL, &fixed);
    fetch(false);
    give_token("jwt");
    assert_non_null(strstr(http.body, "&RoleSessionName=mailer&"));
    grant("A", "b", "c", "2026-06-01T01:00:00Z");
    aws_credentials_unref(&w.set);
    stop();
    start();
    has_svid = false;
    fetch(false);
    give_token("jwt");
    assert_non_null(strstr(http.body, "&RoleSessionName=svidmail&"));
    w.source.cancel(w.source.self);
    stop();
}

TEST(sts, errors_are_told_with_what_to_look_at)
{
    static const struct {
        int status;
        const char *code, *message;
        enum err_code class;
        const char *words;
    } cases[] = {
        {403, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity", ERR_DENIED,
         "sub and aud: " SUBJECT ", sts.amazonaws.com"},
        {403, "IDPRejectedClaim", "no", ERR_DENIED, SUBJECT},
        {403, "IDPRejectedClaimException", "no", ERR_DENIED, SUBJECT},
        {400, "InvalidIdentityToken", "Incorrect token audience", ERR_DENIED, "jwt_issuer"},
        {403, "RegionDisabledException", "STS is not activated in this region", ERR_SYNTAX,
         "aws.sts_region"},
        {400, "MalformedPolicyDocument", "Syntax errors in policy.", ERR_SYNTAX, "Syntax errors"},
        {400, "PackedPolicyTooLarge", "101%% of the limit", ERR_SYNTAX, "101%"},
        {400, "ValidationError", "1 validation error detected", ERR_SYNTAX, "aws.duration"},
        {400, "Throttling", "Rate exceeded", ERR_UNAVAIL, "Rate exceeded"},
        {500, "InternalFailure", "Internal failure", ERR_UNAVAIL, "InternalFailure"},
        {503, "ServiceUnavailable", "away", ERR_UNAVAIL, "ServiceUnavailable"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        start();
        const struct err *e = error_of(cases[i].status, cases[i].code, cases[i].message);
        assert_int_equal(w.n_done, 1);
        assert_int_equal(http.n_sent, 1);
        if (e->code != cases[i].class || strstr(e->msg, cases[i].words) == NULL ||
            strstr(e->msg, cases[i].code) == NULL)
            fail_msg("%s: %s: %s", cases[i].code, err_code_name(e->code), e->msg);
        stop();
    }
}

TEST(sts, an_expired_token_is_replaced_by_a_fresh_one_once)
{
    start();
    fetch(false);
    give_token("old");
    refuse(400, "ExpiredTokenException", "Token expired: current date/time must be before");
    assert_int_equal(w.n_done, 0);
    assert_int_equal(jwts.n_asked, 2);
    assert_int_equal(jwts.n_fresh, 1);
    give_token("new");
    assert_non_null(strstr(http.body, "WebIdentityToken=new"));
    assert_null(strstr(http.body, "old"));
    refuse(400, "ExpiredTokenException", "Token expired");
    assert_int_equal(w.n_done, 1);
    assert_int_equal(w.e.code, ERR_EXPIRED);
    assert_non_null(strstr(w.e.msg, "clocks"));
    fetch(true); /* credentials asks for a fresh one by itself: no third */
    give_token("newer");
    refuse(400, "ExpiredTokenException", "Token expired");
    assert_int_equal(w.n_done, 2);
    assert_int_equal(jwts.n_asked, 3);
    stop();
}

TEST(sts, a_trouble_that_passes_is_tried_once_more)
{
    start();
    fetch(false);
    give_token("jwt");
    refuse(400, "IDPCommunicationError", "An error occurred communicating with the IdP");
    assert_int_equal(w.n_done, 0);
    assert_int_equal(http.n_sent, 2);
    assert_int_equal(jwts.n_asked, 1);
    assert_non_null(strstr(http.body, "WebIdentityToken=jwt"));
    refuse(400, "IDPCommunicationError", "An error occurred communicating with the IdP");
    assert_int_equal(w.n_done, 1);
    assert_int_equal(w.e.code, ERR_UNAVAIL);
    assert_non_null(strstr(w.e.msg, "OIDC discovery"));
    stop();
}

TEST(sts, a_dead_kept_connection_is_tried_again_and_a_new_one_is_not)
{
    for (int is_new = 0; is_new < 2; is_new++) {
        start();
        fetch(false);
        give_token("jwt");
        struct http_response r = {.outcome = is_new ? HTTP_NOT_SENT : HTTP_UNKNOWN,
                                  .is_new_connection = is_new};
        err_set(&r.err, ERR_UNAVAIL, 0, "gateway gw reset the stream");
        respond(&r);
        if (!is_new) {
            assert_int_equal(http.n_sent, 2);
            assert_true(http.r.wants_new_connection);
            respond(&r);
        }
        assert_int_equal(w.n_done, 1);
        assert_string_equal(w.e.msg, "STS at " HOST ": gateway gw reset the stream");
        assert_int_equal(w.e.code, ERR_UNAVAIL);
        stop();
    }
}

TEST(sts, no_token_no_call)
{
    start();
    fetch(false);
    struct err e;
    err_set(&e, ERR_UNAVAIL, 0, "no identity issued");
    jwts.request.is_used = false;
    jwts.cb(jwts.arg, &e, NULL, 0);
    assert_int_equal(w.n_done, 1);
    assert_string_equal(w.e.msg, "no identity issued");
    assert_int_equal(http.n_sent, 0);
    stop();
}

TEST(sts, a_token_too_long_for_sts_is_not_sent)
{
    start();
    AUTO_FREE char *token = xcalloc(40001, 1);
    memset(token, 'a', 40000);
    fetch(false);
    give_token(token);
    assert_int_equal(w.n_done, 1);
    assert_int_equal(w.e.code, ERR_LIMIT);
    stop();
}

TEST(sts, answers_nobody_should_send_are_errors)
{
    static char big[20000];
    memset(big, 'x', sizeof big - 1);
    static const char *const bodies[] = {
        "",
        "{}",
        "<AssumeRoleWithWebIdentityResponse><Assume",
        "<AssumeRoleWithWebIdentityResponse/>",
        "<!DOCTYPE a [<!ENTITY b \"c\">]><a><AccessKeyId>&b;</AccessKeyId></a>",
        "<!DOCTYPE a SYSTEM \"file:///etc/passwd\"><a/>",
        "<a><AccessKeyId>A</AccessKeyId><SecretAccessKey>b</SecretAccessKey><SessionToken>c</"
        "SessionToken></a>",
    };
    for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
        for (int status = 200; status <= 500; status += 300) {
            start();
            fetch(false);
            give_token("jwt");
            answer(status, bodies[i]);
            assert_int_equal(w.n_done, 1);
            assert_null(w.set);
            assert_int_equal(w.e.code, ERR_UNAVAIL);
            stop();
        }
    }
    static const char *const parts[][4] = {{"", "b", "c", "2026-06-01T01:00:00Z"},
                                           {"A", "", "c", "2026-06-01T01:00:00Z"},
                                           {"A", "b", "", "2026-06-01T01:00:00Z"},
                                           {"A", "b", "c\r\nX-Header: 1", "2026-06-01T01:00:00Z"},
                                           {"A", "b", "c", "tomorrow"},
                                           {"A", "b", "c", "2026-06-01T01:00:00"},
                                           {"A", "b c", "d", "2026-06-01T01:00:00Z"},
                                           {"A", "b", big, "2026-06-01T01:00:00Z"},
                                           {"A", "b", "\xc3\xa4", "2026-06-01T01:00:00Z"}};
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        start();
        fetch(false);
        give_token("jwt");
        grant(parts[i][0], parts[i][1], parts[i][2], parts[i][3]);
        assert_null(w.set);
        assert_int_equal(w.e.code, ERR_UNAVAIL);
        assert_null(strstr(w.e.msg, "xxx"));
        stop();
    }
}

TEST(sts, control_characters_of_an_error_are_escaped)
{
    start();
    const struct err *e = error_of(403, "Access&#13;Denied", "a&#10;b");
    assert_non_null(strstr(e->msg, "Access\\x0dDenied: a\\x0ab"));
    stop();
}

TEST(sts, a_cancelled_fetch_is_over_at_every_stage)
{
    for (int stage = 0; stage < 2; stage++) {
        start();
        fetch(false);
        if (stage == 1)
            give_token("jwt");
        w.source.cancel(w.source.self);
        assert_int_equal(w.n_done, 0);
        assert_int_equal(jwts.n_cancelled, stage == 0);
        assert_int_equal(http.n_cancelled, stage == 1);
        fetch(false); /* and it may begin anew */
        give_token("jwt");
        stop();
        assert_int_equal(w.n_done, 0);
    }
}

TEST(sts, session_names_fit_and_stay_apart)
{
    char name[65], other[65], id[300];
    assert_string_equal(sts_session_name(name, "spiffe://example.org/a_b-c.D9"),
                        "example.org.a_b-c.D9");
    assert_int_equal(strlen(sts_session_name(name, "spiffe://x")),
                     1 + 9); /* one byte alone is too short */
    snprintf(id, sizeof id, "spiffe://example.org/%0200d", 1);
    sts_session_name(name, id);
    assert_int_equal(strlen(name), 64);
    snprintf(id, sizeof id, "spiffe://example.org/%0200d", 2);
    sts_session_name(other, id);
    assert_string_not_equal(name, other);
    snprintf(id, sizeof id, "spiffe://%064d", 7); /* just fits */
    assert_string_equal(sts_session_name(name, id), id + strlen("spiffe://"));
    for (const char *p = other; *p != '\0'; p++)
        assert_non_null(
            strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+=,.@-", *p));
}
