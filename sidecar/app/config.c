// SPDX-License-Identifier: Apache-2.0
#include "app/config.h"
#include "app/config_read.h"
#include "app/config_schema.h"
#include "app/config_value.h"
#include "aws/partition.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct parse {
    const char *name;
    struct config *c;
    struct config_marks marks;
    struct err *e;
};

static bool fail(struct parse *p, const char *path, size_t item)
{
    return config_fail_at(p->name, config_marks_find(&p->marks, path, item), path, p->e);
}

/* --- rules that look at more than one key */

static bool missing(struct parse *p, const char *path, const char *why)
{
    err_set(p->e, ERR_SYNTAX, 0, "is missing%s%s", why[0] == '\0' ? "" : "; ", why);
    return fail(p, path, CONFIG_NO_ITEM);
}

static bool check_required(struct parse *p)
{
    size_t n;
    const struct config_key *keys = config_keys(&n);
    for (size_t i = 0; i < n; i++)
        if (keys[i].is_required && !config_was_written(&p->marks, keys[i].path))
            return missing(p, keys[i].path, keys[i].help);
    if (p->c->route == CONFIG_ROUTE_SES_API && p->c->ses.region[0] == '\0')
        return missing(p, "ses.region", "route ses-api needs the AWS region, as eu-central-1");
    if (p->c->route == CONFIG_ROUTE_SES_API && p->c->aws.source == CONFIG_SOURCE_WEB_IDENTITY &&
        p->c->aws.role_arn[0] == '\0')
        return missing(p, "aws.role_arn",
                       "source web-identity needs the IAM role, as arn:aws:iam::ACCOUNT:role/NAME");
    return true;
}

/* The spool is switched off by "" only; its default is no mistake. */
static bool check_spool(struct parse *p)
{
    if (!config_was_written(&p->marks, "delivery.spool.path") ||
        p->c->delivery.spool_path[0] == '\0')
        return true;
    err_set(p->e, ERR_SYNTAX, 0, "not in this version: there is no spool yet; allowed: \"\"");
    return fail(p, "delivery.spool.path", CONFIG_NO_ITEM);
}

static bool check_repeats(struct parse *p)
{
    const struct listen_address *at = p->c->smtp.addresses;
    for (size_t i = 0; i < p->c->smtp.n_addresses; i++)
        for (size_t before = 0; before < i; before++) {
            if (!listen_address_same(&at[i], &at[before]))
                continue;
            err_set(p->e, ERR_SYNTAX, 0, "\"%s\" is there twice; allowed: each address once",
                    p->c->smtp.listen[i]);
            return fail(p, "smtp.listen", i);
        }
    return true;
}

static bool check_listeners(struct parse *p)
{
    struct config *c = p->c;
    for (size_t i = 0; i < c->smtp.n_addresses; i++) {
        if (c->smtp.addresses[i].is_loopback || c->smtp.allow_any_address)
            continue;
        err_set(p->e, ERR_DENIED, 0,
                "\"%s\" can be reached from outside of the pod, and there is no password; allowed: "
                "127.0.0.1:PORT, [::1]:PORT, unix:/PATH, or smtp.allow_any_address: true",
                c->smtp.listen[i]);
        return fail(p, "smtp.listen", i);
    }
    return true;
}

/* --- what follows from the values */

static size_t count(char **list)
{
    size_t n = 0;
    while (list[n] != NULL)
        n++;
    return n;
}

static void derive_lists(struct config *c)
{
    c->smtp.n_addresses = count(c->smtp.listen);
    c->smtp.addresses = xcalloc(c->smtp.n_addresses, sizeof *c->smtp.addresses);
    for (size_t i = 0; i < c->smtp.n_addresses; i++)
        CHECK(listen_address_parse(str_from(c->smtp.listen[i]), &c->smtp.addresses[i], NULL));
    c->gateway.n_ids = count(c->gateway.spiffe_ids);
    c->gateway.ids = xcalloc(c->gateway.n_ids, sizeof *c->gateway.ids);
    for (size_t i = 0; i < c->gateway.n_ids; i++)
        CHECK(
            spiffe_id_parse_workload(str_from(c->gateway.spiffe_ids[i]), &c->gateway.ids[i], NULL));
}

static char *derive_host(const char *service, const char *endpoint, const char *region)
{
    if (endpoint[0] != '\0')
        return xstrdup(endpoint);
    if (region[0] == '\0')
        return xstrdup("");
    return xasprintf("%s.%s.%s", service, region, partition_of_region(str_from(region))->domain);
}

static void derive_hosts(struct config *c)
{
    const char *sts_region = c->aws.sts_region[0] != '\0' ? c->aws.sts_region : c->ses.region;
    c->ses.host = derive_host("email", c->ses.endpoint, c->ses.region);
    c->aws.sts_host = derive_host("sts", c->aws.sts_endpoint, sts_region);
}

/* --- */

bool config_parse(const char *name, struct str text, struct config **out, struct err *e)
{
    struct parse p = {.name = name, .c = xcalloc(1, sizeof *p.c), .e = e};
    config_value_preset_all(p.c);
    bool ok = config_read(name, text, p.c, &p.marks, e);
    if (ok) {
        derive_lists(p.c);
        derive_hosts(p.c);
        ok = check_required(&p) && check_spool(&p) && check_listeners(&p) && check_repeats(&p);
    }
    config_marks_release(&p.marks);
    if (!ok)
        config_free(&p.c);
    *out = p.c;
    return ok;
}

/* At most one byte more than allowed, so that too much is seen. */
static bool read_file(const char *file, struct buf *b, struct err *e)
{
    AUTO_CLOSE int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd == -1)
        return err_set(e, ERR_UNAVAIL, errno, "%s", file);
    for (;;) {
        char piece[16384];
        ssize_t n = read(fd, piece, sizeof piece);
        if (n == -1 && errno == EINTR)
            continue;
        if (n == -1)
            return err_set(e, ERR_IO, errno, "%s", file);
        if (n == 0)
            return true;
        if (!buf_append(b, piece, (size_t)n))
            return err_set(e, ERR_LIMIT, 0, "%s: too large; allowed: %d bytes", file,
                           CONFIG_FILE_MAX_BYTES);
    }
}

bool config_load(const char *file, struct config **out, struct err *e)
{
    struct buf b;
    buf_init(&b, CONFIG_FILE_MAX_BYTES);
    *out = NULL;
    bool ok = read_file(file, &b, e) && config_parse(file, buf_str(&b), out, e);
    if (ok)
        (*out)->file = xstrdup(file);
    buf_release(&b);
    return ok;
}

static void free_values(struct config *c)
{
    size_t n;
    const struct config_key *keys = config_keys(&n);
    for (size_t i = 0; i < n; i++) {
        char *field = (char *)c + keys[i].offset;
        if (keys[i].type == CT_STRING)
            free(*(char **)(void *)field);
        if (keys[i].type == CT_LIST) {
            config_value_clear_list(&keys[i], c);
            free(*(char ***)(void *)field);
        }
    }
}

void config_free(struct config **c)
{
    if (*c == NULL)
        return;
    free_values(*c);
    for (size_t i = 0; i < (*c)->ses.n_tags; i++) {
        free((*c)->ses.tags[i].name);
        free((*c)->ses.tags[i].value);
    }
    free((*c)->ses.tags);
    free((*c)->smtp.addresses);
    free((*c)->gateway.ids);
    free((*c)->ses.host);
    free((*c)->aws.sts_host);
    free((*c)->file);
    free(*c);
    *c = NULL;
}
