// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/buf.h"
#include "base/mem.h"
#include "core/base64.h"
#include "core/jwt_claims.h"

#include <stdlib.h>
#include <string.h>

static struct err e;

/* header.payload.signature; free(). */
static char *make_token(const char *json)
{
    size_t len = strlen(json);
    char *b64 = xcalloc(BASE64_LEN(len) + 8, 1);
    struct base64_encoder enc;
    base64_init(&enc);
    size_t n = base64_update(&enc, str_from(json), b64);
    n += base64_final(&enc, b64 + n);
    while (n > 0 && b64[n - 1] == '=')
        b64[--n] = '\0';
    for (size_t i = 0; i < n; i++)
        b64[i] = b64[i] == '+' ? '-' : b64[i] == '/' ? '_' : b64[i];
    char *token = xasprintf("eyJhbGciOiJFUzI1NiJ9.%s.c2ln", b64);
    free(b64);
    return token;
}

TEST(jwt_claims, times_are_found_at_the_top_alone)
{
    static const struct {
        const char *json;
        bool ok;
        int64_t iat, exp; /* seconds */
    } cases[] = {
        {"{\"aud\":[\"x\"],\"exp\":1795457602,\"iat\":1795457302,\"sub\":\"spiffe://td/a\"}", true,
         1795457302, 1795457602},
        {" { \"exp\" : 2 , \"iat\" : 1 } ", true, 1, 2},
        {"{\"exp\":2.75}", true, 0, 2},
        {"{}", true, 0, 0},
        {"{\"a\":{\"exp\":9},\"b\":[{\"iat\":9}],\"exp\":5}", true, 0, 5},
        {"{\"a\":\"\\\"exp\\\":9\",\"exp\":5}", true, 0, 5},
        {"{\"a\":\"x\\\\\",\"exp\":5}", true, 0, 5},
        {"{\"a\":-1.5e+10,\"b\":true,\"c\":false,\"d\":null,\"e\":[],\"f\":{},\"exp\":"
         "253402300799}",
         true, 0, 253402300799},
        {"{\"xexp\":9,\"expx\":9}", true, 0, 0},
        {"{\"exp\":253402300800}", false, 0, 0},
        {"{\"exp\":99999999999999999999999}", false, 0, 0},
        {"{\"exp\":1e9}", false, 0, 0},
        {"{\"exp\":-5}", false, 0, 0},
        {"{\"exp\":0}", false, 0, 0},
        {"{\"exp\":\"5\"}", false, 0, 0},
        {"{\"exp\":null}", false, 0, 0},
        {"{\"exp\":05}", false, 0, 0},
        {"{\"exp\":5.}", false, 0, 0},
        {"{\"exp\":5,\"exp\":6}", false, 0, 0},
        {"{\"exp\":5", false, 0, 0},
        {"{\"exp\":5}}", false, 0, 0},
        {"{\"exp\":5} x", false, 0, 0},
        {"{\"exp\":5,}", false, 0, 0},
        {"{\"exp\" 5}", false, 0, 0},
        {"{exp:5}", false, 0, 0},
        {"{\"a\":tru,\"exp\":5}", false, 0, 0},
        {"{\"a\":\"\n\",\"exp\":5}", false, 0, 0},
        {"{\"a\":\"unended", false, 0, 0},
        {"{\"a\":\"unended\\", false, 0, 0},
        {"{\"a\":[1 2],\"exp\":5}", false, 0, 0},
        {"{\"a\":[1,2},\"exp\":5}", false, 0, 0},
        {"[]", false, 0, 0},
        {"5", false, 0, 0},
        {"", false, 0, 0},
        {"{\"a\":[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]],\"exp\":5}", false, 0, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct jwt_claims got;
        char *token = make_token(cases[i].json);
        if (jwt_claims_parse(str_from(token), &got, &e) != cases[i].ok)
            fail_msg("%s: %s", cases[i].json, e.msg);
        assert_int_equal(got.issued_at_ms, cases[i].iat * 1000);
        assert_int_equal(got.expires_at_ms, cases[i].exp * 1000);
        free(token);
    }
}

TEST(jwt_claims, only_compact_serialisation_in_base64url_is_read)
{
    static const char *const bad[] = {
        "",
        ".",
        "..",
        "a.b",
        "a..c",
        ".e30.c",
        "a.e30.",
        "a.e30.c.d",
        "a.e30=.c",
        "a.e3 0.c",
        "a.e30+.c",
        "a.e3/0.c",
        "a.e.c",     /* 6 bits are no byte */
        "a.eyB9A.c", /* one character too many */
        "a.e31.c",   /* "{" and "}" with a bit left over */
        "{\"payload\":\"e30\"}",
    };
    struct jwt_claims got;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        if (jwt_claims_parse(str_from(bad[i]), &got, &e))
            fail_msg("accepted: %s", bad[i]);
    assert_true(jwt_claims_parse(STR("a.e30.c"), &got, &e));
}

TEST(jwt_claims, a_token_cut_anywhere_is_refused_and_nothing_of_it_is_told)
{
    char *token = make_token("{\"exp\":1795457602,\"iat\":1795457302,\"x\":\"SECRET\"}");
    struct jwt_claims got;
    for (size_t n = 0; n < strlen(token) - 3; n++) {
        char *cut = str_dup((struct str){token, n}); /* so that ASan sees each read past the end */
        assert_false(jwt_claims_parse((struct str){cut, n}, &got, &e));
        assert_null(strstr(e.msg, "SECRET"));
        free(cut);
    }
    free(token);
}

TEST(jwt_claims, a_token_too_long_is_refused)
{
    struct jwt_claims got;
    char *longish = xcalloc(JWT_MAX + 2, 1);
    memset(longish, 'a', JWT_MAX + 1);
    assert_false(jwt_claims_parse(str_from(longish), &got, &e));
    assert_int_equal(e.code, ERR_LIMIT);
    free(longish);
}
