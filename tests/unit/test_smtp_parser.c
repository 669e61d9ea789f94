// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/buf.h"
#include "base/mem.h"
#include "core/smtp_parser.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOG_MAX (1u << 22)

/* What the parser said, as text: "EHLO<arg>" "TOOLONG<verb>" "BODY<bytes>" "END<defect>" and "+lf"
 * behind it for a bare LF; neighbouring body events joined.  DATA is followed by a body, as in a
 * session that says 354, and "AUTH PLAIN" by a "RESPONSE<line>". */
struct script {
    struct smtp_parser parser;
    struct buf log;
    bool is_in_body;
};

static const char *const verbs[SMTP_VERB_COUNT] = {
    [SMTP_EHLO] = "EHLO", [SMTP_HELO] = "HELO",       [SMTP_MAIL] = "MAIL",
    [SMTP_RCPT] = "RCPT", [SMTP_DATA] = "DATA",       [SMTP_RSET] = "RSET",
    [SMTP_NOOP] = "NOOP", [SMTP_VRFY] = "VRFY",       [SMTP_HELP] = "HELP",
    [SMTP_QUIT] = "QUIT", [SMTP_AUTH] = "AUTH",       [SMTP_STARTTLS] = "STARTTLS",
    [SMTP_EXPN] = "EXPN", [SMTP_BDAT] = "BDAT",       [SMTP_ETRN] = "ETRN",
    [SMTP_HTTP] = "HTTP", [SMTP_UNKNOWN] = "UNKNOWN",
};
static const char *const defects[] = {"ok", "cr", "nul", "long", "lf"};

static void log_escaped(struct buf *log, struct str s)
{
    char out[4 * 256 + 1];
    for (size_t at = 0; at < s.len; at += 256)
        assert_true(
            buf_append_str(log, str_from(str_escape(out, sizeof out, str_sub(s, at, 256)))));
}

static void log_event(struct script *s, const struct smtp_event *ev)
{
    switch (ev->kind) {
    case SMTP_EV_COMMAND:
        assert_true(buf_printf(&s->log, "%s<", verbs[ev->verb]));
        log_escaped(&s->log, ev->arg);
        assert_true(buf_append(&s->log, "> ", 2));
        break;
    case SMTP_EV_AUTH_LINE:
        assert_true(buf_append_str(&s->log, STR("RESPONSE<")));
        log_escaped(&s->log, ev->arg);
        assert_true(buf_append(&s->log, "> ", 2));
        break;
    case SMTP_EV_LINE_TOO_LONG:
        assert_true(buf_printf(&s->log, "TOOLONG<%s> ", verbs[ev->verb]));
        break;
    case SMTP_EV_BODY:
        assert_true(ev->body.len > 0);
        if (!s->is_in_body)
            assert_true(buf_append(&s->log, "BODY<", 5));
        log_escaped(&s->log, ev->body);
        break;
    case SMTP_EV_BODY_END:
        assert_true(buf_printf(&s->log, "%sEND<%s%s> ", s->is_in_body ? "> " : "",
                               defects[ev->defect], ev->had_bare_lf ? "+lf" : ""));
        break;
    case SMTP_EV_NONE:
        break;
    }
    s->is_in_body = ev->kind == SMTP_EV_BODY;
}

/* From a heap copy of the exact size, freed at once. */
static void feed_piece(struct script *s, struct str piece)
{
    char *copy = malloc(piece.len == 0 ? 1 : piece.len);
    assert_non_null(copy);
    memcpy(copy, piece.p, piece.len);
    struct str in = {copy, piece.len};
    for (;;) {
        struct smtp_event ev = smtp_parser_next(&s->parser, &in);
        if (ev.kind == SMTP_EV_NONE)
            break;
        log_event(s, &ev);
        if (ev.kind == SMTP_EV_COMMAND && ev.verb == SMTP_DATA)
            smtp_parser_expect_body(&s->parser);
        if (ev.kind == SMTP_EV_COMMAND && ev.verb == SMTP_AUTH && str_eq(ev.arg, STR("PLAIN")))
            smtp_parser_expect_auth_line(&s->parser);
    }
    assert_int_equal(in.len, 0);
    free(copy);
}

/* `first` bytes, then the rest in steps. The log is yours. */
static char *run(struct str in, bool refuse_bare_lf, size_t first, size_t step)
{
    struct script s = {.is_in_body = false};
    smtp_parser_init(&s.parser, refuse_bare_lf);
    buf_init(&s.log, LOG_MAX);
    for (size_t at = 0, n = first; at < in.len; at += n, n = step)
        feed_piece(&s, str_sub(in, at, n));
    return buf_take(&s.log);
}

