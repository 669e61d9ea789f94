// SPDX-License-Identifier: Apache-2.0
/* The signatures are those AWS publishes with its signing test suite (Signature Version 4, header
 * form). */
#include "test.h"

#include "aws/sigv4.h"
#include "base/mem.h"

#include <string.h>

#define SUITE_DATE  "20150830T123600Z"
#define SUITE_MS    INT64_C(1440938160000)
#define EMPTY_HASH  "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define FORM_HASH   "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e"
#define UNRESERVED  "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
#define SHORT_TOKEN "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267"
#define LONG_TOKEN                                                                                 \
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSP" \
    "fIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT" \
    "7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlz" \
    "m8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="

static const struct sigv4_credentials suite_key = {
    "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", NULL};

struct example {
    const char *method, *path, *query;
    bool is_raw_path;
    struct sigv4_header more[5];
    const char *body_sha256, *signature;
};

// clang-format off
static const struct example examples[] = {
    {"GET", "/", "", false, {{0}}, NULL, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
    {"POST", "/", "", false, {{0}}, NULL, "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"},
    /* headers */
    {"GET", "/", "", false, {{"My-Header1", "value2"}, {"My-Header1", "value2"}, {"My-Header1", "value1"}}, NULL,
     "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea"},
    {"GET", "/", "", false, {{"My-Header1", "value1\n  value2\n     value3"}}, NULL,
     "cfd34249e4b1c8d6b91ef74165d41a32e5fab3306300901bb65a51a73575eefd"},
    {"GET", "/", "", false,
     {{"My-Header1", "value4"}, {"My-Header1", "value1"}, {"My-Header1", "value3"}, {"My-Header1", "value2"}}, NULL,
     "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01"},
    {"GET", "/", "", false, {{"My-Header1", " value1"}, {"My-Header2", " \"a   b   c\""}}, NULL,
     "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"},
    {"POST", "/", "", false, {{"My-Header1", "value1"}}, NULL,
     "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c"},
    {"POST", "/", "", false, {{"My-Header1", "VALUE1"}}, NULL,
     "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d"},
    /* paths */
    {"GET", "/example/..", "", false, {{0}}, NULL, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
    {"GET", "/example1/example2/../..", "", false, {{0}}, NULL,
     "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
    {"GET", "/./", "", false, {{0}}, NULL, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
    {"GET", "//", "", false, {{0}}, NULL, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
    {"GET", "/./example", "", false, {{0}}, NULL, "ef75d96142cf21edca26f06005da7988e4f8dc83a165a80865db7089db637ec5"},
    {"GET", "//example//", "", false, {{0}}, NULL, "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84"},
    {"GET", "/example space/", "", false, {{0}}, NULL,
     "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741"},
    {"GET", "/" UNRESERVED, "", false, {{0}}, NULL, "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"},
    {"GET", "/\xe1\x88\xb4", "", false, {{0}}, NULL, "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"},
    {"GET", "/example1/example2/../..", "", true, {{0}}, NULL,
     "dc33e0856fd4baca4d7aa2146c38958283844764f38c74252a333df5e613003b"},
    {"GET", "/example/..", "", true, {{0}}, NULL, "eca7ead57bb5aa5c8e28007acd4ff04e1ff9a0ff3b237ec1554a184887ff9282"},
    {"GET", "/./", "", true, {{0}}, NULL, "68714168e6557f8f2de0ef956fc24dc2593a4bd2961f8df51898d8a134695145"},
    {"GET", "/./example", "", true, {{0}}, NULL, "beb03f223f7deae4146464f06e29eebbee9c8afbe15c290cf07aa8b119e14cff"},
    {"GET", "//", "", true, {{0}}, NULL, "c88bcd3d312d75078c0cd961d6deae3f4c754924b01669efcfcb439fd5e5b76e"},
    {"GET", "//example//", "", true, {{0}}, NULL, "87cca117541a147f6df867677d98a7d80dff226d2bfca9e4ffa899665623c7e5"},
    {"GET", "/example space/", "", true, {{0}}, NULL,
     "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741"},
    /* queries */
    {"GET", "/", "Param1=value1", false, {{0}}, NULL, "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb"},
    {"POST", "/", "Param1=value1", false, {{0}}, NULL,
     "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11"},
    {"GET", "/", "Param-3=Value3&Param=Value2&%E1%88%B4=Value1", false, {{0}}, NULL,
     "371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac"},
    {"GET", "/", "Param2=value2&Param1=value1", false, {{0}}, NULL,
     "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"},
    {"GET", "/", UNRESERVED "=" UNRESERVED, false, {{0}}, NULL,
     "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197"},
    {"GET", "/", "\xe1\x88\xb4=bar", false, {{0}}, NULL, "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"},
    /* session tokens and bodies */
    {"GET", "/", "", false, {{"X-Amz-Security-Token", SHORT_TOKEN}}, NULL,
     "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8"},
    {"POST", "/", "", false, {{"X-Amz-Security-Token", LONG_TOKEN}}, NULL,
     "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"},
    {"POST", "/", "", false,
     {{"Content-Type", "application/x-www-form-urlencoded"}, {"Content-Length", "13"},
      {"x-amz-content-sha256", FORM_HASH}}, FORM_HASH,
     "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b"},
    {"POST", "/", "", false,
     {{"Content-Type", "application/x-www-form-urlencoded; charset=utf-8"}, {"Content-Length", "13"},
      {"x-amz-content-sha256", FORM_HASH}}, FORM_HASH,
     "328d1b9eaadca9f5818ef05e8392801e091653bafec24fcab71e7344e7f51422"},
};
// clang-format on

static struct sigv4_request as_request(const struct example *x, struct sigv4_header headers[8])
{
    size_t n = 0;
    for (; n < ARRAY_LEN(x->more) && x->more[n].name != NULL; n++)
        headers[n] = x->more[n];
    headers[n++] = (struct sigv4_header){"X-Amz-Date", SUITE_DATE};
    headers[n++] = (struct sigv4_header){"Host", "example.amazonaws.com"};
    return (struct sigv4_request){.method = x->method,
                                  .path = str_from(x->path),
                                  .query = str_from(x->query),
                                  .headers = headers,
                                  .n_headers = n,
                                  .body_sha256 =
                                      x->body_sha256 != NULL ? x->body_sha256 : EMPTY_HASH,
                                  .normalize_path = !x->is_raw_path};
}

static const struct sigv4_scope suite_scope = {"us-east-1", "service", SUITE_MS};

TEST(sigv4, signs_the_examples_aws_publishes)
{
    for (size_t i = 0; i < ARRAY_LEN(examples); i++) {
        struct sigv4_header headers[8];
        struct sigv4_request r = as_request(&examples[i], headers);
        struct buf out, canonical;
        struct err e;
        buf_init(&out, 4096);
        buf_init(&canonical, 8192);
        assert_true(sigv4_sign(&r, &suite_key, &suite_scope, &out, &canonical, NULL, &e));
        const char *signature = strstr(buf_cstr(&out), "Signature=");
        assert_non_null(signature);
        if (strcmp(signature + strlen("Signature="), examples[i].signature) != 0)
            fail_msg("example %zu: %s ?%s\n%s", i, examples[i].path, examples[i].query,
                     buf_cstr(&canonical));
        buf_release(&out);
        buf_release(&canonical);
    }
}

TEST(sigv4, shows_canonical_request_string_to_sign_and_authorization)
{
    struct sigv4_header headers[8];
    struct sigv4_request r = as_request(&examples[5], headers);
    struct buf out, canonical, text;
    struct err e;
    buf_init(&out, 4096);
    buf_init(&canonical, 4096);
    buf_init(&text, 4096);
    assert_true(sigv4_sign(&r, &suite_key, &suite_scope, &out, &canonical, &text, &e));
    assert_string_equal(buf_cstr(&canonical),
                        "GET\n/\n\nhost:example.amazonaws.com\nmy-header1:value1\n"
                        "my-header2:\"a b c\"\nx-amz-date:20150830T123600Z\n\n"
                        "host;my-header1;my-header2;x-amz-date\n" EMPTY_HASH);
    assert_string_equal(
        buf_cstr(&text),
        "AWS4-HMAC-SHA256\n20150830T123600Z\n20150830/us-east-1/service/aws4_request\n"
        "a726db9b0df21c14f559d0a978e563112acb1b9e05476f0a6a1c7d68f28605c7");
    assert_string_equal(
        buf_cstr(&out),
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        "SignedHeaders=host;my-header1;my-header2;x-amz-date, "
        "Signature=acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736");
    buf_release(&out);
    buf_release(&canonical);
    buf_release(&text);
}

TEST(sigv4, canonical_form_sorts_encodes_and_stays_below_the_root)
{
    static const struct {
        const char *path, *query, *expected;
    } cases[] = {
        {"/../../a/../b/", "", "GET\n/b/\n\n"},
        {"", "", "GET\n/\n\n"},
        {"/a%2Fb", "", "GET\n/a%252Fb\n\n"},
        {"/", "k=2&k=1&k=&k=10", "GET\n/\nk=&k=1&k=10&k=2\n"},
        {"/", "kk=1&k=2&k-=3", "GET\n/\nk=2&k-=3&kk=1\n"},
        {"/", "flag&a=b=c&x=%20+/", "GET\n/\na=b%3Dc&flag=&x=%20%2B%2F\n"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct example x = {.method = "GET", .path = cases[i].path, .query = cases[i].query};
        struct sigv4_header headers[8];
        struct sigv4_request r = as_request(&x, headers);
        struct buf out, canonical;
        struct err e;
        buf_init(&out, 4096);
        buf_init(&canonical, 4096);
        assert_true(sigv4_sign(&r, &suite_key, &suite_scope, &out, &canonical, NULL, &e));
        assert_memory_equal(buf_cstr(&canonical), cases[i].expected, strlen(cases[i].expected));
        buf_release(&out);
        buf_release(&canonical);
    }
}

static void sign_vanilla(const struct sigv4_credentials *c, const struct sigv4_scope *s,
                         const char *date, struct buf *out)
{
    struct sigv4_header headers[8];
    struct sigv4_request r = as_request(&examples[0], headers);
    struct err e;
    headers[0].value = date;
    buf_clear(out);
    assert_true(sigv4_sign(&r, c, s, out, NULL, NULL, &e));
}

TEST(sigv4, a_kept_key_signs_alike_for_its_day_and_is_renewed_on_the_next)
{
    struct sigv4_key kept = {0};
    const struct sigv4_credentials keeps = {suite_key.access_key_id, suite_key.secret_access_key,
                                            &kept};
    struct sigv4_scope s = suite_scope;
    struct buf a, b;
    buf_init(&a, 4096);
    buf_init(&b, 4096);
    for (int hour = 0; hour < 72; hour++, s.wall_ms += 3600000) {
        char date[17];
        sigv4_date(date, s.wall_ms);
        sign_vanilla(&suite_key, &s, date, &a);
        sign_vanilla(&keeps, &s, date, &b);
        assert_string_equal(buf_cstr(&a), buf_cstr(&b));
        assert_memory_equal(kept.date, date, 8);
    }
    buf_release(&a);
    buf_release(&b);
}

static enum err_code refusal(const struct sigv4_request *r, const struct sigv4_credentials *c,
                             size_t room)
{
    struct buf out;
    struct err e = {0};
    buf_init(&out, room);
    assert_false(sigv4_sign(r, c, &suite_scope, &out, NULL, NULL, &e));
    assert_true(e.msg[0] != '\0');
    buf_release(&out);
    return e.code;
}

TEST(sigv4, refuses_a_request_without_host)
{
    struct sigv4_header headers[8];
    struct sigv4_request r = as_request(&examples[0], headers);
    r.n_headers--;
    assert_int_equal(refusal(&r, &suite_key, 4096), ERR_SYNTAX);
}

TEST(sigv4, refuses_a_date_header_of_another_moment)
{
    struct sigv4_header headers[8];
    struct sigv4_request r = as_request(&examples[0], headers);
    headers[0].value = "20150830T123601Z";
    assert_int_equal(refusal(&r, &suite_key, 4096), ERR_SYNTAX);
}

TEST(sigv4, refuses_a_path_that_is_no_path)
{
    struct sigv4_header headers[8];
    struct sigv4_request r = as_request(&examples[0], headers);
    r.path = STR("example");
    assert_int_equal(refusal(&r, &suite_key, 4096), ERR_SYNTAX);
}

TEST(sigv4, refuses_what_is_too_large)
{
    static char longish[200000];
    memset(longish, 'a', sizeof longish - 1);
    struct sigv4_header many[100], headers[8];
    for (size_t i = 0; i < ARRAY_LEN(many); i++)
        many[i] = (struct sigv4_header){"host", "h"};
    struct sigv4_request r = as_request(&examples[0], headers);
    assert_int_equal(refusal(&r, &suite_key, 10), ERR_LIMIT);
    r.query = str_from(longish);
    assert_int_equal(refusal(&r, &suite_key, 4096), ERR_LIMIT);
    r.query = STR("");
    r.headers = many;
    r.n_headers = ARRAY_LEN(many);
    assert_int_equal(refusal(&r, &suite_key, 4096), ERR_LIMIT);
    many[0].value = longish;
    r.n_headers = 1;
    assert_int_equal(refusal(&r, &suite_key, 4096), ERR_LIMIT);
    r = as_request(&examples[0], headers);
    struct sigv4_credentials key = {"AKIDEXAMPLE", longish, NULL};
    assert_int_equal(refusal(&r, &key, 4096), ERR_LIMIT);
}

TEST(sigv4, date_has_amazons_form)
{
    char date[17];
    assert_string_equal(sigv4_date(date, SUITE_MS), SUITE_DATE);
    assert_string_equal(sigv4_date(date, INT64_C(1795454764999)), "20261123T172604Z");
    assert_string_equal(sigv4_date(date, INT64_C(1709251199000)), "20240229T235959Z");
}

TEST(sigv4, hash_is_lower_case_hex)
{
    char hash[SIGV4_SHA256_HEX];
    sigv4_sha256_hex(STR(""), hash);
    assert_string_equal(hash, EMPTY_HASH);
    sigv4_sha256_hex(STR("Param1=value1"), hash);
    assert_string_equal(hash, FORM_HASH);
}
