// SPDX-License-Identifier: Apache-2.0
#include "sys/log.h"
#include "sys/clock.h"
#include "sys/metrics.h"

#include "loop_fixture.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static int saved = -1, pipe_read = -1;

static void capture(void)
{
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    saved = dup(STDERR_FILENO);
    dup2(fds[1], STDERR_FILENO);
    close(fds[1]);
    pipe_read = fds[0];
}

/* What was logged since capture(). */
static const char *captured(void)
{
    static char text[65536];
    dup2(saved, STDERR_FILENO);
    close(saved);
    size_t len = 0;
    ssize_t n;
    while ((n = read(pipe_read, text + len, sizeof text - 1 - len)) > 0)
        len += (size_t)n;
    text[len] = '\0';
    close(pipe_read);
    return text;
}

/* The line without its time. */
static const char *after_time(const char *line)
{
    const char *comma = strchr(line, ',');
    assert_non_null(comma);
    return comma;
}

/* One JSON object of strings, numbers and booleans, on one line: the shape every line has. */
static const char *skip_string(const char *p)
{
    assert_int_equal(*p, '"');
    for (p++; *p != '"'; p++) {
        assert_in_range((unsigned char)*p, 32, 126);
        if (*p != '\\')
            continue;
        p++;
        assert_non_null(strchr("\"\\u", *p));
        if (*p == 'u')
            for (int i = 0; i < 4; i++)
                assert_non_null(strchr("0123456789abcdef", *++p));
    }
    return p + 1;
}

static void assert_json_line(const char *p)
{
    assert_int_equal(*p++, '{');
    for (;;) {
        p = skip_string(p);
        assert_int_equal(*p++, ':');
        if (*p == '"')
            p = skip_string(p);
        else
            p += strspn(p, "-0123456789truefals");
        if (*p != ',')
            break;
        p++;
    }
    assert_string_equal(p, "}\n");
}

TEST(log, a_json_line_has_time_level_event_and_fields)
{
    log_init(LOG_DEBUG, LOG_JSON);
    capture();
    LOG(EV_SVID_ROTATED, F_STR("spiffe_id", "spiffe://td/a"), F_INT("generation", -3),
        F_BOOL("good", true), F_BOOL("bad", false), F_S("cut", ((struct str){"abcdef", 3})));
    const char *line = captured();
    assert_json_line(line);
    assert_memory_equal(line, "{\"time\":\"20", 11);
    assert_string_equal(
        after_time(line),
        ",\"level\":\"info\",\"event\":\"svid.rotated\",\"spiffe_id\":\"spiffe://td/a\","
        "\"generation\":-3,\"good\":true,\"bad\":false,\"cut\":\"abc\"}\n");
}

TEST(log, numbers_of_any_size_are_written)
{
    log_init(LOG_DEBUG, LOG_JSON);
    capture();
    LOG(EV_SVID_ROTATED, F_INT("a", 0), F_INT("b", 10), F_INT("c", -1), F_INT("d", INT64_MAX),
        F_INT("e", INT64_MIN));
    assert_non_null(strstr(captured(), ",\"a\":0,\"b\":10,\"c\":-1,\"d\":9223372036854775807,"
                                       "\"e\":-9223372036854775808}\n"));
}

TEST(log, a_text_line_is_for_people)
{
    log_init(LOG_DEBUG, LOG_TEXT);
    capture();
    LOG(EV_SVID_ROTATED, F_STR("spiffe_id", "a b"), F_INT("generation", 3));
    assert_string_equal(captured() + 24, " info  svid.rotated spiffe_id=\"a b\" generation=3\n");
}

