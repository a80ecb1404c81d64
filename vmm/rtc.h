/* SPDX-License-Identifier: Apache-2.0 */
/* The real-time clock of a PC, always at the host's time: guests set their own clock by it when they boot. */
#ifndef SARDINE_VMM_RTC_H
#define SARDINE_VMM_RTC_H

#include <time.h>

#include "base/cleanup.h"
#include "vmm/bus.h"

/* The register that holds the century; named by the FADT. */
#define RTC_REG_CENTURY 0x32

struct rtc;

/**
 * rtc_new() - A clock.
 * @now: tells the time since 1970 in UTC; NULL takes the host's CLOCK_REALTIME. Context: vCPU thread; must
 * not block.
 * @arg: passed to it.
 * @ret: the device; the caller frees it with rtc_free().
 *
 * Return: 0 or -ENOMEM.
 */
int rtc_new(struct timespec (*now)(void *arg), void *arg, struct rtc **ret) must_check;
void rtc_free(struct rtc *rtc);
DEFINE_CLEANUP(struct rtc, rtc_free)

/* Back to the state of rtc_new(). Context: any thread. */
void rtc_reset(struct rtc *rtc);

/* Ports 0x70 (register number) and 0x71 (its value), LAYOUT_RTC_LEN bytes. */
extern const struct bus_ops rtc_bus_ops;

#endif
