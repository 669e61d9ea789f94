// SPDX-License-Identifier: Apache-2.0
#include "core/smtp_parser.h"

#include "base/mem.h"

#include <string.h>

/* One byte more than a command may have: it may turn out to be the CR of the line's end. */
#define KEPT_MAX (SMTP_LINE_MAX + 1)

/* Where the next byte stands.  A line "made by LF" follows a bare LF: it cannot end the mail. */
enum state {
    AT_COMMAND,
    AT_AUTH_LINE,
    AT_LINE,        /* body, behind CRLF */
    AT_LINE_DOT,    /* CRLF . */
    AT_LINE_DOT_CR, /* CRLF . CR */
    IN_LINE,        /* body, inside a line */
    IN_LINE_CR,     /* CR held back until the next byte tells what it is */
    AT_LF_LINE,     /* body, behind a bare LF */
    AT_LF_LINE_DOT, /* bare LF . */
};

typedef struct smtp_event step_fn(struct smtp_parser *p, struct str *in);

static const char *const verb_names[SMTP_HTTP] = {
    [SMTP_EHLO] = "EHLO", [SMTP_HELO] = "HELO", [SMTP_MAIL] = "MAIL", [SMTP_RCPT] = "RCPT",
    [SMTP_DATA] = "DATA", [SMTP_RSET] = "RSET", [SMTP_NOOP] = "NOOP", [SMTP_VRFY] = "VRFY",
    [SMTP_HELP] = "HELP", [SMTP_QUIT] = "QUIT", [SMTP_AUTH] = "AUTH", [SMTP_STARTTLS] = "STARTTLS",
    [SMTP_EXPN] = "EXPN", [SMTP_BDAT] = "BDAT", [SMTP_ETRN] = "ETRN",
};

/* RFC 9110 9, RFC 5789 and the preface of HTTP/2. */
static const char *const http_methods[] = {
    "GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "DELETE", "TRACE", "PATCH", "PRI",
};

static const struct smtp_event nothing = {.kind = SMTP_EV_NONE};

void smtp_parser_init(struct smtp_parser *p, bool refuse_bare_lf)
{
    *p = (struct smtp_parser){.state = AT_COMMAND, .refuse_bare_lf = refuse_bare_lf};
}

void smtp_parser_expect_body(struct smtp_parser *p)
{
    CHECK(p->state == AT_COMMAND && p->len == 0);
    p->state = AT_LINE;
    p->defect = SMTP_BODY_OK;
    p->had_bare_lf = false;
    p->line_len = 0;
}

void smtp_parser_expect_auth_line(struct smtp_parser *p)
{
    CHECK(p->state == AT_COMMAND && p->len == 0);
    p->state = AT_AUTH_LINE;
}

static void advance(struct str *in, size_t n)
{
    in->p += n;
    in->len -= n;
}

/* ---- commands ---- */

static bool is_http(struct str word, struct str line)
{
    for (size_t i = 0; i < ARRAY_LEN(http_methods); i++)
        if (str_eq_nocase(word, str_from(http_methods[i])))
            return true;
    return memmem(line.p, line.len, " HTTP/", 6) != NULL;
}

static enum smtp_verb find_verb(struct str word, struct str line)
{
    for (int v = 0; v < SMTP_HTTP; v++)
        if (str_eq_nocase(word, str_from(verb_names[v])))
            return (enum smtp_verb)v;
    return is_http(word, line) ? SMTP_HTTP : SMTP_UNKNOWN;
}

static bool has_byte(struct str s, char c)
{
    return str_index(s, c) < s.len;
}

static struct smtp_event command_event(struct str line)
{
    size_t word_len = 0;
    while (word_len < line.len && line.p[word_len] != ' ' && line.p[word_len] != '\t')
        word_len++;
    struct smtp_event ev = {.kind = SMTP_EV_COMMAND};
    ev.verb = find_verb(str_sub(line, 0, word_len), line);
    if (ev.verb < SMTP_HTTP && (has_byte(line, '\r') || has_byte(line, '\0')))
        ev.verb = SMTP_UNKNOWN;
    ev.arg = str_trim(ev.verb < SMTP_HTTP ? str_sub(line, word_len, line.len) : line);
    return ev;
}

static size_t kept_len(size_t len)
{
    return len < KEPT_MAX ? len : KEPT_MAX;
}

