/* SPDX-License-Identifier: Apache-2.0 */
/* The transport: a driver gets exactly as far as the states allow, and only a reset brings a broken device
 * back. */
#include "vmm/virtio-mmio.h"

#include <string.h>

#include "tests/unit/test.h"
#include "tests/unit/virtio_driver.h"

#define FEATURE_A ((uint64_t)1 << 3)
#define FEATURE_B ((uint64_t)1 << 40)

/* A device that records what it is asked, and echoes chains of queue 0. */
struct probe {
	struct virtio_mmio *mmio;
	uint8_t config[16];
	uint64_t features;
	unsigned activated, notified[2], drained, resets;
};

static uint64_t probe_features(void *dev)
{
	(void)dev;
	return FEATURE_A | FEATURE_B;
}

static void probe_config_write(void *dev, uint32_t offset, const uint8_t *data, uint32_t len)
{
	struct probe *p = dev;

	memcpy(p->config + offset, data, len);
}

static void probe_activate(void *dev, uint64_t features)
{
	struct probe *p = dev;

	p->activated++;
	p->features = features;
}

static void probe_notify(void *dev, unsigned queue)
{
	struct probe *p = dev;
	struct virtqueue *vq = virtio_mmio_queue(p->mmio, queue);
	struct iovec iov[16];
	struct virtqueue_chain chain;
	int r;

	p->notified[queue]++;
	while ((r = virtqueue_pop(vq, iov, 16, &chain)) > 0)
		virtqueue_push(vq, chain.head, 1);
	if (r < 0)
		virtio_mmio_break(p->mmio, vq->broken);
	virtio_mmio_signal(p->mmio, queue);
}

static void probe_drain(void *dev)
{
	((struct probe *)dev)->drained++;
}

static void probe_reset(void *dev)
{
	((struct probe *)dev)->resets++;
}

static const struct virtio_device_ops probe_ops = {
	.name = "probe",
	.device_id = 42,
	.queue_count = 2,
	.queue_size_max = {16, 8},
	.features = probe_features,
	.config_offset = offsetof(struct probe, config),
	.config_bytes = sizeof(((struct probe *)0)->config),
	.config_write = probe_config_write,
	.activate = probe_activate,
	.queue_notify = probe_notify,
	.drain = probe_drain,
	.reset = probe_reset,
};

struct fixture {
	struct driver d;
	struct probe probe;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	assert_int_equal(driver_init(&f->d), 0);
	assert_int_equal(
		virtio_mmio_new(&probe_ops, &f->probe, f->d.mem, f->d.loop, &f->d.irq, &f->probe.mmio), 0);
	f->d.mmio = f->probe.mmio;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	virtio_mmio_free(f->probe.mmio);
	driver_done(&f->d);
	free(f);
	return 0;
}

static struct virtio_counters counters(struct fixture *f)
{
	struct virtio_counters c;

	virtio_mmio_counters(f->d.mmio, &c);
	return c;
}

static void identity(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(driver_read(&f->d, 0x000), 0x74726976);
	assert_int_equal(driver_read(&f->d, 0x004), 2);
	assert_int_equal(driver_read(&f->d, 0x008), 42);
	assert_int_equal(driver_read(&f->d, REG_STAT), 0);
	assert_int_equal(driver_read(&f->d, 0x0b0), UINT32_MAX); /* no shared memory */
	for (uint32_t queue = 0; queue < 4; queue++) {
		driver_write(&f->d, REG_QSEL, queue);
		assert_int_equal(driver_read(&f->d, REG_QNUM_MAX), queue == 0 ? 16 : queue == 1 ? 8 : 0);
		assert_int_equal(driver_read(&f->d, REG_QREADY), 0);
	}
	assert_int_equal(virtio_mmio_queue_count(f->d.mmio), 2);
	assert_true(virtio_mmio_queue_fd(f->d.mmio, 1) >= 0);
	assert_int_equal(virtio_mmio_queue_fd(f->d.mmio, 2), -1);
	assert_string_equal(virtio_mmio_name(f->d.mmio), "probe");
}

