// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "mail/spool_file.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static struct spool_dir *dir(void)
{
    const char *const dirs[] = {"/nonexistent/for/sure", "/tmp", NULL};
    struct spool_dir *d = NULL;
    struct err e;
    assert_true(spool_dir_new(dirs, &d, &e));
    assert_string_equal(spool_dir_path(d), "/tmp");
    return d;
}

TEST(spool_file, bytes_in_any_pieces_come_back_in_order)
{
    struct spool_dir *d = dir();
    char want[20000], got[20000];
    for (size_t i = 0; i < sizeof want; i++)
        want[i] = (char)(i * 7);
    for (size_t step = 1; step < sizeof want; step = step * 3 + 1) {
        struct spool_file *f;
        struct err e;
        assert_true(spool_file_open(d, &f, &e));
        for (size_t at = 0; at < sizeof want; at += step) {
            size_t n = sizeof want - at < step ? sizeof want - at : step;
            assert_true(spool_file_write(f, (struct str){want + at, n}, &e));
        }
        assert_true(spool_file_finish(f, &e));
        assert_int_equal(spool_file_len(f), sizeof want);
        assert_int_equal(pread(spool_file_fd(f), got, sizeof got, 0), sizeof got);
        assert_memory_equal(got, want, sizeof want);
        spool_file_close(&f);
    }
    spool_dir_free(&d);
}

TEST(spool_file, a_used_file_never_shows_the_former_mail)
{
    struct spool_dir *d = dir();
    struct spool_file *f;
    struct err e;
    char got[64];
    assert_true(spool_file_open(d, &f, &e));
    assert_true(spool_file_write(f, STR("the long secret of another mail"), &e) &&
                spool_file_finish(f, &e));
    spool_file_close(&f);
    assert_true(spool_file_open(d, &f, &e));
    assert_true(spool_file_write(f, STR("short"), &e) && spool_file_finish(f, &e));
    assert_int_equal(spool_file_len(f), 5); /* readers go by the length, not by the file's end */
    assert_int_equal(pread(spool_file_fd(f), got, 5, 0), 5);
    assert_memory_equal(got, "short", 5);
    spool_file_close(&f);
    spool_dir_free(&d);
}

TEST(spool_file, a_full_disk_is_a_limit_not_a_crash)
{
    struct spool_dir *d = dir();
    struct spool_file *f;
    struct err e;
    struct rlimit old, small = {8192, 8192};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small.rlim_max = old.rlim_max;
    assert_true(spool_file_open(d, &f, &e));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    char block[4096] = {0};
    bool ok = true;
    for (int i = 0; i < 4 && ok; i++)
        ok = spool_file_write(f, (struct str){block, sizeof block}, &e);
    ok = ok && spool_file_finish(f, &e);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_false(ok);
    assert_int_equal(e.code, ERR_LIMIT);
    spool_file_close(&f);
    spool_dir_free(&d);
}

TEST(spool_file, no_directory_at_all_names_each_one_tried)
{
    const char *const dirs[] = {"/nonexistent/a", "/proc/self/nope", NULL};
    struct spool_dir *d = NULL;
    struct err e;
    assert_false(spool_dir_new(dirs, &d, &e));
    assert_non_null(strstr(e.msg, "/nonexistent/a"));
    assert_non_null(strstr(e.msg, "/proc/self/nope"));
}
