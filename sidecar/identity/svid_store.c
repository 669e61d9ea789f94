// SPDX-License-Identifier: Apache-2.0
#include "identity/svid_store.h"
#include "base/list.h"
#include "base/mem.h"
#include "sys/log.h"
#include "sys/metrics.h"
#include "sys/timer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RECHECK_MS       30000 /* wall time may jump, and timers stand still in a suspended machine */
#define SHOWN_ID_BYTES   96    /* of an ID or hint in a message */
#define SHOWN_HINT_BYTES 48

/* What a role has.  Watchers and the log hear of each change. */
enum usable { USABLE_NOTHING, USABLE_UNCHOSEN, USABLE_EARLY, USABLE_YES, USABLE_EXPIRED };

struct role_state {
    char *spiffe_id, *hint; /* the choice; "" = not named */
    enum usable usable;     /* as last told */
};

struct svid_store {
    const struct clock *clock;
    struct role_state roles[SVID_ROLE_COUNT];
    struct svid_set *set;
    unsigned n_generations;
    int64_t confirmed_at_ms; /* wall; when the agent last said what is in set */
    struct err why;          /* why there is nothing, or nothing newer; code ERR_NONE: no trouble */
    struct list watchers;
    struct timer *notify, *recheck;
};

struct svid_watch {
    struct list link;
    svid_watch_cb cb;
    void *arg;
};

static const char *const role_names[SVID_ROLE_COUNT] = {[SVID_MESH] = "mesh", [SVID_AWS] = "aws"};

struct svid_set *svid_set_new(size_t n_svids, size_t n_bundles)
{
    struct svid_set *s = xcalloc(1, sizeof *s);
    s->refs = 1;
    s->svids = xcalloc(n_svids, sizeof *s->svids);
    s->bundles = xcalloc(n_bundles, sizeof *s->bundles);
    return s;
}

struct svid_set *svid_set_ref(struct svid_set *s)
{
    CHECK(s->refs > 0);
    s->refs++;
    return s;
}

void svid_set_unref(struct svid_set **ps)
{
    struct svid_set *s = *ps;
    *ps = NULL;
    if (s == NULL || --s->refs > 0)
        return;
    for (size_t i = 0; i < s->n_svids; i++) {
        free(s->svids[i].hint);
        sk_X509_pop_free(s->svids[i].chain, X509_free);
        EVP_PKEY_free(s->svids[i].key); /* OpenSSL overwrites what it held */
    }
    for (size_t i = 0; i < s->n_bundles; i++) {
        free(s->bundles[i].trust_domain);
        X509_STORE_free(s->bundles[i].store);
    }
    free(s->svids);
    free(s->bundles);
    free(s);
}

bool svid_set_offers(const struct svid_set *s, const char *spiffe_id)
{
    for (size_t i = 0; i < s->n_svids; i++)
        if (strcmp(s->svids[i].id.text, spiffe_id) == 0)
            return true;
    return false;
}

X509_STORE *svid_set_bundle(const struct svid_set *s, struct str trust_domain)
{
    for (size_t i = 0; i < s->n_bundles; i++)
        if (str_eq(str_from(s->bundles[i].trust_domain), trust_domain))
            return s->bundles[i].store;
    return NULL;
}

static bool is_named(const struct role_state *r)
{
    return r->spiffe_id[0] != '\0' || r->hint[0] != '\0';
}

/* The role whose choice counts: an unnamed aws identity is the mesh identity. */
static enum svid_role choosing_role(const struct svid_store *st, enum svid_role role)
{
    return role == SVID_AWS && !is_named(&st->roles[SVID_AWS]) ? SVID_MESH : role;
}

static bool is_one_identity(const struct svid_set *set)
{
    for (size_t i = 1; i < set->n_svids; i++)
        if (!spiffe_id_equal(&set->svids[0].id, &set->svids[i].id))
            return false;
    return true;
}

