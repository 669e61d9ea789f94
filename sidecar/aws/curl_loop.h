// SPDX-License-Identifier: Apache-2.0
/* curl_loop: a multi handle of libcurl's on the loop: its sockets watched, its timer kept, as
 * curl_multi_socket_action(3) asks.  For http.c alone.  Layer: aws.  Thread: loop. */
#ifndef SVIDMAIL_AWS_CURL_LOOP_H
#define SVIDMAIL_AWS_CURL_LOOP_H
#include <curl/curl.h>
#include <stdbool.h>
#include <uv.h>

struct curl_loop;

/* libcurl has moved: curl_multi_info_read(3) may have something.  May free the curl_loop. */
typedef void (*curl_moved_cb)(void *arg);

/* Sets the handle's socket and timer functions.  The handle stays the caller's, and must be cleaned
 * up before this is freed. */
struct curl_loop *curl_loop_new(uv_loop_t *loop, CURLM *multi, curl_moved_cb cb, void *arg);
/* Nulls *l; NULL is fine.  The uv handles close by themselves. */
void curl_loop_free(struct curl_loop **l);

/* libcurl is on the stack: its handles must be left alone. */
bool curl_loop_is_in_curl(const struct curl_loop *l);
/* To be called before a socket of libcurl's is closed; one that is not known is fine. */
void curl_loop_forget(struct curl_loop *l, curl_socket_t fd);

#endif
