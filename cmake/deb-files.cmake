# SPDX-License-Identifier: Apache-2.0
# cpack, between installing into its folder and packing it: what Debian wants and other systems do not. Compressed man
# pages and changelog (policy 12.1, 12.7; -n keeps names and times out), a copyright file (12.5) instead of the licence.
cmake_policy(VERSION 3.25)
set(usr "${CPACK_TEMPORARY_INSTALL_DIRECTORY}/usr")
set(doc "${usr}/share/doc/sardine")
file(RENAME "${doc}/CHANGELOG.md" "${doc}/changelog")
file(REMOVE "${doc}/LICENSE")
configure_file("${CMAKE_CURRENT_LIST_DIR}/../dist/debian/copyright" "${doc}/copyright" COPYONLY)
execute_process(
  COMMAND gzip -9n "${doc}/changelog" "${usr}/share/man/man1/sardine.1" "${usr}/share/man/man5/sardine-config.5" "${usr}/share/man/man8/sardined.8"
  COMMAND_ERROR_IS_FATAL ANY)
