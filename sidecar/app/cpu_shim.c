// SPDX-License-Identifier: Apache-2.0
/* cpu_shim: gRPC starts threads by the number of the node's CPUs (37 on 64), whatever the
 * container's limit says, and has no switch for it.  An executable that holds this file tells gRPC,
 * and everything else in it, that there is one. It has to be part of the executable itself: the
 * definition found first wins, for libgrpc.so as well. */
#include <dlfcn.h>
#include <unistd.h>

#ifdef __GLIBC__
/* The sanitizers' runtimes call it before they are ready for instrumented code. */
__attribute__((no_sanitize("address", "thread", "undefined"))) long sysconf(int name)
{
    static long (*real)(int);
    if (name == _SC_NPROCESSORS_ONLN || name == _SC_NPROCESSORS_CONF)
        return 1;
    if (real == NULL) /* racing threads find the same address */
        *(void **)&real = dlsym(RTLD_NEXT, "sysconf");
    return real(name);
}
#endif
