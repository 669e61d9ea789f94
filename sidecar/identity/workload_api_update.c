// SPDX-License-Identifier: Apache-2.0
/* One X509SVIDResponse -> one svid_set.  A message is the whole state (C14): what is not in it is
 * not in the set (C15-C17, C22).  Refused as a whole (C18), with the former state left standing: no
 * SVID, an SVID with an empty or unusable part, more than the caps allow.  Judged one by one: the
 * bundles of foreign trust domains, expired SVIDs beside a good one, CRLs. */
#include "identity/workload_api_private.h"
#include "base/mem.h"
#include "core/x509_svid.h"
#include "sys/log.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#define TELL_AGAIN_MS 600000
#define CRLS_MAX      64

static struct str bytes_of(ProtobufCBinaryData b)
{
    return (struct str){b.data == NULL ? "" : (const char *)b.data, b.len};
}

/* --- digest --- */

static void digest_field(EVP_MD_CTX *ctx, struct str s)
{
    uint64_t len = s.len;
    CHECK(EVP_DigestUpdate(ctx, &len, sizeof len) == 1 && EVP_DigestUpdate(ctx, s.p, s.len) == 1);
}

static int compare_entries(const void *a, const void *b)
{
    const X509SVIDResponse__FederatedBundlesEntry *const *x = a, *const *y = b;
    return strcmp((*x)->key, (*y)->key);
}

/* The federated bundles by name; free() the array. */
static X509SVIDResponse__FederatedBundlesEntry **sort_federated(const X509SVIDResponse *m)
{
    size_t n = m->n_federated_bundles;
    X509SVIDResponse__FederatedBundlesEntry **sorted = xcalloc(n, sizeof *sorted);
    for (size_t i = 0; i < n; i++)
        sorted[i] = m->federated_bundles[i];
    qsort(sorted, n, sizeof *sorted, compare_entries);
    return sorted;
}

void workload_update_digest(const X509SVIDResponse *m, unsigned char out[WORKLOAD_DIGEST_LEN])
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    CHECK(ctx != NULL && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1);
    for (size_t i = 0; i < m->n_svids; i++) { /* the key is told by its certificate */
        digest_field(ctx, str_from(m->svids[i]->spiffe_id));
        digest_field(ctx, bytes_of(m->svids[i]->x509_svid));
        digest_field(ctx, bytes_of(m->svids[i]->bundle));
        digest_field(ctx, str_from(m->svids[i]->hint));
    }
    digest_field(ctx, STR("bundles"));
    X509SVIDResponse__FederatedBundlesEntry **sorted = sort_federated(m);
    for (size_t i = 0; i < m->n_federated_bundles; i++) {
        digest_field(ctx, str_from(sorted[i]->key));
        digest_field(ctx, bytes_of(sorted[i]->value));
    }
    free(sorted);
    digest_field(ctx, STR("crls"));
    for (size_t i = 0; i < m->n_crl; i++)
        digest_field(ctx, bytes_of(m->crl[i]));
    CHECK(EVP_DigestFinal_ex(ctx, out, NULL) == 1);
    EVP_MD_CTX_free(ctx);
}

/* --- bundles --- */

static void tell_bundle(enum log_event event, struct str td, const struct err *e)
{
    char name[SPIFFE_TRUST_DOMAIN_MAX + 1];
    if (!log_is_repeat(event, str_copy(name, sizeof name, td), TELL_AGAIN_MS))
        LOG_ERR(event, e, F_STR("trust_domain", name));
}

static bool has_bundle(const struct svid_set *set, struct str td)
{
    for (size_t i = 0; i < set->n_bundles; i++)
        if (str_eq(str_from(set->bundles[i].trust_domain), td))
            return true;
    return false;
}

/* cas may be empty: an untrusted domain.  Bundles are never merged (C33): the first one of a name
 * counts. */
static void add_bundle(struct svid_set *set, struct str td, STACK_OF(X509) *cas, bool is_own)
{
    int n = sk_X509_num(cas);
    set->bundles[set->n_bundles++] = (struct svid_bundle){
        .trust_domain = str_dup(td),
        .store = n > 0 ? x509_store_new(cas) : NULL,
        .n_cas = n > 0 ? n : 0,
        .is_own = is_own,
    };
}

