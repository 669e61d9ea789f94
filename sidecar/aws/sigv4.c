// SPDX-License-Identifier: Apache-2.0
#include "aws/sigv4.h"

#include "base/mem.h"
#include "base/secret.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ALGORITHM     "AWS4-HMAC-SHA256"
#define HEADERS_MAX   64
#define TARGET_MAX    (16u << 10) /* bytes of path or query */
#define CANONICAL_MAX (128u << 10)
#define DATE_LEN      8 /* "20261123" of "20261123T172604Z" */

struct param {
    struct str name, value; /* encoded */
};

static const char hex_lower[] = "0123456789abcdef";
static const char hex_upper[] = "0123456789ABCDEF";

char *sigv4_date(char *out, int64_t wall_ms)
{
    time_t s = (time_t)(wall_ms / 1000);
    struct tm tm;
    CHECK(gmtime_r(&s, &tm) != NULL);
    CHECK(strftime(out, 17, "%Y%m%dT%H%M%SZ", &tm) == 16);
    return out;
}

void sigv4_format_sha256(const unsigned char digest[32], char out[SIGV4_SHA256_HEX])
{
    for (size_t i = 0; i < 32; i++) {
        out[2 * i] = hex_lower[digest[i] >> 4];
        out[2 * i + 1] = hex_lower[digest[i] & 15];
    }
    out[64] = '\0';
}

void sigv4_sha256_hex(struct str bytes, char out[SIGV4_SHA256_HEX])
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    CHECK(EVP_Digest(bytes.p, bytes.len, digest, NULL, EVP_sha256(), NULL) == 1);
    sigv4_format_sha256(digest, out);
}

static bool is_unreserved(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_' || c == '~';
}

/* Percent-encodes all but the unreserved bytes of RFC 3986 and those in keep; out has room for 3 *
 * s.len. */
static size_t encode(struct str s, const char *keep, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (is_unreserved(s.p[i]) || (c != '\0' && strchr(keep, c) != NULL)) {
            out[n++] = s.p[i];
            continue;
        }
        out[n++] = '%';
        out[n++] = hex_upper[c >> 4];
        out[n++] = hex_upper[c & 15];
    }
    return n;
}

static bool append_encoded(struct buf *b, struct str s, const char *keep)
{
    AUTO_FREE char *out = xcalloc(3 * s.len, 1);
    return buf_append(b, out, encode(s, keep, out));
}

/* The next segment of a path; *at moves behind its slash. */
static struct str next_segment(struct str path, size_t *at)
{
    struct str rest = str_sub(path, *at, path.len - *at);
    struct str segment = str_sub(rest, 0, str_index(rest, '/'));
    *at += segment.len + 1;
    return segment;
}

/* Without empty and "." segments; ".." takes its predecessor along.  Returns how many are left. */
static size_t collect_segments(struct str path, struct str *out)
{
    size_t n = 0;
    for (size_t at = 1; at <= path.len;) {
        struct str segment = next_segment(path, &at);
        if (segment.len == 0 || str_eq(segment, STR(".")))
            continue;
        if (!str_eq(segment, STR("..")))
            out[n++] = segment;
        else if (n > 0)
            n--;
    }
    return n;
}

static bool append_normalized_path(struct buf *b, struct str path)
{
    AUTO_FREE struct str *segments = xcalloc(path.len + 1, sizeof *segments);
    size_t n = collect_segments(path, segments);
    bool ok = buf_append(b, "/", 1);
    for (size_t i = 0; ok && i < n; i++)
        ok = (i == 0 || buf_append(b, "/", 1)) && append_encoded(b, segments[i], "");
    if (ok && n > 0 && path.p[path.len - 1] == '/')
        ok = buf_append(b, "/", 1);
    return ok;
}

static bool append_path(struct buf *b, const struct sigv4_request *r)
{
    if (r->path.len == 0)
        return buf_append(b, "/", 1);
    if (r->normalize_path)
        return append_normalized_path(b, r->path);
    return append_encoded(b, r->path, "%/"); /* S3: encoded once, which the wire form already is */
}

static int compare_str(struct str a, struct str b)
{
    int order = memcmp(a.p, b.p, a.len < b.len ? a.len : b.len);
    if (order != 0)
        return order;
    return (a.len > b.len) - (a.len < b.len);
}

static int compare_params(const void *left, const void *right)
{
    const struct param *a = left, *b = right;
    int order = compare_str(a->name, b->name);
    return order != 0 ? order : compare_str(a->value, b->value);
}

