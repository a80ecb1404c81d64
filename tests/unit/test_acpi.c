/* SPDX-License-Identifier: Apache-2.0 */
/* The tables hang together for every machine that can be configured; with a directory as argument, writes
 * them there as files for iasl (see acpi_iasl.py). */
#include "vmm/acpi.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/fs.h"
#include "tests/unit/test.h"
#include "vmm/acpi-dsdt.h"
#include "vmm/layout.h"

#define BASE ((uint64_t)LAYOUT_ACPI)
#define ROOM (LAYOUT_ACPI_END - LAYOUT_ACPI)

static uint8_t blob[ROOM];
static size_t blob_len;

static uint8_t sum(const uint8_t *p, size_t len)
{
	uint8_t s = 0;

	while (len--)
		s = (uint8_t)(s + *p++);
	return s;
}

/* The table at a guest address, after checking that it lies in the blob and sums to zero. */
static const uint8_t *table(uint64_t gpa, const char *signature, uint32_t *ret_len)
{
	const uint8_t *t = blob + (gpa - BASE);

	assert_true(gpa >= BASE + 36 && gpa - BASE < blob_len - 36);
	assert_int_equal(gpa % 16, 0);
	assert_memory_equal(t, signature, 4);
	*ret_len = load_le32(t + 4);
	assert_true(*ret_len <= blob_len - (size_t)(gpa - BASE));
	assert_int_equal(sum(t, *ret_len), 0);
	return t;
}

struct tables {
	const uint8_t *fadt, *madt, *dsdt;
	uint32_t fadt_len, madt_len, dsdt_len;
};

static struct tables build(unsigned cpus, unsigned devices)
{
	struct tables t = {0};
	const uint8_t *xsdt;
	uint32_t len;

	memset(blob, 0xcc, sizeof(blob)); /* nothing may depend on zeros */
	assert_int_equal(acpi_build(&(struct acpi_config){.cpus = cpus, .virtio_devices = devices}, BASE,
				    blob, sizeof(blob), &blob_len),
			 0);
	assert_memory_equal(blob, "RSD PTR ", 8);
	assert_int_equal(sum(blob, 20), 0);
	assert_int_equal(sum(blob, 36), 0);
	assert_int_equal(blob[15], 2);
	assert_int_equal(load_le32(blob + 20), 36);
	xsdt = table(load_le64(blob + 24), "XSDT", &len);
	assert_int_equal(len, 36 + 2 * 8);
	t.fadt = table(load_le64(xsdt + 36), "FACP", &t.fadt_len);
	t.madt = table(load_le64(xsdt + 44), "APIC", &t.madt_len);
	t.dsdt = table(load_le64(t.fadt + 140), "DSDT", &t.dsdt_len);
	return t;
}

TEST(every_machine)
{
	for (unsigned cpus = 1; cpus <= LAYOUT_VCPUS_MAX; cpus++) {
		for (unsigned devices = 0; devices <= LAYOUT_VIRTIO_MAX; devices++) {
			struct tables t = build(cpus, devices);
			const uint8_t *p = t.madt + 44;

			assert_int_equal(t.madt_len, 44 + cpus * 8 + 12);
			for (unsigned i = 0; i < cpus; i++, p += 8) {
				const uint8_t want[8] = {0, 8, (uint8_t)i, (uint8_t)i, 1, 0, 0, 0};

				assert_memory_equal(p, want, 8);
			}
			assert_int_equal(p[0], 1);
			assert_int_equal(load_le32(p + 4), LAYOUT_IOAPIC);
			assert_int_equal(load_le32(p + 8), 0);
			assert_int_equal(load_le32(t.madt + 40), 0); /* no 8259 */
		}
	}
	assert_true(blob_len < 4096); /* counts as copied at start */
}

TEST(fadt)
{
	struct tables t = build(1, 0);
	uint32_t flags = load_le32(t.fadt + 112);

	assert_int_equal(t.fadt_len, 276);
	assert_int_equal(t.fadt[8], 6);
	assert_true(flags & 1u << 20); /* hardware-reduced */
	assert_true(flags & 1u << 10); /* reset register */
	assert_int_equal(t.fadt[116], 0);
	assert_int_equal(load_le64(t.fadt + 120), LAYOUT_GED + LAYOUT_GED_RESET);
	assert_int_equal(t.fadt[128], LAYOUT_GED_RESET_VALUE);
	assert_int_equal(load_le64(t.fadt + 248), LAYOUT_GED + LAYOUT_GED_SLEEP_CONTROL);
	assert_int_equal(load_le64(t.fadt + 260), LAYOUT_GED + LAYOUT_GED_SLEEP_STATUS);
	assert_int_equal(load_le16(t.fadt + 109), 0x04); /* no VGA */
	assert_int_equal(t.fadt[108], 0x32);		 /* the clock's century */
	assert_true(flags & 1u << 6);			 /* it wakes nobody */
}

