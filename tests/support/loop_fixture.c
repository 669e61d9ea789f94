// SPDX-License-Identifier: Apache-2.0
#include "loop_fixture.h"

#include "base/mem.h"
#include "test.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#define TICK_MS 10

struct loop_of_test {
    uv_loop_t loop;  /* first: the pointer handed out */
    uv_timer_t tick; /* lets a turn end although nothing happens */
};

static void on_tick(uv_timer_t *t)
{
    (void)t;
}

uv_loop_t *loop_new(void)
{
    signal(SIGPIPE, SIG_IGN); /* as the program does: libuv writes without MSG_NOSIGNAL */
    struct loop_of_test *l = xcalloc(1, sizeof *l);
    assert_int_equal(uv_loop_init(&l->loop), 0);
    assert_int_equal(uv_timer_init(&l->loop, &l->tick), 0);
    return &l->loop;
}

static uint64_t now_ms(void)
{
    return uv_hrtime() / 1000000;
}

uint64_t loop_deadline_ms(uint64_t from_now_ms)
{
    return now_ms() + from_now_ms;
}

/* One turn that waits for events, but not for long. */
static void turn(uv_loop_t *loop, uint64_t wait_ms)
{
    struct loop_of_test *l = (struct loop_of_test *)(void *)loop;
    uv_update_time(loop);
    uv_timer_start(&l->tick, on_tick, wait_ms, 0);
    uv_run(loop, UV_RUN_ONCE);
    uv_timer_stop(&l->tick);
}

void loop_step(uv_loop_t *loop, uint64_t deadline_ms, const char *what, const char *file, int line)
{
    if (now_ms() >= deadline_ms)
        fail_msg("%s:%d: did not become true in time: %s", file, line, what);
    turn(loop, TICK_MS);
}

void loop_run_for(uv_loop_t *loop, uint64_t ms)
{
    for (uint64_t end = loop_deadline_ms(ms); now_ms() < end;)
        turn(loop, end - now_ms() < TICK_MS ? end - now_ms() : TICK_MS);
}

void loop_settle(uv_loop_t *loop)
{
    for (int i = 0; i < 2 || (i < 100 && uv_backend_timeout(loop) == 0); i++)
        uv_run(loop, UV_RUN_NOWAIT);
}

void loop_free(uv_loop_t **loop)
{
    if (*loop == NULL)
        return;
    struct loop_of_test *l = (struct loop_of_test *)(void *)*loop;
    for (uint64_t end = loop_deadline_ms(LOOP_DEADLINE_MS); uv_loop_alive(*loop) && now_ms() < end;)
        turn(*loop, TICK_MS);
    uv_close((uv_handle_t *)&l->tick, NULL);
    uv_run(*loop, UV_RUN_NOWAIT);
    int rc = uv_loop_close(*loop);
    if (rc != 0) {
        uv_print_all_handles(*loop, stderr);
        fail_msg("handles still open: %s", uv_strerror(rc));
    }
    *loop = NULL;
    free(l);
}

int socket_black_hole(uint16_t *port, int fillers[2])
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof sa;
    int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(l, (struct sockaddr *)&sa, sizeof sa), 0);
    assert_int_equal(listen(l, 0), 0);
    getsockname(l, (struct sockaddr *)&sa, &len);
    for (int i = 0; i < 2; i++) {
        fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        (void)connect(fillers[i], (struct sockaddr *)&sa, sizeof sa);
    }
    *port = ntohs(sa.sin_port);
    return l;
}
