// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/mem.h"
#include "core/mail_body.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define TOP   "Received: from app\r\n\tby localhost\r\nX-Svidmail-Id: id-1\r\n"
#define ADD_D "Date: Thu, 01 Jan 1970 00:00:00 +0000\r\n"
#define ADD_M "Message-ID: <id-1@pod>\r\n"
#define D     "Date: Mon, 23 Nov 2026 17:26:04 +0000\r\n"
#define M     "Message-ID: <app@x>\r\n"
#define OUT   (1u << 20)

static const struct mail_body_config config = {
    .received = "from app\r\n\tby localhost",
    .id = "id-1",
    .date = "Thu, 01 Jan 1970 00:00:00 +0000",
    .message_id = "<id-1@pod>",
};

static bool sink_to_buf(void *arg, struct str bytes)
{
    assert_true(bytes.len > 0);
    assert_true(buf_append_str(arg, bytes));
    return true;
}

/* Writes a heap copy of the exact size, freed at once: nobody may keep a pointer into it or read
 * beyond it. */
static bool write_piece(struct mail_body *b, struct str piece, struct err *e)
{
    char *copy = malloc(piece.len == 0 ? 1 : piece.len);
    assert_non_null(copy);
    memcpy(copy, piece.p, piece.len);
    bool ok = mail_body_write(b, (struct str){copy, piece.len}, e);
    free(copy);
    return ok;
}

/* Feeds `first` bytes, then the rest in steps. */
static bool feed(const struct mail_body_config *cfg, struct str in, size_t first, size_t step,
                 struct buf *out, struct mail_body_facts *facts, struct err *e)
{
    struct mail_body *b = mail_body_new(cfg, sink_to_buf, out);
    bool ok = true;
    for (size_t at = 0, n = first; ok && at < in.len; at += n, n = step)
        if (n > 0)
            ok = write_piece(b, str_sub(in, at, n), e);
    ok = ok && mail_body_end(b, facts, e);
    mail_body_free(&b);
    assert_null(b);
    return ok;
}

/* Whole, byte by byte, and cut once at every place: always `want`. */
static struct mail_body_facts assert_mail(const struct mail_body_config *cfg, struct str in,
                                          struct str want)
{
    struct mail_body_facts facts = {0};
    for (size_t cut = 0; cut <= in.len; cut++) {
        struct buf out;
        struct err e;
        buf_init(&out, OUT);
        if (!feed(cfg, in, cut, cut == 0 ? 1 : in.len, &out, &facts, &e))
            fail_msg("cut %zu: %s", cut, e.msg);
        if (!str_eq(buf_str(&out), want))
            fail_msg("cut %zu: got\n%s\nwanted\n%.*s", cut, buf_cstr(&out), (int)want.len, want.p);
        buf_release(&out);
    }
    return facts;
}

static void assert_refused(struct str in, enum err_code code, const char *msg)
{
    for (size_t cut = 0; cut <= in.len; cut += in.len < 400 ? 1 : in.len / 7) {
        struct buf out;
        struct err e;
        struct mail_body_facts facts;
        buf_init(&out, OUT);
        assert_false(feed(&config, in, cut, cut == 0 ? 1 : in.len, &out, &facts, &e));
        assert_int_equal(e.code, code);
        assert_int_equal(e.sys, 0);
        assert_string_equal(e.msg, msg);
        buf_release(&out);
    }
}

#define MAIL(in, want) assert_mail(&config, STR(in), STR(want))

TEST(mail_body, puts_trace_on_top_and_leaves_a_complete_mail_alone)
{
    MAIL(D M "From: a@b\r\nTO:  c@d ,\r\n\te@f\r\nSubject : odd but "
             "legal\r\nX-Empty:\r\n\r\nHi\r\n\r\n.\r\n"
             "Bcc: text\r\n",
         TOP D M "From: a@b\r\nTO:  c@d ,\r\n\te@f\r\nSubject : odd but "
                 "legal\r\nX-Empty:\r\n\r\nHi\r\n\r\n.\r\n"
                 "Bcc: text\r\n");
}

