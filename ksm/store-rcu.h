/* SPDX-License-Identifier: Apache-2.0 */
/* Userspace RCU as the store uses it, and what the thread sanitizer has to be told about it. */
#ifndef SARDINE_KSM_STORE_RCU_H
#define SARDINE_KSM_STORE_RCU_H

#include <urcu/urcu-bp.h>

/*
 * The flavour is "bulletproof": a thread is registered by its first read section and forgotten at its end, without a
 * call of ours. Calls of the store come from threads that it knows nothing of and that live as long as they like. Its
 * readers issue no fence where the kernel has membarrier (4.14), so that it costs no more than the others.
 *
 * The functions are those of the shared library, not its inline ones (no _LGPL_SOURCE): a read section is entered once
 * per batch, not per record. The thread sanitizer does not look into the library, so it does not know that
 * store_synchronize() comes after every read section that was open; we say that, and nothing else. Everything that
 * readers read is published by C11 atomics, which it sees.
 */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define STORE_TSAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define STORE_TSAN 1
#endif

#ifdef STORE_TSAN
#include <sanitizer/tsan_interface.h>
#define store_tsan_release(at) __tsan_release(at)
#define store_tsan_acquire(at) __tsan_acquire(at)
#else
#define store_tsan_release(at) ((void)(at))
#define store_tsan_acquire(at) ((void)(at))
#endif

/* @domain: an address that stands for the readers and reclaimers of one store. */
static inline void store_read_lock(void)
{
	urcu_bp_read_lock();
}

static inline void store_read_unlock(void *domain)
{
	store_tsan_release(domain);
	urcu_bp_read_unlock();
}

/* Returns when all read sections that were open have ended. Not inside one. */
static inline void store_synchronize(void *domain)
{
	urcu_bp_synchronize_rcu();
	store_tsan_acquire(domain);
}

#endif
