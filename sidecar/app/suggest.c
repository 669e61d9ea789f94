// SPDX-License-Identifier: Apache-2.0
#include "app/suggest.h"
#include "base/mem.h"

#define WORD_MAX 48

static size_t min3(size_t a, size_t b, size_t c)
{
    size_t m = a < b ? a : b;
    return m < c ? m : c;
}

/* Levenshtein's, one row at a time, without regard to case; both are at most WORD_MAX long. */
static size_t distance(struct str a, struct str b)
{
    size_t row[WORD_MAX + 1];
    for (size_t j = 0; j <= b.len; j++)
        row[j] = j;
    for (size_t i = 1; i <= a.len; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b.len; j++) {
            size_t change = diagonal + (ascii_lower(a.p[i - 1]) == ascii_lower(b.p[j - 1]) ? 0 : 1);
            diagonal = row[j];
            row[j] = min3(change, row[j] + 1, row[j - 1] + 1);
        }
    }
    return row[b.len];
}

void suggest_init(struct suggestion *s, struct str word)
{
    *s = (struct suggestion){.word = word, .best = STR(""), .distance = 1 + word.len / 4};
}

/* Nearer than 1/4 of the word and one, so that "x" is not taken for "to". */
void suggest_offer(struct suggestion *s, struct str candidate)
{
    if (s->word.len > WORD_MAX || candidate.len > WORD_MAX)
        return;
    size_t d = distance(s->word, candidate);
    if (d > s->distance || d >= candidate.len || (d == s->distance && s->best.len > 0))
        return;
    s->best = candidate;
    s->distance = d;
}
