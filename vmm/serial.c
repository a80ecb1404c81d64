/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A 16550A UART (National Semiconductor PC16550D data sheet; section numbers below are its).
 *
 * Theory of operation
 *
 * The line has no speed: a byte written to THR is on the wire at once, so the transmitter is always empty and
 * the THRE interrupt is pending again right after a write. Received bytes wait in the receive FIFO; the
 * character timeout of FIFO mode has always passed, so data below the trigger level is announced as a timeout
 * at once.
 *
 * Interrupts leave as edges on an irqfd, but the UART's interrupt output is a level: high while IIR shows a
 * condition. An edge is raised when that level rises, and once more when an access clears the condition that
 * IIR showed while another one is (still) there: a driver that has looked at one condition only, and then
 * waits for the next edge, must not wait forever. The gate by MCR.OUT2 that PC boards add is left out, like
 * in other machine models.
 *
 * Locks: one mutex around all registers. Output is delivered under it (order), input_room after it.
 */
#include "vmm/serial.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

/* Register offsets, 8.0; with LCR.DLAB offsets 0 and 1 are the divisor latch. */
enum {
	REG_DATA = 0, /* R: RBR, W: THR */
	REG_IER = 1,
	REG_IIR = 2, /* R: IIR, W: FCR */
	REG_LCR = 3,
	REG_MCR = 4,
	REG_LSR = 5,
	REG_MSR = 6,
	REG_SCR = 7,
};

#define IER_RX	  0x01
#define IER_THRE  0x02
#define IER_LINE  0x04
#define IER_MODEM 0x08
#define IER_ALL	  0x0f

#define IIR_MODEM      0x00
#define IIR_NONE       0x01
#define IIR_THRE       0x02
#define IIR_RX	       0x04
#define IIR_LINE       0x06
#define IIR_RX_TIMEOUT 0x0c
#define IIR_FIFO       0xc0

#define FCR_ENABLE	  0x01
#define FCR_CLEAR_RX	  0x02
#define FCR_TRIGGER_SHIFT 6

#define LCR_DLAB 0x80

#define MCR_DTR	 0x01
#define MCR_RTS	 0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10
#define MCR_ALL	 0x1f

#define LSR_DATA    0x01
#define LSR_OVERRUN 0x02
#define LSR_THRE    0x20
#define LSR_TEMT    0x40

#define MSR_CTS	  0x10
#define MSR_DSR	  0x20
#define MSR_RI	  0x40
#define MSR_DCD	  0x80
#define MSR_LINES 0xf0
#define MSR_TERI  0x04 /* trailing edge of RI: set when it falls only */
#define MSR_DELTA 0x0f

#define FIFO_BYTES 16

/* 115200 baud / 12: what firmware leaves behind. */
#define DIVISOR_RESET 12

struct serial {
	struct serial_config config;
	pthread_mutex_t lock; /* guards what follows */
	uint8_t ier, lcr, mcr, msr, scr;
	uint16_t divisor;
	bool fifo_on;
	uint8_t rx_trigger; /* bytes */
	uint8_t rx[FIFO_BYTES];
	uint8_t rx_head, rx_count;
	bool overrun;	   /* LSR_OVERRUN, cleared by reading LSR */
	bool thre_pending; /* THRE interrupt condition: set by an emptied THR, cleared by reading IIR */
	bool starved;	   /* serial_input() refused bytes since the FIFO was last empty */
	uint8_t signalled; /* the condition that the last edge announced, IIR_NONE while the output is low */
};

static void registers_reset(struct serial *s)
{
	s->ier = s->lcr = s->mcr = s->scr = 0;
	s->msr = MSR_CTS | MSR_DSR | MSR_DCD; /* somebody is connected */
	s->divisor = DIVISOR_RESET;
	s->fifo_on = false;
	s->rx_trigger = 1;
	s->rx_head = s->rx_count = 0;
	s->overrun = s->thre_pending = s->starved = false;
	s->signalled = IIR_NONE;
}

int serial_new(const struct serial_config *config, struct serial **ret)
{
	struct serial *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->config = *config;
	pthread_mutex_init(&s->lock, NULL);
	registers_reset(s);
	*ret = s;
	return 0;
}

