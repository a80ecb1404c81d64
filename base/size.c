/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers and sizes that come from outside. */
#include "base/size.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static int digits_parse(const char **ps, uint64_t *ret)
{
	const char *s = *ps;
	uint64_t v = 0;

	if (!isdigit((unsigned char)*s))
		return -EINVAL;
	for (; isdigit((unsigned char)*s); s++)
		if (__builtin_mul_overflow(v, (uint64_t)10, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
			return -ERANGE;
	*ps = s;
	*ret = v;
	return 0;
}

int size_parse(const char *s, uint64_t *ret_bytes)
{
	static const char suffixes[] = "KMGT";
	uint64_t v;
	unsigned shift = 0;
	int r = digits_parse(&s, &v);

	if (r < 0)
		return r;
	if (*s) {
		const char *at = strchr(suffixes, toupper((unsigned char)*s));

		if (at) {
			shift = 10 * (unsigned)(at - suffixes + 1);
			s++;
			if (*s == 'i' && (s[1] == 'B' || s[1] == 'b'))
				s++;
		}
		if (*s == 'B' || *s == 'b')
			s++;
	}
	if (*s)
		return -EINVAL;
	if (shift && v >> (64 - shift))
		return -ERANGE;
	*ret_bytes = v << shift;
	return 0;
}

int number_parse(const char *s, uint64_t max, uint64_t *ret)
{
	uint64_t v;
	int r = digits_parse(&s, &v);

	if (r < 0)
		return r;
	if (*s)
		return -EINVAL;
	if (v > max)
		return -ERANGE;
	*ret = v;
	return 0;
}

const char *size_format(uint64_t bytes, char *buf, size_t len)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	unsigned u = 0;
	double v = (double)bytes;

	while (v >= 1024 && u + 1 < ARRAY_SIZE(units)) {
		v /= 1024;
		u++;
	}
	if (v >= 100 || v == (double)(uint64_t)v)
		snprintf(buf, len, "%.0f %s", v, units[u]);
	else
		snprintf(buf, len, "%.1f %s", v, units[u]);
	return buf;
}
