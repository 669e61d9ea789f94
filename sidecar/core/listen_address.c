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
