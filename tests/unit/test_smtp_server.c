// SPDX-License-Identifier: Apache-2.0
#include "loop_fixture.h"
#include "test.h"

#include "base/buf.h"
#include "base/mem.h"
#include "mail/smtp_server.h"
#include "sys/log.h"
#include "sys/metrics.h"
#include "sys/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A door with a taker that keeps the last mail until the test answers, and one raw client. */
struct door {
    uv_loop_t *loop;
    struct spool_dir *spool;
    struct smtp_server *server;
    struct smtp_reply refuse_mail, refuse_rcpt, refuse_data;
    struct mail *taken;
    struct smtp_ticket *ticket;
    int n_taken, n_refused;
    struct smtp_reply last_refusal;
    bool is_closed;
};

struct client {
    struct stream *stream;
    struct buf got;
    bool is_open, has_ended;
};

static void on_mail(void *arg, const struct mail *m, struct smtp_reply *r)
{
    (void)m;
    *r = ((struct door *)arg)->refuse_mail;
}

static void on_rcpt(void *arg, const struct mail *m, const struct mail_path *to,
                    struct smtp_reply *r)
{
    (void)m;
    (void)to;
    *r = ((struct door *)arg)->refuse_rcpt;
}

static struct spool_file *on_data(void *arg, const struct mail *m, struct smtp_reply *r)
{
    (void)m;
    struct door *d = arg;
    struct spool_file *f = NULL;
    struct err e;
    *r = d->refuse_data;
    if (r->code == 0)
        assert_true(spool_file_open(d->spool, &f, &e));
    return f;
}

static void on_message(void *arg, struct mail *m, struct smtp_ticket *t)
{
    struct door *d = arg;
    mail_free(&d->taken);
    d->taken = m;
    d->ticket = t;
    d->n_taken++;
}

static void on_refused(void *arg, const struct mail *m, const struct smtp_reply *r)
{
    (void)m;
    struct door *d = arg;
    d->n_refused++;
    d->last_refusal = *r;
}

static const struct smtp_events events = {on_mail, on_rcpt, on_data, on_message, on_refused};

static struct smtp_server_config default_config(void)
{
    /* any free port: a configuration may not ask for that, a test may */
    static const struct listen_address at = {
        .kind = LISTEN_IPV4, .is_loopback = true, .port = 0, .host = "127.0.0.1"};
    return (struct smtp_server_config){.hostname = "pod-1",
                                       .listen = &at,
                                       .n_listen = 1,
                                       .max_message_bytes = 100000,
                                       .max_recipients = 50,
                                       .max_connections = 4,
                                       .idle_timeout_ms = 5000};
}

static void door_open_with(struct door *d, const struct smtp_server_config *cfg)
{
    struct err e;
    const char *const dirs[] = {"/tmp", NULL};
    log_init(LOG_WARN, LOG_TEXT);
    memset(d, 0, sizeof *d);
    d->loop = loop_new();
    assert_true(spool_dir_new(dirs, &d->spool, &e));
    if (!smtp_server_new(d->loop, cfg, &events, d, clock_system(), &d->server, &e))
        fail_msg("%s", e.msg);
}

static void door_open(struct door *d)
{
    struct smtp_server_config cfg = default_config();
    door_open_with(d, &cfg);
}

static void on_door_closed(void *arg)
{
    ((struct door *)arg)->is_closed = true;
}

static void door_close(struct door *d)
{
    smtp_server_close(d->server, on_door_closed, d);
    LOOP_UNTIL(d->loop, d->is_closed);
    if (d->ticket != NULL) {
        struct smtp_reply r;
        smtp_reply_set(&r, 451, "4.3.0", "late");
        assert_false(smtp_server_reply(&d->ticket,
                                       &r)); /* a late verdict finds nobody, and no dead session */
    }
    mail_free(&d->taken);
    spool_dir_free(&d->spool);
    loop_free(&d->loop);
}

static void client_open_cb(void *arg)
{
    struct client *c = arg;
    c->is_open = true;
    stream_read_start(c->stream);
}

static void client_read(void *arg, struct str bytes)
{
    assert_true(buf_append_str(&((struct client *)arg)->got, bytes));
}

static void client_end(void *arg, const struct err *e)
{
    (void)e;
    ((struct client *)arg)->has_ended = true;
}

static void client_connect(struct client *c, struct door *d)
{
    static const struct stream_events ev = {
        .on_open = client_open_cb, .on_read = client_read, .on_end = client_end};
    const char *name = smtp_server_listeners(d->server)[0];
    uint64_t port;
    assert_true(str_to_u64(str_from(strrchr(name, ':') + 1), &port));
    memset(c, 0, sizeof *c);
    buf_init(&c->got, 1u << 20);
    c->stream = stream_connect(d->loop, "127.0.0.1", (uint16_t)port, 2000, &ev, c,
                               (struct stream_limits){8u << 20});
    LOOP_UNTIL(d->loop, c->is_open);
}

