// SPDX-License-Identifier: Apache-2.0
/* identity_probe: the Workload API client alone, for integration tests and by hand.
 *
 *   identity_probe ENDPOINT [name=value ...]
 *     mesh_id= mesh_hint= aws_id= aws_hint=    the choice by role
 *     grace_ms= stop_after_ms=
 *
 * Tells what happens as JSON lines on stdout; the log goes to stderr.  Commands on stdin, one a
 * line: select | status | jwt AUDIENCE [SPIFFE-ID] | stop     (the end of stdin means stop) */
#include "base/buf.h"
#include "base/mem.h"
#include "core/x509_svid.h"
#include "identity/svid_store.h"
#include "identity/workload_api.h"
#include "sys/log.h"
#include "sys/timer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    uv_loop_t loop;
    struct svid_store *store;
    struct workload_api *api;
    struct svid_watch *watch;
    struct timer *stop_timer;
    uv_pipe_t commands;
    struct buf line;
    bool is_stopping;
} p;

static void print_string(const char *key, const char *z)
{
    printf(",\"%s\":\"", key);
    for (; z != NULL && *z != '\0'; z++)
        if (*z == '"' || *z == '\\' || (unsigned char)*z < 32)
            printf("\\u%04x", (unsigned char)*z);
        else
            putchar(*z);
    putchar('"');
}

static void begin(const char *event)
{
    printf("{\"at_ms\":%" PRId64 ",\"event\":\"%s\"", clock_wall_ms(clock_system()), event);
}

static void end(void)
{
    puts("}");
    fflush(stdout);
}

static void print_role(const char *event, enum svid_role role)
{
    struct svid_set *set;
    const struct svid *v;
    struct err e;
    begin(event);
    print_string("role", role == SVID_MESH ? "mesh" : "aws");
    if (svid_store_select(p.store, role, &set, &v, &e)) {
        print_string("spiffe_id", v->id.text);
        print_string("hint", v->hint);
        printf(",\"generation\":%u,\"svids\":%zu,\"not_after_ms\":%" PRId64 ",\"bundles\":{",
               set->generation, set->n_svids, v->not_after_ms);
        for (size_t i = 0; i < set->n_bundles; i++)
            printf("%s\"%s\":%d", i > 0 ? "," : "", set->bundles[i].trust_domain,
                   set->bundles[i].n_cas);
        putchar('}');
        svid_set_unref(&set);
    } else {
        print_string("class", err_code_name(e.code));
        print_string("error", e.msg);
    }
    end();
}

static void on_change(void *arg)
{
    (void)arg;
    print_role("changed", SVID_MESH);
    print_role("changed", SVID_AWS);
}

static void print_status(void)
{
    struct workload_api_status s;
    workload_api_get_status(p.api, &s);
    begin("status");
    printf(",\"connected\":%s,\"updates\":%u,\"reconnects\":%u,\"last_update_at_ms\":%" PRId64,
           s.is_connected ? "true" : "false", s.n_updates, s.n_reconnects, s.last_update_at_ms);
    print_string("class", err_code_name(s.last_error.code));
    print_string("error", s.last_error.code != ERR_NONE ? s.last_error.msg : "");
    print_string("endpoint", s.endpoint);
    end();
}

static void on_jwt(void *arg, const struct err *e, const char *token, const char *spiffe_id,
                   int64_t issued_at_ms, int64_t expires_at_ms)
{
    (void)arg;
    begin("jwt");
    if (e != NULL) {
        print_string("class", err_code_name(e->code));
        print_string("error", e->msg);
    } else {
        print_string("spiffe_id", spiffe_id);
        print_string("token", token);
        printf(",\"issued_at_ms\":%" PRId64 ",\"expires_at_ms\":%" PRId64, issued_at_ms,
               expires_at_ms);
    }
    end();
}

static void on_stopped(void *arg)
{
    (void)arg;
    begin("stopped");
    end();
    svid_store_unwatch(&p.watch);
    svid_store_free(&p.store);
}

