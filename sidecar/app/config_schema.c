// SPDX-License-Identifier: Apache-2.0
#include "app/config_schema.h"
#include "app/config_check.h"
#include "app/suggest.h"
#include "base/buf.h"

#include <stdio.h>
#include <string.h>

#define KIB    1024ull
#define MIB    (1024 * KIB)
#define GIB    (1024 * MIB)
#define SECOND 1000ull
#define MINUTE (60 * SECOND)
#define HOUR   (60 * MINUTE)
#define DAY    (24 * HOUR)
#define AT(f)  offsetof(struct config, f)

#define NO_SPOOL "there is no spool yet, so a reply waits for SES's verdict"
#define NO_ROUTE "ses-api is the only route yet"
#define NO_ROLES "web-identity is the only source yet"

/* Rows in the order of the manual.  Which columns a row uses is said at enum config_type. */
// clang-format off
static const struct config_key keys[] = {
    {"identity.endpoint", CT_STRING, AT(identity.endpoint), "", 0, 107, .check = check_endpoint,
     .help = "the Workload API: unix:///path or tcp://IP:PORT; empty: $SPIFFE_ENDPOINT_SOCKET"},
    {"identity.mesh.spiffe_id", CT_STRING, AT(identity.mesh.spiffe_id), "", 0, SPIFFE_ID_MAX, .check = check_spiffe_id,
     .help = "the SVID shown to the gateway; empty: the only one offered"},
    {"identity.mesh.hint", CT_STRING, AT(identity.mesh.hint), "", 0, 1024,
     .help = "as spiffe_id, chosen by the hint its entry carries"},
    {"identity.aws.spiffe_id", CT_STRING, AT(identity.aws.spiffe_id), "", 0, SPIFFE_ID_MAX, .check = check_spiffe_id,
     .help = "the SVID shown to AWS; empty: as for the gateway"},
    {"identity.aws.hint", CT_STRING, AT(identity.aws.hint), "", 0, 1024,
     .help = "as spiffe_id, chosen by the hint its entry carries"},

    {"smtp.listen", CT_LIST, AT(smtp.listen), "127.0.0.1:2525 [::1]:2525", 1, 16, .check = check_listen,
     .help = "where the app finds us: IP:PORT or unix:/PATH"},
    {"smtp.max_message_bytes", CT_SIZE, AT(smtp.max_message_bytes), "29000000", KIB, 40 * MIB,
     .help = "the largest mail taken; SES takes 40 MB after base64"},
    {"smtp.max_recipients", CT_NUMBER, AT(smtp.max_recipients), "1000", 1, 10000,
     .help = "recipients of one mail; the next one gets 452. This version takes 50 at most"},
    {"smtp.max_connections", CT_NUMBER, AT(smtp.max_connections), "256", 1, 10000,
     .help = "sessions at a time; the next one gets 421"},
    {"smtp.idle_timeout", CT_DURATION, AT(smtp.idle_timeout_ms), "10m", SECOND, DAY,
     .help = "a silent session is closed after this; RFC 5321 asks for 5m or more"},
    {"smtp.auth", CT_WORD, AT(smtp.auth), "none", .words = "none|accept-any",
     .help = "accept-any: AUTH is offered and believes everybody, for apps that insist on it"},
    {"smtp.bare_newline", CT_WORD, AT(smtp.bare_newline), "normalize", .words = "normalize|reject",
     .help = "what becomes of a line that ends in LF alone"},
    {"smtp.allow_any_address", CT_BOOL, AT(smtp.allow_any_address), "false",
     .help = "true: smtp.listen may name addresses that others can reach. There is no password: whoever reaches it sends as you"},
    {"smtp.allow_host_network", CT_BOOL, AT(smtp.allow_host_network), "false",
     .help = "true: start on the node's own network, where every process of the node reaches the loopback"},

    {"gateway.host", CT_STRING, AT(gateway.host), "", 1, 253, .check = check_host, .is_required = true,
     .help = "the egress gateway's name or IP address"},
    {"gateway.spiffe_ids", CT_LIST, AT(gateway.spiffe_ids), "", 1, 16, .check = check_spiffe_id, .is_required = true,
     .help = "who the gateway must be: one of these SPIFFE IDs, exactly"},
    {"gateway.ports.api", CT_NUMBER, AT(gateway.port_api), "9443", 1, 65535,
     .help = "its port for HTTP that it wraps into TLS to AWS"},
    {"gateway.ports.end_to_end", CT_NUMBER, AT(gateway.port_end_to_end), "9444", 1, 65535,
     .help = "its port for TLS that it passes on to AWS unread"},
    {"gateway.ports.smtp", CT_NUMBER, AT(gateway.port_smtp), "9465", 1, 65535,
     .help = "its port for SMTP"},
    {"gateway.tls", CT_WORD, AT(gateway.tls), "gateway", .words = "gateway|end-to-end",
     .help = "who speaks TLS to SES: the gateway (it can read mail) or svidmail. Credentials always go end to end"},
    {"gateway.max_connections", CT_NUMBER, AT(gateway.max_connections), "16", 1, 256,
     .help = "connections per destination; one mail is in flight on each"},

    {"route", CT_WORD, AT(route), "ses-api", .words = "ses-api|smtp|ses-smtp", .later = NO_ROUTE,
     .help = "the way to SES"},

    {"ses.region", CT_STRING, AT(ses.region), "", 0, 32, .check = check_region,
     .help = "the AWS region of the SES identity; required for route ses-api"},
    {"ses.configuration_set", CT_STRING, AT(ses.configuration_set), "", 0, 64, .check = check_ses_name,
     .help = "SES configuration set of every mail; empty: none"},
    {"ses.tags", CT_TAGS, AT(ses.tags), "", 0, 50, .check = check_tag,
     .help = "SES message tags of every mail, as name: value"},
    {"ses.from_identity_arn", CT_STRING, AT(ses.from_identity_arn), "", 0, 512, .check = check_ses_arn,
     .help = "SES identity of another account to send as (sending authorization)"},
    {"ses.tenant", CT_STRING, AT(ses.tenant), "", 0, 64, .check = check_ses_name,
     .help = "SES tenant of every mail; empty: none"},
    {"ses.endpoint", CT_STRING, AT(ses.endpoint), "", 0, 253, .check = check_dns_name,
     .help = "another host than email.<region>.amazonaws.com (FIPS, dual-stack, VPC endpoint)"},
    {"ses.allow_headers", CT_LIST, AT(ses.allow_headers), "", 0, 32, .check = check_ses_header,
     .help = "the app's own X-SES-* headers that are let through; all others are removed"},

    {"aws.source", CT_WORD, AT(aws.source), "web-identity", .words = "web-identity|roles-anywhere", .later = NO_ROLES,
     .help = "where temporary AWS credentials come from: STS by a JWT-SVID, or IAM Roles Anywhere by an X.509-SVID"},
    {"aws.role_arn", CT_STRING, AT(aws.role_arn), "", 0, 2048, .check = check_role_arn,
     .help = "the IAM role to assume; required for route ses-api"},
    {"aws.session_name", CT_STRING, AT(aws.session_name), "", 0, 64, .check = check_session_name,
     .help = "the role session's name in CloudTrail; empty: made from the SPIFFE ID"},
    {"aws.duration", CT_DURATION, AT(aws.duration_ms), "1h", 15 * MINUTE, 12 * HOUR,
     .help = "life of the credentials; the role's own maximum may be lower"},
    {"aws.sts_region", CT_STRING, AT(aws.sts_region), "", 0, 32, .check = check_region,
     .help = "the region whose STS is asked; empty: as ses.region"},
    {"aws.sts_endpoint", CT_STRING, AT(aws.sts_endpoint), "", 0, 253, .check = check_dns_name,
     .help = "another host than sts.<region>.amazonaws.com"},
    {"aws.ca_file", CT_STRING, AT(aws.ca_file), "", 0, 4096, .check = check_absolute,
     .help = "PEM file with the roots for TLS to AWS; empty: the system's"},
    {"aws.audience", CT_STRING, AT(aws.audience), "sts.amazonaws.com", 1, 255, .check = check_visible,
     .help = "audience of the JWT-SVID: the client id of the IAM OIDC provider"},
    {"aws.roles_anywhere.trust_anchor_arn", CT_STRING, AT(aws.trust_anchor_arn), "", 0, 2048, .later = NO_ROLES,
     .help = "IAM Roles Anywhere trust anchor"},
    {"aws.roles_anywhere.profile_arn", CT_STRING, AT(aws.profile_arn), "", 0, 2048, .later = NO_ROLES,
     .help = "IAM Roles Anywhere profile"},

    {"upstream.host", CT_STRING, AT(upstream.host), "", 0, 253, .check = check_dns_name, .later = NO_ROUTE,
     .help = "routes smtp and ses-smtp: the server's name"},
    {"upstream.credentials_file", CT_STRING, AT(upstream.credentials_file), "", 0, 4096, .check = check_absolute, .later = NO_ROUTE,
     .help = "route ses-smtp: file with user and password"},

    {"delivery.reply", CT_WORD, AT(delivery.reply), "verdict", .words = "verdict|queued", .later = NO_SPOOL,
     .help = "what 250 means to the app: SES has taken the mail, or it is safe on disk"},
    {"delivery.patience", CT_DURATION, AT(delivery.patience_ms), "4s", 0, 10 * MINUTE, .later = NO_SPOOL,
     .help = "how long a reply waits for the verdict before the mail is queued"},
    {"delivery.spool.path", CT_STRING, AT(delivery.spool_path), "/var/spool/svidmail", 0, 4096, .check = check_absolute,
     .help = "directory of the spool; empty: none. This version has none and takes only \"\""},
    {"delivery.spool.max_bytes", CT_SIZE, AT(delivery.spool_max_bytes), "1GiB", 16 * MIB, 1024 * GIB, .later = NO_SPOOL,
     .help = "room the spool may use"},
    {"delivery.spool.reserve", CT_PERCENT, AT(delivery.spool_reserve_percent), "10%", 0, 90, .later = NO_SPOOL,
     .help = "part of the file system that the spool leaves free"},
    {"delivery.max_age", CT_DURATION, AT(delivery.max_age_ms), "4d", MINUTE, 14 * DAY, .later = NO_SPOOL,
     .help = "a queued mail is given up after this"},
    {"delivery.operator_grace", CT_DURATION, AT(delivery.operator_grace_ms), "30m", 0, DAY, .later = NO_SPOOL,
     .help = "how long a refusal that the set-up caused is tried again before it is final"},
    {"delivery.rate_share", CT_NUMBER, AT(delivery.rate_share), "0", 0, 100000, .later = NO_SPOOL,
     .help = "recipients per second of this pod; 0: learned"},

    {"policy.senders", CT_LIST, AT(policy.senders), "", 0, 1000, .check = policy_pattern_check,
     .help = "senders let through in MAIL FROM: user@domain, @domain or *; empty: any. A help, no boundary: SES sends as "
             "the header From says"},
    {"policy.recipients.allow", CT_LIST, AT(policy.recipients_allow), "", 0, 1000, .check = policy_pattern_check,
     .help = "recipients let through, as policy.senders; empty: any"},
    {"policy.recipients.deny", CT_LIST, AT(policy.recipients_deny), "", 0, 1000, .check = policy_pattern_check,
     .help = "recipients refused, even if allowed"},

    {"admin.socket", CT_STRING, AT(admin.socket), CONFIG_DEFAULT_SOCKET, 0, 107, .check = check_absolute,
     .help = "unix socket of the subcommands that ask a running svidmail; empty: none"},
    {"admin.metrics_listen", CT_STRING, AT(admin.metrics_listen), ":9925", 0, 64, .check = check_metrics_listen,
     .help = "where Prometheus scrapes /metrics: IP:PORT or :PORT; empty: nowhere"},

    {"log.level", CT_WORD, AT(log.level), "info", .words = "debug|info|warn|error",
     .help = "the least level that is written"},
    {"log.format", CT_WORD, AT(log.format), "json", .words = "json|text",
     .help = "text is for people"},
    {"log.recipients", CT_WORD, AT(log.recipients), "hash", .words = "hash|full|off",
     .help = "how the log shows recipients"},
};
// clang-format on

