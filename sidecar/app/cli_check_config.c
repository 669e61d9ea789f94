// SPDX-License-Identifier: Apache-2.0
#include "app/cli.h"
#include "app/config.h"
#include "app/config_schema.h"

#include <argp.h>
#include <stdio.h>

struct check_options {
    const char *file;
    bool lists_keys;
};

static const struct argp_option options[] = {
    {"keys", 'k', NULL, 0, "List every key with its default, what is allowed, and its meaning", 0},
    {0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct check_options *o = state->input;
    switch (key) {
    case 'k':
        o->lists_keys = true;
        return 0;
    case ARGP_KEY_ARG:
        if (o->file != NULL)
            argp_error(state, "one FILE at a time");
        o->file = arg;
        return 0;
    case ARGP_KEY_END:
        if (o->file == NULL && !o->lists_keys)
            argp_error(state, "which FILE?");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const char *preset_of(const struct config_key *k)
{
    if (k->is_required)
        return "required";
    if (k->type == CT_LIST && k->preset[0] == '\0')
        return "[]";
    if (k->type == CT_TAGS)
        return "{}";
    return k->preset[0] == '\0' ? "\"\"" : k->preset;
}

static void list_keys(void)
{
    size_t n;
    const struct config_key *keys = config_keys(&n);
    for (size_t i = 0; i < n; i++) {
        char allowed[160];
        printf("%s (%s)\n    %s\n    %s\n", keys[i].path, preset_of(&keys[i]), keys[i].help,
               config_key_allowed(&keys[i], allowed, sizeof allowed));
        if (keys[i].later != NULL)
            printf("    not in this version: %s\n", keys[i].later);
    }
}

int cli_check_config(int argc, char **argv)
{
    static const struct argp parser = {
        options, parse_option,
        "FILE",  "Check a configuration file: FILE: ok, or what is wrong and where.",
        NULL,    NULL,
        NULL};
    struct check_options o = {0};
    argp_parse(&parser, argc, argv, 0, NULL, &o);
    if (o.lists_keys)
        list_keys();
    if (o.file == NULL)
        return 0;
    struct config *c = NULL;
    struct err e = {0};
    if (!config_load(o.file, &c, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        return 2;
    }
    config_free(&c);
    printf("%s: ok\n", o.file);
    return 0;
}