TEST(mail_body, adds_a_missing_date_and_message_id_at_the_end_of_the_header)
{
    MAIL("From: a@b\r\n\r\nHi\r\n", TOP "From: a@b\r\n" ADD_D ADD_M "\r\nHi\r\n");
    MAIL("From: a@b\r\n" D "\r\nHi\r\n", TOP "From: a@b\r\n" D ADD_M "\r\nHi\r\n");
    MAIL(M "From: a@b\r\n\r\nHi\r\n", TOP M "From: a@b\r\n" ADD_D "\r\nHi\r\n");
    MAIL("dATE: x\r\nmESSAGE-id: y\r\n\r\n", TOP "dATE: x\r\nmESSAGE-id: y\r\n\r\n");
    MAIL("X-Date: x\r\n\r\n", TOP "X-Date: x\r\n" ADD_D ADD_M "\r\n");
}

TEST(mail_body, drops_bcc_in_any_case_with_its_folded_lines)
{
    MAIL(D M "Bcc: x@y\r\nTo: a@b\r\nbCC:\r\n x@y,\r\n\tz@y\r\n \r\nCc: "
             "c@d\r\nBCC : q\r\nresent-BCC: r\r\n\r\nHi",
         TOP D M "To: a@b\r\nCc: c@d\r\n\r\nHi");
    MAIL(D M "X-Bcc: x\r\nBccc: y\r\n\r\n", TOP D M "X-Bcc: x\r\nBccc: y\r\n\r\n");
}

TEST(mail_body, drops_x_ses_headers_unless_allowed)
{
    static const char *const allow[] = {"X-SES-Message-Tags", NULL};
    struct mail_body_config lenient = config;
    lenient.allow_headers = allow;
    const struct str in =
        STR(D M "X-SES-CONFIGURATION-SET: evil\r\n\t2\r\nx-ses-message-tags: a=b,\r\n c=d\r\n"
                "X-SESAME: open\r\n\r\n");
    assert_mail(&config, in, STR(TOP D M "X-SESAME: open\r\n\r\n"));
    assert_mail(&lenient, in,
                STR(TOP D M "x-ses-message-tags: a=b,\r\n c=d\r\nX-SESAME: open\r\n\r\n"));
}

TEST(mail_body, an_apps_own_svidmail_id_is_dropped)
{
    MAIL("x-svidmail-id: forged\r\n folded\r\n" D M "\r\n", TOP D M "\r\n");
}

TEST(mail_body, a_mail_without_header_section_gets_one)
{
    MAIL("\r\nHi\r\n", TOP ADD_D ADD_M "\r\nHi\r\n");
    MAIL("Hello there\r\nBcc: x\r\n", TOP ADD_D ADD_M "\r\nHello there\r\nBcc: x\r\n");
    MAIL(": no name\r\n\r\nx", TOP ADD_D ADD_M "\r\n: no name\r\n\r\nx");
    MAIL("", TOP ADD_D ADD_M "\r\n");
}

TEST(mail_body, leading_white_space_cannot_fold_onto_our_header)
{
    MAIL(" folded\r\nSubject: x\r\n", TOP ADD_D ADD_M "\r\n folded\r\nSubject: x\r\n");
    MAIL("\t\r\n\r\n", TOP ADD_D ADD_M "\r\n\t\r\n\r\n");
}

TEST(mail_body, a_line_that_is_no_field_ends_the_header)
{
    MAIL(D M "Subject: x\r\nnot a field\r\nBcc: text now\r\n\r\nHi",
         TOP D M "Subject: x\r\n\r\nnot a field\r\nBcc: text now\r\n\r\nHi");
    MAIL(D "Bcc: x\r\nB\x01"
           "cc: y\r\n",
         TOP D ADD_M "\r\nB\x01"
                     "cc: y\r\n");
}

TEST(mail_body, an_mbox_line_in_front_is_dropped)
{
    MAIL("From root Mon Nov 23 17:26:04 2026\r\n" D M "\r\nHi", TOP D M "\r\nHi");
    MAIL(">From root\r\n" D M "\r\nHi", TOP D M "\r\nHi");
    MAIL("From root\r\n folded\r\n", TOP ADD_D ADD_M "\r\n folded\r\n");
    MAIL(D M "From root\r\nHi", TOP D M "\r\nFrom root\r\nHi");
    MAIL("From : a@b\r\n" D M "\r\n", TOP "From : a@b\r\n" D M "\r\n");
}

