// SPDX-License-Identifier: Apache-2.0
/* Each subcommand runs in a child, as argp may end the process; what it asks is a scripted server
 * in another. */
#include "test.h"

#include "app/admin_client.h"
#include "app/cli.h"
#include "app/config_schema.h"
#include "app/screen.h"
#include "base/mem.h"
#include "base/str.h"
#include "sys/clock.h"

#include <arpa/inet.h>
#include <jansson.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define TEXT_MAX 65536
#define ARGS_MAX 24

struct outcome {
    int code; /* 128 + signal */
    char out[TEXT_MAX], err[TEXT_MAX];
};

static void slurp(int fd, char *text)
{
    ssize_t n = pread(fd, text, TEXT_MAX - 1, 0);
    assert_true(n >= 0);
    text[n] = '\0';
    close(fd);
}

static int memory_file(void)
{
    int fd = memfd_create("svidmail-test", 0);
    assert_true(fd >= 0);
    return fd;
}

static int wait_for(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* svidmail ARG...; the list ends with NULL. */
static void run(struct outcome *o, const char *first, ...)
{
    char *argv[ARGS_MAX] = {(char *)(uintptr_t) "svidmail"};
    int argc = 1, out = memory_file(), err = memory_file();
    va_list ap;
    va_start(ap, first);
    for (const char *arg = first; arg != NULL; arg = va_arg(ap, const char *))
        argv[argc++] = (char *)(uintptr_t)arg;
    va_end(ap);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(out, STDOUT_FILENO);
        dup2(err, STDERR_FILENO);
        exit(cli_main(argc, argv));
    }
    o->code = wait_for(pid);
    slurp(out, o->out);
    slurp(err, o->err);
}

static void assert_has(const char *text, const char *part)
{
    if (strstr(text, part) == NULL)
        fail_msg("\"%s\" is not in:\n%s", part, text);
}

static void assert_not(const char *text, const char *part)
{
    if (strstr(text, part) != NULL)
        fail_msg("\"%s\" is in:\n%s", part, text);
}

/* --- a server that says its lines */

struct server {
    pid_t pid;
    int record; /* what the client sent */
    char path[64], dir[32];
};

/* Says the first line, then the next one after each line received that is not part of a mail's body
 * (from the line that was answered by 354 to the lone dot). */
static void speak(int fd, int record, const char *const *lines)
{
    FILE *in = fdopen(dup(fd), "r");
    char line[4096];
    bool is_body = false;
    for (size_t i = 0; lines[i] != NULL; i++) {
        (void)!send(fd, lines[i], strlen(lines[i]), MSG_NOSIGNAL);
        is_body = strncmp(lines[i], "354", 3) == 0;
        do {
            if (fgets(line, sizeof line, in) == NULL)
                _exit(0);
            (void)!write(record, line, strlen(line));
        } while (is_body && strcmp(line, ".\r\n") != 0);
    }
    _exit(0);
}

static unsigned drip_ms; /* between two pieces of an answer */

/* HTTP: the same answer to each of the connections, whatever is asked. */
static void serve_http(int fd, int record, const char *const *answer)
{
    char request[4096];
    ssize_t n = recv(fd, request, sizeof request, 0);
    (void)!write(record, request, n > 0 ? (size_t)n : 0);
    for (; *answer != NULL; answer++) {
        (void)!send(fd, *answer, strlen(*answer), MSG_NOSIGNAL);
        usleep(drip_ms * 1000);
    }
}

static void server_start(struct server *s, bool is_smtp, const char *const *lines)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    str_copy(s->dir, sizeof s->dir, STR("/tmp/svidmail-cli-XXXXXX"));
    assert_non_null(mkdtemp(s->dir));
    snprintf(s->path, sizeof s->path, "%s/s", s->dir);
    str_copy(addr.sun_path, sizeof addr.sun_path, str_from(s->path));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    assert_int_equal(listen(fd, 8), 0);
    s->record = memory_file();
    s->pid = fork();
    assert_true(s->pid >= 0);
    if (s->pid == 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed assertion stops no server */
    while (s->pid == 0) {
        int client = accept(fd, NULL, NULL);
        if (is_smtp)
            speak(client, s->record, lines);
        else
            serve_http(client, s->record, lines);
        close(client);
    }
    close(fd);
}

/* What the clients sent goes to heard, if not NULL. */
static void server_stop(struct server *s, char *heard)
{
    kill(s->pid, SIGKILL);
    waitpid(s->pid, NULL, 0);
    if (heard != NULL)
        slurp(s->record, heard);
    else
        close(s->record);
    unlink(s->path);
    rmdir(s->dir);
}

static void http_start(struct server *s, const char *answer)
{
    const char *const lines[] = {answer, NULL};
    server_start(s, false, lines);
}

/* --- usage */

TEST(cli, help_lists_each_subcommand_on_one_line)
{
    static const char *const ways[] = {"--help", "-h", "help"};
    for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
        struct outcome o;
        run(&o, ways[i], NULL);
        assert_int_equal(o.code, 0);
        assert_string_equal(o.err, "");
        for (const struct cli_command *c = cli_commands; c->name != NULL; c++) {
            AUTO_FREE char *line = xasprintf("\n  %-15s%s\n", c->name, c->help);
            assert_has(o.out, line);
        }
    }
}

