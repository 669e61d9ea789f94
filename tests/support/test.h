// SPDX-License-Identifier: Apache-2.0
/* test: TEST(module, behaviour) { ... } registers itself; CMake makes it ctest's
 * unit.<module>.<behaviour>. Assertions are cmocka's.  A test program runs all its tests, or the
 * one named by its first argument. */
#ifndef SVIDMAIL_TESTS_TEST_H
#define SVIDMAIL_TESTS_TEST_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

void test_register(const char *name, CMUnitTestFunction run);

#define TEST(module, name)                                                                         \
    static void test_##module##_##name(void **state);                                              \
    __attribute__((constructor)) static void register_##module##_##name(void)                      \
    {                                                                                              \
        test_register(#name, test_##module##_##name);                                              \
    }                                                                                              \
    static void test_##module##_##name(__attribute__((unused)) void **state)

#endif
