// SPDX-License-Identifier: Apache-2.0
#include "app/config_value.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define SHOWN_MAX 60 /* bytes of a wrong value that a message repeats */

_Static_assert(sizeof(enum config_route) == sizeof(unsigned), "enums are written as unsigned");
_Static_assert(sizeof(enum log_level) == sizeof(unsigned), "enums are written as unsigned");

struct unit {
    const char *name;
    uint64_t factor;
};

static const struct unit size_units[] = {
    {"", 1}, {"KiB", 1024}, {"MiB", 1024 * 1024}, {"GiB", 1024 * 1024 * 1024}, {NULL, 0}};
static const struct unit duration_units[] = {{"ms", 1},      {"s", 1000},     {"m", 60000},
                                             {"h", 3600000}, {"d", 86400000}, {NULL, 0}};
static const struct unit percent_units[] = {{"%", 1}, {NULL, 0}};
static const struct unit number_units[] = {{"", 1}, {NULL, 0}};

static void *field_of(const struct config_key *k, const struct config *c)
{
    return (char *)(uintptr_t)c + k->offset;
}

static bool refuse(const struct config_key *k, struct str text, const char *what, struct err *e)
{
    char shown[SHOWN_MAX + 1], allowed[160];
    str_escape(shown, sizeof shown, text);
    return err_set(e, ERR_SYNTAX, 0, "\"%s\" %s; %s", shown, what,
                   config_key_allowed(k, allowed, sizeof allowed));
}

/* Digits and a unit.  *fits: the product does not overflow. */
static bool parse_quantity(struct str text, const struct unit *u, uint64_t *out, bool *fits)
{
    size_t n_digits = 0;
    while (n_digits < text.len && text.p[n_digits] >= '0' && text.p[n_digits] <= '9')
        n_digits++;
    struct str unit = str_sub(text, n_digits, text.len);
    while (u->name != NULL && !str_eq(unit, str_from(u->name)))
        u++;
    if (n_digits == 0 || u->name == NULL)
        return false;
    *fits = str_to_u64(str_sub(text, 0, n_digits), out) && *out <= UINT64_MAX / u->factor;
    *out *= *fits ? u->factor : 0;
    return true;
}

static bool set_quantity(const struct config_key *k, struct str text, const struct unit *units,
                         const char *kind, struct config *c, struct err *e)
{
    uint64_t v = 0;
    bool fits = true;
    bool is_bare_zero = k->type == CT_DURATION && str_eq(text, STR("0"));
    if (!is_bare_zero && !parse_quantity(text, units, &v, &fits))
        return refuse(k, text, kind, e);
    if (!fits || v < k->min || v > k->max)
        return refuse(k, text, "is out of range", e);
    *(uint64_t *)field_of(k, c) = v;
    return true;
}

static bool set_word(const struct config_key *k, struct str text, struct config *c, struct err *e)
{
    unsigned i = 0;
    struct str words = str_from(k->words);
    for (; words.len > 0; i++) {
        size_t n = str_index(words, '|');
        if (str_eq(text, str_sub(words, 0, n))) {
            memcpy(field_of(k, c), &i, sizeof i);
            return true;
        }
        words = str_sub(words, n + 1, words.len);
    }
    return refuse(k, text, "is none of the words known here", e);
}

static bool check_text(const struct config_key *k, struct str text, struct err *e)
{
    for (size_t i = 0; i < text.len; i++)
        if ((unsigned char)text.p[i] < ' ' || text.p[i] == 127)
            return err_set(e, ERR_SYNTAX, 0, "holds a control character; allowed: printable text");
    return k->check == NULL || text.len == 0 || k->check(text, e);
}

/* Put the value in front of what the check says: "\"x\": no AWS region; ..." */
static bool show(struct str text, struct err *e)
{
    char shown[SHOWN_MAX + 1];
    return err_wrap(e, "\"%s\"", str_escape(shown, sizeof shown, text));
}

static bool set_string(const struct config_key *k, struct str text, struct config *c, struct err *e)
{
    if (text.len < k->min || text.len > k->max)
        return refuse(k, text, text.len < k->min ? "is too short" : "is too long", e);
    if (!check_text(k, text, e))
        return show(text, e);
    char **field = field_of(k, c);
    free(*field);
    *field = str_dup(text);
    return true;
}

static bool set_bool(const struct config_key *k, struct str text, struct config *c, struct err *e)
{
    bool is_true = str_eq(text, STR("true"));
    if (!is_true && !str_eq(text, STR("false")))
        return refuse(k, text, "is not true or false", e);
    *(bool *)field_of(k, c) = is_true;
    return true;
}