static void client_close(struct client *c)
{
    if (c->stream != NULL)
        stream_close(&c->stream);
    buf_release(&c->got);
}

static void client_send(struct client *c, struct str bytes)
{
    assert_true(stream_write(c->stream, bytes));
}

static bool has(struct client *c, const char *text)
{
    return strstr(buf_cstr(&c->got), text) != NULL;
}

/* Wait for text, then forget all that came. */
static void expect(struct door *d, struct client *c, const char *text)
{
    LOOP_UNTIL(d->loop, has(c, text) || c->has_ended);
    if (!has(c, text))
        fail_msg("expected \"%s\", got \"%s\"", text, buf_cstr(&c->got));
    buf_clear(&c->got);
}

static void say(struct door *d, struct client *c, const char *line, const char *answer)
{
    client_send(c, str_from(line));
    expect(d, c, answer);
}

static void verdict(struct door *d, int code, const char *enhanced, const char *text)
{
    struct smtp_reply r;
    smtp_reply_set(&r, code, enhanced, "%s", text);
    assert_true(smtp_server_reply(&d->ticket, &r));
}

static char *taken_text(struct door *d)
{
    size_t len = spool_file_len(d->taken->file);
    char *text = calloc(len + 1, 1);
    assert_int_equal(pread(spool_file_fd(d->taken->file), text, len, 0), len);
    return text;
}

TEST(smtp_server, a_mail_is_handed_over_whole_and_its_verdict_answered)
{
    struct door d;
    struct client c;
    door_open(&d);
    client_connect(&c, &d);
    expect(&d, &c, "220 pod-1");
    say(&d, &c, "EHLO app\r\n", "250 ENHANCEDSTATUSCODES\r\n");
    say(&d, &c, "MAIL FROM:<a@shop.example> SIZE=100 BODY=8BITMIME\r\n", "250 2.1.0");
    say(&d, &c, "RCPT TO:<b@x.example>\r\n", "250 2.1.5");
    say(&d, &c, "RCPT TO:<b@X.example>\r\n", "250 2.1.5");
    say(&d, &c, "DATA\r\n", "354 ");
    client_send(&c, STR("Subject: hi\r\nBcc: secret@x.example\r\n\r\nbody\r\n..dot\r\n.\r\n"));
    LOOP_UNTIL(d.loop, d.n_taken == 1);
    assert_int_equal(d.taken->n_recipients, 1);
    char *text = taken_text(&d);
    assert_non_null(strstr(text, "Subject: hi\r\n"));
    assert_non_null(strstr(text, "\r\n\r\nbody\r\n.dot\r\n"));
    assert_null(strstr(text, "secret"));
    assert_non_null(strstr(text, d.taken->id));
    assert_int_equal(strncmp(text, "Received: from app (localhost)\r\n", 32), 0);
    free(text);
    verdict(&d, 250, "2.0.0", "Ok 0107-1");
    expect(&d, &c, "250 2.0.0 Ok 0107-1\r\n");
    say(&d, &c, "QUIT\r\n", "221 2.0.0");
    LOOP_UNTIL(d.loop, c.has_ended);
    client_close(&c);
    door_close(&d);
}

/* nodemailer and others look for a keyword anywhere in the reply to EHLO, the name included. */
TEST(smtp_server, a_host_named_like_a_keyword_offers_nothing_by_its_name)
{
    static const char *const names[] = {"starttls-5d9c", "pod-StartTLS.ns", "x-smtputf8", "auth-0"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct door d;
        struct client c;
        char by[64];
        struct smtp_server_config cfg = default_config();
        cfg.hostname = names[i];
        door_open_with(&d, &cfg);
        client_connect(&c, &d);
        client_send(&c, STR("EHLO app\r\n"));
        LOOP_UNTIL(d.loop, has(&c, "250 ENHANCEDSTATUSCODES\r\n"));
        assert_null(strstr(buf_cstr(&c.got), names[i]));
        assert_true(has(&c, "220 localhost ") && has(&c, "250-localhost\r\n"));
        client_send(&c,
                    STR("MAIL FROM:<a@s.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n\r\n.\r\n"));
        LOOP_UNTIL(d.loop, d.n_taken == 1);
        char *text = taken_text(&d);
        snprintf(by, sizeof by, "by %s (svidmail)",
                 names[i]); /* who searches a mail's way finds it */
        assert_non_null(strstr(text, by));
        free(text);
        client_close(&c);
        door_close(&d);
    }
}