TEST(limits)
{
	struct acpi_config c = {.cpus = 0};
	size_t len = 77;
	size_t full;

	assert_int_equal(acpi_build(&c, BASE, blob, sizeof(blob), &len), -EINVAL);
	c.cpus = LAYOUT_VCPUS_MAX + 1;
	assert_int_equal(acpi_build(&c, BASE, blob, sizeof(blob), &len), -EINVAL);
	c = (struct acpi_config){.cpus = 1, .virtio_devices = LAYOUT_VIRTIO_MAX + 1};
	assert_int_equal(acpi_build(&c, BASE, blob, sizeof(blob), &len), -EINVAL);
	assert_int_equal(len, 77);
	/* Every buffer that is too short is refused and not overrun. */
	c = (struct acpi_config){.cpus = 3, .virtio_devices = 5};
	assert_int_equal(acpi_build(&c, BASE, blob, sizeof(blob), &full), 0);
	for (size_t n = 0; n < full; n++) {
		memset(blob, 0xcc, sizeof(blob));
		assert_int_equal(acpi_build(&c, BASE, blob, n, &len), -ENOSPC);
		for (size_t i = n; i < full; i++)
			assert_int_equal(blob[i], 0xcc);
	}
	assert_int_equal(acpi_build(&c, BASE, blob, full, &len), 0);
	assert_int_equal(len, full);
}

/* Byte strings from the examples of ACPI 6.5: 20.2.2 (names), 20.2.4 (PkgLength), 19.3.4 (EISA ids). */
TEST(aml)
{
	uint8_t buf[8192];
	struct aml a = {.buf = buf, .cap = sizeof(buf)};
	aml_mark_t m;

	aml_path(&a, "\\_SB");
	aml_path(&a, "^^A.BC");
	aml_path(&a, "A.B.C1");
	assert_memory_equal(buf, "\\_SB_^^.A___BC__/\003A___B___C1__", 5 + 11 + 14);
	assert_int_equal(a.len, 30);
	a.len = 0;
	aml_eisa_id(&a, "PNP0501");
	assert_memory_equal(buf, "\x0c\x41\xd0\x05\x01", 5);
	a.len = 0;
	aml_integer(&a, 0);
	aml_integer(&a, 1);
	aml_integer(&a, 2);
	aml_integer(&a, 0x100);
	aml_integer(&a, 0x12345678);
	aml_integer(&a, (uint64_t)1 << 32);
	assert_memory_equal(
		buf, "\x00\x01\x0a\x02\x0b\x00\x01\x0c\x78\x56\x34\x12\x0e\x00\x00\x00\x00\x01\x00\x00", 20);
	assert_false(a.error);

	/* PkgLength counts itself: the sizes around each step of its encoding. */
	static const struct {
		size_t body, bytes;
	} steps[] = {{2, 1}, {62, 1}, {63, 2}, {64, 2}, {4093, 2}, {4094, 3}, {5000, 3}};

	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		static const uint8_t zeros[5000];
		size_t total, got;

		a.len = 0;
		m = aml_if(&a);
		aml_bytes(&a, zeros, steps[i].body);
		aml_close(&a, m);
		assert_false(a.error);
		total = steps[i].body + steps[i].bytes;
		assert_int_equal(a.len, 1 + total);
		assert_int_equal(buf[1] >> 6, steps[i].bytes - 1);
		got = steps[i].bytes == 1 ? buf[1] & 0x3f : buf[1] & 0x0f;
		for (size_t j = 1; j < steps[i].bytes; j++)
			got |= (size_t)buf[1 + j] << (4 + 8 * (j - 1));
		assert_int_equal(got, total);
	}
}

TEST(aml_errors)
{
	static const char *const bad[] = {"", "ABCDE", "a", "1A", "A..B", "A.", "\\", "A.B.C.D.E.F.G.H.I"};
	uint8_t buf[64];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct aml a = {.buf = buf, .cap = sizeof(buf)};

		aml_path(&a, bad[i]);
		assert_true(a.error);
		a.error = false;
	}
	struct aml a = {.buf = buf, .cap = sizeof(buf)};

	aml_eisa_id(&a, "PNP05");
	assert_true(a.error);
}

static int dump(const char *dir, const char *name, unsigned n, const uint8_t *p, size_t len)
{
	char path[4096];
	auto_file f = NULL;

	snprintf(path, sizeof(path), "%s/%s%02u.dat", dir, name, n);
	f = fopen(path, "wb");
	return f && fwrite(p, 1, len, f) == len && fflush(f) == 0 ? 0 : 1;
}

/* What differs: the MADT with the CPUs, the DSDT with the devices. */
static int dump_all(const char *dir)
{
	int failed = 0;
	struct tables t;

	for (unsigned cpus = 1; cpus <= LAYOUT_VCPUS_MAX; cpus++) {
		t = build(cpus, 0);
		failed |= dump(dir, "madt", cpus, t.madt, t.madt_len);
	}
	for (unsigned devices = 0; devices <= LAYOUT_VIRTIO_MAX; devices++) {
		t = build(1, devices);
		failed |= dump(dir, "dsdt", devices, t.dsdt, t.dsdt_len);
	}
	return failed | dump(dir, "fadt", 0, t.fadt, t.fadt_len);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_machine), cmocka_unit_test(fadt),       cmocka_unit_test(limits),
		cmocka_unit_test(aml),		 cmocka_unit_test(aml_errors),
	};

	if (argc == 2)
		return dump_all(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
