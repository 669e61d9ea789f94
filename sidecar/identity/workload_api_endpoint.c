// SPDX-License-Identifier: Apache-2.0
/* Addresses of the Workload API (SPIFFE Workload Endpoint, section 4; C4-C6): unix:///path or
 * tcp://ip:port, as RFC 3986 URIs. */
#include "identity/workload_api.h"
#include "identity/workload_api_private.h"
#include "base/buf.h"
#include "base/mem.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NEIGHBOURS_SHOWN 3

static int hex_value(char c)
{
    c = ascii_lower(c);
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool is_path_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("-._~!$&'()*+,;=:@/", c) != NULL);
}

/* RFC 3986 pchar and "/", percent signs decoded. */
NODISCARD static bool decode_path(struct str raw, char *out, size_t cap, struct err *e)
{
    size_t n = 0;
    for (size_t i = 0; i < raw.len; i++) {
        char c = raw.p[i];
        if (c == '?' || c == '#')
            return err_set(e, ERR_SYNTAX, 0, "a unix address has no query and no fragment");
        if (c == '%') {
            int high = i + 2 < raw.len ? hex_value(raw.p[i + 1]) : -1;
            int low = i + 2 < raw.len ? hex_value(raw.p[i + 2]) : -1;
            if (high < 0 || low < 0 || (high == 0 && low == 0))
                return err_set(e, ERR_SYNTAX, 0, "a percent sign that encodes nothing");
            c = (char)(high * 16 + low);
            i += 2;
        } else if (!is_path_char(c)) {
            return err_set(e, ERR_SYNTAX, 0, "a byte that has to be percent-encoded");
        }
        if (n + 1 >= cap)
            return err_set(e, ERR_LIMIT, 0, "a socket's path is at most %zu bytes long", cap - 1);
        out[n++] = c;
    }
    out[n] = '\0';
    return true;
}

/* raw: what follows "unix:". */
NODISCARD static bool parse_unix(struct str raw, struct workload_endpoint *out, struct err *e)
{
    if (str_starts_with(raw, STR("//")))
        raw = str_sub(raw, 2, raw.len);
    if (raw.len == 0 || raw.p[0] != '/')
        return err_set(e, ERR_SYNTAX, 0, "a unix address is unix:///absolute/path, without a host");
    if (!decode_path(raw, out->path, sizeof out->path, e))
        return false;
    if (raw.p[raw.len - 1] == '/' || str_starts_with(raw, STR("//")))
        return err_set(e, ERR_SYNTAX, 0, "the path names no socket");
    snprintf(out->target, sizeof out->target, "unix:%.*s", (int)raw.len, raw.p);
    return true;
}

/* raw: what follows "tcp:". */
NODISCARD static bool parse_tcp(struct str raw, struct workload_endpoint *out, struct err *e)
{
    char host[INET6_ADDRSTRLEN];
    struct in6_addr address;
    uint64_t port;
    if (!str_starts_with(raw, STR("//")))
        return err_set(e, ERR_SYNTAX, 0, "a tcp address is tcp://ip:port");
    raw = str_sub(raw, 2, raw.len);
    bool is_v6 = raw.len > 0 && raw.p[0] == '[';
    size_t host_len = str_index(raw, is_v6 ? ']' : ':');
    struct str raw_host = str_sub(raw, is_v6, host_len - is_v6);
    struct str rest = str_sub(raw, host_len + is_v6, raw.len);
    str_copy(host, sizeof host, raw_host);
    if (raw_host.len >= sizeof host || inet_pton(is_v6 ? AF_INET6 : AF_INET, host, &address) != 1)
        return err_set(e, ERR_SYNTAX, 0, "the host of a tcp address is an IP address, not a name");
    if (rest.len < 2 || rest.p[0] != ':' || rest.len > 6 ||
        !str_to_u64(str_sub(rest, 1, rest.len), &port) || port == 0 || port > 65535)
        return err_set(e, ERR_SYNTAX, 0, "a tcp address ends in :port, with nothing behind it");
    snprintf(out->target, sizeof out->target, is_v6 ? "ipv6:%%5B%s%%5D:%u" : "ipv4:%s:%u", host,
             (unsigned)port);
    return true;
}