TEST(mail_body, a_header_cut_off_by_the_end_is_completed)
{
    MAIL(D M "Subject: x", TOP D M "Subject: x\r\n\r\n");
    MAIL(D M "Bcc: x", TOP D M "\r\n");
    MAIL(D "Subject: x\r\n", TOP D "Subject: x\r\n" ADD_M "\r\n");
    MAIL("no field", TOP ADD_D ADD_M "\r\nno field\r\n");
    MAIL("x", TOP ADD_D ADD_M "\r\nx\r\n");
}

TEST(mail_body, learns_the_first_value_unfolded)
{
    struct mail_body_facts f = MAIL(
        D "FROM: =?utf-8?q?J=C3=B6rg?=\r\n <a@b>\r\nSubject:\tfirst\r\n\tsecond\r\nmessage-id:\r\n "
          "<1@x> \r\nX: y\r\n z\r\n\r\n"
          "Subject: text\r\n",
        TOP D "FROM: =?utf-8?q?J=C3=B6rg?=\r\n "
              "<a@b>\r\nSubject:\tfirst\r\n\tsecond\r\nmessage-id:\r\n <1@x> \r\nX: y\r\n z\r\n\r\n"
              "Subject: text\r\n");
    assert_string_equal(f.from, "=?utf-8?q?J=C3=B6rg?= <a@b>");
    assert_string_equal(f.message_id, "<1@x>");
    assert_true(f.has_date);
    f = MAIL(D M "From:\tfirst\r\n\tsecond\r\n\r\n", TOP D M "From:\tfirst\r\n\tsecond\r\n\r\n");
    assert_string_equal(f.from, "first\tsecond");
    f = MAIL(D M "From:tight\r\n\r\n", TOP D M "From:tight\r\n\r\n");
    assert_string_equal(f.from, "tight");
    f = MAIL(D M "From: kept\r\nBcc: dropped\r\n folded\r\n\r\n", TOP D M "From: kept\r\n\r\n");
    assert_string_equal(f.from, "kept");
    f = MAIL("To: a@b\r\n\r\n", TOP "To: a@b\r\n" ADD_D ADD_M "\r\n");
    assert_string_equal(f.from, "");
    assert_string_equal(f.message_id, "");
    assert_false(f.has_date);
}

TEST(mail_body, what_is_learned_is_cut)
{
    char in[4000], value[1500];
    memset(value, 'v', sizeof value - 1);
    value[sizeof value - 1] = '\0';
    snprintf(in, sizeof in, "From: %s\r\n %s\r\n\r\n", value, value);
    struct buf out;
    struct mail_body_facts f;
    struct err e;
    buf_init(&out, OUT);
    assert_true(feed(&config, str_from(in), 0, 1, &out, &f, &e));
    assert_int_equal(strlen(f.from), MAIL_HEADER_VALUE_MAX - 1);
    assert_true(str_starts_with(str_from(value), str_from(f.from)));
    buf_release(&out);
}

TEST(mail_body, refuses_a_repeated_singleton_by_name)
{
    assert_refused(STR(D M "Subject: a\r\nTo: x\r\nSUBJECT: b\r\n\r\n"), ERR_SYNTAX,
                   "SES takes only one SUBJECT header");
    assert_refused(STR("From: a\r\nFrom: b\r\n"), ERR_SYNTAX, "SES takes only one From header");
    assert_refused(STR("DKIM-Signature: a\r\nDKIM-Signature: b"), ERR_SYNTAX,
                   "SES takes only one DKIM-Signature header");
    assert_refused(STR("Date: a\r\nDate : b\r\n"), ERR_SYNTAX, "SES takes only one Date header");
    assert_refused(STR("Accept-Language: a\r\naccept-language: b\r\n"), ERR_SYNTAX,
                   "SES takes only one accept-language header");
    assert_refused(STR("VBR-Info: a\r\nVBR-Info: b\r\n"), ERR_SYNTAX,
                   "SES takes only one VBR-Info header");
    MAIL(D M "To: a\r\nTo: b\r\nCc: a\r\nCc: b\r\nX-A: 1\r\nX-A: 1\r\nVBR-Info: "
             "v\r\nAccept-Language: l\r\n\r\n",
         TOP D M "To: a\r\nTo: b\r\nCc: a\r\nCc: b\r\nX-A: 1\r\nX-A: 1\r\nVBR-Info: "
                 "v\r\nAccept-Language: l\r\n\r\n");
}

