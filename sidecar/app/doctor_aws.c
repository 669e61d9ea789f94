// SPDX-License-Identifier: Apache-2.0
/* The clock, and what AWS says: token, credentials, signature.  STS's words are aws/sts.c's, SES's
 * are aws/ses_errors.def's. */
#include "app/doctor_exam.h"
#include "app/screen.h"
#include "base/mem.h"
#include "core/http_date.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SKEW_WRONG_S 240 /* AWS refuses signatures of five minutes */
#define SKEW_DRIFT_S 30
#define SPAN_MAX     32

/* --- clock */

/* Seconds that we are ahead of the date; false: no date. */
static bool skew_of(const char *date, int64_t now_s, int64_t *out)
{
    int64_t at_ms;
    if (!http_date_parse(date, &at_ms))
        return false;
    *out = now_s - at_ms / 1000;
    return true;
}

void check_clock(void *arg, struct doctor *d, unsigned what)
{
    (void)what;
    const struct exam *x = arg;
    const struct way *w = &x->ways[WAY_MAIL];
    int64_t skew = 0;
    char span[SPAN_MAX];
    if (w->date[0] == '\0')
        w = &x->ways[WAY_STS];
    if (!skew_of(w->date, w->answered_at_ms / 1000, &skew)) {
        doctor_skip(d, "because no answer told the time");
        return;
    }
    screen_span(skew, span, sizeof span);
    int64_t off = skew < 0 ? -skew : skew;
    if (off >= SKEW_DRIFT_S)
        doctor_found(d, off >= SKEW_WRONG_S ? "clock.wrong" : "clock.drifts",
                     "this clock is %s %s the answer's Date", span,
                     skew < 0 ? "behind" : "ahead of");
    else
        doctor_ok(d, "agrees with the answer's Date");
}

/* --- token */

static void on_token(void *arg, const struct err *e, const char *token, int64_t expires_at_ms)
{
    (void)token; /* a secret */
    struct exam *x = arg;
    char left[SPAN_MAX];
    x->jwt = NULL;
    if (e != NULL) {
        doctor_found(x->walk, "jwt", "%s", e->msg);
        return;
    }
    screen_span((expires_at_ms - clock_wall_ms(x->s->clock)) / 1000, left, sizeof left);
    doctor_ok(x->walk, "for audience %s, %s left", x->s->config->aws.audience, left);
}

void check_token(void *arg, struct doctor *d, unsigned what)
{
    (void)d, (void)what;
    struct exam *x = arg;
    x->jwt = jwt_cache_get(x->s->jwts, SVID_AWS, x->s->config->aws.audience, false, on_token, x);
}

void cancel_token(void *arg, unsigned what)
{
    (void)what;
    jwt_cache_cancel(&((struct exam *)arg)->jwt);
}

/* --- credentials */

/* "STS: AccessDenied: ..." -> "sts.AccessDenied" */
void sts_sign(const struct err *e, char *out, size_t cap)
{
    static const struct str start = {"STS: ", 5}, suffix = {"Exception", 9};
    struct str s = str_from(e->msg);
    struct str code = {"", 0};
    if (str_starts_with(s, start)) {
        s = str_sub(s, start.len, s.len);
        code = str_sub(s, 0, str_index(s, ':'));
    }
    if (code.len > suffix.len && str_ends_with_nocase(code, suffix))
        code.len -= suffix.len;
    snprintf(out, cap, "sts%s%.*s", code.len > 0 ? "." : "", (int)code.len, code.p);
}

static void on_credentials(void *arg, struct aws_credentials *c, const struct err *e)
{
    struct exam *x = arg;
    char text[SPAN_MAX], sign[80];
    x->credentials = NULL;
    if (c == NULL) {
        sts_sign(e, sign, sizeof sign);
        doctor_found(x->walk, sign, "%s", e->msg);
        return;
    }
    screen_span((c->expires_at_ms - clock_wall_ms(x->s->clock)) / 1000, text, sizeof text);
    doctor_ok(x->walk, "credentials for %s, %s left", x->s->config->aws.role_arn, text);
}

void check_credentials(void *arg, struct doctor *d, unsigned what)
{
    (void)d, (void)what;
    struct exam *x = arg;
    x->credentials = credentials_get(x->s->credentials, on_credentials, x);
}

void cancel_credentials(void *arg, unsigned what)
{
    (void)what;
    credentials_cancel(&((struct exam *)arg)->credentials);
}

/* --- SES */

/* Signature and credentials were good: SES complains of the empty request, as it must. */
static bool is_complaint(const struct ses_verdict *v)
{
    static const char *const complaints[] = {"bad_request", "bad_address", "message_rejected"};
    for (size_t i = 0; i < ARRAY_LEN(complaints); i++)
        if (strcmp(v->error, complaints[i]) == 0)
            return true;
    return strcmp(v->error, "protocol") == 0 && strstr(v->reply.text, "SES: 400 ") != NULL;
}

void ses_sign(const struct ses_verdict *v, char *out, size_t cap)
{
    if (is_complaint(v))
        out[0] = '\0';
    else if (str_starts_with(str_from(v->error), STR("stream_")))
        snprintf(out, cap, "stream.%s", v->error + strlen("stream_"));
    else if (strcmp(v->error, "identity_gone") == 0 || strcmp(v->error, "no_identity") == 0)
        snprintf(out, cap, "stream.%s", v->error);
    else
        snprintf(out, cap, "ses.%s", v->error);
}

static void on_verdict(void *arg, const struct ses_verdict *v)
{
    struct exam *x = arg;
    char sign[80];
    x->ses = NULL;
    ses_sign(v, sign, sizeof sign);
    if (sign[0] == '\0')
        doctor_ok(
            x->walk,
            "takes our signature (it refused an empty mail, as it should); whether it takes a "
            "sender only a mail can tell: svidmail send");
    else
        doctor_found(x->walk, sign, "%s", v->reply.text);
}

void check_ses(void *arg, struct doctor *d, unsigned what)
{
    (void)d, (void)what;
    struct exam *x = arg;
    x->ses = ses_probe(x->s->ses, on_verdict, x);
}

void cancel_ses(void *arg, unsigned what)
{
    (void)what;
    struct exam *x = arg;
    if (x->ses != NULL)
        (void)ses_cancel(&x->ses);
}

/* The gateway's policy lets one path through, and the role need not allow more. */
void check_account(void *arg, struct doctor *d, unsigned what)
{
    (void)what;
    doctor_skip(
        d,
        "because the gateway lets svidmail do nothing but send: quota, sandbox and pause are "
        "shown by aws sesv2 get-account --region %s",
        ((struct exam *)arg)->s->config->ses.region);
}