/* Whole, byte by byte, and cut once at every place: always the same events. */
static void assert_events(struct str in, bool refuse_bare_lf, const char *want)
{
    for (size_t cut = 0; cut <= in.len; cut++) {
        char *log = run(in, refuse_bare_lf, cut, cut == 0 ? 1 : in.len);
        char shown[1024];
        if (strcmp(log, want) != 0)
            fail_msg("%s\ncut at %zu: got\n%s\nwanted\n%s", str_escape(shown, sizeof shown, in),
                     cut, log, want);
        free(log);
    }
}

#define EVENTS(in, want) assert_events(STR(in), false, want)

TEST(smtp_parser, splits_a_line_into_verb_and_argument)
{
    EVENTS("EHLO pod_1.local\r\n", "EHLO<pod_1.local> ");
    EVENTS("mail FROM:<a@b> SIZE=1\r\n", "MAIL<FROM:<a@b> SIZE=1> ");
    EVENTS("Rcpt \t to:<a@b> \t\r\n", "RCPT<to:<a@b>> ");
    EVENTS("NOOP\r\nRSET\r\nQUIT\r\n", "NOOP<> RSET<> QUIT<> ");
    EVENTS("EHLO\r\nNOOP", "EHLO<> ");
}

TEST(smtp_parser, takes_a_bare_lf_as_the_end_of_a_command)
{
    EVENTS("MAIL FROM:<a@b>\nRCPT TO:<c@d>\n", "MAIL<FROM:<a@b>> RCPT<TO:<c@d>> ");
}

TEST(smtp_parser, cr_or_nul_inside_a_line_is_never_a_command)
{
    EVENTS("MAIL FROM:<a\rRCPT TO:<b>\r\n", "UNKNOWN<MAIL FROM:<a\\x0dRCPT TO:<b>> ");
    EVENTS("NOOP\r\r\n", "UNKNOWN<NOOP\\x0d> ");
    EVENTS("NO\0OP\r\nNOOP \0\r\n", "UNKNOWN<NO\\x00OP> UNKNOWN<NOOP \\x00> ");
}

TEST(smtp_parser, knows_every_verb_and_shows_unknown_lines_whole)
{
    for (int v = 0; v < SMTP_HTTP; v++) {
        char in[32], want[32];
        snprintf(in, sizeof in, "%s x\r\n", verbs[v]);
        snprintf(want, sizeof want, "%s<x> ", verbs[v]);
        for (size_t i = 0; i < strlen(in); i += 2)
            in[i] = ascii_lower(in[i]);
        char *log = run(str_from(in), false, 100, 100);
        if (v != SMTP_DATA)
            assert_string_equal(log, want);
        free(log);
    }
    EVENTS("\r\n NOOP\r\nMAILFROM:<a@b>\r\nNOOPS\r\nXCLIENT a\r\n",
           "UNKNOWN<> UNKNOWN<NOOP> UNKNOWN<MAILFROM:<a@b>> UNKNOWN<NOOPS> UNKNOWN<XCLIENT a> ");
}

TEST(smtp_parser, knows_http_when_it_hears_it)
{
    static const char *const lines[] = {
        "GET / HTTP/1.1",
        "POST /x HTTP/1.0",
        "PUT x",
        "HEAD /",
        "OPTIONS * HTTP/1.1",
        "CONNECT a:25",
        "DELETE /",
        "TRACE /",
        "PATCH /",
        "PRI * HTTP/2.0",
        "get /",
        "PROPFIND / HTTP/1.1",
    };
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        char in[64], want[64];
        snprintf(in, sizeof in, "%s\r\n", lines[i]);
        snprintf(want, sizeof want, "HTTP<%s> ", lines[i]);
        assert_events(str_from(in), false, want);
    }
    EVENTS("GETS\r\nHost: x\r\nEHLO x HTTP/1.1\r\n",
           "UNKNOWN<GETS> UNKNOWN<Host: x> EHLO<x HTTP/1.1> ");
    EVENTS("GET /\r\0\r\n", "HTTP<GET /\\x0d\\x00> ");
}

/* "NOOP xxx", `len` bytes long, and its end. */
static char *long_line(size_t len, const char *end)
{
    char *line = xcalloc(len + strlen(end) + 16, 1);
    memset(line, 'x', len);
    memcpy(line, "NOOP ", 5);
    memcpy(line + len, end, strlen(end));
    return line;
}

