# SPDX-License-Identifier: Apache-2.0
# SVIDMAIL_STATIC: one program without a shared library, for an image with nothing else in it (docs/adr/0004).
# It wants static libraries of everything: deploy/image/build-toolchain says where they are from.
option(SVIDMAIL_STATIC "Link everything into the program" OFF)

if(SVIDMAIL_STATIC)
  set(PKG_CONFIG_ARGN --static) # pkg-config names what a library wants in turn
  set(CMAKE_FIND_LIBRARY_SUFFIXES .a)
  set(CMAKE_C_STANDARD_LIBRARIES "-lstdc++ -lm") # at the end, behind gRPC
  target_compile_options(svidmail_flags INTERFACE -ffunction-sections -fdata-sections
    -ffile-prefix-map=${PROJECT_SOURCE_DIR}=. -ffile-prefix-map=${PROJECT_BINARY_DIR}=.)
  # Packed relative relocations: 0.8 MB less, for there are 36,000 of them.  The map says what was linked in.
  target_link_options(svidmail_flags INTERFACE -static-pie -Wl,--gc-sections -Wl,-z,pack-relative-relocs
    -Wl,--build-id=none -Wl,-Map=${PROJECT_BINARY_DIR}/svidmail.map)
endif()
