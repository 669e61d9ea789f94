// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "aws/ses.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REQUEST_ID "0a1b2c3d-1111-2222-3333-444455556666"
#define JSON_TYPE  "application/json"

static const struct ses_config by_gateway = {.host = "email.eu-central-1.amazonaws.com",
                                             .region = "eu-central-1"};
static const struct ses_config end_to_end = {
    .host = "email.eu-central-1.amazonaws.com", .region = "eu-central-1", .is_end_to_end = true};

/* An answer of AWS with the error's name in the header, as SES sends it. */
static struct http_response answer(int status, const char *type, const char *body)
{
    struct http_response r = {.outcome = HTTP_ANSWERED, .status = status, .body = str_from(body)};
    snprintf(r.error_type, sizeof r.error_type, "%s", type);
    snprintf(r.request_id, sizeof r.request_id, "%s", REQUEST_ID);
    snprintf(r.content_type, sizeof r.content_type, "%s", JSON_TYPE);
    return r;
}

static struct http_response gateway_answer(int status, const char *body)
{
    struct http_response r = {.outcome = HTTP_ANSWERED, .status = status, .body = str_from(body)};
    snprintf(r.content_type, sizeof r.content_type, "text/plain");
    return r;
}

static struct ses_verdict judge(const struct http_response *r)
{
    struct ses_verdict v;
    ses_judge(&by_gateway, NULL, r, &v);
    return v;
}

static const char *outcome_name(enum ses_outcome o)
{
    static const char *const names[] = {"delivered", "retry", "rejected", "unknown"};
    return names[o];
}

struct expected {
    enum ses_outcome outcome;
    enum ses_again again;
    int code;
    const char *enhanced;
    bool is_operator_fault;
    const char *error;
};

static void check(const char *what, const struct ses_verdict *v, struct expected x)
{
    if (v->outcome != x.outcome || v->again != x.again || v->reply.code != x.code ||
        strcmp(v->reply.enhanced, x.enhanced) != 0 || v->is_operator_fault != x.is_operator_fault ||
        strcmp(v->error, x.error) != 0)
        fail_msg("%s: %s again=%d fault=%d %s: %d %s %s", what, outcome_name(v->outcome), v->again,
                 v->is_operator_fault, v->error, v->reply.code, v->reply.enhanced, v->reply.text);
}

TEST(ses_judge, message_id_is_250_and_the_last_word)
{
    struct http_response r = answer(200, "", "{\"MessageId\":\"0107019-abc-000000\"}");
    struct ses_verdict v = judge(&r);
    check("200", &v, (struct expected){SES_DELIVERED, SES_AGAIN_NO, 250, "2.0.0", false, ""});
    assert_string_equal(v.reply.text, "Ok 0107019-abc-000000");
    assert_string_equal(v.message_id, "0107019-abc-000000");
    assert_string_equal(v.request_id, REQUEST_ID);
}

#define UNVERIFIED                                                                                 \
    "Email address is not verified. The following identities failed the check in region "          \
    "EU-CENTRAL-1: "
#define NO    SES_AGAIN_NO
#define CREDS SES_AGAIN_CREDENTIALS
#define CLOCK SES_AGAIN_CLOCK

