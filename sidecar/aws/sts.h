// SPDX-License-Identifier: Apache-2.0
/* sts: credentials by AssumeRoleWithWebIdentity: a JWT-SVID for temporary keys, always end to end
 * (the gateway must not see the answer).  Source: STS API reference 2011-06-15.  Layer: aws.
 * Thread: loop. */
#ifndef SVIDMAIL_AWS_STS_H
#define SVIDMAIL_AWS_STS_H
#include "aws/credentials.h"
#include "aws/http.h"
#include "identity/jwt_cache.h"

struct sts_config {
    const char *host; /* sts.<region>.amazonaws.com */
    const char *role_arn, *session_name,
        *audience; /* session_name "": from the SPIFFE ID of the token */
    unsigned duration_s;
};
/* Role session name from a SPIFFE ID: 2-64 bytes of [A-Za-z0-9_+=,.@-], a hash when it had to be
 * cut. */
char *sts_session_name(char out[65], const char *spiffe_id);

struct credentials_source sts_source_new(const struct sts_config *cfg, struct http *http,
                                         struct tunnel *tunnel, struct jwt_cache *jwts,
                                         struct svid_store *store, const struct clock *clock);

#endif
