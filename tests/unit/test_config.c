// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "app/config.h"
#include "app/config_schema.h"
#include "app/suggest.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GATEWAY "gateway: {host: gw.example, spiffe_ids: ['spiffe://example.org/gw']}\n"
#define NEEDED                                                                                     \
    GATEWAY "ses: {region: eu-central-1}\naws: {role_arn: 'arn:aws:iam::123456789012:role/m'}\n"

static struct config *parse(const char *text)
{
    struct config *c;
    struct err e = {0};
    if (!config_parse("f.yaml", str_from(text), &c, &e))
        fail_msg("%s", e.msg);
    return c;
}

struct refusal {
    const char *text, *message;
};

static void assert_refused(const char *text, const char *message)
{
    struct config *c = NULL;
    struct err e = {0};
    if (config_parse("f.yaml", str_from(text), &c, &e))
        fail_msg("accepted: %s", text);
    assert_null(c);
    assert_string_equal(e.msg, message);
    assert_int_not_equal(e.code, ERR_NONE);
}

static void assert_all_refused(const struct refusal *cases, size_t n)
{
    for (size_t i = 0; i < n; i++)
        assert_refused(cases[i].text, cases[i].message);
}

/* --- values */

TEST(config, the_smallest_file_gets_every_default)
{
    struct config *c = parse(NEEDED);
    assert_string_equal(c->identity.endpoint, "");
    assert_string_equal(c->smtp.listen[0], "127.0.0.1:2525");
    assert_string_equal(c->smtp.listen[1], "[::1]:2525");
    assert_null(c->smtp.listen[2]);
    assert_int_equal(c->smtp.n_addresses, 2);
    assert_int_equal(c->smtp.max_message_bytes, 29000000);
    assert_int_equal(c->smtp.max_recipients, 1000);
    assert_int_equal(c->smtp.max_connections, 256);
    assert_int_equal(c->smtp.idle_timeout_ms, 600000);
    assert_int_equal(c->smtp.auth, CONFIG_AUTH_NONE);
    assert_int_equal(c->smtp.bare_newline, CONFIG_NEWLINE_NORMALIZE);
    assert_false(c->smtp.allow_any_address);
    assert_false(c->smtp.allow_host_network);
    assert_int_equal(c->gateway.port_api, 9443);
    assert_int_equal(c->gateway.port_end_to_end, 9444);
    assert_int_equal(c->gateway.port_smtp, 9465);
    assert_int_equal(c->gateway.tls, CONFIG_TLS_GATEWAY);
    assert_int_equal(c->gateway.max_connections, 16);
    assert_int_equal(c->route, CONFIG_ROUTE_SES_API);
    assert_int_equal(c->aws.source, CONFIG_SOURCE_WEB_IDENTITY);
    assert_int_equal(c->aws.duration_ms, 3600000);
    assert_string_equal(c->aws.audience, "sts.amazonaws.com");
    assert_int_equal(c->delivery.patience_ms, 4000);
    assert_int_equal(c->delivery.spool_max_bytes, 1 << 30);
    assert_int_equal(c->delivery.spool_reserve_percent, 10);
    assert_int_equal(c->delivery.max_age_ms, 345600000);
    assert_null(c->policy.senders[0]);
    assert_string_equal(c->admin.socket, "/run/svidmail/admin.sock");
    assert_string_equal(c->admin.metrics_listen, ":9925");
    assert_int_equal(c->log.level, LOG_INFO);
    assert_int_equal(c->log.format, LOG_JSON);
    assert_int_equal(c->log.recipients, CONFIG_RECIPIENTS_HASH);
    config_free(&c);
    assert_null(c);
}

static const char full[] =
    "---\n"
    "identity:\n"
    "  endpoint: unix:///run/agent.sock\n"
    "  mesh: {spiffe_id: spiffe://example.org/a, hint: internal}\n"
    "  aws:\n"
    "    spiffe_id: \"spiffe://example.org/b\" # comment\n"
    "    hint: ''\n"
    "smtp:\n"
    "  listen:\n"
    "  - \"[::1]:2526\"\n"
    "  - unix:/run/app/smtp.sock\n"
    "  max_message_bytes: 28MiB\n"
    "  max_recipients: 50\n"
    "  max_connections: 10\n"
    "  idle_timeout: 5m\n"
    "  auth: accept-any\n"
    "  bare_newline: reject\n"
    "  allow_any_address: true\n"
    "  allow_host_network: true\n"
    "gateway:\n"
    "  host: gw.mail-egress.svc\n"
    "  spiffe_ids: [spiffe://example.org/gw, spiffe://example.org/gw2]\n"
    "  ports: {api: 1, end_to_end: 2, smtp: 65535}\n"
    "  tls: end-to-end\n"
    "  max_connections: 4\n"
    "route: ses-api\n"
    "ses:\n"
    "  region: us-gov-west-1\n"
    "  configuration_set: set_1\n"
    "  tags: {app: checkout, stage: prod-2}\n"
    "  from_identity_arn: arn:aws:ses:eu-central-1:123456789012:identity/shop.example\n"
    "  tenant: acme\n"
    "  endpoint: email-fips.us-gov-west-1.amazonaws.com\n"
    "  allow_headers: [X-SES-MESSAGE-TAGS]\n"
    "aws:\n"
    "  source: web-identity\n"
    "  role_arn: arn:aws-us-gov:iam::123456789012:role/team/mail\n"
    "  session_name: checkout@shop\n"
    "  duration: 90m\n"
    "  sts_region: us-gov-east-1\n"
    "  ca_file: /etc/ssl/aws.pem\n"
    "  audience: https://sts.example\n"
    "policy:\n"
    "  senders: [\"@shop.example\", billing@corp.example]\n"
    "  recipients: {allow: ['*'], deny: ['@blocked.example']}\n"
    "delivery: {spool: {path: \"\"}}\n"
    "admin: {socket: \"\", metrics_listen: \"127.0.0.1:1\"}\n"
    "log: {level: debug, format: text, recipients: off}\n"
    "...\n";

