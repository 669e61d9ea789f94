// SPDX-License-Identifier: Apache-2.0
/* mutex_shim: Debian 13 builds Abseil without NDEBUG, so its mutexes, which are gRPC's, look for
 * deadlocks: at each lock, and with a megabyte of memory.  An executable that holds this file has
 * them be plain mutexes. It is C++ what is called: cmake/absl_mutex.cmake finds its name. */

enum on_deadlock_cycle { ON_DEADLOCK_CYCLE_IGNORE = 0 }; /* absl::OnDeadlockCycle::kIgnore */

extern void absl_set_mutex_deadlock_detection_mode(enum on_deadlock_cycle) __asm__(
    ABSL_SET_MUTEX_DEADLOCK_DETECTION_MODE);

/* Before main(), and so before grpc_init(); what it sets needs no constructor of its own. */
__attribute__((constructor)) static void stop_looking_for_deadlocks(void)
{
    absl_set_mutex_deadlock_detection_mode(ON_DEADLOCK_CYCLE_IGNORE);
}
