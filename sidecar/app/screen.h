// SPDX-License-Identifier: Apache-2.0
/* screen: report's JSON as text for people.  Whatever a peer may have put into it is escaped, so
 * that no terminal is steered by it.  Layer: app. */
#ifndef SVIDMAIL_APP_SCREEN_H
#define SVIDMAIL_APP_SCREEN_H
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

void screen_status(const json_t *status, FILE *to);
void screen_identity(const json_t *identity, FILE *to);
/* How one mail went: from the app to SES, as status and its element of "last" tell it. */
void screen_path(const json_t *status, const json_t *mail, FILE *to);
/* A string of o, escaped; "" if there is none.  out has cap bytes. */
const char *screen_text(const json_t *o, const char *key, char *out, size_t cap);
/* "3 d 4 h", "12 min", "5 s" */
const char *screen_span(int64_t s, char *out, size_t cap);

#endif
