// SPDX-License-Identifier: Apache-2.0
/* ses: SESv2 SendEmail with a raw mail, streamed: body hash first, then base64 on the fly; and what
 * SES's answers mean (ses_errors.def).  Source: SES API v2 reference, SendEmail.  Layer: aws.
 * Thread: loop. */
#ifndef SVIDMAIL_AWS_SES_H
#define SVIDMAIL_AWS_SES_H
#include "aws/credentials.h"
#include "aws/http.h"
#include "core/mail_address.h"
#include "core/smtp_reply.h"

#define SES_RECIPIENTS_MAX 50

struct ses_tag {
    char *name, *value;
};

struct ses_config {
    const char *host, *region;                                  /* email.<region>.amazonaws.com */
    bool is_end_to_end;                                         /* HTTPS inside the tunnel */
    const char *configuration_set, *from_identity_arn, *tenant; /* "" = absent */
    const struct ses_tag *tags;
    size_t n_tags;
    uint64_t timeout_ms; /* of one call */
};

struct ses_mail {
    int fd; /* canonical bytes from offset 0; only pread */
    uint64_t len;
    const struct mail_path *recipients; /* 1..SES_RECIPIENTS_MAX; borrowed until done */
    size_t n_recipients;
};

enum ses_outcome { SES_DELIVERED, SES_RETRY, SES_REJECTED, SES_UNKNOWN };

/* What ses_send() does about a failure by itself, once for each reason. */
enum ses_again {
    SES_AGAIN_NO,
    SES_AGAIN_CONNECTION,  /* a kept connection had died: by a new one */
    SES_AGAIN_CREDENTIALS, /* by new credentials */
    SES_AGAIN_CLOCK,       /* signed by the server's clock */
};

struct ses_verdict {
    enum ses_outcome outcome;
    struct smtp_reply reply; /* for the app: SES's text, the right code */
    const char *error;       /* row of ses_errors.def, "" when delivered: for metrics */
    bool is_operator_fault;  /* the set-up is wrong, not the mail: see ses_errors.def */
    enum ses_again again;
    char message_id[128], request_id[80];
    char peer_id[256];
    bool is_new_connection;
    uint64_t credentials_us, connect_us, sent_us, total_us;
};
typedef void (*ses_cb)(void *arg, const struct ses_verdict *v);

struct ses;
struct ses *ses_new(const struct ses_config *cfg, struct http *http, struct tunnel *tunnel,
                    struct credentials *credentials, const struct clock *clock, uv_loop_t *loop);
void ses_free(struct ses **s); /* no call may be in flight */

/* Credentials, signature, call; once more by itself where the first try certainly did not reach SES
 * because a kept connection had died, or after AWS called the credentials expired.  cb once, never
 * from inside. */
struct ses_call;
struct ses_call *ses_send(struct ses *s, const struct ses_mail *mail, ses_cb cb, void *arg);
/* What SES says of the credentials and the signature, for doctor: a SendEmail with neither
 * recipients nor content, which SES cannot but refuse.  As ses_send() otherwise. */
struct ses_call *ses_probe(struct ses *s, ses_cb cb, void *arg);
/* cb will not run.  What it was waiting for; NULL: the mail may have left in full. */
const char *ses_cancel(struct ses_call **c);

/* Pure: an answered or failed call -> verdict, all but credentials_us.  Table: ses_errors.def. mail
 * (NULL: unknown) tells the sandbox's complaint about a recipient from that about the sender. */
void ses_judge(const struct ses_config *cfg, const struct ses_mail *mail,
               const struct http_response *r, struct ses_verdict *v);
/* Pure: there were no credentials, for this reason. */
void ses_judge_credentials(const struct err *why, struct ses_verdict *v);
/* Pure: it ended before anything was sent, for this reason (the stored mail cannot be read, we are
 * stopping). */
void ses_judge_local(const struct err *why, struct ses_verdict *v);

#endif
