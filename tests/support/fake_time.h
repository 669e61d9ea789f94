// SPDX-License-Identifier: Apache-2.0
/* fake_time: a clock that stands still until the test moves it, and sys/timer on top of it (it
 * takes the place of timer.c at link time: SUPPORT fake_time.c).  Timers run from
 * fake_time_advance() alone. */
#ifndef SVIDMAIL_TESTS_FAKE_TIME_H
#define SVIDMAIL_TESTS_FAKE_TIME_H
#include "sys/clock.h"

#include <stddef.h>

#define FAKE_WALL_START_MS                                                                         \
    INT64_C(1780272000000) /* 2026-06-01T00:00:00Z: certs.h means the same                         \
                            */

/* Wall time back to its start; timers of an earlier test must be gone. */
const struct clock *fake_time_start(void);
const struct clock *fake_time_clock(void);
/* Moves both clocks on and runs what falls due on the way, in order.  0: what is due now. */
void fake_time_advance(uint64_t ms);
/* Wall time only: someone sets the clock, or the machine was suspended. */
void fake_time_set_wall(int64_t to_wall_ms);
/* Delay until the next timer, UINT64_MAX if none runs. */
uint64_t fake_time_next_ms(void);
/* Timers that were made and not freed. */
size_t fake_time_n_timers(void);

#endif
