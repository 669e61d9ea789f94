// SPDX-License-Identifier: Apache-2.0
/* What SES's answers, the gateway's own and the failures in between mean: the reading of
 * ses_errors.def. */
#include "aws/ses.h"

#include "base/mem.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define SAID_MAX 200 /* bytes of SES's text in a reply */

enum row_source { FROM_ANSWER, FROM_GATEWAY, FROM_STREAM, FROM_CALL, FROM_LOST, FROM_CREDENTIALS };

struct row {
    enum row_source source;
    int key;                   /* HTTP status, enum stream_end_cause or enum err_code; 0: any */
    const char *types, *texts; /* FROM_GATEWAY: types is how the body begins */
    enum ses_outcome outcome;
    enum ses_again again;
    int code;
    const char *enhanced;
    bool is_operator_fault;
    const char *name, *note;
};

// clang-format off
#define ANSWER(status, types, texts, outcome, again, code, enhanced, fault, name, note) \
    {FROM_ANSWER, status, types, texts, SES_##outcome, SES_AGAIN_##again, code, enhanced, fault, name, note},
#define GATEWAY(status, start, text, outcome, code, enhanced, fault, name, note) \
    {FROM_GATEWAY, status, start, text, SES_##outcome, SES_AGAIN_NO, code, enhanced, fault, name, note},
#define STREAM(cause, again, code, enhanced, fault, name) \
    {FROM_STREAM, cause, "", "", SES_RETRY, SES_AGAIN_##again, code, enhanced, fault, name, ""},
#define CALL(class, again, code, enhanced, fault, name, note) \
    {FROM_CALL, class, "", "", SES_RETRY, SES_AGAIN_##again, code, enhanced, fault, name, note},
#define LOST(class, name, note) \
    {FROM_LOST, class, "", "", SES_UNKNOWN, SES_AGAIN_NO, 451, "4.4.2", false, name, note},
#define CREDENTIALS(class, code, enhanced, fault, name) \
    {FROM_CREDENTIALS, class, "", "", SES_RETRY, SES_AGAIN_NO, code, enhanced, fault, name, ""},
static const struct row rows[] = {
#include "aws/ses_errors.def"
};
// clang-format on

/* An answer, read. */
struct answer {
    char
        type[128]; /* "MessageRejected", without "Exception"; "(html)", "(recipient)"; "" unknown */
    char message[512]; /* SES's text, or the body's beginning where it is none */
    char message_id[128];
    bool is_gateways; /* the gateway made it up */
};

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static struct str without_suffix(struct str s)
{
    static const struct str suffix = {"Exception", 9};
    return s.len > suffix.len && str_ends_with_nocase(s, suffix) ? str_sub(s, 0, s.len - suffix.len)
                                                                 : s;
}

/* "com.amazonaws.ses#MessageRejectedException:http://..." -> "MessageRejected" */
static void read_type(struct str raw, char *out, size_t cap)
{
    struct str s = str_sub(raw, 0, str_index(raw, ':'));
    size_t hash = str_index(s, '#');
    if (hash < s.len)
        s = str_sub(s, hash + 1, s.len);
    str_escape(out, cap, without_suffix(str_trim(s)));
}

/* Peer text without what ends or splits it early. */
static void read_text(struct str raw, char *out, size_t cap)
{
    str_copy(out, cap, raw);
    for (size_t i = 0; i < raw.len && i + 1 < cap; i++)
        if (out[i] == '\0' || is_blank(out[i]))
            out[i] = ' ';
}

static struct str json_text(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_string(value) ? (struct str){json_string_value(value), json_string_length(value)}
                                 : (struct str){"", 0};
}

static struct str first_of(struct str a, struct str b)
{
    return a.len > 0 ? a : b;
}

static void read_json(const json_t *body, struct answer *a)
{
    if (a->type[0] == '\0')
        read_type(first_of(json_text(body, "__type"), json_text(body, "code")), a->type,
                  sizeof a->type);
    str_escape(a->message_id, sizeof a->message_id, json_text(body, "MessageId"));
}

/* SES's own words, borrowed from body; without JSON all that came. */
static struct str text_of(const json_t *body, struct str raw)
{
    return json_is_object(body) ? first_of(json_text(body, "message"), json_text(body, "Message"))
                                : raw;
}

static struct str trim_blanks(struct str s)
{
    while (s.len > 0 && is_blank(s.p[0]))
        s = str_sub(s, 1, s.len);
    while (s.len > 0 && is_blank(s.p[s.len - 1]))
        s.len--;
    return s;
}

static bool is_page(const struct http_response *r)
{
    struct str body = trim_blanks(r->body);
    return str_starts_with_nocase(str_from(r->content_type), STR("text/html")) ||
           str_starts_with_nocase(body, STR("<!doctype")) ||
           str_starts_with_nocase(body, STR("<html"));
}

static bool is_recipient(const struct ses_mail *mail, struct str name)
{
    for (size_t i = 0; i < mail->n_recipients; i++)
        if (str_eq_nocase(name, mail_path_str(&mail->recipients[i])))
            return true;
    return false;
}

/* SES's texts name the identities last: "... in region EU-CENTRAL-1: a@x.example, b@y.example".
 * With many of them the whole is longer than what an answer keeps of it. */
static bool names_recipients_only(const struct ses_mail *mail, struct str whole)
{
    struct str rest = str_sub(whole, str_index(whole, ':') + 1, whole.len);
    if (mail == NULL || rest.len == 0)
        return false;
    while (rest.len > 0) {
        size_t end = str_index(rest, ',');
        if (!is_recipient(mail, trim_blanks(str_sub(rest, 0, end))))
            return false;
        rest = str_sub(rest, end + 1, rest.len);
    }
    return true;
}

static void read_answer(const struct ses_config *cfg, const struct ses_mail *mail,
                        const struct http_response *r, struct answer *a)
{
    memset(a, 0, sizeof *a);
    read_type(str_from(r->error_type), a->type, sizeof a->type);
    json_t *body = json_loadb(r->body.p, r->body.len, JSON_ALLOW_NUL, NULL);
    if (json_is_object(body))
        read_json(body, a);
    struct str whole = text_of(body, r->body);
    read_text(whole, a->message, sizeof a->message);
    if (strcmp(a->type, "MessageRejected") == 0 && strstr(a->message, "is not verified") != NULL &&
        names_recipients_only(mail, whole))
        str_copy(a->type, sizeof a->type, STR("(recipient)"));
    json_decref(body);
    bool is_aws = cfg->is_end_to_end || r->request_id[0] != '\0' || a->type[0] != '\0';
    if (!is_aws && is_page(r))
        str_copy(a->type, sizeof a->type, STR("(html)"));
    else
        a->is_gateways = !is_aws && !r->has_envoy_upstream;
}

static bool contains_nocase(struct str text, struct str part)
{
    for (size_t i = 0; i + part.len <= text.len; i++)
        if (str_eq_nocase(str_sub(text, i, part.len), part))
            return true;
    return false;
}

/* One of "a|b|c" equals, or is contained in, text; "" fits all. */
static bool fits_one_of(const char *alternatives, struct str text,
                        bool (*fits)(struct str, struct str))
{
    struct str rest = str_from(alternatives);
    bool ok = rest.len == 0;
    while (!ok && rest.len > 0) {
        struct str one = str_sub(rest, 0, str_index(rest, '|'));
        rest = str_sub(rest, one.len + 1, rest.len);
        ok = fits(text, one);
    }
    return ok;
}

static bool status_fits(int key, int status)
{
    return key == 0 || key == status || key == status / 100;
}

static bool row_fits(const struct row *row, int status, const struct answer *a)
{
    struct str message = str_from(a->message);
    if (!status_fits(row->key, status) || !fits_one_of(row->texts, message, contains_nocase))
        return false;
    return row->source == FROM_ANSWER ? fits_one_of(row->types, str_from(a->type), str_eq_nocase)
                                      : str_starts_with_nocase(message, str_from(row->types));
}

static const struct row *find_answer(enum row_source source, int status, const struct answer *a)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].source == source && row_fits(&rows[i], status, a))
            return &rows[i];
    return NULL;
}

/* Each source but the two above has a row for key, or one for 0 behind it. */
static const struct row *find_failure(enum row_source source, int key)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].source == source && (rows[i].key == key || rows[i].key == 0))
            return &rows[i];
    CHECK(!"a source without a last row");
    return NULL;
}

