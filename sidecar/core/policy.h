// SPDX-License-Identifier: Apache-2.0
/* policy: may this sender, may this recipient.  A help for honest apps, no boundary
 * (threat-model.md).  Patterns: "user@domain", "@domain" (exactly that domain), "*".  Upper and
 * lower case are one, in the local part too, and so are "user"@domain and user@domain: a deny list
 * that a capital or a quote passes would help nobody.
 * Layer: core. */
#ifndef SVIDMAIL_CORE_POLICY_H
#define SVIDMAIL_CORE_POLICY_H
#include "core/mail_address.h"

struct policy_config {
    char **senders;          /* NULL-terminated; NULL or empty: any */
    char **recipients_allow; /* same */
    char **recipients_deny;  /* wins over allow */
};

/* The null sender passes only a list with "*", or no list. */
bool policy_allows_sender(const struct policy_config *c, const struct mail_path *from);
bool policy_allows_recipient(const struct policy_config *c, const struct mail_path *to);
/* ERR_SYNTAX: the pattern is none of the forms above. */
NODISCARD bool policy_pattern_check(struct str pattern, struct err *e);

#endif
