# SPDX-License-Identifier: Apache-2.0
# At install time: the files that name other installed files, and the folder of configurations. DESTDIR is added by file(INSTALL).
cmake_policy(VERSION 3.25)

# As GNUInstallDirs has it: /etc belongs to /usr, /etc/opt to /opt.
function(absolute name)
  set(dir "${${name}}")
  if(NOT IS_ABSOLUTE "${dir}")
    if(name STREQUAL "sysconfdir" AND CMAKE_INSTALL_PREFIX STREQUAL "/usr")
      set(dir "/${dir}")
    elseif(name STREQUAL "sysconfdir" AND CMAKE_INSTALL_PREFIX MATCHES "^/opt/")
      set(dir "/${dir}${CMAKE_INSTALL_PREFIX}")
    else()
      set(dir "${CMAKE_INSTALL_PREFIX}/${dir}")
    endif()
  endif()
  set(${name} "${dir}" PARENT_SCOPE)
endfunction()

foreach(name bindir sysconfdir docdir datadir mandir systemd_dir)
  absolute(${name})
endforeach()

configure_file("${source_dir}/dist/sardine@.service.in" "${made_dir}/sardine@.service" @ONLY)
configure_file("${source_dir}/dist/sardined.service.in" "${made_dir}/sardined.service" @ONLY)
configure_file("${source_dir}/docs/man/sardined.8.in" "${made_dir}/sardined.8" @ONLY)
configure_file("${source_dir}/docs/man/sardine.1.in" "${made_dir}/sardine.1" @ONLY)
configure_file("${source_dir}/docs/man/sardine-config.5.in" "${made_dir}/sardine-config.5" @ONLY)
file(INSTALL "${made_dir}/sardine@.service" DESTINATION "${systemd_dir}")
file(INSTALL "${made_dir}/sardined.service" DESTINATION "${systemd_dir}")
file(INSTALL "${made_dir}/sardined.8" DESTINATION "${mandir}/man8")
file(INSTALL "${made_dir}/sardine.1" DESTINATION "${mandir}/man1")
file(INSTALL "${made_dir}/sardine-config.5" DESTINATION "${mandir}/man5")
file(INSTALL DESTINATION "${sysconfdir}/sardine" TYPE DIRECTORY FILES "")