TEST(cli, without_a_subcommand_usage_goes_to_stderr)
{
    struct outcome o;
    run(&o, NULL);
    assert_int_equal(o.code, 2);
    assert_string_equal(o.out, "");
    assert_has(o.err, "Usage: svidmail SUBCOMMAND");
}

TEST(cli, an_unknown_subcommand_is_refused_with_a_suggestion)
{
    struct outcome o;
    run(&o, "chek-config", NULL);
    assert_int_equal(o.code, 2);
    assert_has(o.err, "there is no subcommand \"chek-config\"; did you mean check-config?");
    run(&o, "\033[2Jxyz", NULL);
    assert_int_equal(o.code, 2);
    assert_has(o.err, "\"\\x1b[2Jxyz\"\n");
    assert_not(o.err, "did you mean");
}

TEST(cli, every_subcommand_explains_itself_and_refuses_what_it_does_not_know)
{
    for (const struct cli_command *c = cli_commands; c->name != NULL; c++) {
        struct outcome o;
        AUTO_FREE char *usage = xasprintf("Usage: svidmail %s", c->name);
        run(&o, c->name, "--help", NULL);
        assert_int_equal(o.code, 0);
        assert_has(o.out, usage);
        run(&o, c->name, "--bogus", NULL);
        assert_int_equal(o.code, 2);
        assert_string_equal(o.out, "");
        assert_has(o.err, "--bogus");
        run(&o, c->name, "one", "two", NULL);
        assert_int_equal(o.code, 2);
    }
}

TEST(cli, output_that_goes_nowhere_is_a_failure)
{
    pid_t pid = fork();
    if (pid == 0) {
        char name[] = "svidmail", arg[] = "--help";
        char *argv[] = {name, arg, NULL};
        (void)!freopen("/dev/full", "w", stdout);
        (void)!freopen("/dev/null", "w", stderr);
        _exit(cli_main(2, argv));
    }
    assert_int_equal(wait_for(pid), 1);
}

/* --- check-config */

static char *write_config(const char *text)
{
    char *name = xstrdup("/tmp/svidmail-cli-XXXXXX");
    AUTO_CLOSE int fd = mkstemp(name);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    return name;
}

#define GOOD                                                                                       \
    "gateway: {host: gw, spiffe_ids: ['spiffe://example.org/gw']}\n"                               \
    "ses: {region: eu-central-1}\naws: {role_arn: 'arn:aws:iam::123456789012:role/m'}\n"

TEST(cli, check_config_says_ok_or_where_it_is_not)
{
    struct outcome o;
    AUTO_FREE char *good = write_config(GOOD), *bad = write_config("smtp:\n  lisen: []\n");
    AUTO_FREE char *ok = xasprintf("%s: ok\n", good);
    AUTO_FREE char *wrong =
        xasprintf("%s:2:3: smtp.lisen: unknown key; did you mean smtp.listen?\n", bad);
    run(&o, "check-config", good, NULL);
    assert_int_equal(o.code, 0);
    assert_string_equal(o.out, ok);
    run(&o, "check-config", bad, NULL);
    assert_int_equal(o.code, 2);
    assert_string_equal(o.out, "");
    assert_string_equal(o.err, wrong);
    run(&o, "check-config", "/nonexistent", NULL);
    assert_int_equal(o.code, 2);
    run(&o, "check-config", NULL);
    assert_int_equal(o.code, 2);
    assert_has(o.err, "which FILE?");
    unlink(good);
    unlink(bad);
}

TEST(cli, check_config_lists_every_key)
{
    struct outcome o;
    size_t n;
    const struct config_key *keys = config_keys(&n);
    run(&o, "check-config", "--keys", NULL);
    assert_int_equal(o.code, 0);
    for (size_t i = 0; i < n; i++) {
        AUTO_FREE char *begin = xasprintf("%s (", keys[i].path);
        assert_has(o.out, begin);
        assert_has(o.out, keys[i].help);
    }
}

/* --- asking a running one */

#define OK_HEAD "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"

TEST(cli, health_tells_alive_from_ready)
{
    struct outcome o;
    struct server s;
    char heard[TEXT_MAX];
    http_start(&s, OK_HEAD "ok\n");
    run(&o, "health", "--socket", s.path, NULL);
    server_stop(&s, heard);
    assert_int_equal(o.code, 0);
    assert_string_equal(o.out, "ok\n");
    assert_has(heard, "GET /health HTTP/1.1\r\n");
    http_start(&s, "HTTP/1.1 503 X\r\nContent-Length: 26\r\n\r\nnot ready: no identity yet");
    run(&o, "health", "--ready", "--socket", s.path, NULL);
    server_stop(&s, heard);
    assert_int_equal(o.code, 1);
    assert_string_equal(o.out, "");
    assert_string_equal(o.err, "not ready: no identity yet");
    assert_has(heard, "GET /ready HTTP/1.1\r\n");
}

