// SPDX-License-Identifier: Apache-2.0
/* Whatever parses as a path is printable, within its limits, and parses again as itself. */
#include "core/mail_address.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static bool is_printable(struct str s)
{
    for (size_t i = 0; i < s.len; i++)
        if (s.p[i] < ' ' || s.p[i] > '~')
            return false;
    return true;
}

static void check_parsed(struct str raw, const struct mail_path *path, struct str rest)
{
    struct str text = mail_path_str(path), again_rest;
    CHECK(is_printable(text) && strlen(path->text) == text.len);
    CHECK(text.len + 2 <= MAIL_PATH_MAX && path->local_len <= MAIL_LOCAL_MAX);
    CHECK(memmem(raw.p, raw.len, text.p, text.len) != NULL);
    CHECK(rest.len == 0 || (rest.p > raw.p && rest.p + rest.len <= raw.p + raw.len));
    CHECK(mail_path_domain(path).len > 0 || text.len == 0 ||
          str_eq_nocase(text, STR("postmaster")));

    char bracketed[MAIL_PATH_MAX] = "<";
    struct mail_path again;
    memcpy(bracketed + 1, text.p, text.len);
    bracketed[text.len + 1] = '>';
    struct str once_more = {bracketed, text.len + 2};
    CHECK(mail_path_parse(once_more, &again, &again_rest, NULL) && again_rest.len == 0);
    CHECK(str_eq(mail_path_str(&again), text) && mail_path_same(&again, path));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct str raw = {(const char *)data, len}, rest;
    struct mail_path path;
    struct err e = {0};
    if (mail_path_parse(raw, &path, &rest, &e)) {
        check_parsed(raw, &path, rest);
        return 0;
    }
    CHECK(e.code == ERR_SYNTAX || e.code == ERR_DENIED);
    CHECK(e.msg[0] != '\0' && is_printable(str_from(e.msg)));
    return 0;
}