TEST(mail_body, refuses_more_than_100_received_as_a_loop)
{
    struct buf in, out;
    struct mail_body_facts f;
    struct err e;
    buf_init(&in, OUT);
    buf_init(&out, OUT);
    for (int i = 0; i < MAIL_RECEIVED_MAX; i++)
        assert_true(buf_printf(&in, "%s: by hop %d\r\n", i % 2 == 0 ? "Received" : "RECEIVED", i));
    assert_true(feed(&config, buf_str(&in), 1000, 1000, &out, &f, &e));
    assert_int_equal(f.n_received, MAIL_RECEIVED_MAX);
    assert_true(buf_append_str(&in, STR("Received: by hop 100\r\n\r\n")));
    assert_refused(buf_str(&in), ERR_SYNTAX, "5.4.6 routing loop: more than 100 Received headers");
    buf_release(&in);
    buf_release(&out);
}

/* A header section of exactly `size` bytes, its empty line included, in lines of `line` bytes. */
static void fill_header(struct buf *in, size_t size, size_t line)
{
    char text[1024];
    memset(text, 'x', sizeof text);
    text[0] = 'X';
    text[1] = ':';
    size_t left = size - 2;
    while (left > 0) {
        size_t n = left < 2 * line ? left : line;
        for (size_t more = n - 2; more > 0;) { /* a long line is one of many pieces */
            size_t piece = more < 1000 ? more : 1000;
            assert_true(buf_append(in, more == n - 2 ? text : text + 2, piece));
            more -= piece;
        }
        assert_true(buf_append(in, "\r\n", 2));
        left -= n;
    }
    assert_true(buf_append(in, "\r\n", 2));
    assert_int_equal(in->len, size);
}

TEST(mail_body, bounds_the_header_section)
{
    static const size_t lines[] = {80, 1000, 200000};
    for (size_t i = 0; i < ARRAY_LEN(lines); i++)
        for (size_t over = 0; over < 2; over++) {
            struct buf in, out;
            struct mail_body_facts f;
            struct err e;
            buf_init(&in, OUT);
            buf_init(&out, OUT);
            fill_header(&in, MAIL_HEADER_MAX + over, lines[i]);
            for (size_t step = 4099; step < OUT; step *= 300) {
                buf_clear(&out);
                assert_int_equal(feed(&config, buf_str(&in), 0, step, &out, &f, &e), over == 0);
                if (over == 1) {
                    assert_int_equal(e.code, ERR_LIMIT);
                    assert_int_equal(e.sys, 0);
                }
            }
            buf_release(&in);
            buf_release(&out);
        }
}

struct spy {
    const char *from, *to;
    size_t n_calls, n_inside;
    size_t fail_at;
};

static bool on_bytes(void *arg, struct str bytes)
{
    struct spy *spy = arg;
    spy->n_inside += bytes.p >= spy->from && bytes.p + bytes.len <= spy->to;
    return ++spy->n_calls != spy->fail_at;
}

TEST(mail_body, bounds_a_line_that_never_ends)
{
    char piece[4096];
    memset(piece, 'x', sizeof piece);
    struct spy spy = {0};
    struct mail_body *b = mail_body_new(&config, on_bytes, &spy);
    struct err e;
    size_t n_taken = 0;
    while (n_taken < OUT && mail_body_write(b, (struct str){piece, sizeof piece}, &e))
        n_taken += sizeof piece;
    assert_int_equal(n_taken, MAIL_HEADER_MAX);
    assert_int_equal(e.code, ERR_LIMIT);
    assert_false(mail_body_write(b, STR("\r\n"), &e));
    mail_body_free(&b);
}

TEST(mail_body, the_text_has_no_bound_of_its_own)
{
    struct buf in, out;
    struct mail_body_facts f;
    struct err e;
    buf_init(&in, OUT);
    buf_init(&out, OUT);
    assert_true(buf_append_str(&in, STR(D M "\r\n")));
    while (in.len < 3 * MAIL_HEADER_MAX)
        assert_true(buf_append_str(&in, STR("Subject: text\r\n")));
    assert_true(feed(&config, buf_str(&in), 0, 8191, &out, &f, &e));
    assert_true(str_eq(str_sub(buf_str(&out), sizeof TOP - 1, OUT), buf_str(&in)));
    buf_release(&in);
    buf_release(&out);
}

static bool aborts(const struct mail_body_config *cfg)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)freopen("/dev/null", "w", stderr);
        struct mail_body *b = mail_body_new(cfg, sink_to_buf, NULL);
        mail_body_free(&b);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