TEST(smtp_server, a_pipelined_second_mail_waits_for_the_first_verdict)
{
    struct door d;
    struct client c;
    door_open(&d);
    client_connect(&c, &d);
    client_send(&c, STR("EHLO app\r\nMAIL FROM:<a@s.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n"
                        "A: 1\r\n\r\none\r\n.\r\n"
                        "MAIL FROM:<a@s.example>\r\nRCPT TO:<c@x.example>\r\nDATA\r\nA: "
                        "2\r\n\r\ntwo\r\n.\r\nQUIT\r\n"));
    LOOP_UNTIL(d.loop, d.n_taken == 1);
    loop_settle(d.loop);
    assert_int_equal(d.n_taken, 1);
    buf_clear(&c.got);
    verdict(&d, 250, "2.0.0", "Ok first");
    LOOP_UNTIL(d.loop, d.n_taken == 2);
    assert_string_equal(d.taken->recipients[0].text, "c@x.example");
    verdict(&d, 451, "4.4.1", "second");
    LOOP_UNTIL(d.loop, c.has_ended);
    const char *all = buf_cstr(&c.got);
    const char *first = strstr(all, "250 2.0.0 Ok first"),
               *second = strstr(all, "451 4.4.1 second");
    assert_true(first != NULL && second != NULL && first < second);
    assert_non_null(strstr(second, "221 2.0.0"));
    client_close(&c);
    door_close(&d);
}

TEST(smtp_server, commands_out_of_order_are_503_and_change_nothing)
{
    struct door d;
    struct client c;
    door_open(&d);
    client_connect(&c, &d);
    expect(&d, &c, "220 ");
    say(&d, &c, "MAIL FROM:<a@s.example>\r\n", "503 5.5.1");
    say(&d, &c, "EHLO\r\n", "250 ENHANCEDSTATUSCODES\r\n");
    say(&d, &c, "RCPT TO:<b@x.example>\r\n", "503 5.5.1");
    say(&d, &c, "DATA\r\n", "503 5.5.1");
    say(&d, &c, "MAIL FROM:<a@s.example>\r\n", "250 2.1.0");
    say(&d, &c, "DATA\r\n", "503 5.5.1");
    say(&d, &c, "MAIL FROM:<a@s.example>\r\n", "503 5.5.1");
    say(&d, &c, "RSET\r\n", "250 2.0.0");
    say(&d, &c, "RCPT TO:<b@x.example>\r\n", "503 5.5.1");
    say(&d, &c, "WIZ\r\n", "500 5.5.2");
    say(&d, &c, "BDAT 3\r\n", "502 5.5.1");
    say(&d, &c, "STARTTLS\r\n", "502 5.5.1");
    say(&d, &c, "NOOP x\r\n", "250 2.0.0");
    say(&d, &c, "VRFY x\r\n", "252 2.5.2");
    say(&d, &c, "HELP\r\n", "214 2.0.0");
    say(&d, &c, "HELO app\r\n", "250 pod-1\r\n");
    client_close(&c);
    door_close(&d);
}

TEST(smtp_server, the_51st_recipient_is_452_and_the_mail_goes_on)
{
    struct door d;
    struct client c;
    door_open(&d);
    client_connect(&c, &d);
    say(&d, &c, "EHLO a\r\nMAIL FROM:<a@s.example>\r\n", "250 2.1.0");
    for (int i = 0; i < 50; i++) {
        char line[64];
        snprintf(line, sizeof line, "RCPT TO:<r%d@x.example>\r\n", i);
        say(&d, &c, line, "250 2.1.5");
    }
    say(&d, &c, "RCPT TO:<one-more@x.example>\r\n", "452 4.5.3");
    say(&d, &c, "DATA\r\n", "354 ");
    client_send(&c, STR("\r\nx\r\n.\r\n"));
    LOOP_UNTIL(d.loop, d.n_taken == 1);
    assert_int_equal(d.taken->n_recipients, 50);
    client_close(&c);
    door_close(&d);
}

TEST(smtp_server, a_repeated_recipient_at_the_limit_is_taken_and_sent_once)
{
    struct door d;
    struct client c;
    struct smtp_server_config cfg = default_config();
    cfg.max_recipients = 2;
    door_open_with(&d, &cfg);
    client_connect(&c, &d);
    say(&d, &c, "EHLO a\r\nMAIL FROM:<a@s.example>\r\n", "250 2.1.0");
    say(&d, &c, "RCPT TO:<b@x.example>\r\n", "250 2.1.5");
    say(&d, &c, "RCPT TO:<c@x.example>\r\n", "250 2.1.5");
    say(&d, &c, "RCPT TO:<b@X.example>\r\n", "250 2.1.5"); /* 452: the app would send it again */
    say(&d, &c, "RCPT TO:<d@x.example>\r\n", "452 4.5.3");
    say(&d, &c, "DATA\r\n", "354 ");
    client_send(&c, STR("\r\nx\r\n.\r\n"));
    LOOP_UNTIL(d.loop, d.n_taken == 1);
    assert_int_equal(d.taken->n_recipients, 2);
    client_close(&c);
    door_close(&d);
}

