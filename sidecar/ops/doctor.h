// SPDX-License-Identifier: Apache-2.0
/* doctor: walks a list of checks, one after the other, and writes what they found: tick, warning,
 * cross or "not checked", with a code of doctor_codes.def, its cure and where else to look.  It
 * knows nothing of what is checked; app hands the checks in.  Layer: ops.  Thread: loop.
 *
 * A check ends by exactly one of the tellers, inside its run() or later.  One that needs a check
 * which failed, or was not checked, is not run. */
#ifndef SVIDMAIL_OPS_DOCTOR_H
#define SVIDMAIL_OPS_DOCTOR_H
#include "base/buf.h"

#include <uv.h>

enum doctor_result {
    DOCTOR_OK,
    DOCTOR_WARNING,
    DOCTOR_FAILED,
    DOCTOR_NOT_CHECKED,
    DOCTOR_RESULT_COUNT
};

/* A row of doctor_codes.def. */
struct doctor_code {
    int number;
    enum doctor_result result;
    const char *signs, *title, *cure, *log;
};
const struct doctor_code *doctor_codes(size_t *n);
/* The row of a sign, or of the nearest one above it: for "stream.not_tls.http" also that of
 * "stream.not_tls" or "stream".  NULL: none. */
const struct doctor_code *doctor_code_find(const char *sign);

struct doctor;
struct doctor_check {
    const char *id; /* "gateway.name": for scripts, never changed */
    const char *category, *name;
    const char
        *needs;     /* ids, separated by |, of earlier checks without which this one says nothing */
    bool is_online; /* asks somebody outside of this process */
    unsigned what;  /* run()'s own */
    void (*run)(void *arg, struct doctor *d, unsigned what);
    /* Its time is over, or the walk is freed: no teller may be called for it any more.  NULL: it
     * always ends within run(). */
    void (*cancel)(void *arg, unsigned what);
    uint64_t limit_ms; /* 0: the plan's */
    const char *late;  /* sign of a check whose time is over; NULL: "time" */
};

/* Each check has CHECK_LIMIT_MS, all together have TOTAL_LIMIT_MS. */
#define DOCTOR_CHECK_LIMIT_MS 20000u
#define DOCTOR_TOTAL_LIMIT_MS 40000u

struct doctor_plan {
    const struct doctor_check *checks; /* borrowed */
    size_t n_checks;
    bool is_offline;
    uint64_t check_limit_ms, total_limit_ms; /* 0: the above */
    void *arg;                               /* of run() and cancel() */
    void (*on_done)(void *arg);              /* once, from the loop; may free the walk */
};
/* *plan is copied.  Begins at the next turn of the loop. */
struct doctor *doctor_start(uv_loop_t *loop, const struct doctor_plan *plan);
/* Cancels what is under way; on_done does not run any more.  Nulls *d; NULL is fine. */
void doctor_free(struct doctor **d);

/* The tellers: for the check that runs now. */
void doctor_ok(struct doctor *d, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* sign: see doctor_codes.def. */
void doctor_found(struct doctor *d, const char *sign, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* why: "not checked, because ..." */
void doctor_skip(struct doctor *d, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Not checked, because this earlier one failed, or was not checked. */
void doctor_blame(struct doctor *d, const char *id);

/* What is known for {WORDS} in a cure.  Ends with a row of NULLs; a value that is empty, or would
 * mean something to a shell, is not filled in: the word itself stays. */
struct doctor_word {
    const char *word, *value;
};
bool doctor_fill(const char *cure, const struct doctor_word *words, struct buf *out);

/* All that was found, as JSON (svidmail.8 has the format).  false: out is full. */
NODISCARD bool doctor_write(const struct doctor *d, const struct doctor_word *words,
                            struct buf *out);

#endif
