/* SPDX-License-Identifier: Apache-2.0 */
/* The UART as drivers see it: what they probe, when it interrupts, and that no byte is lost or reordered. */
#include "vmm/serial.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/eventfd.h>

#include "tests/unit/test.h"

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR };
#define FCR  IIR
#define DLAB 0x80

struct fixture {
	struct serial *s;
	int irq;
	uint8_t out[8192];
	size_t out_len;
	unsigned rooms;
};

static void on_output(void *arg, uint8_t byte)
{
	struct fixture *f = arg;

	assert_true(f->out_len < sizeof(f->out));
	f->out[f->out_len++] = byte;
}

static void on_room(void *arg)
{
	struct fixture *f = arg;

	f->rooms++;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->irq = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	assert_true(f->irq >= 0);
	assert_int_equal(serial_new(&(struct serial_config){.irq = {.fd = f->irq, .gsi = 4},
							    .output = on_output,
							    .input_room = on_room,
							    .arg = f},
				    &f->s),
			 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	serial_free(f->s);
	close(f->irq);
	free(f);
	return 0;
}

static uint8_t in(struct fixture *f, unsigned reg)
{
	uint8_t v = 0xee;

	serial_bus_ops.read(f->s, reg, &v, 1);
	return v;
}

static void out(struct fixture *f, unsigned reg, uint8_t v)
{
	serial_bus_ops.write(f->s, reg, &v, 1);
}

/* Edges since the last call. */
static uint64_t edges(struct fixture *f)
{
	uint64_t n;

	return read(f->irq, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

TEST(reset_state)
{
	struct fixture *f = *state;

	assert_int_equal(in(f, IER), 0);
	assert_int_equal(in(f, IIR), 0x01);
	assert_int_equal(in(f, LCR), 0);
	assert_int_equal(in(f, MCR), 0);
	assert_int_equal(in(f, LSR), 0x60);
	assert_int_equal(in(f, MSR), 0xb0);
	out(f, SCR, 0xa5);
	assert_int_equal(in(f, SCR), 0xa5);
	assert_int_equal(edges(f), 0);
}

TEST(divisor_latch)
{
	struct fixture *f = *state;

	out(f, LCR, DLAB | 3);
	assert_int_equal(in(f, DATA), 12);
	out(f, DATA, 0x34);
	out(f, IER, 0x12);
	assert_int_equal(in(f, DATA), 0x34);
	assert_int_equal(in(f, IER), 0x12);
	out(f, LCR, 3);
	assert_int_equal(in(f, IER), 0);
	assert_int_equal(f->out_len, 0);
}

/* The steps by which Linux tells a 16550A from its ancestors and successors (serial/8250 autoconfig). */
TEST(linux_autoconfig)
{
	struct fixture *f = *state;
	uint8_t mcr;

	out(f, IER, 0);
	assert_int_equal(in(f, IER) & 0x0f, 0);
	out(f, IER, 0xff);
	assert_int_equal(in(f, IER), 0x0f); /* bits above 3 would mean another chip */
	out(f, IER, 0);
	mcr = in(f, MCR);
	out(f, MCR, 0x10 | 0x08 | 0x02); /* LOOP OUT2 RTS */
	assert_int_equal(in(f, MSR) & 0xf0, 0x80 | 0x10);
	out(f, MCR, mcr);
	out(f, FCR, 0x01);
	assert_int_equal(in(f, IIR) & 0xc0, 0xc0);
	out(f, LCR, DLAB);
	assert_int_not_equal(in(f, 2), 0); /* no EFR here */
	out(f, LCR, 0);
	out(f, FCR, 0x21);
	assert_int_equal(in(f, IIR) & 0xe0, 0xc0); /* no 64-byte FIFO */
	out(f, FCR, 0);
	assert_int_equal(in(f, IIR) & 0xc0, 0);
}

TEST(transmits_in_order)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 256; i++) {
		assert_int_equal(in(f, LSR) & 0x60, 0x60);
		out(f, DATA, (uint8_t)i);
	}
	assert_int_equal(f->out_len, 256);
	for (unsigned i = 0; i < 256; i++)
		assert_int_equal(f->out[i], i);
	assert_int_equal(edges(f), 0);
}

/* Linux enables the interrupt twice in a row and expects it both times, else it works around a broken chip. */
TEST(thre_follows_enable)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 2; i++) {
		out(f, IER, 0x02);
		assert_int_equal(edges(f), 1);
		assert_int_equal(in(f, IIR), 0x02);
		assert_int_equal(in(f, IIR), 0x01); /* reading cleared it */
		out(f, IER, 0);
	}
	assert_int_equal(edges(f), 0);
	out(f, IER, 0x02);
	out(f, IER, 0x02); /* still enabled: nothing new */
	assert_int_equal(edges(f), 1);
}

