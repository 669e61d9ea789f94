// SPDX-License-Identifier: Apache-2.0
/* A long mail on a real loop: the others' turns while it is hashed. */
#include "test.h"

#include "aws/ses.h"
#include "base/mem.h"
#include "loop_fixture.h"

#include <sys/mman.h>
#include <unistd.h>

#define MAIL_BYTES (12u << 20)

struct http_call {
    unsigned n_sent;
};

static struct http_call http;

struct http_call *http_send(struct http *h, const struct http_request *r, http_done_cb cb,
                            void *arg)
{
    (void)h, (void)r, (void)cb, (void)arg;
    http.n_sent++;
    return &http;
}

enum http_outcome http_cancel(struct http_call **c)
{
    *c = NULL;
    return HTTP_NOT_SENT;
}

static void source_fetch(void *self, bool fresh_identity, credentials_fetched_cb cb, void *arg)
{
    const struct clock *clock = self;
    (void)fresh_identity;
    struct aws_credentials *set = xcalloc(1, sizeof *set);
    *set = (struct aws_credentials){.refs = 1,
                                    .access_key_id = xstrdup("ASIA1"),
                                    .secret_access_key = xstrdup("secret"),
                                    .session_token = xstrdup("token"),
                                    .issued_at_ms = clock_wall_ms(clock),
                                    .expires_at_ms = clock_wall_ms(clock) + 3600000};
    cb(arg, set, NULL);
}

static void source_nothing(void *self)
{
    (void)self;
}

static void on_verdict(void *arg, const struct ses_verdict *v)
{
    (void)arg, (void)v;
    fail();
}

static void on_turn(uv_check_t *check)
{
    *(unsigned *)check->data += 1;
}

TEST(ses_slices, a_long_mail_leaves_the_loop_to_others_in_between)
{
    uv_loop_t *loop = loop_new();
    const struct clock *clock = clock_system();
    struct credentials *credentials =
        credentials_new((struct credentials_source){"fake", (void *)(uintptr_t)clock, source_fetch,
                                                    source_nothing, source_nothing},
                        clock, loop);
    credentials_warm_up(credentials);
    const struct ses_config cfg = {.host = "email.test",
                                   .region = "eu-central-1",
                                   .configuration_set = "",
                                   .from_identity_arn = "",
                                   .tenant = "",
                                   .timeout_ms = 1000};
    struct ses *ses = ses_new(&cfg, NULL, NULL, credentials, clock, loop);
    AUTO_CLOSE int fd = memfd_create("mail", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, MAIL_BYTES), 0);
    const struct mail_path to = {.len = 3, .text = "a@b"};
    const struct ses_mail mail = {
        .fd = fd, .len = MAIL_BYTES, .recipients = &to, .n_recipients = 1};
    unsigned n_turns = 0;
    uv_check_t check;
    check.data = &n_turns;
    uv_check_init(loop, &check);
    uv_check_start(&check, on_turn);
    struct ses_call *call = ses_send(ses, &mail, on_verdict, NULL);
    LOOP_UNTIL(loop, http.n_sent == 1);
    assert_in_range(n_turns, MAIL_BYTES / 3 * 4 / (1u << 20), 100); /* at most 1 MB in each */
    uv_close((uv_handle_t *)&check, NULL);
    ses_cancel(&call);
    ses_free(&ses);
    credentials_free(&credentials);
    loop_free(&loop);
}