TEST(cli, announce_stop_posts_and_shows_the_answer)
{
    struct outcome o;
    struct server s;
    char heard[TEXT_MAX];
    http_start(&s, OK_HEAD "noted\n");
    run(&o, "announce-stop", "--socket", s.path, NULL);
    server_stop(&s, heard);
    assert_int_equal(o.code, 0);
    assert_string_equal(o.out, "noted\n");
    assert_string_equal(o.err, "");
    assert_has(heard, "POST /announce-stop HTTP/1.1\r\n");
    assert_has(heard, "\r\nContent-Length: 0\r\n");
}

/* Absent, lying, cut off, of another version: a preStop hook fails for none of it. */
TEST(cli, announce_stop_excuses_whatever_it_meets)
{
    static const char *const answers[] = {"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n",
                                          "HTTP/1.1 405 X\r\n\r\nonly GET\n", "220 smtp\r\n", "",
                                          "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nno"};
    struct outcome o;
    for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
        struct server s;
        http_start(&s, answers[i]);
        run(&o, "announce-stop", "--socket", s.path, NULL);
        server_stop(&s, NULL);
        assert_int_equal(o.code, 0);
        assert_string_equal(o.out, "");
        assert_has(o.err, "svidmail: warning: not announced: ");
    }
    run(&o, "announce-stop", "--socket", "/nonexistent/admin.sock", NULL);
    assert_int_equal(o.code, 0);
    assert_has(o.err, "svidmail: warning: not announced: svidmail is not running here");
    run(&o, "announce-stop", "--config", "/nonexistent", NULL);
    assert_int_equal(o.code, 0);
    assert_has(o.err, "/nonexistent");
}

/* On a machine that has more to do the best one counts. */
TEST(cli, announce_stop_waits_for_a_hanging_svidmail_less_than_a_second)
{
    uint64_t best_us = UINT64_MAX;
    drip_ms = 3000; /* after a piece that is no answer yet */
    for (int i = 0; i < 5 && best_us > 1000000; i++) {
        struct outcome o;
        struct server s;
        http_start(&s, "HTTP/1.1 200 OK\r\n");
        uint64_t asked_at_us = clock_mono_us();
        run(&o, "announce-stop", "--socket", s.path, NULL);
        uint64_t took_us = clock_mono_us() - asked_at_us;
        best_us = took_us < best_us ? took_us : best_us;
        server_stop(&s, NULL);
        assert_int_equal(o.code, 0);
        assert_has(o.err, "warning: not announced: svidmail does not answer");
    }
    drip_ms = 0;
    assert_in_range(best_us, 500000, 1000000);
}

TEST(cli, who_is_not_running_is_told_so)
{
    static const char *const commands[] = {"health", "status", "identity", "metrics"};
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        struct outcome o;
        run(&o, commands[i], "--socket", "/nonexistent/admin.sock", NULL);
        assert_int_equal(o.code, 1);
        assert_string_equal(o.out, "");
        assert_string_equal(
            o.err,
            "svidmail: svidmail is not running here, or its admin.socket is another one "
            "(pass --socket or --config): /nonexistent/admin.sock: No such file or directory\n");
    }
}

TEST(cli, the_socket_is_taken_from_the_configuration)
{
    struct outcome o;
    struct server s;
    http_start(&s, OK_HEAD "ok\n");
    AUTO_FREE char *text = xasprintf(GOOD "admin: {socket: %s}\n", s.path);
    AUTO_FREE char *good = write_config(text), *off = write_config(GOOD "admin: {socket: ''}\n");
    run(&o, "health", "--config", good, NULL);
    assert_int_equal(o.code, 0);
    run(&o, "health", "--config", off, NULL);
    assert_int_equal(o.code, 2);
    assert_has(o.err, "admin.socket is \"\": this svidmail cannot be asked");
    run(&o, "health", "--config", "/nonexistent", NULL);
    assert_int_equal(o.code, 2);
    run(&o, "health", "--config", "/nonexistent", "--socket", s.path, NULL);
    assert_int_equal(o.code, 0);
    server_stop(&s, NULL);
    unlink(good);
    unlink(off);
}

TEST(cli, metrics_are_passed_on_as_they_are)
{
    struct outcome o;
    struct server s;
    http_start(&s, OK_HEAD "# HELP a b\na 1\n");
    run(&o, "metrics", "--socket", s.path, NULL);
    server_stop(&s, NULL);
    assert_int_equal(o.code, 0);
    assert_string_equal(o.out, "# HELP a b\na 1\n");
    http_start(&s, "HTTP/1.1 500 X\r\n\r\nhalf of the metr");
    run(&o, "metrics", "--socket", s.path, NULL);
    server_stop(&s, NULL);
    assert_int_equal(o.code, 1);
    assert_string_equal(o.out, "");
    assert_has(o.err, "/metrics was answered by 500");
}

