// SPDX-License-Identifier: Apache-2.0
/* spiffe_id: parse and compare SPIFFE IDs, byte-exact and strict (SPIFFE-ID standard,
 * sections 2.1-2.4). Upper case in scheme or trust domain is refused, nothing is normalised. Layer:
 * core. */
#ifndef SVIDMAIL_CORE_SPIFFE_ID_H
#define SVIDMAIL_CORE_SPIFFE_ID_H
#include "base/err.h"
#include "base/str.h"

#define SPIFFE_ID_MAX           2048
#define SPIFFE_TRUST_DOMAIN_MAX 255

/* A value: copy it freely.  text is NUL-terminated and holds only [a-zA-Z0-9._/:-]. */
struct spiffe_id {
    uint16_t len;
    uint16_t trust_domain_len;
    char text[SPIFFE_ID_MAX + 1];
};

/* The whole ID, root path ("spiffe://td") allowed.  ERR_SYNTAX says which rule failed, peer text
 * escaped. */
NODISCARD bool spiffe_id_parse(struct str raw, struct spiffe_id *out, struct err *e);
/* As above, but a path is required (a workload's ID; X509-SVID 3.1). */
NODISCARD bool spiffe_id_parse_workload(struct str raw, struct spiffe_id *out, struct err *e);
/* Checks a bare trust domain name ("example.org"). */
NODISCARD bool spiffe_trust_domain_check(struct str name, struct err *e);
/* Views into id. */
struct str spiffe_id_trust_domain(const struct spiffe_id *id);
struct str spiffe_id_path(const struct spiffe_id *id); /* "" or "/a/b" */
struct str spiffe_id_str(const struct spiffe_id *id);
bool spiffe_id_equal(const struct spiffe_id *a, const struct spiffe_id *b);

#endif
