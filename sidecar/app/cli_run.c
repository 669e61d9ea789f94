// SPDX-License-Identifier: Apache-2.0
#include "app/app.h"
#include "app/cli.h"
#include "app/process.h"
#include "sys/log.h"

#include <argp.h>
#include <stdio.h>
#include <string.h>

struct run_options {
    const char *config_file;
    const char *log_format; /* NULL: as configured */
};

static const struct argp_option options[] = {
    {"config", 'c', "FILE", 0, "Configuration (default " CONFIG_DEFAULT_FILE ")", 0},
    {"log-format", 'f', "json|text", 0, "Overrides log.format; text is for people", 0},
    {0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct run_options *o = state->input;
    switch (key) {
    case 'c':
        o->config_file = arg;
        return 0;
    case 'f':
        if (strcmp(arg, "json") != 0 && strcmp(arg, "text") != 0)
            argp_error(state, "--log-format: \"%s\" is neither json nor text", arg);
        o->log_format = arg;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\"", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int cli_run(int argc, char **argv)
{
    static const struct argp parser = {
        options, parse_option, NULL, "Run the sidecar until SIGTERM.", NULL, NULL, NULL};
    struct run_options o = {.config_file = CONFIG_DEFAULT_FILE};
    argp_err_exit_status = 2;
    argp_parse(&parser, argc, argv, 0, NULL, &o);
    process_hold_sigterm();
    struct config *cfg = NULL;
    struct err e;
    if (!config_load(o.config_file, &cfg, &e)) { /* how to log stands in the file */
        fprintf(stderr, "%s\n", e.msg);
        return 2;
    }
    if (o.log_format != NULL)
        cfg->log.format = strcmp(o.log_format, "text") == 0 ? LOG_TEXT : LOG_JSON;
    bool ok = app_run(cfg, &e);
    if (!ok) {
        LOG_ERR(EV_APP_CANNOT_START, &e, F_STR("config", o.config_file));
        log_flush(LOG_LAST_LINES_MS);
    }
    config_free(&cfg);
    return ok ? 0 : 1;
}