bool workload_endpoint_parse(const char *endpoint, struct workload_endpoint *out, struct err *e)
{
    struct str raw = str_from(endpoint);
    size_t scheme = str_index(raw, ':');
    struct str rest = str_sub(raw, scheme + 1, raw.len), name = str_sub(raw, 0, scheme);
    *out = (struct workload_endpoint){.path = ""};
    str_escape(out->shown, sizeof out->shown, raw);
    bool ok;
    if (scheme < raw.len && str_eq_nocase(name, STR("unix")))
        ok = parse_unix(rest, out, e);
    else if (scheme < raw.len && str_eq_nocase(name, STR("tcp")))
        ok = parse_tcp(rest, out, e);
    else
        ok = err_set(e, ERR_SYNTAX, 0, "neither unix:///path nor tcp://ip:port");
    return ok || err_wrap(e, "Workload API address \"%.120s\"", out->shown);
}

bool workload_api_parse_endpoint(const char *endpoint, char *out, size_t cap, struct err *e)
{
    struct workload_endpoint ep;
    if (!workload_endpoint_parse(endpoint, &ep, e))
        return false;
    str_copy(out, cap, str_from(ep.target));
    return true;
}

/* "a, b, c" of what lies in the directory: a socket's name is often not the expected one. */
static void list_neighbours(const char *directory, char *out, size_t cap)
{
    struct buf b;
    buf_init(&b, cap - 1);
    DIR *d = opendir(directory);
    struct dirent *entry;
    for (unsigned n = 0; d != NULL && n < NEIGHBOURS_SHOWN && (entry = readdir(d)) != NULL;) {
        char name[64];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        str_escape(name, sizeof name, str_from(entry->d_name));
        if (!buf_printf(&b, "%s%s", n++ > 0 ? ", " : "", name))
            break;
    }
    if (d != NULL)
        closedir(d);
    str_copy(out, cap, b.len > 0 ? buf_str(&b) : STR("nothing"));
    buf_release(&b);
}

static const char *explain_absent(const char *path, char *out, size_t cap)
{
    char directory[sizeof((struct workload_endpoint *)0)->path], names[100];
    struct stat st;
    const char *slash = strrchr(path, '/');
    size_t len = slash > path ? (size_t)(slash - path) : 1;
    str_copy(directory, sizeof directory, (struct str){path, len});
    if (stat(directory, &st) == -1) {
        snprintf(out, cap, "there is no directory %s: is the socket's volume mounted?", directory);
        return "no_directory";
    }
    list_neighbours(directory, names, sizeof names);
    snprintf(out, cap,
             "there is no %s: no SPIRE agent on this node, or another name (%s holds: %s)", path,
             directory, names);
    return "no_socket";
}

static const char *explain_forbidden(const char *path, char *out, size_t cap)
{
    snprintf(out, cap, "%s: %s (as uid %u)", path, strerror(errno), (unsigned)getuid());
    return "not_allowed";
}

const char *workload_endpoint_explain(const struct workload_endpoint *ep, const char *details,
                                      char *out, size_t cap)
{
    struct stat st;
    out[0] = '\0';
    if (ep->path[0] == '\0')
        return "";
    if (stat(ep->path, &st) == -1)
        return errno == ENOENT || errno == ENOTDIR ? explain_absent(ep->path, out, cap)
                                                   : explain_forbidden(ep->path, out, cap);
    if (!S_ISSOCK(st.st_mode)) {
        snprintf(out, cap, "%s is not a socket", ep->path);
        return "not_a_socket";
    }
    if (access(ep->path, W_OK) == -1)
        return explain_forbidden(ep->path, out, cap);
    if (strstr(details, "Connection refused") == NULL)
        return "";
    snprintf(out, cap, "%s is there, but nobody listens: the agent is down or starting", ep->path);
    return "not_listening";
}
