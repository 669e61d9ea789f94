// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "identity/stream_end.h"

#include <string.h>

static const char target[] = "egress.mail-egress.svc.cluster.local:9443";

TEST(stream_end, each_cause_has_a_name_of_its_own)
{
    for (int a = 0; a < END_CAUSE_COUNT; a++) {
        const char *name = stream_end_name((enum stream_end_cause)a);
        assert_non_null(name);
        assert_int_equal(strspn(name, "abcdefghijklmnopqrstuvwxyz_"), strlen(name));
        for (int b = 0; b < a; b++)
            assert_string_not_equal(name, stream_end_name((enum stream_end_cause)b));
    }
}

TEST(stream_end, each_cause_has_a_sentence_that_fits_with_a_long_target_and_detail)
{
    for (int c = END_CLEAN; c < END_CAUSE_COUNT; c++) {
        struct stream_end end = {.alert = 46};
        stream_end_set(&end, (enum stream_end_cause)c, target, "connection reset by peer");
        assert_int_equal(end.cause, c);
        assert_int_not_equal(end.err.code, ERR_NONE);
        assert_memory_equal(end.err.msg, target, strlen(target));
        assert_non_null(strstr(end.err.msg, "connection reset by peer"));
        assert_in_range(strlen(end.err.msg), 60, ERR_MSG_MAX - 20);
    }
}

TEST(stream_end, without_detail_there_are_no_empty_brackets)
{
    for (int c = END_CLEAN; c < END_CAUSE_COUNT; c++) {
        struct stream_end end = {.alert = 46};
        stream_end_set(&end, (enum stream_end_cause)c, target, "");
        assert_null(strstr(end.err.msg, "()"));
        assert_null(strstr(end.err.msg, ": ;"));
        stream_end_set(&end, (enum stream_end_cause)c, target, NULL);
        assert_null(strstr(end.err.msg, "(null)"));
    }
}

/* What decides between the candidates stands in the gateway's log: name the field. */
TEST(stream_end, a_sentence_names_the_gateway_log_field_that_decides)
{
    static const struct {
        enum stream_end_cause cause;
        const char *word;
    } cases[] = {
        {END_NAME, "gateway.host"},
        {END_CLEAN, "rbac_access_denied_matched_policy"},
        {END_TRUNCATED, "rbac_access_denied_matched_policy"},
        {END_HELLO_RESET, "NR filter_chain_not_found"},
        {END_HELLO_RESET, "UH BlackHoleCluster"},
        {END_HANDSHAKE_EOF, "cannot resolve or reach the AWS host"},
        {END_HANDSHAKE_TIMEOUT, "SDS"},
        {END_NOT_TLS, "exclude the port"},
        {END_PEER_IDENTITY, "gateway.spiffe_ids"},
        {END_REFUSED, "has seen nothing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct stream_end end = {0};
        stream_end_set(&end, cases[i].cause, target, "");
        assert_non_null(strstr(end.err.msg, cases[i].word));
    }
}

TEST(stream_end, an_alert_is_told_by_number_name_and_meaning)
{
    static const struct {
        int alert;
        enum err_code code;
        const char *words;
    } cases[] = {
        {40, ERR_UNAVAIL, "alert 40 handshake_failure"},
        {42, ERR_DENIED, "alert 42 bad_certificate"},
        {43, ERR_DENIED, "alert 43 unsupported_certificate"},
        {44, ERR_DENIED, "alert 44 certificate_revoked"},
        {45, ERR_DENIED,
         "alert 45 certificate_expired: our certificate has expired by the gateway's"},
        {46, ERR_DENIED, "alert 46 certificate_unknown"},
        {46, ERR_DENIED, "ssl.fail_verify_error"},
        {48, ERR_DENIED, "alert 48 unknown_ca"},
        {49, ERR_DENIED, "alert 49 access_denied"},
        {70, ERR_UNAVAIL, "alert 70 protocol_version"},
        {80, ERR_UNAVAIL, "alert 80 internal_error"},
        {112, ERR_UNAVAIL, "NR filter_chain_not_found"},
        {116, ERR_DENIED, "alert 116 certificate_required"},
        {116, ERR_DENIED, "ssl.fail_verify_no_cert"},
        {120, ERR_UNAVAIL, "alert 120 no_application_protocol"},
        {20, ERR_UNAVAIL, "alert 20 bad_record_mac"},
        {47, ERR_UNAVAIL,
         "alert 47 illegal_parameter: the gateway's log at level connection:debug"},
        {200, ERR_UNAVAIL, "alert 200 (no name known): "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct stream_end end = {.alert = cases[i].alert};
        stream_end_set(&end, END_ALERT, target, "");
        assert_int_equal(end.err.code, cases[i].code);
        assert_non_null(strstr(end.err.msg, cases[i].words));
    }
}

TEST(stream_end, our_own_finding_stands_before_the_hint)
{
    struct stream_end end = {0};
    stream_end_set(&end, END_PEER_IDENTITY, "gw:9443",
                   "the gateway is spiffe://a/b, expected spiffe://a/c");
    assert_int_equal(end.err.code, ERR_DENIED);
    assert_string_equal(end.err.msg,
                        "gw:9443: the gateway is spiffe://a/b, expected spiffe://a/c; put its ID "
                        "into gateway.spiffe_ids if that is the gateway");
}

TEST(stream_end, still_open_is_no_error)
{
    struct stream_end end = {0};
    stream_end_set(&end, END_RESET, target, "");
    stream_end_set(&end, END_NONE, target, "");
    assert_int_equal(end.cause, END_NONE);
    assert_int_equal(end.err.code, ERR_NONE);
    assert_string_equal(end.err.msg, "");
}
