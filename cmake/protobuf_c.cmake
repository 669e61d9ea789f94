# SPDX-License-Identifier: Apache-2.0
# svidmail_protobuf_c(target file.proto): protoc-c output in a target of its own, with our warnings off.
find_program(PROTOC_C protoc-c REQUIRED)

function(svidmail_protobuf_c target proto)
  get_filename_component(base ${proto} NAME_WE)
  set(out ${CMAKE_CURRENT_BINARY_DIR}/generated)
  file(MAKE_DIRECTORY ${out}/proto)
  add_custom_command(
    OUTPUT ${out}/proto/${base}.pb-c.c ${out}/proto/${base}.pb-c.h
    COMMAND ${PROTOC_C} --proto_path=${CMAKE_CURRENT_SOURCE_DIR} --c_out=${out}/proto
            ${CMAKE_CURRENT_SOURCE_DIR}/${proto}
    DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${proto} VERBATIM)
  add_library(${target} STATIC ${out}/proto/${base}.pb-c.c ${out}/proto/${base}.pb-c.h)
  target_include_directories(${target} SYSTEM PUBLIC ${out})
  target_compile_options(${target} PRIVATE -w)
  target_link_libraries(${target} PUBLIC PkgConfig::PROTOBUF_C)
endfunction()
