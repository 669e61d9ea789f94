// SPDX-License-Identifier: Apache-2.0
/* loop_fixture: a libuv loop of the test's own, run until something is true or a deadline has
 * passed.
 *
 *     uv_loop_t *loop = loop_new();
 *     ...start things...
 *     LOOP_UNTIL(loop, c.n_ended == 1);
 *     ...close things...
 *     loop_free(&loop);          (fails the test if a handle is still open) */
#ifndef SVIDMAIL_TESTS_LOOP_FIXTURE_H
#define SVIDMAIL_TESTS_LOOP_FIXTURE_H
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#define LOOP_DEADLINE_MS 30000u

uv_loop_t *loop_new(void);
/* Runs until all handles are closed, at most LOOP_DEADLINE_MS; a handle that stays open fails the
 * test and is listed on stderr.  Nulls *loop; NULL is fine. */
void loop_free(uv_loop_t **loop);

/* Run the loop until cond holds; fails the test, naming cond, after LOOP_DEADLINE_MS. */
#define LOOP_UNTIL(loop, cond) LOOP_UNTIL_WITHIN(loop, cond, LOOP_DEADLINE_MS)
#define LOOP_UNTIL_WITHIN(loop, cond, ms)                                                          \
    do {                                                                                           \
        uint64_t loop_deadline_ = loop_deadline_ms(ms);                                            \
        while (!(cond))                                                                            \
            loop_step((loop), loop_deadline_, #cond, __FILE__, __LINE__);                          \
    } while (0)

/* Run the loop for so long, whatever happens. */
void loop_run_for(uv_loop_t *loop, uint64_t ms);
/* Run the loop as long as it has something to do at once (no waiting); at least two turns. */
void loop_settle(uv_loop_t *loop);

/* A listening socket on loopback that lets nobody in: its backlog is full, so the kernel drops
 * further SYNs, as a lost host would.  Close all three. */
int socket_black_hole(uint16_t *port, int fillers[2]);

/* Parts of the macro. */
uint64_t loop_deadline_ms(uint64_t from_now_ms);
void loop_step(uv_loop_t *loop, uint64_t deadline_ms, const char *what, const char *file, int line);

#endif
