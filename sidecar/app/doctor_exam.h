// SPDX-License-Identifier: Apache-2.0
/* doctor_exam: one examination: the checks from configuration to SES, and what they have under way.
 * doctor_exam.c holds the list, doctor_local.c what needs no network, doctor_way.c the way through
 * the gateway, doctor_capture.c whether istio-proxy has put itself in it, doctor_aws.c the rest.
 * Layer: app.  Thread: loop. */
#ifndef SVIDMAIL_APP_DOCTOR_EXAM_H
#define SVIDMAIL_APP_DOCTOR_EXAM_H
#include "app/doctor_desk.h"
#include "ops/doctor.h"
#include "sys/stream.h"

#include <stdio.h>

/* A way through the gateway to AWS, tried by one request that AWS refuses without a side effect. */
enum way_kind { WAY_MAIL, WAY_STS, WAY_COUNT };
/* How far it came; each is a check. */
enum way_stage { WAY_TCP, WAY_TLS, WAY_PEER, WAY_POLICY, WAY_AWS, WAY_THROUGH };

struct way {
    struct exam *exam;
    enum way_kind kind;
    struct http_call *call;
    const char *body;
    size_t body_at;
    bool is_over, is_awaited; /* awaited: a check waits for its end */
    enum way_stage awaited;   /* which */
    enum way_stage failed_at; /* WAY_THROUGH: it did not fail */
    int64_t answered_at_ms;   /* wall */
    char sign[64];            /* of the failure; "": it could not be tried */
    char text[1000], peer_id[256], date[40], request_id[80];
};

struct lookup; /* of the gateway's name; outlives the examination where it hangs */

struct exam {
    const struct doctor_sources *s;
    struct doctor *walk;
    void (*on_done)(void *arg);
    void *arg;
    struct lookup *lookup;
    struct stream *touch; /* a connection that nothing is said on */
    unsigned n_touched;
    struct way ways[WAY_COUNT];
    struct jwt_request *jwt;
    struct credentials_request *credentials;
    struct ses_call *ses;
};

/* on_done once, from the loop. */
struct exam *exam_start(const struct doctor_sources *s, bool is_offline, void (*on_done)(void *arg),
                        void *arg);
/* Nulls *e; NULL is fine. */
void exam_free(struct exam **e);
NODISCARD bool exam_write(const struct exam *e, struct buf *out);

/* --- the checks, as doctor_check.run and .cancel; arg is the exam */

void check_config_file(void *arg, struct doctor *d, unsigned what);
void check_config_values(void *arg, struct doctor *d, unsigned what);
void check_config_roots(void *arg, struct doctor *d, unsigned what);
void check_listeners(void *arg, struct doctor *d, unsigned what);
void check_agent(void *arg, struct doctor *d, unsigned what);
void check_offered(void *arg, struct doctor *d, unsigned what);
void check_svid(void *arg, struct doctor *d, unsigned what); /* what: enum svid_role */
void check_bundle(void *arg, struct doctor *d, unsigned what);
void check_last_mail(void *arg, struct doctor *d, unsigned what);

void check_name(void *arg, struct doctor *d, unsigned what);
void cancel_name(void *arg, unsigned what);
void check_capture(void *arg, struct doctor *d, unsigned what);
void cancel_capture(void *arg, unsigned what);

/* what: kind and stage of a way */
#define WAY_WHAT(kind, stage) ((unsigned)(kind) << 8 | (unsigned)(stage))
void check_way(void *arg, struct doctor *d, unsigned what);
void cancel_way(void *arg, unsigned what);

void check_clock(void *arg, struct doctor *d, unsigned what);
void check_token(void *arg, struct doctor *d, unsigned what);
void cancel_token(void *arg, unsigned what);
void check_credentials(void *arg, struct doctor *d, unsigned what);
void cancel_credentials(void *arg, unsigned what);
void check_ses(void *arg, struct doctor *d, unsigned what);
void cancel_ses(void *arg, unsigned what);
void check_account(void *arg, struct doctor *d, unsigned what);

/* --- pure parts, for tests */

/* What an answered or failed call says of the way: fills failed_at, sign and text. */
void way_judge(struct way *w, bool is_end_to_end, const struct http_response *r);
/* The sign of a stream's end or of an alert: "stream.not_tls.http", "alert.46". */
void way_stream_sign(const struct stream_end *end, char *out, size_t cap);
/* The sign of an error of the STS source: "sts.AccessDenied". */
void sts_sign(const struct err *e, char *out, size_t cap);
/* The sign of the probe's verdict; "" where it is what SES should say. */
void ses_sign(const struct ses_verdict *v, char *out, size_t cap);
/* In a list as /proc/net/tcp is one: a listener on this port; a connection from this port of ours
 * that ends at that local port.  UNREAD: the list broke off before anything was found. */
enum proc_net_answer { PROC_NET_NO, PROC_NET_YES, PROC_NET_UNREAD };
enum proc_net_answer proc_net_has_listener(FILE *list, uint16_t port);
enum proc_net_answer proc_net_has_connection(FILE *list, uint16_t local_port, uint16_t remote_port);

#endif