/* scratch has room for 3 * query.len. */
static size_t collect_params(struct str query, char *scratch, struct param *out)
{
    size_t n = 0;
    for (struct str rest = query;;) {
        struct str pair = str_sub(rest, 0, str_index(rest, '&'));
        size_t equals = str_index(pair, '=');
        out[n].name = (struct str){scratch, encode(str_sub(pair, 0, equals), "%", scratch)};
        scratch += out[n].name.len;
        out[n].value =
            (struct str){scratch, encode(str_sub(pair, equals + 1, pair.len), "%", scratch)};
        scratch += out[n].value.len;
        n++;
        if (pair.len == rest.len)
            return n;
        rest = str_sub(rest, pair.len + 1, rest.len);
    }
}

static bool append_query(struct buf *b, struct str query)
{
    if (query.len == 0)
        return true;
    AUTO_FREE struct param *params = xcalloc(query.len + 1, sizeof *params);
    AUTO_FREE char *scratch = xcalloc(3 * query.len, 1);
    size_t n = collect_params(query, scratch, params);
    qsort(params, n, sizeof *params, compare_params);
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++)
        ok = (i == 0 || buf_append(b, "&", 1)) && buf_append_str(b, params[i].name) &&
             buf_append(b, "=", 1) && buf_append_str(b, params[i].value);
    return ok;
}

static int compare_names(const char *a, const char *b)
{
    for (; *a != '\0' && ascii_lower(*a) == ascii_lower(*b); a++)
        b++;
    return (unsigned char)ascii_lower(*a) - (unsigned char)ascii_lower(*b);
}

/* By name; headers of one name stay in the order they are sent in. */
static int compare_headers(const void *left, const void *right)
{
    const struct sigv4_header *const *a = left, *const *b = right;
    int order = compare_names((*a)->name, (*b)->name);
    return order != 0 ? order : (*a > *b) - (*a < *b);
}

static bool append_lower(struct buf *b, const char *z)
{
    for (; *z != '\0'; z++) {
        char c = ascii_lower(*z);
        if (!buf_append(b, &c, 1))
            return false;
    }
    return true;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Trimmed, and each run of white space is one space. */
static bool append_value(struct buf *b, const char *z)
{
    bool is_first = true;
    while (*z != '\0') {
        while (is_space(*z))
            z++;
        size_t n = 0;
        while (z[n] != '\0' && !is_space(z[n]))
            n++;
        if (n > 0 && ((!is_first && !buf_append(b, " ", 1)) || !buf_append(b, z, n)))
            return false;
        is_first = false;
        z += n;
    }
    return true;
}

/* names: "host;x-amz-date". */
static bool append_headers(struct buf *b, const struct sigv4_header *const *sorted, size_t n,
                           struct buf *names)
{
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++) {
        if (i > 0 && compare_names(sorted[i - 1]->name, sorted[i]->name) == 0) {
            ok = buf_append(b, ",", 1) && append_value(b, sorted[i]->value);
            continue;
        }
        ok = (i == 0 || (buf_append(b, "\n", 1) && buf_append(names, ";", 1))) &&
             append_lower(names, sorted[i]->name) && append_lower(b, sorted[i]->name) &&
             buf_append(b, ":", 1) && append_value(b, sorted[i]->value);
    }
    return ok && buf_append(b, "\n", 1);
}

static bool append_canonical(const struct sigv4_request *r, struct buf *b, struct buf *names)
{
    const struct sigv4_header *sorted[HEADERS_MAX];
    for (size_t i = 0; i < r->n_headers; i++)
        sorted[i] = &r->headers[i];
    qsort(sorted, r->n_headers, sizeof sorted[0], compare_headers);
    return buf_append_str(b, str_from(r->method)) && buf_append(b, "\n", 1) && append_path(b, r) &&
           buf_append(b, "\n", 1) && append_query(b, r->query) && buf_append(b, "\n", 1) &&
           append_headers(b, sorted, r->n_headers, names) && buf_append(b, "\n", 1) &&
           buf_append_str(b, buf_str(names)) && buf_append(b, "\n", 1) &&
           buf_append_str(b, str_from(r->body_sha256));
}

static void hmac(const void *key, size_t key_len, struct str text, unsigned char out[32])
{
    unsigned n = 32;
    CHECK(HMAC(EVP_sha256(), key, (int)key_len, (const unsigned char *)text.p, text.len, out, &n) !=
          NULL);
}

