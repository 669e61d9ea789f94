// SPDX-License-Identifier: Apache-2.0
/* suggest: what somebody meant who mistyped a word: the nearest of those offered, by edit distance.
 * Pure. Layer: app. */
#ifndef SVIDMAIL_APP_SUGGEST_H
#define SVIDMAIL_APP_SUGGEST_H
#include "base/str.h"

struct suggestion {
    struct str word;
    struct str best; /* borrowed from what was offered; "" if nothing is near */
    size_t distance;
};

void suggest_init(struct suggestion *s, struct str word);
void suggest_offer(struct suggestion *s, struct str candidate);

#endif
