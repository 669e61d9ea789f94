// SPDX-License-Identifier: Apache-2.0
#include "app/config_check.h"
#include "core/listen_address.h"
#include "core/spiffe_id.h"
#include "identity/workload_api.h"

#include <arpa/inet.h>
#include <string.h>

#define LOWER    "abcdefghijklmnopqrstuvwxyz"
#define UPPER    "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define DIGITS   "0123456789"
#define WORDLIKE LOWER UPPER DIGITS "_-"

static bool has_only(struct str v, const char *bytes)
{
    for (size_t i = 0; i < v.len; i++)
        if (v.p[i] == '\0' || strchr(bytes, v.p[i]) == NULL)
            return false;
    return true;
}

/* What stands before the next c; *rest is what follows it.  Without a c: all of it. */
static struct str cut(struct str *rest, char c)
{
    size_t n = str_index(*rest, c);
    struct str head = str_sub(*rest, 0, n);
    *rest = str_sub(*rest, n + 1, rest->len);
    return head;
}

bool check_endpoint(struct str v, struct err *e)
{
    char text[128], target[512];
    if (v.len >= sizeof text)
        return err_set(e, ERR_SYNTAX, 0, "too long for the address of a socket");
    return workload_api_parse_endpoint(str_copy(text, sizeof text, v), target, sizeof target, e);
}

bool check_spiffe_id(struct str v, struct err *e)
{
    struct spiffe_id id;
    return spiffe_id_parse_workload(v, &id, e);
}

bool check_listen(struct str v, struct err *e)
{
    struct listen_address a;
    return listen_address_parse(v, &a, e);
}

bool check_metrics_listen(struct str v, struct err *e)
{
    struct listen_address a;
    if (!listen_address_parse(v, &a, NULL) || a.kind == LISTEN_UNIX)
        return err_set(
            e, ERR_SYNTAX, 0,
            "no address for metrics; allowed: IP:PORT, [IPv6]:PORT, :PORT, or \"\" for none");
    return true;
}

bool check_dns_name(struct str v, struct err *e)
{
    struct str rest = v;
    bool has_final_dot = v.len > 0 && v.p[v.len - 1] == '.';
    bool ok = v.len <= 253 && !has_final_dot;
    do {
        struct str label = cut(&rest, '.');
        ok = ok && label.len >= 1 && label.len <= 63 && has_only(label, WORDLIKE) &&
             label.p[0] != '-' && label.p[label.len - 1] != '-';
    } while (ok && rest.len > 0);
    return ok ||
           err_set(e, ERR_SYNTAX, 0,
                   "no host name; allowed: a DNS name without scheme, port, path or final dot");
}

bool check_host(struct str v, struct err *e)
{
    char text[64];
    struct in6_addr a;
    if (v.len < sizeof text && inet_pton(AF_INET6, str_copy(text, sizeof text, v), &a) == 1)
        return true;
    bool has_final_dot = v.len > 0 && v.p[v.len - 1] == '.'; /* spares a resolver's search list */
    return check_dns_name(str_sub(v, 0, has_final_dot ? v.len - 1 : v.len), NULL) ||
           err_set(
               e, ERR_SYNTAX, 0,
               "no host; allowed: a DNS name or an IP address, without scheme, brackets or port");
}

/* eu-central-1, us-gov-west-1, cn-north-1 */
bool check_region(struct str v, struct err *e)
{
    struct str rest = v;
    struct str part = cut(&rest, '-');
    bool ok = part.len >= 2 && part.len <= 4 && has_only(part, LOWER);
    size_t n_words = 0;
    for (part = cut(&rest, '-'); ok && rest.len > 0; part = cut(&rest, '-'), n_words++)
        ok = part.len > 0 && has_only(part, LOWER);
    ok = ok && n_words > 0 && part.len >= 1 && part.len <= 2 && has_only(part, DIGITS) &&
         v.p[v.len - 1] != '-';
    return ok || err_set(e, ERR_SYNTAX, 0, "no AWS region; allowed: a region name as eu-central-1");
}

/* arn:PARTITION:SERVICE:REGION:ACCOUNT:RESOURCE; *resource is what remains. */
static bool parse_arn(struct str v, const char *service, struct str *region, struct str *resource)
{
    struct str rest = v;
    bool ok = str_eq(cut(&rest, ':'), STR("arn"));
    struct str partition = cut(&rest, ':');
    ok = ok && str_starts_with(partition, STR("aws")) && has_only(partition, LOWER "-");
    ok = str_eq(cut(&rest, ':'), str_from(service)) && ok;
    *region = cut(&rest, ':');
    struct str account = cut(&rest, ':');
    *resource = rest;
    return ok && account.len == 12 && has_only(account, DIGITS);
}

static bool has_tail(struct str resource, struct str prefix, const char *bytes)
{
    return str_starts_with(resource, prefix) && resource.len > prefix.len &&
           has_only(str_sub(resource, prefix.len, resource.len), bytes);
}

bool check_role_arn(struct str v, struct err *e)
{
    struct str region, resource;
    bool ok = parse_arn(v, "iam", &region, &resource) && region.len == 0 &&
              has_tail(resource, STR("role/"), WORDLIKE "+=,.@/") && v.p[v.len - 1] != '/';
    return ok || err_set(e, ERR_SYNTAX, 0,
                         "no ARN of an IAM role; allowed: arn:aws:iam::ACCOUNT:role/NAME, ACCOUNT "
                         "having 12 digits");
}

bool check_ses_arn(struct str v, struct err *e)
{
    struct str region, resource;
    bool ok = parse_arn(v, "ses", &region, &resource) && check_region(region, NULL) &&
              has_tail(resource, STR("identity/"), WORDLIKE "+=.@/!#$%&'*?^`{|}~");
    return ok ||
           err_set(e, ERR_SYNTAX, 0,
                   "no ARN of an SES identity; allowed: arn:aws:ses:REGION:ACCOUNT:identity/NAME");
}

bool check_session_name(struct str v, struct err *e)
{
    return (v.len >= 2 && has_only(v, WORDLIKE "+=,.@")) ||
           err_set(e, ERR_SYNTAX, 0,
                   "no role session name; allowed: 2 to 64 of A-Z a-z 0-9 _ + = , . @ -");
}

bool check_ses_name(struct str v, struct err *e)
{
    return has_only(v, WORDLIKE) ||
           err_set(e, ERR_SYNTAX, 0,
                   "a byte SES does not take in a name; allowed: A-Z a-z 0-9 _ -");
}

bool check_tag(struct str v, struct err *e)
{
    return (v.len >= 1 && v.len <= 256 && has_only(v, WORDLIKE)) ||
           err_set(
               e, ERR_SYNTAX, 0,
               "no message tag of SES; allowed for name and value: 1 to 256 of A-Z a-z 0-9 _ -");
}

bool check_ses_header(struct str v, struct err *e)
{
    return (str_starts_with_nocase(v, STR("X-SES-")) && v.len > 6 && has_only(v, WORDLIKE)) ||
           err_set(
               e, ERR_SYNTAX, 0,
               "only headers that SES acts on are removed; allowed: names that begin with X-SES-");
}

bool check_absolute(struct str v, struct err *e)
{
    return v.p[0] == '/' ||
           err_set(e, ERR_SYNTAX, 0, "no absolute path; allowed: a path that begins with /");
}

bool check_visible(struct str v, struct err *e)
{
    for (size_t i = 0; i < v.len; i++)
        if (v.p[i] <= ' ' || v.p[i] > '~')
            return err_set(e, ERR_SYNTAX, 0, "allowed: printable ASCII without spaces");
    return true;
}