TEST(config, every_kind_of_value_reaches_its_field)
{
    struct config *c = parse(full);
    assert_string_equal(c->identity.endpoint, "unix:///run/agent.sock");
    assert_string_equal(c->identity.mesh.hint, "internal");
    assert_string_equal(c->identity.aws.spiffe_id, "spiffe://example.org/b");
    assert_int_equal(c->smtp.n_addresses, 2);
    assert_int_equal(c->smtp.addresses[0].kind, LISTEN_IPV6);
    assert_string_equal(c->smtp.addresses[1].host, "/run/app/smtp.sock");
    assert_int_equal(c->smtp.max_message_bytes, 28 * 1024 * 1024);
    assert_int_equal(c->smtp.idle_timeout_ms, 300000);
    assert_int_equal(c->smtp.auth, CONFIG_AUTH_ACCEPT_ANY);
    assert_int_equal(c->smtp.bare_newline, CONFIG_NEWLINE_REJECT);
    assert_true(c->smtp.allow_any_address);
    assert_int_equal(c->gateway.n_ids, 2);
    assert_string_equal(c->gateway.ids[1].text, "spiffe://example.org/gw2");
    assert_int_equal(c->gateway.port_smtp, 65535);
    assert_int_equal(c->gateway.tls, CONFIG_TLS_END_TO_END);
    assert_int_equal(c->ses.n_tags, 2);
    assert_string_equal(c->ses.tags[1].name, "stage");
    assert_string_equal(c->ses.tags[1].value, "prod-2");
    assert_string_equal(c->ses.host, "email-fips.us-gov-west-1.amazonaws.com");
    assert_string_equal(c->ses.allow_headers[0], "X-SES-MESSAGE-TAGS");
    assert_int_equal(c->aws.duration_ms, 5400000);
    assert_string_equal(c->aws.sts_host, "sts.us-gov-east-1.amazonaws.com");
    assert_string_equal(c->policy.senders[1], "billing@corp.example");
    assert_string_equal(c->policy.recipients_deny[0], "@blocked.example");
    assert_string_equal(c->delivery.spool_path, "");
    assert_int_equal(c->log.level, LOG_DEBUG);
    assert_int_equal(c->log.format, LOG_TEXT);
    assert_int_equal(c->log.recipients, CONFIG_RECIPIENTS_OFF);
    config_free(&c);
}

TEST(config, hosts_follow_from_the_region)
{
    static const struct {
        const char *region, *ses, *sts;
    } cases[] = {
        {"eu-central-1", "email.eu-central-1.amazonaws.com", "sts.eu-central-1.amazonaws.com"},
        {"cn-north-1", "email.cn-north-1.amazonaws.com.cn", "sts.cn-north-1.amazonaws.com.cn"},
        {"us-gov-west-1", "email.us-gov-west-1.amazonaws.com", "sts.us-gov-west-1.amazonaws.com"},
        {"eusc-de-east-1", "email.eusc-de-east-1.amazonaws.eu", "sts.eusc-de-east-1.amazonaws.eu"},
        {"us-iso-east-1", "email.us-iso-east-1.c2s.ic.gov", "sts.us-iso-east-1.c2s.ic.gov"},
        {"us-isob-east-1", "email.us-isob-east-1.sc2s.sgov.gov",
         "sts.us-isob-east-1.sc2s.sgov.gov"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        AUTO_FREE char *text = xasprintf(
            GATEWAY "ses: {region: %s}\naws: {role_arn: 'arn:aws:iam::123456789012:role/m'}\n",
            cases[i].region);
        struct config *c = parse(text);
        assert_string_equal(c->ses.host, cases[i].ses);
        assert_string_equal(c->aws.sts_host, cases[i].sts);
        config_free(&c);
    }
}

TEST(config, a_section_whose_keys_are_all_commented_out_is_empty)
{
    struct config *c = parse(NEEDED "smtp:\n  # listen: []\nlog: ~\n");
    assert_int_equal(c->smtp.n_addresses, 2);
    config_free(&c);
}

TEST(config, the_former_value_of_a_list_is_replaced_not_extended)
{
    struct config *c = parse(NEEDED "smtp: {listen: ['127.0.0.1:1']}\n");
    assert_int_equal(c->smtp.n_addresses, 1);
    assert_int_equal(c->smtp.addresses[0].port, 1);
    config_free(&c);
}

TEST(config, units_of_durations_and_sizes)
{
    static const struct {
        const char *duration;
        uint64_t ms;
    } durations[] = {
        {"1000ms", 1000}, {"1s", 1000}, {"10m", 600000}, {"24h", 86400000}, {"1d", 86400000}};
    for (size_t i = 0; i < ARRAY_LEN(durations); i++) {
        AUTO_FREE char *text =
            xasprintf(NEEDED "smtp: {idle_timeout: %s}\n", durations[i].duration);
        struct config *c = parse(text);
        assert_int_equal(c->smtp.idle_timeout_ms, durations[i].ms);
        config_free(&c);
    }
    static const struct {
        const char *size;
        uint64_t bytes;
    } sizes[] = {{"1024", 1024}, {"1KiB", 1024}, {"'2048'", 2048}, {"40MiB", 41943040}};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        AUTO_FREE char *text = xasprintf(NEEDED "smtp: {max_message_bytes: %s}\n", sizes[i].size);
        struct config *c = parse(text);
        assert_int_equal(c->smtp.max_message_bytes, sizes[i].bytes);
        config_free(&c);
    }
}