_Static_assert(ARRAY_LEN(keys) <= CONFIG_KEYS_MAX, "raise CONFIG_KEYS_MAX");

const struct config_key *config_keys(size_t *n)
{
    *n = ARRAY_LEN(keys);
    return keys;
}

const struct config_key *config_key_find(struct str path)
{
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        if (str_eq(path, str_from(keys[i].path)))
            return &keys[i];
    return NULL;
}

static bool is_below(const struct config_key *k, struct str section)
{
    return section.len == 0 ||
           (str_starts_with(str_from(k->path), section) && k->path[section.len] == '.');
}

bool config_section_exists(struct str path)
{
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        if (is_below(&keys[i], path))
            return true;
    return false;
}

static const char *format_duration(uint64_t ms, char *out, size_t cap)
{
    static const struct {
        uint64_t ms;
        const char *name;
    } units[] = {{DAY, "d"}, {HOUR, "h"}, {MINUTE, "m"}, {SECOND, "s"}, {1, "ms"}};
    size_t i = ms == 0 ? 3 : 0;
    while (ms % units[i].ms != 0)
        i++;
    snprintf(out, cap, "%llu%s", (unsigned long long)(ms / units[i].ms), units[i].name);
    return out;
}

static const char *format_size(uint64_t bytes, char *out, size_t cap)
{
    static const struct {
        uint64_t bytes;
        const char *name;
    } units[] = {{GIB, "GiB"}, {MIB, "MiB"}, {KIB, "KiB"}, {1, ""}};
    size_t i = bytes == 0 ? 3 : 0;
    while (bytes % units[i].bytes != 0)
        i++;
    snprintf(out, cap, "%llu%s", (unsigned long long)(bytes / units[i].bytes), units[i].name);
    return out;
}