/* Whatever is wrong with it concerns this trust domain alone. */
static void add_federated(struct svid_set *set,
                          const X509SVIDResponse__FederatedBundlesEntry *entry)
{
    struct spiffe_id id;
    struct err e;
    STACK_OF(X509) *cas = NULL;
    if (!spiffe_id_parse(str_from(entry->key), &id, &e) ||
        (spiffe_id_path(&id).len > 0 && !err_set(&e, ERR_SYNTAX, 0, "it has a path"))) {
        err_wrap(&e, "the name of a federated bundle is not that of a trust domain");
        tell_bundle(EV_BUNDLE_IGNORED, STR(""), &e);
        return;
    }
    struct str td = spiffe_id_trust_domain(&id);
    if (has_bundle(set, td)) {
        err_set(&e, ERR_SYNTAX, 0,
                "it stands among the federated bundles, but came with an SVID too");
        tell_bundle(EV_BUNDLE_IGNORED, td, &e);
        return;
    }
    bool ok = x509_bundle_parse(bytes_of(entry->value), &cas, &e);
    if (ok && sk_X509_num(cas) == 0)
        ok = err_set(&e, ERR_SYNTAX, 0, "it holds no CA certificate");
    if (!ok)
        tell_bundle(EV_BUNDLE_UNUSABLE, td, &e);
    add_bundle(set, td, ok ? cas : NULL, false);
    sk_X509_pop_free(cas, X509_free);
}

static void add_all_federated(struct svid_set *set, const X509SVIDResponse *m)
{
    X509SVIDResponse__FederatedBundlesEntry **sorted = sort_federated(m);
    size_t n = m->n_federated_bundles;
    if (n > SVID_BUNDLES_MAX) { /* by name, so that it is always the same ones */
        struct err e;
        err_set(&e, ERR_LIMIT, 0, "%zu federated bundles, only the first %d are used", n,
                SVID_BUNDLES_MAX);
        tell_bundle(EV_BUNDLE_UNUSABLE, STR(""), &e);
        n = SVID_BUNDLES_MAX;
    }
    for (size_t i = 0; i < n; i++)
        add_federated(set, sorted[i]);
    free(sorted);
}

/* --- CRLs --- */

/* A CRL may be late or missing for one CA of several; only what it lists is refused. */
static int on_verify(int ok, X509_STORE_CTX *ctx)
{
    int error = X509_STORE_CTX_get_error(ctx);
    if (ok || (error != X509_V_ERR_UNABLE_TO_GET_CRL && error != X509_V_ERR_CRL_HAS_EXPIRED &&
               error != X509_V_ERR_CRL_NOT_YET_VALID))
        return ok;
    X509_STORE_CTX_set_error(ctx, X509_V_OK);
    return 1;
}

static bool is_issuer(const X509_OBJECT *object, X509_CRL *crl)
{
    X509 *ca = X509_OBJECT_get0_X509(object);
    return ca != NULL && X509_NAME_cmp(X509_get_subject_name(ca), X509_CRL_get_issuer(crl)) == 0 &&
           X509_CRL_verify(crl, X509_get0_pubkey(ca)) == 1;
}

/* To the trust domain whose CA has signed it, and no other. */
static void add_crl(struct svid_set *set, X509_CRL *crl)
{
    for (size_t i = 0; i < set->n_bundles; i++) {
        X509_STORE *store = set->bundles[i].store;
        STACK_OF(X509_OBJECT) *objects = store != NULL ? X509_STORE_get0_objects(store) : NULL;
        for (int k = 0; k < sk_X509_OBJECT_num(objects); k++) {
            if (!is_issuer(sk_X509_OBJECT_value(objects, k), crl))
                continue;
            CHECK(X509_STORE_add_crl(store, crl) == 1);
            X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK);
            X509_STORE_set_verify_cb(store, on_verify);
            break;
        }
    }
}

static void add_all_crls(struct svid_set *set, const X509SVIDResponse *m)
{
    for (size_t i = 0; i < m->n_crl && i < CRLS_MAX; i++) {
        const unsigned char *at = m->crl[i].data;
        X509_CRL *crl = d2i_X509_CRL(NULL, &at, (long)m->crl[i].len);
        if (crl != NULL)
            add_crl(set, crl);
        X509_CRL_free(crl);
    }
    ERR_clear_error();
}

