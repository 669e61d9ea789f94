// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/list.h"
#include "base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

TEST(base, err_wrap_puts_context_in_front)
{
    struct err e;
    assert_false(err_set(&e, ERR_IO, ENOSPC, "write %s", "seg"));
    assert_false(err_wrap(&e, "commit %d", 7));
    assert_int_equal(e.code, ERR_IO);
    assert_string_equal(e.msg, "commit 7: write seg: No space left on device");
}

TEST(base, err_never_writes_past_its_end)
{
    struct err e;
    char longish[600];
    memset(longish, 'x', sizeof longish - 1);
    longish[sizeof longish - 1] = '\0';
    err_set(&e, ERR_LIMIT, ENOENT, "%s", longish);
    err_wrap(&e, "%s", longish);
    assert_int_equal(strlen(e.msg), ERR_MSG_MAX - 1);
}

TEST(base, buf_refuses_what_passes_its_maximum)
{
    struct buf b;
    buf_init(&b, 10);
    assert_true(buf_append(&b, "0123456", 7));
    assert_false(buf_append(&b, "7890", 4));
    assert_int_equal(b.len, 7);
    buf_consume(&b, 5);
    assert_true(buf_append(&b, "abcdefgh", 8));
    assert_string_equal(buf_cstr(&b), "56abcdefgh");
    assert_false(buf_printf(&b, "%d", 1));
    char *p = buf_take(&b);
    assert_string_equal(p, "56abcdefgh");
    assert_int_equal(b.len, 0);
    free(p);
}

TEST(base, str_escape_shows_controls_and_never_splits_an_escape)
{
    char out[8];
    assert_string_equal(str_escape(out, sizeof out, STR("a\r\nb")), "a\\x0d");
    char big[32];
    assert_string_equal(str_escape(big, sizeof big, STR("a\r\n\\\xff")), "a\\x0d\\x0a\\x5c\\xff");
}

TEST(base, str_to_u64_checks_overflow_and_garbage)
{
    uint64_t v;
    assert_true(str_to_u64(STR("18446744073709551615"), &v));
    assert_true(v == UINT64_MAX);
    assert_false(str_to_u64(STR("18446744073709551616"), &v));
    assert_false(str_to_u64(STR(""), &v));
    assert_false(str_to_u64(STR("-1"), &v));
    assert_false(str_to_u64(STR("1 "), &v));
}

struct item {
    int n;
    struct list link;
};

TEST(base, list_each_allows_removal_of_the_current_item)
{
    struct list head;
    list_init(&head);
    struct item items[3];
    for (int i = 0; i < 3; i++) {
        items[i].n = i;
        list_push_back(&head, &items[i].link);
    }
    int sum = 0;
    LIST_EACH(it, &head)
    {
        sum += CONTAINER_OF(it, struct item, link)->n;
        list_remove(it);
    }
    assert_int_equal(sum, 3);
    assert_true(list_is_empty(&head));
}
