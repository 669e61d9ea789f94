// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/mem.h"
#include "core/mail_header.h"

#include <string.h>

TEST(mail_header, name_is_printable_ascii_up_to_the_colon)
{
    static const struct {
        const char *line;
        size_t len;
    } cases[] = {
        {"Subject: x\r\n", 7},
        {"A:", 1},
        {"X-!#$%&'*+-.^_`|~9: x", 18},
        {"Subject : x", 7},
        {"Bcc \t :x", 3},
        {"a:b:c", 1},
        {"Subject", 0},
        {"", 0},
        {":", 0},
        {": x", 0},
        {" Subject: x", 0},
        {"\tSubject: x", 0},
        {"From root Mon", 0},
        {"Su bject: x", 0},
        {"S\xc3\xbc: x", 0},
        {"S\x7f: x", 0},
        {"S\x01: x", 0},
        {"Subject \r\n", 0},
        {"Subject\r\n: x", 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        if (mail_header_name_len(str_from(cases[i].line)) != cases[i].len)
            fail_msg("%s", cases[i].line);
}

TEST(mail_header, name_len_reads_no_byte_too_many)
{
    char line[] = {'A', 'b', ' '};
    assert_int_equal(mail_header_name_len((struct str){line, 3}), 0);
    assert_int_equal(mail_header_name_len((struct str){line, 2}), 0);
}

TEST(mail_header, singletons_are_those_of_the_ses_guide)
{
    static const char *const once[] = {"Accept-Language",
                                       "acceptLanguage",
                                       "From",
                                       "Subject",
                                       "Date",
                                       "Message-ID",
                                       "MIME-Version",
                                       "Content-Type",
                                       "Content-Transfer-Encoding",
                                       "Reply-To",
                                       "Return-Path",
                                       "Sender",
                                       "References",
                                       "In-Reply-To",
                                       "List-Unsubscribe",
                                       "List-Unsubscribe-Post",
                                       "List-Id",
                                       "DKIM-Signature",
                                       "Precedence",
                                       "User-Agent",
                                       "VBR-Info",
                                       "Thread-Topic",
                                       "Auto-Submitted",
                                       "Delivered-To",
                                       "Organization",
                                       "Sensitivity",
                                       "Solicitation",
                                       "Comments",
                                       "Keywords"};
    static const char *const often[] = {"To",        "Cc",       "Bcc", "Received",  "X-Mailer",
                                        "Subjec",    "Subjects", "",    "X-Subject", "zzz",
                                        "Resent-To", "List",     "aaa", "Content-",  "ARC-Seal"};
    bool taken[MAIL_HEADER_SINGLETONS_MAX] = {false};
    for (size_t i = 0; i < ARRAY_LEN(once); i++) {
        int at = mail_header_singleton(str_from(once[i]));
        if (at < 0 || at >= MAIL_HEADER_SINGLETONS_MAX || taken[at])
            fail_msg("%s: %d", once[i], at);
        taken[at] = true;
    }
    for (size_t i = 0; i < ARRAY_LEN(often); i++)
        if (mail_header_singleton(str_from(often[i])) != -1)
            fail_msg("%s", often[i]);
}

TEST(mail_header, singletons_know_no_case_nor_bytes_behind_the_name)
{
    int subject = mail_header_singleton(STR("subject"));
    assert_int_equal(mail_header_singleton(STR("SUBJECT")), subject);
    assert_int_equal(mail_header_singleton((struct str){"Subject: x", 7}), subject);
    assert_int_equal(mail_header_singleton((struct str){"from\0", 5}), -1);
}

TEST(mail_header, date_is_rfc5322_in_utc)
{
    static const struct {
        int64_t wall_ms;
        const char *date;
    } cases[] = {
        {0, "Thu, 01 Jan 1970 00:00:00 +0000"},
        {INT64_C(1795454764000), "Mon, 23 Nov 2026 17:26:04 +0000"},
        {INT64_C(1795454764999), "Mon, 23 Nov 2026 17:26:04 +0000"},
        {INT64_C(1709210096000), "Thu, 29 Feb 2024 12:34:56 +0000"},
        {INT64_C(253402300799000), "Fri, 31 Dec 9999 23:59:59 +0000"},
        {INT64_MAX, "Fri, 31 Dec 9999 23:59:59 +0000"},
        {-1, "Thu, 01 Jan 1970 00:00:00 +0000"},
        {INT64_MIN, "Thu, 01 Jan 1970 00:00:00 +0000"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char out[MAIL_HEADER_DATE_MAX];
        assert_string_equal(mail_header_date(out, cases[i].wall_ms), cases[i].date);
    }
}