TEST(smtp_parser, a_line_may_be_of_the_maximum_but_no_longer)
{
    static const char *const ends[] = {"\r\n", "\n"};
    for (size_t e = 0; e < ARRAY_LEN(ends); e++)
        for (size_t over = 0; over < 4; over++) {
            char *line = long_line(SMTP_LINE_MAX + over, ends[e]);
            for (size_t step = 1; step < 4000; step += step < 3 ? 1 : 1021) {
                char *log = run(str_from(line), false, step, step);
                if (over > 0)
                    assert_string_equal(log, "TOOLONG<NOOP> ");
                else
                    assert_int_equal(strlen(log), strlen("NOOP<> ") + SMTP_LINE_MAX - 5);
                free(log);
            }
            free(line);
        }
}

TEST(smtp_parser, an_overlong_line_is_told_once_and_dropped_to_its_end)
{
    char *line = long_line(1u << 20, "\r\nRSET\r\n");
    for (size_t step = 100; step < 4u << 20; step *= 10) {
        char *log = run(str_from(line), false, step, step);
        assert_string_equal(log, "TOOLONG<NOOP> RSET<> ");
        free(log);
    }
    memcpy(line, "GET /", 5);
    char *log = run(str_from(line), false, 4096, 4096);
    assert_string_equal(log, "TOOLONG<HTTP> RSET<> ");
    free(log);
    free(line);

    line = long_line(SMTP_LINE_MAX,
                     "\rmore\r\nRSET\r\n"); /* the CR in the last place is no line end */
    assert_events(str_from(line), false, "TOOLONG<UNKNOWN> RSET<> ");
    free(line);
}

TEST(smtp_parser, a_response_to_auth_is_no_command)
{
    EVENTS("AUTH PLAIN\r\nMAIL FROM:<a@b>\r\nNOOP\r\n",
           "AUTH<PLAIN> RESPONSE<MAIL FROM:<a@b>> NOOP<> ");
    EVENTS("AUTH PLAIN\r\n\r\nAUTH PLAIN\n*\nNOOP\r\n",
           "AUTH<PLAIN> RESPONSE<> AUTH<PLAIN> RESPONSE<*> NOOP<> ");
}