TEST(smtp_server, size_over_the_limit_is_552_at_mail)
{
    struct door d;
    struct client c;
    door_open(&d);
    client_connect(&c, &d);
    say(&d, &c, "EHLO a\r\nMAIL FROM:<a@s.example> SIZE=100001\r\n", "552 5.3.4");
    say(&d, &c, "MAIL FROM:<a@s.example> SIZE=100000\r\n", "250 2.1.0");
    client_close(&c);
    door_close(&d);
}

TEST(smtp_server, a_body_over_the_limit_is_read_to_its_end_and_552)
{
    struct door d;
    struct client c;
    door_open(&d);
    client_connect(&c, &d);
    say(&d, &c, "EHLO a\r\nMAIL FROM:<a@s.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n", "354 ");
    for (int i = 0; i < 3000; i++)
        client_send(&c, STR("0123456789012345678901234567890123456789012345678901234567890\r\n"));
    client_send(&c, STR(".\r\n"));
    expect(&d, &c, "552 5.3.4");
    assert_int_equal(d.n_taken, 0);
    assert_int_equal(d.n_refused, 1);
    say(&d, &c, "MAIL FROM:<a@s.example>\r\n", "250 2.1.0");
    client_close(&c);
    door_close(&d);
}

TEST(smtp_server, defects_of_the_body_are_5xx_behind_the_final_dot)
{
    static const struct {
        const char *body, *answer;
    } cases[] = {
        {"\r\na\rb\r\n.\r\n", "554 5.6.11"},
        {"Subject: 1\r\nSubject: 2\r\n\r\nx\r\n.\r\n", "554 5.6.0"},
    };
    struct door d;
    struct client c;
    door_open(&d);
    client_connect(&c, &d);
    client_send(&c, STR("EHLO a\r\n"));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        say(&d, &c, "MAIL FROM:<a@s.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n", "354 ");
        say(&d, &c, cases[i].body, cases[i].answer);
    }
    say(&d, &c, "MAIL FROM:<a@s.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n", "354 ");
    client_send(&c, (struct str){"\r\na\0b\r\n.\r\n", 10});
    expect(&d, &c, "554 5.6.0");
    assert_int_equal(d.n_taken, 0);
    client_close(&c);
    door_close(&d);
}

