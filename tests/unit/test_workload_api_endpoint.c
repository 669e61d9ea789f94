// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/mem.h"
#include "identity/workload_api.h"
#include "identity/workload_api_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static struct err e;

TEST(workload_api_endpoint, only_addresses_of_the_standard_are_taken)
{
    static const struct {
        const char *address, *target; /* NULL: refused */
    } cases[] = {
        {"unix:///run/spire/agent.sock", "unix:/run/spire/agent.sock"},
        {"unix:/run/spire/agent.sock", "unix:/run/spire/agent.sock"},
        {"UNIX:///a", "unix:/a"},
        {"unix:///a%20b/c%2fd", "unix:/a%20b/c%2fd"},
        {"unix:///a:b@c,d=e+f", "unix:/a:b@c,d=e+f"},
        {"tcp://127.0.0.1:8081", "ipv4:127.0.0.1:8081"},
        {"tcp://[::1]:8081", "ipv6:%5B::1%5D:8081"},
        {"tcp://1.2.3.4:65535", "ipv4:1.2.3.4:65535"},

        {"unix://host/path", NULL},
        {"unix://localhost/path", NULL},
        {"unix:agent.sock", NULL},
        {"unix:./agent.sock", NULL},
        {"unix://agent.sock", NULL},
        {"unix:", NULL},
        {"unix://", NULL},
        {"unix:///", NULL},
        {"unix:///dir/", NULL},
        {"unix:////two", NULL},
        {"unix:///a?mode=x", NULL},
        {"unix:///a#b", NULL},
        {"unix:///a b", NULL},
        {"unix:///a\nb", NULL},
        {"unix:///a%", NULL},
        {"unix:///a%4", NULL},
        {"unix:///a%zz", NULL},
        {"unix:///a%00b", NULL},
        {"unix:///\xc3\xa4", NULL},
        {"tcp://localhost:8081", NULL},
        {"tcp://agent.example.org:8081", NULL},
        {"tcp://127.0.0.1", NULL},
        {"tcp://127.0.0.1:", NULL},
        {"tcp://127.0.0.1:0", NULL},
        {"tcp://127.0.0.1:65536", NULL},
        {"tcp://127.0.0.1:80a", NULL},
        {"tcp://127.0.0.1:0000080", NULL},
        {"tcp://127.0.0.1:-1", NULL},
        {"tcp://127.0.0.1:8081/", NULL},
        {"tcp://127.0.0.1:8081?x", NULL},
        {"tcp://user@127.0.0.1:8081", NULL},
        {"tcp://127.1:8081", NULL},
        {"tcp://::1:8081", NULL},
        {"tcp://[::1]8081", NULL},
        {"tcp://[::1", NULL},
        {"tcp://[127.0.0.1]:8081", NULL},
        {"tcp:127.0.0.1:8081", NULL},
        {"tcp://", NULL},
        {"tcp:", NULL},
        {"http://127.0.0.1:8081", NULL},
        {"/run/spire/agent.sock", NULL},
        {"unix", NULL},
        {":", NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char target[512];
        bool ok = workload_api_parse_endpoint(cases[i].address, target, sizeof target, &e);
        if (ok != (cases[i].target != NULL))
            fail_msg("%s: %s", cases[i].address, ok ? target : e.msg);
        if (ok)
            assert_string_equal(target, cases[i].target);
        else
            assert_non_null(strstr(e.msg, "Workload API address \""));
    }
}

TEST(workload_api_endpoint, a_path_longer_than_a_socket_address_is_refused)
{
    char address[200];
    struct workload_endpoint ep;
    snprintf(address, sizeof address, "unix:///%0106d", 1);
    assert_true(workload_endpoint_parse(address, &ep, &e));
    assert_int_equal(strlen(ep.path), 107);
    snprintf(address, sizeof address, "unix:///%0107d", 1);
    assert_false(workload_endpoint_parse(address, &ep, &e));
    assert_int_equal(e.code, ERR_LIMIT);
}

TEST(workload_api_endpoint, a_percent_encoded_path_is_decoded_for_the_file_system)
{
    struct workload_endpoint ep;
    assert_true(workload_endpoint_parse("unix:///a%20b/%C3%A4", &ep, &e));
    assert_string_equal(ep.path, "/a b/\xc3\xa4");
}

/* --- explain --- */

static char dir[64], words[400];

static void assert_says(const char *name, const char *trouble, const char *expected)
{
    struct workload_endpoint ep = {.path = ""};
    snprintf(ep.path, sizeof ep.path, "%s%s", dir, name);
    assert_string_equal(
        workload_endpoint_explain(&ep, "last error: Connection refused", words, sizeof words),
        trouble);
    if (strstr(words, expected) == NULL)
        fail_msg("\"%s\" is not in \"%s\"", expected, words);
}

static void make_file(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fclose(f);
}

static int make_socket(const char *name)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%.60s%.20s", dir, name);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

static void remove_dir(void)
{
    static const char *const names[] = {"/file", "/sock", "/other.sock"};
    char path[128];
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        snprintf(path, sizeof path, "%s%s", dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
}

TEST(workload_api_endpoint, the_file_system_is_asked_why_nobody_answers)
{
    snprintf(dir, sizeof dir, "/tmp/endpoint.XXXXXX");
    assert_non_null(mkdtemp(dir));
    assert_says("/none/agent.sock", "no_directory", "there is no directory");
    assert_says("/none/agent.sock", "no_directory", "is the socket's volume mounted?");
    assert_says("/agent.sock", "no_socket", "holds: nothing)");
    make_file("/file");
    assert_says("/agent.sock", "no_socket", "no SPIRE agent on this node, or another name");
    assert_says("/agent.sock", "no_socket", "holds: file)");
    assert_says("/file", "not_a_socket", "is not a socket");
    assert_says("/file/agent.sock", "no_socket", "there is no ");
    int fd = make_socket("/sock");
    assert_says("/sock", "not_listening", "nobody listens: the agent is down or starting");
    struct workload_endpoint ep = {.path = ""};
    snprintf(ep.path, sizeof ep.path, "%s/sock", dir);
    assert_string_equal(workload_endpoint_explain(&ep, "timed out", words, sizeof words), "");
    close(fd);
    struct workload_endpoint tcp = {.path = ""};
    assert_string_equal(workload_endpoint_explain(&tcp, "", words, sizeof words), "");
    remove_dir();
}

TEST(workload_api_endpoint, a_directory_that_may_not_be_entered_is_named_with_our_uid)
{
    if (geteuid() == 0)
        skip(); /* root enters everywhere */
    snprintf(dir, sizeof dir, "/tmp/endpoint.XXXXXX");
    assert_non_null(mkdtemp(dir));
    chmod(dir, 0);
    assert_says("/agent.sock", "not_allowed", "Permission denied (as uid ");
    chmod(dir, 0700);
    rmdir(dir);
}
