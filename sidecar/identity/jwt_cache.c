// SPDX-License-Identifier: Apache-2.0
/* A request is on one of two lists: an entry's waiting (a fetch is under way) or the cache's ready
 * (its answer is known and told from the loop).  What it is told is a copy of its own: the entry
 * may be gone by then. */
#include "identity/jwt_cache.h"
#include "base/list.h"
#include "base/mem.h"
#include "base/secret.h"
#include "sys/log.h"
#include "sys/metrics.h"
#include "sys/timer.h"

#include <stdlib.h>
#include <string.h>

#define MIN_LIFE_MS                                                                                \
    30000 /* a token is of use only if AWS still takes it at the end of a slow call */
#define TELL_AGAIN_MS 300000

struct jwt_cache {
    struct workload_api *api;
    struct svid_store *store;
    const struct clock *clock;
    struct svid_watch *watch;
    struct list entries; /* least recently used first */
    unsigned n_entries;
    struct list ready;
    struct timer *tell;
};

struct jwt_entry {
    struct list link;
    struct jwt_cache *c;
    char *spiffe_id, *audience;
    char *token;           /* NULL: none yet */
    int64_t expires_at_ms; /* wall */
    int64_t life_ms;       /* that it had when it came */
    struct workload_api_call *call;
    struct list waiting;
};

struct jwt_request {
    struct list link;
    struct jwt_cache *c;
    enum svid_role role;
    bool is_fresh;
    jwt_cache_cb cb;
    void *arg;
    struct err e; /* once ready; code ERR_NONE: token */
    char *token;
    int64_t expires_at_ms;
};

static const char *const role_names[SVID_ROLE_COUNT] = {[SVID_MESH] = "mesh", [SVID_AWS] = "aws"};

/* --- answers --- */

static void request_free(struct jwt_request *r)
{
    list_remove(&r->link);
    secret_free(&r->token);
    free(r);
}

/* One at a time: the callback may do anything, even free the cache. */
static void on_tell(void *arg)
{
    struct jwt_cache *c = arg;
    if (list_is_empty(&c->ready))
        return;
    struct jwt_request *r = CONTAINER_OF(c->ready.next, struct jwt_request, link);
    list_remove(&r->link);
    if (!list_is_empty(&c->ready))
        timer_start(c->tell, 0);
    if (r->e.code != ERR_NONE) {
        r->cb(r->arg, &r->e, NULL, 0);
    } else {
        metric_set(M_JWT_EXPIRY, METRIC_L(role_names[r->role]), (double)r->expires_at_ms / 1000);
        r->cb(r->arg, NULL, r->token, r->expires_at_ms);
    }
    request_free(r);
}

static void request_ready(struct jwt_request *r)
{
    list_remove(&r->link);
    list_push_back(&r->c->ready, &r->link);
    timer_start(r->c->tell, 0);
}

static void request_fail(struct jwt_request *r, const struct err *e)
{
    r->e = *e;
    request_ready(r);
}

static void request_answer(struct jwt_request *r, const struct jwt_entry *entry)
{
    r->token = secret_dup(str_from(entry->token));
    r->expires_at_ms = entry->expires_at_ms;
    request_ready(r);
}

/* --- entries --- */

static void entry_free(struct jwt_entry *entry)
{
    CHECK(list_is_empty(&entry->waiting));
    workload_api_cancel(&entry->call);
    list_remove(&entry->link);
    entry->c->n_entries--;
    secret_free(&entry->token);
    free(entry->spiffe_id);
    free(entry->audience);
    free(entry);
}

static struct jwt_entry *entry_find(struct jwt_cache *c, const struct svid *v, const char *audience)
{
    LIST_EACH(it, &c->entries)
    {
        struct jwt_entry *entry = CONTAINER_OF(it, struct jwt_entry, link);
        if (strcmp(entry->spiffe_id, v->id.text) != 0 || strcmp(entry->audience, audience) != 0)
            continue;
        list_remove(&entry->link);
        list_push_back(&c->entries, &entry->link);
        return entry;
    }
    return NULL;
}

static bool make_room(struct jwt_cache *c)
{
    LIST_EACH(it, &c->entries)
    {
        struct jwt_entry *entry = CONTAINER_OF(it, struct jwt_entry, link);
        if (c->n_entries < JWT_CACHE_MAX)
            break;
        if (entry->call == NULL)
            entry_free(entry);
    }
    return c->n_entries < JWT_CACHE_MAX;
}

static struct jwt_entry *entry_get(struct jwt_cache *c, const struct svid *v, const char *audience)
{
    struct jwt_entry *entry = entry_find(c, v, audience);
    if (entry != NULL || !make_room(c))
        return entry;
    entry = xcalloc(1, sizeof *entry);
    entry->c = c;
    entry->spiffe_id = xstrdup(v->id.text);
    entry->audience = xstrdup(audience);
    list_init(&entry->waiting);
    list_push_back(&c->entries, &entry->link);
    c->n_entries++;
    return entry;
}

static int64_t entry_left_ms(const struct jwt_entry *entry)
{
    return entry->token != NULL ? entry->expires_at_ms - clock_wall_ms(entry->c->clock) : 0;
}

/* --- fetching --- */

NODISCARD static bool entry_take(struct jwt_entry *entry, const char *token, int64_t expires_at_ms,
                                 struct err *e)
{
    int64_t left = expires_at_ms - clock_wall_ms(entry->c->clock);
    if (expires_at_ms == 0)
        return err_set(e, ERR_SYNTAX, 0, "the agent's JWT-SVID has no readable exp");
    if (left <= 0)
        return err_set(e, ERR_EXPIRED, 0,
                       "the agent's JWT-SVID expired %lld s ago: is a clock wrong?",
                       (long long)(-left / 1000));
    secret_free(&entry->token);
    entry->token = secret_dup(str_from(token));
    entry->expires_at_ms = expires_at_ms;
    entry->life_ms = left;
    LOG(EV_JWT_FETCHED, F_STR("spiffe_id", entry->spiffe_id), F_STR("audience", entry->audience),
        F_INT("life_ms", left));
    return true;
}