// clang-format off
static const struct {
    int status;
    const char *type, *message;
    struct expected expected;
} answers[] = {
    {400, "BadRequestException", "Duplicate header 'Subject'.", {SES_REJECTED, NO, 554, "5.6.0", false, "bad_request"}},
    {400, "BadRequestException", "Domain contains illegal character", {SES_REJECTED, NO, 553, "5.1.3", false, "bad_address"}},
    {400, "BadRequestException", "Missing final '@domain'", {SES_REJECTED, NO, 553, "5.1.3", false, "bad_address"}},
    {400, "InvalidParameterValue", "Local address contains control or whitespace", {SES_REJECTED, NO, 553, "5.1.3", false, "bad_address"}},
    {400, "BadRequestException", "Recipient count exceeds 50.", {SES_RETRY, NO, 452, "4.5.3", false, "too_many_recipients"}},
    {400, "BadRequestException", "Configuration set name is invalid", {SES_RETRY, NO, 451, "4.3.5", true, "configuration_set"}},
    {400, "BadRequestException", "Tenant <x> is invalid", {SES_RETRY, NO, 451, "4.3.5", true, "tenant"}},
    {400, "InvalidParameterValue", "Message length is more than 41943040 bytes long", {SES_REJECTED, NO, 552, "5.3.4", false, "too_large"}},
    {400, "MessageRejected", UNVERIFIED "shop@shop.example", {SES_REJECTED, NO, 550, "5.7.1", false, "sender_not_verified"}},
    {400, "MessageRejected", "Message contents were rejected.", {SES_REJECTED, NO, 554, "5.6.0", false, "message_rejected"}},
    {400, "MessageRejected", "Message contains a virus.", {SES_REJECTED, NO, 554, "5.7.0", false, "content_policy"}},
    {400, "MessageRejected", "Sending suspended for this account.", {SES_RETRY, NO, 451, "4.7.1", true, "sending_paused"}},
    {400, "MailFromDomainNotVerifiedException", "Mail-From domain is not verified", {SES_RETRY, NO, 451, "4.4.3", true, "mail_from_domain"}},
    {400, "SendingPausedException", "Sending is paused for this account.", {SES_RETRY, NO, 451, "4.7.1", true, "sending_paused"}},
    {400, "AccountSuspendedException", "Account is suspended.", {SES_REJECTED, NO, 550, "5.7.1", true, "account_suspended"}},
    {400, "LimitExceededException", "Limit exceeded", {SES_RETRY, NO, 452, "4.3.1", false, "limit_exceeded"}},
    {429, "TooManyRequestsException", "Maximum sending rate exceeded.", {SES_RETRY, NO, 451, "4.7.1", false, "sending_rate"}},
    {429, "TooManyRequestsException", "Daily message quota exceeded.", {SES_RETRY, NO, 452, "4.3.1", false, "daily_quota"}},
    {400, "ThrottlingException", "Rate exceeded", {SES_RETRY, NO, 451, "4.7.1", false, "throttled"}},
    {400, "Throttling", "Maximum sending rate exceeded", {SES_RETRY, NO, 451, "4.7.1", false, "sending_rate"}},
    {503, "SlowDown", "Reduce your request rate.", {SES_RETRY, NO, 451, "4.7.1", false, "throttled"}},
    {400, "BandwidthLimitExceeded", "", {SES_RETRY, NO, 451, "4.7.1", false, "throttled"}},
    {429, "", "", {SES_RETRY, NO, 451, "4.7.1", false, "throttled"}},
    {404, "NotFoundException", "Configuration set <shop> does not exist.", {SES_RETRY, NO, 451, "4.3.5", true, "not_found"}},
    {409, "ConflictException", "Conflict", {SES_RETRY, NO, 451, "4.3.0", false, "conflict"}},
    {500, "ConcurrentModificationException", "", {SES_RETRY, NO, 451, "4.3.0", false, "conflict"}},
    {500, "InternalServiceErrorException", "", {SES_RETRY, NO, 451, "4.3.0", false, "internal"}},
    {500, "InternalFailure", "", {SES_RETRY, NO, 451, "4.3.0", false, "internal"}},
    {503, "ServiceUnavailable", "", {SES_RETRY, NO, 451, "4.4.1", false, "unavailable"}},
    {503, "", "", {SES_RETRY, NO, 451, "4.4.1", false, "unavailable"}},
    {502, "", "", {SES_UNKNOWN, NO, 451, "4.4.2", false, "bad_gateway"}},
    {504, "", "", {SES_UNKNOWN, NO, 451, "4.4.2", false, "upstream_timeout"}},
    {403, "AccessDeniedException", "User x is not authorized to perform: ses:SendRawEmail", {SES_RETRY, NO, 451, "4.7.0", true, "access_denied"}},
    {401, "NotAuthorized", "", {SES_RETRY, NO, 451, "4.7.0", true, "access_denied"}},
    {403, "", "", {SES_RETRY, NO, 451, "4.7.0", true, "access_denied"}},
    {403, "ExpiredTokenException", "The security token included in the request is expired", {SES_RETRY, CREDS, 451, "4.7.0", false, "expired_credentials"}},
    {400, "RequestExpired", "Request has expired.", {SES_RETRY, CREDS, 451, "4.7.0", false, "expired_credentials"}},
    {403, "UnrecognizedClientException", "The security token included in the request is invalid.", {SES_RETRY, CREDS, 451, "4.7.0", true, "unknown_credentials"}},
    {403, "InvalidClientTokenId", "", {SES_RETRY, CREDS, 451, "4.7.0", true, "unknown_credentials"}},
    {403, "MissingAuthenticationTokenException", "", {SES_RETRY, CREDS, 451, "4.7.0", true, "unknown_credentials"}},
    {403, "InvalidSignatureException", "The request signature we calculated does not match", {SES_RETRY, NO, 451, "4.3.5", true, "signature"}},
    {403, "SignatureDoesNotMatch", "", {SES_RETRY, NO, 451, "4.3.5", true, "signature"}},
    {400, "IncompleteSignature", "", {SES_RETRY, NO, 451, "4.3.5", true, "signature"}},
    {403, "InvalidSignatureException", "Signature expired: 20260101T000000Z is now earlier than 20260101T001000Z", {SES_RETRY, CLOCK, 451, "4.3.0", true, "clock_skew"}},
    {403, "SignatureDoesNotMatch", "Signature not yet current: 20260101T002000Z is still later", {SES_RETRY, CLOCK, 451, "4.3.0", true, "clock_skew"}},
    {403, "RequestTimeTooSkewed", "", {SES_RETRY, CLOCK, 451, "4.3.0", true, "clock_skew"}},
    {413, "RequestEntityTooLarge", "", {SES_REJECTED, NO, 552, "5.3.4", false, "too_large"}},
    {413, "", "", {SES_REJECTED, NO, 552, "5.3.4", false, "too_large"}},
    {408, "RequestTimeoutException", "", {SES_UNKNOWN, NO, 451, "4.4.2", false, "request_timeout"}},
    {400, "RequestTimeout", "", {SES_UNKNOWN, NO, 451, "4.4.2", false, "request_timeout"}},
    {404, "UnknownOperationException", "", {SES_RETRY, NO, 451, "4.3.5", true, "protocol"}},
    {400, "MalformedHttpRequestException", "", {SES_RETRY, NO, 451, "4.3.5", true, "protocol"}},
    {400, "SerializationException", "", {SES_RETRY, NO, 451, "4.3.5", true, "protocol"}},
    {307, "", "", {SES_RETRY, NO, 451, "4.4.1", false, "redirect"}},
    {200, "", "", {SES_UNKNOWN, NO, 451, "4.4.2", false, "no_message_id"}},
    {400, "BrandNewException", "An error that nobody has heard of", {SES_RETRY, NO, 451, "4.3.0", false, "unknown_error"}},
    {418, "", "", {SES_RETRY, NO, 451, "4.3.0", false, "unknown_error"}},
};
// clang-format on