static const struct svid *choose(const struct svid_set *set, const struct role_state *r)
{
    if (!is_named(r))
        return set->n_svids > 0 && is_one_identity(set) ? &set->svids[0] : NULL;
    for (size_t i = 0; i < set->n_svids; i++) {
        const struct svid *v = &set->svids[i];
        bool is_id = r->spiffe_id[0] == '\0' || strcmp(r->spiffe_id, v->id.text) == 0;
        bool is_hint = r->hint[0] == '\0' || strcmp(r->hint, v->hint) == 0;
        if (is_id && is_hint)
            return v; /* of two with one hint the first counts (C21) */
    }
    return NULL;
}

static char *show(char *out, size_t cap, const char *z)
{
    str_escape(out, cap, str_from(z));
    if (strlen(z) >= cap)
        memcpy(out + cap - 4, "...", 4);
    return out;
}

/* "ID (hint "x"), ID (no hint), and 3 more", as much as fits. */
static void list_offered(const struct svid_set *set, char *out, size_t cap)
{
    struct buf b;
    buf_init(&b, cap - sizeof ", and 100 more");
    size_t i = 0;
    for (; i < set->n_svids; i++) {
        char id[SHOWN_ID_BYTES], hint[SHOWN_HINT_BYTES];
        const struct svid *v = &set->svids[i];
        show(id, sizeof id, v->id.text);
        show(hint, sizeof hint, v->hint);
        if (!buf_printf(&b, "%s%s (%s%s%s)", i > 0 ? ", " : "", id, hint[0] ? "hint \"" : "no hint",
                        hint, hint[0] ? "\"" : ""))
            break;
    }
    str_copy(out, cap, buf_str(&b));
    if (i < set->n_svids)
        snprintf(out + b.len, cap - b.len, "%s%zu more", i > 0 ? ", and " : "", set->n_svids - i);
    buf_release(&b);
}

static bool fail_unchosen(const struct svid_set *set, enum svid_role chooser,
                          const struct role_state *r, struct err *e)
{
    char offered[256], id[SHOWN_ID_BYTES], hint[SHOWN_HINT_BYTES];
    list_offered(set, offered, sizeof offered);
    if (!is_named(r))
        return err_set(e, ERR_DENIED, 0, "several SVIDs are offered and identity.%s names none: %s",
                       role_names[chooser], offered);
    show(id, sizeof id, r->spiffe_id);
    show(hint, sizeof hint, r->hint);
    return err_set(e, ERR_DENIED, 0, "identity.%s (%s%s%s%s%s) is not offered; offered: %s",
                   role_names[chooser], id, id[0] && hint[0] ? ", " : "", hint[0] ? "hint \"" : "",
                   hint, hint[0] ? "\"" : "", offered);
}

static bool fail_outside_validity(const struct svid_store *st, const struct svid *v, bool is_early,
                                  struct err *e)
{
    char id[SHOWN_ID_BYTES], when[25], last[25];
    show(id, sizeof id, v->id.text);
    clock_format_rfc3339(when, is_early ? v->not_before_ms : v->not_after_ms);
    if (is_early)
        return err_set(e, ERR_EXPIRED, 0,
                       "the SVID %s is not valid before %s: is this clock behind?", id, when);
    if (st->why.code != ERR_NONE)
        return err_set(e, ERR_EXPIRED, 0, "the SVID %s expired at %s and no newer one came: %s", id,
                       when, st->why.msg);
    clock_format_rfc3339(last, st->confirmed_at_ms);
    return err_set(e, ERR_EXPIRED, 0,
                   "the SVID %s expired at %s and no newer one came (the agent's last word: %s)",
                   id, when, last);
}

