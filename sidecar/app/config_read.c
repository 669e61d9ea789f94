// SPDX-License-Identifier: Apache-2.0
#include "app/config_read.h"
#include "app/config_value.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define NAME_SHOWN_MAX 120 /* bytes of a file's name in a message; the end counts */
#define PATH_MAX_BYTES 128 /* more than any path in the schema */
#define KEY_SHOWN_MAX  60

struct reader {
    yaml_parser_t yaml;
    yaml_event_t ev; /* the current one */
    const char *name;
    struct str text;
    struct config *c;
    struct config_marks *marks;
    struct err *e;
};

bool config_fail_at(const char *name, struct config_mark at, const char *path, struct err *e)
{
    size_t len = strlen(name);
    bool is_cut = len > NAME_SHOWN_MAX;
    return err_wrap(e, "%s%s:%u:%u%s%s", is_cut ? "..." : "",
                    is_cut ? name + len - NAME_SHOWN_MAX : name, at.line, at.column,
                    path[0] == '\0' ? "" : ": ", path);
}

/* --- places */

static void remember(struct reader *r, const char *path, size_t item, struct config_mark at)
{
    struct config_marks *m = r->marks;
    if ((m->n & (m->n - 1)) == 0)
        m->places = xrealloc(m->places, (m->n == 0 ? 1 : m->n * 2) * sizeof *m->places);
    m->places[m->n++] = (struct config_place){xstrdup(path), item, at};
}

static const struct config_place *find_place(const struct config_marks *m, struct str path,
                                             size_t item)
{
    for (size_t i = 0; i < m->n; i++)
        if (m->places[i].item == item && str_eq(str_from(m->places[i].path), path))
            return &m->places[i];
    return NULL;
}

bool config_was_written(const struct config_marks *marks, const char *path)
{
    return find_place(marks, str_from(path), CONFIG_NO_ITEM) != NULL;
}

struct config_mark config_marks_find(const struct config_marks *marks, const char *path,
                                     size_t item)
{
    struct str rest = str_from(path);
    const struct config_place *p = find_place(marks, rest, item);
    while (p == NULL && rest.len > 0) {
        p = find_place(marks, rest, CONFIG_NO_ITEM);
        do
            rest.len--;
        while (rest.len > 0 && rest.p[rest.len] != '.');
    }
    return p == NULL ? (struct config_mark){1, 1} : p->at;
}

void config_marks_release(struct config_marks *marks)
{
    for (size_t i = 0; i < marks->n; i++)
        free(marks->places[i].path);
    free(marks->places);
    *marks = (struct config_marks){0};
}

/* --- events */

static struct config_mark mark_of(yaml_mark_t m)
{
    return (struct config_mark){(unsigned)m.line + 1, (unsigned)m.column + 1};
}

static bool fail_here(struct reader *r, const char *path)
{
    return config_fail_at(r->name, mark_of(r->ev.start_mark), path, r->e);
}

/* The reader's own errors (bytes that are no UTF-8) come with an offset only. */
static struct config_mark mark_at_offset(const struct reader *r, size_t offset)
{
    struct config_mark at = {1, 1};
    for (size_t i = 0; i < offset && i < r->text.len; i++) {
        bool is_newline = r->text.p[i] == '\n';
        at.line += is_newline ? 1 : 0;
        at.column = is_newline ? 1 : at.column + 1;
    }
    return at;
}

static bool is_tab_at(const struct reader *r, struct config_mark at)
{
    struct str rest = r->text;
    for (unsigned line = 1; line < at.line; line++)
        rest = str_sub(rest, str_index(rest, '\n') + 1, rest.len);
    return at.column <= rest.len && rest.p[at.column - 1] == '\t';
}

static bool fail_syntax(struct reader *r)
{
    const yaml_parser_t *y = &r->yaml;
    const char *problem = y->problem == NULL ? "out of memory" : y->problem;
    struct config_mark at = mark_of(y->problem_mark);
    if (y->error == YAML_READER_ERROR) {
        at = mark_at_offset(r, y->problem_offset);
        err_set(r->e, ERR_SYNTAX, 0, "%s; allowed: UTF-8 without control characters", problem);
    } else if (is_tab_at(r, at)) {
        err_set(r->e, ERR_SYNTAX, 0, "a tab; YAML is indented by spaces only");
    } else {
        err_set(r->e, ERR_SYNTAX, 0, "no valid YAML: %s%s%s", problem,
                y->context == NULL ? "" : ", ", y->context == NULL ? "" : y->context);
    }
    return config_fail_at(r->name, at, "", r->e);
}