static void format_words(const char *words, char *out, size_t cap)
{
    size_t at = (size_t)snprintf(out, cap, "allowed: ");
    for (; *words != '\0' && at + 3 < cap; words++) {
        if (*words == '|')
            out[at++] = ',';
        out[at++] = *words == '|' ? ' ' : *words;
    }
    out[at] = '\0';
}

const char *config_key_allowed(const struct config_key *k, char *out, size_t cap)
{
    char low[32], high[32];
    unsigned long long min = k->min, max = k->max;
    switch (k->type) {
    case CT_STRING:
        snprintf(out, cap, "allowed: a string of %llu to %llu bytes", min, max);
        break;
    case CT_BOOL:
        snprintf(out, cap, "allowed: true, false");
        break;
    case CT_NUMBER:
        snprintf(out, cap, "allowed: a whole number from %llu to %llu", min, max);
        break;
    case CT_PERCENT:
        snprintf(out, cap, "allowed: a percentage from %llu%% to %llu%%", min, max);
        break;
    case CT_SIZE:
        snprintf(out, cap, "allowed: a size from %s to %s, in bytes or with KiB, MiB, GiB",
                 format_size(min, low, sizeof low), format_size(max, high, sizeof high));
        break;
    case CT_DURATION:
        snprintf(out, cap, "allowed: a duration from %s to %s, as 500ms, 4s, 10m, 1h or 4d",
                 format_duration(min, low, sizeof low), format_duration(max, high, sizeof high));
        break;
    case CT_WORD:
        format_words(k->words, out, cap);
        break;
    case CT_LIST:
        snprintf(out, cap, "allowed: a list of %llu to %llu strings, as [a, b]", min, max);
        break;
    case CT_TAGS:
        snprintf(out, cap, "allowed: at most %llu names with values, as {name: value}", max);
        break;
    }
    return out;
}