static uint64_t offered(struct fixture *f)
{
	uint64_t features = 0;

	for (uint32_t half = 0; half < 4; half++) {
		driver_write(&f->d, REG_FEATURES_SEL, half);
		if (half < 2)
			features |= (uint64_t)driver_read(&f->d, REG_FEATURES) << (32 * half);
		else
			assert_int_equal(driver_read(&f->d, REG_FEATURES), 0);
	}
	return features;
}

static void negotiation(void **state)
{
	struct fixture *f = *state;
	const uint64_t ring = VIRTIO_FEATURE_EVENT_IDX | VIRTIO_FEATURE_INDIRECT_DESC;

	assert_int_equal(offered(f), FEATURE_A | FEATURE_B | ring | VIRTIO_FEATURE_VERSION_1);
	assert_true(driver_start(&f->d, FEATURE_B | ring, 8));
	assert_int_equal(f->probe.features, FEATURE_B | ring | VIRTIO_FEATURE_VERSION_1);
	assert_int_equal(f->probe.activated, 1);
	assert_true(virtio_mmio_queue(f->d.mmio, 0)->event_idx);
	assert_false(driver_negotiate(&f->d, (uint64_t)1 << 4)); /* not offered */
	assert_false(driver_negotiate(&f->d, (uint64_t)1 << 63));
	assert_true(driver_start(&f->d, 0, 8));
	assert_false(virtio_mmio_queue(f->d.mmio, 0)->event_idx);
	/* Without VERSION_1. */
	driver_write(&f->d, REG_STAT, 0);
	driver_write(&f->d, REG_STAT, 1);
	driver_write(&f->d, REG_STAT, 3);
	driver_write(&f->d, REG_STAT, 11);
	assert_int_equal(driver_read(&f->d, REG_STAT), 3);
	/* Features do not change once they are settled. */
	assert_true(driver_negotiate(&f->d, 0));
	driver_write(&f->d, REG_DRIVER_SEL, 0);
	driver_write(&f->d, REG_DRIVER_FEAT, (uint32_t)FEATURE_A);
	driver_write(&f->d, REG_STAT, STATUS_UP);
	assert_int_equal(f->probe.features, VIRTIO_FEATURE_VERSION_1);
}

/* Each row: writes to Status after a reset, and what it reads as after. */
static const struct status_row {
	const char *what;
	uint32_t writes[3];
	unsigned count;
	uint32_t status;
} status_rows[] = {
	{"acknowledge", {1}, 1, 1},
	{"driver at once with it", {3}, 1, 3},
	{"driver alone", {2}, 1, 0},
	{"driver up alone", {4}, 1, 0},
	{"features alone", {8}, 1, 0},
	{"up without features", {1, 3, 7}, 3, 3},
	{"bits are not taken back", {1, 3, 2}, 3, 3},
	{"failed", {1, 128}, 2, 129},
	{"nothing after failed", {1, 128, 131}, 3, 129},
	{"needs-reset is not the driver's", {1, 65}, 2, 1},
	{"unknown bits", {1, 3, 0x113}, 3, 3},
	{"high bits", {0xffffff00}, 1, 0},
	{"reset", {1, 3, 0}, 3, 0},
};

static void status_moves(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(status_rows); i++) {
		const struct status_row *row = &status_rows[i];

		driver_write(&f->d, REG_STAT, 0);
		for (unsigned w = 0; w < row->count; w++)
			driver_write(&f->d, REG_STAT, row->writes[w]);
		if (driver_read(&f->d, REG_STAT) != row->status)
			fail_msg("%s: %u", row->what, driver_read(&f->d, REG_STAT));
	}
	assert_int_equal(f->probe.activated, 0);
}

