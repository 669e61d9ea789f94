// SPDX-License-Identifier: Apache-2.0
#include "sys/log.h"
#include "base/buf.h"
#include "sys/clock.h"
#include "sys/metrics.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

/* A pipe that poll() calls writable takes such a line whole and at once. */
#define LINE_MAX_BYTES    PIPE_BUF
#define FIELD_MAX_BYTES   1024 /* as escaped */
#define ESCAPED_MAX_BYTES 6    /* \u00XX */
#define REPEAT_SLOTS      64
#define BACKLOG_BYTES     (256u << 10) /* with a pipe's own 64 kB: some 5 s of 100 mails a second */
#define RETRY_MS          250u

struct event_info {
    const char *name;
    enum log_level level;
};

static const struct event_info events[EV_COUNT] = {
#define EVENT(name, level, dotted, help) {dotted, level},
#include "sys/log_events.def"
#undef EVENT
};

static const char *const level_names[LOG_LEVEL_COUNT] = {"debug", "info", "warn", "error"};
/* Whole lines that stderr had no room for, oldest first. */
static struct {
    char bytes[BACKLOG_BYTES];
    size_t len;
    uint64_t n_dropped; /* came after them, and found no room here either */
} backlog;
static uv_timer_t retry;
static bool has_retry;

static enum log_level least_level = LOG_INFO;
static enum log_format line_format = LOG_JSON;

void log_init(enum log_level least, enum log_format format)
{
    least_level = least;
    line_format = format;
}

static bool is_plain(char c)
{
    return c >= 32 && c < 127 && c != '"' && c != '\\';
}

/* JSON string body: quotes and controls escaped; bytes that are not ASCII as \u00XX, so that a line
 * is always valid whatever a peer sent.  Cut where it has become too long. */
static bool put_escaped(struct buf *b, struct str s)
{
    size_t end = b->len + FIELD_MAX_BYTES;
    while (s.len > 0) {
        size_t run = 0;
        while (run < s.len && run < end - b->len && is_plain(s.p[run]))
            run++;
        if (!buf_append(b, s.p, run))
            return false;
        s = str_sub(s, run, s.len);
        if (s.len == 0 || end - b->len < ESCAPED_MAX_BYTES)
            break;
        char c = s.p[0];
        if (!(c == '"' || c == '\\' ? buf_printf(b, "\\%c", c)
                                    : buf_printf(b, "\\u%04x", (unsigned char)c)))
            return false;
        s = str_sub(s, 1, s.len);
    }
    return s.len == 0 || buf_append_str(b, STR("..."));
}

/* A mail's line has some twenty fields: printf would cost more than all the rest of it. */
static bool put_key(struct buf *b, const char *key)
{
    bool is_json = line_format == LOG_JSON;
    return buf_append_str(b, is_json ? STR(",\"") : STR(" ")) && buf_append_str(b, str_from(key)) &&
           buf_append_str(b, is_json ? STR("\":") : STR("="));
}

static bool put_number(struct buf *b, int64_t n)
{
    char digits[20];
    size_t at = sizeof digits;
    uint64_t left = n < 0 ? 0 - (uint64_t)n : (uint64_t)n;
    do
        digits[--at] = (char)('0' + left % 10);
    while ((left /= 10) > 0);
    return (n >= 0 || buf_append(b, "-", 1)) && buf_append(b, digits + at, sizeof digits - at);
}

static bool put_field(struct buf *b, const struct log_field *f)
{
    if (f->kind == LF_STR && f->s.len == 0)
        return true;
    if (!put_key(b, f->key))
        return false;
    switch (f->kind) {
    case LF_STR:
        return buf_append(b, "\"", 1) && put_escaped(b, f->s) && buf_append(b, "\"", 1);
    case LF_INT:
        return put_number(b, f->i);
    case LF_BOOL:
        return buf_append_str(b, f->i ? STR("true") : STR("false"));
    }
    return false;
}

static void format_line(struct buf *b, const struct event_info *info,
                        const struct log_field *fields, size_t n)
{
    char when[25];
    clock_format_rfc3339(when, clock_wall_ms(clock_system()));
    bool ok =
        buf_printf(b,
                   line_format == LOG_JSON ? "{\"time\":\"%s\",\"level\":\"%s\",\"event\":\"%s\""
                                           : "%s %-5s %s",
                   when, level_names[info->level], info->name);
    for (size_t i = 0; ok && i < n; i++) {
        size_t before = b->len;
        if (!put_field(b, &fields[i]) || buf_room(b) <= 2)
            b->len = before; /* what does not fit is left out whole: the line stays valid */
    }
    if (!buf_append_str(b, line_format == LOG_JSON ? STR("}\n") : STR("\n")))
        b->len = 0;
}

