// SPDX-License-Identifier: Apache-2.0
/* cli: the subcommands.  Each parses its own options by argp and returns the exit code: 0 fine, 1 a
 * finding or a failure, 2 wrong usage or configuration.  Layer: app. */
#ifndef SVIDMAIL_APP_CLI_H
#define SVIDMAIL_APP_CLI_H

struct cli_command {
    const char *name;
    int (*run)(int argc, char **argv); /* argv[0] is "svidmail NAME" */
    const char *help;                  /* one line */
};

/* Ends with a row of NULLs. */
extern const struct cli_command cli_commands[];

int cli_main(int argc, char **argv);

int cli_run(int argc, char **argv);
int cli_check_config(int argc, char **argv);
int cli_health(int argc, char **argv);
int cli_status(int argc, char **argv);
int cli_doctor(int argc, char **argv);
int cli_identity(int argc, char **argv);
int cli_metrics(int argc, char **argv);
int cli_announce_stop(int argc, char **argv);
int cli_send(int argc, char **argv);
int cli_version(int argc, char **argv);

#endif
