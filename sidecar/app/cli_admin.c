// SPDX-License-Identifier: Apache-2.0
/* The subcommands that ask a running svidmail: health, status, identity, doctor,
 * metrics, announce-stop. */
#include "app/admin_client.h"
#include "app/cli.h"
#include "app/cli_socket.h"
#include "app/pod.h"
#include "app/screen.h"
#include "app/screen_doctor.h"
#include "ops/doctor.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define ANNOUNCE_TIMEOUT_MS 900  /* with the start of the process: a second */
#define HEALTH_TIMEOUT_MS   4000 /* before kubelet's 5 s are over: a reason is better than none */
/* All checks, and the last one that began in time. */
#define DOCTOR_TIMEOUT_MS (DOCTOR_TOTAL_LIMIT_MS + DOCTOR_CHECK_LIMIT_MS + 2000u)

struct ask_options {
    struct cli_socket socket;
    bool as_json, is_ready_asked, is_offline;
    uint64_t timeout_ms; /* 0: the usual one */
};

static const struct argp_child children[] = {{&cli_socket_argp, 0, NULL, 0}, {0}};

static const struct argp_option output_options[] = {
    {"output", 'o', "json|text", 0, "How to say it (default text)", 0},
    {0},
};

static const struct argp_option doctor_options[] = {
    {"output", 'o', "json|text", 0, "How to say it (default text)", 0},
    {"offline", 'l', NULL, 0, "Only what needs no network", 0},
    {0},
};

