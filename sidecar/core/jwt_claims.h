// SPDX-License-Identifier: Apache-2.0
/* jwt_claims: when a JWT-SVID was issued and when it ends, read from the token without judging it:
 * tokens are passed on to AWS, which validates them.  Layer: core. */
#ifndef SVIDMAIL_CORE_JWT_CLAIMS_H
#define SVIDMAIL_CORE_JWT_CLAIMS_H
#include "base/err.h"
#include "base/str.h"

#define JWT_MAX 16384 /* bytes of a token */

struct jwt_claims {
    int64_t issued_at_ms, expires_at_ms; /* iat, exp; 0: not there */
};

/* Compact serialisation only (C34): three base64url parts without padding.  The payload is one JSON
 * object; exp and iat are numbers, each there at most once.  ERR_SYNTAX; the message holds nothing
 * of the token. */
NODISCARD bool jwt_claims_parse(struct str token, struct jwt_claims *out, struct err *e);

#endif