static void stop(void)
{
    if (p.is_stopping)
        return;
    p.is_stopping = true;
    timer_free(&p.stop_timer);
    if (!uv_is_closing((uv_handle_t *)&p.commands))
        uv_close((uv_handle_t *)&p.commands, NULL);
    workload_api_stop(p.api, on_stopped, NULL);
    workload_api_stop(p.api, on_stopped, NULL); /* the second one is nothing */
}

static void run_command(char *line)
{
    char *save = NULL, *verb = strtok_r(line, " ", &save), *word = strtok_r(NULL, " ", &save);
    const char *id = strtok_r(NULL, " ", &save);
    if (verb == NULL)
        return;
    if (strcmp(verb, "select") == 0)
        on_change(NULL);
    else if (strcmp(verb, "status") == 0)
        print_status();
    else if (strcmp(verb, "jwt") == 0 && word != NULL)
        workload_api_fetch_jwt(p.api, word, id != NULL ? id : "", on_jwt, NULL);
    else if (strcmp(verb, "stop") == 0)
        stop();
    else
        fprintf(stderr, "unknown command: %s\n", verb);
}

static void on_alloc(uv_handle_t *h, size_t size, uv_buf_t *out)
{
    (void)h;
    *out = uv_buf_init(xcalloc(size, 1), (unsigned)size);
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *b)
{
    (void)s;
    if (n > 0)
        CHECK(buf_append(&p.line, b->base, (size_t)n));
    free(b->base);
    size_t len;
    while (!p.is_stopping && (len = str_index(buf_str(&p.line), '\n')) < p.line.len) {
        char *line = str_dup(str_sub(buf_str(&p.line), 0, len));
        buf_consume(&p.line, len + 1);
        run_command(line);
        free(line);
    }
    if (n < 0)
        stop();
}

static void on_stop_timer(void *arg)
{
    (void)arg;
    stop();
}

static const char *option(int argc, char **argv, const char *name)
{
    size_t len = strlen(name);
    for (int i = 2; i < argc; i++)
        if (strncmp(argv[i], name, len) == 0 && argv[i][len] == '=')
            return argv[i] + len + 1;
    return "";
}

int main(int argc, char **argv)
{
    struct err e;
    struct svid_choice choices[SVID_ROLE_COUNT] = {
        [SVID_MESH] = {option(argc, argv, "mesh_id"), option(argc, argv, "mesh_hint")},
        [SVID_AWS] = {option(argc, argv, "aws_id"), option(argc, argv, "aws_hint")},
    };
    struct workload_api_config cfg = {
        .endpoint = argc > 1 ? argv[1] : NULL,
        .redaction_grace_ms = (uint32_t)strtoul(option(argc, argv, "grace_ms"), NULL, 10),
    };
    const char *stop_after = option(argc, argv, "stop_after_ms");
    log_init(LOG_DEBUG, LOG_JSON);
    buf_init(&p.line, 65536);
    CHECK(uv_loop_init(&p.loop) == 0);
    p.store = svid_store_new(choices, clock_system(), &p.loop);
    p.watch = svid_store_watch(p.store, on_change, NULL);
    CHECK(uv_pipe_init(&p.loop, &p.commands, 0) == 0);
    if (!workload_api_new(&cfg, p.store, clock_system(), &p.loop, &p.api, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        return 2;
    }
    workload_api_start(p.api);
    if (stop_after[0] != '\0') {
        p.stop_timer = timer_new(&p.loop, on_stop_timer, NULL);
        timer_start(p.stop_timer, strtoul(stop_after, NULL, 10));
    } else {
        CHECK(uv_pipe_open(&p.commands, 0) == 0);
        CHECK(uv_read_start((uv_stream_t *)&p.commands, on_alloc, on_read) == 0);
    }
    uv_run(&p.loop, UV_RUN_DEFAULT);
    buf_release(&p.line);
    CHECK(uv_loop_close(&p.loop) == 0);
    return 0;
}
