# SPDX-License-Identifier: Apache-2.0
# svidmail_build_info(target): a generated header svidmail_build_info.h with version and commit, looked up at each build
# and written only when it has changed.  Outside git: the cache variable SVIDMAIL_COMMIT, else "unknown".
# As a script (cmake -P) it writes that header.
if(CMAKE_SCRIPT_MODE_FILE)
  cmake_minimum_required(VERSION 3.25)
  if(NOT COMMIT)
    execute_process(COMMAND git -C ${SOURCE} rev-parse --show-toplevel
      OUTPUT_VARIABLE top OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
    if(NOT failed AND top STREQUAL SOURCE) # not some repository the tree was unpacked in
      execute_process(COMMAND git -C ${SOURCE} rev-parse --short=12 HEAD
        OUTPUT_VARIABLE COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    endif()
  endif()
  if(NOT COMMIT)
    set(COMMIT unknown)
  endif()
  file(CONFIGURE OUTPUT ${HEADER} @ONLY CONTENT "#define BUILD_VERSION \"@VERSION@\"\n#define BUILD_COMMIT  \"@COMMIT@\"\n")
  return()
endif()

set(SVIDMAIL_COMMIT "" CACHE STRING "Commit to show where the source is not a git checkout")
set(SVIDMAIL_BUILD_INFO_SCRIPT ${CMAKE_CURRENT_LIST_FILE})

function(svidmail_build_info target)
  set(dir ${CMAKE_CURRENT_BINARY_DIR}/build_info)
  add_custom_target(svidmail_build_info_header
    COMMAND ${CMAKE_COMMAND} -DSOURCE=${PROJECT_SOURCE_DIR} -DVERSION=${PROJECT_VERSION}
            -DCOMMIT=${SVIDMAIL_COMMIT} -DHEADER=${dir}/svidmail_build_info.h
            -P ${SVIDMAIL_BUILD_INFO_SCRIPT}
    BYPRODUCTS ${dir}/svidmail_build_info.h VERBATIM)
  add_dependencies(${target} svidmail_build_info_header)
  target_include_directories(${target} PRIVATE ${dir})
endfunction()
