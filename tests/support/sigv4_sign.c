// SPDX-License-Identifier: Apache-2.0
/* sigv4_sign: requests as JSON lines on stdin -> what aws/sigv4 makes of them, as JSON lines on
 * stdout. For tests that hold it against other signers. */
#include "aws/sigv4.h"
#include "base/mem.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#define HEADERS_MAX 64

static const char *text_of(const json_t *line, const char *key)
{
    const char *text = json_string_value(json_object_get(line, key));
    if (text == NULL) {
        fprintf(stderr, "sigv4_sign: no string %s\n", key);
        exit(2);
    }
    return text;
}

/* "headers": [["name", "value"], ...] */
static size_t read_headers(const json_t *line, struct sigv4_header *out)
{
    const json_t *headers = json_object_get(line, "headers");
    size_t n = 0;
    for (; n < json_array_size(headers) && n < HEADERS_MAX; n++) {
        const json_t *pair = json_array_get(headers, n);
        out[n].name = json_string_value(json_array_get(pair, 0));
        out[n].value = json_string_value(json_array_get(pair, 1));
    }
    return n;
}

static json_t *sign(const json_t *line)
{
    struct sigv4_header headers[HEADERS_MAX];
    const struct sigv4_request r = {
        .method = text_of(line, "method"),
        .path = str_from(text_of(line, "path")),
        .query = str_from(text_of(line, "query")),
        .headers = headers,
        .n_headers = read_headers(line, headers),
        .body_sha256 = text_of(line, "body_sha256"),
        .normalize_path = json_is_true(json_object_get(line, "normalize_path")),
    };
    const struct sigv4_credentials key = {text_of(line, "access_key_id"),
                                          text_of(line, "secret_access_key"), NULL};
    const struct sigv4_scope scope = {text_of(line, "region"), text_of(line, "service"),
                                      json_integer_value(json_object_get(line, "wall_ms"))};
    struct buf authorization, canonical;
    struct err e;
    buf_init(&authorization, 64u << 10);
    buf_init(&canonical, 256u << 10);
    json_t *out = sigv4_sign(&r, &key, &scope, &authorization, &canonical, NULL, &e)
                      ? json_pack("{s:s, s:s}", "authorization", buf_cstr(&authorization),
                                  "canonical", buf_cstr(&canonical))
                      : json_pack("{s:s}", "error", e.msg);
    buf_release(&authorization);
    buf_release(&canonical);
    return out;
}

int main(void)
{
    for (;;) {
        json_error_t e;
        json_t *line = json_loadf(stdin, JSON_DISABLE_EOF_CHECK, &e);
        if (line == NULL && json_error_code(&e) == json_error_premature_end_of_input)
            return 0;
        if (line == NULL) {
            fprintf(stderr, "sigv4_sign: line %d: %s\n", e.line, e.text);
            return 2;
        }
        json_t *out = sign(line);
        json_dumpf(out, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(out);
        json_decref(line);
    }
}