TEST(log, peer_text_cannot_break_a_line)
{
    log_init(LOG_DEBUG, LOG_JSON);
    capture();
    char every[256];
    for (int i = 0; i < 256; i++)
        every[i] = (char)i;
    LOG(EV_APP_CONFIG, F_S("raw", ((struct str){every, sizeof every})));
    const char *line = captured();
    assert_json_line(line);
    assert_non_null(strstr(line, "\\u0000\\u0001"));
    assert_non_null(strstr(line, "\\u000a"));
    assert_non_null(strstr(line, "\\\""));
    assert_non_null(strstr(line, "\\\\"));
    assert_non_null(strstr(line, "\\u007f\\u0080"));
    log_init(LOG_DEBUG, LOG_TEXT);
    capture();
    LOG(EV_APP_CONFIG, F_STR("raw", "x\" forged=1\n2026 info y"));
    line = captured();
    assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
    assert_non_null(strstr(line, "raw=\"x\\\" forged=1\\u000a2026 info y\"\n"));
}

TEST(log, long_fields_are_cut_and_what_does_not_fit_is_left_out_whole)
{
    log_init(LOG_DEBUG, LOG_JSON);
    char big[4000];
    memset(big, 'x', sizeof big);
    struct str s = {big, sizeof big};
    capture();
    LOG(EV_APP_CONFIG, F_S("one", s), F_INT("end", 1));
    const char *line = captured();
    assert_json_line(line);
    assert_non_null(strstr(line, "xxx...\",\"end\":1}\n"));
    assert_true(strlen(line) < 1200);
    memset(big, 1, sizeof big); /* six bytes each */
    for (int n = 165; n < 175; n++) {
        capture();
        s.len = (size_t)n;
        LOG(EV_APP_CONFIG, F_S("a", s), F_INT("end", 1));
        line = captured();
        assert_json_line(line);
        assert_int_equal(strstr(line, "...") != NULL, n > 170);
    }
    for (int n = 0; n < 1024; n++) {
        capture();
        s.len = (size_t)n;
        LOG(EV_APP_CONFIG, F_S("a", s), F_S("b", s), F_S("c", s), F_S("d", s), F_S("e", s),
            F_INT("end", 1));
        line = captured();
        assert_json_line(line);
        assert_true(strlen(line) <= PIPE_BUF);
        assert_non_null(strstr(line, ",\"end\":1}\n"));
    }
}

TEST(log, empty_strings_are_left_out)
{
    log_init(LOG_DEBUG, LOG_JSON);
    capture();
    LOG(EV_APP_CONFIG, F_STR("none", NULL), F_STR("empty", ""), F_INT("zero", 0));
    assert_string_equal(after_time(captured()),
                        ",\"level\":\"warn\",\"event\":\"app.config\",\"zero\":0}\n");
}

TEST(log, errors_tell_class_and_text)
{
    log_init(LOG_DEBUG, LOG_JSON);
    struct err e;
    err_set(&e, ERR_TIMEOUT, 0, "no answer");
    capture();
    LOG_ERR(EV_JWT_FETCH_FAILED, &e, F_STR("audience", "sts"));
    assert_string_equal(after_time(captured()),
                        ",\"level\":\"info\",\"event\":\"jwt.fetch.failed\",\"class\":\"timeout\","
                        "\"error\":\"no answer\",\"audience\":\"sts\"}\n");
}

TEST(log, the_level_belongs_to_the_event)
{
    log_init(LOG_INFO, LOG_JSON);
    capture();
    LOG(EV_GATEWAY_CONNECTED, F_INT("debug", 1));
    LOG(EV_APP_STARTED, F_INT("info", 1));
    log_init(LOG_WARN, LOG_JSON);
    LOG(EV_APP_STARTED, F_INT("info", 2));
    LOG(EV_APP_CONFIG, F_INT("warn", 3));
    const char *text = captured();
    assert_null(strstr(text, "debug"));
    assert_non_null(strstr(text, "\"info\":1"));
    assert_null(strstr(text, "\"info\":2"));
    assert_non_null(strstr(text, "\"warn\":3"));
}