// clang-format off
#define ANSWER(status, types, texts, outcome, again, code, enhanced, fault, name, note) {name, code, fault},
#define GATEWAY(status, start, text, outcome, code, enhanced, fault, name, note) {name, code, fault},
#define STREAM(cause, again, code, enhanced, fault, name) {name, code, fault},
#define CALL(class, again, code, enhanced, fault, name, note) {name, code, fault},
#define LOST(class, name, note) {name, 451, false},
#define CREDENTIALS(class, code, enhanced, fault, name) {name, code, fault},
static const struct {
    const char *name;
    int code;
    bool is_operator_fault;
} rows[] = {
#include "aws/ses_errors.def"
};
// clang-format on

/* Nothing is lost while it is put right; what AWS has ended for good is not put right by waiting.
 */
TEST(ses_judge, a_fault_of_the_operator_is_4xx_unless_it_is_for_good)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        bool is_for_good = strcmp(rows[i].name, "account_suspended") == 0;
        if (rows[i].is_operator_fault && rows[i].code / 100 != (is_for_good ? 5 : 4))
            fail_msg("%s: %d", rows[i].name, rows[i].code);
    }
}

static void format_body(char *out, size_t cap, const char *key, const char *type,
                        const char *message)
{
    if (key == NULL)
        snprintf(out, cap, "{\"message\":\"%s\"}", message);
    else
        snprintf(out, cap, "{\"%s\":\"com.amazonaws.ses#%s\",\"Message\":\"%s\"}", key, type,
                 message);
}

