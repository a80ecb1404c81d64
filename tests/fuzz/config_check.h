/* SPDX-License-Identifier: Apache-2.0 */
/* What holds for every configuration that was accepted, wherever it came from. */
#ifndef SARDINE_TESTS_FUZZ_CONFIG_CHECK_H
#define SARDINE_TESTS_FUZZ_CONFIG_CHECK_H

#include "vmm/config.h"

/**
 * config_check_accepted() - Resolve, check, and go to JSON and back.
 * @config: accepted input; resolved afterwards.
 * @utf8: all texts in it are UTF-8, and so can be written as JSON.
 *
 * One that passes the checks is what --dry-run prints: --config must take that back, and mean the same.
 */
void config_check_accepted(struct vm_config *config, bool utf8);

#endif