/* A token that stands for a password; nobody reads it, so no more than a command is kept of it. */
TEST(smtp_parser, auth_and_its_responses_may_be_longer_than_other_lines)
{
    static const struct {
        const char *before, *begins, *want, *too_long;
    } cases[] = {
        {"", "AUTH PLAIN ", "AUTH<PLAIN xxx", "TOOLONG<AUTH> RSET<> "},
        {"AUTH PLAIN\r\n", "xxxx", "AUTH<PLAIN> RESPONSE<xxx",
         "AUTH<PLAIN> TOOLONG<UNKNOWN> RSET<> "},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        for (size_t over = 0; over < 2; over++) {
            char *line = long_line(SMTP_AUTH_LINE_MAX + over, "\r\nRSET\r\n");
            memcpy(line, "xxxxx", 5);
            memcpy(line, cases[i].begins, strlen(cases[i].begins));
            char *in = xasprintf("%s%s", cases[i].before, line);
            for (size_t step = 1; step < 20000; step += step < 3 ? 1 : 4999) {
                char *log = run(str_from(in), false, step, step);
                if (over > 0)
                    assert_string_equal(log, cases[i].too_long);
                else
                    assert_int_equal(strncmp(log, cases[i].want, strlen(cases[i].want)), 0);
                assert_true(strlen(log) <= SMTP_LINE_MAX + 32);
                assert_non_null(strstr(log, "> RSET<> "));
                free(log);
            }
            free(in);
            free(line);
        }
}

TEST(smtp_parser, only_crlf_dot_crlf_ends_a_mail)
{
    EVENTS("DATA\r\nSubject: x\r\n\r\nHi\r\n.\r\nQUIT\r\n",
           "DATA<> BODY<Subject: x\\x0d\\x0a\\x0d\\x0aHi\\x0d\\x0a> END<ok> QUIT<> ");
    EVENTS("DATA\r\n.\r\nQUIT\r\n", "DATA<> END<ok> QUIT<> ");
    EVENTS("DATA\n.\r\nQUIT\r\n", "DATA<> END<ok> QUIT<> ");
    EVENTS("DATA\r\na\r\n.\r\nDATA\r\nb\r\n.\r\n",
           "DATA<> BODY<a\\x0d\\x0a> END<ok> DATA<> BODY<b\\x0d\\x0a> END<ok> ");
}

TEST(smtp_parser, unstuffs_dots_at_the_start_of_a_line_only)
{
    EVENTS("DATA\r\n..\r\n...\r\n.x\r\na.\r\na..b\r\n..\r\n.\r\n",
           "DATA<> BODY<.\\x0d\\x0a..\\x0d\\x0ax\\x0d\\x0aa.\\x0d\\x0aa..b\\x0d\\x0a.\\x0d\\x0a> "
           "END<ok> ");
}

TEST(smtp_parser, unstuffs_behind_a_bare_lf_only_what_was_stuffed_there)
{
    EVENTS("DATA\r\na\n..\n..b\n.c\n...\r\n.\r\n",
           "DATA<> BODY<a\\x0d\\x0a.\\x0d\\x0a.b\\x0d\\x0a.c\\x0d\\x0a..\\x0d\\x0a> END<ok+lf> ");
}

#define EVIL  "MAIL FROM:<e@x>\r\nRCPT TO:<v@x>\r\nDATA\r\nevil\r\n.\r\n"
#define EVIL_ "MAIL FROM:<e@x>\\x0d\\x0aRCPT TO:<v@x>\\x0d\\x0aDATA\\x0d\\x0aevil\\x0d\\x0a"

struct fake_end {
    struct str bytes;
    const char *body, *defect;
};

#define FAKE(bytes, body, defect)                                                                  \
    {                                                                                              \
        {bytes, sizeof(bytes) - 1}, body, defect                                                   \
    }
#define NL "\\x0d\\x0a"

/* `body` is what the sequence leaves of itself in "a<sequence>EVIL" where the mail may be taken;
 * where it may not, what comes before the defect and nothing else. */
// clang-format off
static const struct fake_end fake_ends[] = {
    FAKE("\n.\n",           NL "." NL, "ok+lf"),
    FAKE("\n.\r\n",         NL "." NL, "ok+lf"),
    FAKE("\r\n.\n",         NL "." NL, "ok+lf"),
    FAKE("\n.\r",           NL ".",    "cr+lf"),
    FAKE("\r.\n",           "",        "cr"),
    FAKE("\r.\r",           "",        "cr"),
    FAKE("\r.\r\n",         "",        "cr"),
    FAKE("\r\n.\r",         NL,        "cr"),
    FAKE("\r\n.\r\r\n",     NL,        "cr"),
    FAKE("\r\r\n.\r\r\n",   "",        "cr"),
    FAKE("\r\r\n.\r",       "",        "cr"),
    FAKE("\r\n\0.\r\n",     NL,        "nul"),
    FAKE("\r\n.\0\r\n",     NL,        "nul"),
    FAKE("\r\n\r.\r\n",     NL,        "cr"),
    FAKE("\r\n.\r\0\n",     NL,        "cr"),
    FAKE("\r\n.\r.\r\n",    NL,        "cr"),
    FAKE("\r\n. \r\n",      NL " " NL, "ok"),
    FAKE("\r\n .\r\n",      NL " ." NL,"ok"),
    FAKE("\r\n..\r\n",      NL "." NL, "ok"),
    FAKE("\n..\r\n",        NL "." NL, "ok+lf"),
    FAKE("\n\n.\n\n",       NL NL "." NL NL, "ok+lf"),
    FAKE("\n.\n.\n",        NL "." NL "." NL, "ok+lf"),
    FAKE("\r\n.\n.\r\n",    NL "." NL "." NL, "ok+lf"),
};
// clang-format on

TEST(smtp_parser, no_fake_end_lets_a_second_mail_out)
{
    for (size_t i = 0; i < ARRAY_LEN(fake_ends); i++) {
        const struct fake_end *c = &fake_ends[i];
        bool is_taken = strncmp(c->defect, "ok", 2) == 0;
        struct buf in, want;
        buf_init(&in, 4096);
        buf_init(&want, 4096);
        assert_true(buf_append_str(&in, STR("DATA\r\na")) && buf_append_str(&in, c->bytes) &&
                    buf_append_str(&in, STR(EVIL "NOOP\r\n")));
        assert_true(buf_printf(&want, "DATA<> BODY<a%s%s> END<%s> NOOP<> ", c->body,
                               is_taken ? EVIL_ : "", c->defect));
        assert_events(buf_str(&in), false, buf_cstr(&want));
        buf_release(&in);
        buf_release(&want);
    }
}

TEST(smtp_parser, no_fake_end_works_as_the_first_bytes_of_a_mail)
{
    EVENTS("DATA\r\n.\n" EVIL "NOOP\r\n", "DATA<> BODY<." NL EVIL_ "> END<ok+lf> NOOP<> ");
    EVENTS("DATA\r\n\n.\r\n" EVIL "NOOP\r\n",
           "DATA<> BODY<" NL "." NL EVIL_ "> END<ok+lf> NOOP<> ");
    EVENTS("DATA\r\n.\r\r\n" EVIL "NOOP\r\n", "DATA<> END<cr> NOOP<> ");
    EVENTS("DATA\r\n\0.\r\n" EVIL "NOOP\r\n", "DATA<> END<nul> NOOP<> ");
    EVENTS("DATA\r\n\r.\r\n" EVIL "NOOP\r\n", "DATA<> END<cr> NOOP<> ");
}

TEST(smtp_parser, a_poisoned_mail_is_read_to_its_true_end_and_the_next_is_clean)
{
    EVENTS("DATA\r\na\rb\n.\nc\n.\r\nd\r\n.\n\r\n.x\r\n..\r\n\0.\r\n.\r\nDATA\r\nok\r\n.\r\n",
           "DATA<> BODY<a> END<cr> DATA<> BODY<ok" NL "> END<ok> ");
    EVENTS("DATA\r\na\0b\r\r\n.\r\nNOOP\r\n", "DATA<> BODY<a> END<nul> NOOP<> ");
}

TEST(smtp_parser, nothing_of_a_mail_is_left_for_the_next)
{
    char text[SMTP_BODY_LINE_MAX + 1] = "", *in, *log;
    memset(text, 'x', SMTP_BODY_LINE_MAX);
    in = xasprintf("DATA\r\na\nx\r-\r\n.\r\nDATA\r\n%s\r\n.\r\n", text);
    log = run(str_from(in), false, 2000, 2000);
    assert_non_null(strstr(log, "END<cr+lf> DATA<> BODY<x"));
    assert_non_null(strstr(log, "END<ok> "));
    free(log);
    free(in);
}

TEST(smtp_parser, the_first_defect_is_the_one_told)
{
    EVENTS("DATA\r\n\ra\0b\r\n.\r\n", "DATA<> END<cr> ");
    EVENTS("DATA\r\n\0a\rb\r\n.\r\n", "DATA<> END<nul> ");
    EVENTS("DATA\r\n\r\0b\r\n.\r\n", "DATA<> END<cr> ");
    EVENTS("DATA\r\na\n\0b\r\n.\r\n", "DATA<> BODY<a" NL "> END<nul+lf> ");
    assert_events(STR("DATA\r\na\n\0b\rc\r\n.\r\n"), true, "DATA<> BODY<a> END<lf+lf> ");
}

TEST(smtp_parser, refuses_bare_lf_if_told_to)
{
    static const char *const cases[] = {"\n", "\n.\n", "\n.\r\n", "\r\n.\n", "\n\n", "x\n..\n"};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char in[200];
        snprintf(in, sizeof in, "DATA\r\n%s" EVIL "NOOP\r\n", cases[i]);
        for (size_t cut = 0; cut < strlen(in); cut++) {
            char *log = run(str_from(in), true, cut, cut == 0 ? 1 : sizeof in);
            if (strstr(log, "END<lf+lf> NOOP<> ") == NULL || strstr(log, "evil") != NULL)
                fail_msg("%zu: %s", i, log);
            free(log);
        }
    }
    assert_events(STR("DATA\r\na\r\n.\r\n"), true, "DATA<> BODY<a" NL "> END<ok> ");
}

