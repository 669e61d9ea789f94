// SPDX-License-Identifier: Apache-2.0
/* cli_socket: which svidmail is asked: --socket PATH, or the admin.socket of --config FILE, or the
 * default. Shared by the subcommands that ask a running one.  Layer: app. */
#ifndef SVIDMAIL_APP_CLI_SOCKET_H
#define SVIDMAIL_APP_CLI_SOCKET_H
#include <argp.h>
#include <stdbool.h>

struct cli_socket {
    const char *socket, *config; /* as given; NULL if not */
    char path[128];
};

/* --socket and --config, for a parent's children; their input is a struct cli_socket. */
extern const struct argp cli_socket_argp;

/* Fills path.  false: the configuration is not usable; it has been said on stderr. */
bool cli_socket_resolve(struct cli_socket *s);

#endif
