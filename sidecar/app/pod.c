// SPDX-License-Identifier: Apache-2.0
#include "app/pod.h"
#include "base/mem.h"
#include "sys/log.h"
#include "sys/metrics.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static const char *environment(const char *name)
{
    const char *value = getenv(name);
    return value == NULL ? "" : value;
}

/* Set by kubelet, or by the snippet through the downward API. */
static bool is_in_kubernetes(void)
{
    static const char *const names[] = {"KUBERNETES_SERVICE_HOST", "POD_NAME", "SVIDMAIL_POD_IP"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (environment(names[i])[0] != '\0')
            return true;
    return false;
}

/* false: it cannot be read, or is empty or too long to be compared. */
static bool read_file(const char *path, char *out, size_t cap)
{
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd == -1 ? -1 : read(fd, out, cap);
    if (n <= 0 || (size_t)n == cap)
        return false;
    out[n] = '\0';
    return true;
}

/* The first process is the pod's own then, and in another container's control group than we are.  A
 * small init before us in our own container, or a process that was put into it later (kubectl
 * exec), is in the same one.  In doubt: not shared. */
static bool shares_processes(void)
{
    char first[4096], own[4096];
    return getpid() != 1 && read_file("/proc/1/cgroup", first, sizeof first) &&
           read_file("/proc/self/cgroup", own, sizeof own) && strcmp(first, own) != 0;
}

static void warn_of_sharing(const struct pod *p)
{
    char uid[32];
    snprintf(uid, sizeof uid, "%u", (unsigned)geteuid());
    LOG(EV_POD_SHARED, F_STR("uid", uid),
        F_STR("seen", "processes of the pod's other containers see this one's command line and "
                      "state in /proc; root and this uid among them can signal it"),
        F_STR("protected",
              p->is_memory_open
                  ? "nothing: memory with its keys, environment and open files can be read by "
                    "root and by this uid"
                  : "memory, environment, open files and files below /proc/PID/root are closed to "
                    "all of them, this uid included, that lack CAP_SYS_PTRACE"),
        F_STR("cure", "leave out shareProcessNamespace and hostPID, or run no other container of "
                      "the pod as root or as this uid"));
}

void pod_init(struct pod *p, const struct clock *clock)
{
    *p = (struct pod){.clock = clock,
                      .shares_processes = is_in_kubernetes() && shares_processes(),
                      .is_memory_open = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0};
    if (p->shares_processes)
        warn_of_sharing(p);
}

static int on_announce_stop(void *arg, struct str query, struct buf *out)
{
    (void)query;
    struct pod *p = arg;
    if (p->end_announced_at_ms == 0) {
        p->end_announced_at_ms = clock_wall_ms(p->clock);
        metric_set(M_POD_ENDING, METRIC_NONE, 1);
        LOG(EV_POD_ENDING, F_STR("pod", environment("POD_NAME")));
    }
    return buf_append_str(out, STR("noted: mail is taken until SIGTERM\n")) ? 200 : 500;
}

struct admin_endpoint pod_endpoint(struct pod *p)
{
    return (struct admin_endpoint){.path = POD_ANNOUNCE_PATH,
                                   .content_type = "text/plain; charset=utf-8",
                                   .run = on_announce_stop,
                                   .arg = p,
                                   .is_action = true};
}
