// SPDX-License-Identifier: Apache-2.0
/* log: one line per event on stderr: time, level, event name from log_events.def, typed fields.
 * Strings are escaped and cut here, so peer text may be passed as it is.  Never pass a mail body, a
 * key or a token.
 *
 * Nobody who fails to read stderr holds the caller up: lines wait in a backlog of 256 kB; what
 * finds no room there is dropped, counted (log_lines_dropped_total) and told of in its place
 * (log.dropped).  Layer: sys.  Thread: loop (other threads post to an inbox instead). */
#ifndef SVIDMAIL_SYS_LOG_H
#define SVIDMAIL_SYS_LOG_H
#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_LEVEL_COUNT };
enum log_format { LOG_JSON, LOG_TEXT };

/* EVENT(NAME, level, "dotted.name", "what it tells the reader") */
enum log_event {
#define EVENT(name, level, dotted, help) EV_##name,
#include "sys/log_events.def"
#undef EVENT
    EV_COUNT
};

struct log_field {
    const char *key;
    enum { LF_STR, LF_INT, LF_BOOL } kind;
    struct str s;
    int64_t i;
};

#define F_STR(k, z)  ((struct log_field){(k), LF_STR, str_from(z), 0})
#define F_S(k, sv)   ((struct log_field){(k), LF_STR, (sv), 0})
#define F_INT(k, n)  ((struct log_field){(k), LF_INT, {"", 0}, (int64_t)(n)})
#define F_BOOL(k, b) ((struct log_field){(k), LF_BOOL, {"", 0}, (b) ? 1 : 0})

void log_init(enum log_level least, enum log_format format);
/* From here to log_detach() lines that wait are tried again by themselves; without, only by the
 * next line or log_flush().  Keeps no loop alive.  After log_detach() the loop has a handle to
 * close. */
void log_attach(uv_loop_t *loop);
void log_detach(void);
/* Write what waits while there is room for it, or comes to be within patience_ms in all. */
void log_flush(unsigned patience_ms);
#define LOG_LAST_LINES_MS 100 /* patience before an exit, for a log that is not read */

/* LOG(EV_SVID_ROTATED, F_STR("spiffe_id", id), F_INT("generation", 3)); an empty string field is
 * left out. */
#define LOG(event, ...)                                                                            \
    log_write((event), (const struct log_field[]){__VA_ARGS__},                                    \
              ARRAY_LEN(((const struct log_field[]){__VA_ARGS__})))
/* As LOG, plus the fields class and error, taken from e. */
#define LOG_ERR(event, e, ...)                                                                     \
    LOG(event, F_STR("class", err_code_name((e)->code)), F_STR("error", (e)->msg), __VA_ARGS__)

void log_write(enum log_event event, const struct log_field *fields, size_t n);

/* True if a line equal in event and key was logged less than window_ms ago: repeated troubles are
 * told once per window.  key may be NULL. */
bool log_is_repeat(enum log_event event, const char *key, uint64_t window_ms);

#endif
