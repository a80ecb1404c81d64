/* SPDX-License-Identifier: Apache-2.0 */
/* Chance that can be repeated. */
#ifndef SARDINE_KSM_REPLAY_INTERNAL_H
#define SARDINE_KSM_REPLAY_INTERNAL_H

#include <stdint.h>

/* Number @n of the sequence of a seed (the finalizer of SplitMix64). */
static inline uint64_t replay_mix(uint64_t seed, uint64_t n)
{
	uint64_t x = seed + (n + 1) * 0x9e3779b97f4a7c15u;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

#endif
