// SPDX-License-Identifier: Apache-2.0
#include "core/mail_body.h"

#include "base/mem.h"
#include "core/mail_header.h"

#include <stdlib.h>
#include <string.h>

enum section { SECTION_TOP, SECTION_HEADER, SECTION_BODY };

/* What a line of the header section turns out to be. */
enum line_kind { LINE_KEPT, LINE_DROPPED, LINE_END_OF_HEADER, LINE_OF_BODY, LINE_REFUSED };

struct mail_body {
    char *top, *date, *message_id; /* what is ours, ready to go out */
    const char *const *allow_headers;
    mail_body_sink sink;
    void *sink_arg;
    enum section section;
    enum line_kind
        field;       /* fate of the field that folded lines belong to; LINE_OF_BODY: none yet */
    struct buf line; /* start of a header line that the end of a write cut off */
    size_t n_header_bytes;
    uint64_t seen[(MAIL_HEADER_SINGLETONS_MAX + 63) / 64];
    char *learning; /* value that folded lines belong to, or NULL */
    bool has_message_id;
    struct mail_body_facts facts;
    bool has_failed;
    struct err why; /* ERR_NONE: the sink's */
};

/* Only complete, folded lines of our own may stand in a header of ours. */
static void check_own(const char *value, bool may_fold)
{
    CHECK(value != NULL && value[0] != '\0');
    for (const char *z = strpbrk(value, "\r\n"); z != NULL; z = strpbrk(z + 3, "\r\n"))
        CHECK(may_fold && z[0] == '\r' && z[1] == '\n' && (z[2] == ' ' || z[2] == '\t'));
}

struct mail_body *mail_body_new(const struct mail_body_config *cfg, mail_body_sink sink,
                                void *sink_arg)
{
    check_own(cfg->received, true);
    check_own(cfg->id, false);
    check_own(cfg->date, false);
    check_own(cfg->message_id, false);
    struct mail_body *b = xcalloc(1, sizeof *b);
    b->top = xasprintf("Received: %s\r\nX-Svidmail-Id: %s\r\n", cfg->received, cfg->id);
    b->date = xasprintf("Date: %s\r\n", cfg->date);
    b->message_id = xasprintf("Message-ID: %s\r\n", cfg->message_id);
    b->allow_headers = cfg->allow_headers;
    b->sink = sink;
    b->sink_arg = sink_arg;
    b->field = LINE_OF_BODY;
    buf_init(&b->line, MAIL_HEADER_MAX);
    return b;
}

void mail_body_free(struct mail_body **b)
{
    if (*b == NULL)
        return;
    buf_release(&(*b)->line);
    free((*b)->top);
    free((*b)->date);
    free((*b)->message_id);
    free(*b);
    *b = NULL;
}

static bool emit(struct mail_body *b, const char *p, size_t len)
{
    return len == 0 || b->sink(b->sink_arg, (struct str){p, len});
}

static bool emit_text(struct mail_body *b, const char *z)
{
    return emit(b, z, strlen(z));
}

static bool start_header(struct mail_body *b)
{
    b->section = SECTION_HEADER;
    return emit_text(b, b->top);
}

/* What is missing, then the empty line. */
static bool finish_header(struct mail_body *b)
{
    b->section = SECTION_BODY;
    return (b->facts.has_date || emit_text(b, b->date)) &&
           (b->has_message_id || emit_text(b, b->message_id)) && emit_text(b, "\r\n");
}

/* ---- what a field is worth ---- */

static bool is_allowed(const struct mail_body *b, struct str name)
{
    if (b->allow_headers == NULL)
        return false;
    for (const char *const *z = b->allow_headers; *z != NULL; z++)
        if (str_eq_nocase(name, str_from(*z)))
            return true;
    return false;
}

static bool is_for_us_only(const struct mail_body *b, struct str name)
{
    if (str_eq_nocase(name, STR("Bcc")) || str_eq_nocase(name, STR("Resent-Bcc")))
        return true;
    return str_starts_with_nocase(name, STR("X-SES-")) && !is_allowed(b, name);
}

/* Appends a line's text: the CRLF goes, the white space behind it stays (RFC 5322 2.2.3). */
static void learn(char *value, struct str text)
{
    size_t len = strlen(value);
    while (text.len > 0 && (text.p[text.len - 1] == '\n' || text.p[text.len - 1] == '\r'))
        text.len--;
    if (len == 0)
        text = str_trim(text);
    str_copy(value + len, MAIL_HEADER_VALUE_MAX - len, text);
}

static char *value_to_learn(struct mail_body *b, struct str name)
{
    const struct {
        struct str name;
        char *value;
    } wanted[] = {
        {STR("From"), b->facts.from},
        {STR("Message-ID"), b->facts.message_id},
    };
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++)
        if (str_eq_nocase(name, wanted[i].name))
            return wanted[i].value;
    return NULL;
}

static bool check_singleton(struct mail_body *b, struct str name, struct err *e)
{
    int i = mail_header_singleton(name);
    if (i < 0)
        return true;
    uint64_t *word = &b->seen[i / 64], bit = UINT64_C(1) << (i % 64);
    if ((*word & bit) != 0)
        return err_set(e, ERR_SYNTAX, 0, "SES takes only one %.*s header", (int)name.len, name.p);
    *word |= bit;
    return true;
}

static bool count_received(struct mail_body *b, struct str name, struct err *e)
{
    if (!str_eq_nocase(name, STR("Received")))
        return true;
    if (++b->facts.n_received > MAIL_RECEIVED_MAX)
        return err_set(e, ERR_SYNTAX, 0, "5.4.6 routing loop: more than %d Received headers",
                       MAIL_RECEIVED_MAX);
    return true;
}