static void queues_are_set_up_in_their_state(void **state)
{
	struct fixture *f = *state;

	driver_write(&f->d, REG_STAT, 0);
	assert_false(driver_queue_setup(&f->d, 0, 8)); /* too early */
	assert_int_equal(virtio_mmio_queue(f->d.mmio, 0)->size, 0);
	assert_true(counters(f).ignored > 0);
	assert_true(driver_negotiate(&f->d, 0));
	assert_true(driver_queue_setup(&f->d, 0, 8));
	driver_write(&f->d, REG_QNUM, 4); /* is enabled */
	assert_int_equal(virtio_mmio_queue(f->d.mmio, 0)->size, 8);
	driver_write(&f->d, REG_STAT, STATUS_UP);
	assert_false(driver_queue_setup(&f->d, 1, 8)); /* too late */
	driver_write(&f->d, REG_QSEL, 7);
	driver_write(&f->d, REG_QNUM, 4); /* nobody's */
	assert_int_equal(driver_read(&f->d, REG_STAT), STATUS_UP);
}

static void bad_queues_break(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_negotiate(&f->d, 0));
	assert_false(driver_queue_setup(&f->d, 1, 16)); /* its maximum is 8 */
	assert_true(driver_read(&f->d, REG_STAT) & VIRTIO_STATUS_NEEDS_RESET);
	assert_int_equal(driver_interrupts(&f->d), 0); /* no driver up to be told */
	assert_int_equal(counters(f).hostile, 1);
	assert_non_null(virtio_mmio_broken(f->d.mmio));
	driver_write(&f->d, REG_STAT, STATUS_UP);
	assert_int_equal(f->probe.activated, 0);
	assert_true(driver_start(&f->d, 0, 8));
	assert_null(virtio_mmio_broken(f->d.mmio));
}

static void kicks_and_interrupts(void **state)
{
	struct fixture *f = *state;
	struct driver_queue *q = &f->d.queues[0];
	uint64_t one = 1;

	driver_kick(&f->d, 0); /* before the driver is up */
	driver_loop(&f->d);
	assert_int_equal(f->probe.notified[0], 0);
	assert_true(driver_start(&f->d, 0, 8));
	driver_loop(&f->d);
	assert_int_equal(f->probe.notified[0], 1); /* what came early is looked at once */
	driver_interrupts(&f->d);
	driver_desc(q, 0, DRIVER_DATA, 4, VIRTQ_DESC_F_WRITE, 0);
	driver_send(&f->d, 0, 0);
	assert_true(driver_wait(&f->d, 0, 1));
	assert_int_equal(driver_interrupts(&f->d), 1);
	assert_int_equal(driver_read(&f->d, REG_ISR), 1);
	driver_write(&f->d, REG_ACK, 2);
	assert_int_equal(driver_read(&f->d, REG_ISR), 1);
	driver_write(&f->d, REG_ACK, 1);
	assert_int_equal(driver_read(&f->d, REG_ISR), 0);
	/* The same by the eventfd, as KVM does it. */
	driver_take(q, NULL);
	driver_offer(q, 0);
	assert_int_equal(write(virtio_mmio_queue_fd(f->d.mmio, 0), &one, sizeof(one)), sizeof(one));
	assert_true(driver_wait(&f->d, 0, 1));
	assert_int_equal(counters(f).interrupts, 2);
	assert_true(counters(f).kicks >= 4);
	driver_write(&f->d, REG_NOTIFY, 2); /* no such queue */
	driver_write(&f->d, REG_NOTIFY, UINT32_MAX);
	assert_int_equal(counters(f).ignored, 2);
}