TEST(mail_body, a_line_end_in_a_header_of_ours_is_a_bug_of_ours)
{
    static const char *const never[] = {"",      "a\r",   "a\n",   "a\r\nb",
                                        "a\n b", "a\r b", "a\r\n", NULL};
    static const char *const only_received[] = {"a\r\n b", "a\r\n\tb", "a\r\n b\r\n c"};
    assert_false(aborts(&config));
    for (size_t i = 0; i < ARRAY_LEN(never) + ARRAY_LEN(only_received); i++) {
        bool is_fold = i >= ARRAY_LEN(never);
        const char *bad = is_fold ? only_received[i - ARRAY_LEN(never)] : never[i];
        struct mail_body_config c[4] = {config, config, config, config};
        c[0].received = c[1].id = c[2].date = c[3].message_id = bad;
        for (size_t field = 0; field < 4; field++)
            assert_int_equal(aborts(&c[field]), !is_fold || field > 0);
    }
}

TEST(mail_body, passes_runs_of_the_input_without_copying)
{
    static const char in[] = D M "From: a@b\r\nTo: c@d\r\n\r\nmany\r\nlines\r\n";
    struct spy spy = {.from = in, .to = in + sizeof in};
    struct mail_body *b = mail_body_new(&config, on_bytes, &spy);
    struct mail_body_facts f;
    struct err e;
    assert_true(mail_body_write(b, STR(in), &e));
    assert_true(mail_body_end(b, &f, &e));
    assert_int_equal(spy.n_inside, 2); /* the kept header, the text */
    assert_int_equal(spy.n_calls, 4);
    mail_body_free(&b);
}

/* The calls that the sink got; the one that is to fail is the last. */
static size_t calls_until_failure(struct str in, size_t step, size_t fail_at)
{
    struct spy spy = {.fail_at = fail_at};
    struct mail_body *b = mail_body_new(&config, on_bytes, &spy);
    struct mail_body_facts f;
    struct err e = {.code = ERR_IO, .msg = "disk"};
    bool ok = true;
    for (size_t at = 0; ok && at < in.len; at += step)
        ok = mail_body_write(b, str_sub(in, at, step), &e);
    assert_false(ok && mail_body_end(b, &f, &e));
    assert_int_equal(e.code, ERR_IO);
    assert_string_equal(e.msg, "disk");
    assert_false(mail_body_write(b, in, &e));
    assert_false(mail_body_end(b, &f, &e));
    mail_body_free(&b);
    return spy.n_calls;
}

TEST(mail_body, a_sink_that_refuses_stops_it_and_keeps_its_own_error)
{
    static const struct {
        struct str in;
        size_t n_whole, n_bytes; /* calls to fail: whole, byte by byte */
    } cases[] = {
        {{"Date: x\r\nBcc: x\r\nTo: c@d\r\n\r\ntext\r\n", 37}, 6, 11},
        {{"Date: x\r\nno field\r\n", 19}, 5, 5},
        {{"no field", 8}, 5, 5},
        {{"To: x", 5}, 5, 5},
        {{"To: x\r\n", 7}, 5, 5},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        for (size_t n = 1; n <= cases[i].n_whole; n++)
            assert_int_equal(calls_until_failure(cases[i].in, 100, n), n);
        for (size_t n = 1; n <= cases[i].n_bytes; n++)
            assert_int_equal(calls_until_failure(cases[i].in, 1, n), n);
    }
}

TEST(mail_body, a_broken_rule_is_said_again_and_the_sink_left_alone)
{
    struct spy spy = {0};
    struct mail_body *b = mail_body_new(&config, on_bytes, &spy);
    struct mail_body_facts f;
    struct err e, again, end;
    assert_false(mail_body_write(b, STR("From: a\r\nFrom: b\r\n\r\n"), &e));
    size_t n_calls = spy.n_calls;
    assert_false(mail_body_write(b, STR("\r\ntext"), &again));
    assert_false(mail_body_end(b, &f, &end));
    assert_string_equal(again.msg, e.msg);
    assert_string_equal(end.msg, e.msg);
    assert_int_equal(end.code, ERR_SYNTAX);
    assert_int_equal(spy.n_calls, n_calls);
    mail_body_free(&b);
    mail_body_free(&b);
}