TEST(smtp_server, mails_with_bare_newlines_are_counted_taken_or_not)
{
    static const struct {
        const char *body;
        double n_lf, n_cr;
    } cases[] = {
        {.body = "\r\none\ntwo\nthree\r\n.\r\n", .n_lf = 1},
        {.body = "\r\none\rtwo\rthree\r\n.\r\n", .n_cr = 1},
        {.body = "\r\none\ntwo\rthree\r\n.\r\n", .n_lf = 1, .n_cr = 1},
        {.body = "\r\none\r\n.\r\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct door d;
        struct client c;
        double n_lf = metric_get(M_SMTP_BARE_NEWLINES, METRIC_L("lf"));
        double n_cr = metric_get(M_SMTP_BARE_NEWLINES, METRIC_L("cr"));
        door_open(&d);
        client_connect(&c, &d);
        say(&d, &c, "EHLO a\r\nMAIL FROM:<a@s.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n",
            "354 ");
        client_send(&c, str_from(cases[i].body));
        LOOP_UNTIL(d.loop, d.n_taken + d.n_refused == 1);
        assert_true(metric_get(M_SMTP_BARE_NEWLINES, METRIC_L("lf")) == n_lf + cases[i].n_lf);
        assert_true(metric_get(M_SMTP_BARE_NEWLINES, METRIC_L("cr")) == n_cr + cases[i].n_cr);
        client_close(&c);
        door_close(&d);
    }
}

TEST(smtp_server, a_mail_that_runs_in_circles_is_554_5_4_6)
{
    struct door d;
    struct client c;
    door_open(&d);
    client_connect(&c, &d);
    say(&d, &c, "EHLO a\r\nMAIL FROM:<a@s.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n", "354 ");
    for (int i = 0; i < 101; i++)
        client_send(&c, STR("Received: from here by there\r\n"));
    client_send(&c, STR("\r\nx\r\n.\r\n"));
    expect(&d, &c, "554 5.4.6 routing loop");
    client_close(&c);
    door_close(&d);
}

TEST(smtp_server, a_client_that_left_while_its_verdict_was_awaited_is_told_of)
{
    struct door d;
    struct client c;
    door_open(&d);
    client_connect(&c, &d);
    client_send(&c, STR("EHLO a\r\nMAIL FROM:<a@s.example>\r\nRCPT "
                        "TO:<b@x.example>\r\nDATA\r\n\r\nx\r\n.\r\n"));
    LOOP_UNTIL(d.loop, d.n_taken == 1);
    client_close(&c);
    loop_settle(d.loop);
    /* reading is paused while a verdict is awaited, so the server learns of it when it answers */
    struct smtp_reply r;
    smtp_reply_set(&r, 250, "2.0.0", "Ok");
    assert_false(smtp_server_reply(&d.ticket, &r));
    LOOP_UNTIL(d.loop, smtp_server_n_sessions(d.server) == 0);
    door_close(&d);
}

/* nc and shell scripts do so: they may have left or not, and read on if not. */
TEST(smtp_server, a_client_that_has_shut_its_sending_side_is_answered_all_the_same)
{
    struct door d;
    struct client c;
    door_open(&d);
    client_connect(&c, &d);
    client_send(&c, STR("EHLO a\r\nMAIL FROM:<a@s.example>\r\nRCPT "
                        "TO:<b@x.example>\r\nDATA\r\n\r\nx\r\n.\r\n"));
    assert_int_equal(shutdown(stream_fd(c.stream), SHUT_WR), 0);
    LOOP_UNTIL(d.loop, d.n_taken == 1);
    loop_settle(d.loop);
    struct smtp_reply r;
    smtp_reply_set(&r, 250, "2.0.0", "Ok 0107-1");
    assert_false(smtp_server_reply(&d.ticket, &r));
    expect(&d, &c, "250 2.0.0 Ok 0107-1\r\n");
    client_close(&c);
    door_close(&d);
}

TEST(smtp_server, a_client_that_leaves_inside_its_body_is_counted_and_leaves_nothing)
{
    struct door d;
    struct client c;
    double n_before = metric_get(M_SMTP_TRANSACTIONS, METRIC_L("aborted"));
    door_open(&d);
    client_connect(&c, &d);
    say(&d, &c, "EHLO a\r\nMAIL FROM:<a@s.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n", "354 ");
    client_send(&c, STR("Subject: half\r\n\r\nhalf a ma"));
    loop_settle(d.loop);
    client_close(&c);
    LOOP_UNTIL(d.loop, smtp_server_n_sessions(d.server) == 0);
    assert_int_equal(d.n_taken, 0);
    assert_true(metric_get(M_SMTP_TRANSACTIONS, METRIC_L("aborted")) == n_before + 1);
    door_close(&d); /* CHECKs that no file is open */
}

TEST(smtp_server, one_connection_too_many_gets_421)
{
    struct door d;
    struct client c[5];
    door_open(&d);
    for (int i = 0; i < 4; i++) {
        client_connect(&c[i], &d);
        expect(&d, &c[i], "220 ");
    }
    client_connect(&c[4], &d);
    expect(&d, &c[4], "421 4.3.2");
    LOOP_UNTIL(d.loop, c[4].has_ended);
    say(&d, &c[0], "NOOP\r\n", "250 2.0.0");
    for (int i = 0; i < 5; i++)
        client_close(&c[i]);
    door_close(&d);
}

/* A session that has ended lingers until its client closes. */
TEST(smtp_server, sessions_that_are_going_away_take_nobodys_place)
{
    struct door d;
    struct client c[5];
    struct smtp_server_config cfg = default_config();
    cfg.max_connections = 2;
    door_open_with(&d, &cfg);
    for (int i = 0; i < 4; i++) {
        client_connect(&c[i], &d);
        expect(&d, &c[i], i < 2 ? "220 " : "421 4.3.2");
    }
    assert_true(metric_get(M_SMTP_SESSIONS, METRIC_NONE) == 2);
    say(&d, &c[0], "QUIT\r\n", "221 2.0.0");
    assert_true(metric_get(M_SMTP_SESSIONS, METRIC_NONE) == 1);
    client_connect(&c[4], &d);
    expect(&d, &c[4], "220 ");
    assert_int_equal(smtp_server_n_serving(d.server), 2);
    for (int i = 0; i < 5; i++)
        client_close(&c[i]);
    door_close(&d);
}

TEST(smtp_server, connections_beyond_twice_the_limit_are_closed_without_a_word)
{
    struct door d;
    struct client c[5];
    struct smtp_server_config cfg = default_config();
    cfg.max_connections = 2;
    door_open_with(&d, &cfg);
    for (int i = 0; i < 4; i++) {
        client_connect(&c[i], &d);
        expect(&d, &c[i], i < 2 ? "220 " : "421 4.3.2");
    }
    client_connect(&c[4], &d);
    LOOP_UNTIL(d.loop, c[4].has_ended);
    assert_int_equal(c[4].got.len, 0);
    LOOP_UNTIL(d.loop, smtp_server_n_sessions(d.server) <= 4);
    for (int i = 0; i < 5; i++)
        client_close(&c[i]);
    door_close(&d);
}

TEST(smtp_server, more_replies_than_its_buffer_holds_are_all_sent_to_who_reads_them)
{
    enum { N = 20000 };
    struct door d;
    struct client c;
    struct buf all;
    door_open(&d);
    client_connect(&c, &d);
    buf_init(&all, 1u << 20);
    for (int i = 0; i < N; i++)
        assert_true(buf_append_str(&all, STR("NOOP\r\n")));
    assert_true(buf_append_str(&all, STR("QUIT\r\n")));
    client_send(&c, buf_str(&all));
    LOOP_UNTIL(d.loop, c.has_ended);
    int n = 0;
    for (const char *at = buf_cstr(&c.got); (at = strstr(at, "\r\n250 ")) != NULL; at++)
        n++;
    assert_int_equal(n, N);
    assert_true(has(&c, "221 2.0.0"));
    buf_release(&all);
    client_close(&c);
    door_close(&d);
}

TEST(smtp_server, an_idle_client_gets_421_and_is_closed)
{
    struct door d;
    struct client c;
    struct smtp_server_config cfg = default_config();
    cfg.idle_timeout_ms = 50;
    door_open_with(&d, &cfg);
    client_connect(&c, &d);
    expect(&d, &c, "421 4.4.2");
    LOOP_UNTIL(d.loop, c.has_ended);
    client_close(&c);
    door_close(&d);
}

TEST(smtp_server, drain_answers_idle_sessions_and_lets_a_verdict_arrive)
{
    struct door d;
    struct client idle, busy;
    door_open(&d);
    client_connect(&idle, &d);
    expect(&d, &idle, "220 ");
    client_connect(&busy, &d);
    client_send(&busy, STR("EHLO a\r\nMAIL FROM:<a@s.example>\r\nRCPT "
                           "TO:<b@x.example>\r\nDATA\r\n\r\nx\r\n.\r\n"));
    LOOP_UNTIL(d.loop, d.n_taken == 1);
    smtp_server_drain(d.server, 2000);
    expect(&d, &idle, "421 4.3.2");
    verdict(&d, 250, "2.0.0", "Ok last");
    LOOP_UNTIL(d.loop, busy.has_ended);
    assert_non_null(strstr(buf_cstr(&busy.got), "250 2.0.0 Ok last\r\n421 4.3.2"));
    LOOP_UNTIL(d.loop, smtp_server_n_sessions(d.server) == 0);
    client_close(&idle);
    client_close(&busy);
    door_close(&d);
}

/* The app is frozen: it neither reads nor closes. */
TEST(smtp_server, drain_outlasts_no_app_that_does_not_close)
{
    struct door d;
    struct client idle, busy;
    door_open(&d);
    client_connect(&idle, &d);
    expect(&d, &idle, "220 ");
    client_connect(&busy, &d);
    client_send(&busy, STR("EHLO a\r\nMAIL FROM:<a@s.example>\r\nRCPT "
                           "TO:<b@x.example>\r\nDATA\r\n\r\nx\r\n.\r\n"));
    LOOP_UNTIL(d.loop, d.n_taken == 1);
    uint64_t began_us = clock_mono_us();
    smtp_server_drain(d.server, 300);
    LOOP_UNTIL(d.loop, smtp_server_n_sessions(d.server) == 1);
    assert_in_range(clock_mono_us() - began_us, 250000, 900000);
    verdict(&d, 250, "2.0.0", "Ok late");
    LOOP_UNTIL(d.loop, smtp_server_n_sessions(d.server) == 0);
    assert_in_range(clock_mono_us() - began_us, 250000, 900000);
    expect(&d, &busy, "250 2.0.0 Ok late\r\n421 4.3.2");
    client_close(&idle);
    client_close(&busy);
    door_close(&d);
}

TEST(smtp_server, http_at_the_door_is_shown_out)
{
    struct door d;
    struct client c;
    door_open(&d);
    client_connect(&c, &d);
    client_send(&c, STR("POST / HTTP/1.1\r\nHost: x\r\n\r\nMAIL FROM:<a@s.example>\r\n"));
    expect(&d, &c, "421 4.7.0");
    LOOP_UNTIL(d.loop, c.has_ended);
    client_close(&c);
    door_close(&d);
}

TEST(smtp_server, twenty_one_bad_commands_end_the_session)
{
    struct door d;
    struct client c;
    door_open(&d);
    client_connect(&c, &d);
    for (int i = 0; i < 21; i++)
        client_send(&c, STR("NONSENSE\r\n"));
    expect(&d, &c, "421 4.7.0");
    LOOP_UNTIL(d.loop, c.has_ended);
    client_close(&c);
    door_close(&d);
}

TEST(smtp_server, bad_recipients_cost_the_good_ones_nothing)
{
    struct door d;
    struct client c;
    door_open(&d);
    client_connect(&c, &d);
    say(&d, &c, "EHLO a\r\nMAIL FROM:<a@s.example>\r\n", "250 2.1.0");
    for (int i = 0; i < 22; i++) {
        char line[64];
        snprintf(line, sizeof line, "RCPT TO:<r%d@x.example>\r\n", i);
        say(&d, &c, "RCPT TO:<no one@x.example>\r\n", "501 5.5.4");
        say(&d, &c, line, "250 2.1.5");
    }
    for (int i = 0; i < 22; i++)
        say(&d, &c, "RCPT TO:<no one@x.example>\r\n", "501 5.5.4");
    say(&d, &c, "DATA\r\n", "354 ");
    client_send(&c, STR("\r\nx\r\n.\r\n"));
    LOOP_UNTIL(d.loop, d.n_taken == 1);
    assert_int_equal(d.taken->n_recipients, 22);
    client_close(&c);
    door_close(&d);
}

TEST(smtp_server, a_good_recipient_forgives_the_bad_commands_before_it)
{
    struct door d;
    struct client c;
    door_open(&d);
    client_connect(&c, &d);
    say(&d, &c, "EHLO a\r\nMAIL FROM:<a@s.example>\r\n", "250 2.1.0");
    for (int turn = 0; turn < 2; turn++) {
        for (int i = 0; i < 20; i++)
            say(&d, &c, "NONSENSE\r\n", "500 5.5.2");
        say(&d, &c, "RCPT TO:<b@x.example>\r\n", "250 2.1.5");
    }
    client_close(&c);
    door_close(&d);
}

TEST(smtp_server, an_app_that_pipelines_is_kept_while_its_mails_are_refused)
{
    struct door d;
    struct client c;
    door_open(&d);
    client_connect(&c, &d);
    client_send(&c, STR("EHLO a\r\n"));
    smtp_reply_set(&d.refuse_mail, 451, "4.7.0", "Not ready");
    for (int i = 0; i < 30; i++)
        say(&d, &c, "MAIL FROM:<a@s.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n",
            "503 5.5.1 No valid recipient");
    d.refuse_mail.code = 0;
    say(&d, &c, "MAIL FROM:<a@s.example>\r\n", "250 2.1.0");
    client_close(&c);
    door_close(&d);
}

/* 50 are the recipients' limit, one more for DATA, 20 for any session. */
TEST(smtp_server, a_flood_of_bad_recipients_ends_the_session)
{
    static const char *const mails[] = {"MAIL FROM:<a@s.example>\r\n", "MAIL FROM:<a@\r\n"};
    for (size_t i = 0; i < sizeof mails / sizeof mails[0]; i++) {
        struct door d;
        struct client c;
        door_open(&d);
        client_connect(&c, &d);
        client_send(&c, STR("EHLO a\r\n"));
        client_send(&c, str_from(mails[i]));
        for (int k = 0; k < 51 + 21; k++)
            client_send(&c, STR("RCPT TO:<no one@x.example>\r\n"));
        expect(&d, &c, "421 4.7.0");
        LOOP_UNTIL(d.loop, c.has_ended);
        client_close(&c);
        door_close(&d);
    }
}

TEST(smtp_server, refusals_of_the_owner_reach_the_app)
{
    struct door d;
    struct client c;
    door_open(&d);
    client_connect(&c, &d);
    smtp_reply_set(&d.refuse_mail, 451, "4.7.0", "No identity");
    say(&d, &c, "EHLO a\r\nMAIL FROM:<a@s.example>\r\n", "451 4.7.0 No identity");
    assert_int_equal(d.n_refused, 1);
    d.refuse_mail.code = 0;
    smtp_reply_set(&d.refuse_rcpt, 550, "5.7.1", "Not him");
    say(&d, &c, "MAIL FROM:<a@s.example>\r\nRCPT TO:<b@x.example>\r\n", "550 5.7.1 Not him");
    say(&d, &c, "DATA\r\n", "503 5.5.1");
    d.refuse_rcpt.code = 0;
    smtp_reply_set(&d.refuse_data, 451, "4.3.0", "No place");
    say(&d, &c, "RCPT TO:<b@x.example>\r\nDATA\r\n", "451 4.3.0 No place");
    client_close(&c);
    door_close(&d);
}

TEST(smtp_server, auth_is_decoration_when_it_is_offered)
{
    struct door d;
    struct client c;
    struct smtp_server_config cfg = default_config();
    cfg.accepts_any_auth = true;
    door_open_with(&d, &cfg);
    client_connect(&c, &d);
    say(&d, &c, "EHLO a\r\n", "250-AUTH PLAIN LOGIN\r\n");
    say(&d, &c, "AUTH PLAIN AGEAYg==\r\n", "235 2.7.0");
    say(&d, &c, "AUTH LOGIN\r\n", "334 VXNlcm5hbWU6");
    say(&d, &c, "bWU=\r\n", "334 UGFzc3dvcmQ6");
    say(&d, &c, "eA==\r\n", "235 2.7.0");
    say(&d, &c, "AUTH PLAIN\r\n", "334 ");
    say(&d, &c, "*\r\n", "501 5.7.0");
    say(&d, &c, "AUTH CRAM-MD5\r\n", "504 5.5.4");
    say(&d, &c, "MAIL FROM:<a@s.example>\r\n", "250 2.1.0");
    client_close(&c);
    door_close(&d);
}

static void say_of(struct door *d, struct client *c, size_t len, const char *answer)
{
    char *line = xcalloc(len + 1, 1);
    memset(line, 'A', len);
    client_send(c, (struct str){line, len});
    say(d, c, "\r\n", answer);
    free(line);
}

TEST(smtp_server, a_token_as_password_is_as_good_as_any_unless_it_is_too_long)
{
    struct door d;
    struct client c;
    struct smtp_server_config cfg = default_config();
    cfg.accepts_any_auth = true;
    door_open_with(&d, &cfg);
    client_connect(&c, &d);
    say(&d, &c, "EHLO a\r\nAUTH PLAIN\r\n", "334 ");
    say_of(&d, &c, 12288, "235 2.7.0"); /* RFC 4954 4 */
    client_send(&c, STR("AUTH PLAIN "));
    say_of(&d, &c, 12000, "235 2.7.0");
    say(&d, &c, "AUTH LOGIN\r\n", "334 VXNlcm5hbWU6");
    say(&d, &c, "bWU=\r\n", "334 UGFzc3dvcmQ6");
    say_of(&d, &c, 12289, "500 5.5.6");
    say(&d, &c, "MAIL FROM:<a@s.example>\r\n", "250 2.1.0"); /* no password any more */
    client_close(&c);
    door_close(&d);
}

static bool has_no_ipv6;

/* In place of libc's, so that a kernel without IPv6 can be had. */
int socket(int domain, int type, int protocol)
{
    if (domain == AF_INET6 && has_no_ipv6) {
        errno = EAFNOSUPPORT;
        return -1;
    }
    return (int)syscall(SYS_socket, domain, type, protocol);
}

TEST(smtp_server, all_addresses_are_ipv4s_on_a_kernel_without_ipv6)
{
    static const struct listen_address all = {.kind = LISTEN_ALL};
    struct door d;
    struct client c;
    struct smtp_server_config cfg = default_config();
    cfg.listen = &all;
    has_no_ipv6 = true;
    door_open_with(&d, &cfg);
    has_no_ipv6 = false;
    assert_int_equal(strncmp(smtp_server_listeners(d.server)[0], "0.0.0.0:", 8), 0);
    client_connect(&c, &d);
    expect(&d, &c, "220 ");
    client_close(&c);
    door_close(&d);
}

TEST(smtp_server, an_address_in_use_is_an_error_that_names_it)
{
    struct door d;
    door_open(&d);
    struct listen_address at;
    struct err e;
    struct smtp_server *second = NULL;
    struct smtp_server_config cfg = default_config();
    assert_true(listen_address_parse(str_from(smtp_server_listeners(d.server)[0]), &at, &e));
    cfg.listen = &at;
    assert_false(smtp_server_new(d.loop, &cfg, &events, &d, clock_system(), &second, &e));
    assert_non_null(strstr(e.msg, "cannot listen on 127.0.0.1"));
    door_close(&d);
}

TEST(smtp_server, a_unix_socket_that_somebody_answers_on_is_left_to_them)
{
    char path[] = "/tmp/svidmail-door-XXXXXX", text[64];
    close(mkstemp(path));
    unlink(path);
    snprintf(text, sizeof text, "unix:%s", path);
    struct listen_address at;
    struct err e;
    struct door d;
    struct smtp_server *second = NULL;
    struct smtp_server_config cfg = default_config();
    assert_true(listen_address_parse(str_from(text), &at, &e));
    cfg.listen = &at;
    door_open_with(&d, &cfg);
    assert_false(smtp_server_new(d.loop, &cfg, &events, &d, clock_system(), &second, &e));
    assert_int_equal(access(path, F_OK), 0);
    door_close(&d);
}

TEST(smtp_server, a_unix_socket_serves_too_and_is_gone_afterwards)
{
    char path[] = "/tmp/svidmail-door-XXXXXX", text[64];
    close(mkstemp(path));
    unlink(path);
    snprintf(text, sizeof text, "unix:%s", path);
    struct listen_address at;
    struct err e;
    struct door d;
    struct smtp_server_config cfg = default_config();
    assert_true(listen_address_parse(str_from(text), &at, &e));
    cfg.listen = &at;
    door_open_with(&d, &cfg);
    assert_string_equal(smtp_server_listeners(d.server)[0], text);
    assert_int_equal(access(path, F_OK), 0);
    door_close(&d);
    assert_int_equal(access(path, F_OK), -1);
}