TEST(ses_judge, each_answer_of_ses_has_its_reply)
{
    for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
        char body[600], header[200], what[200];
        snprintf(what, sizeof what, "%d %s %s", answers[i].status, answers[i].type,
                 answers[i].message);
        format_body(body, sizeof body, NULL, "", answers[i].message);
        snprintf(header, sizeof header, "%s%s", answers[i].type,
                 answers[i].type[0] != '\0' ? ":http://internal.amazon.com/coral/com.amazonaws.ses/"
                                            : "");
        struct http_response r = answer(answers[i].status, header, body);
        struct ses_verdict v = judge(&r);
        check(what, &v, answers[i].expected);
        if (v.outcome != SES_UNKNOWN)
            assert_non_null(strstr(v.reply.text, answers[i].message));
        assert_non_null(strstr(v.reply.text, REQUEST_ID));
    }
}

TEST(ses_judge, the_errors_name_may_stand_in_the_body)
{
    for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
        for (int key = 0; key < 2; key++) {
            char body[600];
            if (answers[i].type[0] == '\0')
                continue;
            format_body(body, sizeof body, key == 0 ? "__type" : "code", answers[i].type,
                        answers[i].message);
            struct http_response r = answer(answers[i].status, "", body);
            struct ses_verdict v = judge(&r);
            check(body, &v, answers[i].expected);
        }
    }
}

TEST(ses_judge, sandbox_is_told_from_an_unverified_sender)
{
    struct mail_path to[2] = {{.len = 21, .text = "user@customer.example"},
                              {.len = 9, .text = "b@b.examp"}};
    const struct ses_mail mail = {.recipients = to, .n_recipients = 2};
    static const struct {
        const char *names, *error;
    } cases[] = {
        {"User@Customer.example", "recipient_not_verified"},
        {"b@b.examp, user@customer.example", "recipient_not_verified"},
        {"shop@shop.example", "sender_not_verified"},
        {"user@customer.example, shop@shop.example", "sender_not_verified"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char body[400];
        snprintf(body, sizeof body, "{\"message\":\"" UNVERIFIED "%s\"}", cases[i].names);
        struct http_response r = answer(400, "MessageRejected", body);
        struct ses_verdict v;
        ses_judge(&by_gateway, &mail, &r, &v);
        check(cases[i].names, &v,
              (struct expected){SES_REJECTED, NO, 550, "5.7.1", false, cases[i].error});
        assert_non_null(strstr(v.reply.text, cases[i].names));
    }
}

/* SES names all that it does not know; with so many the list is longer than what a reply has of it.
 */
TEST(ses_judge, a_long_list_of_recipients_is_read_to_its_end)
{
    struct mail_path to[SES_RECIPIENTS_MAX] = {0};
    const struct ses_mail mail = {.recipients = to, .n_recipients = SES_RECIPIENTS_MAX};
    static const struct {
        const char *last, *error;
    } cases[] = {
        {"", "recipient_not_verified"},
        {",\\n RECIPIENT.07@some.customer.example ", "recipient_not_verified"},
        {", shop@shop.example", "sender_not_verified"},
        {", recipient.07@some.customer", "sender_not_verified"}, /* like one, and is none */
    };
    char list[SES_RECIPIENTS_MAX * 40] = "";
    for (unsigned i = 0; i < SES_RECIPIENTS_MAX; i++) {
        int n = snprintf(to[i].text, sizeof to[i].text, "recipient.%02u@some.customer.example", i);
        to[i].len = (uint16_t)n;
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i == 0 ? "" : ", ",
                 to[i].text);
    }
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char body[sizeof list + 400];
        snprintf(body, sizeof body, "{\"message\":\"" UNVERIFIED "%s%s\"}", list, cases[i].last);
        struct http_response r = answer(400, "MessageRejected", body);
        struct ses_verdict v;
        ses_judge(&by_gateway, &mail, &r, &v);
        check(cases[i].last, &v,
              (struct expected){SES_REJECTED, NO, 550, "5.7.1", false, cases[i].error});
    }
}