TEST(thre_follows_write)
{
	struct fixture *f = *state;

	out(f, IER, 0x02);
	assert_int_equal(in(f, IIR), 0x02);
	edges(f);
	for (unsigned i = 0; i < 16; i++)
		out(f, DATA, 'x');
	assert_int_equal(edges(f), 1); /* a burst is one edge */
	assert_int_equal(in(f, IIR), 0x02);
	out(f, DATA, 'y');
	assert_int_equal(edges(f), 1);
}

TEST(receives_with_fifo)
{
	struct fixture *f = *state;
	static const uint8_t text[] = "0123456789abcdefXYZ";

	out(f, FCR, 0x81); /* trigger level 8 */
	out(f, IER, 0x01);
	assert_int_equal(serial_input(f->s, text, 3), 3);
	assert_int_equal(edges(f), 1);
	assert_int_equal(in(f, IIR), 0xcc); /* below the trigger: timeout */
	assert_int_equal(serial_input(f->s, text + 3, 5), 5);
	assert_int_equal(in(f, IIR), 0xc4);
	assert_int_equal(edges(f), 0); /* the level stayed high */
	assert_int_equal(serial_input(f->s, text + 8, 11), 8);
	assert_int_equal(serial_input(f->s, text + 16, 3), 0);
	for (unsigned i = 0; i < 16; i++) {
		assert_int_equal(f->rooms, 0);
		assert_int_equal(in(f, LSR), 0x61);
		assert_int_equal(in(f, DATA), text[i]);
	}
	assert_int_equal(in(f, LSR), 0x60);
	assert_int_equal(in(f, IIR), 0xc1);
	assert_int_equal(f->rooms, 1);
	assert_int_equal(in(f, DATA), 0);
	assert_int_equal(f->rooms, 1);
	assert_int_equal(serial_input(f->s, text + 16, 3), 3);
	assert_int_equal(edges(f), 1);
	assert_int_equal(in(f, DATA), 'X');
	out(f, FCR, 0x83); /* clear the FIFO */
	assert_int_equal(in(f, LSR), 0x60);
	assert_int_equal(f->rooms, 1); /* nothing was refused */
}

TEST(receives_without_fifo)
{
	struct fixture *f = *state;

	assert_int_equal(serial_input(f->s, (const uint8_t *)"ab", 2), 1);
	assert_int_equal(edges(f), 0);
	out(f, IER, 0x01); /* late enable: announced all the same */
	assert_int_equal(edges(f), 1);
	assert_int_equal(in(f, IIR), 0x04);
	assert_int_equal(in(f, DATA), 'a');
	assert_int_equal(f->rooms, 1);
}

/* A driver that looked at one condition only gets another edge for the one that is left. */
TEST(second_condition_is_announced)
{
	struct fixture *f = *state;

	out(f, FCR, 0x01);
	out(f, IER, 0x03);
	assert_int_equal(edges(f), 1); /* THRE */
	assert_int_equal(serial_input(f->s, (const uint8_t *)"a", 1), 1);
	assert_int_equal(edges(f), 1);
	assert_int_equal(in(f, IIR), 0xc4); /* receive before transmit; THRE is not cleared by this read */
	assert_int_equal(edges(f), 0);
	assert_int_equal(in(f, DATA), 'a');
	assert_int_equal(edges(f), 1); /* THRE is left */
	assert_int_equal(in(f, IIR), 0xc2);
	assert_int_equal(in(f, IIR), 0xc1);
	assert_int_equal(edges(f), 0);
}

TEST(loopback)
{
	struct fixture *f = *state;

	out(f, FCR, 0x01);
	in(f, MSR);
	out(f, MCR, 0x10);
	assert_int_equal(serial_input(f->s, (const uint8_t *)"no", 2), 0); /* the line is not connected */
	assert_int_equal(in(f, MSR), 0x0b);				   /* CTS DSR DCD fell */
	assert_int_equal(in(f, MSR), 0x00);
	out(f, MCR, 0x10 | 0x04);
	assert_int_equal(in(f, MSR), 0x40); /* RI rose: no delta */
	out(f, MCR, 0x10);
	assert_int_equal(in(f, MSR), 0x04); /* and fell: TERI */
	for (unsigned i = 0; i < 16; i++)
		out(f, DATA, (uint8_t)('A' + i));
	assert_int_equal(in(f, LSR), 0x61);
	out(f, IER, 0x04);
	out(f, DATA, 'Z');
	assert_int_equal(edges(f), 1);
	assert_int_equal(in(f, IIR), 0xc6);
	assert_int_equal(in(f, LSR), 0x63); /* overrun, once */
	assert_int_equal(in(f, LSR), 0x61);
	assert_int_equal(in(f, IIR), 0xc1);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(in(f, DATA), 'A' + i);
	assert_int_equal(f->out_len, 0);
	assert_int_equal(f->rooms, 0);
	out(f, MCR, 0x0b);
	assert_int_equal(f->rooms, 1); /* the line is connected again */
	out(f, MCR, 0x0b);
	assert_int_equal(f->rooms, 1);
	assert_int_equal(in(f, MSR), 0xbb);
}

