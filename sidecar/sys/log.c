// SPDX-License-Identifier: Apache-2.0
#include "sys/log.h"
#include "base/buf.h"
#include "sys/clock.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LINE_MAX_BYTES  8192
#define FIELD_MAX_BYTES 1024
#define REPEAT_SLOTS    64

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
static enum log_level least_level = LOG_INFO;
static enum log_format line_format = LOG_JSON;

void log_init(enum log_level least, enum log_format format)
{
    least_level = least;
    line_format = format;
}

void log_set_level(enum log_level least)
{
    least_level = least;
}

bool log_level_parse(struct str name, enum log_level *out)
{
    for (unsigned i = 0; i < LOG_LEVEL_COUNT; i++) {
        if (str_eq(name, str_from(level_names[i]))) {
            *out = (enum log_level)i;
            return true;
        }
    }
    return false;
}

static bool is_plain(char c)
{
    return c >= 32 && c < 127 && c != '"' && c != '\\';
}

/* JSON string body: quotes and controls escaped; bytes that are not ASCII as \u00XX, so that a line
 * is always valid whatever a peer sent. */
static bool put_escaped(struct buf *b, struct str s)
{
    struct str left = str_sub(s, 0, FIELD_MAX_BYTES);
    while (left.len > 0) {
        size_t run = 0;
        while (run < left.len && is_plain(left.p[run]))
            run++;
        if (!buf_append(b, left.p, run))
            return false;
        left = str_sub(left, run, left.len);
        if (left.len == 0)
            break;
        char c = left.p[0];
        if (!(c == '"' || c == '\\' ? buf_printf(b, "\\%c", c)
                                    : buf_printf(b, "\\u%04x", (unsigned char)c)))
            return false;
        left = str_sub(left, 1, left.len);
    }
    return s.len <= FIELD_MAX_BYTES || buf_append_str(b, STR("..."));
}

static bool put_field(struct buf *b, const struct log_field *f)
{
    bool json = line_format == LOG_JSON;
    if (f->kind == LF_STR && f->s.len == 0)
        return true;
    if (!buf_printf(b, json ? ",\"%s\":" : " %s=", f->key))
        return false;
    switch (f->kind) {
    case LF_STR:
        return buf_append_str(b, STR("\"")) && put_escaped(b, f->s) && buf_append_str(b, STR("\""));
    case LF_INT:
        return buf_printf(b, "%lld", (long long)f->i);
    case LF_BOOL:
        return buf_printf(b, "%s", f->i ? "true" : "false");
    }
    return false;
}

void log_write(enum log_event event, const struct log_field *fields, size_t n)
{
    const struct event_info *info = &events[event];
    if (info->level < least_level)
        return;
    char when[25];
    clock_format_rfc3339(when, clock_wall_ms(clock_system()));
    struct buf b;
    buf_init(&b, LINE_MAX_BYTES);
    bool ok =
        buf_printf(&b,
                   line_format == LOG_JSON ? "{\"time\":\"%s\",\"level\":\"%s\",\"event\":\"%s\""
                                           : "%s %-5s %s",
                   when, level_names[info->level], info->name);
    for (size_t i = 0; ok && i < n; i++) {
        size_t before = b.len;
        ok = put_field(&b, &fields[i]) && buf_room(&b) > 2;
        if (!ok)
            b.len = before; /* what does not fit is left out whole: the line stays valid */
    }
    if (!buf_append_str(&b, line_format == LOG_JSON ? STR("}\n") : STR("\n")))
        b.len = 0;
    struct str line = buf_str(&b);
    while (line.len > 0) {
        ssize_t w = write(STDERR_FILENO, line.p, line.len);
        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0)
            break; /* nowhere to say it */
        line = str_sub(line, (size_t)w, line.len);
    }
    buf_release(&b);
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