static void set_from_row(struct ses_verdict *v, const struct row *row)
{
    v->outcome = row->outcome;
    v->error = row->name;
    v->is_operator_fault = row->is_operator_fault;
    v->again = row->again;
}

#define UNKNOWN_ADVICE                                                                             \
    "SES may have taken the mail: before sending it again look for its X-Svidmail-Id in the "      \
    "inbox or in SES's events"

/* "SES: 400 MessageRejected: its text; our note (request id)" */
static void reply_to_answer(const struct http_response *r, const struct answer *a,
                            const struct row *row, struct ses_verdict *v)
{
    const char *note = row->outcome == SES_UNKNOWN ? UNKNOWN_ADVICE : row->note;
    bool has_type = a->type[0] != '\0' && a->type[0] != '(';
    char request[100] = "";
    if (r->request_id[0] != '\0')
        snprintf(request, sizeof request, " (request %s)", r->request_id);
    smtp_reply_set(&v->reply, row->code, row->enhanced, "SES: %d%s%s%s%.*s%s%s%s", r->status,
                   has_type ? " " : "", has_type ? a->type : "", a->message[0] != '\0' ? ": " : "",
                   SAID_MAX, a->message, note[0] != '\0' ? "; " : "", note, request);
}

static void reply_to_gateway(const struct http_response *r, const struct answer *a,
                             const struct row *row, struct ses_verdict *v)
{
    bool is_unknown = row->outcome == SES_UNKNOWN;
    smtp_reply_set(&v->reply, row->code, row->enhanced,
                   "the egress gateway answered %d%s%.*s: %s%s%s", r->status,
                   a->message[0] != '\0' ? " " : "", is_unknown ? 24 : 120, a->message, row->note,
                   is_unknown ? "; " : "", is_unknown ? UNKNOWN_ADVICE : "");
}

