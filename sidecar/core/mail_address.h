// SPDX-License-Identifier: Apache-2.0
/* mail_address: mailbox paths of MAIL and RCPT (RFC 5321 4.1.2), strict about controls and 8-bit
 * bytes (SES has no SMTPUTF8), lenient about one space after the colon and missing angle brackets.
 * Layer: core. */
#ifndef SVIDMAIL_CORE_MAIL_ADDRESS_H
#define SVIDMAIL_CORE_MAIL_ADDRESS_H
#include "base/err.h"
#include "base/str.h"

#define MAIL_LOCAL_MAX  64
#define MAIL_DOMAIN_MAX 255
#define MAIL_PATH_MAX   256

/* A checked mailbox: printable ASCII without CR, LF or NUL; "" is the null reverse path; a source
 * route has been dropped; "postmaster" may stand without a domain.  text is local part, '@',
 * domain, as written. */
struct mail_path {
    uint16_t len;
    uint16_t local_len; /* bytes before the '@'; len if there is no domain */
    char text[MAIL_LOCAL_MAX + MAIL_DOMAIN_MAX + 2];
};

/* raw starts behind the colon of "FROM:"; *rest is what follows the path, trimmed: the parameters;
 * untouched on failure.  ERR_DENIED: a byte over 127 where the path went wrong (553 5.6.7);
 * ERR_SYNTAX: all else.  The message holds no peer byte but one printable character. */
NODISCARD bool mail_path_parse(struct str raw, struct mail_path *out, struct str *rest,
                               struct err *e);
struct str mail_path_str(const struct mail_path *p);
struct str mail_path_local(const struct mail_path *p);
struct str mail_path_domain(const struct mail_path *p);
/* Local part byte by byte, domain without case: for dropping repeated recipients.  Quotes and the
 * backslashes of quoted pairs are no part of a local part's value (RFC 5321 4.1.2). */
bool mail_path_same(const struct mail_path *a, const struct mail_path *b);
/* As mail_path_same(), the local part without case too. */
bool mail_path_same_nocase(const struct mail_path *a, const struct mail_path *b);

#endif
