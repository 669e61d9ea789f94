// SPDX-License-Identifier: Apache-2.0
/* Whatever parses as a SPIFFE ID is made of what the standard allows, and comes apart without a
 * rest. */
#include "core/spiffe_id.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const char path_bytes[] =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_/";

static void check_parsed(struct str raw, const struct spiffe_id *id)
{
    struct str td = spiffe_id_trust_domain(id), path = spiffe_id_path(id);
    struct spiffe_id again;
    CHECK(str_eq(spiffe_id_str(id), raw) && strlen(id->text) == raw.len);
    CHECK(strlen("spiffe://") + td.len + path.len == raw.len);
    CHECK(spiffe_trust_domain_check(td, NULL));
    CHECK(path.len == 0 || (path.p[0] == '/' && path.p[path.len - 1] != '/'));
    CHECK(strspn(id->text + strlen("spiffe://"), path_bytes) == td.len + path.len);
    CHECK(strstr(id->text + strlen("spiffe://"), "//") == NULL);
    CHECK(spiffe_id_parse_workload(raw, &again, NULL) == (path.len > 0));
    CHECK(path.len == 0 || spiffe_id_equal(id, &again));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct str raw = {(const char *)data, len};
    struct spiffe_id id;
    struct err e = {0};
    if (spiffe_id_parse(raw, &id, &e)) {
        check_parsed(raw, &id);
        return 0;
    }
    CHECK(e.code == ERR_SYNTAX && e.msg[0] != '\0');
    for (const char *p = e.msg; *p != '\0'; p++)
        CHECK(*p >= ' ' && *p < 127);
    CHECK(!spiffe_id_parse_workload(raw, &id, NULL));
    return 0;
}