void serial_free(struct serial *s)
{
	if (!s)
		return;
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static uint8_t rx_capacity(const struct serial *s)
{
	return s->fifo_on ? FIFO_BYTES : 1;
}

static void rx_push(struct serial *s, uint8_t byte)
{
	s->rx[(s->rx_head + s->rx_count) % FIFO_BYTES] = byte;
	s->rx_count++;
}

static void rx_clear(struct serial *s)
{
	s->rx_head = 0;
	s->rx_count = 0;
}

/* The highest-priority condition that is enabled and present, as IIR shows it (table IV). */
static uint8_t condition(const struct serial *s)
{
	if ((s->ier & IER_LINE) && s->overrun)
		return IIR_LINE;
	if ((s->ier & IER_RX) && s->rx_count)
		return s->fifo_on && s->rx_count < s->rx_trigger ? IIR_RX_TIMEOUT : IIR_RX;
	if ((s->ier & IER_THRE) && s->thre_pending)
		return IIR_THRE;
	if ((s->ier & IER_MODEM) && (s->msr & MSR_DELTA))
		return IIR_MODEM;
	return IIR_NONE;
}

/* Data at and below the trigger level are one condition: crossing it is no news. */
static uint8_t kind(uint8_t c)
{
	return c == IIR_RX_TIMEOUT ? IIR_RX : c;
}

/*
 * After every change: raise an edge when the output went from low to high, or when the condition that was
 * announced has given way to another one. A condition of higher priority that joins one already announced
 * also counts: one edge too many costs a look at IIR, one too few stalls the port.
 */
static void update_irq(struct serial *s)
{
	uint8_t now = kind(condition(s));
	bool edge = now != IIR_NONE && now != s->signalled;

	s->signalled = now;
	if (edge)
		irq_raise(&s->config.irq);
}

/* MSR from the modem's lines; the delta bits collect what changed (8.8). */
static void set_lines(struct serial *s, uint8_t lines)
{
	uint8_t changed = (s->msr ^ lines) & MSR_LINES;
	uint8_t delta = (uint8_t)(changed >> 4);

	if (lines & MSR_RI)
		delta &= (uint8_t)~MSR_TERI;
	s->msr = (uint8_t)(lines | (s->msr & MSR_DELTA) | delta);
}

/* Loopback connects our own outputs to the modem inputs (8.7): RTS-CTS, DTR-DSR, OUT1-RI, OUT2-DCD. */
static void write_mcr(struct serial *s, uint8_t v)
{
	uint8_t lines = MSR_CTS | MSR_DSR | MSR_DCD;

	s->mcr = v & MCR_ALL;
	if (s->mcr & MCR_LOOP)
		lines = (uint8_t)((s->mcr & MCR_RTS ? MSR_CTS : 0) | (s->mcr & MCR_DTR ? MSR_DSR : 0) |
				  (s->mcr & MCR_OUT1 ? MSR_RI : 0) | (s->mcr & MCR_OUT2 ? MSR_DCD : 0));
	set_lines(s, lines);
}

/* 8.5. Without the enable bit the other bits mean nothing; changing it clears the FIFOs. */
static void write_fcr(struct serial *s, uint8_t v)
{
	static const uint8_t triggers[] = {1, 4, 8, 14};
	bool on = v & FCR_ENABLE;

	if (on != s->fifo_on || (on && (v & FCR_CLEAR_RX)))
		rx_clear(s);
	s->fifo_on = on;
	if (on)
		s->rx_trigger = triggers[v >> FCR_TRIGGER_SHIFT];
}

static void write_thr(struct serial *s, uint8_t v)
{
	if (!(s->mcr & MCR_LOOP)) {
		s->config.output(s->config.arg, v);
	} else if (s->rx_count < rx_capacity(s)) {
		rx_push(s, v);
	} else {
		/* 8.6.2: with FIFO the newest byte is lost, without the one in RBR. */
		s->overrun = true;
		if (!s->fifo_on)
			s->rx[s->rx_head] = v;
	}
	s->thre_pending = true;
}

static void write_reg(struct serial *s, unsigned reg, uint8_t v)
{
	bool dlab = s->lcr & LCR_DLAB;

	switch (reg) {
	case REG_DATA:
		if (dlab)
			s->divisor = (uint16_t)((s->divisor & 0xff00) | v);
		else
			write_thr(s, v);
		break;
	case REG_IER:
		if (dlab) {
			s->divisor = (uint16_t)((s->divisor & 0x00ff) | v << 8);
			break;
		}
		/* THR is empty, so enabling its interrupt makes it pending (8.6.3, as drivers test). */
		if ((v & IER_THRE) && !(s->ier & IER_THRE))
			s->thre_pending = true;
		s->ier = v & IER_ALL;
		break;
	case REG_IIR:
		write_fcr(s, v);
		break;
	case REG_LCR:
		s->lcr = v;
		break;
	case REG_MCR:
		write_mcr(s, v);
		break;
	case REG_SCR:
		s->scr = v;
		break;
	default: /* LSR and MSR are read-only here: factory tests write them, drivers do not */
		break;
	}
}

static uint8_t read_rbr(struct serial *s)
{
	uint8_t v;

	if (!s->rx_count)
		return 0;
	v = s->rx[s->rx_head];
	s->rx_head = (uint8_t)((s->rx_head + 1) % FIFO_BYTES);
	s->rx_count--;
	return v;
}

/* Reading IIR clears the THRE condition, but only when it is the one shown (table IV). */
static uint8_t read_iir(struct serial *s)
{
	uint8_t c = condition(s);

	if (c == IIR_THRE)
		s->thre_pending = false;
	return (uint8_t)(c | (s->fifo_on ? IIR_FIFO : 0));
}

static uint8_t read_reg(struct serial *s, unsigned reg)
{
	bool dlab = s->lcr & LCR_DLAB;
	uint8_t v;

	switch (reg) {
	case REG_DATA:
		return dlab ? (uint8_t)s->divisor : read_rbr(s);
	case REG_IER:
		return dlab ? (uint8_t)(s->divisor >> 8) : s->ier;
	case REG_IIR:
		return read_iir(s);
	case REG_LCR:
		return s->lcr;
	case REG_MCR:
		return s->mcr;
	case REG_LSR:
		v = (uint8_t)(LSR_THRE | LSR_TEMT | (s->rx_count ? LSR_DATA : 0) |
			      (s->overrun ? LSR_OVERRUN : 0));
		s->overrun = false;
		return v;
	case REG_MSR:
		v = s->msr;
		s->msr &= MSR_LINES;
		return v;
	case REG_SCR:
	default:
		return s->scr;
	}
}

/* Whether to tell the console that there is room: once per refusal, when the guest has emptied the FIFO. */
static bool take_room(struct serial *s)
{
	bool room = s->starved && s->rx_count == 0 && !(s->mcr & MCR_LOOP);

	if (room)
		s->starved = false;
	return room && s->config.input_room;
}

size_t serial_input(struct serial *s, const uint8_t *buf, size_t len)
{
	size_t n = 0;

	pthread_mutex_lock(&s->lock);
	if (!(s->mcr & MCR_LOOP))
		while (n < len && s->rx_count < rx_capacity(s))
			rx_push(s, buf[n++]);
	if (n < len)
		s->starved = true;
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
	return n;
}

void serial_reset(struct serial *s)
{
	bool starved;

	pthread_mutex_lock(&s->lock);
	starved = s->starved;
	registers_reset(s);
	pthread_mutex_unlock(&s->lock);
	/* Whoever was told to wait for room would wait for ever. */
	if (starved && s->config.input_room)
		s->config.input_room(s->config.arg);
}

/* Wider accesses are what the bus makes of them: one byte per register, in order. */
static void serial_read(void *dev, uint64_t offset, uint8_t *data, uint32_t len)
{
	struct serial *s = dev;
	bool room;

	pthread_mutex_lock(&s->lock);
	for (uint32_t i = 0; i < len; i++) {
		data[i] = read_reg(s, (unsigned)((offset + i) & 7));
		update_irq(s);
	}
	room = take_room(s);
	pthread_mutex_unlock(&s->lock);
	if (room)
		s->config.input_room(s->config.arg);
}

static void serial_write(void *dev, uint64_t offset, const uint8_t *data, uint32_t len)
{
	struct serial *s = dev;
	bool room;

	pthread_mutex_lock(&s->lock);
	for (uint32_t i = 0; i < len; i++) {
		write_reg(s, (unsigned)((offset + i) & 7), data[i]);
		update_irq(s);
	}
	room = take_room(s);
	pthread_mutex_unlock(&s->lock);
	if (room)
		s->config.input_room(s->config.arg);
}

const struct bus_ops serial_bus_ops = {.read = serial_read, .write = serial_write};
