# SPDX-License-Identifier: Apache-2.0
# The one place for compiler flags: targets link svidmail_flags, nothing sets CMAKE_C_FLAGS.
option(SVIDMAIL_WERROR "Warnings are errors" OFF)
option(SVIDMAIL_HARDEN "Hardening flags for a release" OFF)
option(SVIDMAIL_COVERAGE "Instrument for gcov" OFF)
set(SVIDMAIL_SANITIZE "" CACHE STRING "Sanitizers: address,undefined | thread")

add_library(svidmail_flags INTERFACE)
target_compile_definitions(svidmail_flags INTERFACE _GNU_SOURCE)
target_include_directories(svidmail_flags INTERFACE ${PROJECT_SOURCE_DIR}/sidecar)
target_compile_options(svidmail_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes
  -Wformat=2 -Wvla -Wundef -Wwrite-strings -Wimplicit-fallthrough -fno-common)
if(SVIDMAIL_WERROR)
  target_compile_options(svidmail_flags INTERFACE -Werror)
endif()
if(SVIDMAIL_SANITIZE)
  target_compile_options(svidmail_flags INTERFACE -fsanitize=${SVIDMAIL_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(svidmail_flags INTERFACE -fsanitize=${SVIDMAIL_SANITIZE})
  if(SVIDMAIL_SANITIZE MATCHES "undefined")
    target_compile_options(svidmail_flags INTERFACE -fno-sanitize-recover=undefined)
  endif()
endif()
if(SVIDMAIL_COVERAGE)
  target_compile_options(svidmail_flags INTERFACE --coverage)
  target_link_options(svidmail_flags INTERFACE --coverage)
endif()
if(SVIDMAIL_HARDEN)
  target_compile_options(svidmail_flags INTERFACE
    -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3 -fstack-protector-strong -fstack-clash-protection
    -fcf-protection=full -fPIE -ftrivial-auto-var-init=zero -fno-delete-null-pointer-checks)
  target_link_options(svidmail_flags INTERFACE
    $<$<NOT:$<BOOL:${SVIDMAIL_STATIC}>>:-pie> -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack -Wl,--as-needed)
endif()
