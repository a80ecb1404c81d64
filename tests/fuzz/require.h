/* SPDX-License-Identifier: Apache-2.0 */
/* What fuzz targets say instead of assert(), which release builds would drop. */
#ifndef SARDINE_TESTS_FUZZ_REQUIRE_H
#define SARDINE_TESTS_FUZZ_REQUIRE_H

#include <stdbool.h>

/* Dies when @x is false. */
static inline void require(bool x)
{
	if (!x)
		__builtin_trap();
}

#endif
