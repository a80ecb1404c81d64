/* SPDX-License-Identifier: Apache-2.0 */
/* The one line that every command says about a failure. */
#include "tools/cli.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/errmsg.h"

int cli_error(const char *verb, int code, const char *fmt, ...)
{
	char text[ERRMSG_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fprintf(stderr, "%s: %s\n", verb, text);
	return code;
}