static enum line_kind take_field(struct mail_body *b, struct str line, struct str name,
                                 struct err *e)
{
    if (is_for_us_only(b, name) || str_eq_nocase(name, STR("X-Svidmail-Id")))
        return LINE_DROPPED;
    if (!check_singleton(b, name, e) || !count_received(b, name, e))
        return LINE_REFUSED;
    b->facts.has_date |= str_eq_nocase(name, STR("Date"));
    b->has_message_id |= str_eq_nocase(name, STR("Message-ID"));
    b->learning = value_to_learn(b, name);
    if (b->learning != NULL)
        learn(b->learning, str_sub(line, str_index(line, ':') + 1, line.len));
    return LINE_KEPT;
}

/* ---- lines ---- */

static bool is_empty_line(struct str line)
{
    return str_eq(line, STR("\r\n")) || str_eq(line, STR("\n"));
}

static bool is_mbox_line(struct str line)
{
    return str_starts_with(line, STR("From ")) || str_starts_with(line, STR(">From "));
}

/* line: a whole one, its end included. */
static enum line_kind take_line(struct mail_body *b, struct str line, struct err *e)
{
    bool is_first = b->n_header_bytes == line.len;
    if (is_empty_line(line))
        return LINE_END_OF_HEADER;
    if (line.p[0] == ' ' || line.p[0] == '\t') {
        if (b->learning != NULL)
            learn(b->learning, line);
        return b->field;
    }
    size_t name_len = mail_header_name_len(line);
    if (name_len == 0)
        return is_first && is_mbox_line(line) ? LINE_DROPPED : LINE_OF_BODY;
    b->learning = NULL;
    b->field = take_field(b, line, str_sub(line, 0, name_len), e);
    return b->field;
}

static bool count_header_bytes(struct mail_body *b, size_t n, struct err *e)
{
    b->n_header_bytes += n;
    if (b->n_header_bytes > MAIL_HEADER_MAX)
        return err_set(e, ERR_LIMIT, 0, "the header section is over %u bytes", MAIL_HEADER_MAX);
    return true;
}

/* Bytes up to and with the first LF; all of them if there is none. */
static struct str next_line(struct str in, bool *is_whole)
{
    size_t n = str_index(in, '\n');
    *is_whole = n < in.len;
    return str_sub(in, 0, n + 1);
}

static void advance(struct str *in, size_t n)
{
    in->p += n;
    in->len -= n;
}

/* Goes on with the line that the last write left unfinished. */
static bool write_cut_line(struct mail_body *b, struct str *in, struct err *e)
{
    bool is_whole;
    struct str more = next_line(*in, &is_whole);
    if (!count_header_bytes(b, more.len, e))
        return false;
    CHECK(buf_append_str(&b->line, more));
    advance(in, more.len);
    if (!is_whole)
        return true;
    struct str line = buf_str(&b->line);
    enum line_kind kind = take_line(b, line, e);
    if (kind == LINE_REFUSED)
        return false;
    if ((kind == LINE_END_OF_HEADER || kind == LINE_OF_BODY) && !finish_header(b))
        return false;
    bool ok = (kind != LINE_KEPT && kind != LINE_OF_BODY) || emit(b, line.p, line.len);
    buf_clear(&b->line);
    return ok;
}

/* Whole lines straight from the input; neighbours that are kept leave as one run. */
static bool write_whole_lines(struct mail_body *b, struct str *in, struct err *e)
{
    const char *run = in->p;
    enum line_kind kind = LINE_KEPT;
    while (in->len > 0 && (kind == LINE_KEPT || kind == LINE_DROPPED)) {
        bool is_whole;
        struct str line = next_line(*in, &is_whole);
        if (!is_whole)
            break;
        if (!count_header_bytes(b, line.len, e))
            return false;
        kind = take_line(b, line, e);
        if (kind == LINE_REFUSED)
            return false;
        if (kind == LINE_KEPT) {
            advance(in, line.len);
            continue;
        }
        if (!emit(b, run, (size_t)(in->p - run)))
            return false;
        if (kind != LINE_OF_BODY)
            advance(in, line.len);
        run = in->p;
    }
    if (!emit(b, run, (size_t)(in->p - run)))
        return false;
    return kind == LINE_KEPT || kind == LINE_DROPPED || finish_header(b);
}

static bool write_header(struct mail_body *b, struct str *in, struct err *e)
{
    if (b->line.len == 0 && !write_whole_lines(b, in, e))
        return false;
    if (b->section == SECTION_BODY || in->len == 0)
        return true;
    return write_cut_line(b, in, e);
}

static bool write_all(struct mail_body *b, struct str in, struct err *e)
{
    if (b->section == SECTION_TOP && !start_header(b))
        return false;
    while (b->section == SECTION_HEADER && in.len > 0)
        if (!write_header(b, &in, e))
            return false;
    return emit(b, in.p, in.len);
}

/* Keeps the first failure; says it again on every later call. */
static bool fail(struct mail_body *b, struct err *e)
{
    b->has_failed = true;
    if (b->why.code != ERR_NONE && e != NULL)
        *e = b->why;
    return false;
}

bool mail_body_write(struct mail_body *b, struct str bytes, struct err *e)
{
    if (b->has_failed || !write_all(b, bytes, &b->why))
        return fail(b, e);
    return true;
}

bool mail_body_end(struct mail_body *b, struct mail_body_facts *out, struct err *e)
{
    bool is_cut = b->line.len > 0;
    if (b->has_failed || !write_all(b, is_cut ? STR("\r\n") : STR(""), &b->why))
        return fail(b, e);
    if (b->section == SECTION_HEADER && !finish_header(b))
        return fail(b, e);
    *out = b->facts;
    return true;
}
