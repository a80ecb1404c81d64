/* SPDX-License-Identifier: Apache-2.0 */
/*
 * As much of a Motorola MC146818 as tells the time (MC146818A data sheet, "Register" tables): the ten registers of
 * time and date in BCD and 24-hour form, status A to D, and the century where PCs have it.
 *
 * Why there is one, with kvmclock at hand: until a Linux guest switches to kvmclock it counts timer ticks, and
 * loses those that fall into a time with interrupts off or before its timer runs. On a slow or busy host that
 * adds up to seconds. Stock kernels set their clock by the first RTC they find (CONFIG_RTC_HCTOSYS), which is
 * after that switch, and so start right.
 *
 * The time is the host's and cannot be set: writes to time registers are dropped. There is no interrupt, hence
 * no alarm; the registers for that read as zero. Nothing here depends on what a guest wrote but the register
 * number.
 */
#include "vmm/rtc.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#define OFF_INDEX 0 /* port 0x70; bit 7 masks NMI on a PC and is no part of the number */
#define OFF_DATA  1 /* port 0x71 */

#define INDEX_MASK 0x7f

#define REG_SECONDS  0x00
#define REG_MINUTES  0x02
#define REG_HOURS    0x04
#define REG_WEEK_DAY 0x06 /* 1 is Sunday */
#define REG_DAY	     0x07
#define REG_MONTH    0x08 /* 1 is January */
#define REG_YEAR     0x09 /* of the century */
#define REG_A	     0x0a
#define REG_B	     0x0b
#define REG_D	     0x0d

#define A_UPDATE   0x80 /* the time registers are about to change */
#define A_DIVIDERS 0x26 /* 32,768 Hz time base, 1,024 Hz periodic rate: what a PC's firmware leaves */
#define B_24_HOURS 0x02 /* and BCD, as bit 2 is clear */
#define D_VALID	   0x80 /* the battery is good */

#define NS_PER_SECOND 1000000000L
#define UPDATE_NS     244000L /* UIP is set this long before the second changes: data sheet, "Update Cycle" */

struct rtc {
	struct timespec (*now)(void *arg);
	void *arg;
	pthread_mutex_t lock; /* guards what follows */
	uint8_t index;
};

static struct timespec host_time(void *arg)
{
	struct timespec t;

	(void)arg;
	clock_gettime(CLOCK_REALTIME, &t);
	return t;
}

int rtc_new(struct timespec (*now)(void *arg), void *arg, struct rtc **ret)
{
	struct rtc *rtc = calloc(1, sizeof(*rtc));

	if (!rtc)
		return -ENOMEM;
	rtc->now = now ? now : host_time;
	rtc->arg = arg;
	pthread_mutex_init(&rtc->lock, NULL);
	*ret = rtc;
	return 0;
}

void rtc_free(struct rtc *rtc)
{
	if (!rtc)
		return;
	pthread_mutex_destroy(&rtc->lock);
	free(rtc);
}

void rtc_reset(struct rtc *rtc)
{
	pthread_mutex_lock(&rtc->lock);
	rtc->index = 0;
	pthread_mutex_unlock(&rtc->lock);
}

static uint8_t bcd(int v)
{
	return (uint8_t)(v / 10 % 10 << 4 | v % 10);
}

static uint8_t read_register(const struct rtc *rtc)
{
	struct timespec now = rtc->now(rtc->arg);
	struct tm tm;

	if (!gmtime_r(&now.tv_sec, &tm))
		return 0;
	switch (rtc->index) {
	case REG_SECONDS:
		return bcd(tm.tm_sec);
	case REG_MINUTES:
		return bcd(tm.tm_min);
	case REG_HOURS:
		return bcd(tm.tm_hour);
	case REG_WEEK_DAY:
		return bcd(tm.tm_wday + 1);
	case REG_DAY:
		return bcd(tm.tm_mday);
	case REG_MONTH:
		return bcd(tm.tm_mon + 1);
	case REG_YEAR:
		return bcd(tm.tm_year % 100);
	case RTC_REG_CENTURY:
		return bcd((tm.tm_year + 1900) / 100);
	case REG_A:
		return A_DIVIDERS | (now.tv_nsec >= NS_PER_SECOND - UPDATE_NS ? A_UPDATE : 0);
	case REG_B:
		return B_24_HOURS;
	case REG_D:
		return D_VALID;
	default: /* alarm, register C (no interrupt is ever pending), and RAM */
		return 0;
	}
}

static void rtc_read(void *dev, uint64_t offset, uint8_t *data, uint32_t len)
{
	struct rtc *rtc = dev;

	pthread_mutex_lock(&rtc->lock);
	for (uint32_t i = 0; i < len; i++)
		data[i] = offset + i == OFF_DATA ? read_register(rtc) : 0xff; /* 0x70 is write-only */
	pthread_mutex_unlock(&rtc->lock);
}

static void rtc_write(void *dev, uint64_t offset, const uint8_t *data, uint32_t len)
{
	struct rtc *rtc = dev;

	(void)len;
	pthread_mutex_lock(&rtc->lock);
	if (offset == OFF_INDEX)
		rtc->index = data[0] & INDEX_MASK;
	pthread_mutex_unlock(&rtc->lock);
}

const struct bus_ops rtc_bus_ops = {.read = rtc_read, .write = rtc_write};