/* --- refusals */

TEST(config, unknown_keys_are_named_with_place_and_suggestion)
{
    static const struct refusal cases[] = {
        {"smtp:\n  max_conections: 3\n",
         "f.yaml:2:3: smtp.max_conections: unknown key; did you mean smtp.max_connections?"},
        {"smtp:\n  idleTimeout: 3m\n",
         "f.yaml:2:3: smtp.idleTimeout: unknown key; did you mean smtp.idle_timeout?"},
        {"stmp: {}\n", "f.yaml:1:1: stmp: unknown key; did you mean smtp?"},
        {"identity:\n  msh: {}\n",
         "f.yaml:2:3: identity.msh: unknown key; did you mean identity.mesh?"},
        {"ca_file: /x\n", "f.yaml:1:1: ca_file: unknown key; did you mean aws.ca_file?"},
        {"log:\n  level: info\n  zzzzzz: 1\n",
         "f.yaml:3:3: log.zzzzzz: unknown key; known here: level, format, recipients"},
        {"zzzzzz: 1\n",
         "f.yaml:1:1: zzzzzz: unknown key; known here: identity, smtp, gateway, route, ses, "
         "aws, upstream, delivery, policy, admin, log"},
        {"smtp.listen: []\n",
         "f.yaml:1:1: smtp.listen: unknown key; sections are nested mappings, not names with dots"},
        {"\"lo\\ng\": {}\n", "f.yaml:1:1: lo\\x0ag: unknown key; did you mean log?"},
        {"\"\": 1\n", "f.yaml:1:1: unknown key; known here: identity, smtp, gateway, route, ses, "
                      "aws, upstream, delivery, policy, admin, log"},
        {"<<: {}\n",
         "f.yaml:1:1: <<: unknown key; known here: identity, smtp, gateway, route, ses, "
         "aws, upstream, delivery, policy, admin, log"},
    };
    assert_all_refused(cases, ARRAY_LEN(cases));
}

TEST(config, a_very_long_key_is_refused_without_being_repeated_whole)
{
    char text[4096];
    memset(text, 'k', sizeof text);
    memcpy(text + 900, ": 1\n", 5);
    struct config *c;
    struct err e = {0};
    assert_false(config_parse("f.yaml", str_from(text), &c, &e));
    assert_non_null(strstr(e.msg, "unknown key; known here"));
}

TEST(config, keys_that_are_there_twice_are_refused)
{
    static const struct refusal cases[] = {
        {"log:\n  level: info\n  level: warn\n",
         "f.yaml:3:3: log.level: is there twice; the first one is in line 2"},
        {"log: {level: info}\nlog: {format: text}\n",
         "f.yaml:2:1: log: is there twice; the first one is in line 1"},
        {"ses:\n  tags:\n    a: b\n    a: c\n",
         "f.yaml:4:8: ses.tags: \"a\" is there twice; allowed: at most 50 names with values, as "
         "{name: value}"},
    };
    assert_all_refused(cases, ARRAY_LEN(cases));
}

TEST(config, values_of_the_wrong_kind_are_refused)
{
    static const struct refusal cases[] = {
        {"smtp: {max_connections: many}\n",
         "f.yaml:1:25: smtp.max_connections: \"many\" is not a whole number; allowed: a whole "
         "number from 1 to 10000"},
        {"smtp: {max_connections: '5'}\n", "f.yaml:1:25: smtp.max_connections: \"5\" is a string, "
                                           "for it stands in quotes; allowed: a whole number "
                                           "from 1 to 10000"},
        {"smtp: {max_connections: -5}\n", "f.yaml:1:25: smtp.max_connections: \"-5\" is not a "
                                          "whole number; allowed: a whole number from 1 to 10000"},
        {"smtp: {max_connections: [5]}\n", "f.yaml:1:25: smtp.max_connections: not a single value; "
                                           "allowed: a whole number from 1 to 10000"},
        {"smtp: {max_connections: }\n", "f.yaml:1:25: smtp.max_connections: has no value; leave "
                                        "the key out for its default; allowed: a whole "
                                        "number from 1 to 10000"},
        {"smtp: {allow_any_address: yes}\n",
         "f.yaml:1:27: smtp.allow_any_address: \"yes\" is not true or false; allowed: true, false"},
        {"smtp: {listen: '127.0.0.1:25'}\n",
         "f.yaml:1:16: smtp.listen: not a list; allowed: a list of 1 to 16 strings, as [a, b]"},
        {"smtp: {listen: [[a]]}\n", "f.yaml:1:17: smtp.listen: an item of the list is not a "
                                    "string; allowed: a list of 1 to 16 strings, as [a, b]"},
        {"smtp: {listen: [~]}\n", "f.yaml:1:17: smtp.listen: an item of the list is not a string; "
                                  "allowed: a list of 1 to 16 strings, as [a, b]"},
        {"smtp: {listen: []}\n", "f.yaml:1:16: smtp.listen: the list is too short; allowed: a list "
                                 "of 1 to 16 strings, as [a, b]"},
        {"log: info\n", "f.yaml:1:6: log: not a mapping; known here: level, format, recipients"},
        {"log: [level]\n", "f.yaml:1:6: log: not a mapping; known here: level, format, recipients"},
        {"- log\n", "f.yaml:1:1: not a mapping; known here: identity, smtp, gateway, route, ses, "
                    "aws, upstream, "
                    "delivery, policy, admin, log"},
        {"log: {[a]: b}\n", "f.yaml:1:7: log: a key is not a word"},
        {"ses: {tags: [a]}\n", "f.yaml:1:13: ses.tags: not a mapping; allowed: at most 50 names "
                               "with values, as {name: value}"},
        {"ses: {tags: {a: [b]}}\n", "f.yaml:1:17: ses.tags: a value is not a string; allowed: at "
                                    "most 50 names with values, as {name: value}"},
        {"ses: {tags: {[a]: b}}\n", "f.yaml:1:14: ses.tags: a name is not a string; allowed: at "
                                    "most 50 names with values, as {name: value}"},
        {"ses: {tags: {a: 'b c'}}\n", "f.yaml:1:17: ses.tags: \"b c\": no message tag of SES; "
                                      "allowed for name and value: 1 to 256 of A-Z a-z "
                                      "0-9 _ -"},
    };
    assert_all_refused(cases, ARRAY_LEN(cases));
}