bool config_value_set(const struct config_key *k, struct str text, bool is_quoted, struct config *c,
                      struct err *e)
{
    if (is_quoted && (k->type == CT_BOOL || k->type == CT_NUMBER))
        return refuse(k, text, "is a string, for it stands in quotes", e);
    switch (k->type) {
    case CT_STRING:
        return set_string(k, text, c, e);
    case CT_BOOL:
        return set_bool(k, text, c, e);
    case CT_NUMBER:
        return set_quantity(k, text, number_units, "is not a whole number", c, e);
    case CT_PERCENT:
        return set_quantity(k, text, percent_units, "is not a percentage", c, e);
    case CT_SIZE:
        return set_quantity(k, text, size_units, "is not a size", c, e);
    case CT_DURATION:
        return set_quantity(k, text, duration_units, "is not a duration", c, e);
    case CT_WORD:
        return set_word(k, text, c, e);
    case CT_LIST:
        return refuse(k, text, "is not a list", e);
    case CT_TAGS:
        return refuse(k, text, "is not a mapping", e);
    }
    return false;
}

size_t config_value_list_len(const struct config_key *k, const struct config *c)
{
    char **items = *(char ***)field_of(k, c);
    size_t n = 0;
    while (items[n] != NULL)
        n++;
    return n;
}

bool config_value_append(const struct config_key *k, struct str item, struct config *c,
                         struct err *e)
{
    size_t n = config_value_list_len(k, c);
    if (n == k->max)
        return refuse(k, item, "is one too many", e);
    if (item.len == 0)
        return refuse(k, item, "is empty", e);
    if (!check_text(k, item, e))
        return show(item, e);
    char ***field = field_of(k, c);
    *field = xrealloc(*field, (n + 2) * sizeof **field);
    (*field)[n] = str_dup(item);
    (*field)[n + 1] = NULL;
    return true;
}

void config_value_clear_list(const struct config_key *k, struct config *c)
{
    char ***field = field_of(k, c);
    for (size_t i = 0; *field != NULL && (*field)[i] != NULL; i++)
        free((*field)[i]);
    free(*field);
    *field = xcalloc(1, sizeof **field);
}

bool config_value_add_tag(const struct config_key *k, struct str name, struct str value,
                          struct config *c, struct err *e)
{
    if (c->ses.n_tags == k->max)
        return refuse(k, name, "is one too many", e);
    if (!k->check(name, e))
        return show(name, e);
    if (!k->check(value, e))
        return show(value, e);
    for (size_t i = 0; i < c->ses.n_tags; i++)
        if (str_eq(name, str_from(c->ses.tags[i].name)))
            return refuse(k, name, "is there twice", e);
    c->ses.tags = xrealloc(c->ses.tags, (c->ses.n_tags + 1) * sizeof *c->ses.tags);
    c->ses.tags[c->ses.n_tags++] = (struct ses_tag){str_dup(name), str_dup(value)};
    return true;
}

static void preset_list(const struct config_key *k, struct config *c)
{
    config_value_clear_list(k, c);
    struct str rest = str_from(k->preset);
    while (rest.len > 0) {
        size_t n = str_index(rest, ' ');
        CHECK(config_value_append(k, str_sub(rest, 0, n), c, NULL));
        rest = str_sub(rest, n + 1, rest.len);
    }
}

void config_value_preset_all(struct config *c)
{
    size_t n;
    const struct config_key *keys = config_keys(&n);
    for (size_t i = 0; i < n; i++) {
        if (keys[i].type == CT_LIST)
            preset_list(&keys[i], c);
        else if (keys[i].type == CT_STRING)
            *(char **)field_of(&keys[i], c) =
                xstrdup(keys[i].preset); /* "" although it is required */
        else if (keys[i].type != CT_TAGS)
            CHECK(config_value_set(&keys[i], str_from(keys[i].preset), false, c, NULL));
    }
}

bool config_value_is_preset(const struct config_key *k, const struct config *c)
{
    CHECK(k->type != CT_LIST && k->type != CT_TAGS && k->type != CT_BOOL);
    if (k->type == CT_STRING)
        return strcmp(*(char **)field_of(k, c), k->preset) == 0;
    struct config p = {0};
    CHECK(config_value_set(k, str_from(k->preset), false, &p, NULL));
    return memcmp(field_of(k, c), field_of(k, &p),
                  k->type == CT_WORD ? sizeof(unsigned) : sizeof(uint64_t)) == 0;
}
