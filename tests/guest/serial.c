/* SPDX-License-Identifier: Apache-2.0 */
/* COM1, polled. */
#include "probe.h"

#define COM1	 0x3f8
#define LSR	 (COM1 + 5)
#define LSR_DATA 0x01
#define LSR_THRE 0x20
#define FIFO	 16

static char out_buffer[4096];
static size_t out_length;
static char line[1024];
static size_t line_length;
static bool line_done;

void serial_init(void)
{
	out8(COM1 + 1, 0);    /* no interrupts */
	out8(COM1 + 3, 0x80); /* divisor 1: 115200 */
	out8(COM1 + 0, 1);
	out8(COM1 + 1, 0);
	out8(COM1 + 3, 0x03); /* 8n1 */
	out8(COM1 + 2, 0x07); /* FIFOs on and empty */
	out8(COM1 + 4, 0x03);
}

static void flush(void)
{
	for (size_t i = 0; i < out_length; i++) {
		if (i % FIFO == 0) {
			while (!(in8(LSR) & LSR_THRE))
				relax();
		}
		out8(COM1, (uint8_t)out_buffer[i]);
	}
	out_length = 0;
}

void serial_write(const char *s, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		out_buffer[out_length++] = s[i];
		if (s[i] == '\n' || out_length == sizeof(out_buffer))
			flush();
	}
}

void say(const char *fmt, ...)
{
	static char text[1024];
	va_list args;

	va_start(args, fmt);
	serial_write(text, text_format(text, sizeof(text), fmt, args));
	va_end(args);
}

char *serial_line(void)
{
	if (line_done) {
		line_done = false;
		line_length = 0;
	}
	while (in8(LSR) & LSR_DATA) {
		char c = (char)in8(COM1);

		if (c == '\r' || c == '\n') {
			if (line_length == 0)
				continue;
			line[line_length] = 0;
			line_done = true;
			return line;
		}
		if (line_length < sizeof(line) - 1)
			line[line_length++] = c;
	}
	return NULL;
}