/* The part of k's path that stands directly below section: "idle_timeout", or "mesh" of
 * "identity.mesh.hint". */
static struct str child_of(const struct config_key *k, struct str section)
{
    struct str rest = str_from(k->path + (section.len == 0 ? 0 : section.len + 1));
    return str_sub(rest, 0, str_index(rest, '.'));
}

static const char *last_part(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot == NULL ? path : dot + 1;
}

static void list_children(struct str section, char *out, size_t cap)
{
    struct str before = STR("");
    size_t at = (size_t)snprintf(out, cap, "known here: ");
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        struct str child = is_below(&keys[i], section) ? child_of(&keys[i], section) : before;
        if (str_eq(child, before) || at + child.len + 3 > cap)
            continue;
        at += (size_t)snprintf(out + at, cap - at, "%s%.*s", before.len == 0 ? "" : ", ",
                               (int)child.len, child.p);
        before = child;
    }
}

const char *config_key_suggest(struct str section, struct str key, char *out, size_t cap)
{
    if (str_index(key, '.') < key.len) {
        snprintf(out, cap, "sections are nested mappings, not names with dots");
        return out;
    }
    struct suggestion s;
    suggest_init(&s, key);
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        if (is_below(&keys[i], section))
            suggest_offer(&s, child_of(&keys[i], section));
    if (s.best.len > 0) {
        snprintf(out, cap, "did you mean %.*s%s%.*s?", (int)section.len, section.p,
                 section.len == 0 ? "" : ".", (int)s.best.len, s.best.p);
        return out;
    }
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        if (str_eq_nocase(key, str_from(last_part(keys[i].path)))) {
            snprintf(out, cap, "did you mean %s?", keys[i].path);
            return out;
        }
    list_children(section, out, cap);
    return out;
}