static void count_lost(void)
{
    metric_add(M_LOG_LINES_DROPPED, METRIC_NONE, 1);
}

/* Now, or by then.  A broken stderr has room: write() tells what it is. */
static bool has_room(uint64_t until_us)
{
    struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
    for (;;) {
        uint64_t now_us = until_us > 0 ? clock_mono_us() : 0;
        int n = poll(&p, 1, now_us < until_us ? (int)((until_us - now_us + 999) / 1000) : 0);
        if (n >= 0 || errno != EINTR)
            return n != 0;
    }
}

static void write_line(struct str line)
{
    while (line.len > 0) {
        ssize_t w = write(STDERR_FILENO, line.p, line.len);
        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0) {
            count_lost();
            return;
        }
        line = str_sub(line, (size_t)w, line.len);
    }
}

static void on_retry(uv_timer_t *timer)
{
    (void)timer;
    log_flush(0);
}

/* false: no room for it anywhere. */
static bool put_line(enum log_event event, const struct log_field *fields, size_t n)
{
    struct buf b;
    buf_init(&b, LINE_MAX_BYTES);
    format_line(&b, &events[event], fields, n);
    struct str line = buf_str(&b);
    bool waits = backlog.len > 0 || !has_room(0), fits = line.len <= BACKLOG_BYTES - backlog.len;
    if (!waits)
        write_line(line);
    else if (fits) {
        memcpy(backlog.bytes + backlog.len, line.p, line.len);
        backlog.len += line.len;
        if (has_retry && !uv_is_active((uv_handle_t *)&retry))
            uv_timer_start(&retry, on_retry, RETRY_MS, RETRY_MS);
    }
    buf_release(&b);
    return !waits || fits;
}

void log_write(enum log_event event, const struct log_field *fields, size_t n)
{
    if (events[event].level < least_level)
        return;
    log_flush(0);
    if (backlog.n_dropped == 0 && put_line(event, fields, n))
        return;
    backlog.n_dropped++;
    count_lost();
}

void log_flush(unsigned patience_ms)
{
    size_t done = 0;
    uint64_t until_us = patience_ms > 0 ? clock_mono_us() + patience_ms * 1000u : 0;
    while (done < backlog.len && has_room(until_us)) {
        struct str rest = {backlog.bytes + done, backlog.len - done};
        struct str line = str_sub(rest, 0, str_index(rest, '\n') + 1);
        write_line(line);
        done += line.len;
    }
    if (done > 0) {
        backlog.len -= done;
        memmove(backlog.bytes, backlog.bytes + done, backlog.len);
    }
    if (backlog.n_dropped > 0 && backlog.len <= BACKLOG_BYTES / 2 &&
        put_line(EV_LOG_DROPPED, &F_INT("lines", backlog.n_dropped), 1))
        backlog.n_dropped = 0;
    if (backlog.len == 0 && has_retry)
        uv_timer_stop(&retry);
}

void log_attach(uv_loop_t *loop)
{
    CHECK(!has_retry && uv_timer_init(loop, &retry) == 0);
    uv_unref((uv_handle_t *)&retry);
    has_retry = true;
}

void log_detach(void)
{
    CHECK(has_retry);
    uv_close((uv_handle_t *)&retry, NULL);
    has_retry = false;
}

/* FNV-1a over the event and the key; without a round of its own the event would mix with the first
 * byte. */
static uint64_t hash(enum log_event event, const char *z)
{
    const uint64_t prime = 1099511628211ull;
    uint64_t h = (14695981039346656037ull ^ (uint64_t)event) * prime;
    for (; z != NULL && *z != '\0'; z++)
        h = (h ^ (unsigned char)*z) * prime;
    return h;
}

bool log_is_repeat(enum log_event event, const char *key, uint64_t window_ms)
{
    static struct {
        uint64_t hash, at_ms;
    } seen[REPEAT_SLOTS];
    uint64_t h = hash(event, key);
    uint64_t now = clock_mono_us() / 1000;
    unsigned slot = (unsigned)(h % REPEAT_SLOTS);
    if (seen[slot].hash == h && now - seen[slot].at_ms < window_ms)
        return true;
    seen[slot].hash = h;
    seen[slot].at_ms = now;
    return false;
}
