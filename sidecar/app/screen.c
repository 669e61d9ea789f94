// SPDX-License-Identifier: Apache-2.0
#include "app/screen.h"
#include "base/mem.h"
#include "base/str.h"

#include <string.h>

#define TEXT_MAX 600
#define SPAN_MAX 32

const char *screen_text(const json_t *o, const char *key, char *out, size_t cap)
{
    return str_escape(out, cap, str_from(json_string_value(json_object_get(o, key))));
}

static int64_t number(const json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

const char *screen_span(int64_t s, char *out, size_t cap)
{
    static const struct {
        int64_t s;
        const char *name;
    } units[] = {{86400, "d"}, {3600, "h"}, {60, "min"}, {1, "s"}};
    long long left = s < 0 ? -s : s;
    size_t i = 0;
    while (i < 3 && left < units[i].s)
        i++;
    size_t at = (size_t)snprintf(out, cap, "%lld %s", left / units[i].s, units[i].name);
    left %= units[i].s;
    if (i < 2 && left >= units[i + 1].s && at < cap)
        snprintf(out + at, cap - at, " %lld %s", left / units[i + 1].s, units[i + 1].name);
    return out;
}

static void print_row(FILE *to, const char *name, const char *value)
{
    if (value[0] != '\0')
        fprintf(to, "  %-13s%s\n", name, value);
}

static void print_text(FILE *to, const char *name, const json_t *o, const char *key)
{
    char text[TEXT_MAX];
    print_row(to, name, screen_text(o, key, text, sizeof text));
}

/* "life left" or "expired": what it is about, then for how long. */
static const char *life(const json_t *o, char *out, size_t cap)
{
    char span[SPAN_MAX];
    int64_t s = number(o, "expires_in_s");
    screen_span(s, span, sizeof span);
    snprintf(out, cap, s > 0 ? "%s left" : "expired %s ago", span);
    return out;
}

/* --- identity */

static void print_svid(FILE *to, const char *name, const json_t *o)
{
    char id[TEXT_MAX], hint[TEXT_MAX], left[64];
    screen_text(o, "spiffe_id", id, sizeof id);
    screen_text(o, "hint", hint, sizeof hint);
    if (json_object_get(o, "error") != NULL) {
        fprintf(to, "  %-13s%s\n", name, screen_text(o, "error", id, sizeof id));
        return;
    }
    fprintf(to, "  %-13s%s%s%s%s (%s)\n", name, id, hint[0] == '\0' ? "" : " \"", hint,
            hint[0] == '\0' ? "" : "\"", life(o, left, sizeof left));
}

static const char *raw_text(const json_t *o, const char *key)
{
    const char *z = json_string_value(json_object_get(o, key));
    return z == NULL ? "" : z;
}

static void print_agent(FILE *to, const json_t *identity)
{
    char endpoint[TEXT_MAX];
    if (json_object_get(identity, "connected") == NULL)
        return;
    fprintf(to, "  %-13s%s, %s, generation %lld\n", "Agent",
            screen_text(identity, "endpoint", endpoint, sizeof endpoint),
            json_is_true(json_object_get(identity, "connected")) ? "connected" : "not connected",
            (long long)number(identity, "generation"));
    /* mostly the same trouble: told once */
    const char *mesh_error = raw_text(json_object_get(identity, "mesh"), "error");
    if (strstr(mesh_error, raw_text(identity, "last_error")) == NULL)
        print_text(to, "", identity, "last_error");
}

static void print_roles(FILE *to, const json_t *identity)
{
    const json_t *mesh = json_object_get(identity, "mesh");
    const json_t *aws = json_object_get(identity, "aws");
    if (mesh == NULL)
        return;
    if (json_equal(mesh, aws)) {
        print_svid(to, "Identity", mesh);
        return;
    }
    print_svid(to, "To gateway", mesh);
    print_svid(to, "To AWS", aws);
}

void screen_identity(const json_t *identity, FILE *to)
{
    const json_t *offered = json_object_get(identity, "offered");
    const json_t *bundles = json_object_get(identity, "bundles");
    print_agent(to, identity);
    print_roles(to, identity);
    for (size_t i = 0; i < json_array_size(offered); i++)
        print_svid(to, i == 0 ? "Offered" : "", json_array_get(offered, i));
    if (json_array_size(offered) == 0)
        print_row(to, "Offered", "nothing");
    for (size_t i = 0; i < json_array_size(bundles); i++) {
        const json_t *b = json_array_get(bundles, i);
        char domain[TEXT_MAX];
        fprintf(to, "  %-13s%s, %lld CAs%s%s\n", i == 0 ? "Bundles" : "",
                screen_text(b, "trust_domain", domain, sizeof domain), (long long)number(b, "cas"),
                json_is_true(json_object_get(b, "own")) ? ", our own" : "",
                json_is_true(json_object_get(b, "usable"))
                    ? ""
                    : ", not usable: this domain is not trusted");
    }
}

/* --- status */

static void print_pod(FILE *to, const json_t *pod)
{
    char age[SPAN_MAX];
    if (json_is_true(json_object_get(pod, "ending")))
        fprintf(to, "  %-13sis ending, announced %s ago; mail is taken until SIGTERM\n", "Pod",
                screen_span(number(pod, "announced_s"), age, sizeof age));
    if (json_is_true(json_object_get(pod, "shares_processes")))
        fprintf(to, "  %-13sshares its process namespace: other containers see svidmail; %s\n",
                "Pod",
                json_is_true(json_object_get(pod, "memory_open"))
                    ? "its memory and keys are open to root and to its uid"
                    : "its memory and files are closed to them without CAP_SYS_PTRACE");
}

static void print_smtp(FILE *to, const json_t *smtp)
{
    const json_t *listeners = json_object_get(smtp, "listeners");
    fprintf(to, "  %-13s", "SMTP");
    for (size_t i = 0; i < json_array_size(listeners); i++) {
        char text[TEXT_MAX];
        const char *z = json_string_value(json_array_get(listeners, i));
        fprintf(to, "%s ", str_escape(text, sizeof text, str_from(z)));
    }
    fprintf(to, "(%lld sessions)\n", (long long)number(smtp, "sessions"));
}

static void print_gateway(FILE *to, const json_t *gateway)
{
    char host[TEXT_MAX], tls[TEXT_MAX];
    fprintf(to, "  %-13s%s, TLS to SES by %s, %lld streams\n", "Gateway",
            screen_text(gateway, "host", host, sizeof host),
            strcmp(screen_text(gateway, "tls", tls, sizeof tls), "gateway") == 0 ? "the gateway"
                                                                                 : "svidmail",
            (long long)number(gateway, "streams"));
    print_text(to, "", gateway, "last_failure");
}

static void print_credentials(FILE *to, const json_t *c)
{
    char role[TEXT_MAX], left[64] = "none yet";
    if (json_is_true(json_object_get(c, "usable")))
        life(c, left, sizeof left);
    fprintf(to, "  %-13s%s (%s)\n", "Credentials", screen_text(c, "role_arn", role, sizeof role),
            left);
    print_text(to, "", c, "last_error");
}

static void print_mail(FILE *to, const json_t *m)
{
    char age[SPAN_MAX], outcome[TEXT_MAX], id[TEXT_MAX], text[TEXT_MAX];
    fprintf(to, "    %s ago  %s  %s in %lld ms\n        %lld %s\n",
            screen_span(number(m, "age_s"), age, sizeof age), screen_text(m, "mail", id, sizeof id),
            screen_text(m, "outcome", outcome, sizeof outcome), (long long)number(m, "took_ms"),
            (long long)number(m, "code"), screen_text(m, "text", text, sizeof text));
}

static void print_last(FILE *to, const json_t *last)
{
    fprintf(to, "  %-13s%s\n", "Last mails", json_array_size(last) == 0 ? "none yet" : "");
    for (size_t i = 0; i < json_array_size(last); i++)
        print_mail(to, json_array_get(last, i));
}

/* Not ready, or something has failed since it last went well. */
static bool is_troubled(const json_t *status)
{
    const json_t *last = json_array_get(json_object_get(status, "last"), 0);
    return !json_is_true(json_object_get(status, "ready")) ||
           json_object_get(json_object_get(status, "identity"), "last_error") != NULL ||
           json_object_get(json_object_get(status, "gateway"), "last_failure") != NULL ||
           json_object_get(json_object_get(status, "credentials"), "last_error") != NULL ||
           (last != NULL && number(last, "code") >= 400);
}

void screen_status(const json_t *status, FILE *to)
{
    char version[TEXT_MAX], commit[TEXT_MAX], up[SPAN_MAX], why[TEXT_MAX];
    fprintf(to, "svidmail %s (commit %s), up %s: %s%s\n",
            screen_text(status, "version", version, sizeof version),
            screen_text(status, "commit", commit, sizeof commit),
            screen_span(number(status, "uptime_s"), up, sizeof up),
            json_is_true(json_object_get(status, "ready")) ? "ready" : "not ready: ",
            screen_text(status, "not_ready_because", why, sizeof why));
    const json_t *identity = json_object_get(status, "identity");
    print_pod(to, json_object_get(status, "pod"));
    print_smtp(to, json_object_get(status, "smtp"));
    print_agent(to, identity);
    print_roles(to, identity);
    print_gateway(to, json_object_get(status, "gateway"));
    print_credentials(to, json_object_get(status, "credentials"));
    print_last(to, json_object_get(status, "last"));
    if (is_troubled(status))
        print_row(to, "Next", "`svidmail doctor' names what is wrong, why, and what to type");
}

/* --- the path of one mail */

void screen_path(const json_t *status, const json_t *mail, FILE *to)
{
    const json_t *identity = json_object_get(status, "identity");
    const json_t *gateway = json_object_get(status, "gateway");
    const json_t *credentials = json_object_get(status, "credentials");
    char a[TEXT_MAX], b[TEXT_MAX];
    print_text(to, "svidmail", mail, "mail");
    print_text(to, "shows itself", json_object_get(identity, "mesh"), "spiffe_id");
    bool was_seen = screen_text(mail, "gateway", b, sizeof b)[0] != '\0';
    fprintf(to, "  %-13s%s (%s)\n", "gateway", screen_text(gateway, "host", a, sizeof a),
            was_seen ? b : "its identity was not seen");
    print_text(to, "as role", credentials, "role_arn");
    print_text(to, "SES region", credentials, "region");
    print_text(to, "SES id", mail, "ses_message_id");
    fprintf(to, "  %-13s%s in %lld ms\n", "outcome", screen_text(mail, "outcome", a, sizeof a),
            (long long)number(mail, "took_ms"));
}
