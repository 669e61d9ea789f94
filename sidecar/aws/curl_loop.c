// SPDX-License-Identifier: Apache-2.0
#include "aws/curl_loop.h"

#include "base/check.h"
#include "base/list.h"
#include "base/mem.h"
#include "sys/timer.h"

#include <stdlib.h>

/* A socket of libcurl's, from its first use until it is closed. */
struct watch {
    struct list item;
    uv_poll_t uv;
    struct curl_loop *l;
    curl_socket_t fd;
    int wanted, armed; /* UV_READABLE ...: by libcurl, in libuv */
};

struct curl_loop {
    uv_loop_t *loop;
    CURLM *multi;
    struct timer *timer;
    struct list watches;
    bool is_in_curl;
    curl_moved_cb cb;
    void *arg;
};

/* The last that is done with l. */
static void drive(struct curl_loop *l, curl_socket_t fd, int events)
{
    int n_running;
    l->is_in_curl = true;
    CHECK(curl_multi_socket_action(l->multi, fd, events, &n_running) == CURLM_OK);
    l->is_in_curl = false;
    l->cb(l->arg);
}

static void on_curl_due(void *arg)
{
    drive(arg, CURL_SOCKET_TIMEOUT, 0);
}

static int on_curl_timer(CURLM *multi, long ms, void *arg)
{
    struct curl_loop *l = arg;
    (void)multi;
    if (ms < 0)
        timer_stop(l->timer);
    else
        timer_start(l->timer, (uint64_t)ms);
    return 0;
}

static struct watch *find_watch(const struct curl_loop *l, curl_socket_t fd)
{
    LIST_EACH(it, &l->watches)
    {
        struct watch *w = CONTAINER_OF(it, struct watch, item);
        if (w->fd == fd)
            return w;
    }
    return NULL;
}

static void on_poll(uv_poll_t *uv, int status, int events);

static void watch_arm(struct watch *w, int events)
{
    w->armed = events;
    CHECK(uv_poll_start(&w->uv, events, on_poll) == 0);
}

/* libuv stops watching a socket in error and does not say what else it is.  It may well be
 * readable: who closes over bytes of ours that lie unread has perhaps answered first, and libcurl,
 * told of the error alone, gives up without a look. */
static void on_poll(uv_poll_t *uv, int status, int events)
{
    struct watch *w = uv->data;
    int flags = status < 0 ? CURL_CSELECT_IN | CURL_CSELECT_ERR : 0;
    if (w->wanted == 0) { /* libcurl looks at a kept connection before it uses it */
        uv_poll_stop(uv);
        w->armed = 0;
        return;
    }
    if (status < 0)
        watch_arm(w, UV_READABLE);
    if ((events & UV_READABLE) != 0)
        flags |= CURL_CSELECT_IN;
    if ((events & UV_WRITABLE) != 0)
        flags |= CURL_CSELECT_OUT;
    drive(w->l, w->fd, flags);
}

static struct watch *watch_new(struct curl_loop *l, curl_socket_t fd)
{
    struct watch *w = xcalloc(1, sizeof *w);
    w->l = l;
    w->fd = fd;
    CHECK(uv_poll_init_socket(l->loop, &w->uv, fd) == 0);
    w->uv.data = w;
    list_push_back(&l->watches, &w->item);
    return w;
}

static void on_watch_closed(uv_handle_t *uv)
{
    free(uv->data);
}

static void watch_close(struct watch *w)
{
    list_remove(&w->item);
    uv_close((uv_handle_t *)&w->uv, on_watch_closed);
}

/* Between two requests libcurl wants to hear nothing of a connection; it stays in the poll set all
 * the same, since to take it out and in again costs more than the events that may come. */
static int on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
    struct curl_loop *l = arg;
    struct watch *w = find_watch(l, fd);
    (void)easy, (void)socket_arg;
    if (what == CURL_POLL_REMOVE) {
        if (w != NULL)
            w->wanted = 0;
        return 0;
    }
    if (w == NULL)
        w = watch_new(l, fd);
    w->wanted =
        (what != CURL_POLL_OUT ? UV_READABLE : 0) | (what != CURL_POLL_IN ? UV_WRITABLE : 0);
    if (w->wanted != w->armed)
        watch_arm(w, w->wanted);
    return 0;
}

struct curl_loop *curl_loop_new(uv_loop_t *loop, CURLM *multi, curl_moved_cb cb, void *arg)
{
    struct curl_loop *l = xcalloc(1, sizeof *l);
    l->loop = loop;
    l->multi = multi;
    l->cb = cb;
    l->arg = arg;
    list_init(&l->watches);
    l->timer = timer_new(loop, on_curl_due, l);
    bool ok = curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_curl_socket) == CURLM_OK &&
              curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, l) == CURLM_OK &&
              curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_curl_timer) == CURLM_OK &&
              curl_multi_setopt(multi, CURLMOPT_TIMERDATA, l) == CURLM_OK;
    CHECK(ok);
    return l;
}

void curl_loop_free(struct curl_loop **lp)
{
    struct curl_loop *l = *lp;
    *lp = NULL;
    if (l == NULL)
        return;
    CHECK(!l->is_in_curl);
    LIST_EACH(it, &l->watches)
    watch_close(CONTAINER_OF(it, struct watch, item));
    timer_free(&l->timer);
    free(l);
}

bool curl_loop_is_in_curl(const struct curl_loop *l)
{
    return l->is_in_curl;
}

void curl_loop_forget(struct curl_loop *l, curl_socket_t fd)
{
    struct watch *w = find_watch(l, fd);
    if (w != NULL)
        watch_close(w);
}
