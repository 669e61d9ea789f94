// SPDX-License-Identifier: Apache-2.0
#include "core/policy.h"

#include <string.h>

static bool matches(struct str pattern, const struct mail_path *path)
{
    if (str_eq(pattern, STR("*")))
        return true;
    if (str_starts_with(pattern, STR("@")))
        return pattern.len > 1 &&
               str_eq_nocase(str_sub(pattern, 1, pattern.len), mail_path_domain(path));
    struct mail_path wanted; /* the same address may be written in several ways */
    struct str rest;
    return mail_path_parse(pattern, &wanted, &rest, NULL) && mail_path_same_nocase(&wanted, path);
}

static bool is_empty(char **patterns)
{
    return patterns == NULL || patterns[0] == NULL;
}

static bool any_matches(char **patterns, const struct mail_path *path)
{
    if (is_empty(patterns))
        return false;
    for (char **z = patterns; *z != NULL; z++)
        if (matches(str_from(*z), path))
            return true;
    return false;
}

bool policy_allows_sender(const struct policy_config *c, const struct mail_path *from)
{
    return is_empty(c->senders) || any_matches(c->senders, from);
}

bool policy_allows_recipient(const struct policy_config *c, const struct mail_path *to)
{
    if (any_matches(c->recipients_deny, to))
        return false;
    return is_empty(c->recipients_allow) || any_matches(c->recipients_allow, to);
}

bool policy_pattern_check(struct str pattern, struct err *e)
{
    if (str_eq(pattern, STR("*")))
        return true;
    char address[MAIL_PATH_MAX + 1] = "x"; /* a local part for "@domain" */
    struct str whole = pattern;
    if (str_starts_with(pattern, STR("@")) && pattern.len < MAIL_PATH_MAX) {
        memcpy(address + 1, pattern.p, pattern.len);
        whole = (struct str){address, pattern.len + 1};
    }
    struct mail_path path;
    struct str rest;
    struct err why;
    char shown[64];
    str_escape(shown, sizeof shown, pattern);
    if (str_index(pattern, '*') < pattern.len) /* legal in a local part, but never meant so */
        return err_set(e, ERR_SYNTAX, 0, "pattern \"%s\": '*' stands alone or not at all", shown);
    if (!mail_path_parse(whole, &path, &rest, &why))
        return err_set(e, ERR_SYNTAX, 0, "pattern \"%s\": %s", shown, why.msg);
    /* nothing but the mailbox: no brackets, no route, no spaces */
    if (!str_eq(mail_path_str(&path), whole) || path.local_len == path.len)
        return err_set(e, ERR_SYNTAX, 0, "pattern \"%s\" is neither user@domain, @domain nor *",
                       shown);
    return true;
}