static void judge_answer(const struct ses_config *cfg, const struct ses_mail *mail,
                         const struct http_response *r, struct ses_verdict *v)
{
    struct answer a;
    read_answer(cfg, mail, r, &a);
    if (r->status / 100 == 2 && a.message_id[0] != '\0') {
        v->outcome = SES_DELIVERED;
        str_copy(v->message_id, sizeof v->message_id, str_from(a.message_id));
        smtp_reply_set(&v->reply, 250, "2.0.0", "Ok %s", a.message_id);
        return;
    }
    const struct row *row = a.is_gateways ? find_answer(FROM_GATEWAY, r->status, &a) : NULL;
    if (row != NULL) {
        set_from_row(v, row);
        reply_to_gateway(r, &a, row, v);
        return;
    }
    row = find_answer(FROM_ANSWER, r->status, &a);
    CHECK(row != NULL); /* the last one fits all */
    set_from_row(v, row);
    reply_to_answer(r, &a, row, v);
}

static void judge_failure(const struct http_response *r, struct ses_verdict *v)
{
    bool is_stream = r->tunnel_end.cause != END_NONE;
    const struct row *row = is_stream ? find_failure(FROM_STREAM, (int)r->tunnel_end.cause)
                                      : find_failure(FROM_CALL, (int)r->err.code);
    set_from_row(v, row);
    if (v->again == SES_AGAIN_CONNECTION && r->is_new_connection)
        v->again = SES_AGAIN_NO;
    const char *why = is_stream ? r->tunnel_end.err.msg : r->err.msg;
    smtp_reply_set(&v->reply, row->code, row->enhanced, "mail not sent to SES: %s%s%s", row->note,
                   row->note[0] != '\0' && why[0] != '\0' ? ": " : "", why);
}

static void judge_loss(const struct http_response *r, struct ses_verdict *v)
{
    const struct row *row = find_failure(FROM_LOST, (int)r->err.code);
    set_from_row(v, row);
    smtp_reply_set(&v->reply, row->code, row->enhanced,
                   "%s after the whole mail had been sent; " UNKNOWN_ADVICE " (%s)", row->note,
                   r->err.msg);
}

static void verdict_init(struct ses_verdict *v)
{
    memset(v, 0, sizeof *v);
    v->error = "";
}

void ses_judge(const struct ses_config *cfg, const struct ses_mail *mail,
               const struct http_response *r, struct ses_verdict *v)
{
    verdict_init(v);
    str_copy(v->request_id, sizeof v->request_id, str_from(r->request_id));
    str_copy(v->peer_id, sizeof v->peer_id, str_from(r->peer_id));
    v->is_new_connection = r->is_new_connection;
    v->connect_us = r->connect_us;
    v->sent_us = r->sent_us;
    v->total_us = r->total_us;
    /* An error that AWS names was an answer, even if it broke off. */
    bool is_refusal = r->status >= 400 && r->error_type[0] != '\0';
    if (r->outcome == HTTP_ANSWERED || (r->outcome == HTTP_UNKNOWN && is_refusal))
        judge_answer(cfg, mail, r, v);
    else if (r->outcome == HTTP_UNKNOWN)
        judge_loss(r, v);
    else
        judge_failure(r, v);
}

void ses_judge_credentials(const struct err *why, struct ses_verdict *v)
{
    verdict_init(v);
    const struct row *row = find_failure(FROM_CREDENTIALS, (int)why->code);
    set_from_row(v, row);
    smtp_reply_set(&v->reply, row->code, row->enhanced, "no AWS credentials: %s", why->msg);
}

void ses_judge_local(const struct err *why, struct ses_verdict *v)
{
    struct http_response r = {.outcome = HTTP_NOT_SENT, .err = *why, .is_new_connection = true};
    verdict_init(v);
    judge_failure(&r, v);
}
