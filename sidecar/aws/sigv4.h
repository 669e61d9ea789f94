// SPDX-License-Identifier: Apache-2.0
/* sigv4: AWS Signature Version 4, AWS4-HMAC-SHA256 (the AWS4-X509-* forms will share all but the
 * last step). Pure.  Source: AWS General Reference, "Signing AWS API requests".  Layer: aws. */
#ifndef SVIDMAIL_AWS_SIGV4_H
#define SVIDMAIL_AWS_SIGV4_H
#include "base/buf.h"
#include "base/err.h"

#define SIGV4_SHA256_HEX 65

struct sigv4_header {
    const char *name, *value; /* any case; value as sent */
};

struct sigv4_request {
    const char *method;
    struct str path;                    /* as sent on the wire, not yet canonical; "" is "/" */
    struct str query;                   /* without '?', as sent, "" if none */
    const struct sigv4_header *headers; /* all of them are signed; must hold host */
    size_t n_headers;
    const char *body_sha256; /* lower-case hex */
    bool normalize_path; /* every service but S3: dot segments and double slashes removed, encoded
                            twice */
};

/* What the secret key becomes for one day, region and service: kept by the caller from one
 * signature to the next, zeroed with each new secret key, and a secret itself. */
struct sigv4_key {
    char date[9];
    unsigned char bytes[32];
};

struct sigv4_credentials {
    const char *access_key_id, *secret_access_key; /* a session token is a header of its own */
    struct sigv4_key *key;                         /* NULL: derived anew each time */
};

struct sigv4_scope {
    const char *region, *service;
    int64_t wall_ms;
};

/* "20261123T172604Z" into out (17 bytes). */
char *sigv4_date(char *out, int64_t wall_ms);
void sigv4_sha256_hex(struct str bytes, char out[SIGV4_SHA256_HEX]);
/* The same of a digest that is there. */
void sigv4_format_sha256(const unsigned char digest[32], char out[SIGV4_SHA256_HEX]);
/* The value of the Authorization header.  Also gives canonical request and string to sign, if not
 * NULL (for tests and the debug log: they hold no secret but the session token). */
NODISCARD bool sigv4_sign(const struct sigv4_request *r, const struct sigv4_credentials *c,
                          const struct sigv4_scope *s, struct buf *authorization,
                          struct buf *canonical, struct buf *string_to_sign, struct err *e);

#endif
