// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "core/backoff.h"

TEST(backoff, doubles_from_base_to_cap)
{
    static const uint32_t tops[] = {100, 200, 400, 800, 1000, 1000, 1000};
    struct backoff b;
    backoff_init(&b, 100, 1000);
    for (size_t i = 0; i < sizeof tops / sizeof tops[0]; i++)
        assert_int_equal(backoff_next_ms(&b, UINT32_MAX), tops[i]);
}

TEST(backoff, jitter_is_between_half_and_all_of_it)
{
    static const struct {
        uint32_t random, delay;
    } cases[] = {{0, 50}, {UINT32_MAX / 2, 75}, {UINT32_MAX, 100}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct backoff b;
        backoff_init(&b, 100, 1000);
        assert_int_equal(backoff_next_ms(&b, cases[i].random), cases[i].delay);
    }
}

TEST(backoff, starts_anew_after_a_success)
{
    struct backoff b;
    backoff_init(&b, 100, 1000);
    for (int i = 0; i < 5; i++)
        (void)backoff_next_ms(&b, 0);
    backoff_reset(&b);
    assert_int_equal(backoff_next_ms(&b, UINT32_MAX), 100);
}

TEST(backoff, never_overflows)
{
    struct backoff b;
    backoff_init(&b, UINT32_MAX, UINT32_MAX);
    for (int i = 0; i < 200; i++)
        assert_int_equal(backoff_next_ms(&b, UINT32_MAX), UINT32_MAX);
    b.n_failures = UINT32_MAX;
    assert_int_equal(backoff_next_ms(&b, UINT32_MAX), UINT32_MAX);
    assert_int_equal(b.n_failures, UINT32_MAX);
    backoff_init(&b, 0, 0);
    assert_int_equal(backoff_next_ms(&b, UINT32_MAX), 0);
}

TEST(backoff, a_base_over_the_cap_is_cut_to_it)
{
    struct backoff b;
    backoff_init(&b, 5000, 1000);
    assert_int_equal(backoff_next_ms(&b, UINT32_MAX), 1000);
    assert_int_equal(backoff_next_ms(&b, 0), 500);
}