/* Everything select has to judge; *out also where it is outside its validity. */
static enum usable judge(const struct svid_store *st, enum svid_role role, const struct svid **out,
                         struct err *e)
{
    *out = NULL;
    if (st->set == NULL) {
        err_set(e, ERR_UNAVAIL, 0, "no identity: %s",
                st->why.code != ERR_NONE ? st->why.msg : "the agent has not been asked yet");
        return USABLE_NOTHING;
    }
    enum svid_role chooser = choosing_role(st, role);
    *out = choose(st->set, &st->roles[chooser]);
    if (*out == NULL) {
        fail_unchosen(st->set, chooser, &st->roles[chooser], e);
        return USABLE_UNCHOSEN;
    }
    int64_t now = clock_wall_ms(st->clock);
    if (now >= (*out)->not_before_ms && now < (*out)->not_after_ms)
        return USABLE_YES;
    bool is_early = now < (*out)->not_before_ms;
    fail_outside_validity(st, *out, is_early, e);
    return is_early ? USABLE_EARLY : USABLE_EXPIRED;
}

bool svid_store_select(const struct svid_store *st, enum svid_role role, struct svid_set **set,
                       const struct svid **out, struct err *e)
{
    if (judge(st, role, out, e) != USABLE_YES) {
        *out = NULL;
        *set = NULL;
        return false;
    }
    *set = svid_set_ref(st->set);
    return true;
}

bool svid_store_has_expired(const struct svid_store *st, enum svid_role role)
{
    const struct svid *v;
    struct err e;
    return judge(st, role, &v, &e) == USABLE_EXPIRED;
}

struct svid_set *svid_store_current(const struct svid_store *st)
{
    return st->set;
}

static void tell_role(enum svid_role role, enum usable usable, const struct svid *v,
                      const struct err *e)
{
    const char *name = role_names[role];
    switch (usable) {
    case USABLE_UNCHOSEN:
        LOG_ERR(EV_SVID_UNCHOSEN, e, F_STR("role", name));
        break;
    case USABLE_EARLY:
    case USABLE_EXPIRED:
        LOG_ERR(EV_SVID_EXPIRED, e, F_STR("role", name), F_S("spiffe_id", spiffe_id_str(&v->id)));
        break;
    case USABLE_NOTHING:
    case USABLE_YES:
        break;
    }
}

/* Looks at each role by the clock: logs and tells what changed, and sets the next look. */
static bool review(struct svid_store *st)
{
    bool is_changed = false, is_pending = false;
    int64_t now = clock_wall_ms(st->clock), next = RECHECK_MS;
    metric_clear(M_SVID_EXPIRY);
    for (unsigned i = 0; i < SVID_ROLE_COUNT; i++) {
        struct role_state *r = &st->roles[i];
        const struct svid *v;
        struct err e;
        enum usable usable = judge(st, (enum svid_role)i, &v, &e);
        if (usable != r->usable) {
            r->usable = usable;
            is_changed = true;
            tell_role((enum svid_role)i, usable, v, &e);
        }
        if (v == NULL)
            continue;
        metric_set(M_SVID_EXPIRY, METRIC_L(role_names[i]), (double)v->not_after_ms / 1000);
        is_pending = true; /* an expired one comes back if the clock is set right */
        int64_t left = usable == USABLE_EARLY ? v->not_before_ms - now : v->not_after_ms - now;
        if (left > 0 && left < next)
            next = left;
    }
    if (is_pending)
        timer_start(st->recheck, (uint64_t)next);
    else
        timer_stop(st->recheck);
    return is_changed;
}

static void on_recheck(void *arg)
{
    struct svid_store *st = arg;
    if (review(st))
        timer_start(st->notify, 0);
}

/* A callback may remove any watch and add new ones: each is moved before it is called. */
static void on_notify(void *arg)
{
    struct svid_store *st = arg;
    struct list due;
    list_init(&due);
    while (!list_is_empty(&st->watchers)) {
        struct list *item = st->watchers.next;
        list_remove(item);
        list_push_back(&due, item);
    }
    while (!list_is_empty(&due)) {
        struct svid_watch *w = CONTAINER_OF(due.next, struct svid_watch, link);
        list_remove(&w->link);
        list_push_back(&st->watchers, &w->link);
        w->cb(w->arg); /* may free w */
    }
}

