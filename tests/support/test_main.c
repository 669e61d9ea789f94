// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include <stdio.h>
#include <string.h>

#define MAX_TESTS 512

static struct CMUnitTest tests[MAX_TESTS];
static size_t n_tests;

void test_register(const char *name, CMUnitTestFunction run)
{
    if (n_tests == MAX_TESTS)
        _fail(__FILE__, __LINE__);
    tests[n_tests++] = (struct CMUnitTest){.name = name, .test_func = run};
}

int main(int argc, char **argv)
{
    size_t n = n_tests;
    if (argc > 1) {
        n = 0;
        for (size_t i = 0; i < n_tests; i++)
            if (strcmp(tests[i].name, argv[1]) == 0)
                tests[n++] = tests[i];
        if (n == 0) {
            fprintf(stderr, "no such test: %s\n", argv[1]);
            return 2;
        }
    }
    return _cmocka_run_group_tests(argv[0], tests, n, NULL, NULL);
}
