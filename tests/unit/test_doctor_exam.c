// SPDX-License-Identifier: Apache-2.0
/* Each thing that can be seen -> its sign, its stage, its code. */
#include "test.h"

#include "app/doctor_exam.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

static int code_of(const char *sign)
{
    const struct doctor_code *c = doctor_code_find(sign);
    if (c == NULL)
        fail_msg("no code for %s", sign);
    return c == NULL ? 0 : c->number;
}

static int code_of_end(enum stream_end_cause cause, int alert, const char *detail)
{
    struct stream_end end = {.alert = alert};
    char sign[64];
    stream_end_set(&end, cause, "gateway gw:9443", detail);
    way_stream_sign(&end, sign, sizeof sign);
    return code_of(sign);
}

/* --- streams */

TEST(doctor_exam, each_end_of_a_stream_has_its_code)
{
    static const struct {
        enum stream_end_cause cause;
        const char *detail;
        int code;
    } cases[] = {
        {END_NAME, "", 31},
        {END_REFUSED, "", 33},
        {END_CONNECT, "", 34},
        {END_CONNECT_TIMEOUT, "", 35},
        {END_HELLO_RESET, "ECONNRESET, SNI x", 41},
        {END_HANDSHAKE_EOF, "end of file", 42},
        {END_HANDSHAKE_TIMEOUT, "not a byte", 43},
        {END_NOT_TLS, "\"HTTP/1.1 400 Bad Request\"", 44},
        {END_NOT_TLS, "it speaks TLS 1.2 or older", 45},
        {END_NOT_TLS, "\"SSH-2.0\"", 46},
        {END_PEER_NOT_SVID, "0 URI names", 51},
        {END_PEER_UNTRUSTED, "the bundle lacks its CA", 52},
        {END_PEER_UNTRUSTED, "no bundle for trust domain other.test", 53},
        {END_PEER_IDENTITY, "the gateway is spiffe://x/y", 54},
        {END_NO_IDENTITY, "", 59},
        {END_IDENTITY_GONE, "", 59},
        {END_CLEAN, "", 70},
        {END_TRUNCATED, "", 70},
        {END_RESET, "", 70},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_int_equal(code_of_end(cases[i].cause, 0, cases[i].detail), cases[i].code);
}

TEST(doctor_exam, each_alert_has_a_code)
{
    static const struct {
        int alert, code;
    } cases[] = {{40, 48}, {71, 48}, {42, 58}, {43, 58},  {44, 58},  {49, 58}, {51, 58},
                 {45, 57}, {46, 56}, {48, 56}, {116, 55}, {112, 47}, {70, 45}, {80, 49}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_int_equal(code_of_end(END_ALERT, cases[i].alert, ""), cases[i].code);
    for (int alert = 0; alert < 256; alert++)
        assert_true(code_of_end(END_ALERT, alert, "") > 0);
}

/* --- answers */

#define ANSWER(status, types, texts, outcome, again, code, enhanced, fault, name, note) name,
#define GATEWAY(status, start, text, outcome, code, enhanced, fault, name, note)        name,
#define STREAM(cause, again, code, enhanced, fault, name)                               name,
#define CALL(class, again, code, enhanced, fault, name, note)                           name,
#define LOST(class, name, note)                                                         name,
#define CREDENTIALS(class, code, enhanced, fault, name)                                 name,
static const char *const names[] = {
#include "aws/ses_errors.def"
};

TEST(doctor_exam, each_row_of_ses_errors_has_a_code_or_is_what_ses_should_say)
{
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct ses_verdict v = {.error = names[i]};
        char sign[64];
        ses_sign(&v, sign, sizeof sign);
        if (sign[0] == '\0')
            continue;
        int code = code_of(sign);
        if (strncmp(names[i], "gateway_", 8) == 0)
            assert_true(code >= 61 && code <= 70);
        if (strncmp(names[i], "stream_", 7) == 0)
            assert_true(code < 60 || code == 70 || code == 98);
    }
}

TEST(doctor_exam, ses_refusing_the_empty_mail_is_fine_and_nothing_else_is)
{
    static const struct {
        const char *error, *text;
        int code; /* 0: fine */
    } cases[] = {{"bad_request", "", 0},
                 {"bad_address", "", 0},
                 {"message_rejected", "", 0},
                 {"protocol", "SES: 400 Serialization: no content", 0},
                 {"protocol", "SES: 404 UnknownOperation", 89},
                 {"access_denied", "", 83},
                 {"unknown_credentials", "", 84},
                 {"expired_credentials", "", 84},
                 {"signature", "", 85},
                 {"sending_paused", "", 86},
                 {"account_suspended", "", 86},
                 {"throttled", "", 87},
                 {"daily_quota", "", 87},
                 {"internal", "", 88},
                 {"clock_skew", "", 81},
                 {"gateway_denied", "", 61},
                 {"stream_refused", "", 33},
                 {"identity_gone", "", 59},
                 {"answer_lost", "", 67},
                 {"unknown_error", "", 89}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct ses_verdict v = {.error = cases[i].error};
        char sign[64];
        smtp_reply_set(&v.reply, 451, "4.0.0", "%s", cases[i].text);
        ses_sign(&v, sign, sizeof sign);
        assert_int_equal(sign[0] == '\0' ? 0 : code_of(sign), cases[i].code);
    }
}

TEST(doctor_exam, each_word_of_sts_has_its_code)
{
    static const struct {
        const char *msg;
        int code;
    } cases[] = {
        {"STS: AccessDenied: not authorized (the trust policy ...)", 72},
        {"STS: IDPRejectedClaim: sub", 72},
        {"STS: InvalidIdentityToken: no provider", 73},
        {"STS: ExpiredTokenException: old", 74},
        {"STS: IDPCommunicationError: ", 75},
        {"STS: RegionDisabledException: ", 76},
        {"STS: ValidationError: RoleArn", 77},
        {"STS: InvalidAction: ", 77},
        {"STS: SomethingNew: ", 79},
        {"STS answered 500 with something that is not STS's", 79},
        {"STS at sts.eu-central-1.amazonaws.com: gateway gw:9444 refused the connection", 79},
        {"STS: ", 79},
        {"", 79}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err e = {.code = ERR_DENIED};
        char sign[80];
        str_copy(e.msg, sizeof e.msg, str_from(cases[i].msg));
        sts_sign(&e, sign, sizeof sign);
        assert_int_equal(code_of(sign), cases[i].code);
    }
}

/* --- the ways */

static struct way judge(bool is_end_to_end, const struct http_response *r)
{
    struct way w = {0};
    way_judge(&w, is_end_to_end, r);
    return w;
}

static struct http_response answer(int status, const char *request_id, const char *body)
{
    struct http_response r = {.outcome = HTTP_ANSWERED, .status = status, .body = str_from(body)};
    str_copy(r.request_id, sizeof r.request_id, str_from(request_id));
    return r;
}

TEST(doctor_exam, aws_refusing_the_unsigned_request_means_that_the_way_is_open)
{
    struct http_response r = answer(403, "req-1", "{\"message\":\"Missing Authentication Token\"}");
    assert_int_equal(judge(false, &r).failed_at, WAY_THROUGH);
    r = answer(403, "", "x");
    str_copy(r.error_type, sizeof r.error_type, STR("MissingAuthenticationTokenException"));
    assert_int_equal(judge(false, &r).failed_at, WAY_THROUGH);
    r = answer(400, "", "no name"); /* inside of TLS that was verified only AWS can answer */
    assert_int_equal(judge(true, &r).failed_at, WAY_THROUGH);
}

TEST(doctor_exam, the_gateways_own_answers_are_told_apart)
{
    static const struct {
        int status;
        const char *body;
        enum way_stage stage;
        int code;
    } cases[] = {
        {403, "RBAC: access denied", WAY_POLICY, 61},
        {403, "go away", WAY_POLICY, 62},
        {401, "Jwt is missing", WAY_POLICY, 62},
        {404, "", WAY_POLICY, 63},
        {503,
         "upstream connect error or disconnect/reset before headers. reset reason: remote "
         "connection failure",
         WAY_AWS, 64},
        {503, "no healthy upstream", WAY_AWS, 65},
        {503,
         "upstream connect error or disconnect/reset before headers. reset reason: connection "
         "timeout",
         WAY_AWS, 66},
        {503,
         "upstream connect error or disconnect/reset before headers. reset reason: connection "
         "termination",
         WAY_AWS, 67},
        {504, "upstream request timeout", WAY_AWS, 67},
        {503, "upstream connect error or disconnect/reset before headers. reset reason: overflow",
         WAY_POLICY, 68},
        {503, "", WAY_POLICY, 69},
        {400, "", WAY_POLICY, 69},
        {200, "<html>hello", WAY_AWS, 80},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct http_response r = answer(cases[i].status, "", cases[i].body);
        struct way w = judge(false, &r);
        assert_int_equal(w.failed_at, cases[i].stage);
        assert_int_equal(code_of(w.sign), cases[i].code);
        assert_true(w.text[0] != '\0');
    }
}

TEST(doctor_exam, an_end_of_the_stream_is_told_at_the_stage_where_it_came)
{
    static const struct {
        enum stream_end_cause cause;
        bool was_open;
        int alert;
        enum way_stage stage;
        int code; /* 0: it could not be tried */
    } cases[] = {
        {END_NAME, false, 0, WAY_TCP, 31},
        {END_REFUSED, false, 0, WAY_TCP, 33},
        {END_CONNECT_TIMEOUT, false, 0, WAY_TCP, 35},
        {END_HELLO_RESET, false, 0, WAY_TLS, 41},
        {END_ALERT, false, 40, WAY_TLS, 48},
        {END_ALERT, true, 116, WAY_POLICY, 55},
        {END_PEER_IDENTITY, false, 0, WAY_PEER, 54},
        {END_TRUNCATED, true, 0, WAY_POLICY, 70},
        {END_CANCELED, true, 0, WAY_TCP, 0},
        {END_ROTATED, true, 0, WAY_TCP, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        for (int unknown = 0; unknown < 2; unknown++) {
            struct http_response r = {.outcome = unknown == 0 ? HTTP_NOT_SENT : HTTP_UNKNOWN};
            r.tunnel_end.alert = cases[i].alert;
            r.tunnel_end.was_open = cases[i].was_open;
            stream_end_set(&r.tunnel_end, cases[i].cause, "gateway gw:9443", "");
            struct way w = judge(false, &r);
            assert_int_equal(w.failed_at, cases[i].stage);
            assert_int_equal(w.sign[0] == '\0' ? 0 : code_of(w.sign), cases[i].code);
            assert_string_equal(w.text, r.tunnel_end.err.msg);
        }
    }
}

TEST(doctor_exam, silence_is_told_by_what_was_waited_for)
{
    static const struct {
        enum err_code class;
        uint64_t connect_us;
        enum way_stage stage;
        int code;
    } cases[] = {{ERR_TIMEOUT, 0, WAY_TCP, 0},
                 {ERR_TIMEOUT, 5, WAY_AWS, 67},
                 {ERR_DENIED, 5, WAY_AWS, 78},
                 {ERR_UNAVAIL, 5, WAY_AWS, 98}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct http_response r = {.outcome = HTTP_NOT_SENT, .connect_us = cases[i].connect_us};
        err_set(&r.err, cases[i].class, 0, "its words");
        struct way w = judge(true, &r);
        assert_int_equal(w.failed_at, cases[i].stage);
        assert_int_equal(w.sign[0] == '\0' ? 0 : code_of(w.sign), cases[i].code);
        assert_true(w.text[0] != '\0');
    }
}

/* --- istio-proxy */

static const char sockets[] =
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout "
    "inode\n"
    "   0: 00000000:3A99 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1337        0 1\n"
    "   1: 0100007F:09DD 00000000:0000 0A 00000000:00000000 00:00000000 00000000 65532        0 2\n"
    "   2: 0100007F:3A99 0A01A8C0:C350 01 00000000:00000000 00:00000000 00000000  1337        0 3\n"
    "   3: 0A01A8C0:C351 0B01A8C0:24E3 01 00000000:00000000 00:00000000 00000000 65532        0 "
    "4\n";

static enum proc_net_answer listener_in(const char *text, uint16_t port)
{
    FILE *list = fmemopen((void *)(uintptr_t)text, strlen(text) + 1, "r");
    assert_non_null(list);
    enum proc_net_answer answer = proc_net_has_listener(list, port);
    fclose(list);
    return answer;
}

static enum proc_net_answer connection_in(const char *text, uint16_t local, uint16_t remote)
{
    FILE *list = fmemopen((void *)(uintptr_t)text, strlen(text) + 1, "r");
    assert_non_null(list);
    enum proc_net_answer answer = proc_net_has_connection(list, local, remote);
    fclose(list);
    return answer;
}

TEST(doctor_exam, istio_proxy_is_seen_in_the_kernels_list)
{
    assert_int_equal(listener_in(sockets, 15001), PROC_NET_YES);
    assert_int_equal(listener_in(sockets, 2525), PROC_NET_YES);
    assert_int_equal(listener_in(sockets, 9443), PROC_NET_NO); /* a connection is no listener */
    assert_int_equal(connection_in(sockets, 15001, 50000), PROC_NET_YES);
    assert_int_equal(connection_in(sockets, 15001, 50001), PROC_NET_NO);
    /* a listener is no connection */
    assert_int_equal(connection_in(sockets, 15001, 0), PROC_NET_NO);
}

/* As where the mesh is told REGISTRY_ONLY: istio-proxy hangs up at once. */
TEST(doctor_exam, a_connection_that_istio_proxy_has_closed_already_is_seen)
{
    static const char *const list[] = {"   0: 0100007F:3A99 0A01A8C0:C350 04 0\n",
                                       "   0: 0100007F:3A99 0A01A8C0:C350 05 0\n",
                                       "   0: 0100007F:3A99 0A01A8C0:C350 03 0\n"};
    for (size_t i = 0; i < ARRAY_LEN(list); i++)
        assert_int_equal(connection_in(list[i], 15001, 50000), PROC_NET_YES);
    /* an earlier one, of the same port */
    assert_int_equal(connection_in("   0: 0100007F:3A99 0A01A8C0:C350 06 0\n", 15001, 50000),
                     PROC_NET_NO);
}

TEST(doctor_exam, a_list_of_ipv6_is_read_too_and_rubbish_is_nothing)
{
    static const char v6[] =
        "   0: 00000000000000000000000000000000:3A99 00000000000000000000000000000000:0000 0A 0\n"
        "   1: 0000000000000000FFFF00000100007F:3A99 0000000000000000FFFF00000A01A8C0:C350 01 0\n";
    assert_int_equal(listener_in(v6, 15001), PROC_NET_YES);
    assert_int_equal(connection_in(v6, 15001, 50000), PROC_NET_YES);
    static const char *const rubbish[] = {"",
                                          "\n\n\n",
                                          "0:",
                                          "   0: :3A99 : 0A",
                                          "   0: x:3A9 y:0 0A",
                                          "   0: x:3A99",
                                          "   0: x:ZZZZ y:0000 0A"};
    for (size_t i = 0; i < ARRAY_LEN(rubbish); i++)
        assert_true(i == 3 || listener_in(rubbish[i], 15001) == PROC_NET_NO);
}

/* Some 20,000 connections of an app that does nothing else: 3 MB. */
TEST(doctor_exam, a_captured_connection_is_seen_behind_any_number_of_others)
{
    static const char other[] =
        "19999: 0A01A8C0:9C40 0B01A8C0:01BB 01 00000000:00000000 00:00000000 00000000 65532        "
        "0 12345678 1 0000000000000000 20 4 30 10 -1         \n";
    static const char captured[] = "20000: 0100007F:3A99 0A01A8C0:C350 01 0\n";
    size_t n = 20000;
    AUTO_FREE char *text = xcalloc(n * strlen(other) + sizeof captured, 1);
    for (size_t i = 0; i < n; i++)
        memcpy(text + i * strlen(other), other, strlen(other));
    memcpy(text + n * strlen(other), captured, sizeof captured);
    assert_int_equal(connection_in(text, 15001, 50000), PROC_NET_YES);
    assert_int_equal(connection_in(text, 15001, 50001), PROC_NET_NO);
}

TEST(doctor_exam, a_list_that_cannot_be_read_whole_tells_nothing)
{
    FILE *list = fopen("/proc", "re"); /* opens, and is not to be read */
    assert_non_null(list);
    assert_int_equal(proc_net_has_listener(list, 15001), PROC_NET_UNREAD);
    fclose(list);
}
