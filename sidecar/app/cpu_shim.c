// SPDX-License-Identifier: Apache-2.0
/* cpu_shim: gRPC starts threads by the number of the node's CPUs (37 on 64), whatever the
 * container's limit says, and has no switch for it.  An executable that holds this file tells gRPC,
 * and everything else in it, that there is one. It has to be part of the executable itself: the
 * definition found first wins, for libgrpc.so as well. */
#include <unistd.h>

#ifdef __GLIBC__
/* What glibc's own sysconf is an alias of, in the shared and in the static library. */
extern long __sysconf(int name); // NOLINT(readability-identifier-naming): its name

/* The sanitizers' runtimes call it before they are ready for instrumented code. */
__attribute__((no_sanitize("address", "thread", "undefined"))) long sysconf(int name)
{
    if (name == _SC_NPROCESSORS_ONLN || name == _SC_NPROCESSORS_CONF)
        return 1;
    return __sysconf(name);
}
#endif
