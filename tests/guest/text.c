/* SPDX-License-Identifier: Apache-2.0 */
/* What a C library would bring: memory blocks, formatting, numbers. */
#include "probe.h"

void *memcpy(void *to, const void *from, size_t n)
{
	void *start = to;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
	return start;
}

void *memset(void *to, int c, size_t n)
{
	void *start = to;

	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(c) : "memory");
	return start;
}

void *memmove(void *to, const void *from, size_t n)
{
	uint8_t *t = to;
	const uint8_t *f = from;

	if (t <= f)
		return memcpy(to, from, n);
	while (n--)
		*(volatile uint8_t *)(t + n) = f[n];
	return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const volatile uint8_t *x = a, *y = b;

	for (size_t i = 0; i < n; i++) {
		int d = x[i] - y[i];

		if (d)
			return d;
	}
	return 0;
}

size_t text_length(const char *s)
{
	size_t n = 0;

	while (((const volatile char *)s)[n])
		n++;
	return n;
}

bool text_equal(const char *a, const char *b)
{
	while (*a && *a == *b) {
		a++;
		b++;
	}
	return *a == *b;
}

struct sink {
	char *buf;
	size_t size, length;
};

static void put(struct sink *s, char c)
{
	if (s->length < s->size)
		s->buf[s->length++] = c;
}

static void put_number(struct sink *s, uint64_t v, unsigned base)
{
	char digits[24];
	unsigned n = 0;

	do {
		digits[n++] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	while (n)
		put(s, digits[--n]);
}

size_t text_format(char *buf, size_t size, const char *fmt, va_list args)
{
	struct sink s = {.buf = buf, .size = size};

	for (; *fmt; fmt++) {
		bool is_long = false;

		if (*fmt != '%') {
			put(&s, *fmt);
			continue;
		}
		fmt++;
		if (*fmt == 'l') {
			is_long = true;
			fmt++;
		}
		switch (*fmt) {
		case 's':
			for (const char *t = va_arg(args, const char *); *t; t++)
				put(&s, *t);
			break;
		case 'c':
			put(&s, (char)va_arg(args, int));
			break;
		case 'd': {
			int v = va_arg(args, int);

			if (v < 0)
				put(&s, '-');
			put_number(&s, (uint64_t)(v < 0 ? -(int64_t)v : v), 10);
			break;
		}
		case 'x':
			put(&s, '0');
			put(&s, 'x');
			put_number(&s, is_long ? va_arg(args, unsigned long) : va_arg(args, unsigned), 16);
			break;
		case 'u':
			put_number(&s, is_long ? va_arg(args, unsigned long) : va_arg(args, unsigned), 10);
			break;
		default:
			put(&s, *fmt);
		}
	}
	return s.length;
}

bool text_number(const char *s, size_t length, uint64_t *ret)
{
	uint64_t v = 0;
	unsigned base = 10;
	size_t i = 0;

	if (length > 2 && s[0] == '0' && s[1] == 'x') {
		base = 16;
		i = 2;
	}
	if (i == length)
		return false;
	for (; i < length; i++) {
		char c = s[i];
		unsigned digit;

		if (c >= '0' && c <= '9')
			digit = (unsigned)(c - '0');
		else if (base == 16 && c >= 'a' && c <= 'f')
			digit = (unsigned)(c - 'a') + 10;
		else if (i + 1 == length && i > 0 && (c == 'K' || c == 'M' || c == 'G'))
			return *ret = v << (c == 'K' ? 10 : c == 'M' ? 20 : 30), true;
		else
			return false;
		v = v * base + digit;
	}
	*ret = v;
	return true;
}
