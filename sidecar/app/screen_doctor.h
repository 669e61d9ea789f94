// SPDX-License-Identifier: Apache-2.0
/* screen_doctor: doctor's JSON as text for people: categories in their order, one line per check,
 * and below one that did not go well its code, cure, and where the gateway's log decides.
 * Layer: app. */
#ifndef SVIDMAIL_APP_SCREEN_DOCTOR_H
#define SVIDMAIL_APP_SCREEN_DOCTOR_H
#include <jansson.h>
#include <stdio.h>

void screen_doctor(const json_t *found, FILE *to);

#endif