TEST(config, values_out_of_range_are_refused_with_the_range)
{
    static const struct refusal cases[] = {
        {"smtp:\n  max_recipients: 0\n", "f.yaml:2:19: smtp.max_recipients: \"0\" is out of range; "
                                         "allowed: a whole number from 1 to 10000"},
        {"smtp:\n  max_recipients: 99999999999999999999999\n",
         "f.yaml:2:19: smtp.max_recipients: \"99999999999999999999999\" is out of range; allowed: "
         "a whole number "
         "from 1 to 10000"},
        {"smtp:\n  idle_timeout: 2d\n", "f.yaml:2:17: smtp.idle_timeout: \"2d\" is out of range; "
                                        "allowed: a duration from 1s to 1d, as 500ms, 4s, "
                                        "10m, 1h or 4d"},
        {"smtp:\n  idle_timeout: 213503982334602d\n",
         "f.yaml:2:17: smtp.idle_timeout: \"213503982334602d\" is out of range; allowed: a "
         "duration from 1s to 1d, "
         "as 500ms, 4s, 10m, 1h or 4d"},
        {"smtp:\n  max_message_bytes: 41MiB\n",
         "f.yaml:2:22: smtp.max_message_bytes: \"41MiB\" is out of range; allowed: a size from "
         "1KiB to 40MiB, in "
         "bytes or with KiB, MiB, GiB"},
        {"gateway: {ports: {api: 65536}}\n", "f.yaml:1:24: gateway.ports.api: \"65536\" is out of "
                                             "range; allowed: a whole number from 1 to 65535"},
        {"delivery: {spool: {reserve: 91%}}\n",
         "f.yaml:1:29: delivery.spool.reserve: \"91%\" is out of range; allowed: a percentage from "
         "0% to 90%"},
        {"gateway: {host: ''}\n",
         "f.yaml:1:17: gateway.host: \"\" is too short; allowed: a string of 1 to 253 bytes"},
    };
    assert_all_refused(cases, ARRAY_LEN(cases));
}

TEST(config, durations_and_sizes_without_a_known_unit_are_refused)
{
    static const char *const durations[] = {"5",  "5 m", "m",  "1h30m", "1.5h",
                                            "5M", "-5m", "''", "0x5m",  "5min"};
    for (size_t i = 0; i < ARRAY_LEN(durations); i++) {
        AUTO_FREE char *text = xasprintf("smtp: {idle_timeout: %s}\n", durations[i]);
        struct config *c;
        struct err e;
        assert_false(config_parse("f", str_from(text), &c, &e));
        assert_non_null(strstr(e.msg, "is not a duration; allowed: a duration from 1s to 1d"));
    }
    static const char *const sizes[] = {"1MB", "1 MiB", "2.9e+07", "1mib", "k", "-1", "1TiB"};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        AUTO_FREE char *text = xasprintf("smtp: {max_message_bytes: %s}\n", sizes[i]);
        struct config *c;
        struct err e;
        assert_false(config_parse("f", str_from(text), &c, &e));
        assert_non_null(strstr(e.msg, "is not a size; allowed: a size from 1KiB to 40MiB"));
    }
}

TEST(config, words_are_taken_from_their_list_only)
{
    static const struct refusal cases[] = {
        {"log: {level: INFO}\n", "f.yaml:1:14: log.level: \"INFO\" is none of the words known "
                                 "here; allowed: debug, info, warn, error"},
        {"log: {level: ''}\n", "f.yaml:1:14: log.level: \"\" is none of the words known here; "
                               "allowed: debug, info, warn, error"},
        {"log: {recipients: false}\n", "f.yaml:1:19: log.recipients: \"false\" is none of the "
                                       "words known here; allowed: hash, full, off"},
        {"gateway: {tls: gateway|end-to-end}\n",
         "f.yaml:1:16: gateway.tls: \"gateway|end-to-end\" is none of the words known here; "
         "allowed: gateway, "
         "end-to-end"},
    };
    assert_all_refused(cases, ARRAY_LEN(cases));
}

TEST(config, control_characters_are_refused_and_shown_escaped)
{
    static const struct refusal cases[] = {
        {"identity: {mesh: {hint: \"a\\nb\"}}\n",
         "f.yaml:1:25: identity.mesh.hint: \"a\\x0ab\": holds a control character; allowed: "
         "printable text"},
        {"identity: {mesh: {hint: \"a\\0b\"}}\n",
         "f.yaml:1:25: identity.mesh.hint: \"a\\x00b\": holds a control character; allowed: "
         "printable text"},
        {"policy: {senders: [\"@a\\x7f\"]}\n", "f.yaml:1:20: policy.senders: \"@a\\x7f\": holds a "
                                               "control character; allowed: printable text"},
    };
    assert_all_refused(cases, ARRAY_LEN(cases));
}