/* Whoever did not ask for a fresh one is served by the old one while it lives. */
static void entry_fail(struct jwt_entry *entry, const struct err *e)
{
    if (!log_is_repeat(EV_JWT_FETCH_FAILED, e->msg, TELL_AGAIN_MS))
        LOG_ERR(EV_JWT_FETCH_FAILED, e, F_STR("spiffe_id", entry->spiffe_id),
                F_STR("audience", entry->audience));
    LIST_EACH(it, &entry->waiting)
    {
        struct jwt_request *r = CONTAINER_OF(it, struct jwt_request, link);
        if (!r->is_fresh && entry_left_ms(entry) > 0)
            request_answer(r, entry);
        else
            request_fail(r, e);
    }
}

static void on_fetched(void *arg, const struct err *e, const char *token, const char *spiffe_id,
                       int64_t issued_at_ms, int64_t expires_at_ms)
{
    struct jwt_entry *entry = arg;
    struct err why;
    (void)spiffe_id;    /* the one asked for: workload_api sees to it */
    (void)issued_at_ms; /* a token may come half-lived */
    entry->call = NULL;
    if (e != NULL) {
        entry_fail(entry, e);
    } else if (!entry_take(entry, token, expires_at_ms, &why)) {
        entry_fail(entry, &why);
    } else {
        LIST_EACH(it, &entry->waiting)
        {
            request_answer(CONTAINER_OF(it, struct jwt_request, link), entry);
        }
    }
}

static void entry_fetch(struct jwt_entry *entry)
{
    if (entry->call == NULL)
        entry->call = workload_api_fetch_jwt(entry->c->api, entry->audience, entry->spiffe_id,
                                             on_fetched, entry);
}

/* --- requests --- */

NODISCARD static bool request_start(struct jwt_request *r, const char *audience, struct err *e)
{
    struct svid_set *set;
    const struct svid *v;
    if (!svid_store_select(r->c->store, r->role, &set, &v, e))
        return false;
    struct jwt_entry *entry = entry_get(r->c, v, audience);
    svid_set_unref(&set);
    if (entry == NULL)
        return err_set(e, ERR_LIMIT, 0, "%d JWT-SVIDs are being fetched already", JWT_CACHE_MAX);
    int64_t left = entry_left_ms(entry);
    bool is_good = !r->is_fresh && left >= MIN_LIFE_MS;
    if (is_good)
        request_answer(r, entry);
    else
        list_push_back(&entry->waiting, &r->link);
    if (!is_good || left < entry->life_ms / 2)
        entry_fetch(entry);
    return true;
}

struct jwt_request *jwt_cache_get(struct jwt_cache *c, enum svid_role role, const char *audience,
                                  bool fresh, jwt_cache_cb cb, void *arg)
{
    struct err e;
    struct jwt_request *r = xcalloc(1, sizeof *r);
    *r = (struct jwt_request){.c = c, .role = role, .is_fresh = fresh, .cb = cb, .arg = arg};
    list_init(&r->link);
    if (!request_start(r, audience, &e))
        request_fail(r, &e);
    return r;
}

void jwt_cache_cancel(struct jwt_request **r)
{
    if (*r != NULL)
        request_free(*r);
    *r = NULL;
}

/* --- life --- */

/* A redacted identity takes its tokens with it (C22). */
static void on_svids_changed(void *arg)
{
    struct jwt_cache *c = arg;
    const struct svid_set *set = svid_store_current(c->store);
    LIST_EACH(it, &c->entries)
    {
        struct jwt_entry *entry = CONTAINER_OF(it, struct jwt_entry, link);
        if (set != NULL && svid_set_offers(set, entry->spiffe_id))
            continue;
        struct err e;
        err_set(&e, ERR_DENIED, 0, "the agent has taken back %.200s", entry->spiffe_id);
        LIST_EACH(waiting, &entry->waiting)
        {
            request_fail(CONTAINER_OF(waiting, struct jwt_request, link), &e);
        }
        entry_free(entry);
    }
}

struct jwt_cache *jwt_cache_new(struct workload_api *w, struct svid_store *store,
                                const struct clock *clock, uv_loop_t *loop)
{
    struct jwt_cache *c = xcalloc(1, sizeof *c);
    c->api = w;
    c->store = store;
    c->clock = clock;
    list_init(&c->entries);
    list_init(&c->ready);
    c->tell = timer_new(loop, on_tell, c);
    c->watch = svid_store_watch(store, on_svids_changed, c);
    return c;
}

static void cancel_all(struct list *requests)
{
    static const struct err canceled = {.code = ERR_CANCELED, .msg = "stopped"};
    while (!list_is_empty(requests)) {
        struct jwt_request *r = CONTAINER_OF(requests->next, struct jwt_request, link);
        list_remove(&r->link);
        r->cb(r->arg, &canceled, NULL, 0);
        request_free(r);
    }
}

void jwt_cache_free(struct jwt_cache **pc)
{
    struct jwt_cache *c = *pc;
    if (c == NULL)
        return;
    *pc = NULL;
    svid_store_unwatch(&c->watch);
    timer_free(&c->tell);
    cancel_all(&c->ready);
    while (!list_is_empty(&c->entries)) {
        struct jwt_entry *entry = CONTAINER_OF(c->entries.next, struct jwt_entry, link);
        cancel_all(&entry->waiting);
        entry_free(entry);
    }
    free(c);
}
