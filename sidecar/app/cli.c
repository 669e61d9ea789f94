// SPDX-License-Identifier: Apache-2.0
#include "app/cli.h"
#include "app/suggest.h"

#include <argp.h>
#include <stdio.h>
#include <string.h>

// clang-format off
const struct cli_command cli_commands[] = {
    {"run",          cli_run,          "the sidecar: SMTP on localhost, mail to SES"},
    {"check-config", cli_check_config, "say whether a configuration file is good, or where it is not"},
    {"health",       cli_health,       "ask a running svidmail whether it lives (--ready: whether it can send)"},
    {"status",       cli_status,       "listeners, identities, gateway, credentials and last mails on one screen"},
    {"doctor",       cli_doctor,       "walk the chain from configuration to SES: what is wrong, why, what to type"},
    {"identity",     cli_identity,     "every SVID offered, which is used for what, and the bundles"},
    {"metrics",      cli_metrics,      "what Prometheus would scrape"},
    {"announce-stop", cli_announce_stop, "tell a running svidmail that its pod is ending; for a preStop hook"},
    {"send",         cli_send,         "send a test mail through the sidecar and show its path"},
    {"version",      cli_version,      "version, commit and libraries"},
    {NULL, NULL, NULL},
};
// clang-format on

static void print_usage(FILE *to)
{
    fputs("Usage: svidmail SUBCOMMAND [OPTION...]\n"
          "Mail from localhost to Amazon SES, opened by a SPIFFE identity.\n\n",
          to);
    for (const struct cli_command *c = cli_commands; c->name != NULL; c++)
        fprintf(to, "  %-15s%s\n", c->name, c->help);
    fputs("\n`svidmail SUBCOMMAND --help' tells more.  Manuals: svidmail(8), svidmail.yaml(5).\n",
          to);
}

static const struct cli_command *find(const char *name)
{
    for (const struct cli_command *c = cli_commands; c->name != NULL; c++)
        if (strcmp(c->name, name) == 0)
            return c;
    return NULL;
}

static int refuse(const char *name)
{
    char shown[64];
    struct suggestion s;
    suggest_init(&s, str_from(name));
    for (const struct cli_command *c = cli_commands; c->name != NULL; c++)
        suggest_offer(&s, str_from(c->name));
    fprintf(stderr, "svidmail: there is no subcommand \"%s\"",
            str_escape(shown, sizeof shown, str_from(name)));
    if (s.best.len > 0)
        fprintf(stderr, "; did you mean %.*s?", (int)s.best.len, s.best.p);
    fputs("\n`svidmail --help' lists them.\n", stderr);
    return 2;
}

/* Output that went nowhere (a full disk) is a failure. */
static int finish(int code)
{
    if (fflush(stdout) == 0 && ferror(stdout) == 0)
        return code;
    perror("svidmail: standard output");
    return code == 0 ? 1 : code;
}

int cli_main(int argc, char **argv)
{
    argp_err_exit_status = 2;
    if (argc < 2) {
        print_usage(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_usage(stdout);
        return finish(0);
    }
    const struct cli_command *c = find(strcmp(argv[1], "--version") == 0 ? "version" : argv[1]);
    if (c == NULL)
        return refuse(argv[1]);
    char name[64];
    snprintf(name, sizeof name, "svidmail %s", c->name);
    argv[1] = name; /* argp names itself by it */
    return finish(c->run(argc - 1, argv + 1));
}
