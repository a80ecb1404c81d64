/* SPDX-License-Identifier: Apache-2.0 */
/* One line for a person about what went wrong. */
#include "base/errmsg.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int errmsg_set(struct errmsg *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (!err || err->text[0])
		return code;
	va_start(ap, fmt);
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	for (char *p = err->text; *p; p++)
		if (iscntrl((unsigned char)*p))
			*p = '?';
	return code;
}

const char *errmsg_text(const struct errmsg *err, int code)
{
	return err->text[0] ? err->text : strerror(-code);
}