TEST(config, malformed_values_say_what_is_allowed)
{
    static const struct refusal cases[] = {
        {"ses: {region: Frankfurt}\n", "f.yaml:1:15: ses.region: \"Frankfurt\": no AWS region; "
                                       "allowed: a region name as eu-central-1"},
        {"aws: {role_arn: 'arn:aws:iam::1234:role/x'}\n",
         "f.yaml:1:17: aws.role_arn: \"arn:aws:iam::1234:role/x\": no ARN of an IAM role; allowed: "
         "arn:aws:iam::ACCOUNT:role/NAME, ACCOUNT having 12 digits"},
        {"aws: {ca_file: aws.pem}\n", "f.yaml:1:16: aws.ca_file: \"aws.pem\": no absolute path; "
                                      "allowed: a path that begins with /"},
        {"gateway:\n  host: https://gw.example\n",
         "f.yaml:2:9: gateway.host: \"https://gw.example\": no host; allowed: a DNS name or an IP "
         "address, without "
         "scheme, brackets or port"},
        {"ses: {endpoint: 'https://x'}\n",
         "f.yaml:1:17: ses.endpoint: \"https://x\": no host name; allowed: a DNS name without "
         "scheme, port, path or final dot"},
        {"ses: {endpoint: email.example.}\n",
         "f.yaml:1:17: ses.endpoint: \"email.example.\": no host name; allowed: a DNS name without "
         "scheme, port, path or final dot"},
        {"aws: {sts_endpoint: sts.example.}\n",
         "f.yaml:1:21: aws.sts_endpoint: \"sts.example.\": no host name; allowed: a DNS name "
         "without scheme, port, path or final dot"},
        {"smtp:\n  listen:\n  - 127.0.0.1:2525\n  - localhost:25\n",
         "f.yaml:4:5: smtp.listen: \"localhost:25\": the host must be an IP address, not a name; "
         "allowed: "
         "127.0.0.1:PORT, [::1]:PORT, unix:/PATH"},
        {"admin: {metrics_listen: 'unix:/x'}\n",
         "f.yaml:1:25: admin.metrics_listen: \"unix:/x\": no address for metrics; allowed: "
         "IP:PORT, [IPv6]:PORT, "
         ":PORT, or \"\" for none"},
        {"ses: {allow_headers: [Bcc]}\n", "f.yaml:1:23: ses.allow_headers: \"Bcc\": only headers "
                                          "that SES acts on are removed; allowed: names that "
                                          "begin with X-SES-"},
        {"smtp: {listen: ['']}\n",
         "f.yaml:1:17: smtp.listen: \"\" is empty; allowed: a list of 1 to 16 strings, as [a, b]"},
    };
    assert_all_refused(cases, ARRAY_LEN(cases));
}

/* The words of these come from other modules, whose own tests hold them. */
TEST(config, identities_endpoints_and_patterns_are_checked_where_they_stand)
{
    static const struct {
        const char *text, *beginning;
    } cases[] = {
        {"gateway:\n  spiffe_ids:\n  - spiffe://example.org/a\n  - spiffe://Example.org/a\n",
         "f.yaml:4:5: gateway.spiffe_ids: \"spiffe://Example.org/a\": "},
        {"gateway: {spiffe_ids: [spiffe://example.org]}\n",
         "f.yaml:1:24: gateway.spiffe_ids: \"spiffe://example.org\": "},
        {"identity: {aws: {spiffe_id: x}}\n", "f.yaml:1:29: identity.aws.spiffe_id: \"x\": "},
        {"identity: {endpoint: /run/agent.sock}\n",
         "f.yaml:1:22: identity.endpoint: \"/run/agent.sock\": "},
        {"policy: {senders: ['a b']}\n", "f.yaml:1:20: policy.senders: \"a b\": "},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct config *c;
        struct err e = {0};
        assert_false(config_parse("f.yaml", str_from(cases[i].text), &c, &e));
        if (strncmp(e.msg, cases[i].beginning, strlen(cases[i].beginning)) != 0)
            fail_msg("%s", e.msg);
        assert_true(strlen(e.msg) > strlen(cases[i].beginning));
    }
}

