// SPDX-License-Identifier: Apache-2.0
/* process: what belongs to the process as a whole: hardening, directories, names.  Layer: app. */
#ifndef SVIDMAIL_APP_PROCESS_H
#define SVIDMAIL_APP_PROCESS_H
#include "base/err.h"
#include "mail/spool_file.h"

#include <stdint.h>

/* No core dump, no ptrace, no SIGPIPE, one malloc arena, one name look-up thread.  Before any
 * thread starts. */
void process_harden(void);

/* As many descriptors as are ours to take; how many that are.  Containers mostly start with a soft
 * limit of 1024, for the sake of programs that use select(). */
uint64_t process_raise_descriptors(void);

/* SIGTERM waits until it is released, and is not lost then.  Without a handler it would kill us, or
 * do nothing at all: the kernel drops a signal that the first process of a container has no handler
 * for, and a pod that is deleted while it starts would have to be killed. */
void process_hold_sigterm(void);
void process_release_sigterm(void);

/* Refuses the node's own network, where every process of the node could send mail through us (D9).
 * Known by the downward API: SVIDMAIL_POD_IP (status.podIP) equal to SVIDMAIL_HOST_IP
 * (status.hostIP). */
NODISCARD bool process_check_network(bool is_allowed, struct err *e);
/* Whether that check has nothing to go by: a pod without those variables. */
bool process_is_network_unknown(void);

/* A directory of mode 0700 that is ours, for the tunnels' sockets: beside the admin socket, else in
 * $TMPDIR or /tmp. *out is malloc'd. */
NODISCARD bool process_make_run_dir(const char *admin_socket, char **out, struct err *e);
/* Removes it; nulls *dir; NULL is fine. */
void process_remove_run_dir(char **dir);

/* Where mails lie on their way: configured, else $TMPDIR, /tmp, /var/tmp, beside what can be
 * written. */
NODISCARD bool process_find_spool(const char *configured, struct spool_dir **out, struct err *e);

/* The host's name, only letters, digits, '.' and '-'; "localhost" if it has none. */
void process_hostname(char *out, size_t cap);

#endif
