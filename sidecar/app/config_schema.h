// SPDX-License-Identifier: Apache-2.0
/* config_schema: every configuration key, once: type, default, what is allowed, help.  Parser,
 * check-config, messages and the manual page's test all read this table.  Layer: app. */
#ifndef SVIDMAIL_APP_CONFIG_SCHEMA_H
#define SVIDMAIL_APP_CONFIG_SCHEMA_H
#include "app/config.h"

enum config_type {
    CT_STRING,   /* char *;    min..max bytes */
    CT_BOOL,     /* bool */
    CT_NUMBER,   /* uint64_t;  min..max */
    CT_PERCENT,  /* uint64_t;  min..max */
    CT_SIZE,     /* uint64_t;  bytes, min..max */
    CT_DURATION, /* uint64_t;  milliseconds, min..max */
    CT_WORD,     /* an enum that counts words from 0 */
    CT_LIST,     /* char **;   min..max strings */
    CT_TAGS,     /* ses.tags:  at most max names with values */
};

/* ERR_SYNTAX: what is wrong with this value, and what is allowed. */
typedef bool (*config_check)(struct str value, struct err *e);

struct config_key {
    const char *path; /* "smtp.idle_timeout" */
    enum config_type type;
    size_t offset;      /* in struct config */
    const char *preset; /* the default as it would be written; a list's items parted by spaces */
    uint64_t min, max;
    const char *words;  /* CT_WORD: "none|accept-any" */
    config_check check; /* of a string or of each item that is not empty; may be NULL */
    bool is_required;   /* must be written, whatever the other keys say */
    const char *later;  /* not in this version: why another value than the preset is refused; NULL
                           otherwise */
    const char *help;
};

#define CONFIG_KEYS_MAX 64
const struct config_key *config_keys(size_t *n);
/* NULL if there is no such key. */
const struct config_key *config_key_find(struct str path);
/* Is there a key below this mapping ("smtp", "identity.mesh")? */
bool config_section_exists(struct str path);
/* "allowed: a duration from 15m to 12h, as 500ms, 4s, 10m, 1h or 4d": for messages, at most cap - 1
 * bytes. */
const char *config_key_allowed(const struct config_key *k, char *out, size_t cap);
/* What an unknown key may have meant, in words ("did you mean smtp.listen?", or the keys known
 * there). */
const char *config_key_suggest(struct str section, struct str key, char *out, size_t cap);

#endif