static const char status_json[] =
    "{\"version\":\"9.9.9\",\"commit\":\"abc\",\"uptime_s\":3725,\"ready\":false,"
    "\"not_ready_because\":\"no identity\\u001b[2J\","
    "\"smtp\":{\"listeners\":[\"127.0.0.1:2525\",\"[::1]:2525\"],\"sessions\":3},"
    "\"identity\":{\"endpoint\":\"unix:///a\",\"connected\":true,\"generation\":4,"
    "\"mesh\":{\"spiffe_id\":\"spiffe://x/mesh\",\"hint\":\"internal\",\"expires_in_s\":90},"
    "\"aws\":{\"error\":\"several and none named\"},"
    "\"offered\":[{\"spiffe_id\":\"spiffe://x/mesh\",\"expires_in_s\":-30}],"
    "\"bundles\":[{\"trust_domain\":\"x\",\"cas\":2,\"own\":true,\"usable\":true},"
    "{\"trust_domain\":\"y\",\"cas\":0,\"own\":false,\"usable\":false}]},"
    "\"gateway\":{\"host\":\"gw\",\"spiffe_ids\":[\"spiffe://x/gw\",\"spiffe://x/gw2\"],"
    "\"tls\":\"gateway\",\"streams\":2,"
    "\"last_failure\":\"reset\"},"
    "\"credentials\":{\"role_arn\":\"arn:r\",\"region\":\"eu-central-1\",\"usable\":true,\"expires_"
    "in_s\":172800},"
    "\"last\":[{\"mail\":\"01ID\",\"outcome\":\"delivered\",\"code\":250,\"text\":\"Ok 0100-ses\","
    "\"ses_message_id\":\"0100-ses\",\"gateway\":\"spiffe://x/"
    "gw2\",\"age_s\":5,\"took_ms\":42}]}\n";

TEST(cli, status_fits_on_a_screen_and_steers_no_terminal)
{
    struct outcome o;
    struct server s;
    AUTO_FREE char *answer = xasprintf(OK_HEAD "%s", status_json);
    http_start(&s, answer);
    run(&o, "status", "--socket", s.path, NULL);
    server_stop(&s, NULL);
    assert_int_equal(o.code, 0);
    assert_string_equal(
        o.out, "svidmail 9.9.9 (commit abc), up 1 h 2 min: not ready: no identity\\x1b[2J\n"
               "  SMTP         127.0.0.1:2525 [::1]:2525 (3 sessions)\n"
               "  Agent        unix:///a, connected, generation 4\n"
               "  To gateway   spiffe://x/mesh \"internal\" (1 min left)\n"
               "  To AWS       several and none named\n"
               "  Gateway      gw, TLS to SES by the gateway, 2 streams\n"
               "               reset\n"
               "  Credentials  arn:r (2 d left)\n"
               "  Last mails   \n"
               "    5 s ago  01ID  delivered in 42 ms\n"
               "        250 Ok 0100-ses\n"
               "  Next         `svidmail doctor' names what is wrong, why, and what to type\n");
}

TEST(cli, status_sends_to_doctor_only_when_something_is_wrong)
{
    static const struct {
        const char *rest;
        bool is_troubled;
    } cases[] = {
        {"\"ready\":true", false},
        {"\"ready\":false", true},
        {"\"ready\":true,\"identity\":{\"last_error\":\"lost\"}", true},
        {"\"ready\":true,\"gateway\":{\"last_failure\":\"reset\"}", true},
        {"\"ready\":true,\"credentials\":{\"last_error\":\"AccessDenied\"}", true},
        {"\"ready\":true,\"last\":[{\"code\":451}]", true},
        {"\"ready\":true,\"last\":[{\"code\":250},{\"code\":451}]", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct outcome o;
        struct server s;
        AUTO_FREE char *answer = xasprintf(OK_HEAD "{%s}", cases[i].rest);
        http_start(&s, answer);
        run(&o, "status", "--socket", s.path, NULL);
        server_stop(&s, NULL);
        assert_int_equal(o.code, 0);
        assert_int_equal(strstr(o.out, "svidmail doctor") != NULL, cases[i].is_troubled);
    }
}

static const char doctor_json[] =
    "{\"result\":\"%s\",\"counts\":{\"ok\":1,\"warning\":0,\"failed\":1,\"not_checked\":1},"
    "\"checks\":["
    "{\"category\":\"identity\",\"check\":\"SPIRE agent\",\"result\":\"ok\",\"text\":\"answers\"},"
    "{\"category\":\"gateway\",\"check\":\"name\",\"result\":\"failed\",\"text\":\"gw\\u001b[2J\","
    "\"code\":\"SM031\",\"title\":\"No name\",\"cure\":[\"kubectl get this\",\"and that\"],"
    "\"gateway_log\":\"UH\",\"see\":\"docs/troubleshooting.md#sm031\"},"
    "{\"category\":\"gateway\",\"check\":\"TLS\",\"result\":\"not_checked\",\"text\":\"because\"}]"
    "}";

TEST(cli, doctor_fits_its_screen_and_steers_no_terminal)
{
    struct outcome o;
    struct server s;
    char heard[TEXT_MAX];
    AUTO_FREE char *body = xasprintf(doctor_json, "failed");
    AUTO_FREE char *answer = xasprintf(OK_HEAD "%s", body);
    http_start(&s, answer);
    run(&o, "doctor", "--socket", s.path, NULL);
    server_stop(&s, heard);
    assert_has(heard, "GET /doctor HTTP/1.1");
    assert_int_equal(o.code, 1);
    assert_string_equal(o.out, "identity\n--------\n"
                               "\xe2\x88\x9a SPIRE agent: answers\n"
                               "\ngateway\n-------\n"
                               "\xc3\x97 name: gw\\x1b[2J\n"
                               "    SM031 No name\n"
                               "      kubectl get this\n"
                               "      and that\n"
                               "    gateway log: UH\n"
                               "    see docs/troubleshooting.md#sm031\n"
                               "- TLS: not checked, because\n"
                               "\n1 fine, 0 to look at, 1 failed, 1 not checked\n");
}

TEST(cli, doctors_exit_code_is_1_only_where_something_has_failed)
{
    static const struct {
        const char *result;
        int code;
    } cases[] = {{"ok", 0}, {"warning", 0}, {"failed", 1}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct outcome o;
        struct server s;
        char heard[TEXT_MAX];
        AUTO_FREE char *body = xasprintf(doctor_json, cases[i].result);
        AUTO_FREE char *answer = xasprintf(OK_HEAD "%s", body);
        http_start(&s, answer);
        run(&o, "doctor", "--offline", "-o", "json", "--socket", s.path, NULL);
        server_stop(&s, heard);
        assert_has(heard, "GET /doctor?offline HTTP/1.1");
        assert_int_equal(o.code, cases[i].code);
        assert_string_equal(o.out, body);
    }
}

TEST(cli, doctor_tells_an_answer_that_is_none)
{
    static const char *const answers[] = {
        OK_HEAD "nonsense", OK_HEAD "{}",
        "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\nsvidmail is stopping\n"};
    for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
        struct outcome o;
        struct server s;
        http_start(&s, answers[i]);
        run(&o, "doctor", "--socket", s.path, NULL);
        server_stop(&s, NULL);
        assert_int_equal(o.code, 1);
        assert_string_equal(o.out, "");
        assert_non_null(
            strstr(o.err, i < 2 ? "not answered by JSON" : "503: svidmail is stopping"));
    }
}