/* The end of a mail whose one long line is `text_len` bytes behind `start`, told in steps. */
static void assert_long_line(const char *start, size_t text_len, const char *line_end,
                             const char *want_end)
{
    char *text = xcalloc(text_len + 1, 1);
    memset(text, 'x', text_len);
    char *in = xasprintf("DATA\r\nshort\r\n%s%s%sshort\r\n.\r\n", start, text, line_end);
    for (size_t step = 1; step < 5000; step += step < 3 ? 1 : 997) {
        char *log = run(str_from(in), false, step, step);
        if (strlen(log) < text_len || strstr(log, want_end) == NULL)
            fail_msg("%s %zu: %s", start, text_len, log);
        free(log);
    }
    free(in);
    free(text);
}

TEST(smtp_parser, marks_lines_over_998_bytes_and_keeps_their_text)
{
    assert_long_line("", 998, "\r\n", "END<ok>");
    assert_long_line("", 999, "\r\n", "END<long>");
    assert_long_line("", 998, "\n", "END<ok+lf>");
    assert_long_line("", 999, "\n", "END<long+lf>");
    assert_long_line(".", 998, "\r\n", "END<ok>"); /* the stuffed dot is none of the line */
    assert_long_line("..", 998, "\r\n", "END<long>");
    assert_long_line("\n..", 997, "\r\n", "END<ok+lf>");
    assert_long_line("\n.", 998, "\r\n", "END<long+lf>");
    assert_long_line("\n", 998, "\n", "END<ok+lf>");
    assert_long_line("\n", 999, "\n", "END<long+lf>");
    assert_long_line("", 600, "\n", "END<ok+lf>");
}