static void keep_command_bytes(struct smtp_parser *p, struct str bytes)
{
    size_t at = kept_len(p->len);
    struct str kept = str_sub(bytes, 0, KEPT_MAX - at);
    if (bytes.len == 0)
        return;
    memcpy(p->line + at, kept.p, kept.len);
    p->len += bytes.len;
    p->last = bytes.p[bytes.len - 1];
}

static struct smtp_event line_event(struct str line, size_t len, bool is_auth_line)
{
    struct smtp_event ev = {.kind = SMTP_EV_AUTH_LINE, .verb = SMTP_UNKNOWN};
    if (is_auth_line)
        ev.arg = str_sub(line, 0, SMTP_LINE_MAX);
    else
        ev = command_event(line);
    bool is_auth = is_auth_line || ev.verb == SMTP_AUTH;
    if (len > (is_auth ? SMTP_AUTH_LINE_MAX : SMTP_LINE_MAX))
        ev = (struct smtp_event){.kind = SMTP_EV_LINE_TOO_LONG, .verb = ev.verb};
    return ev;
}

static struct smtp_event step_command(struct smtp_parser *p, struct str *in)
{
    size_t n = str_index(*in, '\n');
    keep_command_bytes(p, str_sub(*in, 0, n));
    if (n == in->len) {
        advance(in, n);
        return nothing;
    }
    advance(in, n + 1);
    size_t len = p->len > 0 && p->last == '\r' ? p->len - 1 : p->len;
    bool is_auth_line = p->state == AT_AUTH_LINE;
    p->len = 0;
    p->state = AT_COMMAND;
    return line_event((struct str){p->line, kept_len(len)}, len, is_auth_line);
}

/* ---- body ---- */

static bool is_poisoned(const struct smtp_parser *p)
{
    return p->defect != SMTP_BODY_OK && p->defect != SMTP_BODY_LONG_LINE;
}

static void poison(struct smtp_parser *p, enum smtp_body_defect defect)
{
    if (!is_poisoned(p))
        p->defect = defect;
}

static struct smtp_event body_event(const char *bytes, size_t len)
{
    return (struct smtp_event){.kind = SMTP_EV_BODY, .body = {bytes, len}};
}

static void add_to_line(struct smtp_parser *p, size_t n)
{
    p->line_len += n;
    if (p->line_len > SMTP_BODY_LINE_MAX && p->defect == SMTP_BODY_OK)
        p->defect = SMTP_BODY_LONG_LINE;
}

static struct smtp_event lone_dot(struct smtp_parser *p)
{
    p->state = IN_LINE;
    add_to_line(p, 1);
    return body_event(".", 1);
}

/* First byte in [at, end) that may not stand inside a line, or end. */
static const char *find_special(const char *at, const char *end)
{
    const char *cr = memchr(at, '\r', (size_t)(end - at));
    if (cr != NULL)
        end = cr;
    const char *nul = memchr(at, '\0', (size_t)(end - at));
    return nul != NULL ? nul : end;
}

/* The hot path: as many whole lines as need no change, as one run of the input.  Returns where the
 * run ends: at the end, at a dot behind CRLF, or at the CR, LF or NUL that needs a closer look. */
static const char *run_of_lines(struct smtp_parser *p, const char *at, const char *end)
{
    p->state = IN_LINE;
    while (at < end) {
        const char *lf = memchr(at, '\n', (size_t)(end - at));
        const char *text_end = lf == NULL ? end : lf;
        bool is_crlf = lf != NULL && lf > at && lf[-1] == '\r';
        if (is_crlf)
            text_end--;
        const char *stop = find_special(at, text_end);
        add_to_line(p, (size_t)(stop - at));
        if (stop < text_end || !is_crlf)
            return stop;
        p->line_len = 0;
        at = lf + 1;
        if (at == end || *at == '.') {
            p->state = AT_LINE;
            return at;
        }
    }
    return at;
}

/* Whether *text, a plain line that a bare LF ends, comes next; it fits into `room` with a CRLF. */
static bool is_lf_line_next(struct str in, size_t room, struct str *text)
{
    if (room < 2)
        return false;
    struct str window = str_sub(in, 0, room - 1);
    *text = str_sub(window, 0, str_index(window, '\n'));
    if (text->len == window.len || text->p[0] == '.')
        return false;
    const char *end = text->p + text->len;
    return find_special(text->p, end) == end;
}

