// SPDX-License-Identifier: Apache-2.0
#include "core/listen_address.h"

#include <arpa/inet.h>
#include <string.h>

#define FORMS "allowed: 127.0.0.1:PORT, [::1]:PORT, unix:/PATH"

static bool parse_unix(struct str path, struct listen_address *out, struct err *e)
{
    if (path.len == 0 || path.p[0] != '/')
        return err_set(e, ERR_SYNTAX, 0, "the path of a unix socket must be absolute; " FORMS);
    if (path.len > LISTEN_PATH_MAX)
        return err_set(e, ERR_SYNTAX, 0,
                       "the path of a unix socket may have %d bytes, this one has %zu",
                       LISTEN_PATH_MAX, path.len);
    if (memchr(path.p, '\0', path.len) != NULL)
        return err_set(e, ERR_SYNTAX, 0, "a NUL byte in the path of a unix socket");
    out->kind = LISTEN_UNIX;
    out->is_loopback = true;
    str_copy(out->host, sizeof out->host, path);
    return true;
}

static bool parse_port(struct str text, uint16_t *port, struct err *e)
{
    uint64_t n;
    if (!str_to_u64(text, &n) || n == 0 || n > UINT16_MAX)
        return err_set(e, ERR_SYNTAX, 0, "the port must be a number from 1 to 65535; " FORMS);
    *port = (uint16_t)n;
    return true;
}

static bool parse_ipv4(struct listen_address *out)
{
    struct in_addr a;
    if (inet_pton(AF_INET, out->host, &a) != 1)
        return false;
    out->kind = LISTEN_IPV4;
    out->is_loopback = ntohl(a.s_addr) >> 24 == 127;
    return true;
}

static bool parse_ipv6(struct listen_address *out)
{
    struct in6_addr a;
    if (inet_pton(AF_INET6, out->host, &a) != 1)
        return false;
    out->kind = LISTEN_IPV6;
    out->is_loopback = IN6_IS_ADDR_LOOPBACK(&a);
    return true;
}

/* Bytes of text before the ':' of the port, or text.len. */
static size_t host_len(struct str text)
{
    size_t close = str_index(text, ']');
    if (text.len > 0 && text.p[0] == '[' && close + 1 < text.len && text.p[close + 1] == ':')
        return close + 1;
    return str_index(text, ':');
}

bool listen_address_parse(struct str text, struct listen_address *out, struct err *e)
{
    *out = (struct listen_address){0};
    if (str_starts_with(text, STR("unix:")))
        return parse_unix(str_sub(text, 5, text.len), out, e);
    size_t n = host_len(text);
    if (n == text.len)
        return err_set(e, ERR_SYNTAX, 0, "no port; " FORMS);
    if (!parse_port(str_sub(text, n + 1, text.len), &out->port, e))
        return false;
    struct str host = str_sub(text, 0, n);
    bool is_v6 = n > 0 && host.p[0] == '[';
    if (is_v6)
        host = str_sub(host, 1, n - 2);
    str_copy(out->host, sizeof out->host, host);
    if (n == 0)
        out->kind = LISTEN_ALL;
    else if (memchr(host.p, '\0', host.len) != NULL ||
             (is_v6 ? !parse_ipv6(out) : !parse_ipv4(out)))
        return err_set(e, ERR_SYNTAX, 0, "the host must be an IP address, not a name; " FORMS);
    return true;
}

/* The address itself; IPv4 in the first bytes. */
static struct in6_addr to_binary(const struct listen_address *a)
{
    struct in6_addr out = IN6ADDR_ANY_INIT; /* stays for LISTEN_ALL */
    if (a->kind == LISTEN_IPV4 || a->kind == LISTEN_IPV6)
        CHECK(inet_pton(a->kind == LISTEN_IPV4 ? AF_INET : AF_INET6, a->host, &out) == 1);
    return out;
}

static enum listen_kind family_of(const struct listen_address *a)
{
    return a->kind == LISTEN_ALL ? LISTEN_IPV6 : a->kind;
}

bool listen_address_same(const struct listen_address *a, const struct listen_address *b)
{
    if (family_of(a) != family_of(b) || a->port != b->port)
        return false;
    if (a->kind == LISTEN_UNIX)
        return strcmp(a->host, b->host) == 0;
    struct in6_addr x = to_binary(a), y = to_binary(b);
    return memcmp(&x, &y, sizeof x) == 0;
}
