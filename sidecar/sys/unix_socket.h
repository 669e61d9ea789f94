// SPDX-License-Identifier: Apache-2.0
/* unix_socket: what may be done with a socket's file that is already there.  Layer: sys.  Thread:
 * any. */
#ifndef SVIDMAIL_SYS_UNIX_SOCKET_H
#define SVIDMAIL_SYS_UNIX_SOCKET_H
#include <stdbool.h>

/* Not surely dead: false only where nobody has the socket, or there is nothing. */
bool unix_socket_is_live(const char *path);
/* Remove a socket that a killed process has left behind; anything else stays.  false: it is live,
 * or no socket. */
bool unix_socket_remove_stale(const char *path);

#endif