#define ENVOY "upstream connect error or disconnect/reset before headers. "

// clang-format off
static const struct {
    int status;
    const char *body;
    struct expected expected;
    const char *log_field;
} gateway_answers[] = {
    {403, "RBAC: access denied", {SES_RETRY, NO, 451, "4.7.1", true, "gateway_denied"}, "rbac_access_denied_matched_policy"},
    {404, "", {SES_RETRY, NO, 451, "4.3.5", true, "gateway_no_route"}, "NR route_not_found"},
    {503, ENVOY "reset reason: connection termination", {SES_UNKNOWN, NO, 451, "4.4.2", false, "gateway_cut"}, "UC"},
    {503, ENVOY "retried and the latest reset reason: connection termination", {SES_UNKNOWN, NO, 451, "4.4.2", false, "gateway_cut"}, "UC"},
    {503, ENVOY "reset reason: remote connection failure", {SES_RETRY, NO, 451, "4.4.1", false, "gateway_upstream"}, "upstream_transport_failure_reason"},
    {503, ENVOY "reset reason: remote connection failure, transport failure reason: TLS_error: certificate verify failed", {SES_RETRY, NO, 451, "4.4.1", false, "gateway_upstream"}, "UF"},
    {503, ENVOY "reset reason: connection timeout", {SES_RETRY, NO, 451, "4.4.1", false, "gateway_connect_timeout"}, "UF"},
    {503, ENVOY "reset reason: overflow", {SES_RETRY, NO, 451, "4.7.1", false, "gateway_overload"}, "UO"},
    {503, ENVOY "reset reason: remote reset", {SES_UNKNOWN, NO, 451, "4.4.2", false, "gateway_cut"}, "UC"},
    {503, "no healthy upstream", {SES_RETRY, NO, 451, "4.4.1", false, "gateway_no_upstream"}, "UH"},
    {503, "", {SES_RETRY, NO, 451, "4.4.1", true, "gateway_no_cluster"}, "NC cluster_not_found"},
    {504, "upstream request timeout", {SES_UNKNOWN, NO, 451, "4.4.2", false, "gateway_timeout"}, "UT"},
    {502, "", {SES_UNKNOWN, NO, 451, "4.4.2", false, "gateway_cut"}, "UPE"},
    {413, "Payload Too Large", {SES_REJECTED, NO, 552, "5.3.4", false, "too_large"}, "buffer"},
    {429, "local_rate_limited", {SES_RETRY, NO, 451, "4.7.1", false, "gateway_rate"}, "RL"},
    {401, "Jwt is missing", {SES_RETRY, NO, 451, "4.7.1", true, "gateway_denied"}, "JWT"},
    {403, "ext_authz_denied", {SES_RETRY, NO, 451, "4.7.1", true, "gateway_denied"}, "response_code_details"},
    {400, "Bad Request", {SES_RETRY, NO, 451, "4.3.5", true, "gateway_protocol"}, "DPE"},
    {426, "", {SES_RETRY, NO, 451, "4.3.5", true, "gateway_protocol"}, "gateway.ports.api"},
};
// clang-format on