TEST(config, values_are_judged_by_their_syntax)
{
    static const struct {
        const char *key, *value;
        bool is_good;
    } cases[] = {
        {"ses: {region: ", "ap-southeast-2", true},
        {"ses: {region: ", "us-iso-east-1", true},
        {"ses: {region: ", "eu-central", false},
        {"ses: {region: ", "eu--1", false},
        {"ses: {region: ", "eu-central-1-", false},
        {"ses: {region: ", "eu-central-123", false},
        {"ses: {region: ", "e-central-1", false},
        {"ses: {region: ", "eu-1", false},
        {"ses: {endpoint: ", "email.eu-central-1.api.aws", true},
        {"ses: {endpoint: ", "a..b", false},
        {"ses: {endpoint: ", ".a", false},
        {"ses: {endpoint: ", "'-a.b'", false},
        {"ses: {endpoint: ", "a-.b", false},
        {"ses: {endpoint: ", "a:443", false},
        {"ses: {endpoint: ", "a.", false},
        {"aws: {sts_endpoint: ", "a.", false},
        {"gateway: {host: ", "gw.example.", true},
        {"gateway: {host: ", "gw.example..", false},
        {"ses: {endpoint: ", "'.'", false},
        {"ses: {from_identity_arn: ", "arn:aws:ses:eu-west-1:123456789012:identity/a@b.example",
         true},
        {"ses: {from_identity_arn: ", "arn:aws:ses::123456789012:identity/a", false},
        {"ses: {from_identity_arn: ", "arn:aws:iam::123456789012:role/a", false},
        {"ses: {from_identity_arn: ", "arn:aws:ses:eu-west-1:123456789012:identity/", false},
        {"ses: {tenant: ", "a.b", false},
        {"aws: {role_arn: ", "'arn:aws:iam::123456789012:role/a/b+=,.@-_'", true},
        {"aws: {role_arn: ", "arn:aws:iam::123456789012:role/", false},
        {"aws: {role_arn: ", "arn:aws:iam::123456789012:role/a/", false},
        {"aws: {role_arn: ", "arn:aws:iam::123456789012:user/a", false},
        {"aws: {role_arn: ", "arn:aws:iam:eu-west-1:123456789012:role/a", false},
        {"aws: {role_arn: ", "arn:gcp:iam::123456789012:role/a", false},
        {"aws: {role_arn: ", "arn:aws:iam::12345678901x:role/a", false},
        {"aws: {role_arn: ", "arn:aws:iam", false},
        {"aws: {session_name: ", "ab", true},
        {"aws: {session_name: ", "a", false},
        {"aws: {session_name: ", "a/b", false},
        {"aws: {audience: ", "'a b'", false},
        {"gateway: {host: ", "10.0.0.1", true},
        {"gateway: {host: ", "'::1'", true},
        {"gateway: {host: ", "'[::1]'", false},
        {"gateway: {host: ", "'gw:9443'", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        AUTO_FREE char *text = xasprintf("%s%s}\n", cases[i].key, cases[i].value);
        struct config *c;
        struct err e = {0};
        assert_false(
            config_parse("f", str_from(text), &c, &e)); /* something required is missing at least */
        if ((strstr(e.msg, "is missing") != NULL) != cases[i].is_good)
            fail_msg("%s: %s", cases[i].value, e.msg);
    }
}

TEST(config, what_yaml_allows_and_nobody_needs_is_refused)
{
    static const struct refusal cases[] = {
        {"log: &a {level: info}\n",
         "f.yaml:1:6: anchors and aliases are not used here; write the value out"},
        {"log:\n  level: *a\n",
         "f.yaml:2:10: anchors and aliases are not used here; write the value out"},
        {"log: {level: !!str info}\n",
         "f.yaml:1:14: tags are not used here; write the value without !"},
        {"log: !x {level: info}\n",
         "f.yaml:1:6: tags are not used here; write the value without !"},
        {NEEDED "---\nlog: {}\n", "f.yaml:4:1: a second YAML document; allowed: one"},
        {NEEDED "...\n---\n", "f.yaml:5:1: a second YAML document; allowed: one"},
    };
    assert_all_refused(cases, ARRAY_LEN(cases));
}

TEST(config, a_byte_order_mark_is_skipped_and_counts_in_no_place)
{
    struct config *c = parse("\xef\xbb\xbf" NEEDED);
    assert_string_equal(c->ses.region, "eu-central-1");
    config_free(&c);
    assert_refused(
        "\xef\xbb\xbflog: {level: loud}\n",
        "f.yaml:1:14: log.level: \"loud\" is none of the words known here; allowed: debug, "
        "info, warn, error");
    assert_refused("\xef\xbb\xbflog: \x01\n",
                   "f.yaml:1:6: control characters are not allowed; allowed: UTF-8 without control "
                   "characters");
}

TEST(config, broken_yaml_is_placed)
{
    static const struct refusal cases[] = {
        {"smtp:\n\tlisten: []\n", "f.yaml:2:1: a tab; YAML is indented by spaces only"},
        {"smtp:\n  auth: none\n\tlisten: []\n",
         "f.yaml:3:1: a tab; YAML is indented by spaces only"},
        {"log: {level: info\n", "f.yaml:2:1: no valid YAML: did not find expected ',' or '}', "
                                "while parsing a flow mapping"},
        {"log: \"info\n", "f.yaml:2:1: no valid YAML: found unexpected end of stream, while "
                          "scanning a quoted scalar"},
        {"log:\n  level: info\n format: text\n",
         "f.yaml:3:2: no valid YAML: did not find expected key, while parsing a block mapping"},
        {"log:\n  level: \xff\n",
         "f.yaml:2:10: invalid leading UTF-8 octet; allowed: UTF-8 without control characters"},
        {"log:\n  level: a\x01\n", "f.yaml:2:11: control characters are not allowed; allowed: "
                                   "UTF-8 without control characters"},
    };
    assert_all_refused(cases, ARRAY_LEN(cases));
}

TEST(config, what_is_required_and_missing_is_placed_at_its_section)
{
    static const struct refusal cases[] = {
        {"", "f.yaml:1:1: gateway.host: is missing; the egress gateway's name or IP address"},
        {"# nothing\n",
         "f.yaml:1:1: gateway.host: is missing; the egress gateway's name or IP address"},
        {"log: {}\n\ngateway:\n  spiffe_ids: [spiffe://example.org/gw]\n",
         "f.yaml:4:3: gateway.host: is missing; the egress gateway's name or IP address"},
        {"gateway:\n  host: gw\n", "f.yaml:2:3: gateway.spiffe_ids: is missing; who the gateway "
                                   "must be: one of these SPIFFE IDs, exactly"},
        {GATEWAY "ses: {tenant: a}\n",
         "f.yaml:2:6: ses.region: is missing; route ses-api needs the AWS region, as eu-central-1"},
        {GATEWAY "ses: {region: ''}\n", "f.yaml:2:15: ses.region: is missing; route ses-api needs "
                                        "the AWS region, as eu-central-1"},
        {GATEWAY "ses: {region: eu-west-1}\n",
         "f.yaml:1:1: aws.role_arn: is missing; source web-identity needs the IAM role, as "
         "arn:aws:iam::ACCOUNT:role/NAME"},
    };
    assert_all_refused(cases, ARRAY_LEN(cases));
}

TEST(config, an_address_that_is_there_twice_is_refused)
{
    static const struct refusal cases[] = {
        {NEEDED "smtp:\n  listen:\n  - 127.0.0.1:2525\n  - '[::1]:2525'\n  - 127.0.0.1:2525\n",
         "f.yaml:8:5: smtp.listen: \"127.0.0.1:2525\" is there twice; allowed: each address once"},
        {NEEDED "smtp:\n  listen: ['[::1]:2525', '[0:0::1]:2525']\n",
         "f.yaml:5:26: smtp.listen: \"[0:0::1]:2525\" is there twice; allowed: each address once"},
        {NEEDED "smtp:\n  listen: ['unix:/a', 'unix:/a']\n",
         "f.yaml:5:23: smtp.listen: \"unix:/a\" is there twice; allowed: each address once"},
    };
    assert_all_refused(cases, ARRAY_LEN(cases));
    struct config *c =
        parse(NEEDED "smtp: {listen: ['127.0.0.1:1', '127.0.0.1:2', '127.0.0.2:1', '[::1]:1', "
                     "'unix:/a', 'unix:/b']}\n");
    config_free(&c);
}

TEST(config, an_address_others_can_reach_is_refused_unless_forced)
{
    static const char *const open_ones[] = {"0.0.0.0:2525", "[::]:2525", ":2525", "10.1.2.3:2525",
                                            "[fd00::1]:25"};
    for (size_t i = 0; i < ARRAY_LEN(open_ones); i++) {
        AUTO_FREE char *text =
            xasprintf(NEEDED "smtp:\n  listen:\n  - 127.0.0.1:1\n  - '%s'\n", open_ones[i]);
        AUTO_FREE char *message = xasprintf(
            "f.yaml:7:5: smtp.listen: \"%s\" can be reached from outside of the pod, and there is "
            "no password; "
            "allowed: 127.0.0.1:PORT, [::1]:PORT, unix:/PATH, or smtp.allow_any_address: true",
            open_ones[i]);
        assert_refused(text, message);
        AUTO_FREE char *forced = xasprintf("%s  allow_any_address: true\n", text);
        struct config *c = parse(forced);
        assert_int_equal(c->smtp.n_addresses, 2);
        config_free(&c);
    }
}

TEST(config, what_would_be_ignored_by_this_version_is_refused)
{
    static const struct refusal cases[] = {
        {"route: smtp\n",
         "f.yaml:1:8: route: not in this version: ses-api is the only route yet; allowed: ses-api"},
        {"aws: {source: roles-anywhere}\n",
         "f.yaml:1:15: aws.source: not in this version: web-identity is the only source yet; "
         "allowed: web-identity"},
        {"upstream: {host: smtp.example}\n", "f.yaml:1:18: upstream.host: not in this version: "
                                             "ses-api is the only route yet; allowed: \"\""},
        {"delivery: {reply: queued}\n", "f.yaml:1:19: delivery.reply: not in this version: there "
                                        "is no spool yet, so a reply waits for SES's "
                                        "verdict; allowed: verdict"},
        {"delivery: {patience: 5s}\n", "f.yaml:1:22: delivery.patience: not in this version: there "
                                       "is no spool yet, so a reply waits for SES's "
                                       "verdict; allowed: 4s"},
        {NEEDED "delivery: {spool: {path: /var/spool/svidmail}}\n",
         "f.yaml:4:26: delivery.spool.path: not in this version: there is no spool yet; allowed: "
         "\"\""},
    };
    assert_all_refused(cases, ARRAY_LEN(cases));
}

TEST(config, the_default_written_out_is_no_mistake)
{
    struct config *c =
        parse(NEEDED "route: ses-api\nupstream: {host: ''}\n"
                     "delivery: {reply: verdict, patience: 4000ms, max_age: 96h, rate_share: 0}\n");
    assert_int_equal(c->delivery.patience_ms, 4000);
    config_free(&c);
}

TEST(config, lists_and_tags_are_bounded)
{
    struct buf text;
    struct config *c;
    struct err e = {0};
    buf_init(&text, 4096);
    for (int i = 0; i < 17; i++)
        assert_true(buf_printf(&text, "%s'127.0.0.1:25'", i == 0 ? "smtp: {listen: [" : ", "));
    assert_true(buf_printf(&text, "]}\n"));
    assert_false(config_parse("f", buf_str(&text), &c, &e));
    assert_string_equal(
        e.msg, "f:1:273: smtp.listen: \"127.0.0.1:25\" is one too many; allowed: a list of 1 to 16 "
               "strings, as [a, b]");
    buf_clear(&text);
    for (int i = 0; i < 51; i++)
        assert_true(buf_printf(&text, "%st%02d: v", i == 0 ? "ses: {tags: {" : ", ", i));
    assert_true(buf_printf(&text, "}}\n"));
    assert_false(config_parse("f", buf_str(&text), &c, &e));
    assert_string_equal(
        e.msg,
        "f:1:419: ses.tags: \"t50\" is one too many; allowed: at most 50 names with values, as "
        "{name: value}");
    buf_release(&text);
}

TEST(config, a_long_file_name_leaves_room_for_the_message)
{
    char name[2000];
    memset(name, 'd', sizeof name);
    memcpy(name + 1990, "/f.yaml", 8);
    struct config *c;
    struct err e = {0};
    assert_false(config_parse(name, STR("log: {level: x}\n"), &c, &e));
    assert_int_equal(strncmp(e.msg, "...dddd", 7), 0);
    assert_non_null(strstr(e.msg,
                           "dd/f.yaml:1:14: log.level: \"x\" is none of the words known here; "
                           "allowed: debug, info, warn, error"));
}

TEST(config, no_truncation_and_no_changed_byte_of_a_good_file_crashes)
{
    size_t len = sizeof full - 1;
    for (size_t i = 0; i <= len; i++) {
        struct config *c = NULL;
        (void)!config_parse("f", (struct str){full, i}, &c, &(struct err){0});
        config_free(&c);
    }
    static const char bytes[] = "\0\t\n:{[&\"\xff";
    AUTO_FREE char *copy = xstrdup(full);
    for (size_t i = 0; i < len; i++) {
        for (size_t j = 0; j < sizeof bytes; j++) {
            struct config *c = NULL;
            copy[i] = bytes[j];
            (void)!config_parse("f", (struct str){copy, len}, &c, &(struct err){0});
            config_free(&c);
        }
        copy[i] = full[i];
    }
}

/* --- files */

static char *write_temporary(const char *bytes, size_t len)
{
    char *name = xstrdup("/tmp/svidmail-config-XXXXXX");
    AUTO_CLOSE int fd = mkstemp(name);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, len), len);
    return name;
}

