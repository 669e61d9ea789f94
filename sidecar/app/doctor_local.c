// SPDX-License-Identifier: Apache-2.0
/* What needs no network: the configuration, the listeners, the agent, the SVIDs, the last mail.
 * The words for the agent's and the identities' troubles are identity's own. */
#include "app/doctor_exam.h"
#include "app/screen.h"
#include "aws/partition.h"
#include "base/mem.h"
#include "core/x509_svid.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROOTS_MAX_BYTES (1024u * 1024)
#define SPAN_MAX        32
#define OLD_PERCENT     20 /* SPIRE renews at half of the life */
#define SIGN_MAX        64

static const char *const role_names[SVID_ROLE_COUNT] = {[SVID_MESH] = "mesh", [SVID_AWS] = "aws"};

/* --- configuration */

void check_config_file(void *arg, struct doctor *d, unsigned what)
{
    (void)what;
    struct exam *x = arg;
    const char *file = x->s->config->file;
    struct config *again = NULL;
    struct err e;
    struct stat st;
    if (file == NULL) {
        doctor_skip(d, "because there is none");
        return;
    }
    if (!config_load(file, &again, &e)) {
        doctor_found(d, "config.broken", "%s", e.msg);
        return;
    }
    config_free(&again);
    int64_t changed_at_ms =
        stat(file, &st) == 0 ? (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000 : 0;
    if (changed_at_ms > x->s->started_at_ms)
        doctor_found(d, "config.changed", "%s was written after svidmail had read it", file);
    else
        doctor_ok(d, "%s", file);
}

/* "aws-cn" of "arn:aws-cn:iam::..." */
static struct str partition_of_arn(const char *arn)
{
    struct str s = str_from(arn);
    s = str_sub(s, str_index(s, ':') + 1, s.len);
    return str_sub(s, 0, str_index(s, ':'));
}

void check_config_values(void *arg, struct doctor *d, unsigned what)
{
    (void)what;
    const struct config *c = ((struct exam *)arg)->s->config;
    struct str of_role = partition_of_arn(c->aws.role_arn);
    const char *of_region = partition_of_region(str_from(c->ses.region))->name;
    if (!str_eq(of_role, str_from(of_region))) {
        doctor_found(d, "config.partition",
                     "ses.region %s is in the partition %s, aws.role_arn in %.*s", c->ses.region,
                     of_region, (int)of_role.len, of_role.p);
        return;
    }
    for (size_t i = 0; i < c->smtp.n_addresses; i++) {
        if (c->smtp.addresses[i].is_loopback)
            continue;
        doctor_found(d, "config.not_loopback",
                     "smtp.listen has %s: whoever reaches it can send mail as this pod",
                     c->smtp.listen[i]);
        return;
    }
    doctor_ok(d, "SES in %s, TLS to it by %s, as %s", c->ses.region,
              c->gateway.tls == CONFIG_TLS_GATEWAY ? "the gateway" : "svidmail", c->aws.role_arn);
}

/* How many PEM certificates; -1: it cannot be read (errno). */
static int count_roots(const char *file)
{
    static const struct str begin = {"-----BEGIN CERTIFICATE-----", 27};
    AUTO_CLOSE int fd = open(file, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd == -1 || fstat(fd, &st) == -1)
        return -1;
    size_t cap = (uint64_t)st.st_size < ROOTS_MAX_BYTES ? (size_t)st.st_size : ROOTS_MAX_BYTES;
    AUTO_FREE char *text = xcalloc(cap + 1, 1);
    ssize_t len = read(fd, text, cap);
    if (len == -1)
        return -1;
    int n = 0;
    const char *at = text, *end = text + len;
    while ((at = memmem(at, (size_t)(end - at), begin.p, begin.len)) != NULL) {
        at += begin.len;
        n++;
    }
    return n;
}

void check_config_roots(void *arg, struct doctor *d, unsigned what)
{
    (void)what;
    const char *file = ((struct exam *)arg)->s->config->aws.ca_file;
    bool is_own = file[0] != '\0';
    if (!is_own)
        file = "/etc/ssl/certs/ca-certificates.crt";
    int n = count_roots(file);
    if (n > 0)
        doctor_ok(d, "%d certificates in %s", n, file);
    else if (!is_own && n == -1)
        doctor_skip(d, "because the system's roots are not in %s", file);
    else if (n == -1)
        doctor_found(d, "config.ca_file", "%s: %s", file, strerror(errno));
    else
        doctor_found(d, "config.ca_file", "%s holds no PEM certificate", file);
}

/* The server names its listeners as the kernel does, which need not be as they were configured. */
/* What ":PORT" becomes where there is no IPv6. */
static bool is_all_of_ipv4(const struct listen_address *open, const struct listen_address *wanted)
{
    return wanted->kind == LISTEN_ALL && open->kind == LISTEN_IPV4 && open->port == wanted->port &&
           strcmp(open->host, "0.0.0.0") == 0;
}

static bool is_open(const struct doctor_sources *s, const struct listen_address *wanted)
{
    struct listen_address one;
    for (const char *const *open = smtp_server_listeners(s->smtp); *open != NULL; open++)
        if (listen_address_parse(str_from(*open), &one, NULL) &&
            (listen_address_same(&one, wanted) || is_all_of_ipv4(&one, wanted)))
            return true;
    return false;
}

/* A pod without IPv6 has no ::1, and misses nothing. */
void check_listeners(void *arg, struct doctor *d, unsigned what)
{
    (void)what;
    const struct doctor_sources *s = ((struct exam *)arg)->s;
    char text[512] = "";
    size_t at = 0;
    for (size_t i = 0; i < s->config->smtp.n_addresses; i++) {
        const char *address = s->config->smtp.listen[i];
        const struct listen_address *wanted = &s->config->smtp.addresses[i];
        bool is_here = is_open(s, wanted);
        bool is_optional = wanted->kind == LISTEN_IPV6 && s->config->smtp.n_addresses > 1;
        if (!is_here && !is_optional) {
            doctor_found(d, "listener.missing", "%s is not open", address);
            return;
        }
        int n = snprintf(text + at, sizeof text - at, "%s%s%s", i == 0 ? "" : ", ", address,
                         is_here ? "" : " (not here: no IPv6?)");
        at = n > 0 && at + (size_t)n < sizeof text ? at + (size_t)n : sizeof text - 1;
    }
    doctor_ok(d, "%s", text);
}

/* --- identity */

static bool is_trouble(const struct workload_api_status *s, const char *name)
{
    return strcmp(s->trouble, name) == 0;
}

/* Whether the agent answers at all; that it has nothing for us is the next check's. */
void check_agent(void *arg, struct doctor *d, unsigned what)
{
    (void)what;
    struct workload_api_status s;
    char sign[SIGN_MAX];
    workload_api_get_status(((struct exam *)arg)->s->workload_api, &s);
    if (is_trouble(&s, "permission_denied") || (s.is_connected && s.trouble[0] == '\0')) {
        doctor_ok(d, "%s answers", s.endpoint);
        return;
    }
    if (s.trouble[0] == '\0') {
        doctor_found(d, "agent.starting", "%s was asked just now", s.endpoint);
        return;
    }
    snprintf(sign, sizeof sign, "agent.%s", s.trouble);
    doctor_found(d, sign, "%s: %s", s.endpoint, s.last_error.msg);
}

static void list_offered(const struct svid_set *set, char *out, size_t cap)
{
    struct buf b;
    buf_init(&b, cap - 1);
    bool fits = true;
    for (size_t i = 0; i < set->n_svids && fits; i++) {
        const struct svid *v = &set->svids[i];
        bool is_hinted = v->hint[0] != '\0';
        fits = buf_printf(&b, "%s%s%s%s%s", i == 0 ? "" : ", ", v->id.text,
                          is_hinted ? " (hint " : "", v->hint, is_hinted ? ")" : "");
    }
    str_copy(out, cap, buf_str(&b));
    buf_release(&b);
}

/* What came before the agent was lost is still in use. */
void check_offered(void *arg, struct doctor *d, unsigned what)
{
    (void)what;
    const struct doctor_sources *s = ((struct exam *)arg)->s;
    const struct svid_set *set = svid_store_current(s->svids);
    struct workload_api_status status;
    char text[800];
    workload_api_get_status(s->workload_api, &status);
    if (is_trouble(&status, "permission_denied")) {
        doctor_found(d, set == NULL ? "agent.permission_denied" : "svid.denied", "%s",
                     status.last_error.msg);
    } else if (set == NULL) {
        doctor_blame(d, "agent.socket");
    } else {
        list_offered(set, text, sizeof text);
        doctor_ok(d, "%zu: %s", set->n_svids, text);
    }
}

/* Which of the reasons svid_store_select() has told. */
static const char *svid_sign(const struct config_identity_choice *choice, const struct err *e)
{
    if (e->code == ERR_EXPIRED)
        return strstr(e->msg, "is not valid before") != NULL ? "svid.early" : "svid.expired";
    if (e->code != ERR_DENIED)
        return "agent.starting";
    if (choice->spiffe_id[0] != '\0')
        return "svid.wrong_id";
    return choice->hint[0] != '\0' ? "svid.wrong_hint" : "svid.several";
}

static bool is_named(const struct config_identity_choice *choice)
{
    return choice->spiffe_id[0] != '\0' || choice->hint[0] != '\0';
}

void check_svid(void *arg, struct doctor *d, unsigned what)
{
    const struct doctor_sources *s = ((struct exam *)arg)->s;
    const struct config_identity_choice *choice =
        what == SVID_AWS && is_named(&s->config->identity.aws) ? &s->config->identity.aws
                                                               : &s->config->identity.mesh;
    struct svid_set *set = NULL;
    const struct svid *v;
    struct err e = {0};
    char left[SPAN_MAX];
    if (!svid_store_select(s->svids, (enum svid_role)what, &set, &v, &e)) {
        doctor_found(d, svid_sign(choice, &e), "%s", e.msg);
        return;
    }
    int64_t left_ms = v->not_after_ms - clock_wall_ms(s->clock);
    int64_t life_ms = v->not_after_ms - v->not_before_ms;
    screen_span(left_ms / 1000, left, sizeof left);
    if (left_ms < life_ms / 100 * OLD_PERCENT)
        doctor_found(d, "svid.old", "%s has only %s left", v->id.text, left);
    else
        doctor_ok(d, "%s, %s left%s%s", v->id.text, left,
                  is_named(choice) ? ", chosen by identity." : "",
                  is_named(choice) ? role_names[choice == &s->config->identity.aws] : "");
    svid_set_unref(&set);
}

/* When the last CA of a bundle ends; 0: it has none. */
static int64_t last_ca_ends_ms(X509_STORE *store)
{
    STACK_OF(X509_OBJECT) *objects = X509_STORE_get0_objects(store);
    int64_t last = 0;
    for (int i = 0; i < sk_X509_OBJECT_num(objects); i++) {
        const X509 *ca = X509_OBJECT_get0_X509(sk_X509_OBJECT_value(objects, i));
        int64_t from, until;
        if (ca != NULL && x509_validity(ca, &from, &until) && until > last)
            last = until;
    }
    return last;
}

/* A gateway may be of several trust domains: what ends first is told. */
void check_bundle(void *arg, struct doctor *d, unsigned what)
{
    (void)what;
    const struct doctor_sources *s = ((struct exam *)arg)->s;
    const struct svid_set *set = svid_store_current(s->svids);
    struct str first = {"", 0};
    int64_t least_ms = INT64_MAX;
    char left[SPAN_MAX];
    for (size_t i = 0; i < s->config->gateway.n_ids; i++) {
        struct str domain = spiffe_id_trust_domain(&s->config->gateway.ids[i]);
        X509_STORE *store = svid_set_bundle(set, domain);
        if (store == NULL) {
            doctor_found(d, "bundle.missing", "the agent gives none for %.*s", (int)domain.len,
                         domain.p);
            return;
        }
        int64_t left_ms = last_ca_ends_ms(store) - clock_wall_ms(s->clock);
        if (left_ms < least_ms) {
            least_ms = left_ms;
            first = domain;
        }
    }
    screen_span(least_ms / 1000, left, sizeof left);
    if (least_ms <= 0)
        doctor_found(d, "bundle.expired", "the last CA of %.*s ended %s ago", (int)first.len,
                     first.p, left);
    else
        doctor_ok(d, "of %.*s, its last CA has %s left", (int)first.len, first.p, left);
}

/* --- mail */

void check_last_mail(void *arg, struct doctor *d, unsigned what)
{
    (void)what;
    const struct doctor_sources *s = ((struct exam *)arg)->s;
    const struct result *m = results_get(s->results, 0);
    char ago[SPAN_MAX];
    if (m == NULL) {
        doctor_skip(d, "because no mail has come yet; svidmail send tries one");
        return;
    }
    screen_span((clock_wall_ms(s->clock) - m->at_ms) / 1000, ago, sizeof ago);
    if (m->code / 100 == 2)
        doctor_ok(d, "%s, %s ago: %d %s", m->outcome, ago, m->code, m->text);
    else
        doctor_found(d,
                     strcmp(m->outcome, "unknown") == 0 ? "mail.unknown"
                     : m->code / 100 == 4               ? "mail.deferred"
                                                        : "mail.refused",
                     "%s, %s ago: %d %s", m->mail, ago, m->code, m->text);
}