TEST(ses_judge, each_answer_of_the_gateway_has_words_of_its_own)
{
    for (size_t i = 0; i < ARRAY_LEN(gateway_answers); i++) {
        struct http_response r = gateway_answer(gateway_answers[i].status, gateway_answers[i].body);
        struct ses_verdict v = judge(&r);
        check(gateway_answers[i].body, &v, gateway_answers[i].expected);
        assert_non_null(strstr(v.reply.text, "egress gateway"));
        if (strstr(v.reply.text, gateway_answers[i].log_field) == NULL)
            fail_msg("%s", v.reply.text);
    }
}

TEST(ses_judge, what_came_from_behind_the_gateway_is_not_the_gateways)
{
    struct http_response r = gateway_answer(503, ENVOY "reset reason: overflow");
    r.has_envoy_upstream = true;
    struct ses_verdict v = judge(&r);
    check("behind", &v, (struct expected){SES_RETRY, NO, 451, "4.4.1", false, "unavailable"});
    r = gateway_answer(403, "RBAC: access denied");
    ses_judge(&end_to_end, NULL, &r, &v);
    check("end to end", &v, (struct expected){SES_RETRY, NO, 451, "4.7.0", true, "access_denied"});
}

TEST(ses_judge, an_unknown_outcome_names_the_id_to_look_for)
{
    struct http_response cases[] = {
        gateway_answer(504, "upstream request timeout"),
        gateway_answer(503, ENVOY "reset reason: connection termination"),
        answer(200, "", "{}"),
        answer(504, "", ""),
        {.outcome = HTTP_UNKNOWN, .err = {ERR_UNAVAIL, 0, "the gateway reset the stream"}},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct ses_verdict v = judge(&cases[i]);
        assert_int_equal(v.outcome, SES_UNKNOWN);
        assert_int_equal(v.reply.code, 451);
        assert_string_equal(v.reply.enhanced, "4.4.2");
        if (strstr(v.reply.text, "SES may have taken the mail") == NULL ||
            strstr(v.reply.text, "X-Svidmail-Id") == NULL)
            fail_msg("%s", v.reply.text);
    }
}