TEST(config, a_file_is_read_and_named_in_messages)
{
    AUTO_FREE char *good = write_temporary(NEEDED, sizeof NEEDED - 1);
    struct config *c;
    struct err e = {0};
    assert_true(config_load(good, &c, &e));
    assert_string_equal(c->gateway.host, "gw.example");
    config_free(&c);
    unlink(good);
    AUTO_FREE char *bad = write_temporary("x", 1);
    assert_false(config_load(bad, &c, &e));
    assert_null(c);
    AUTO_FREE char *begins = xasprintf("%s:1:1: not a mapping", bad);
    assert_int_equal(strncmp(e.msg, begins, strlen(begins)), 0);
    unlink(bad);
}

TEST(config, a_file_that_cannot_be_read_says_why)
{
    struct config *c;
    struct err e = {0};
    assert_false(config_load("/nonexistent/svidmail.yaml", &c, &e));
    assert_string_equal(e.msg, "/nonexistent/svidmail.yaml: No such file or directory");
    assert_false(config_load("/tmp", &c, &e));
    assert_string_equal(e.msg, "/tmp: Is a directory");
}

TEST(config, a_file_over_a_mebibyte_is_refused)
{
    size_t len = CONFIG_FILE_MAX_BYTES + 1;
    AUTO_FREE char *bytes = xcalloc(len, 1);
    memset(bytes, '\n', len);
    memcpy(bytes, NEEDED, sizeof NEEDED - 1);
    AUTO_FREE char *file = write_temporary(bytes, len);
    struct config *c;
    struct err e = {0};
    assert_false(config_load(file, &c, &e));
    assert_int_equal(e.code, ERR_LIMIT);
    assert_non_null(strstr(e.msg, ": too large; allowed: 1048576 bytes"));
    assert_int_equal(truncate(file, CONFIG_FILE_MAX_BYTES), 0);
    assert_true(config_load(file, &c, &e));
    config_free(&c);
    unlink(file);
}

