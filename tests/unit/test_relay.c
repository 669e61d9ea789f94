// SPDX-License-Identifier: Apache-2.0
#include "loop_fixture.h"
#include "test.h"

#include "mail/relay.h"
#include "sys/clock.h"
#include "sys/log.h"
#include "sys/metrics.h"

#include <string.h>

/* A route that answers when the test says so. */
struct fake_route {
    route_cb cb;
    void *arg;
    int n_sent, n_canceled;
    const char *waits_for; /* NULL: it may have left */
};

struct outcome {
    int n;
    enum route_outcome outcome;
    int code;
    char text[SMTP_REPLY_TEXT_MAX + 1];
};

static void *fake_send(void *self, const struct route_mail *m, route_cb cb, void *arg)
{
    struct fake_route *f = self;
    assert_int_equal(m->n_recipients, 1);
    f->cb = cb;
    f->arg = arg;
    f->n_sent++;
    return f;
}

static const char *fake_cancel(void *self, void *call)
{
    struct fake_route *f = self;
    assert_ptr_equal(self, call);
    f->n_canceled++;
    return f->waits_for;
}

static struct route route_of(struct fake_route *f)
{
    return (struct route){
        .name = "fake", .self = f, .max_recipients = 50, .send = fake_send, .cancel = fake_cancel};
}

static void answer(struct fake_route *f, enum route_outcome o, int code, const char *error)
{
    struct route_result r = {
        .outcome = o, .error = error, .message_id = "", .request_id = "", .peer_id = ""};
    smtp_reply_set(&r.reply, code, code >= 500 ? "5.0.0" : "2.0.0", "from the route");
    f->cb(f->arg, &r);
}

static void on_done(void *arg, const struct mail *m, const struct route_result *r)
{
    struct outcome *o = arg;
    assert_non_null(m->file);
    o->n++;
    o->outcome = r->outcome;
    o->code = r->reply.code;
    str_copy(o->text, sizeof o->text, str_from(r->reply.text));
}

static struct mail *a_mail(struct spool_dir *dir)
{
    struct mail_path from = {.len = 3, .local_len = 1, .text = "a@b"};
    struct mail *m = mail_new(&from, clock_wall_ms(clock_system()));
    struct err e;
    mail_add_recipient(m, &from);
    assert_true(spool_file_open(dir, &m->file, &e));
    return m;
}

struct bench {
    uv_loop_t *loop;
    struct spool_dir *dir;
    struct fake_route route;
    struct relay *relay;
    struct outcome out;
};

static void bench_open(struct bench *b, uint64_t limit_ms)
{
    const char *const dirs[] = {"/tmp", NULL};
    struct err e;
    log_init(LOG_WARN, LOG_TEXT);
    memset(b, 0, sizeof *b);
    b->loop = loop_new();
    assert_true(spool_dir_new(dirs, &b->dir, &e));
    struct relay_config cfg = {.attempt_limit_ms = limit_ms};
    b->relay = relay_new(b->loop, &cfg, route_of(&b->route));
}

static void bench_close(struct bench *b)
{
    relay_free(&b->relay);
    spool_dir_free(&b->dir);
    loop_free(&b->loop);
}

TEST(relay, the_routes_result_is_passed_on_and_counted)
{
    struct bench b;
    bench_open(&b, 5000);
    relay_submit(b.relay, a_mail(b.dir), on_done, &b.out);
    assert_int_equal(relay_n_in_flight(b.relay), 1);
    answer(&b.route, ROUTE_REJECTED, 550, "MessageRejected");
    assert_int_equal(b.out.n, 1);
    assert_int_equal(b.out.code, 550);
    assert_int_equal(relay_n_in_flight(b.relay), 0);
    assert_true(metric_get(M_ATTEMPTS, METRIC_L("fake", "rejected", "MessageRejected")) == 1);
    assert_true(metric_get(M_AMBIGUOUS, METRIC_NONE) == 0);
    bench_close(&b);
}

TEST(relay, no_answer_in_time_is_unknown_counted_and_never_sent_again)
{
    struct bench b;
    bench_open(&b, 30);
    relay_submit(b.relay, a_mail(b.dir), on_done, &b.out);
    LOOP_UNTIL(b.loop, b.out.n == 1);
    assert_int_equal(b.out.outcome, ROUTE_UNKNOWN);
    assert_int_equal(b.out.code, 451);
    assert_non_null(strstr(b.out.text, "SES may have taken the mail"));
    assert_int_equal(b.route.n_canceled, 1);
    assert_int_equal(b.route.n_sent, 1);
    assert_true(metric_get(M_AMBIGUOUS, METRIC_NONE) == 1);
    bench_close(&b);
}

TEST(relay, what_has_not_left_in_time_is_no_unknown_but_told_what_it_waited_for)
{
    struct bench b;
    bench_open(&b, 30);
    double n_ambiguous = metric_get(M_AMBIGUOUS, METRIC_NONE);
    b.route.waits_for = "AWS credentials";
    relay_submit(b.relay, a_mail(b.dir), on_done, &b.out);
    LOOP_UNTIL(b.loop, b.out.n == 1);
    assert_int_equal(b.out.outcome, ROUTE_RETRY);
    assert_int_equal(b.out.code, 451);
    assert_non_null(strstr(b.out.text, "not sent: the mail waited for AWS credentials"));
    assert_true(metric_get(M_AMBIGUOUS, METRIC_NONE) == n_ambiguous);
    assert_true(metric_get(M_ATTEMPTS, METRIC_L("fake", "retry", "not_sent")) == 1);
    bench_close(&b);
}

TEST(relay, cut_ends_every_attempt_before_it_returns)
{
    struct bench b;
    bench_open(&b, 5000);
    relay_submit(b.relay, a_mail(b.dir), on_done, &b.out);
    relay_submit(b.relay, a_mail(b.dir), on_done, &b.out);
    relay_cut(b.relay, "stopping");
    assert_int_equal(b.out.n, 2);
    assert_int_equal(relay_n_in_flight(b.relay), 0);
    bench_close(&b);
}