static void resets(void **state)
{
	struct fixture *f = *state;
	unsigned drained;

	assert_true(driver_start(&f->d, FEATURE_A, 8));
	driver_desc(&f->d.queues[0], 0, DRIVER_DATA, 4, VIRTQ_DESC_F_WRITE, 0);
	driver_send(&f->d, 0, 0);
	assert_true(driver_wait(&f->d, 0, 1));
	assert_int_equal(driver_read(&f->d, REG_ISR), 1);
	drained = f->probe.drained;
	driver_write(&f->d, REG_QSEL, 0);
	driver_write(&f->d, REG_STAT, 0);
	assert_int_equal(f->probe.drained, drained + 1);
	assert_int_equal(driver_read(&f->d, REG_STAT), 0);
	assert_int_equal(driver_read(&f->d, REG_ISR), 0);
	assert_int_equal(driver_read(&f->d, REG_QREADY), 0);
	driver_write(&f->d, REG_QREADY, 0); /* as Linux does after a reset */
	assert_int_equal(driver_read(&f->d, REG_STAT), 0);
	driver_send(&f->d, 0, 0);
	driver_loop(&f->d);
	assert_int_equal(le16_get(&f->d.queues[0].used->idx), 1);
	assert_true(driver_start(&f->d, 0, 8));
	assert_int_equal(f->probe.features, VIRTIO_FEATURE_VERSION_1);
}

static void broken_until_reset(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->d, 0, 8));
	driver_loop(&f->d);
	driver_interrupts(&f->d);
	driver_send(&f->d, 0, 9); /* head out of range */
	driver_loop(&f->d);
	assert_int_equal(driver_read(&f->d, REG_STAT), STATUS_UP | VIRTIO_STATUS_NEEDS_RESET);
	assert_int_equal(driver_read(&f->d, REG_ISR), 2);
	assert_int_equal(driver_interrupts(&f->d), 1);
	/* The other queue stands still too. */
	f->probe.notified[1] = 0;
	driver_send(&f->d, 1, 0);
	driver_loop(&f->d);
	assert_int_equal(f->probe.notified[1], 0);
	driver_write(&f->d, REG_STAT, STATUS_UP);
	driver_write(&f->d, REG_CONFIG + 16, 1);
	assert_int_equal(counters(f).hostile, 1); /* once */
	assert_true(driver_read(&f->d, REG_STAT) & VIRTIO_STATUS_NEEDS_RESET);
	assert_true(driver_start(&f->d, 0, 8));
	driver_desc(&f->d.queues[0], 0, DRIVER_DATA, 4, VIRTQ_DESC_F_WRITE, 0);
	driver_send(&f->d, 0, 0);
	assert_true(driver_wait(&f->d, 0, 1));
}

static void config_space(void **state)
{
	struct fixture *f = *state;
	uint8_t data[8] = {1, 2, 3, 4, 5, 6, 7, 8};
	uint32_t generation = driver_read(&f->d, REG_GENERATION);

	for (uint32_t len = 1; len <= 8; len *= 2) {
		uint8_t back[8] = {0};

		virtio_mmio_bus_ops.write(f->d.mmio, REG_CONFIG + 3, data, len);
		virtio_mmio_bus_ops.read(f->d.mmio, REG_CONFIG + 3, back, len);
		assert_memory_equal(data, back, len);
	}
	virtio_mmio_bus_ops.read(f->d.mmio, 0xff8, data, 8); /* beyond the device's own */
	assert_memory_equal(data, "\0\0\0\0\0\0\0", 8);
	/* What lies behind it in the device is not the guest's to read, neither from its end on nor across it. */
	f->probe.features = UINT64_MAX;
	for (uint32_t at = sizeof(f->probe.config) - 4; at < 64; at += 4) {
		memset(data, 0xff, sizeof(data));
		virtio_mmio_bus_ops.read(f->d.mmio, REG_CONFIG + at, data, 8);
		assert_memory_equal(data + (at < sizeof(f->probe.config) ? 4 : 0), "\0\0\0\0\0\0\0",
				    at < sizeof(f->probe.config) ? 4 : 8);
	}
	memset(data, 1, sizeof(data));
	virtio_mmio_lock(f->d.mmio);
	virtio_mmio_config_changed(f->d.mmio);
	virtio_mmio_unlock(f->d.mmio);
	assert_int_not_equal(driver_read(&f->d, REG_GENERATION), generation);
	assert_int_equal(driver_interrupts(&f->d), 0);
	virtio_mmio_bus_ops.write(f->d.mmio, REG_CONFIG + 12, data, 8); /* across the end */
	assert_true(driver_read(&f->d, REG_STAT) & VIRTIO_STATUS_NEEDS_RESET);
}