TEST(smtp_parser, a_poison_outranks_a_long_line)
{
    char in[2000];
    memset(in, 'x', sizeof in);
    memcpy(in, "DATA\r\n", 6);
    memcpy(in + 1500, "\r\na\rb\r\n.\r\n", 11);
    char *log = run((struct str){in, 1511}, false, 7, 1000);
    assert_non_null(strstr(log, "END<cr> "));
    free(log);
}

TEST(smtp_parser, clean_lines_leave_as_one_run_of_the_input)
{
    struct smtp_parser p;
    smtp_parser_init(&p, false);
    smtp_parser_expect_body(&p);
    struct str all = STR("one\r\n\r\ntwo\r\nthree"), in = all;
    struct smtp_event ev = smtp_parser_next(&p, &in);
    assert_int_equal(ev.kind, SMTP_EV_BODY);
    assert_ptr_equal(ev.body.p, all.p);
    assert_int_equal(ev.body.len, all.len);
    assert_int_equal(smtp_parser_next(&p, &in).kind, SMTP_EV_NONE);
}

TEST(smtp_parser, bodies_of_bare_lf_leave_in_few_events)
{
    struct buf in;
    buf_init(&in, 1u << 20);
    assert_true(buf_append_str(&in, STR("DATA\r\n")));
    for (unsigned i = 0; in.len < 60000; i++)
        assert_true(buf_printf(&in, "%.*s%s\n", (int)(i * 7 % 120),
                               "................................................................"
                               "................................................................" +
                                   (i % 3 == 0 ? 0 : 1),
                               i % 50 == 0 ? "\r" : ""));
    assert_true(buf_append_str(&in, STR(".\r\nNOOP\r\n\r\n.\r\n")));
    char *bytes = run(buf_str(&in), false, 1, 1);
    for (size_t step = 500; step < 80000; step += 997) {
        char *log = run(buf_str(&in), false, step, step);
        assert_string_equal(log, bytes);
        free(log);
    }
    free(bytes);

    buf_clear(&in);
    while (in.len < 60000)
        assert_true(buf_append_str(&in, STR("a line of forty bytes, as mails have it\n")));
    struct smtp_parser p;
    smtp_parser_init(&p, false);
    smtp_parser_expect_body(&p);
    struct str rest = buf_str(&in);
    size_t n_events = 0;
    while (smtp_parser_next(&p, &rest).kind != SMTP_EV_NONE)
        n_events++;
    assert_in_range(n_events, 1, 100);
    buf_release(&in);
}

static bool is_crlf_at(const char *at, const char *stop)
{
    return at[0] == '\r' && at + 1 < stop && at[1] == '\n';
}

static const char *defect_at(const char *at, const char *stop, bool refuse_bare_lf)
{
    if (at[0] == '\r' && !is_crlf_at(at, stop))
        return "cr";
    if (at[0] == '\0')
        return "nul";
    return at[0] == '\n' && refuse_bare_lf ? "lf" : NULL;
}

/* A second, slower reading of the rules, over the whole text at once; there is an end in it.
 * Whether it is the last of the text. */