/* --- the table */

TEST(config, every_key_has_help_and_a_default_that_parses)
{
    size_t n;
    const struct config_key *keys = config_keys(&n);
    for (size_t i = 0; i < n; i++) {
        assert_non_null(keys[i].help);
        assert_true(strlen(keys[i].help) > 8);
        assert_ptr_equal(config_key_find(str_from(keys[i].path)), &keys[i]);
        for (size_t j = 0; j < i; j++)
            assert_int_not_equal(keys[i].offset, keys[j].offset);
    }
}

static char *read_manual(void)
{
    FILE *f = fopen(MANUAL, "r");
    assert_non_null(f);
    char *text = xcalloc(1 << 18, 1);
    assert_true(fread(text, 1, (1 << 18) - 1, f) > 0);
    fclose(f);
    return text;
}

static const char *preset_words(const struct config_key *k)
{
    const char *empty = k->type == CT_LIST ? "[]" : k->type == CT_TAGS ? "{}" : "\"\"";
    return k->preset[0] == '\0' ? empty : k->preset;
}

TEST(config, the_manual_describes_every_key_as_the_table_does)
{
    size_t n;
    const struct config_key *keys = config_keys(&n);
    AUTO_FREE char *manual = read_manual();
    for (size_t i = 0; i < n; i++) {
        char allowed[160];
        const struct config_key *k = &keys[i];
        AUTO_FREE char *block = xasprintf(
            "\n.TP\n.B %s\n%s.\n%s%s; %s.\n%s%s%s", k->path, k->help,
            k->is_required ? "Required" : "Default: ", k->is_required ? "" : preset_words(k),
            config_key_allowed(k, allowed, sizeof allowed),
            k->later == NULL ? "" : "Other values are not in this version: ",
            k->later == NULL ? "" : k->later, k->later == NULL ? "" : ".\n");
        if (strstr(manual, block) == NULL)
            fail_msg("docs/svidmail.yaml.5 lacks:%s", block);
    }
    size_t n_described = 0;
    for (const char *at = manual; (at = strstr(at, "\n.TP\n.B ")) != NULL; at++)
        n_described++;
    assert_int_equal(n_described, n);
}

TEST(config, suggestions_are_near_or_not_made)
{
    static const struct {
        const char *word, *best;
    } cases[] = {
        {"lisen", "listen"}, {"LISTEN", "listen"}, {"listn", "listen"}, {"ots", ""},
        {"x", ""},           {"t", "to"},          {"atob", ""},        {"xyzzy", ""},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct suggestion s;
        suggest_init(&s, str_from(cases[i].word));
        suggest_offer(&s, STR("to"));
        suggest_offer(&s, STR("listen"));
        assert_true(str_eq(s.best, str_from(cases[i].best)));
    }
}
