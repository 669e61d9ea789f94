// SPDX-License-Identifier: Apache-2.0
#include "mail/mail.h"
#include "base/mem.h"
#include "sys/clock.h"
#include "sys/rand.h"

#include <stdlib.h>

/* 48 bits of time and 80 random bits in Crockford's base 32. */
static void make_id(char out[MAIL_ID_LEN + 1], int64_t wall_ms)
{
    static const char digits[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    unsigned char random[16];
    random_bytes(random, sizeof random);
    uint64_t t = (uint64_t)wall_ms;
    for (int i = 9; i >= 0; i--, t >>= 5)
        out[i] = digits[t & 31];
    for (int i = 0; i < 16; i++)
        out[10 + i] = digits[random[i] & 31];
    out[MAIL_ID_LEN] = '\0';
}

struct mail *mail_new(const struct mail_path *from, int64_t wall_ms)
{
    struct mail *m = xcalloc(1, sizeof *m);
    make_id(m->id, wall_ms);
    m->from = *from;
    m->begun_at_us = clock_mono_us();
    return m;
}

bool mail_has_recipient(const struct mail *m, const struct mail_path *to)
{
    for (size_t i = 0; i < m->n_recipients; i++)
        if (mail_path_same(&m->recipients[i], to))
            return true;
    return false;
}

void mail_add_recipient(struct mail *m, const struct mail_path *to)
{
    if ((m->n_recipients & (m->n_recipients - 1)) == 0) /* room doubles at each power of two */
        m->recipients = xrealloc(m->recipients, (m->n_recipients == 0 ? 1 : m->n_recipients * 2) *
                                                    sizeof *m->recipients);
    m->recipients[m->n_recipients++] = *to;
}

void mail_free(struct mail **pm)
{
    struct mail *m = *pm;
    if (m == NULL)
        return;
    mail_body_free(&m->body);
    spool_file_close(&m->file);
    free(m->facts);
    free(m->recipients);
    free(m);
    *pm = NULL;
}