TEST(ses_judge, bodies_nobody_should_send_lose_no_mail)
{
    static const struct {
        int status;
        const char *content_type, *body;
        enum ses_outcome outcome;
        const char *error;
    } cases[] = {
        {503, "text/html", "<html><body><h1>503 Service Unavailable</h1>", SES_RETRY, "not_ses"},
        {200, "text/html; charset=utf-8", "Please log in", SES_RETRY, "not_ses"},
        {200, "", "\r\n <!DOCTYPE html><html>", SES_RETRY, "not_ses"},
        {301, "text/html", "", SES_RETRY, "redirect"},
        {502, "text/html", "<html>", SES_UNKNOWN, "bad_gateway"},
        {200, JSON_TYPE, "", SES_UNKNOWN, "no_message_id"},
        {200, JSON_TYPE, "[1,2,3]", SES_UNKNOWN, "no_message_id"},
        {200, JSON_TYPE, "{\"MessageId\": \"01", SES_UNKNOWN, "no_message_id"},
        {200, JSON_TYPE, "{\"MessageId\": 17}", SES_UNKNOWN, "no_message_id"},
        {200, JSON_TYPE, "{\"MessageId\": \"\"}", SES_UNKNOWN, "no_message_id"},
        {500, JSON_TYPE, "[[[[[[", SES_RETRY, "internal"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct http_response r = gateway_answer(cases[i].status, cases[i].body);
        snprintf(r.content_type, sizeof r.content_type, "%s", cases[i].content_type);
        struct ses_verdict v = judge(&r);
        if (v.outcome != cases[i].outcome || strcmp(v.error, cases[i].error) != 0 ||
            v.reply.code / 100 != 4)
            fail_msg("%d %s: %s %s", cases[i].status, cases[i].body, v.error, v.reply.text);
    }
}

TEST(ses_judge, a_page_with_a_request_id_is_awss)
{
    struct http_response r = answer(503, "", "<html>");
    struct ses_verdict v = judge(&r);
    check("503", &v, (struct expected){SES_RETRY, NO, 451, "4.4.1", false, "unavailable"});
    r = answer(200, "", "<html>");
    v = judge(&r);
    check("200", &v, (struct expected){SES_UNKNOWN, NO, 451, "4.4.2", false, "no_message_id"});
}

TEST(ses_judge, control_characters_and_a_megabyte_stay_in_one_short_line)
{
    struct http_response r = answer(400, "MessageRejected",
                                    "{\"message\":\"line\\r\\n250 2.0.0 "
                                    "Ok\\r\\n\\u001b[31mred\\u0000\\u0007 \\u202e end\\u007f\"}");
    struct ses_verdict v = judge(&r);
    check("controls", &v,
          (struct expected){SES_REJECTED, NO, 554, "5.6.0", false, "message_rejected"});
    for (const char *p = v.reply.text; *p != '\0'; p++)
        assert_in_range(*p, ' ', '~');
    assert_non_null(strstr(v.reply.text, "line  250 2.0.0 Ok"));
    assert_non_null(strstr(v.reply.text, " end"));
    assert_non_null(strstr(v.reply.text, REQUEST_ID));

    size_t len = 1000000;
    char *big = malloc(len + 1);
    memset(big, 'x', len);
    big[len] = '\0';
    r = answer(400, "MessageRejected", big); /* cut: no JSON any more */
    v = judge(&r);
    check("megabyte", &v,
          (struct expected){SES_REJECTED, NO, 554, "5.6.0", false, "message_rejected"});
    assert_in_range(strlen(v.reply.text), 200, SMTP_REPLY_TEXT_MAX);
    assert_non_null(strstr(v.reply.text, REQUEST_ID));
    free(big);
}

TEST(ses_judge, a_message_id_cannot_break_the_reply)
{
    struct http_response r = answer(200, "", "{\"MessageId\":\"a\\r\\n554 b\"}");
    struct ses_verdict v = judge(&r);
    assert_int_equal(v.outcome, SES_DELIVERED);
    assert_string_equal(v.reply.text, "Ok a\\x0d\\x0a554 b");
}

TEST(ses_judge, each_end_of_the_stream_has_a_row)
{
    for (int cause = END_NONE + 1; cause < END_CAUSE_COUNT; cause++) {
        struct http_response r = {.outcome = HTTP_NOT_SENT, .is_new_connection = true};
        stream_end_set(&r.tunnel_end, (enum stream_end_cause)cause, "gateway gw:9443", "");
        struct ses_verdict v = judge(&r);
        assert_int_equal(v.outcome, SES_RETRY);
        assert_int_equal(v.reply.code / 10, 45);
        assert_non_null(strstr(v.reply.text, "mail not sent to SES: gateway gw:9443"));
        assert_int_equal(v.again, SES_AGAIN_NO);
        assert_string_not_equal(v.error, "connection");
    }
}

TEST(ses_judge, only_a_kept_connection_is_worth_a_second_try)
{
    struct http_response r = {.outcome = HTTP_NOT_SENT};
    stream_end_set(&r.tunnel_end, END_RESET, "gateway", "");
    struct ses_verdict v = judge(&r);
    check("kept", &v,
          (struct expected){SES_RETRY, SES_AGAIN_CONNECTION, 451, "4.4.2", false, "stream_reset"});
    r.is_new_connection = true;
    v = judge(&r);
    check("new", &v,
          (struct expected){SES_RETRY, SES_AGAIN_NO, 451, "4.4.2", false, "stream_reset"});
    stream_end_set(&r.tunnel_end, END_IDENTITY_GONE, "gateway", "its leaf has expired");
    r.is_new_connection = false;
    v = judge(&r);
    check("expired", &v,
          (struct expected){SES_RETRY, SES_AGAIN_CONNECTION, 454, "4.7.0", false, "identity_gone"});
    stream_end_set(&r.tunnel_end, END_PEER_IDENTITY, "gateway", "shows spiffe://x/y");
    r.is_new_connection = false;
    v = judge(&r);
    check("peer", &v,
          (struct expected){SES_RETRY, SES_AGAIN_NO, 454, "4.7.0", true, "stream_peer_identity"});
    assert_non_null(strstr(v.reply.text, "shows spiffe://x/y"));
}

TEST(ses_judge, failures_of_our_own_are_told_apart)
{
    static const struct {
        enum err_code code;
        struct expected expected;
    } cases[] = {
        {ERR_CANCELED, {SES_RETRY, NO, 451, "4.3.2", false, "canceled"}},
        {ERR_IO, {SES_RETRY, NO, 451, "4.3.0", false, "spool_read"}},
        {ERR_TIMEOUT, {SES_RETRY, NO, 451, "4.4.1", false, "timeout"}},
        {ERR_DENIED, {SES_RETRY, NO, 454, "4.7.0", true, "aws_certificate"}},
        {ERR_UNAVAIL, {SES_RETRY, NO, 451, "4.4.1", false, "connection"}},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err e;
        struct ses_verdict v;
        err_set(&e, cases[i].code, 0, "the reason");
        ses_judge_local(&e, &v);
        check("local", &v, cases[i].expected);
        assert_non_null(strstr(v.reply.text, "the reason"));
    }
}

TEST(ses_judge, missing_credentials_are_told_in_the_sources_words)
{
    static const struct {
        enum err_code code;
        struct expected expected;
    } cases[] = {
        {ERR_DENIED, {SES_RETRY, NO, 451, "4.7.0", true, "credentials_denied"}},
        {ERR_SYNTAX, {SES_RETRY, NO, 451, "4.3.5", true, "credentials_setup"}},
        {ERR_UNAVAIL, {SES_RETRY, NO, 451, "4.7.0", false, "credentials"}},
        {ERR_CANCELED, {SES_RETRY, NO, 451, "4.3.2", false, "canceled"}},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err e;
        struct ses_verdict v;
        err_set(&e, cases[i].code, 0, "STS AccessDenied");
        ses_judge_credentials(&e, &v);
        check("credentials", &v, cases[i].expected);
        assert_non_null(strstr(v.reply.text, "no AWS credentials: STS AccessDenied"));
    }
}

TEST(ses_judge, lost_answers_are_told_from_late_ones)
{
    struct http_response r = {.outcome = HTTP_UNKNOWN, .err = {ERR_TIMEOUT, 0, "30 s"}};
    struct ses_verdict v = judge(&r);
    assert_string_equal(v.error, "answer_timeout");
    r.err.code = ERR_UNAVAIL;
    v = judge(&r);
    assert_string_equal(v.error, "answer_lost");
}

TEST(ses_judge, a_named_error_counts_even_if_its_body_broke_off)
{
    struct http_response r = answer(400, "MessageRejected", "{\"mess");
    r.outcome = HTTP_UNKNOWN;
    struct ses_verdict v = judge(&r);
    check("cut", &v, (struct expected){SES_REJECTED, NO, 554, "5.6.0", false, "message_rejected"});
    r = answer(200, "", "{\"MessageId\":\"x\"}");
    r.outcome = HTTP_UNKNOWN;
    v = judge(&r);
    assert_int_equal(v.outcome, SES_UNKNOWN);
}
