// SPDX-License-Identifier: Apache-2.0
#include "sys/unix_socket.h"
#include "base/mem.h"
#include "base/str.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

bool unix_socket_is_live(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof addr.sun_path)
        return true;
    str_copy(addr.sun_path, sizeof addr.sun_path, str_from(path));
    AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd == -1 || connect(fd, (const struct sockaddr *)&addr, sizeof addr) == 0)
        return true;
    return errno != ECONNREFUSED && errno != ENOENT;
}

bool unix_socket_remove_stale(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 && S_ISSOCK(st.st_mode) && !unix_socket_is_live(path) &&
           unlink(path) == 0;
}
