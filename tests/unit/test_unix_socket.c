// SPDX-License-Identifier: Apache-2.0
#include "sys/unix_socket.h"

#include "test.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct place {
    char directory[40], path[64];
};

static void place_init(struct place *p)
{
    snprintf(p->directory, sizeof p->directory, "/tmp/svidmail-socket-XXXXXX");
    assert_non_null(mkdtemp(p->directory));
    snprintf(p->path, sizeof p->path, "%s/s", p->directory);
}

static void place_release(const struct place *p)
{
    unlink(p->path);
    assert_int_equal(rmdir(p->directory), 0);
}

static int bind_socket(const struct place *p, int type)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    memcpy(sa.sun_path, p->path, strlen(p->path) + 1);
    assert_int_equal(bind(fd, (const struct sockaddr *)&sa, sizeof sa), 0);
    return fd;
}

static void expect_left_alone(const struct place *p)
{
    assert_true(unix_socket_is_live(p->path));
    assert_false(unix_socket_remove_stale(p->path));
    assert_int_equal(access(p->path, F_OK), 0);
}

TEST(unix_socket, what_a_killed_process_left_behind_is_removed)
{
    struct place p;
    place_init(&p);
    close(bind_socket(&p, SOCK_STREAM));
    assert_false(unix_socket_is_live(p.path));
    assert_true(unix_socket_remove_stale(p.path));
    assert_int_not_equal(access(p.path, F_OK), 0);
    place_release(&p);
}

TEST(unix_socket, one_that_is_listened_on_stays)
{
    struct place p;
    place_init(&p);
    int fd = bind_socket(&p, SOCK_STREAM);
    assert_int_equal(listen(fd, 0), 0);
    for (int i = 0; i < 3; i++) /* its backlog fills up */
        expect_left_alone(&p);
    close(fd);
    place_release(&p);
}

/* It cannot be connected to, and lives. */
TEST(unix_socket, one_of_another_kind_stays)
{
    static const int types[] = {SOCK_DGRAM, SOCK_SEQPACKET};
    for (size_t i = 0; i < 2; i++) {
        struct place p;
        place_init(&p);
        int fd = bind_socket(&p, types[i]);
        expect_left_alone(&p);
        close(fd);
        place_release(&p);
    }
}

TEST(unix_socket, nothing_and_what_is_no_socket_are_not_removed)
{
    struct place p;
    place_init(&p);
    assert_false(unix_socket_is_live(p.path));
    assert_false(unix_socket_remove_stale(p.path));
    close(open(p.path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    assert_false(unix_socket_remove_stale(p.path));
    assert_int_equal(access(p.path, F_OK), 0);
    place_release(&p);
}

TEST(unix_socket, a_path_too_long_to_ask_counts_as_live)
{
    char path[200];
    memset(path, 'x', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    assert_true(unix_socket_is_live(path));
}