static const struct argp_option health_options[] = {
    {"ready", 'r', NULL, 0, "Fail as well while no mail could be sent", 0},
    {0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct ask_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->socket;
        return 0;
    case 'o':
        o->as_json = strcmp(arg, "json") == 0;
        if (!o->as_json && strcmp(arg, "text") != 0)
            argp_error(state, "--output: \"%s\" is neither json nor text", arg);
        return 0;
    case 'r':
        o->is_ready_asked = true;
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

/* 0, or the exit code; it has been said on stderr. */
static int parse(int argc, char **argv, const struct argp_option *options, const char *doc,
                 struct ask_options *o)
{
    const struct argp parser = {options, parse_option, NULL, doc, children, NULL, NULL};
    argp_parse(&parser, argc, argv, 0, NULL, o);
    return cli_socket_resolve(&o->socket) ? 0 : 2;
}

/* What it says; the exit code.  body is to be released either way. */
static int ask(const struct ask_options *o, const char *target, int *status, struct buf *body)
{
    struct err e = {0};
    buf_init(body, ADMIN_CLIENT_BODY_MAX);
    uint64_t timeout_ms = o->timeout_ms > 0 ? o->timeout_ms : ADMIN_CLIENT_TIMEOUT_MS;
    if (admin_client_get(o->socket.path, target, timeout_ms, status, body, &e))
        return 0;
    fprintf(stderr, "svidmail: %s\n", e.msg);
    return 1;
}

static void print_raw(const struct buf *body, FILE *to)
{
    struct str s = buf_str(body);
    fwrite(s.p, 1, s.len, to);
}

static int fail_status(int status, const char *target, const struct buf *body)
{
    struct str why = buf_str(body);
    why.len = str_index(why, '\n');
    fprintf(stderr, "svidmail: %s was answered by %d%s%.*s\n", target, status,
            why.len > 0 ? ": " : "", (int)why.len, why.p);
    return 1;
}

int cli_health(int argc, char **argv)
{
    struct ask_options o = {.timeout_ms = HEALTH_TIMEOUT_MS};
    struct buf body;
    int status = 0;
    int code = parse(argc, argv, health_options, "Exit 0 if svidmail lives; for exec probes.", &o);
    if (code != 0)
        return code;
    code = ask(&o, o.is_ready_asked ? "/ready" : "/health", &status, &body);
    if (code == 0) {
        code = status == 200 ? 0 : 1;
        print_raw(&body, code == 0 ? stdout : stderr);
    }
    buf_release(&body);
    return code;
}

int cli_metrics(int argc, char **argv)
{
    struct ask_options o = {0};
    struct buf body;
    int status = 0;
    int code = parse(argc, argv, NULL, "Print the metrics, in Prometheus' text format.", &o);
    if (code != 0)
        return code;
    code = ask(&o, "/metrics", &status, &body);
    if (code == 0 && status != 200)
        code = fail_status(status, "/metrics", &body);
    else if (code == 0)
        print_raw(&body, stdout);
    buf_release(&body);
    return code;
}

/* A preStop hook: whatever is wrong must neither hold the pod up nor fail it.  Only wrong usage is
 * not excused. */
int cli_announce_stop(int argc, char **argv)
{
    struct ask_options o = {0};
    const struct argp parser = {
        NULL,
        parse_option,
        NULL,
        "Tell a running svidmail that its pod is ending.  It notes that and serves on until "
        "SIGTERM.  For a preStop hook: exit 0 within a second, also when nobody is there to be "
        "told.",
        children,
        NULL,
        NULL};
    argp_parse(&parser, argc, argv, 0, NULL, &o);
    if (!cli_socket_resolve(&o.socket))
        return 0;
    struct err e = {0};
    struct buf body;
    int status = 0;
    buf_init(&body, ADMIN_CLIENT_BODY_MAX);
    if (!admin_client_post(o.socket.path, POD_ANNOUNCE_PATH, ANNOUNCE_TIMEOUT_MS, &status, &body,
                           &e))
        fprintf(stderr, "svidmail: warning: not announced: %s\n", e.msg);
    else if (status != 200)
        fprintf(stderr,
                "svidmail: warning: not announced: " POD_ANNOUNCE_PATH " was answered by %d\n",
                status);
    else
        print_raw(&body, stdout);
    buf_release(&body);
    return 0;
}

/* A page of JSON: on the screen, or as it came.  judge makes the exit code of it, negative: it is
 * not that page; NULL: any will do. */
static int show(const struct ask_options *o, const char *target,
                void (*screen)(const json_t *, FILE *), int (*judge)(const json_t *))
{
    struct buf body;
    int status = 0;
    int code = ask(o, target, &status, &body);
    if (code == 0 && status != 200)
        code = fail_status(status, target, &body);
    struct str s = buf_str(&body);
    json_t *json = code == 0 ? json_loadb(s.p, s.len, 0, NULL) : NULL;
    int found = json == NULL ? -1 : judge == NULL ? 0 : judge(json);
    if (code == 0 && found < 0) {
        fprintf(stderr, "svidmail: %s was not answered by JSON\n", target);
        code = 1;
    } else if (code == 0) {
        code = found;
        if (o->as_json)
            print_raw(&body, stdout);
        else
            screen(json, stdout);
    }
    json_decref(json);
    buf_release(&body);
    return code;
}

int cli_status(int argc, char **argv)
{
    struct ask_options o = {0};
    int code = parse(argc, argv, output_options, "Show how a running svidmail is.", &o);
    return code != 0 ? code : show(&o, "/status", screen_status, NULL);
}

int cli_identity(int argc, char **argv)
{
    struct ask_options o = {0};
    int code = parse(
        argc, argv, output_options,
        "Show every SVID offered, which is used for what, and the bundles.  Never a key.", &o);
    return code != 0 ? code : show(&o, "/identity", screen_identity, NULL);
}

/* 1: something has failed. */
static int judge_doctor(const json_t *found)
{
    const char *result = json_string_value(json_object_get(found, "result"));
    return result == NULL ? -1 : strcmp(result, "failed") == 0 ? 1 : 0;
}

int cli_doctor(int argc, char **argv)
{
    struct ask_options o = {.timeout_ms = DOCTOR_TIMEOUT_MS};
    int code = parse(argc, argv, doctor_options,
                     "Walk the chain from configuration to SES inside a running svidmail, and name "
                     "what is wrong, why, and what to type.  Sends no mail.  Exit 1 if something "
                     "has failed.",
                     &o);
    if (code != 0)
        return code;
    return show(&o, o.is_offline ? "/doctor?offline" : "/doctor", screen_doctor, judge_doctor);
}
