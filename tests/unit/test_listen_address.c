// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/mem.h"
#include "core/listen_address.h"

#include <string.h>

TEST(listen_address, parses_every_form)
{
    static const struct {
        const char *text, *host;
        enum listen_kind kind;
        uint16_t port;
        bool is_loopback;
    } cases[] = {
        {"127.0.0.1:2525", "127.0.0.1", LISTEN_IPV4, 2525, true},
        {"127.8.9.10:1", "127.8.9.10", LISTEN_IPV4, 1, true},
        {"0.0.0.0:25", "0.0.0.0", LISTEN_IPV4, 25, false},
        {"10.0.0.7:65535", "10.0.0.7", LISTEN_IPV4, 65535, false},
        {"[::1]:2525", "::1", LISTEN_IPV6, 2525, true},
        {"[::]:2525", "::", LISTEN_IPV6, 2525, false},
        {"[::ffff:127.0.0.1]:2525", "::ffff:127.0.0.1", LISTEN_IPV6, 2525, false},
        {":9925", "", LISTEN_ALL, 9925, false},
        {"unix:/run/a b:c.sock", "/run/a b:c.sock", LISTEN_UNIX, 0, true},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct listen_address a;
        struct err e = {0};
        assert_true(listen_address_parse(str_from(cases[i].text), &a, &e));
        assert_string_equal(a.host, cases[i].host);
        assert_int_equal(a.kind, cases[i].kind);
        assert_int_equal(a.port, cases[i].port);
        assert_int_equal(a.is_loopback, cases[i].is_loopback);
    }
}

TEST(listen_address, refuses_what_cannot_be_listened_on)
{
    static const char *const cases[] = {
        "",
        "2525",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "1:2:3",
        "localhost:2525",
        "::1:2525",
        "[::1]",
        "[::1]2525",
        "[::1:2525",
        "[]:2525",
        "[127.0.0.1]:25",
        "127.1:2525",
        "127.0.0.1:25 ",
        " 127.0.0.1:25",
        "127.0.0.1:+25",
        "unix:",
        "unix:relative",
        "tcp://1:2",
        "256.0.0.1:25",
        "[::1%lo]:25",
        "::1",
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct listen_address a;
        struct err e = {0};
        assert_false(listen_address_parse(str_from(cases[i]), &a, &e));
        assert_int_equal(e.code, ERR_SYNTAX);
        assert_non_null(strstr(e.msg, "allowed: 127.0.0.1:PORT"));
    }
}

TEST(listen_address, a_nul_byte_is_never_taken_for_the_end)
{
    struct listen_address a;
    assert_false(listen_address_parse(STR("127.0.0.1\0.x:25"), &a, NULL));
    assert_false(listen_address_parse(STR("unix:/a\0b"), &a, NULL));
}

TEST(listen_address, a_socket_path_fits_into_its_address_or_is_refused)
{
    char text[5 + LISTEN_PATH_MAX + 1];
    memset(text, 'a', sizeof text);
    memcpy(text, "unix:/", 6);
    struct listen_address a;
    assert_true(listen_address_parse((struct str){text, 5 + LISTEN_PATH_MAX}, &a, NULL));
    assert_int_equal(strlen(a.host), LISTEN_PATH_MAX);
    assert_false(listen_address_parse((struct str){text, 5 + LISTEN_PATH_MAX + 1}, &a, NULL));
}

TEST(listen_address, the_same_place_is_known_however_it_is_written)
{
    static const struct {
        const char *a, *b;
        bool is_same;
    } cases[] = {
        {"127.0.0.1:2525", "127.0.0.1:02525", true},
        {":2525", "[::]:2525", true},
        {":2525", ":2525", true},
        {"[0:0:0::1]:25", "[::1]:25", true},
        {"[2001:DB8::1]:25", "[2001:db8:0::1]:25", true},
        {"[::ffff:127.0.0.1]:25", "[::ffff:7f00:1]:25", true},
        {"unix:/run/a.sock", "unix:/run/a.sock", true},
        {"127.0.0.1:2525", "127.0.0.1:2526", false},
        {"127.0.0.1:2525", "127.0.0.2:2525", false},
        {"0.0.0.0:2525", ":2525", false},
        {"0.0.0.0:2525", "[::]:2525", false},
        {"[::1]:2525", ":2525", false},
        {"[::ffff:127.0.0.1]:25", "127.0.0.1:25", false},
        {"unix:/run/a.sock", "unix:/run/b.sock", false},
        {"unix:/run/a.sock", "unix:/run/A.sock", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct listen_address a, b;
        assert_true(listen_address_parse(str_from(cases[i].a), &a, NULL));
        assert_true(listen_address_parse(str_from(cases[i].b), &b, NULL));
        if (listen_address_same(&a, &b) != cases[i].is_same ||
            listen_address_same(&b, &a) != cases[i].is_same)
            fail_msg("%s, %s", cases[i].a, cases[i].b);
    }
}