static void derive_key(const struct sigv4_credentials *c, const struct sigv4_scope *s,
                       const char *date, unsigned char out[32])
{
    struct buf secret;
    buf_init(&secret, 1024);
    CHECK(buf_printf(&secret, "AWS4%s", c->secret_access_key));
    unsigned char key[32];
    hmac(secret.p, secret.len, (struct str){date, DATE_LEN}, out);
    buf_release_secret(&secret);
    hmac(out, 32, str_from(s->region), key);
    hmac(key, sizeof key, str_from(s->service), out);
    hmac(out, 32, STR("aws4_request"), key);
    memcpy(out, key, sizeof key);
    secret_wipe(key, sizeof key);
}

static void derive_signature(const struct sigv4_credentials *c, const struct sigv4_scope *s,
                             const char *date, struct str string_to_sign,
                             char out[SIGV4_SHA256_HEX])
{
    struct sigv4_key once = {0}, *key = c->key != NULL ? c->key : &once;
    unsigned char signature[32];
    if (memcmp(key->date, date, DATE_LEN) != 0) {
        derive_key(c, s, date, key->bytes);
        memcpy(key->date, date, DATE_LEN);
    }
    hmac(key->bytes, sizeof key->bytes, string_to_sign, signature);
    sigv4_format_sha256(signature, out);
    secret_wipe(&once, sizeof once);
}

static const char *find_header(const struct sigv4_request *r, const char *name)
{
    for (size_t i = 0; i < r->n_headers; i++)
        if (compare_names(r->headers[i].name, name) == 0)
            return r->headers[i].value;
    return NULL;
}

static bool check_request(const struct sigv4_request *r, const struct sigv4_credentials *c,
                          const char *date, struct err *e)
{
    if (r->n_headers > HEADERS_MAX || r->path.len > TARGET_MAX || r->query.len > TARGET_MAX)
        return err_set(e, ERR_LIMIT, 0, "the request is too large to sign");
    if (r->path.len > 0 && r->path.p[0] != '/')
        return err_set(e, ERR_SYNTAX, 0, "the path to sign does not start with a slash");
    if (find_header(r, "host") == NULL)
        return err_set(e, ERR_SYNTAX, 0, "the request to sign has no Host header");
    const char *sent_date = find_header(r, "x-amz-date");
    if (sent_date != NULL && strcmp(sent_date, date) != 0)
        return err_set(e, ERR_SYNTAX, 0, "X-Amz-Date is not the time of the signature");
    if (strlen(c->secret_access_key) > 512)
        return err_set(e, ERR_LIMIT, 0, "the secret access key is too long");
    return true;
}

bool sigv4_sign(const struct sigv4_request *r, const struct sigv4_credentials *c,
                const struct sigv4_scope *s, struct buf *authorization, struct buf *canonical,
                struct buf *string_to_sign, struct err *e)
{
    char date[17], hash[SIGV4_SHA256_HEX], signature[SIGV4_SHA256_HEX];
    if (!check_request(r, c, sigv4_date(date, s->wall_ms), e))
        return false;
    struct buf names, request, text;
    buf_init(&names, CANONICAL_MAX);
    buf_init(&request, CANONICAL_MAX);
    buf_init(&text, 4096);
    bool ok = append_canonical(r, &request, &names);
    sigv4_sha256_hex(buf_str(&request), hash);
    ok = ok && buf_printf(&text, ALGORITHM "\n%s\n%.*s/%s/%s/aws4_request\n%s", date, DATE_LEN,
                          date, s->region, s->service, hash);
    if (ok) {
        derive_signature(c, s, date, buf_str(&text), signature);
        ok = buf_printf(
            authorization,
            ALGORITHM " Credential=%s/%.*s/%s/%s/aws4_request, SignedHeaders=%s, Signature=%s",
            c->access_key_id, DATE_LEN, date, s->region, s->service, buf_cstr(&names), signature);
    }
    ok = ok && (canonical == NULL || buf_append_str(canonical, buf_str(&request))) &&
         (string_to_sign == NULL || buf_append_str(string_to_sign, buf_str(&text)));
    buf_release(&names);
    buf_release_secret(&request); /* the session token is in it */
    buf_release(&text);
    return ok || err_set(e, ERR_LIMIT, 0, "the request is too large to sign");
}