TEST(cli, json_output_is_what_was_answered)
{
    struct outcome o;
    struct server s;
    AUTO_FREE char *answer = xasprintf(OK_HEAD "%s", status_json);
    http_start(&s, answer);
    run(&o, "status", "--output", "json", "--socket", s.path, NULL);
    assert_int_equal(o.code, 0);
    assert_string_equal(o.out, status_json);
    run(&o, "status", "--output=xml", "--socket", s.path, NULL);
    assert_int_equal(o.code, 2);
    assert_has(o.err, "\"xml\" is neither json nor text");
    server_stop(&s, NULL);
}

TEST(cli, identity_shows_what_is_offered_and_what_is_trusted)
{
    struct outcome o;
    struct server s;
    json_t *all = json_loads(status_json, 0, NULL);
    char *identity = json_dumps(json_object_get(all, "identity"), 0);
    AUTO_FREE char *answer = xasprintf(OK_HEAD "%s", identity);
    http_start(&s, answer);
    run(&o, "identity", "--socket", s.path, NULL);
    server_stop(&s, NULL);
    free(identity);
    json_decref(all);
    assert_int_equal(o.code, 0);
    assert_string_equal(o.out, "  Agent        unix:///a, connected, generation 4\n"
                               "  To gateway   spiffe://x/mesh \"internal\" (1 min left)\n"
                               "  To AWS       several and none named\n"
                               "  Offered      spiffe://x/mesh (expired 30 s ago)\n"
                               "  Bundles      x, 2 CAs, our own\n"
                               "               y, 0 CAs, not usable: this domain is not trusted\n");
}

TEST(cli, one_trouble_of_both_roles_is_told_once)
{
    struct outcome o;
    struct server s;
    http_start(&s, OK_HEAD
               "{\"endpoint\":\"unix:///a\",\"connected\":false,\"last_error\":\"no "
               "agent\",\"generation\":0,"
               "\"mesh\":{\"error\":\"none: no agent\"},\"aws\":{\"error\":\"none: no agent\"}}");
    run(&o, "identity", "--socket", s.path, NULL);
    server_stop(&s, NULL);
    assert_int_equal(o.code, 0);
    assert_string_equal(o.out, "  Agent        unix:///a, not connected, generation 0\n"
                               "  Identity     none: no agent\n"
                               "  Offered      nothing\n");
}

TEST(cli, an_empty_status_is_shown_without_a_stumble)
{
    static const char *const bodies[] = {"{}", "[]", "{\"identity\":7,\"last\":{},\"smtp\":[]}",
                                         "{\"smtp\":{\"listeners\":[1,null]},\"last\":[1,{}]}"};
    for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
        struct outcome o;
        struct server s;
        AUTO_FREE char *answer = xasprintf(OK_HEAD "%s", bodies[i]);
        http_start(&s, answer);
        run(&o, "status", "--socket", s.path, NULL);
        assert_int_equal(o.code, 0);
        run(&o, "identity", "--socket", s.path, NULL);
        assert_int_equal(o.code, 0);
        server_stop(&s, NULL);
    }
}

