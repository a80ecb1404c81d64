/* SPDX-License-Identifier: Apache-2.0 */
/* Bugs on purpose, one for each fuzz target to find: only in builds with SARDINE_PLANT, and there asleep unless the
 * environment names one (tests/fuzz/run --planted). */
#ifndef SARDINE_BASE_PLANTED_H
#define SARDINE_BASE_PLANTED_H

#include <stdbool.h>

#ifdef SARDINE_PLANT

#if !defined(__has_feature)
#error "SARDINE_PLANT is for the fuzz build (clang, address sanitizer), nothing else"
#elif !__has_feature(address_sanitizer)
#error "SARDINE_PLANT is for the fuzz build (clang, address sanitizer), nothing else"
#endif

/* Whether the environment variable SARDINE_PLANTED is @name. */
bool planted(const char *name);
#define PLANTED(name) planted(name)

#else

#define PLANTED(name) false

#endif

#endif
