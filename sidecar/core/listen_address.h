// SPDX-License-Identifier: Apache-2.0
/* listen_address: where to listen, as people write it: "127.0.0.1:2525", "[::1]:2525", ":9925" (all
 * addresses), "unix:/run/app/smtp.sock".  Numbers only, no names: nothing is resolved.  Layer:
 * core. */
#ifndef SVIDMAIL_CORE_LISTEN_ADDRESS_H
#define SVIDMAIL_CORE_LISTEN_ADDRESS_H
#include "base/err.h"
#include "base/str.h"

#define LISTEN_PATH_MAX 107 /* sun_path without its NUL */

enum listen_kind { LISTEN_IPV4, LISTEN_IPV6, LISTEN_ALL, LISTEN_UNIX }; /* ALL: no host was given */

/* A value: copy it freely. */
struct listen_address {
    enum listen_kind kind;
    bool is_loopback; /* 127.0.0.0/8, ::1, or a unix socket */
    uint16_t port;    /* 0 for a unix socket */
    char host[LISTEN_PATH_MAX +
              1]; /* the address without brackets, "" for LISTEN_ALL, the path for LISTEN_UNIX */
};

/* ERR_SYNTAX says which form is allowed. */
NODISCARD bool listen_address_parse(struct str text, struct listen_address *out, struct err *e);
/* Whether two mean the same place, however they were written: port 02525 is 2525, and to open all
 * addresses (LISTEN_ALL) is to open [::]. */
bool listen_address_same(const struct listen_address *a, const struct listen_address *b);

#endif