struct svid_store *svid_store_new(const struct svid_choice choices[SVID_ROLE_COUNT],
                                  const struct clock *clock, uv_loop_t *loop)
{
    struct svid_store *st = xcalloc(1, sizeof *st);
    st->clock = clock;
    for (unsigned i = 0; i < SVID_ROLE_COUNT; i++) {
        st->roles[i].spiffe_id = str_dup(str_from(choices[i].spiffe_id));
        st->roles[i].hint = str_dup(str_from(choices[i].hint));
    }
    list_init(&st->watchers);
    st->notify = timer_new(loop, on_notify, st);
    st->recheck = timer_new(loop, on_recheck, st);
    return st;
}

void svid_store_free(struct svid_store **pst)
{
    struct svid_store *st = *pst;
    if (st == NULL)
        return;
    *pst = NULL;
    CHECK(list_is_empty(&st->watchers));
    timer_free(&st->notify);
    timer_free(&st->recheck);
    svid_set_unref(&st->set);
    for (unsigned i = 0; i < SVID_ROLE_COUNT; i++) {
        free(st->roles[i].spiffe_id);
        free(st->roles[i].hint);
    }
    free(st);
}

static void log_rotated(const struct svid_store *st)
{
    const struct svid *v;
    char until[25] = "";
    judge(st, SVID_MESH, &v, NULL);
    if (v != NULL)
        clock_format_rfc3339(until, v->not_after_ms);
    LOG(EV_SVID_ROTATED, F_INT("generation", st->set->generation), F_INT("svids", st->set->n_svids),
        F_INT("bundles", st->set->n_bundles), F_STR("spiffe_id", v != NULL ? v->id.text : ""),
        F_STR("not_after", until));
}

void svid_store_publish(struct svid_store *st, struct svid_set **set)
{
    svid_set_unref(&st->set);
    st->set = *set;
    *set = NULL;
    st->set->generation = ++st->n_generations;
    log_rotated(st);
    svid_store_confirm(st);
    (void)review(st);
    timer_start(st->notify, 0);
}

void svid_store_confirm(struct svid_store *st)
{
    st->why = (struct err){.code = ERR_NONE};
    st->confirmed_at_ms = clock_wall_ms(st->clock);
}

void svid_store_redact(struct svid_store *st, const struct err *why)
{
    st->why = *why;
    if (st->set == NULL)
        return;
    LOG_ERR(EV_SVID_REDACTED, why, F_INT("generation", st->set->generation),
            F_INT("svids", st->set->n_svids));
    svid_set_unref(&st->set);
    (void)review(st);
    metric_clear(M_BUNDLE_AGE);
    timer_start(st->notify, 0);
}

void svid_store_set_waiting(struct svid_store *st, const struct err *why)
{
    st->why = *why;
}

struct svid_watch *svid_store_watch(struct svid_store *st, svid_watch_cb cb, void *arg)
{
    struct svid_watch *w = xcalloc(1, sizeof *w);
    w->cb = cb;
    w->arg = arg;
    list_push_back(&st->watchers, &w->link);
    return w;
}

void svid_store_unwatch(struct svid_watch **w)
{
    if (*w == NULL)
        return;
    list_remove(&(*w)->link);
    free(*w);
    *w = NULL;
}

void svid_store_refresh_metrics(const struct svid_store *st)
{
    metric_clear(M_BUNDLE_AGE);
    if (st->set == NULL)
        return;
    double age = (double)(clock_wall_ms(st->clock) - st->confirmed_at_ms) / 1000;
    for (size_t i = 0; i < st->set->n_bundles; i++)
        metric_set(M_BUNDLE_AGE, METRIC_L(st->set->bundles[i].trust_domain), age);
}