TEST(modem_interrupt)
{
	struct fixture *f = *state;

	out(f, IER, 0x08);
	assert_int_equal(edges(f), 0);
	out(f, MCR, 0x10);
	assert_int_equal(edges(f), 1);
	assert_int_equal(in(f, IIR), 0x00);
	in(f, MSR);
	assert_int_equal(in(f, IIR), 0x01);
}

TEST(wide_access)
{
	struct fixture *f = *state;
	uint8_t data[4] = {0x5a, 0x0b, 0, 0};

	serial_bus_ops.write(f->s, LCR, data + 1, 2); /* LCR = 0x0b, MCR = 0 */
	assert_int_equal(in(f, LCR), 0x0b);
	serial_bus_ops.read(f->s, LCR, data, 4);
	assert_int_equal(data[0], 0x0b);
	assert_int_equal(data[2], 0x60);
	assert_int_equal(data[3], 0xb0);
}

/* A driver on an edge-triggered line, as Linux's: on each edge it loops until IIR shows nothing. Input and
 * output at once from two threads; if an edge were missing, the driver would wait for its deadline. */
#define TRAFFIC 4000

static void *pusher(void *arg)
{
	struct fixture *f = arg;
	struct timespec tick = {.tv_nsec = 20000};

	for (unsigned i = 0; i < TRAFFIC;) {
		uint8_t b = (uint8_t)(i * 7);

		if (serial_input(f->s, &b, 1))
			i++;
		else
			nanosleep(&tick, NULL);
	}
	return NULL;
}

TEST(edge_driver_never_stalls)
{
	struct fixture *f = *state;
	unsigned received = 0, sent = 0;
	pthread_t thread;

	out(f, FCR, 0x81);
	out(f, IER, 0x03);
	assert_int_equal(pthread_create(&thread, NULL, pusher, f), 0);
	while (received < TRAFFIC || sent < TRAFFIC) {
		struct pollfd p = {.fd = f->irq, .events = POLLIN};
		uint8_t iir;

		assert_int_equal(poll(&p, 1, 20000), 1);
		assert_true(edges(f) > 0);
		while (!((iir = in(f, IIR)) & 1)) {
			if ((iir & 0x0f) == 0x02) {
				if (sent < TRAFFIC)
					out(f, DATA, (uint8_t)sent++);
				continue;
			}
			while (in(f, LSR) & 1)
				assert_int_equal(in(f, DATA), (uint8_t)(received++ * 7));
		}
	}
	pthread_join(thread, NULL);
	assert_int_equal(f->out_len, TRAFFIC);
	for (unsigned i = 0; i < TRAFFIC; i++)
		assert_int_equal(f->out[i], (uint8_t)i);
}

TEST(reset_by_the_machine)
{
	struct fixture *f = *state;
	uint8_t typed[20] = {0};

	out(f, LCR, DLAB | 3);
	out(f, DATA, 1);
	out(f, LCR, 3);
	out(f, SCR, 0x5a);
	out(f, FCR, 0x01);
	out(f, MCR, 0x0b);
	out(f, IER, 0x0f);
	assert_int_equal(serial_input(f->s, typed, sizeof(typed)), 16);
	edges(f);
	serial_reset(f->s);
	assert_int_equal(f->rooms, 1); /* the rest would wait for ever */
	assert_int_equal(in(f, SCR), 0);
	reset_state(state);
	out(f, LCR, DLAB);
	assert_int_equal(in(f, DATA), 12);
	serial_reset(f->s);
	assert_int_equal(f->rooms, 1);
	assert_int_equal(serial_input(f->s, typed, sizeof(typed)), 1); /* no FIFO */
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(reset_state),
		T(divisor_latch),
		T(linux_autoconfig),
		T(transmits_in_order),
		T(thre_follows_enable),
		T(thre_follows_write),
		T(receives_with_fifo),
		T(receives_without_fifo),
		T(second_condition_is_announced),
		T(loopback),
		T(modem_interrupt),
		T(wide_access),
		T(edge_driver_never_stalls),
		T(reset_by_the_machine),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
