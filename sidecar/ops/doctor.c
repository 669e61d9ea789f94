// SPDX-License-Identifier: Apache-2.0
/* Happy path: doctor_start -> on_turn: run() of each check in order; one that has not told anything
 * by the end of its run() is waited for (teller -> on_turn goes on) -> on_done.
 * Failures: a check's time, or all time, is over: it is cancelled and told as such. */
#include "ops/doctor.h"
#include "base/mem.h"
#include "sys/clock.h"
#include "sys/timer.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX 1024
#define CURE_MAX 4096
#define MANUAL   "docs/troubleshooting.md"

// clang-format off
#define CODE(number, result, signs, title, cure, log) \
    {number, DOCTOR_##result, signs, title, cure, log},
static const struct doctor_code codes[] = {
#include "ops/doctor_codes.def"
};
#undef CODE
// clang-format on

static const char *const result_names[DOCTOR_RESULT_COUNT] = {
    [DOCTOR_OK] = "ok",
    [DOCTOR_WARNING] = "warning",
    [DOCTOR_FAILED] = "failed",
    [DOCTOR_NOT_CHECKED] = "not_checked",
};

struct finding {
    enum doctor_result result;
    const struct doctor_code *code; /* NULL: a tick, or not checked */
    char *text;                     /* NULL: not told yet */
    size_t root; /* where a "not checked" begins: the index of the check to blame; else its own */
};

struct doctor {
    struct doctor_plan plan;
    struct finding *findings;
    size_t at; /* the check that runs or comes next */
    bool is_in_run, is_waiting;
    struct timer *turn, *limit;
    uint64_t started_us, took_ms;
};

/* --- codes */

const struct doctor_code *doctor_codes(size_t *n)
{
    *n = ARRAY_LEN(codes);
    return codes;
}

static bool is_listed(const char *list, struct str item)
{
    struct str rest = str_from(list);
    while (rest.len > 0) {
        struct str one = str_sub(rest, 0, str_index(rest, '|'));
        if (str_eq(one, item))
            return true;
        rest = str_sub(rest, one.len + 1, rest.len);
    }
    return false;
}

static const struct doctor_code *find_exact(struct str sign)
{
    for (size_t i = 0; i < ARRAY_LEN(codes); i++)
        if (is_listed(codes[i].signs, sign))
            return &codes[i];
    return NULL;
}

const struct doctor_code *doctor_code_find(const char *sign)
{
    struct str s = str_from(sign);
    const struct doctor_code *found = find_exact(s);
    while (found == NULL && s.len > 0) {
        do
            s.len--;
        while (s.len > 0 && s.p[s.len] != '.');
        found = find_exact(s);
    }
    return found;
}

/* --- the walk */

static size_t index_of(const struct doctor *d, struct str id)
{
    size_t i = 0;
    while (i < d->plan.n_checks && !str_eq(id, str_from(d->plan.checks[i].id)))
        i++;
    return i;
}

static void tell(struct doctor *d, enum doctor_result result, const struct doctor_code *code,
                 size_t root, const char *text)
{
    struct finding *f = &d->findings[d->at];
    char escaped[TEXT_MAX];
    CHECK(f->text == NULL);
    *f = (struct finding){.result = result, .code = code, .root = root};
    f->text = xstrdup(str_escape(escaped, sizeof escaped, str_from(text)));
    if (d->is_in_run)
        return;
    d->is_waiting = false;
    timer_stop(d->limit);
    timer_start(d->turn, 0);
}

static void tell_list(struct doctor *d, enum doctor_result result, const struct doctor_code *code,
                      const char *fmt, va_list ap)
{
    char text[TEXT_MAX];
    vsnprintf(text, sizeof text, fmt, ap);
    tell(d, result, code, d->at, text);
}

void doctor_ok(struct doctor *d, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    tell_list(d, DOCTOR_OK, NULL, fmt, ap);
    va_end(ap);
}

void doctor_skip(struct doctor *d, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    tell_list(d, DOCTOR_NOT_CHECKED, NULL, fmt, ap);
    va_end(ap);
}

void doctor_found(struct doctor *d, const char *sign, const char *fmt, ...)
{
    const struct doctor_code *code = doctor_code_find(sign);
    va_list ap;
    if (code == NULL)
        code = doctor_code_find("probe"); /* mail goes on, whatever doctor lacks a word for */
    va_start(ap, fmt);
    tell_list(d, code->result, code, fmt, ap);
    va_end(ap);
}

static bool is_in_the_way(const struct finding *f)
{
    return f->result == DOCTOR_FAILED || f->result == DOCTOR_NOT_CHECKED;
}

/* The first needed check that has not gone well; n_checks: none. */
static size_t find_obstacle(const struct doctor *d, const struct doctor_check *c)
{
    struct str rest = str_from(c->needs);
    while (rest.len > 0) {
        struct str id = str_sub(rest, 0, str_index(rest, '|'));
        size_t i = index_of(d, id);
        CHECK(i < d->at);
        if (is_in_the_way(&d->findings[i]))
            return d->findings[i].root;
        rest = str_sub(rest, id.len + 1, rest.len);
    }
    return d->plan.n_checks;
}

static void blame(struct doctor *d, size_t root)
{
    char text[TEXT_MAX];
    bool is_unchecked = d->findings[root].result == DOCTOR_NOT_CHECKED;
    snprintf(text, sizeof text, "because of \"%s\"%s", d->plan.checks[root].name,
             is_unchecked ? ", which was not checked" : "");
    tell(d, DOCTOR_NOT_CHECKED, NULL, root, text);
}

void doctor_blame(struct doctor *d, const char *id)
{
    size_t i = index_of(d, str_from(id));
    CHECK(i < d->at);
    blame(d, d->findings[i].root);
}

static uint64_t ms_since_start(const struct doctor *d)
{
    return (clock_mono_us() - d->started_us) / 1000;
}

static void run_next(struct doctor *d)
{
    const struct doctor_check *c = &d->plan.checks[d->at];
    size_t obstacle = find_obstacle(d, c);
    if (obstacle < d->plan.n_checks)
        blame(d, obstacle);
    else if (c->is_online && d->plan.is_offline)
        doctor_skip(d, "because of --offline");
    else if (ms_since_start(d) >= d->plan.total_limit_ms)
        doctor_skip(d, "because the checks before it took too long");
    else
        c->run(d->plan.arg, d, c->what);
}

static uint64_t limit_ms(const struct doctor *d)
{
    uint64_t own = d->plan.checks[d->at].limit_ms;
    return own != 0 ? own : d->plan.check_limit_ms;
}

static void on_turn(void *arg)
{
    struct doctor *d = arg;
    d->is_in_run = true;
    while (d->at < d->plan.n_checks) {
        if (d->findings[d->at].text == NULL)
            run_next(d);
        if (d->findings[d->at].text == NULL)
            break;
        d->at++;
    }
    d->is_in_run = false;
    if (d->at < d->plan.n_checks) {
        d->is_waiting = true;
        timer_start(d->limit, limit_ms(d));
        return;
    }
    d->took_ms = ms_since_start(d);
    d->plan.on_done(d->plan.arg);
}

static void cancel(struct doctor *d)
{
    const struct doctor_check *c = &d->plan.checks[d->at];
    if (d->is_waiting && c->cancel != NULL)
        c->cancel(d->plan.arg, c->what);
    d->is_waiting = false;
}

static void on_limit(void *arg)
{
    struct doctor *d = arg;
    const char *sign = d->plan.checks[d->at].late;
    cancel(d);
    doctor_found(d, sign != NULL ? sign : "time", "no result within %.1f s",
                 (double)limit_ms(d) / 1000);
}

struct doctor *doctor_start(uv_loop_t *loop, const struct doctor_plan *plan)
{
    struct doctor *d = xcalloc(1, sizeof *d);
    d->plan = *plan;
    if (d->plan.check_limit_ms == 0)
        d->plan.check_limit_ms = DOCTOR_CHECK_LIMIT_MS;
    if (d->plan.total_limit_ms == 0)
        d->plan.total_limit_ms = DOCTOR_TOTAL_LIMIT_MS;
    d->findings = xcalloc(plan->n_checks, sizeof *d->findings);
    d->started_us = clock_mono_us();
    d->turn = timer_new(loop, on_turn, d);
    d->limit = timer_new(loop, on_limit, d);
    timer_start(d->turn, 0);
    return d;
}

void doctor_free(struct doctor **pd)
{
    struct doctor *d = *pd;
    *pd = NULL;
    if (d == NULL)
        return;
    cancel(d);
    timer_free(&d->turn);
    timer_free(&d->limit);
    for (size_t i = 0; i < d->plan.n_checks; i++)
        free(d->findings[i].text);
    free(d->findings);
    free(d);
}

/* --- what is told */

/* Nothing that a shell would read as more than a word. */
static bool is_plain(const char *value)
{
    for (const char *c = value; *c != '\0'; c++) {
        bool is_alnum =
            (ascii_lower(*c) >= 'a' && ascii_lower(*c) <= 'z') || (*c >= '0' && *c <= '9');
        if (!is_alnum && strchr("-._/:,=@+", *c) == NULL)
            return false;
    }
    return value[0] != '\0' && value[0] != '-';
}

static struct str value_of(const struct doctor_word *words, struct str word)
{
    for (; words->word != NULL; words++)
        if (str_eq(str_from(words->word), word) && words->value != NULL && is_plain(words->value))
            return str_from(words->value);
    return word;
}

/* A brace that holds anything but capitals belongs to the command. */
static bool is_word(struct str s)
{
    for (size_t i = 0; i < s.len; i++)
        if (!(s.p[i] >= 'A' && s.p[i] <= 'Z') && s.p[i] != '_')
            return false;
    return s.len > 0;
}

bool doctor_fill(const char *cure, const struct doctor_word *words, struct buf *out)
{
    struct str rest = str_from(cure);
    bool ok = true;
    while (ok && rest.len > 0) {
        size_t open = str_index(rest, '{');
        ok = buf_append_str(out, str_sub(rest, 0, open));
        rest = str_sub(rest, open, rest.len);
        size_t close = str_index(rest, '}');
        struct str word = str_sub(rest, 1, close - 1);
        if (!ok || rest.len == 0)
            break;
        if (close < rest.len && is_word(word)) {
            ok = buf_append_str(out, value_of(words, word));
            rest = str_sub(rest, close + 1, rest.len);
        } else {
            ok = buf_append(out, "{", 1);
            rest = str_sub(rest, 1, rest.len);
        }
    }
    return ok;
}

static void put(json_t *to, const char *key, json_t *value)
{
    CHECK(value != NULL && json_object_set_new(to, key, value) == 0);
}

static void put_cure(json_t *to, const char *cure, const struct doctor_word *words)
{
    struct buf filled;
    json_t *lines = json_array();
    buf_init(&filled, CURE_MAX);
    bool fits = doctor_fill(cure, words, &filled);
    struct str rest = fits ? buf_str(&filled) : str_from(cure);
    while (rest.len > 0) {
        struct str line = str_sub(rest, 0, str_index(rest, '\n'));
        CHECK(json_array_append_new(lines, json_stringn(line.p, line.len)) == 0);
        rest = str_sub(rest, line.len + 1, rest.len);
    }
    put(to, "cure", lines);
    buf_release(&filled);
}

static void put_code(json_t *to, const struct doctor_code *code, const struct doctor_word *words)
{
    char text[sizeof MANUAL "#sm" + 12];
    snprintf(text, sizeof text, "SM%03d", code->number);
    put(to, "code", json_string(text));
    put(to, "title", json_string(code->title));
    put_cure(to, code->cure, words);
    if (code->log[0] != '\0')
        put(to, "gateway_log", json_string(code->log));
    snprintf(text, sizeof text, MANUAL "#sm%03d", code->number);
    put(to, "see", json_string(text));
}

static json_t *check_object(const struct doctor *d, size_t i, const struct doctor_word *words)
{
    const struct doctor_check *c = &d->plan.checks[i];
    const struct finding *f = &d->findings[i];
    json_t *o = json_object();
    put(o, "id", json_string(c->id));
    put(o, "category", json_string(c->category));
    put(o, "check", json_string(c->name));
    put(o, "result", json_string(result_names[f->result]));
    put(o, "text", json_string(f->text)); /* escaped when it was told */
    if (f->code != NULL)
        put_code(o, f->code, words);
    return o;
}

bool doctor_write(const struct doctor *d, const struct doctor_word *words, struct buf *out)
{
    size_t counts[DOCTOR_RESULT_COUNT] = {0};
    json_t *o = json_object(), *list = json_array(), *sums = json_object();
    for (size_t i = 0; i < d->plan.n_checks; i++) {
        counts[d->findings[i].result]++;
        CHECK(json_array_append_new(list, check_object(d, i, words)) == 0);
    }
    for (unsigned i = 0; i < DOCTOR_RESULT_COUNT; i++)
        put(sums, result_names[i], json_integer((json_int_t)counts[i]));
    enum doctor_result worst = counts[DOCTOR_FAILED] > 0    ? DOCTOR_FAILED
                               : counts[DOCTOR_WARNING] > 0 ? DOCTOR_WARNING
                                                            : DOCTOR_OK;
    put(o, "result", json_string(result_names[worst]));
    put(o, "offline", json_boolean(d->plan.is_offline));
    put(o, "took_ms", json_integer((json_int_t)d->took_ms));
    put(o, "counts", sums);
    put(o, "checks", list);
    char *text = json_dumps(o, JSON_INDENT(2) | JSON_ENSURE_ASCII);
    json_decref(o);
    CHECK(text != NULL);
    bool ok = buf_printf(out, "%s\n", text);
    free(text);
    return ok;
}