/* Whole bodies of bare LF are common: gathered in p->line, their lines leave in larger pieces. */
static struct smtp_event take_bare_lf(struct smtp_parser *p, struct str *in)
{
    struct str text;
    size_t n = 0;
    p->had_bare_lf = true;
    if (p->refuse_bare_lf)
        poison(p, SMTP_BODY_BARE_LF);
    for (;;) {
        advance(in, 1);
        memcpy(p->line + n, "\r\n", 2);
        n += 2;
        p->line_len = 0;
        p->state = AT_LF_LINE;
        if (is_poisoned(p) || !is_lf_line_next(*in, sizeof p->line - n, &text))
            return body_event(p->line, n);
        memcpy(p->line + n, text.p, text.len);
        n += text.len;
        add_to_line(p, text.len);
        advance(in, text.len);
    }
}

static struct smtp_event take_special(struct smtp_parser *p, struct str *in)
{
    switch (in->p[0]) {
    case '\r':
        advance(in, 1);
        p->state = IN_LINE_CR;
        return nothing;
    case '\n':
        return take_bare_lf(p, in);
    default:
        poison(p, SMTP_BODY_NUL);
        return nothing;
    }
}

/* The rest of a refused mail: only the line ends matter still. */
static struct smtp_event skip_line(struct smtp_parser *p, struct str *in)
{
    size_t n = str_index(*in, '\n');
    bool is_cr_last = n > 0 && in->p[n - 1] == '\r';
    if (n == in->len) {
        p->state = is_cr_last ? IN_LINE_CR : IN_LINE;
        advance(in, n);
    } else {
        p->state = is_cr_last ? AT_LINE : IN_LINE;
        advance(in, n + 1);
    }
    return nothing;
}

static struct smtp_event step_in_line(struct smtp_parser *p, struct str *in)
{
    if (is_poisoned(p))
        return skip_line(p, in);
    const char *from = in->p;
    size_t n = (size_t)(run_of_lines(p, from, from + in->len) - from);
    if (n == 0)
        return take_special(p, in);
    advance(in, n);
    return body_event(from, n);
}

static struct smtp_event step_line(struct smtp_parser *p, struct str *in)
{
    if (in->p[0] != '.')
        return step_in_line(p, in);
    advance(in, 1);
    p->state = AT_LINE_DOT;
    return nothing;
}

static struct smtp_event step_line_dot(struct smtp_parser *p, struct str *in)
{
    switch (in->p[0]) {
    case '\r':
        advance(in, 1);
        p->state = AT_LINE_DOT_CR;
        return nothing;
    case '\n':
        return lone_dot(p);
    default: /* a stuffed dot: dropped */
        p->state = IN_LINE;
        return nothing;
    }
}

static struct smtp_event step_line_dot_cr(struct smtp_parser *p, struct str *in)
{
    if (in->p[0] != '\n') {
        poison(p, SMTP_BODY_BARE_CR);
        p->state = IN_LINE;
        return nothing;
    }
    advance(in, 1);
    p->state = AT_COMMAND;
    return (struct smtp_event){
        .kind = SMTP_EV_BODY_END, .defect = p->defect, .had_bare_lf = p->had_bare_lf};
}

static struct smtp_event step_in_line_cr(struct smtp_parser *p, struct str *in)
{
    if (in->p[0] != '\n') {
        poison(p, SMTP_BODY_BARE_CR);
        p->state = IN_LINE;
        return nothing;
    }
    advance(in, 1);
    p->line_len = 0;
    p->state = AT_LINE;
    return body_event("\r\n", 2);
}

static struct smtp_event step_lf_line(struct smtp_parser *p, struct str *in)
{
    if (in->p[0] != '.' || is_poisoned(p))
        return step_in_line(p, in);
    advance(in, 1);
    p->state = AT_LF_LINE_DOT;
    return nothing;
}

static struct smtp_event step_lf_line_dot(struct smtp_parser *p, struct str *in)
{
    if (in->p[0] == '.')
        advance(in, 1);
    return lone_dot(p);
}

// clang-format off
static step_fn *const steps[] = {
    [AT_COMMAND]     = step_command,
    [AT_AUTH_LINE]   = step_command,
    [AT_LINE]        = step_line,
    [AT_LINE_DOT]    = step_line_dot,
    [AT_LINE_DOT_CR] = step_line_dot_cr,
    [IN_LINE]        = step_in_line,
    [IN_LINE_CR]     = step_in_line_cr,
    [AT_LF_LINE]     = step_lf_line,
    [AT_LF_LINE_DOT] = step_lf_line_dot,
};
// clang-format on

