// SPDX-License-Identifier: Apache-2.0
/* However a mail is cut, the same bytes leave; our headers stand on top, and none of what is for us
 * only is left in the header section.  First byte: how it is cut. */
#include "core/mail_body.h"
#include "core/mail_header.h"

#include <string.h>

#define OUT_MAX (4u << 20)
#define TOP     "Received: from fuzz\r\n\tby us\r\nX-Svidmail-Id: our-id\r\n"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const char *const allow[] = {"X-SES-Allowed", NULL};

struct outcome {
    bool is_taken;
    struct err e;
    struct mail_body_facts facts;
    struct buf out;
};

static bool on_bytes(void *arg, struct str bytes)
{
    CHECK(bytes.len > 0);
    return buf_append_str(arg, bytes);
}

static void run(struct str mail, size_t step, struct outcome *o)
{
    const struct mail_body_config cfg = {.received = "from fuzz\r\n\tby us",
                                         .id = "our-id",
                                         .date = "our-date",
                                         .message_id = "<our-message-id>",
                                         .allow_headers = allow};
    *o = (struct outcome){.is_taken = true};
    buf_init(&o->out, OUT_MAX);
    struct mail_body *b = mail_body_new(&cfg, on_bytes, &o->out);
    for (size_t at = 0; at < mail.len && o->is_taken; at += step)
        o->is_taken = mail_body_write(b, str_sub(mail, at, step), &o->e);
    o->is_taken = o->is_taken && mail_body_end(b, &o->facts, &o->e);
    mail_body_free(&b);
}

static bool is_field(struct str line, struct str name)
{
    return str_eq_nocase(str_sub(line, 0, mail_header_name_len(line)), name);
}

/* header: from behind our top to the empty line. */
static void check_header(struct str header)
{
    unsigned n_date = 0, n_message_id = 0;
    while (header.len > 0) {
        struct str line = str_sub(header, 0, str_index(header, '\n') + 1);
        struct str name = str_sub(line, 0, mail_header_name_len(line));
        CHECK(name.len > 0 || line.p[0] == ' ' || line.p[0] == '\t');
        CHECK(!is_field(line, STR("Bcc")) && !is_field(line, STR("X-Svidmail-Id")));
        CHECK(!str_starts_with_nocase(name, STR("X-SES-")) ||
              str_eq_nocase(name, str_from(allow[0])));
        n_date += is_field(line, STR("Date"));
        n_message_id += is_field(line, STR("Message-ID"));
        header = str_sub(header, line.len, header.len);
    }
    CHECK(n_date == 1 && n_message_id == 1);
}

static void check_taken(const struct outcome *o)
{
    struct str out = buf_str(&o->out);
    CHECK(str_starts_with(out, STR(TOP)));
    out = str_sub(out, sizeof TOP - 1, out.len);
    CHECK(out.p[0] != ' ' && out.p[0] != '\t');
    const char *empty_line = memmem(out.p, out.len, "\n\r\n", 3);
    CHECK(empty_line != NULL);
    check_header(str_sub(out, 0, (size_t)(empty_line - out.p) + 1));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (len == 0)
        return 0;
    struct str mail = {(const char *)data + 1, len - 1};
    struct outcome whole, pieces;
    run(mail, mail.len + 1, &whole);
    run(mail, 1 + data[0] % 32u, &pieces);
    CHECK(whole.is_taken == pieces.is_taken);
    if (whole.is_taken) {
        CHECK(str_eq(buf_str(&whole.out), buf_str(&pieces.out)));
        CHECK(memcmp(&whole.facts, &pieces.facts, sizeof whole.facts) == 0);
        check_taken(&whole);
    } else {
        CHECK(whole.e.code == ERR_SYNTAX || whole.e.code == ERR_LIMIT);
        CHECK(whole.e.code == pieces.e.code && strcmp(whole.e.msg, pieces.e.msg) == 0);
    }
    buf_release(&whole.out);
    buf_release(&pieces.out);
    return 0;
}
