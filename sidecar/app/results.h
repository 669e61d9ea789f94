// SPDX-License-Identifier: Apache-2.0
/* results: how the last mails ended, for `svidmail status`.  Layer: app.  Thread: loop. */
#ifndef SVIDMAIL_APP_RESULTS_H
#define SVIDMAIL_APP_RESULTS_H
#include <stddef.h>
#include <stdint.h>

#define RESULTS_MAX 16

struct result {
    char mail[32], outcome[12], text[200], ses_message_id[128];
    char peer_id[256]; /* of the gateway that was seen; "" if none */
    int code;
    int64_t at_ms; /* wall */
    uint64_t took_us;
};

struct results {
    struct result ring[RESULTS_MAX];
    size_t n_added;
};

/* The slot for the next one, all zero. */
struct result *results_add(struct results *r);
/* The i-th newest, 0 is the last one; NULL when there are not that many. */
const struct result *results_get(const struct results *r, size_t i);

#endif
