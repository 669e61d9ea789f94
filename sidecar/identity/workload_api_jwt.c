// SPDX-License-Identifier: Apache-2.0
/* FetchJWTSVID: one call, one token.  A call is told once, at its end: the status decides, even
 * after a token came. It stays on the client's list until its wire call has ended, canceled or not,
 * so that a stop can wait for it. */
#include "identity/workload_api.h"
#include "identity/workload_api_private.h"
#include "base/mem.h"
#include "base/secret.h"
#include "core/jwt_claims.h"

#include <stdlib.h>
#include <string.h>

#define JWT_DEADLINE_MS                                                                            \
    40000 /* an agent whose server is away takes 30 s to answer from its cache */
#define JWT_CALLS_MAX 32

struct workload_api_call {
    struct list link;
    struct workload_api *w;
    struct workload_rpc *rpc; /* NULL: refused, told by the timer */
    struct timer *refusal;
    workload_api_jwt_cb cb; /* NULL: canceled */
    void *arg;
    char *wanted_id; /* "": any */
    struct err e;    /* what an OK at the end does not make good */
    char *token, *spiffe_id;
};

static void call_free(struct workload_api_call *c)
{
    struct workload_api *w = c->w;
    list_remove(&c->link);
    w->n_calls--;
    timer_free(&c->refusal);
    secret_free(&c->token);
    free(c->spiffe_id);
    free(c->wanted_id);
    free(c);
    if (workload_api_is_stopping(w))
        workload_api_finish_when_idle(w);
}

static void call_tell(struct workload_api_call *c, const struct err *e)
{
    struct jwt_claims claims = {0, 0};
    workload_api_jwt_cb cb = c->cb;
    c->cb = NULL;
    if (cb != NULL && e != NULL)
        cb(c->arg, e, NULL, NULL, 0, 0);
    else if (cb != NULL) {
        (void)!jwt_claims_parse(str_from(c->token), &claims, NULL); /* unreadable: 0 */
        cb(c->arg, NULL, c->token, c->spiffe_id, claims.issued_at_ms, claims.expires_at_ms);
    }
    call_free(c);
}

static void on_refusal(void *arg)
{
    struct workload_api_call *c = arg;
    call_tell(c, &c->e);
}

static void on_jwt_message(void *arg, const ProtobufCMessage *base)
{
    struct workload_api_call *c = arg;
    const JWTSVIDResponse *m = (const JWTSVIDResponse *)base;
    if (m == NULL) {
        err_set(&c->e, ERR_SYNTAX, 0, "the agent's answer cannot be decoded");
        return;
    }
    for (size_t i = 0; i < m->n_svids && c->token == NULL; i++) {
        const JWTSVID *v = m->svids[i];
        if (v->svid[0] == '\0' ||
            (c->wanted_id[0] != '\0' && strcmp(c->wanted_id, v->spiffe_id) != 0))
            continue;
        c->token = secret_dup(str_from(v->svid));
        c->spiffe_id = xstrdup(v->spiffe_id);
    }
}

static void on_jwt_end(void *arg, int status, const char *details)
{
    struct workload_api_call *c = arg;
    struct err e = c->e;
    c->rpc = NULL;
    if (workload_api_is_stopping(c->w))
        err_set(&e, ERR_CANCELED, 0, "stopped");
    else if (status != WS_OK)
        (void)workload_api_explain(c->w, status, details, false, &e);
    else if (c->token == NULL && e.code == ERR_NONE)
        err_set(&e, ERR_SYNTAX, 0, "the agent's answer holds no JWT-SVID%s%.160s",
                c->wanted_id[0] != '\0' ? " for " : "", c->wanted_id);
    if (e.code != ERR_NONE)
        err_wrap(&e, "FetchJWTSVID");
    call_tell(c, e.code != ERR_NONE ? &e : NULL);
}

static bool may_call(const struct workload_api *w, struct err *e)
{
    if (w->grpc == NULL || workload_api_is_stopping(w))
        return err_set(e, ERR_UNAVAIL, 0, "the Workload API client does not run");
    return w->n_calls <= JWT_CALLS_MAX ||
           err_set(e, ERR_LIMIT, 0, "%d JWT-SVIDs are being fetched already", JWT_CALLS_MAX);
}

struct workload_api_call *workload_api_fetch_jwt(struct workload_api *w, const char *audience,
                                                 const char *spiffe_id, workload_api_jwt_cb cb,
                                                 void *arg)
{
    static const struct workload_rpc_events events = {on_jwt_message, on_jwt_end};
    CHECK(audience[0] != '\0'); /* C23 */
    struct workload_api_call *c = xcalloc(1, sizeof *c);
    c->w = w;
    c->cb = cb;
    c->arg = arg;
    c->wanted_id = str_dup(str_from(spiffe_id));
    list_push_back(&w->calls, &c->link);
    w->n_calls++;
    if (!may_call(w, &c->e)) {
        c->refusal = timer_new(w->loop, on_refusal, c);
        timer_start(c->refusal, 0);
        return c;
    }
    char *one[] = {(char *)audience}; /* C39: one audience, one token */
    JWTSVIDRequest request = JWTSVIDREQUEST__INIT;
    request.n_audience = ARRAY_LEN(one);
    request.audience = one;
    request.spiffe_id = c->wanted_id;
    c->rpc =
        workload_rpc_start(w->grpc, WORKLOAD_FETCH_JWT, &request.base, JWT_DEADLINE_MS, &events, c);
    return c;
}

void workload_api_cancel(struct workload_api_call **pc)
{
    struct workload_api_call *c = *pc;
    if (c == NULL)
        return;
    *pc = NULL;
    c->cb = NULL;
    if (c->rpc != NULL)
        workload_rpc_cancel(c->rpc);
}

void workload_api_cancel_all(struct workload_api *w)
{
    LIST_EACH(it, &w->calls)
    {
        struct workload_api_call *c = CONTAINER_OF(it, struct workload_api_call, link);
        if (c->rpc != NULL)
            workload_rpc_cancel(c->rpc);
    }
}
