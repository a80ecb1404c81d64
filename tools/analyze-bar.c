/* SPDX-License-Identifier: Apache-2.0 */
/* Bars of characters: proportions in the table, progress on a terminal. */
#include <langinfo.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/size.h"
#include "tools/analyze.h"

#define PROGRESS_WIDTH 30u

static bool have_utf8(void)
{
	return strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
}

const char *analyze_bar_sign(unsigned part)
{
	/* From nothing to much: zero, duplicate, unique. */
	static const char *const utf8[] = {"·", "▒", "█", " "};
	static const char *const ascii[] = {".", "=", "#", " "};

	return (have_utf8() ? utf8 : ascii)[part < 3 ? part : 3];
}

void analyze_bar(FILE *out, unsigned width, const uint64_t *parts, unsigned count, uint64_t total)
{
	uint64_t sum = 0;
	unsigned at = 0;

	/* Ends are rounded, not lengths, so that they add up; what is there at all is seen. */
	for (unsigned i = 0; i < count && total; i++) {
		unsigned end;

		sum += parts[i];
		end = (unsigned)((double)sum * width / (double)total + 0.5);
		if (parts[i] && end == at && end < width)
			end++;
		for (; at < end && at < width; at++)
			fputs(analyze_bar_sign(i), out);
	}
	for (; at < width; at++)
		fputc(' ', out);
}

void analyze_progress_draw(void *ctx, const char *phase, uint64_t done, uint64_t total)
{
	struct analyze_progress *p = ctx;
	struct timespec now;
	double seconds, part = total ? (double)done / (double)total : 1;
	unsigned filled = (unsigned)(part * PROGRESS_WIDTH);

	if (!p->on)
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	if (strcmp(p->phase, phase) != 0) {
		snprintf(p->phase, sizeof(p->phase), "%s", phase);
		p->since = now;
	}
	seconds = (double)(now.tv_sec - p->since.tv_sec) + (double)(now.tv_nsec - p->since.tv_nsec) * 1e-9;
	/* Short phases come and go unseen. */
	if (seconds < 0.05 && !p->drawn)
		return;
	fprintf(stderr, "\r%-11s [", phase);
	for (unsigned i = 0; i < PROGRESS_WIDTH; i++)
		fputs(i < filled ? analyze_bar_sign(2) : analyze_bar_sign(0), stderr);
	fprintf(stderr, "] %3.0f %%", part * 100);
	if (seconds > 1 && part > 0.02 && part < 1)
		fprintf(stderr, ", %.0f s left ", seconds / part - seconds);
	fputs("\033[K", stderr);
	p->drawn = true;
}

void analyze_progress_clear(struct analyze_progress *p)
{
	if (p->drawn)
		fputs("\r\033[K", stderr);
	p->drawn = false;
	p->phase[0] = '\0';
}
