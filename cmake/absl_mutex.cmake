# SPDX-License-Identifier: Apache-2.0
# svidmail_absl_mutex(target): links app/mutex_shim.c, with the name that Abseil's SetMutexDeadlockDetectionMode() has
# here: Debian puts its own version into it.  A gRPC without Abseil's mutexes needs no shim.
find_library(ABSL_SYNCHRONIZATION absl_synchronization)

function(svidmail_absl_mutex target)
  if(NOT ABSL_SYNCHRONIZATION)
    return()
  endif()
  set(dynamic)
  if(ABSL_SYNCHRONIZATION MATCHES "\\.so$")
    set(dynamic -D)
  endif()
  execute_process(COMMAND ${CMAKE_NM} ${dynamic} ${ABSL_SYNCHRONIZATION} OUTPUT_VARIABLE symbols ERROR_QUIET)
  if(symbols MATCHES " T (_ZN4absl[a-z0-9_]*29SetMutexDeadlockDetectionModeE[A-Z0-9_a-z]*)")
    target_sources(${target} PRIVATE ${PROJECT_SOURCE_DIR}/sidecar/app/mutex_shim.c)
    target_compile_definitions(${target} PRIVATE ABSL_SET_MUTEX_DEADLOCK_DETECTION_MODE="${CMAKE_MATCH_1}")
    target_link_libraries(${target} PRIVATE ${ABSL_SYNCHRONIZATION})
  endif()
endfunction()