TEST(log, equal_troubles_are_told_once_per_window)
{
    assert_false(log_is_repeat(EV_GATEWAY_FAILED, "a", 50));
    assert_true(log_is_repeat(EV_GATEWAY_FAILED, "a", 50));
    assert_false(log_is_repeat(EV_GATEWAY_FAILED, "b", 50));
    assert_false(log_is_repeat(EV_CREDENTIALS_FAILED, "a", 50));
    assert_false(log_is_repeat(EV_APP_CONFIG, NULL, 50));
    assert_true(log_is_repeat(EV_APP_CONFIG, NULL, 50));
    usleep(60000);
    assert_false(log_is_repeat(EV_GATEWAY_FAILED, "a", 50));
}

TEST(log, a_trouble_that_lasts_is_told_again)
{
    const struct clock *clock = clock_system();
    int64_t began_ms = clock_wall_ms(clock);
    unsigned told = 0;
    for (int i = 0; i < 12; i++, usleep(10000))
        told += log_is_repeat(EV_GATEWAY_FAILED, "lasting", 50) ? 0 : 1;
    assert_in_range(told, 2, (uintmax_t)(clock_wall_ms(clock) - began_ms) / 50 + 1);
}

static void on_alarm(int sig)
{
    (void)sig;
}

/* A reader that is slow, and signals meanwhile. */
TEST(log, a_signal_does_not_end_the_patience_of_the_last_words)
{
    log_init(LOG_DEBUG, LOG_JSON);
    capture();
    fcntl(STDERR_FILENO, F_SETPIPE_SZ, 4096);
    char block[4096];
    memset(block, '\n', sizeof block);
    assert_int_equal(write(STDERR_FILENO, block, sizeof block), sizeof block); /* full */
    pid_t child = fork();
    if (child == 0) {
        close(STDERR_FILENO);
        usleep(50000); /* the writer waits meanwhile, and the alarm interrupts it */
        char c;
        while (read(pipe_read, &c, 1) == 1) {
            if (c == '}')
                _exit(0);
        }
        _exit(1);
    }
    struct sigaction sa = {.sa_handler = on_alarm}; /* no SA_RESTART */
    sigaction(SIGALRM, &sa, NULL);
    struct itimerval t = {.it_value = {.tv_usec = 20000}};
    setitimer(ITIMER_REAL, &t, NULL);
    LOG(EV_APP_STARTED, F_STR("whole", "line"));
    log_flush(10000);
    close(STDERR_FILENO); /* so that the child sees an end even without the line */
    dup2(saved, STDERR_FILENO);
    int status = -1;
    while (waitpid(child, &status, 0) == -1 && errno == EINTR) {
    }
    close(pipe_read);
    close(saved);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* A pipe of one page whose page is taken. */
static void fill_pipe(void)
{
    char block[4096];
    memset(block, '\n', sizeof block);
    assert_int_equal(fcntl(STDERR_FILENO, F_SETPIPE_SZ, sizeof block), sizeof block);
    assert_int_equal(write(STDERR_FILENO, block, sizeof block), sizeof block);
}

/* All that is in the pipe. */
static size_t read_pipe(char *out, size_t cap)
{
    int unread = 0;
    assert_int_equal(ioctl(pipe_read, FIONREAD, &unread), 0);
    assert_true((size_t)unread < cap);
    ssize_t n = unread > 0 ? read(pipe_read, out, cap - 1) : 0;
    assert_true(n >= 0);
    out[n] = '\0';
    return (size_t)n;
}

/* What a reader gets who comes back: everything, page by page.  Malloc'd. */
static char *drained(void)
{
    char *all = xcalloc(1, 1 << 20);
    size_t len = 0, n;
    while ((n = read_pipe(all + len, (1 << 20) - len)) > 0) {
        len += n;
        log_flush(0);
    }
    return all;
}

static int64_t number_after(const char *text, const char *key)
{
    const char *found = strstr(text, key);
    assert_non_null(found);
    return strtoll(found + strlen(key), NULL, 10);
}

TEST(log, lines_wait_for_a_reader_and_come_whole_and_in_order)
{
    log_init(LOG_DEBUG, LOG_JSON);
    double before = metric_get(M_LOG_LINES_DROPPED, METRIC_NONE);
    capture();
    fill_pipe();
    uint64_t began_us = clock_mono_us();
    for (int i = 0; i < 500; i++)
        LOG(EV_APP_STARTED, F_INT("line", i));
    assert_true(clock_mono_us() - began_us < 200000);
    AUTO_FREE char *text = drained();
    captured();
    const char *at = text + strspn(text, "\n");
    for (int i = 0; i < 500; i++) {
        assert_int_equal(number_after(at, "\"line\":"), i);
        at = strchr(at, '\n') + 1;
    }
    assert_string_equal(at, "");
    assert_true(metric_get(M_LOG_LINES_DROPPED, METRIC_NONE) == before);
}

TEST(log, what_finds_no_room_is_counted_and_told_of_in_its_place)
{
    enum { LINES = 5000 };
    log_init(LOG_DEBUG, LOG_JSON);
    double before = metric_get(M_LOG_LINES_DROPPED, METRIC_NONE);
    capture();
    fill_pipe();
    uint64_t began_us = clock_mono_us();
    for (int i = 0; i < LINES; i++)
        LOG(EV_APP_STARTED, F_INT("line", i));
    assert_true(clock_mono_us() - began_us < 2000000);
    AUTO_FREE char *text = drained();
    LOG(EV_APP_STARTED, F_INT("line", LINES));
    const char *after = captured();
    const char *told = strstr(text, "\"event\":\"log.dropped\",\"lines\":");
    assert_non_null(told);
    int64_t n_lost = number_after(told, "\"lines\":");
    assert_true(metric_get(M_LOG_LINES_DROPPED, METRIC_NONE) - before == (double)n_lost);
    const char *at = text + strspn(text, "\n");
    for (int64_t i = 0; i < LINES - n_lost; i++) { /* the first ones are the ones kept */
        assert_int_equal(number_after(at, "\"line\":"), i);
        at = strchr(at, '\n') + 1;
    }
    assert_true(at < told && strchr(at, '\n') + 1 == text + strlen(text));
    assert_non_null(strstr(after, "\"line\":5000}\n"));
}

TEST(log, the_patience_is_for_all_last_words_together)
{
    log_init(LOG_DEBUG, LOG_JSON);
    capture();
    fill_pipe();
    pid_t child = fork();
    if (child == 0) { /* a reader that trickles */
        close(STDERR_FILENO);
        char page[4096];
        while (read(pipe_read, page, sizeof page) > 0)
            usleep(100000);
        _exit(0);
    }
    for (int i = 0; i < 2000; i++)
        LOG(EV_APP_STARTED, F_INT("line", i));
    uint64_t began_us = clock_mono_us();
    log_flush(100);
    uint64_t took_us = clock_mono_us() - began_us;
    fcntl(STDERR_FILENO, F_SETPIPE_SZ, 1 << 20);
    log_flush(10000); /* nothing is left to the tests after this one */
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(pipe_read);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_in_range(took_us, 90000, 1500000);
}

TEST(log, what_waits_is_written_although_nothing_more_is_said)
{
    char page[8192];
    uv_loop_t *loop = loop_new();
    log_init(LOG_DEBUG, LOG_JSON);
    log_attach(loop);
    capture();
    fill_pipe();
    LOG(EV_APP_STARTED, F_INT("late", 1));
    read_pipe(page, sizeof page);
    LOOP_UNTIL(loop, read_pipe(page, sizeof page) > 0);
    captured();
    log_detach();
    loop_free(&loop);
    assert_non_null(strstr(page, "\"late\":1}\n"));
}

TEST(log, a_closed_stderr_loses_lines_without_delay)
{
    log_init(LOG_DEBUG, LOG_JSON);
    double before = metric_get(M_LOG_LINES_DROPPED, METRIC_NONE);
    saved = dup(STDERR_FILENO);
    close(STDERR_FILENO);
    LOG(EV_APP_STARTED, F_INT("lost", 1));
    dup2(saved, STDERR_FILENO);
    close(saved);
    assert_true(metric_get(M_LOG_LINES_DROPPED, METRIC_NONE) - before == 1);
}