static const yaml_char_t *anchor_of(const yaml_event_t *ev)
{
    switch (ev->type) {
    case YAML_ALIAS_EVENT:
        return ev->data.alias.anchor;
    case YAML_SCALAR_EVENT:
        return ev->data.scalar.anchor;
    case YAML_SEQUENCE_START_EVENT:
        return ev->data.sequence_start.anchor;
    case YAML_MAPPING_START_EVENT:
        return ev->data.mapping_start.anchor;
    default: /* libyaml's enum, not ours */
        return NULL;
    }
}

static const yaml_char_t *tag_of(const yaml_event_t *ev)
{
    switch (ev->type) {
    case YAML_SCALAR_EVENT:
        return ev->data.scalar.tag;
    case YAML_SEQUENCE_START_EVENT:
        return ev->data.sequence_start.tag;
    case YAML_MAPPING_START_EVENT:
        return ev->data.mapping_start.tag;
    default: /* libyaml's enum, not ours */
        return NULL;
    }
}

static bool next_event(struct reader *r)
{
    yaml_event_delete(&r->ev);
    if (yaml_parser_parse(&r->yaml, &r->ev) == 0)
        return fail_syntax(r);
    if (anchor_of(&r->ev) != NULL) {
        err_set(r->e, ERR_SYNTAX, 0, "anchors and aliases are not used here; write the value out");
        return fail_here(r, "");
    }
    if (tag_of(&r->ev) != NULL) {
        err_set(r->e, ERR_SYNTAX, 0, "tags are not used here; write the value without !");
        return fail_here(r, "");
    }
    return true;
}

static struct str scalar_of(const struct reader *r)
{
    return (struct str){(const char *)r->ev.data.scalar.value, r->ev.data.scalar.length};
}

static bool is_quoted(const struct reader *r)
{
    return r->ev.data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
}

static bool is_null(const struct reader *r)
{
    struct str v = scalar_of(r);
    return r->ev.type == YAML_SCALAR_EVENT && !is_quoted(r) &&
           (v.len == 0 || str_eq(v, STR("~")) || str_eq_nocase(v, STR("null")));
}

/* --- values; the current event is the first of the value, and afterwards its last */

static bool fail_kind_at(struct reader *r, struct config_mark at, const struct config_key *k,
                         const char *what)
{
    char allowed[160];
    err_set(r->e, ERR_SYNTAX, 0, "%s; %s", what, config_key_allowed(k, allowed, sizeof allowed));
    return config_fail_at(r->name, at, k->path, r->e);
}

static bool fail_kind(struct reader *r, const struct config_key *k, const char *what)
{
    return fail_kind_at(r, mark_of(r->ev.start_mark), k, what);
}

static bool read_list(struct reader *r, const struct config_key *k)
{
    struct config_mark start = mark_of(r->ev.start_mark);
    if (r->ev.type != YAML_SEQUENCE_START_EVENT)
        return fail_kind(r, k, "not a list");
    config_value_clear_list(k, r->c);
    for (size_t i = 0;; i++) {
        if (!next_event(r))
            return false;
        if (r->ev.type == YAML_SEQUENCE_END_EVENT)
            break;
        if (r->ev.type != YAML_SCALAR_EVENT || is_null(r))
            return fail_kind(r, k, "an item of the list is not a string");
        remember(r, k->path, i, mark_of(r->ev.start_mark));
        if (!config_value_append(k, scalar_of(r), r->c, r->e))
            return fail_here(r, k->path);
    }
    if (config_value_list_len(k, r->c) >= k->min)
        return true;
    return fail_kind_at(r, start, k, "the list is too short");
}

static bool read_tags(struct reader *r, const struct config_key *k)
{
    if (r->ev.type != YAML_MAPPING_START_EVENT)
        return fail_kind(r, k, "not a mapping");
    for (;;) {
        if (!next_event(r))
            return false;
        if (r->ev.type == YAML_MAPPING_END_EVENT)
            return true;
        if (r->ev.type != YAML_SCALAR_EVENT)
            return fail_kind(r, k, "a name is not a string");
        AUTO_FREE char *name = str_dup(scalar_of(r));
        if (!next_event(r))
            return false;
        if (r->ev.type != YAML_SCALAR_EVENT || is_null(r))
            return fail_kind(r, k, "a value is not a string");
        if (!config_value_add_tag(k, str_from(name), scalar_of(r), r->c, r->e))
            return fail_here(r, k->path);
    }
}

static bool read_scalar(struct reader *r, const struct config_key *k)
{
    if (r->ev.type != YAML_SCALAR_EVENT)
        return fail_kind(r, k, "not a single value");
    if (is_null(r))
        return fail_kind(r, k, "has no value; leave the key out for its default");
    if (!config_value_set(k, scalar_of(r), is_quoted(r), r->c, r->e))
        return fail_here(r, k->path);
    if (k->later == NULL || config_value_is_preset(k, r->c))
        return true;
    err_set(r->e, ERR_SYNTAX, 0, "not in this version: %s; allowed: %s", k->later,
            k->preset[0] == '\0' ? "\"\"" : k->preset);
    return fail_here(r, k->path);
}

