# SPDX-License-Identifier: Apache-2.0
# `cmake --install`, and a .deb by `cpack`. Files that name other installed files are made at install time: only then is
# the prefix known (`cmake --install --prefix`, cpack's /usr).
include(GNUInstallDirs)

set(SARDINE_SYSTEMD_DIR lib/systemd/system CACHE STRING "Where systemd units go, below the prefix unless absolute")

install(TARGETS sardine sardined RUNTIME)
install(FILES dist/completion.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME sardine)
install(FILES dist/completion-sardined.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME sardined)
install(FILES docs/stats.schema.json DESTINATION ${CMAKE_INSTALL_DATADIR}/sardine)
install(
  FILES LICENSE README.md CHANGELOG.md docs/analyze.md docs/benchmarks.md docs/control-protocol.md docs/daemon.md docs/operations.md
        docs/stats.md docs/threat-model.md
  DESTINATION ${CMAKE_INSTALL_DOCDIR})

install(CODE "
  set(source_dir \"${PROJECT_SOURCE_DIR}\")
  set(made_dir \"${PROJECT_BINARY_DIR}/installed\")
  set(bindir \"${CMAKE_INSTALL_BINDIR}\")
  set(sysconfdir \"${CMAKE_INSTALL_SYSCONFDIR}\")
  set(docdir \"${CMAKE_INSTALL_DOCDIR}\")
  set(datadir \"${CMAKE_INSTALL_DATADIR}\")
  set(mandir \"${CMAKE_INSTALL_MANDIR}\")
  set(systemd_dir \"${SARDINE_SYSTEMD_DIR}\")")
install(SCRIPT cmake/install-made.cmake)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME sardine)
set(CPACK_PACKAGE_VENDOR "Sardine developers")
set(CPACK_PACKAGE_CONTACT "Sardine developers <sardine@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_PACKAGE_DESCRIPTION
"Sardine runs virtual machines packed tightly: guests with the same kernel
share its memory from the first instruction on, identical pages are merged
copy-on-write, and what guests do not use goes back to the host. It boots
stock kernels from a raw disk image, and says exactly what is shared.")
set(CPACK_INSTALL_PREFIX /usr)
set(CPACK_SET_DESTDIR ON) # the prefix is /usr while installing, too, and /etc lies outside of it
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT) # sardine_VERSION_ARCHITECTURE.deb
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "bash-completion, man-db")
# Removes the cache of unpacked kernels on purge: no file of the package, so dpkg does not know it.
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${PROJECT_SOURCE_DIR}/dist/debian/postrm)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_PRE_BUILD_SCRIPTS ${PROJECT_SOURCE_DIR}/cmake/deb-files.cmake)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
  OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
include(CPack)
