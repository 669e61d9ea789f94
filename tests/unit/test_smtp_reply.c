// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "core/smtp_reply.h"

#include <string.h>

static void assert_line(const struct smtp_reply *r, const char *want)
{
    struct buf out;
    buf_init(&out, 1024);
    assert_true(smtp_reply_write(r, &out));
    assert_string_equal(buf_cstr(&out), want);
    buf_release(&out);
}

TEST(smtp_reply, is_one_line_with_code_status_and_text)
{
    struct smtp_reply r;
    smtp_reply_set(&r, 250, "2.0.0", "Ok %s", "0102-abc");
    assert_int_equal(r.code, 250);
    assert_line(&r, "250 2.0.0 Ok 0102-abc\r\n");
    smtp_reply_set(&r, 451, "4.3.5", "operator mistake");
    assert_line(&r, "451 4.3.5 operator mistake\r\n");
}

TEST(smtp_reply, greeting_and_354_carry_no_status)
{
    struct smtp_reply r;
    smtp_reply_set(&r, 220, "", "localhost ESMTP");
    assert_line(&r, "220 localhost ESMTP\r\n");
    smtp_reply_set(&r, 250, "2.0.0", "%s", "");
    assert_line(&r, "250 2.0.0\r\n");
}

TEST(smtp_reply, peer_text_cannot_make_a_second_line)
{
    struct smtp_reply r;
    smtp_reply_set(&r, 554, "5.6.0", "%s", "bad\r\n250 2.0.0 Ok\r\nand \t\x01\x7f more\n");
    assert_line(&r, "554 5.6.0 bad  250 2.0.0 Ok  and     more\r\n");
    smtp_reply_set(&r, 554, "5.6.0", "%s", "\r\n250 Ok");
    assert_line(&r, "554 5.6.0   250 Ok\r\n");
    smtp_reply_set(&r, 554, "5.6.0", "%s", "\r\n");
    assert_line(&r, "554 5.6.0\r\n");
    smtp_reply_set(&r, 554, "5.6.0", "%s", "caf\xc3\xa9 \x80\xff.");
    assert_line(&r, "554 5.6.0 caf?? ??.\r\n");
}

TEST(smtp_reply, every_byte_of_the_text_is_printable)
{
    char all[256];
    for (int c = 1; c < 256; c++)
        all[c - 1] = (char)c;
    all[255] = '\0';
    struct smtp_reply r;
    smtp_reply_set(&r, 554, "5.6.0", "x%s", all);
    assert_int_equal(strlen(r.text), 256);
    for (size_t i = 0; r.text[i] != '\0'; i++)
        assert_true(r.text[i] >= 32 && r.text[i] < 127);
    for (int c = 33; c < 127; c++)
        assert_non_null(strchr(r.text, c));
}

TEST(smtp_reply, text_is_cut_to_what_a_client_reads_at_once)
{
    char text[2000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    struct smtp_reply r;
    smtp_reply_set(&r, 554, "5.6.0", "%s", text);
    assert_int_equal(strlen(r.text), SMTP_REPLY_TEXT_MAX);
    text[SMTP_REPLY_TEXT_MAX] = '\0';
    smtp_reply_set(&r, 554, "5.6.0", "%s", text);
    assert_string_equal(r.text, text);
}

TEST(smtp_reply, may_be_built_from_its_own_text)
{
    struct smtp_reply r;
    smtp_reply_set(&r, 451, "4.4.1", "no gateway");
    smtp_reply_set(&r, r.code, "4.4.1", "later: %s", r.text);
    assert_line(&r, "451 4.4.1 later: no gateway\r\n");
}

TEST(smtp_reply, is_written_whole_or_not_at_all)
{
    struct smtp_reply r;
    smtp_reply_set(&r, 250, "2.0.0", "Ok");
    struct buf out;
    buf_init(&out, 20);
    assert_true(smtp_reply_write(&r, &out));
    assert_false(smtp_reply_write(&r, &out));
    assert_string_equal(buf_cstr(&out), "250 2.0.0 Ok\r\n");
    buf_release(&out);
}