static bool read_value(struct reader *r, const struct config_key *k)
{
    remember(r, k->path, CONFIG_NO_ITEM, mark_of(r->ev.start_mark));
    if (k->type == CT_LIST)
        return read_list(r, k);
    if (k->type == CT_TAGS)
        return read_tags(r, k);
    return read_scalar(r, k);
}

/* --- mappings */

static bool read_section(struct reader *r, const char *path);

static bool fail_unknown(struct reader *r, const char *section)
{
    char key[KEY_SHOWN_MAX + 1], hint[200];
    str_escape(key, sizeof key, scalar_of(r));
    config_key_suggest(str_from(section), scalar_of(r), hint, sizeof hint);
    AUTO_FREE char *path = xasprintf("%s%s%s", section, section[0] == '\0' ? "" : ".", key);
    err_set(r->e, ERR_SYNTAX, 0, "unknown key; %s", hint);
    return fail_here(r, path);
}

/* The key is the current event. */
static bool read_entry(struct reader *r, const char *section)
{
    char path[PATH_MAX_BYTES];
    struct str key = scalar_of(r);
    int n = snprintf(path, sizeof path, "%s%s%.*s", section, section[0] == '\0' ? "" : ".",
                     (int)(key.len < sizeof path ? key.len : sizeof path), key.p);
    const struct config_key *k = config_key_find(str_from(path));
    bool is_section = k == NULL && config_section_exists(str_from(path));
    bool is_odd =
        key.len == 0 || memchr(key.p, '\0', key.len) != NULL || memchr(key.p, '.', key.len) != NULL;
    if (n < 0 || (size_t)n >= sizeof path || is_odd || (k == NULL && !is_section))
        return fail_unknown(r, section);
    if (config_was_written(r->marks, path)) {
        struct config_mark first = config_marks_find(r->marks, path, CONFIG_NO_ITEM);
        err_set(r->e, ERR_SYNTAX, 0, "is there twice; the first one is in line %u", first.line);
        return fail_here(r, path);
    }
    if (!next_event(r))
        return false;
    return is_section ? read_section(r, path) : read_value(r, k);
}

/* Recursion is as deep as the schema. */
static bool read_section(struct reader *r, const char *path)
{
    if (path[0] != '\0')
        remember(r, path, CONFIG_NO_ITEM, mark_of(r->ev.start_mark));
    if (is_null(r))
        return true; /* all its keys may be commented out */
    if (r->ev.type != YAML_MAPPING_START_EVENT) {
        char known[200];
        config_key_suggest(str_from(path), STR(""), known, sizeof known);
        err_set(r->e, ERR_SYNTAX, 0, "not a mapping; %s", known);
        return fail_here(r, path);
    }
    for (;;) {
        if (!next_event(r))
            return false;
        if (r->ev.type == YAML_MAPPING_END_EVENT)
            return true;
        if (r->ev.type != YAML_SCALAR_EVENT) {
            err_set(r->e, ERR_SYNTAX, 0, "a key is not a word");
            return fail_here(r, path);
        }
        if (!read_entry(r, path))
            return false;
    }
}

static bool skip_events(struct reader *r, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (!next_event(r))
            return false;
    return true;
}

static bool read_stream(struct reader *r)
{
    if (!skip_events(r, 2)) /* stream start; document start, or the end */
        return false;
    if (r->ev.type == YAML_STREAM_END_EVENT)
        return true;
    if (!next_event(r) || !read_section(r, "") ||
        !skip_events(r, 2)) /* its end; another, or the end */
        return false;
    if (r->ev.type == YAML_STREAM_END_EVENT)
        return true;
    err_set(r->e, ERR_SYNTAX, 0, "a second YAML document; allowed: one");
    return fail_here(r, "");
}

bool config_read(const char *name, struct str text, struct config *c, struct config_marks *marks,
                 struct err *e)
{
    if (str_starts_with(text, STR("\xef\xbb\xbf"))) /* a BOM: libyaml, told the encoding, trips */
        text = str_sub(text, 3, text.len);
    struct reader r = {.name = name, .text = text, .c = c, .marks = marks, .e = e};
    CHECK(yaml_parser_initialize(&r.yaml) != 0);
    yaml_parser_set_encoding(&r.yaml, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.yaml, (const unsigned char *)text.p, text.len);
    bool ok = read_stream(&r);
    yaml_event_delete(&r.ev);
    yaml_parser_delete(&r.yaml);
    return ok;
}

const char *config_read_library_version(void)
{
    return yaml_get_version_string();
}
