// SPDX-License-Identifier: Apache-2.0
/* config_read: YAML text -> struct config, by libyaml's events, so that every message has line and
 * column.  What YAML allows and a configuration does not need is refused: anchors, aliases, tags,
 * several documents.  Pure. Layer: app. */
#ifndef SVIDMAIL_APP_CONFIG_READ_H
#define SVIDMAIL_APP_CONFIG_READ_H
#include "app/config_schema.h"

/* Where something stands in the file, both from 1. */
struct config_mark {
    unsigned line, column;
};

/* Where what was read stood: keys, items of lists, sections. */
struct config_marks {
    struct config_place {
        char *path;
        size_t item; /* of a list; CONFIG_NO_ITEM for the value as a whole */
        struct config_mark at;
    } * places;
    size_t n;
};
#define CONFIG_NO_ITEM ((size_t)-1)

/* c holds the defaults.  name stands for the file in messages. */
NODISCARD bool config_read(const char *name, struct str text, struct config *c,
                           struct config_marks *marks, struct err *e);
bool config_was_written(const struct config_marks *marks, const char *path);
/* Where path stands, or the nearest section around it that does, or 1:1. */
struct config_mark config_marks_find(const struct config_marks *marks, const char *path,
                                     size_t item);
void config_marks_release(struct config_marks *marks);
/* Puts "NAME:LINE:COL: PATH: " in front of what e says; returns false. */
bool config_fail_at(const char *name, struct config_mark at, const char *path, struct err *e);
/* Of libyaml. */
const char *config_read_library_version(void);

#endif
