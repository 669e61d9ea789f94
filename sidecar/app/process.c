// SPDX-License-Identifier: Apache-2.0
#include "app/process.h"
#include "base/mem.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define SUN_PATH_ROOM   90 /* of 107: the tunnel's own name comes behind */
#define DESCRIPTORS_MAX 65536

uint64_t process_raise_descriptors(void)
{
    struct rlimit limit = {0, 0};
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= DESCRIPTORS_MAX)
        return limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max < DESCRIPTORS_MAX ? limit.rlim_max : DESCRIPTORS_MAX;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    (void)getrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur;
}

void process_harden(void)
{
    const struct rlimit none = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &none);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0,
                0); /* keys are in memory; the leak checker would need ptrace */
#endif
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)mallopt(M_ARENA_MAX, 1);
    setenv("UV_THREADPOOL_SIZE", "1", 1); /* libuv's pool looks names up, nothing else */
}

static void set_sigterm_mask(int how)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    CHECK(pthread_sigmask(how, &set, NULL) == 0);
}

void process_hold_sigterm(void)
{
    set_sigterm_mask(SIG_BLOCK);
}

void process_release_sigterm(void)
{
    set_sigterm_mask(SIG_UNBLOCK);
}

/* "" if it is not set. */
static const char *environment(const char *name)
{
    const char *value = getenv(name);
    return value == NULL ? "" : value;
}

bool process_is_network_unknown(void)
{
    return *environment("KUBERNETES_SERVICE_HOST") != '\0' &&
           (*environment("SVIDMAIL_POD_IP") == '\0' || *environment("SVIDMAIL_HOST_IP") == '\0');
}

bool process_check_network(bool is_allowed, struct err *e)
{
    const char *pod = environment("SVIDMAIL_POD_IP"), *host = environment("SVIDMAIL_HOST_IP");
    if (is_allowed || *pod == '\0' || strcmp(pod, host) != 0)
        return true;
    return err_set(
        e, ERR_DENIED, 0,
        "this pod uses the host's network (%s): every process of the node could send mail through "
        "127.0.0.1 here; set smtp.allow_host_network: true if that is wanted",
        host);
}

/* Ours alone, or not used: somebody else's directory may be a trap. */
static bool is_private_dir(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid() &&
           (st.st_mode & 077) == 0;
}

static char *beside_socket(const char *admin_socket)
{
    const char *slash = admin_socket[0] == '\0' ? NULL : strrchr(admin_socket, '/');
    if (slash == NULL || (size_t)(slash - admin_socket) > SUN_PATH_ROOM - sizeof "/tunnels")
        return NULL;
    char *path = xasprintf("%.*s/tunnels", (int)(slash - admin_socket), admin_socket);
    if ((mkdir(path, 0700) == 0 || errno == EEXIST) && is_private_dir(path))
        return path;
    free(path);
    return NULL;
}

bool process_make_run_dir(const char *admin_socket, char **out, struct err *e)
{
    *out = beside_socket(admin_socket);
    if (*out != NULL)
        return true;
    const char *tmp = getenv("TMPDIR");
    if (tmp == NULL || *tmp == '\0' || strlen(tmp) > SUN_PATH_ROOM - sizeof "/svidmail.XXXXXX")
        tmp = "/tmp";
    char *path = xasprintf("%s/svidmail.XXXXXX", tmp);
    if (mkdtemp(path) == NULL) {
        int saved = errno;
        free(path);
        return err_set(
            e, ERR_IO, saved,
            "no directory for private sockets: neither beside admin.socket (%s) nor in %s "
            "(mount an emptyDir at one of them)",
            admin_socket, tmp);
    }
    *out = path;
    return true;
}

void process_remove_run_dir(char **dir)
{
    if (*dir == NULL)
        return;
    (void)rmdir(*dir);
    free(*dir);
    *dir = NULL;
}

bool process_find_spool(const char *configured, struct spool_dir **out, struct err *e)
{
    const char *tmp = getenv("TMPDIR");
    const char *candidates[5] = {0};
    size_t n = 0;
    if (configured[0] != '\0')
        candidates[n++] = configured;
    if (tmp != NULL && *tmp != '\0')
        candidates[n++] = tmp;
    candidates[n++] = "/tmp";
    candidates[n] = "/var/tmp";
    return spool_dir_new(candidates, out, e);
}

void process_hostname(char *out, size_t cap)
{
    CHECK(cap > sizeof "localhost");
    if (gethostname(out, cap) != 0)
        out[0] = '\0';
    out[cap - 1] = '\0';
    char *to = out;
    for (const char *from = out; *from != '\0'; from++) {
        char c = ascii_lower(*from);
        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '-')
            *to++ = *from;
    }
    *to = '\0';
    if (to == out)
        str_copy(out, cap, STR("localhost"));
}
