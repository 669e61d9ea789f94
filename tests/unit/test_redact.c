// SPDX-License-Identifier: Apache-2.0
#include "app/redact.h"

#include "test.h"

#include <stdio.h>
#include <string.h>

static struct mail_path path_of(const char *z)
{
    struct mail_path p;
    struct str rest;
    struct err e;
    assert_true(mail_path_parse(str_from(z), &p, &rest, &e));
    return p;
}

/* From boss@corp.example to these. */
static struct mail *mail_to(const char *const *recipients, size_t n)
{
    struct mail_path from = path_of("<boss@corp.example>");
    struct mail *m = mail_new(&from, 0);
    for (size_t i = 0; i < n; i++) {
        struct mail_path to = path_of(recipients[i]);
        mail_add_recipient(m, &to);
    }
    return m;
}

#define TO ((const char *const[]){"<al@x.example>", "<sal@x.example>", "<o'al+tag@x.example.org>"})

static const char *redacted(enum config_recipients how, const char *text)
{
    static char out[512];
    struct mail *m = mail_to(TO, 3);
    redact_text(how, m, str_from(text), out, sizeof out);
    mail_free(&m);
    return out;
}

TEST(redact, an_address_is_shown_as_configured)
{
    char out[100];
    struct mail_path p = path_of("<al@x.example>");
    redact_address(CONFIG_RECIPIENTS_FULL, &p, out, sizeof out);
    assert_string_equal(out, "al@x.example");
    redact_address(CONFIG_RECIPIENTS_OFF, &p, out, sizeof out);
    assert_string_equal(out, "***@x.example");
    redact_address(CONFIG_RECIPIENTS_HASH, &p, out, sizeof out);
    /* printf %s al@x.example | sha256sum */
    assert_string_equal(out, "0d1bcb1f1924@x.example");
}

TEST(redact, anothers_words_keep_no_local_part_of_the_mail)
{
    static const struct {
        const char *text, *shown;
    } cases[] = {
        {"", ""},
        {"nothing to hide", "nothing to hide"},
        {"al@x.example", "***@x.example"},
        {"failed the check in region R: al@x.example, SAL@X.example.",
         "failed the check in region R: ***@x.example, ***@x.example."},
        {"Sender <boss@corp.example> is not in policy.senders",
         "Sender <***@corp.example> is not in policy.senders"},
        {"o'al+tag@x.example.org", "***@x.example.org"},
        {"(al@x.example)al@x.example", "(***@x.example)***@x.example"},
        {"resource: arn:aws:ses:eu-central-1:1:identity/al@x.example",
         "resource: arn:aws:ses:eu-central-1:1:identity/***@x.example"},
        {"'al@x.example' \"al@x.example\" to=al@x.example|al@x.example",
         "'***@x.example' \"***@x.example\" to=***@x.example|***@x.example"},
        /* cut amid an address */
        {"not verified: al@x.exam", "not verified: ***@x.example"},
        {"not verified: sa", "not verified: ***@x.example"},
        /* other people's are not known to be any */
        {"hal@x.example al@x.example.net al@x.example-2",
         "hal@x.example al@x.example.net al@x.example-2"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_string_equal(redacted(CONFIG_RECIPIENTS_OFF, cases[i].text), cases[i].shown);
    assert_string_equal(redacted(CONFIG_RECIPIENTS_FULL, cases[3].text),
                        "failed the check in region R: al@x.example, sal@x.example.");
    assert_string_equal(redacted(CONFIG_RECIPIENTS_HASH, "<al@x.example>"),
                        "<0d1bcb1f1924@x.example>");
}

TEST(redact, what_does_not_fit_is_cut)
{
    struct mail *m = mail_to(TO, 3);
    for (size_t cap = 1; cap < 24; cap++) {
        char out[24];
        memset(out, 'x', sizeof out);
        redact_text(CONFIG_RECIPIENTS_OFF, m, STR("to al@x.example: no"), out, cap);
        assert_int_equal(strlen(out), cap - 1 < 20 ? cap - 1 : 20);
        assert_memory_equal(out, "to ***@x.example: no", strlen(out));
    }
    mail_free(&m);
}
