// SPDX-License-Identifier: Apache-2.0
#include "app/cli_socket.h"
#include "app/config.h"

#include <stdio.h>

static const struct argp_option options[] = {
    {"socket", 's', "PATH", 0,
     "Admin socket of the svidmail to ask (default " CONFIG_DEFAULT_SOCKET ")", 0},
    {"config", 'c', "FILE", 0, "Take the admin socket from this configuration", 0},
    {0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct cli_socket *s = state->input;
    switch (key) {
    case 's':
        s->socket = arg;
        return 0;
    case 'c':
        s->config = arg;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp cli_socket_argp = {options, parse_option, NULL, NULL, NULL, NULL, NULL};

static bool from_config(struct cli_socket *s)
{
    struct config *c = NULL;
    struct err e = {0};
    if (!config_load(s->config, &c, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        return false;
    }
    str_copy(s->path, sizeof s->path, str_from(c->admin.socket));
    config_free(&c);
    if (s->path[0] == '\0')
        fprintf(stderr, "%s: admin.socket is \"\": this svidmail cannot be asked\n", s->config);
    return s->path[0] != '\0';
}

bool cli_socket_resolve(struct cli_socket *s)
{
    if (s->socket == NULL && s->config != NULL)
        return from_config(s);
    str_copy(s->path, sizeof s->path,
             str_from(s->socket != NULL ? s->socket : CONFIG_DEFAULT_SOCKET));
    return true;
}
