/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of a PC keyboard controller (Intel 8042 with AT firmware; IBM PC AT Technical Reference,
 * "Keyboard Controller") that guests use without a keyboard: the reset line, self tests, the command byte.
 *
 * Every command that promises a byte leaves one in the output buffer at once, so that no driver waits for it;
 * the input buffer is never full, so that a driver that wants to reset (Linux: reboot=k) sees that it may
 * write.
 */
#include "vmm/i8042.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#define OFF_DATA   0 /* port 0x60 */
#define OFF_PORT_B 1 /* port 0x61 */
#define OFF_STATUS 4 /* port 0x64: R status, W command */

#define STATUS_OUTPUT_FULL 0x01
#define STATUS_SYSTEM	   0x04 /* self test passed */
#define STATUS_COMMAND	   0x08 /* the last write was a command */

#define CMD_READ_BYTE	 0x20 /* 0x20-0x3f: read controller RAM; byte 0 is the command byte */
#define CMD_WRITE_BYTE	 0x60
#define CMD_AUX_TEST	 0xa9
#define CMD_SELF_TEST	 0xaa
#define CMD_KBD_TEST	 0xab
#define CMD_READ_INPUT	 0xc0
#define CMD_READ_OUTPUT	 0xd0
#define CMD_WRITE_OUTPUT 0xd1
#define CMD_WRITE_KBD	 0xd2 /* the next byte reads back as if from the keyboard */
#define CMD_WRITE_AUX	 0xd3 /* the same from the mouse: how drivers look for a mouse port */
#define CMD_PULSE	 0xf0 /* 0xf0-0xff: zeros in the low bits pull output lines low */

#define SELF_TEST_OK   0x55
#define LINE_STUCK_LOW 0x01 /* interface tests: clock line stuck low, that is: nothing there */

/* Output port: bit 0 is the reset line (active low), bit 1 the A20 gate. */
#define OUTPUT_RESET 0x01
#define OUTPUT_A20   0x02

/* Port 0x61: bits 0-3 are writable; bit 4 toggles with memory refresh, bit 5 is the output of timer 2. Loops
 * that calibrate against either end because both move or are set; bits 6-7 (NMI reasons) stay clear. */
#define PORT_B_WRITABLE 0x0f
#define PORT_B_REFRESH	0x10
#define PORT_B_TIMER2	0x20

struct i8042 {
	void (*reset)(void *arg);
	void *arg;
	pthread_mutex_t lock; /* guards what follows */
	uint8_t command_byte;
	uint8_t status;
	uint8_t output;	 /* valid while STATUS_OUTPUT_FULL */
	uint8_t pending; /* command that waits for its data byte, or 0 */
	uint8_t port_b;
};

int i8042_new(void (*reset)(void *arg), void *arg, struct i8042 **ret)
{
	struct i8042 *k = calloc(1, sizeof(*k));

	if (!k)
		return -ENOMEM;
	k->reset = reset;
	k->arg = arg;
	pthread_mutex_init(&k->lock, NULL);
	k->status = STATUS_SYSTEM;
	*ret = k;
	return 0;
}

void i8042_free(struct i8042 *k)
{
	if (!k)
		return;
	pthread_mutex_destroy(&k->lock);
	free(k);
}

void i8042_reset(struct i8042 *k)
{
	pthread_mutex_lock(&k->lock);
	k->command_byte = k->output = k->pending = k->port_b = 0;
	k->status = STATUS_SYSTEM;
	pthread_mutex_unlock(&k->lock);
}

static void answer(struct i8042 *k, uint8_t v)
{
	k->output = v;
	k->status |= STATUS_OUTPUT_FULL;
}

/* Returns true when the command pulls the reset line. */
static bool command(struct i8042 *k, uint8_t cmd)
{
	k->status |= STATUS_COMMAND;
	k->pending = 0;
	if (cmd >= CMD_PULSE)
		return !(cmd & OUTPUT_RESET);
	switch (cmd) {
	case CMD_READ_BYTE:
		answer(k, k->command_byte);
		break;
	case CMD_SELF_TEST:
		answer(k, SELF_TEST_OK);
		break;
	case CMD_KBD_TEST:
		answer(k, 0);
		break;
	case CMD_AUX_TEST:
		answer(k, LINE_STUCK_LOW);
		break;
	case CMD_READ_INPUT:
		answer(k, 0);
		break;
	case CMD_READ_OUTPUT:
		answer(k, OUTPUT_RESET | OUTPUT_A20);
		break;
	case CMD_WRITE_BYTE:
	case CMD_WRITE_OUTPUT:
	case CMD_WRITE_KBD:
	case CMD_WRITE_AUX:
		k->pending = cmd;
		break;
	default: /* enable, disable and the unknown: no answer */
		break;
	}
	return false;
}

/* The same for a data byte: of the command before it, or for the keyboard that is not there. */
static bool data_byte(struct i8042 *k, uint8_t v)
{
	uint8_t cmd = k->pending;

	k->status &= (uint8_t)~STATUS_COMMAND;
	k->pending = 0;
	switch (cmd) {
	case CMD_WRITE_BYTE:
		k->command_byte = v;
		break;
	case CMD_WRITE_OUTPUT:
		return !(v & OUTPUT_RESET);
	case CMD_WRITE_KBD:
		answer(k, v);
		break;
	case CMD_WRITE_AUX:
		answer(k, (uint8_t)~v); /* not looped back: there is no mouse port */
		break;
	default:
		break;
	}
	return false;
}

static uint8_t read_port(struct i8042 *k, uint64_t offset)
{
	switch (offset) {
	case OFF_DATA:
		k->status &= (uint8_t)~STATUS_OUTPUT_FULL;
		return k->output;
	case OFF_PORT_B:
		k->port_b ^= PORT_B_REFRESH;
		return k->port_b | PORT_B_TIMER2;
	case OFF_STATUS:
		return k->status;
	default:
		return 0xff;
	}
}

static void i8042_read(void *dev, uint64_t offset, uint8_t *data, uint32_t len)
{
	struct i8042 *k = dev;

	pthread_mutex_lock(&k->lock);
	for (uint32_t i = 0; i < len; i++)
		data[i] = read_port(k, offset + i);
	pthread_mutex_unlock(&k->lock);
}

static void i8042_write(void *dev, uint64_t offset, const uint8_t *data, uint32_t len)
{
	struct i8042 *k = dev;
	bool reset = false;

	pthread_mutex_lock(&k->lock);
	for (uint32_t i = 0; i < len; i++) {
		if (offset + i == OFF_DATA)
			reset |= data_byte(k, data[i]);
		else if (offset + i == OFF_STATUS)
			reset |= command(k, data[i]);
		else if (offset + i == OFF_PORT_B)
			k->port_b = (uint8_t)((k->port_b & PORT_B_REFRESH) | (data[i] & PORT_B_WRITABLE));
	}
	pthread_mutex_unlock(&k->lock);
	if (reset)
		k->reset(k->arg);
}

const struct bus_ops i8042_bus_ops = {.read = i8042_read, .write = i8042_write};
