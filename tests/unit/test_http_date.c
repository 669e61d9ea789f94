// SPDX-License-Identifier: Apache-2.0
#include "core/http_date.h"
#include "base/mem.h"

#include "test.h"

TEST(http_date, a_date_is_an_instant)
{
    int64_t ms = 0;
    assert_true(http_date_parse("Sat, 28 Nov 2026 23:45:00 GMT", &ms));
    assert_int_equal(ms, 1795909500000);
    assert_true(http_date_parse("Wed, 01 Jan 2020 00:00:00 GMT", &ms));
    assert_int_equal(ms, 1577836800000);
    assert_true(http_date_parse("Thu, 31 Dec 2099 23:59:59 GMT", &ms));
    assert_int_equal(ms, 4102444799000);
}

TEST(http_date, what_is_none_or_nobodys_year_is_refused)
{
    static const char *const bad[] = {
        "", "now", "Sat, 28 Nov 2026 23:45:00", "Sat, 28 Nov 2026 23:45:00 GMT+1",
        "Sat, 28 Nov 2026 23:45:00 UTC", "Saturday, 28-Nov-26 23:45:00 GMT",
        /* a signature by these would be none, or good for ever */
        "Sat, 01 Jan 0001 00:00:00 GMT", "Tue, 31 Dec 2019 23:59:59 GMT",
        "Fri, 01 Jan 2100 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        int64_t ms = -1;
        assert_false(http_date_parse(bad[i], &ms));
        assert_int_equal(ms, -1);
    }
}
