// SPDX-License-Identifier: Apache-2.0
#include "sys/metrics.h"

#include "test.h"

#include <stdio.h>
#include <string.h>

/* The exposition text, until the next call. */
static const char *text(void)
{
    static struct buf b;
    buf_release(&b);
    buf_init(&b, 1u << 20);
    assert_true(metrics_write(&b));
    return buf_cstr(&b);
}

static void assert_has(const char *line)
{
    char whole[300];
    snprintf(whole, sizeof whole, "\n%s\n", line);
    if (strstr(text(), whole) == NULL)
        fail_msg("no line: %s", line);
}

static unsigned count(const char *needle)
{
    unsigned n = 0;
    for (const char *p = text(); (p = strstr(p, needle)) != NULL; p++)
        n++;
    return n;
}

TEST(metrics, every_metric_has_help_and_type)
{
    const char *t = text();
    assert_int_equal(strncmp(t, "# HELP svidmail_", 16), 0);
    assert_non_null(strstr(t, "\n# TYPE svidmail_attempts_total counter\n"));
    assert_non_null(strstr(t, "\n# TYPE svidmail_gateway_connections gauge\n"));
    assert_non_null(strstr(t, "\n# TYPE svidmail_verdict_seconds histogram\n"));
    assert_int_equal(t[strlen(t) - 1], '\n');
    assert_int_equal(count("# HELP "), M_COUNT);
    assert_int_equal(count("# TYPE "), M_COUNT);
}

TEST(metrics, a_series_without_labels_starts_at_zero)
{
    assert_has("svidmail_ambiguous_total 0");
    assert_has("svidmail_verdict_seconds_count 0");
    assert_has("svidmail_smtp_sessions 0");
    assert_has("svidmail_gateway_connections 0");
    assert_has("svidmail_workload_api_connected 0");
    assert_has("svidmail_pod_ending 0");
    assert_int_equal(count("svidmail_smtp_reply_total{"), 0);
}

/* 0 would be 1970: "expired" to whoever alerts on it. */
TEST(metrics, a_moment_is_absent_until_it_is_known)
{
    static const char sample[] = "\nsvidmail_aws_credentials_expiry_timestamp_seconds ";
    assert_int_equal(count(sample), 0);
    assert_has("# TYPE svidmail_aws_credentials_expiry_timestamp_seconds gauge");
    metric_set(M_AWS_CREDENTIALS_EXPIRY, METRIC_NONE, 1780272000);
    assert_has("svidmail_aws_credentials_expiry_timestamp_seconds 1780272000");
    metric_clear(M_AWS_CREDENTIALS_EXPIRY);
    assert_int_equal(count(sample), 0);
}

TEST(metrics, counters_add_and_gauges_are_set)
{
    metric_add(M_ATTEMPTS, METRIC_L("ses-api", "delivered", ""), 2);
    metric_add(M_ATTEMPTS, METRIC_L("ses-api", "delivered", ""), 1);
    metric_add(M_ATTEMPTS, METRIC_L("ses-api", "retry", "Throttling"), 1);
    metric_set(M_SVID_EXPIRY, METRIC_L("mesh"), 1780272000);
    metric_set(M_SVID_EXPIRY, METRIC_L("mesh"), 1780275600);
    metric_add(M_GATEWAY_CONNECTIONS, METRIC_NONE, 1);
    metric_add(M_GATEWAY_CONNECTIONS, METRIC_NONE, -1);
    assert_has("svidmail_attempts_total{route=\"ses-api\",outcome=\"delivered\",error=\"\"} 3");
    assert_has(
        "svidmail_attempts_total{route=\"ses-api\",outcome=\"retry\",error=\"Throttling\"} 1");
    assert_has("svidmail_svid_expiry_timestamp_seconds{role=\"mesh\"} 1780275600");
    assert_has("svidmail_gateway_connections 0");
    assert_true(metric_get(M_ATTEMPTS, METRIC_L("ses-api", "delivered")) == 3);
    assert_true(metric_get(M_ATTEMPTS, METRIC_L("smtp", "delivered")) == 0);
}

