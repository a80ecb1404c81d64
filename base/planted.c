/* SPDX-License-Identifier: Apache-2.0 */
/* Which bug of base/planted.h is awake. Compiled into fuzz builds only. */
#include "base/planted.h"

#include <stdlib.h>
#include <string.h>

bool planted(const char *name)
{
	static const char *awake;

	if (!awake) {
		const char *value = getenv("SARDINE_PLANTED");

		awake = value ? value : "";
	}
	return strcmp(awake, name) == 0;
}
