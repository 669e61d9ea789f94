// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/mem.h"
#include "core/base64.h"

#include <stdlib.h>
#include <string.h>

/* Encodes in pieces of at most `step` bytes; the output room of each call is exactly what the
 * contract asks for. */
static char *encode(struct str in, size_t step)
{
    struct base64_encoder b;
    base64_init(&b);
    char *all = xcalloc(BASE64_LEN(in.len) + 1, 1);
    size_t at = 0;
    for (size_t i = 0; i < in.len; i += step) {
        struct str piece = str_sub(in, i, step);
        char *out = xcalloc(BASE64_LEN(piece.len + 2) + 1, 1);
        size_t n = base64_update(&b, piece, out);
        memcpy(all + at, out, n);
        at += n;
        free(out);
    }
    char last[5];
    size_t n = base64_final(&b, last);
    memcpy(all + at, last, n);
    assert_int_equal(at + n, BASE64_LEN(in.len));
    return all;
}

TEST(base64, encodes_the_vectors_of_rfc4648)
{
    static const struct {
        const char *plain, *encoded;
    } cases[] = {
        {"", ""},
        {"f", "Zg=="},
        {"fo", "Zm8="},
        {"foo", "Zm9v"},
        {"foob", "Zm9vYg=="},
        {"fooba", "Zm9vYmE="},
        {"foobar", "Zm9vYmFy"},
        {"\xfb\xff\xbf", "+/+/"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        for (size_t step = 1; step < 8; step++) {
            char *out = encode(str_from(cases[i].plain), step);
            assert_string_equal(out, cases[i].encoded);
            free(out);
        }
}

TEST(base64, is_the_same_however_the_input_is_cut)
{
    char plain[500];
    for (size_t i = 0; i < sizeof plain; i++)
        plain[i] = (char)(i * 7 + i / 3);
    for (size_t len = 0; len < sizeof plain; len += 37) {
        char *whole = encode((struct str){plain, len}, len + 1);
        for (size_t step = 1; step < 70; step++) {
            char *pieces = encode((struct str){plain, len}, step);
            assert_string_equal(pieces, whole);
            free(pieces);
        }
        free(whole);
    }
}

TEST(base64, input_larger_than_one_step_has_no_line_break_or_padding_inside)
{
    size_t len = (3u << 18) * 2 + 1;
    char *plain = xcalloc(len, 1);
    char *out = encode((struct str){plain, len}, len);
    assert_int_equal(strspn(out, "A"), len / 3 * 4 + 2);
    assert_string_equal(out + len / 3 * 4 + 2, "==");
    free(out);
    free(plain);
}

TEST(base64, is_ready_for_the_next_text_after_final)
{
    struct base64_encoder b;
    char out[16];
    base64_init(&b);
    assert_int_equal(base64_update(&b, STR("a"), out), 0);
    assert_int_equal(base64_final(&b, out), 4);
    assert_int_equal(base64_final(&b, out), 0);
    assert_int_equal(base64_update(&b, STR("foo"), out), 4);
    assert_string_equal(out, "Zm9v");
}