TEST(metrics, a_histogram_is_cumulative)
{
    metric_observe(M_VERDICT_SECONDS, METRIC_NONE, 0.0004);
    metric_observe(M_VERDICT_SECONDS, METRIC_NONE, 0.001); /* a bound belongs to its bucket */
    metric_observe(M_VERDICT_SECONDS, METRIC_NONE, 0.3);
    metric_observe(M_VERDICT_SECONDS, METRIC_NONE, 9999);
    assert_has("svidmail_verdict_seconds_bucket{le=\"0.0005\"} 1");
    assert_has("svidmail_verdict_seconds_bucket{le=\"0.001\"} 2");
    assert_has("svidmail_verdict_seconds_bucket{le=\"0.25\"} 2");
    assert_has("svidmail_verdict_seconds_bucket{le=\"0.5\"} 3");
    assert_has("svidmail_verdict_seconds_bucket{le=\"600\"} 3");
    assert_has("svidmail_verdict_seconds_bucket{le=\"+Inf\"} 4");
    assert_has("svidmail_verdict_seconds_sum 9999.3014");
    assert_has("svidmail_verdict_seconds_count 4");
    assert_true(metric_get(M_VERDICT_SECONDS, METRIC_NONE) == 4);
}

TEST(metrics, clear_forgets_all_series)
{
    metric_set(M_BUNDLE_AGE, METRIC_L("a.test"), 1);
    metric_clear(M_BUNDLE_AGE);
    metric_set(M_BUNDLE_AGE, METRIC_L("b.test"), 2);
    assert_int_equal(count("svidmail_bundle_age_seconds{"), 1);
    assert_has("svidmail_bundle_age_seconds{trust_domain=\"b.test\"} 2");
}

TEST(metrics, a_label_cannot_break_a_line)
{
    metric_clear(M_SMTP_REPLY);
    metric_add(M_SMTP_REPLY, METRIC_L("5\"0} 1\n\\x\xff"), 1);
    const char *at = strstr(text(), "svidmail_smtp_reply_total{");
    assert_non_null(at);
    char line[200];
    size_t n = strcspn(at, "\n");
    assert_true(n < sizeof line);
    memcpy(line, at, n);
    line[n] = '\0';
    assert_string_equal(line + n - 4, "\"} 1");
    assert_int_equal(strcspn(line, "\"") + 1 + strcspn(strchr(line, '"') + 1, "\""), n - 4);
    assert_null(strchr(line, '\\'));
}

TEST(metrics, overlong_labels_are_cut_to_the_same_series)
{
    metric_clear(M_SMTP_REPLY);
    char a[200], b[200];
    memset(a, 'x', sizeof a - 1);
    memset(b, 'x', sizeof b - 1);
    a[sizeof a - 1] = b[sizeof b - 1] = '\0';
    b[150] = 'y';
    metric_add(M_SMTP_REPLY, METRIC_L(a), 1);
    metric_add(M_SMTP_REPLY, METRIC_L(b), 1);
    assert_true(metric_get(M_SMTP_REPLY, METRIC_L(a)) == 2);
    assert_int_equal(count("svidmail_smtp_reply_total{"), 1);
}

TEST(metrics, label_values_without_end_end_in_other)
{
    metric_clear(M_SMTP_REPLY);
    metric_add(M_SMTP_REPLY, METRIC_L("other"), 5); /* a value like any other */
    for (int i = 0; i < 1000; i++) {
        char value[16];
        snprintf(value, sizeof value, "v%d", i);
        metric_add(M_SMTP_REPLY, METRIC_L(value), 1);
    }
    assert_in_range(count("svidmail_smtp_reply_total{"), 2, 64);
    assert_int_equal(count("svidmail_smtp_reply_total{code=\"other\"}"), 1); /* twice is invalid */
    assert_true(metric_get(M_SMTP_REPLY, METRIC_L("v0")) == 1);
    double sum = 0;
    for (const char *p = text(); (p = strstr(p, "svidmail_smtp_reply_total{")) != NULL; p++) {
        unsigned value = 0;
        assert_int_equal(sscanf(strchr(p, '}'), "} %u", &value), 1);
        sum += value;
    }
    assert_true(sum == 1005); /* nothing is lost, nothing counted elsewhere */
}

TEST(metrics, what_does_not_fit_is_told)
{
    struct buf b;
    buf_init(&b, 100);
    assert_false(metrics_write(&b));
    buf_release(&b);
}