/* --- SVIDs --- */

struct parts {
    STACK_OF(X509) *chain, *bundle;
    EVP_PKEY *key;
};

NODISCARD static bool parse_parts(const X509SVID *v, struct parts *p, struct err *e)
{
    if (!x509_certs_parse(bytes_of(v->x509_svid), X509_CHAIN_MAX, &p->chain, e))
        return err_wrap(e, "x509_svid");
    return x509_key_parse(bytes_of(v->x509_svid_key), &p->key, e) &&
           x509_bundle_parse(bytes_of(v->bundle), &p->bundle, e);
}

/* On success the chain and the key have moved into *out. */
NODISCARD static bool build_svid(const X509SVID *v, int64_t wall_ms, struct parts *p,
                                 struct svid *out, struct err *e)
{
    if (!parse_parts(v, p, e))
        return false;
    if (!x509_validity(sk_X509_value(p->chain, 0), &out->not_before_ms, &out->not_after_ms))
        return err_set(e, ERR_SYNTAX, 0, "its validity cannot be read");
    /* One of the near future is kept and waits in the store: this node's clock may be behind. */
    int64_t at_ms = wall_ms > out->not_before_ms ? wall_ms : out->not_before_ms;
    if (!x509_svid_check_own(p->chain, p->key, p->bundle, str_from(v->spiffe_id), at_ms, &out->id,
                             e))
        return false;
    out->hint = str_dup(str_sub(str_from(v->hint), 0, SVID_HINT_MAX));
    out->chain = p->chain;
    out->key = p->key;
    p->chain = NULL;
    p->key = NULL;
    return true;
}

NODISCARD static bool add_svid(struct svid_set *set, const X509SVID *v, int64_t wall_ms,
                               struct err *e)
{
    struct parts p = {NULL, NULL, NULL};
    bool ok = build_svid(v, wall_ms, &p, &set->svids[set->n_svids], e);
    if (ok) {
        struct str td = spiffe_id_trust_domain(&set->svids[set->n_svids++].id);
        if (!has_bundle(set, td))
            add_bundle(set, td, p.bundle, true);
    } else {
        char id[160];
        err_wrap(e, "SVID \"%s\"", str_escape(id, sizeof id, str_from(v->spiffe_id)));
    }
    sk_X509_pop_free(p.chain, X509_free);
    sk_X509_pop_free(p.bundle, X509_free);
    EVP_PKEY_free(p.key);
    return ok;
}

NODISCARD static bool add_all_svids(struct svid_set *set, const X509SVIDResponse *m,
                                    int64_t wall_ms, struct err *e)
{
    struct err expired = {.code = ERR_NONE};
    for (size_t i = 0; i < m->n_svids; i++) {
        if (add_svid(set, m->svids[i], wall_ms, e))
            continue;
        if (e->code != ERR_EXPIRED)
            return false;
        expired = *e;
        if (!log_is_repeat(EV_SVID_EXPIRED, m->svids[i]->spiffe_id, TELL_AGAIN_MS))
            LOG_ERR(EV_SVID_EXPIRED, e, F_STR("role", ""));
    }
    *e = expired;
    return set->n_svids > 0;
}

bool workload_update_build(const X509SVIDResponse *m, int64_t wall_ms, struct svid_set **out,
                           struct err *e)
{
    *out = NULL;
    if (m->n_svids == 0)
        return err_set(e, ERR_SYNTAX, 0, "the agent's message holds no SVID");
    if (m->n_svids > SVID_SET_MAX)
        return err_set(e, ERR_LIMIT, 0, "the agent's message holds %zu SVIDs, at most %d are taken",
                       m->n_svids, SVID_SET_MAX);
    size_t n_federated = m->n_federated_bundles;
    if (n_federated > SVID_BUNDLES_MAX)
        n_federated = SVID_BUNDLES_MAX;
    struct svid_set *set = svid_set_new(m->n_svids, m->n_svids + n_federated);
    if (!add_all_svids(set, m, wall_ms, e)) {
        svid_set_unref(&set);
        return err_wrap(e, "the agent's message");
    }
    add_all_federated(set, m);
    add_all_crls(set, m);
    *out = set;
    return true;
}
