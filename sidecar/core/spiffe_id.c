// SPDX-License-Identifier: Apache-2.0
#include "core/spiffe_id.h"

#include <string.h>

#define SHOWN_MAX 128 /* of a refused ID, escaped */

static const struct str scheme = {"spiffe://", 9};

NODISCARD static bool check_path(struct str path, struct err *e);
NODISCARD static bool refuse_byte(char c, const char *where, struct err *e);
static bool is_trust_domain_byte(char c);
static bool is_path_byte(char c);

static bool parse(struct str raw, struct spiffe_id *out, struct err *e)
{
    if (raw.len == 0)
        return err_set(e, ERR_SYNTAX, 0, "it is empty");
    if (raw.len > SPIFFE_ID_MAX)
        return err_set(e, ERR_SYNTAX, 0, "longer than %d bytes", SPIFFE_ID_MAX);
    if (!str_starts_with(raw, scheme))
        return err_set(e, ERR_SYNTAX, 0,
                       str_starts_with_nocase(raw, scheme) ? "the scheme must be in lower case"
                                                           : "it does not begin with spiffe://");
    struct str rest = str_sub(raw, scheme.len, raw.len);
    struct str td = str_sub(rest, 0, str_index(rest, '/'));
    if (!spiffe_trust_domain_check(td, e) || !check_path(str_sub(rest, td.len, rest.len), e))
        return false;
    memset(out, 0, sizeof *out);
    out->len = (uint16_t)raw.len;
    out->trust_domain_len = (uint16_t)td.len;
    memcpy(out->text, raw.p, raw.len);
    return true;
}

bool spiffe_id_parse(struct str raw, struct spiffe_id *out, struct err *e)
{
    char shown[SHOWN_MAX];
    if (parse(raw, out, e))
        return true;
    return err_wrap(e, "SPIFFE ID \"%s\"", str_escape(shown, sizeof shown, raw));
}

bool spiffe_id_parse_workload(struct str raw, struct spiffe_id *out, struct err *e)
{
    char shown[SHOWN_MAX];
    struct spiffe_id id;
    if (!spiffe_id_parse(raw, &id, e))
        return false;
    if (spiffe_id_path(&id).len == 0)
        return err_set(
            e, ERR_SYNTAX, 0,
            "SPIFFE ID \"%s\": it names a whole trust domain; a workload's ID has a path",
            str_escape(shown, sizeof shown, raw));
    *out = id;
    return true;
}

bool spiffe_trust_domain_check(struct str name, struct err *e)
{
    if (name.len == 0)
        return err_set(e, ERR_SYNTAX, 0, "the trust domain is missing");
    if (name.len > SPIFFE_TRUST_DOMAIN_MAX)
        return err_set(e, ERR_SYNTAX, 0, "the trust domain is longer than %d bytes",
                       SPIFFE_TRUST_DOMAIN_MAX);
    for (size_t i = 0; i < name.len; i++)
        if (!is_trust_domain_byte(name.p[i]))
            return refuse_byte(name.p[i], "the trust domain", e);
    return true;
}

struct str spiffe_id_trust_domain(const struct spiffe_id *id)
{
    return str_sub(spiffe_id_str(id), scheme.len, id->trust_domain_len);
}

struct str spiffe_id_path(const struct spiffe_id *id)
{
    return str_sub(spiffe_id_str(id), scheme.len + id->trust_domain_len, id->len);
}

struct str spiffe_id_str(const struct spiffe_id *id)
{
    return (struct str){id->text, id->len};
}

bool spiffe_id_equal(const struct spiffe_id *a, const struct spiffe_id *b)
{
    return str_eq(spiffe_id_str(a), spiffe_id_str(b));
}

static bool check_segment(struct str segment, struct err *e)
{
    if (segment.len == 0)
        return err_set(e, ERR_SYNTAX, 0, "the path has an empty segment or ends in '/'");
    if (str_eq(segment, STR(".")) || str_eq(segment, STR("..")))
        return err_set(e, ERR_SYNTAX, 0, "the path has a segment '.' or '..'");
    for (size_t i = 0; i < segment.len; i++)
        if (!is_path_byte(segment.p[i]))
            return refuse_byte(segment.p[i], "the path", e);
    return true;
}

/* path is empty or begins with '/'. */
static bool check_path(struct str path, struct err *e)
{
    while (path.len > 0) {
        struct str after_slash = str_sub(path, 1, path.len);
        struct str segment = str_sub(after_slash, 0, str_index(after_slash, '/'));
        if (!check_segment(segment, e))
            return false;
        path = str_sub(after_slash, segment.len, after_slash.len);
    }
    return true;
}

static bool refuse_byte(char c, const char *where, struct err *e)
{
    char shown[8];
    const char *hint = "";
    if (c >= 'A' && c <= 'Z')
        hint = " (upper case)";
    else if (c == '%')
        hint = " (no percent-encoding)";
    else if (c == ':')
        hint = " (no port)";
    else if (c == '@')
        hint = " (no user)";
    else if (c == '?' || c == '#')
        hint = " (no query, no fragment)";
    return err_set(e, ERR_SYNTAX, 0, "%s must not hold '%s'%s", where,
                   str_escape(shown, sizeof shown, (struct str){&c, 1}), hint);
}

static bool is_trust_domain_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_';
}

static bool is_path_byte(char c)
{
    return is_trust_domain_byte(c) || (c >= 'A' && c <= 'Z');
}
