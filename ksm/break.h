/* SPDX-License-Identifier: Apache-2.0 */
/* Steps of the engine's protocols that a build can leave out, to see the tests fail without them. */
#ifndef SARDINE_KSM_BREAK_H
#define SARDINE_KSM_BREAK_H

/* Each names what goes wrong. tests/mutants/run builds one engine per name, with -DSARDINE_BREAK=NAME. */
enum break_point {
	BREAK_NOTHING,
	BREAK_NO_COMPARE,      /* I1: a hash is taken for the bytes */
	BREAK_NO_RECHECK,      /* I2: what was written after the comparison is replaced */
	BREAK_EARLY_RELEASE,   /* I2: the guest runs again before its pages are replaced */
	BREAK_NO_FLIGHT_FIRST, /* I2: I/O in flight while bytes are compared is not looked for */
	BREAK_NO_FLIGHT_HELD,  /* I2: I/O in flight while pages are replaced is not looked for */
	BREAK_STALE_PARKED,    /* I2: who parked for an earlier hold counts for the next, too */
	BREAK_NO_KICK,	       /* a vCPU that runs its guest is not told of a hold */
	BREAK_LOOP_FREE,       /* I2: the I/O thread goes on writing during holds */
	BREAK_ZERO_NO_COMPARE, /* I1: what the scan took for zero is dropped */
	BREAK_ZERO_NO_RECHECK, /* I2: what was written after it was found zero is dropped */
	BREAK_MOVE_NO_COMPARE, /* I1: the store's word that two of its pages are equal is taken */
	BREAK_MOVE_NO_RECHECK, /* I2: what was written since it was shared is moved, too */
	BREAK_RETAKE_RUNNING,  /* I2: the guest runs while what it wrote is copied */
	BREAK_NO_SPLIT,	       /* a part of a huge page is replaced, and nothing freed */
	BREAK_SHARED_DONTNEED, /* pages of the store are discarded as if they were anonymous (replayed memory) */
	BREAK_REPORT_LOST, /* written frames are believed to be what they were (the agent; bytes stay right) */
	BREAK_NO_SEAL,	   /* I3: a segment is given out before it is sealed */
	BREAK_NO_CHECK,	   /* I3: a segment is mapped whatever its seals */
};

#ifndef SARDINE_BREAK
#define SARDINE_BREAK BREAK_NOTHING
#endif

/* False in every build that is used for anything. */
#define broken(point) (SARDINE_BREAK == (point))

#endif