static bool model(struct str text, bool refuse_bare_lf, struct buf *want)
{
    char t[64] = "\r\n";
    memcpy(t + 2, text.p, text.len);
    const char *at = t + 2, *stop = memmem(t, text.len + 2, "\r\n.\r\n", 5), *defect = NULL;
    assert_non_null(stop);
    bool had_lf = false, is_behind_lf = false, is_line_start = true;
    struct buf body;
    buf_init(&body, 256);
    for (stop += 2; at < stop; at++) {
        if (is_line_start && at[0] == '.' && (is_behind_lf ? at[1] == '.' : at[1] != '\n'))
            at++;
        had_lf |= at[0] == '\n';
        defect = defect_at(at, stop, refuse_bare_lf);
        if (defect != NULL)
            break;
        is_behind_lf = at[0] == '\n';
        at += is_crlf_at(at, stop);
        is_line_start = at[0] == '\n';
        assert_true(buf_append_str(&body, is_line_start ? STR("\r\n") : (struct str){at, 1}));
    }
    assert_true(buf_append_str(want, body.len > 0 ? STR("DATA<> BODY<") : STR("DATA<> ")));
    log_escaped(want, buf_str(&body));
    assert_true(buf_printf(want, "%sEND<%s%s> ", body.len > 0 ? "> " : "",
                           defect == NULL ? "ok" : defect, had_lf ? "+lf" : ""));
    buf_release(&body);
    return stop + 3 == t + 2 + text.len;
}

/* Puts the n-th text of `len` letters over the alphabet into out. */
static void nth_text(char *out, size_t len, size_t n)
{
    static const char letters[] = {'\r', '\n', '.', 'a', '\0'};
    for (size_t i = 0; i < len; i++, n /= sizeof letters)
        out[i] = letters[n % sizeof letters];
}

TEST(smtp_parser, agrees_with_a_second_reading_of_the_rules_on_every_short_text)
{
    size_t n_texts = 1;
    for (size_t len = 0; len <= 6; len++, n_texts *= 5)
        for (size_t n = 0; n < n_texts * 2; n++) {
            char in[32] = "DATA\r\n";
            nth_text(in + 6, len, n / 2);
            memcpy(in + 6 + len, "\r\n.\r\n", 5);
            bool refuse = n % 2 == 1;
            struct buf want;
            buf_init(&want, 1024);
            struct str text = {in + 6, len + 5};
            bool is_last = model(text, refuse, &want);
            char *whole = run((struct str){in, len + 11}, refuse, 100, 100);
            char *bytes = run((struct str){in, len + 11}, refuse, 1, 1);
            if (strncmp(whole, buf_cstr(&want), is_last ? LOG_MAX : want.len) != 0 ||
                strcmp(whole, bytes) != 0)
                fail_msg("got\n%s\n%s\nwanted\n%s", whole, bytes, buf_cstr(&want));
            free(whole);
            free(bytes);
            buf_release(&want);
        }
}

TEST(smtp_parser, a_mail_full_of_line_tricks_costs_no_more_than_linear_time)
{
    static const char *const units[] = {"\r", "\n", ".", "\n.", "\r\n", "\r\n.x", "\n.\r\n"};
    size_t len = 4u << 20;
    char *in = xcalloc(len + 1, 1);
    for (size_t u = 0; u < ARRAY_LEN(units); u++) {
        size_t unit_len = strlen(units[u]);
        for (size_t at = 0; at + unit_len <= len; at += unit_len)
            memcpy(in + at, units[u], unit_len);
        struct smtp_parser p;
        smtp_parser_init(&p, false);
        smtp_parser_expect_body(&p);
        struct str rest = {in, len};
        size_t n_events = 0;
        while (smtp_parser_next(&p, &rest).kind != SMTP_EV_NONE)
            n_events++;
        assert_true(n_events <= len);
    }
    free(in);
}

/* ---- arguments ---- */

