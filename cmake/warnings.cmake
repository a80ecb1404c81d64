# SPDX-License-Identifier: Apache-2.0
# The one place for warnings, hardening and sanitizers: every target of ours links sardine_flags.
add_library(sardine_flags INTERFACE)
target_compile_definitions(sardine_flags INTERFACE _GNU_SOURCE SARDINE_VERSION="${PROJECT_VERSION}" $<$<BOOL:${SARDINE_DEV}>:SARDINE_DEV=1>)
target_include_directories(sardine_flags INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(sardine_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wvla -Wundef -Wcast-qual -Wcast-align -Wswitch-enum -Wformat=2
  -Wmissing-prototypes -Wstrict-prototypes -Wold-style-definition -Wpointer-arith -Wwrite-strings -Wnull-dereference -Wimplicit-fallthrough
  -Werror
  -fstack-protector-strong -fno-strict-aliasing -fno-common -fvisibility=hidden)
# _FORTIFY_SOURCE needs optimisation, and the sanitizers bring their own checks. (No generator expression on
# SARDINE_SANITIZE: its value may hold a comma.)
if(NOT SARDINE_SANITIZE)
  target_compile_definitions(sardine_flags INTERFACE $<$<NOT:$<CONFIG:Debug>>:_FORTIFY_SOURCE=2>)
  target_compile_options(sardine_flags INTERFACE -fcf-protection -fstack-clash-protection)
endif()
target_link_options(sardine_flags INTERFACE -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack -Wl,--as-needed)
if(SARDINE_SANITIZE)
  # What they need at run time (/proc, system calls of their own) a confined VM does not have: see tools/run-confine.c.
  target_compile_definitions(sardine_flags INTERFACE SARDINE_SANITIZED=1)
  target_compile_options(sardine_flags INTERFACE -fsanitize=${SARDINE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(sardine_flags INTERFACE -fsanitize=${SARDINE_SANITIZE})
endif()
if(SARDINE_FUZZ)
  if(NOT CMAKE_C_COMPILER_ID STREQUAL "Clang")
    message(FATAL_ERROR "SARDINE_FUZZ needs clang: configure with --preset fuzz")
  endif()
  target_compile_options(sardine_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
# Where the counts go is said by LLVM_PROFILE_FILE (tests/fuzz/run).
if(SARDINE_COVERAGE)
  target_compile_options(sardine_flags INTERFACE -fprofile-instr-generate=/dev/null -fcoverage-mapping)
  target_link_options(sardine_flags INTERFACE -fprofile-instr-generate=/dev/null)
endif()
if(SARDINE_PLANT)
  if(NOT SARDINE_FUZZ)
    message(FATAL_ERROR "SARDINE_PLANT plants bugs: it is for the fuzz build only (SARDINE_FUZZ)")
  endif()
  target_compile_definitions(sardine_flags INTERFACE SARDINE_PLANT=1)
endif()

# sardine_library(NAME SOURCES... [LINK libs...]): a static library of one folder.
function(sardine_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;LINK" ${ARGN})
  add_library(sardine_${name} STATIC ${arg_SOURCES})
  target_link_libraries(sardine_${name} PUBLIC ${arg_LINK} PRIVATE sardine_flags)
  target_include_directories(sardine_${name} PUBLIC ${PROJECT_SOURCE_DIR})
endfunction()