TEST(cli, what_is_not_svidmail_is_recognised)
{
    static const struct {
        const char *answer, *message;
    } cases[] = {
        {"220 mail.example ESMTP\r\n", "what answers there is not svidmail"},
        {"", "what answers there is not svidmail"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", "what answers there is not svidmail"},
        {"HTTP/1.1 abc OK\r\n\r\n{}", "what answers there is not svidmail"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}", "answer was cut off"},
        {"HTTP/1.1 200 OK\r\ncontent-length:1\r\n\r\n{}", "answer was cut off"},
        {"HTTP/1.1 404 Not Found\r\n\r\n{}", "/status was answered by 404"},
        {OK_HEAD "not json", "/status was not answered by JSON"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct outcome o;
        struct server s;
        http_start(&s, cases[i].answer);
        run(&o, "status", "--socket", s.path, NULL);
        server_stop(&s, NULL);
        assert_int_equal(o.code, 1);
        assert_string_equal(o.out, "");
        assert_has(o.err, cases[i].message);
    }
}

static bool ask_directly(const char *path, uint64_t timeout_ms, struct err *e)
{
    struct buf body;
    int status = 0;
    buf_init(&body, ADMIN_CLIENT_BODY_MAX);
    bool ok = admin_client_get(path, "/", timeout_ms, &status, &body, e);
    buf_release(&body);
    return ok;
}

TEST(cli, a_silent_socket_is_given_up_in_time)
{
    static const char *const nothing[] = {"", "", "",
                                          "", "", NULL}; /* one more than the request has lines */
    struct server s;
    struct err e = {0};
    server_start(&s, true, nothing); /* reads for ever */
    assert_false(ask_directly(s.path, 100, &e));
    assert_int_equal(e.code, ERR_TIMEOUT);
    server_stop(&s, NULL);
}

TEST(cli, an_answer_that_drips_for_ever_is_given_up_in_time)
{
    static const char *const drops[] = {OK_HEAD, "a", "b", "c", "d", "e", "f", "g",
                                        "h",     "i", "j", "k", "l", "m", "n", NULL};
    struct server s;
    struct err e = {0};
    drip_ms = 50;
    server_start(&s, false, drops);
    drip_ms = 0;
    assert_false(ask_directly(s.path, 200, &e));
    assert_int_equal(e.code, ERR_TIMEOUT);
    server_stop(&s, NULL);
}

TEST(cli, an_endless_answer_is_given_up)
{
    struct server s;
    struct err e = {0};
    size_t len = ADMIN_CLIENT_BODY_MAX + 100000;
    AUTO_FREE char *answer = xcalloc(len + 1, 1);
    memset(answer, 'a', len);
    memcpy(answer, OK_HEAD, sizeof OK_HEAD - 1);
    http_start(&s, answer);
    assert_false(ask_directly(s.path, 5000, &e));
    assert_int_equal(e.code, ERR_LIMIT);
    server_stop(&s, NULL);
}

TEST(cli, a_path_that_is_no_socket_path_is_refused)
{
    struct err e = {0};
    char path[200] = "";
    assert_false(ask_directly(path, 100, &e));
    assert_int_equal(e.code, ERR_SYNTAX);
    memset(path, 'a', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    assert_false(ask_directly(path, 100, &e));
    assert_int_equal(e.code, ERR_SYNTAX);
}

TEST(cli, spans_are_told_in_two_units_at_most)
{
    static const struct {
        int64_t s;
        const char *text;
    } cases[] = {{0, "0 s"},     {59, "59 s"},        {60, "1 min"},          {3599, "59 min"},
                 {3600, "1 h"},  {3660, "1 h 1 min"}, {86399, "23 h 59 min"}, {90000, "1 d 1 h"},
                 {-61, "1 min"}, {86400 + 60, "1 d"}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char out[32];
        assert_string_equal(screen_span(cases[i].s, out, sizeof out), cases[i].text);
    }
}

/* --- send */

#define GREETING "220 pod ESMTP\r\n"
#define EHLO     "250-pod\r\n250 SIZE 29000000\r\n"
#define NO_ADMIN "--socket", "/nonexistent/admin.sock"

static void smtp_start(struct server *s, const char *const *lines)
{
    server_start(s, true, lines);
}

static char *address_of(const struct server *s)
{
    return xasprintf("unix:%s", s->path);
}

TEST(cli, send_makes_a_mail_and_shows_each_step)
{
    static const char *const lines[] = {GREETING,
                                        EHLO,
                                        "250 2.1.0 Ok\r\n",
                                        "250 2.1.5 Ok\r\n",
                                        "250 2.1.5 Ok\r\n",
                                        "354 Go on\r\n",
                                        "250 2.0.0 Ok 0100-ses\r\n",
                                        "221 Bye\r\n",
                                        NULL};
    struct outcome o;
    struct server s;
    char heard[TEXT_MAX];
    smtp_start(&s, lines);
    AUTO_FREE char *address = address_of(&s);
    run(&o, "send", "--to", "b@example.org", "--to=c@example.org", "--from", "a@example.org",
        "--subject", "Hi there", "--smtp", address, NO_ADMIN, NULL);
    server_stop(&s, heard);
    assert_int_equal(o.code, 0);
    assert_string_equal(o.err, "");
    assert_has(heard,
               "EHLO svidmail-send\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\n"
               "RCPT TO:<c@example.org>\r\nDATA\r\nFrom: <a@example.org>\r\nSubject: Hi there\r\n"
               "To: <b@example.org>,\r\n <c@example.org>\r\n");
    assert_has(heard, "\r\n.\r\nQUIT\r\n");
    assert_has(
        o.out,
        "  <- 220 pod ESMTP\n  -> EHLO svidmail-send\n  <- 250-pod\n  <- 250 SIZE 29000000\n");
    assert_has(o.out, "  <- 250 2.0.0 Ok 0100-ses\n");
    assert_has(o.out, "The way it took is not known: nobody answers on the admin socket.");
}

TEST(cli, send_shows_the_way_a_mail_took)
{
    static const char *const lines[] = {GREETING,        EHLO,
                                        "250 Ok\r\n",    "250 Ok\r\n",
                                        "354 Go on\r\n", "250 2.0.0 Ok 0100-ses\r\n",
                                        "221 Bye\r\n",   NULL};
    struct outcome o;
    struct server smtp, admin;
    AUTO_FREE char *answer = xasprintf(OK_HEAD "%s", status_json);
    smtp_start(&smtp, lines);
    http_start(&admin, answer);
    AUTO_FREE char *address = address_of(&smtp);
    run(&o, "send", "--to", "b@example.org", "--from", "a@example.org", "--smtp", address,
        "--socket", admin.path, NULL);
    server_stop(&smtp, NULL);
    server_stop(&admin, NULL);
    assert_int_equal(o.code, 0);
    assert_has(o.out, "The way it took:\n"
                      "  svidmail     01ID\n"
                      "  shows itself spiffe://x/mesh\n"
                      "  gateway      gw (spiffe://x/gw2)\n"
                      "  as role      arn:r\n"
                      "  SES region   eu-central-1\n"
                      "  SES id       0100-ses\n"
                      "  outcome      delivered in 42 ms\n");
}

TEST(cli, send_names_no_gateway_that_the_mail_has_not_seen)
{
    static const char *const lines[] = {
        GREETING,      EHLO, "250 Ok\r\n", "250 Ok\r\n", "354 Go on\r\n", "451 4.4.1 not sent\r\n",
        "221 Bye\r\n", NULL};
    struct outcome o;
    struct server smtp, admin;
    smtp_start(&smtp, lines);
    http_start(&admin, OK_HEAD "{\"gateway\":{\"host\":\"gw\",\"spiffe_ids\":[\"spiffe://x/gw\"]},"
                               "\"last\":[{\"mail\":\"01ID\",\"outcome\":\"retry\",\"code\":451,"
                               "\"text\":\"not sent\",\"took_ms\":3}]}");
    AUTO_FREE char *address = address_of(&smtp);
    run(&o, "send", "--to", "b@example.org", "--from", "a@example.org", "--smtp", address,
        "--socket", admin.path, NULL);
    server_stop(&smtp, NULL);
    server_stop(&admin, NULL);
    assert_int_equal(o.code, 1);
    assert_has(o.out, "  gateway      gw (its identity was not seen)\n");
    assert_not(o.out, "spiffe://x/gw");
}

TEST(cli, send_passes_a_file_on_with_crlf_and_stuffed_dots)
{
    static const char *const lines[] = {GREETING,        EHLO,         "250 Ok\r\n",  "250 Ok\r\n",
                                        "354 Go on\r\n", "250 Ok\r\n", "221 Bye\r\n", NULL};
    struct outcome o;
    struct server s;
    char heard[TEXT_MAX];
    AUTO_FREE char *file = write_config("A: b\n\n.\n..x\r\n.y\r\r\n\xe4\n\n.");
    smtp_start(&s, lines);
    AUTO_FREE char *address = address_of(&s);
    run(&o, "send", "--to", "b@example.org", "--from", "<>", "--smtp", address, NO_ADMIN, file,
        NULL);
    server_stop(&s, heard);
    unlink(file);
    assert_int_equal(o.code, 0);
    assert_has(heard, "MAIL FROM:<>\r\n");
    assert_has(heard, "DATA\r\nA: b\r\n\r\n..\r\n...x\r\n..y\r\r\n\xe4\r\n\r\n..\r\n.\r\nQUIT\r\n");
}

TEST(cli, send_fails_at_the_step_that_is_refused)
{
    static const char *const refusals[] = {"451 4.7.0 Not ready to send: \033[2J\r\n",
                                           "550 5.7.1 no\r\n"};
    for (size_t step = 0; step < 5; step++) {
        for (size_t i = 0; i < ARRAY_LEN(refusals); i++) {
            const char *lines[] = {GREETING,        EHLO,         "250 Ok\r\n",  "250 Ok\r\n",
                                   "354 Go on\r\n", "250 Ok\r\n", "221 Bye\r\n", NULL};
            lines[step + 1] = refusals[i];
            struct outcome o;
            struct server s;
            char heard[TEXT_MAX];
            smtp_start(&s, lines);
            AUTO_FREE char *address = address_of(&s);
            run(&o, "send", "--to", "b@example.org", "--from", "a@example.org", "--smtp", address,
                NO_ADMIN, NULL);
            server_stop(&s, heard);
            assert_int_equal(o.code, 1);
            assert_has(o.err, "svidmail: not sent: ");
            assert_not(o.err, "\033");
            assert_not(o.out, "\033");
            assert_has(heard, "QUIT\r\n");
        }
    }
}

TEST(cli, send_gives_up_on_what_is_no_smtp)
{
    static const struct {
        const char *greeting, *message;
    } cases[] = {
        {"HTTP/1.1 400 Bad Request\r\n", "that is no SMTP reply"},
        {"\r\n", "that is no SMTP reply"},
        {"22\r\n", "that is no SMTP reply"},
        {"999 x\r\n", "that is no SMTP reply"},
        {"554 go away\r\n", "554 go away"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const char *lines[] = {cases[i].greeting, "221 Bye\r\n", NULL};
        struct outcome o;
        struct server s;
        smtp_start(&s, lines);
        AUTO_FREE char *address = address_of(&s);
        run(&o, "send", "--to", "b@example.org", "--from", "a@example.org", "--smtp", address,
            NO_ADMIN, NULL);
        server_stop(&s, NULL);
        assert_int_equal(o.code, 1);
        assert_has(o.err, cases[i].message);
    }
}

TEST(cli, send_gives_up_on_endless_replies)
{
    AUTO_FREE char *line = xcalloc(5001, 1), *many = xcalloc(100000, 1);
    memset(line, '2', 5000);
    for (size_t i = 0; i < 100; i++)
        memcpy(many + i * 8, "220-xx\r\n", 8);
    const char *const texts[] = {line, many};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        const char *lines[] = {texts[i], NULL};
        struct outcome o;
        struct server s;
        smtp_start(&s, lines);
        AUTO_FREE char *address = address_of(&s);
        run(&o, "send", "--to", "b@example.org", "--from", "a@example.org", "--smtp", address,
            NO_ADMIN, NULL);
        server_stop(&s, NULL);
        assert_int_equal(o.code, 1);
        assert_has(o.err, "without end");
    }
}

TEST(cli, send_says_when_the_connection_breaks_and_does_not_wait)
{
    static const char *const lines[] = {GREETING, EHLO, NULL};
    struct outcome o;
    struct server s;
    smtp_start(&s, lines);
    AUTO_FREE char *address = address_of(&s);
    run(&o, "send", "--to", "b@example.org", "--from", "a@example.org", "--smtp", address, NO_ADMIN,
        NULL);
    server_stop(&s, NULL);
    assert_int_equal(o.code, 1);
    assert_has(o.err, "the connection was closed");
    assert_not(o.out, "QUIT");
    run(&o, "send", "--to", "b@example.org", "--from", "a@example.org", "--smtp", "127.0.0.1:1",
        NO_ADMIN, NULL);
    assert_int_equal(o.code, 1);
    assert_has(o.err, "nobody listens on 127.0.0.1:1: Connection refused");
    run(&o, "send", "--to", "b@example.org", "--from", "a@example.org", "--smtp", "nowhere",
        NO_ADMIN, NULL);
    assert_int_equal(o.code, 1);
}

TEST(cli, send_refuses_wrong_usage)
{
    static const struct {
        const char *args[6], *message;
    } cases[] = {
        {{"--from", "a@b.example", NULL}, "--to and --from are needed"},
        {{"--to", "a@b.example", NULL}, "--to and --from are needed"},
        {{"--from", "a@b.example>\r\nRCPT TO:<x@y.example", NULL}, "--from: "},
        {{"--to", "a@b.example\r\nDATA", NULL}, "--to: "},
        {{"--to", "", NULL}, "--to: "},
        {{"--to", "<>", NULL}, "--to: "},
        {{"--to", "<a@b.example> SIZE=1", NULL}, "--to: one address"},
        {{"--subject", "a\r\nBcc: x@y.example", NULL}, "--subject: printable ASCII only"},
        {{"--to", "a@b.example", "--from=a@b.example", "--subject=x", "/dev/null", NULL},
         "--subject is for"},
        {{"--to", "a@b.example", "--from=a@b.example", "/nonexistent/mail", NULL},
         "/nonexistent/mail: No such file"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct outcome o;
        const char *const *a = cases[i].args;
        run(&o, "send", a[0], a[1], a[2], a[2] == NULL ? NULL : a[3], a[3] == NULL ? NULL : a[4],
            NULL);
        assert_int_equal(o.code, 2);
        assert_string_equal(o.out, "");
        assert_has(o.err, cases[i].message);
    }
}
