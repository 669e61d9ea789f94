# SPDX-License-Identifier: Apache-2.0
# svidmail_layer(core SOURCES a.c b.c USES base [LIBS PkgConfig::X]): one layer, one static library.
# A layer that calls upward does not link; tests/lint/check_layers.py holds the includes to the same rule.
function(svidmail_layer name)
  cmake_parse_arguments(L "" "" "SOURCES;USES;LIBS" ${ARGN})
  add_library(svidmail_${name} STATIC ${L_SOURCES})
  list(TRANSFORM L_USES PREPEND svidmail_)
  target_link_libraries(svidmail_${name} PUBLIC ${L_USES} svidmail_flags ${L_LIBS})
endfunction()