static void odd_accesses(void **state)
{
	struct fixture *f = *state;
	static const struct {
		uint64_t offset;
		uint32_t len;
	} rows[] = {{0, 1}, {0, 2}, {0, 8}, {2, 4}, {1, 1}, {REG_STAT, 1}, {0xfe, 4}, {0xfc, 8}};
	uint8_t data[8];

	assert_true(driver_start(&f->d, 0, 8));
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		uint64_t before = counters(f).ignored;

		memset(data, 0xff, sizeof(data));
		virtio_mmio_bus_ops.read(f->d.mmio, rows[i].offset, data, rows[i].len);
		assert_int_equal(data[0], 0);
		memset(data, 0, sizeof(data));
		virtio_mmio_bus_ops.write(f->d.mmio, rows[i].offset, data, rows[i].len);
		assert_int_equal(counters(f).ignored, before + 1);
	}
	assert_int_equal(driver_read(&f->d, REG_STAT), STATUS_UP);
}

/* All registers with all kinds of values, in every state: nothing but defined states comes out. */
static void any_write_anywhere(void **state)
{
	static const uint32_t values[] = {0, 1, 2, 3, 8, 11, 15, 64, 128, 255, 0x10000, UINT32_MAX};
	struct fixture *f = *state;

	for (uint32_t round = 0; round < 3; round++) {
		for (uint32_t reg = 0; reg < 0x120; reg += 4) {
			for (size_t v = 0; v < ARRAY_SIZE(values); v++) {
				uint32_t status;

				if (round == 1)
					assert_true(driver_negotiate(&f->d, 0));
				else if (round == 2)
					assert_true(driver_start(&f->d, 0, 8));
				driver_write(&f->d, reg, values[v]);
				driver_loop(&f->d);
				status = driver_read(&f->d, REG_STAT);
				assert_int_equal(status & ~(STATUS_UP | VIRTIO_STATUS_NEEDS_RESET |
							    VIRTIO_STATUS_FAILED),
						 0);
				if (status & VIRTIO_STATUS_DRIVER_OK)
					assert_true(status & VIRTIO_STATUS_FEATURES_OK);
			}
		}
	}
}

/* The machine's reset is as the driver's, but nobody's count. */
static void reset_by_the_machine(void **state)
{
	struct fixture *f = *state;
	uint64_t before;

	assert_true(driver_start(&f->d, 0, 8));
	driver_write(&f->d, REG_QSEL, 1);
	before = counters(f).resets;
	virtio_mmio_reset(f->d.mmio);
	assert_int_equal(counters(f).resets, before);
	assert_int_equal(driver_read(&f->d, REG_STAT), 0);
	assert_int_equal(driver_read(&f->d, REG_QREADY), 0);
	assert_int_equal(driver_read(&f->d, REG_ISR), 0);
	assert_false(virtio_mmio_queue(f->d.mmio, 0)->enabled);
	virtio_mmio_break(f->d.mmio, "broken");
	virtio_mmio_reset(f->d.mmio);
	assert_null(virtio_mmio_broken(f->d.mmio));
	assert_true(driver_start(&f->d, 0, 8));
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(identity),
		T(negotiation),
		T(status_moves),
		T(queues_are_set_up_in_their_state),
		T(bad_queues_break),
		T(kicks_and_interrupts),
		T(resets),
		T(broken_until_reset),
		T(config_space),
		T(odd_accesses),
		T(any_write_anywhere),
		T(reset_by_the_machine),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