TEST(smtp_parser, mail_takes_size_body_and_auth)
{
    static const struct {
        const char *arg, *from;
        uint64_t size;
    } cases[] = {
        {"FROM:<a@b>", "a@b", 0},
        {"from: <a@b>", "a@b", 0},
        {"FROM:a@b", "a@b", 0},
        {"FROM:<>", "", 0},
        {"FROM:<a@b> SIZE=12345", "a@b", 12345},
        {"FROM:<a@b> size=18446744073709551615", "a@b", UINT64_MAX},
        {"FROM:<a@b>  BODY=8BITMIME  SIZE=7", "a@b", 7},
        {"FROM:<a@b> body=7bit", "a@b", 0},
        {"FROM:<a@b> AUTH=<> BODY=8bitmime", "a@b", 0},
        {"FROM:<a@b> AUTH=e+3Dmc2@example.com", "a@b", 0},
        {"FROM:<\"SIZE=9 \"@b>", "\"SIZE=9 \"@b", 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct smtp_mail_args args;
        struct err e;
        memset(&args, 0xff, sizeof args);
        if (!smtp_parse_mail(str_from(cases[i].arg), &args, &e))
            fail_msg("%s: %s", cases[i].arg, e.msg);
        assert_string_equal(args.from.text, cases[i].from);
        assert_int_equal(args.size, cases[i].size);
    }
}

struct bad_arg {
    const char *arg;
    enum err_code code;
    const char *part_of_msg;
};

TEST(smtp_parser, mail_refuses_by_class_and_says_why)
{
    static const struct bad_arg cases[] = {
        {"", ERR_SYNTAX, "FROM:<address> is expected"},
        {"TO:<a@b>", ERR_SYNTAX, "FROM:<address> is expected"},
        {"FROM <a@b>", ERR_SYNTAX, "FROM:<address> is expected"},
        {"FROM:", ERR_SYNTAX, "local part"},
        {"FROM:<a@b", ERR_SYNTAX, "'>'"},
        {"FROM:<a@b>SIZE=1", ERR_SYNTAX, "space"},
        {"FROM:<postmaster>", ERR_SYNTAX, "no domain"},
        {"FROM:<a@b> SIZE=", ERR_SYNTAX, "SIZE"},
        {"FROM:<a@b> SIZE", ERR_SYNTAX, "SIZE"},
        {"FROM:<a@b> SIZE=-1", ERR_SYNTAX, "SIZE"},
        {"FROM:<a@b> SIZE=0x10", ERR_SYNTAX, "SIZE"},
        {"FROM:<a@b> SIZE=18446744073709551616", ERR_SYNTAX, "SIZE"},
        {"FROM:<a@b> SIZE=1 size=2", ERR_SYNTAX, "SIZE is given twice"},
        {"FROM:<a@b> BODY=BINARYMIME", ERR_SYNTAX, "BODY"},
        {"FROM:<a@b> SMTPUTF8", ERR_LIMIT, "MAIL parameter SMTPUTF8 "},
        {"FROM:<a@b> SIZE=1 RET=FULL ENVID=x", ERR_LIMIT, "MAIL parameter RET "},
        {"FROM:<a@b> =x", ERR_LIMIT, "MAIL parameter "},
        {"FROM:<a@b> X\r\n250", ERR_LIMIT, "MAIL parameter X\\x0d\\x0a250 "},
        {"FROM:<j\xc3\xb6rg@b>", ERR_DENIED, "SMTPUTF8"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct smtp_mail_args args;
        struct err e;
        if (smtp_parse_mail(str_from(cases[i].arg), &args, &e))
            fail_msg("accepted: %s", cases[i].arg);
        if (e.code != cases[i].code || e.sys != 0 || strstr(e.msg, cases[i].part_of_msg) == NULL)
            fail_msg("%s: %s", cases[i].arg, e.msg);
    }
}

TEST(smtp_parser, rcpt_takes_a_mailbox_and_nothing_else)
{
    static const struct bad_arg bad[] = {
        {"", ERR_SYNTAX, "TO:<address> is expected"},
        {"FROM:<a@b>", ERR_SYNTAX, "TO:<address> is expected"},
        {"TO:<>", ERR_SYNTAX, "empty"},
        {"TO:<a>", ERR_SYNTAX, "domain"},
        {"TO:<a@b> NOTIFY=NEVER ORCPT=x", ERR_LIMIT, "RCPT parameter NOTIFY "},
        {"TO:<a@b> x y=z", ERR_LIMIT, "RCPT parameter x "},
        {"TO:<a@b\xc3\xbc>", ERR_DENIED, "SMTPUTF8"},
    };
    static const char *const good[][2] = {
        {"TO:<a@b>", "a@b"}, {"to: a@b ", "a@b"}, {"TO:<Postmaster>", "Postmaster"}};
    struct smtp_rcpt_args args;
    struct err e;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        if (smtp_parse_rcpt(str_from(bad[i].arg), &args, &e))
            fail_msg("accepted: %s", bad[i].arg);
        if (e.code != bad[i].code || e.sys != 0 || strstr(e.msg, bad[i].part_of_msg) == NULL)
            fail_msg("%s: %s", bad[i].arg, e.msg);
    }
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_true(smtp_parse_rcpt(str_from(good[i][0]), &args, &e));
        assert_string_equal(args.to.text, good[i][1]);
    }
}
