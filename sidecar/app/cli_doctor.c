// SPDX-License-Identifier: Apache-2.0
#include "app/admin_client.h"
#include "app/cli.h"
#include "app/cli_socket.h"
#include "app/screen_doctor.h"
#include "ops/doctor.h"

#include <stdio.h>
#include <string.h>

/* All checks, and the last one that began in time. */
#define TIMEOUT_MS (DOCTOR_TOTAL_LIMIT_MS + DOCTOR_CHECK_LIMIT_MS + 2000u)

struct doctor_options {
    struct cli_socket socket;
    bool as_json, is_offline;
};

static const struct argp_child children[] = {{&cli_socket_argp, 0, NULL, 0}, {0}};

static const struct argp_option options[] = {
    {"output", 'o', "json|text", 0, "How to say it (default text)", 0},
    {"offline", 'l', NULL, 0, "Only what needs no network", 0},
    {0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct doctor_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->socket;
        return 0;
    case 'o':
        o->as_json = strcmp(arg, "json") == 0;
        if (!o->as_json && strcmp(arg, "text") != 0)
            argp_error(state, "--output: \"%s\" is neither json nor text", arg);
        return 0;
    case 'l':
        o->is_offline = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\"", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* 1: something has failed, or the answer is none. */
static int show(const struct doctor_options *o, struct str body)
{
    json_t *found = json_loadb(body.p, body.len, 0, NULL);
    const char *result = json_string_value(json_object_get(found, "result"));
    int code = result == NULL || strcmp(result, "failed") == 0 ? 1 : 0;
    if (result == NULL)
        fputs("svidmail: /doctor was not answered by JSON\n", stderr);
    else if (o->as_json)
        fwrite(body.p, 1, body.len, stdout);
    else
        screen_doctor(found, stdout);
    json_decref(found);
    return code;
}

int cli_doctor(int argc, char **argv)
{
    static const struct argp parser = {
        options,
        parse_option,
        NULL,
        "Walk the chain from configuration to SES inside a running svidmail, and name what is "
        "wrong, why, and what to type.  Sends no mail.  Exit 1 if something has failed.",
        children,
        NULL,
        NULL};
    struct doctor_options o = {0};
    struct err e = {0};
    struct buf body;
    int status = 0, code = 1;
    argp_parse(&parser, argc, argv, 0, NULL, &o);
    if (!cli_socket_resolve(&o.socket))
        return 2;
    buf_init(&body, ADMIN_CLIENT_BODY_MAX);
    if (!admin_client_get(o.socket.path, o.is_offline ? "/doctor?offline" : "/doctor", TIMEOUT_MS,
                          &status, &body, &e))
        fprintf(stderr, "svidmail: %s\n", e.msg);
    else if (status != 200)
        fprintf(stderr, "svidmail: /doctor was answered by %d: %s", status, buf_cstr(&body));
    else
        code = show(&o, buf_str(&body));
    buf_release(&body);
    return code;
}
