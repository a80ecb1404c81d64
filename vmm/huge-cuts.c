/* SPDX-License-Identifier: Apache-2.0 */
/* Huge pages of which a part was dropped, and that are still to be split or dropped as a whole. */
#include "vmm/huge-cuts.h"

#include <string.h>

#define WORDS (HUGE_FRAMES / 64)

static void forget(struct huge_cuts *c, unsigned i)
{
	c->count--;
	memmove(&c->cuts[i], &c->cuts[i + 1], (c->count - i) * sizeof(c->cuts[0]));
}

bool huge_cuts_take(struct huge_cuts *c, uint64_t *ret_frame)
{
	if (c->count == 0)
		return false;
	for (unsigned w = 0; w < WORDS; w++) {
		uint64_t left = ~c->cuts[0].dropped[w];

		if (left) {
			*ret_frame =
				c->cuts[0].block * HUGE_FRAMES + 64 * w + (unsigned)__builtin_ctzll(left);
			break;
		}
	}
	forget(c, 0);
	return true;
}

static bool is_whole(const struct huge_cuts *c, unsigned i)
{
	for (unsigned w = 0; w < WORDS; w++)
		if (~c->cuts[i].dropped[w])
			return false;
	return true;
}

bool huge_cuts_add(struct huge_cuts *c, uint64_t first, uint64_t end, uint64_t *ret_frame)
{
	uint64_t block = first / HUGE_FRAMES;
	bool full = false;
	unsigned i = 0;

	while (i < c->count && c->cuts[i].block != block)
		i++;
	if (i == HUGE_CUTS_MAX) {
		full = huge_cuts_take(c, ret_frame);
		i--;
	}
	if (i == c->count) {
		memset(&c->cuts[i], 0, sizeof(c->cuts[i]));
		c->cuts[i].block = block;
		c->count++;
	}
	for (uint64_t f = first; f < end; f++)
		c->cuts[i].dropped[f % HUGE_FRAMES / 64] |= (uint64_t)1 << f % 64;
	if (is_whole(c, i))
		forget(c, i);
	return full;
}

void huge_cuts_forget(struct huge_cuts *c, uint64_t first, uint64_t end)
{
	for (unsigned i = c->count; i-- > 0;)
		if (c->cuts[i].block * HUGE_FRAMES >= first && (c->cuts[i].block + 1) * HUGE_FRAMES <= end)
			forget(c, i);
}
