// SPDX-License-Identifier: Apache-2.0
#include "sys/metrics.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define MAX_SERIES 64 /* per metric: a label value taken from a peer must not grow without end */
#define LABEL_MAX  64
#define MAX_LABELS 3

enum kind { K_COUNTER, K_GAUGE, K_MOMENT, K_HISTOGRAM };

static const double bounds[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                0.5,    1,     2.5,    5,     10,   30,    60,   600};
#define N_BOUNDS ARRAY_LEN(bounds)

struct series {
    char labels[MAX_LABELS][LABEL_MAX];
    double value; /* histogram: sum */
    uint64_t count;
    uint64_t *bucket; /* histogram: N_BOUNDS, each for its own interval */
};

static const struct {
    const char *name, *labels, *help;
    enum kind kind;
} info[M_COUNT] = {
#define COUNTER(name, text, labels, help)   {text, labels, help, K_COUNTER},
#define GAUGE(name, text, labels, help)     {text, labels, help, K_GAUGE},
#define MOMENT(name, text, labels, help)    {text, labels, help, K_MOMENT},
#define HISTOGRAM(name, text, labels, help) {text, labels, help, K_HISTOGRAM},
#include "sys/metrics.def"
#undef COUNTER
#undef GAUGE
#undef MOMENT
#undef HISTOGRAM
};

static struct {
    struct series *series;
    size_t n;
} table[M_COUNT];

static bool has_labels(const struct series *s, const struct metric_labels *l)
{
    for (unsigned i = 0; i < MAX_LABELS; i++) {
        char cut[LABEL_MAX];
        if (strcmp(s->labels[i], str_copy(cut, sizeof cut, str_from(l->v[i]))) != 0)
            return false;
    }
    return true;
}

static struct series *find(enum metric m, const struct metric_labels *l)
{
    for (size_t i = 0; i < table[m].n; i++)
        if (has_labels(&table[m].series[i], l))
            return &table[m].series[i];
    return NULL;
}

/* "other" for each label the metric has: the last series takes all that do not fit. */
static struct metric_labels other_labels(enum metric m)
{
    struct metric_labels l = METRIC_NONE;
    const char *names = info[m].labels;
    for (unsigned i = 0; i < MAX_LABELS && names != NULL && names[0] != '\0'; i++) {
        l.v[i] = "other";
        names = strchr(names, ',');
        names = names != NULL ? names + 1 : NULL;
    }
    return l;
}

static struct series *get(enum metric m, struct metric_labels l)
{
    struct series *s = find(m, &l);
    if (s == NULL && table[m].n >= MAX_SERIES - 1) {
        l = other_labels(m);
        s = find(m, &l);
    }
    if (s != NULL)
        return s;
    table[m].series = xrealloc(table[m].series, (table[m].n + 1) * sizeof *s);
    s = &table[m].series[table[m].n++];
    memset(s, 0, sizeof *s);
    for (unsigned i = 0; i < MAX_LABELS; i++)
        str_copy(s->labels[i], LABEL_MAX, str_from(l.v[i]));
    if (info[m].kind == K_HISTOGRAM)
        s->bucket = xcalloc(N_BOUNDS, sizeof *s->bucket);
    return s;
}

void metric_add(enum metric m, struct metric_labels labels, double by)
{
    get(m, labels)->value += by;
}

void metric_set(enum metric m, struct metric_labels labels, double value)
{
    get(m, labels)->value = value;
}

void metric_observe(enum metric m, struct metric_labels labels, double seconds)
{
    struct series *s = get(m, labels);
    s->value += seconds;
    s->count++;
    for (size_t i = 0; i < N_BOUNDS; i++) {
        if (seconds <= bounds[i]) {
            s->bucket[i]++;
            break;
        }
    }
}

void metric_clear(enum metric m)
{
    for (size_t i = 0; i < table[m].n; i++)
        free(table[m].series[i].bucket);
    free(table[m].series);
    table[m].series = NULL;
    table[m].n = 0;
}

double metric_get(enum metric m, struct metric_labels labels)
{
    const struct series *s = find(m, &labels);
    if (s == NULL)
        return 0;
    return info[m].kind == K_HISTOGRAM ? (double)s->count : s->value;
}

/* {a="x",b="y"} with one more label, if given.  Values are ours or were escaped where they entered.
 */
static bool write_labels(struct buf *out, enum metric m, const struct series *s, const char *le)
{
    struct str names = str_from(info[m].labels);
    const char *sep = "{";
    for (unsigned i = 0; i < MAX_LABELS && names.len > 0; i++) {
        size_t n = str_index(names, ',');
        char safe[LABEL_MAX * 4];
        str_escape(safe, sizeof safe, str_from(s->labels[i]));
        for (char *q = safe; *q != '\0'; q++)
            if (*q == '"' || *q == '\\')
                *q = '_';
        if (!buf_printf(out, "%s%.*s=\"%s\"", sep, (int)n, names.p, safe))
            return false;
        sep = ",";
        names = str_sub(names, n + 1, names.len);
    }
    if (le != NULL && !buf_printf(out, "%sle=\"%s\"", sep, le))
        return false;
    return (le == NULL && *sep == '{') || buf_append_str(out, STR("}"));
}

static bool write_histogram(struct buf *out, enum metric m, const struct series *s)
{
    uint64_t sum = 0;
    char le[32];
    for (size_t i = 0; i <= N_BOUNDS; i++) {
        if (i < N_BOUNDS) {
            sum += s->bucket[i];
            struct buf b;
            buf_init(&b, sizeof le);
            bool ok = buf_printf(&b, "%g", bounds[i]);
            str_copy(le, sizeof le, buf_str(&b));
            buf_release(&b);
            if (!ok)
                return false;
        } else {
            sum = s->count;
            str_copy(le, sizeof le, STR("+Inf"));
        }
        if (!buf_printf(out, "svidmail_%s_bucket", info[m].name) || !write_labels(out, m, s, le) ||
            !buf_printf(out, " %llu\n", (unsigned long long)sum))
            return false;
    }
    return buf_printf(out, "svidmail_%s_sum", info[m].name) && write_labels(out, m, s, NULL) &&
           buf_printf(out, " %.9g\nsvidmail_%s_count", s->value, info[m].name) &&
           write_labels(out, m, s, NULL) &&
           buf_printf(out, " %llu\n", (unsigned long long)s->count);
}

static bool write_metric(struct buf *out, enum metric m)
{
    static const char *const kinds[] = {"counter", "gauge", "gauge", "histogram"};
    if (!buf_printf(out, "# HELP svidmail_%s %s\n# TYPE svidmail_%s %s\n", info[m].name,
                    info[m].help, info[m].name, kinds[info[m].kind]))
        return false;
    if (table[m].n == 0 && info[m].labels[0] == '\0' && info[m].kind != K_MOMENT)
        (void)get(m, METRIC_NONE); /* starts at 0, not absent; as a moment that would be 1970 */
    for (size_t i = 0; i < table[m].n; i++) {
        const struct series *s = &table[m].series[i];
        bool ok = info[m].kind == K_HISTOGRAM
                      ? write_histogram(out, m, s)
                      : buf_printf(out, "svidmail_%s", info[m].name) &&
                            write_labels(out, m, s, NULL) && buf_printf(out, " %.15g\n", s->value);
        if (!ok)
            return false;
    }
    return true;
}

bool metrics_write(struct buf *out)
{
    for (unsigned m = 0; m < M_COUNT; m++)
        if (!write_metric(out, (enum metric)m))
            return false;
    return true;
}