struct smtp_event smtp_parser_next(struct smtp_parser *p, struct str *in)
{
    while (in->len > 0) {
        struct smtp_event ev = steps[p->state](p, in);
        if (ev.kind == SMTP_EV_BODY && is_poisoned(p))
            continue;
        if (ev.kind != SMTP_EV_NONE)
            return ev;
    }
    return nothing;
}

/* ---- arguments of MAIL and RCPT ---- */

static bool param_size(struct str value, struct smtp_mail_args *out, struct err *e)
{
    if (!str_to_u64(value, &out->size))
        return err_set(e, ERR_SYNTAX, 0, "SIZE is not a number of bytes");
    return true;
}

/* What the body holds is seen when it comes. */
static bool param_body(struct str value, struct smtp_mail_args *out, struct err *e)
{
    (void)out;
    if (!str_eq_nocase(value, STR("8BITMIME")) && !str_eq_nocase(value, STR("7BIT")))
        return err_set(e, ERR_SYNTAX, 0, "BODY is neither 7BIT nor 8BITMIME");
    return true;
}

/* RFC 4954 5: we trust no such statement, and the next hop has no use for it. */
static bool param_auth(struct str value, struct smtp_mail_args *out, struct err *e)
{
    (void)value;
    (void)out;
    (void)e;
    return true;
}

// clang-format off
static const struct param {
    const char *name;
    bool (*take)(struct str value, struct smtp_mail_args *out, struct err *e);
} mail_params[] = {
    { "SIZE", param_size },
    { "BODY", param_body },
    { "AUTH", param_auth },
};
// clang-format on

static struct str param_name(struct str param)
{
    return str_sub(param, 0, str_index(param, '='));
}

static bool unknown_param(const char *verb, struct str param, struct err *e)
{
    char shown[64];
    return err_set(e, ERR_LIMIT, 0, "%s parameter %s is not supported", verb,
                   str_escape(shown, sizeof shown, param_name(param)));
}

/* *seen: a bit for each row of mail_params. */
static bool take_mail_param(struct str param, unsigned *seen, struct smtp_mail_args *out,
                            struct err *e)
{
    struct str name = param_name(param), value = str_sub(param, name.len + 1, param.len);
    for (size_t i = 0; i < ARRAY_LEN(mail_params); i++) {
        if (!str_eq_nocase(name, str_from(mail_params[i].name)))
            continue;
        if ((*seen & (1u << i)) != 0)
            return err_set(e, ERR_SYNTAX, 0, "%s is given twice", mail_params[i].name);
        *seen |= 1u << i;
        return mail_params[i].take(value, out, e);
    }
    return unknown_param("MAIL", param, e);
}

static bool parse_path(struct str arg, struct str prefix, struct mail_path *out, struct str *rest,
                       struct err *e)
{
    if (!str_starts_with_nocase(arg, prefix))
        return err_set(e, ERR_SYNTAX, 0, "%.*s<address> is expected", (int)prefix.len, prefix.p);
    return mail_path_parse(str_sub(arg, prefix.len, arg.len), out, rest, e);
}

bool smtp_parse_mail(struct str arg, struct smtp_mail_args *out, struct err *e)
{
    struct str rest;
    unsigned seen = 0;
    out->size = 0;
    if (!parse_path(arg, STR("FROM:"), &out->from, &rest, e))
        return false;
    if (out->from.len > 0 && out->from.local_len == out->from.len)
        return err_set(e, ERR_SYNTAX, 0, "the sender has no domain");
    while (rest.len > 0) {
        size_t n = str_index(rest, ' ');
        if (!take_mail_param(str_sub(rest, 0, n), &seen, out, e))
            return false;
        rest = str_trim(str_sub(rest, n, rest.len));
    }
    return true;
}

bool smtp_parse_rcpt(struct str arg, struct smtp_rcpt_args *out, struct err *e)
{
    struct str rest;
    if (!parse_path(arg, STR("TO:"), &out->to, &rest, e))
        return false;
    if (out->to.len == 0)
        return err_set(e, ERR_SYNTAX, 0, "the recipient is empty");
    if (rest.len > 0)
        return unknown_param("RCPT", str_sub(rest, 0, str_index(rest, ' ')), e);
    return true;
}
