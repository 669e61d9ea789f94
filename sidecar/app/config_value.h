// SPDX-License-Identifier: Apache-2.0
/* config_value: the text of one value -> the field of struct config its key names.  Pure.  Layer:
 * app. */
#ifndef SVIDMAIL_APP_CONFIG_VALUE_H
#define SVIDMAIL_APP_CONFIG_VALUE_H
#include "app/config_schema.h"

/* A value that is neither list nor tags; quoted: it stood in quotes, so it is a string.  The former
 * value is freed.  ERR_SYNTAX: what is wrong, and what is allowed (without file, line and key). */
NODISCARD bool config_value_set(const struct config_key *k, struct str text, bool is_quoted,
                                struct config *c, struct err *e);
/* One more item of a list. */
NODISCARD bool config_value_append(const struct config_key *k, struct str item, struct config *c,
                                   struct err *e);
NODISCARD bool config_value_add_tag(const struct config_key *k, struct str name, struct str value,
                                    struct config *c, struct err *e);
size_t config_value_list_len(const struct config_key *k, const struct config *c);
/* Empties a list. */
void config_value_clear_list(const struct config_key *k, struct config *c);
/* Every key gets its default. */
void config_value_preset_all(struct config *c);
/* Is it what the default says?  Not for lists and tags. */
bool config_value_is_preset(const struct config_key *k, const struct config *c);

#endif
