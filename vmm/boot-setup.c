/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Places kernel, initrd, command line and boot structures in guest RAM.
 *
 * Kernel and initrd are mapped from the boot cache, never copied: their frames are shared with every VM that
 * boots the same files. The kernel lies where it wants to; the initrd as high as it may, out of the way of
 * what the kernel allocates first, or below the kernel when there is no room above.
 */
#include "vmm/boot-setup.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "base/bytes.h"
#include "base/size.h"
#include "vmm/boot-structs.h"
#include "vmm/layout.h"

/* Fields of the setup header (boot.rst), as offsets into boot_image.setup_header, which starts at 0x1f1. */
#define HDR_INITRD_ADDR_MAX (0x22c - 0x1f1)
#define HDR_CMDLINE_SIZE    (0x238 - 0x1f1)
#define HDR_BYTES_MIN	    (0x264 - 0x1f1) /* up to init_size: protocol 2.10; the 64-bit entry came with 2.12 */

/* Where an initrd of a kernel that names no limit must end: what boot.rst says for protocols before 2.03, and
 * what bzImages still name. */
#define INITRD_END_DEFAULT 0x80000000u

#define MIB_UP(x) (((x) + MIB - 1) / MIB)

static int check_kernel(const struct boot_image *kernel, struct errmsg *err)
{
	uint64_t end;

	if ((kernel->load.v | kernel->bytes | kernel->offset) & PAGE_MASK || kernel->bytes == 0 ||
	    kernel->bytes > kernel->mem_bytes)
		return errmsg_set(err, -ENOEXEC, "--kernel: the image in the boot cache is malformed");
	if (kernel->load.v < LAYOUT_HIGH_START)
		return errmsg_set(err, -ENOEXEC,
				  "--kernel: loads at %#" PRIx64 "; kernels must load at 1 MiB or above",
				  kernel->load.v);
	if (__builtin_add_overflow(kernel->load.v, kernel->mem_bytes, &end) || end > GUEST_MEMORY_LOW_END)
		return errmsg_set(err, -ENOEXEC,
				  "--kernel: loads at %#" PRIx64 " with %" PRIu64
				  " bytes; kernels must end below 3 GiB",
				  kernel->load.v, kernel->mem_bytes);
	if (kernel->entry.v < kernel->load.v || kernel->entry.v >= end)
		return errmsg_set(err, -ENOEXEC, "--kernel: its entry point %#" PRIx64 " lies outside it",
				  kernel->entry.v);
	if (kernel->kind == BOOT_ENTRY_BZIMAGE && (kernel->setup_header_bytes < HDR_BYTES_MIN ||
						   kernel->setup_header_bytes > BOOT_SETUP_HEADER_MAX))
		return errmsg_set(err, -ENOEXEC,
				  "--kernel: setup header of %" PRIu32
				  " bytes; a bzImage of boot protocol 2.12 or later is needed",
				  kernel->setup_header_bytes);
	return 0;
}

static int check_cmdline(const struct boot_image *kernel, const char *cmdline, struct errmsg *err)
{
	size_t len = strlen(cmdline), max = LAYOUT_CMDLINE_MAX - 1;

	if (kernel->kind == BOOT_ENTRY_BZIMAGE) {
		size_t theirs = load_le32(kernel->setup_header + HDR_CMDLINE_SIZE);

		max = theirs < max ? theirs : max;
	}
	if (len > max)
		return errmsg_set(err, -E2BIG, "--cmdline: %zu bytes; this kernel takes at most %zu", len,
				  max);
	return 0;
}

/* The first address that the initrd may not reach, whatever the size of RAM. */
static uint64_t initrd_end_max(const struct boot_image *kernel)
{
	uint64_t end = INITRD_END_DEFAULT;

	if (kernel->kind == BOOT_ENTRY_BZIMAGE)
		end = (uint64_t)load_le32(kernel->setup_header + HDR_INITRD_ADDR_MAX) + 1;
	if (end > GUEST_MEMORY_LOW_END)
		end = GUEST_MEMORY_LOW_END;
	return page_down(end);
}

/* Find room for @bytes (whole pages) above the kernel, else below it. */
static int place_initrd(const struct boot_image *kernel, uint64_t low_end, uint64_t bytes, struct errmsg *err,
			gpa_t *ret)
{
	uint64_t kernel_end = page_up(kernel->load.v + kernel->mem_bytes);
	uint64_t end_max = initrd_end_max(kernel);
	uint64_t end = low_end < end_max ? low_end : end_max;

	if (end > kernel_end && bytes <= end - kernel_end) {
		*ret = GPA(end - bytes);
		return 0;
	}
	end = kernel->load.v < end_max ? kernel->load.v : end_max;
	if (end > LAYOUT_HIGH_START && bytes <= end - LAYOUT_HIGH_START) {
		*ret = GPA(end - bytes);
		return 0;
	}
	if (end_max <= kernel_end || bytes > end_max - kernel_end)
		return errmsg_set(err, -EFBIG,
				  "--initrd: its %" PRIu64
				  " MiB do not fit between the kernel's end at %" PRIu64
				  " MiB and this kernel's limit of %" PRIu64
				  " MiB, whatever the memory; use a smaller one",
				  MIB_UP(bytes), MIB_UP(kernel_end), end_max / MIB);
	return errmsg_set(err, -ENOMEM,
			  "--mem: %" PRIu64 " MiB are not enough for the kernel and an initrd of %" PRIu64
			  " MiB; give at least %" PRIu64 "M, and what the guest itself needs",
			  low_end / MIB, MIB_UP(bytes), MIB_UP(kernel_end + bytes));
}

static int map_kernel(struct guest_memory *mem, const struct boot_image *kernel, struct errmsg *err)
{
	uint64_t low_end = guest_memory_region(mem, 0)->bytes;
	uint64_t end = kernel->load.v + kernel->mem_bytes;
	int r;

	if (end > low_end)
		return errmsg_set(err, -ENOMEM,
				  "--mem: %" PRIu64
				  " MiB are not enough for the kernel, which reaches up to %" PRIu64
				  " MiB; give at least %" PRIu64 "M, and what the guest itself needs",
				  low_end / MIB, MIB_UP(end), MIB_UP(end));
	r = guest_memory_map_file(mem, kernel->load, kernel->fd, kernel->offset, kernel->bytes);
	if (r < 0)
		return errmsg_set(err, r, "--kernel: cannot map it from the boot cache: %s", strerror(-r));
	return 0;
}

static int map_initrd(struct guest_memory *mem, const struct boot_image *kernel,
		      const struct boot_blob *initrd, struct errmsg *err, struct boot_info *info)
{
	uint64_t low_end = guest_memory_region(mem, 0)->bytes;
	int r;

	if (initrd->fd < 0 || initrd->bytes == 0)
		return 0;
	if (initrd->bytes > GUEST_MEMORY_LOW_END)
		return errmsg_set(err, -EFBIG, "--initrd: %" PRIu64 " MiB; it must fit below 3 GiB",
				  initrd->bytes / MIB);
	r = place_initrd(kernel, low_end, page_up(initrd->bytes), err, &info->initrd);
	if (r < 0)
		return r;
	r = guest_memory_map_file(mem, info->initrd, initrd->fd, initrd->offset, page_up(initrd->bytes));
	if (r < 0)
		return errmsg_set(err, r, "--initrd: cannot map it from the boot cache: %s", strerror(-r));
	info->initrd_bytes = initrd->bytes;
	return 0;
}

/* All that is copied: some KiB (boot-structs.h). */
static int write_structs(struct guest_memory *mem, const struct boot_image *kernel,
			 const struct boot_info *info, uint64_t *copied)
{
	int r = boot_write_cmdline(mem, info->cmdline, copied);

	if (r == 0)
		r = boot_write_gdt(mem, kernel->kind, copied);
	if (r == 0 && kernel->kind == BOOT_ENTRY_PVH)
		return boot_write_pvh(mem, info, copied);
	if (r == 0)
		r = boot_write_page_tables(mem, copied);
	if (r == 0)
		r = boot_write_params(mem, kernel, info, copied);
	return r;
}

int boot_setup(struct guest_memory *mem, const struct boot_image *kernel, const struct boot_blob *initrd,
	       const char *cmdline, gpa_t rsdp, struct errmsg *err, struct boot_state *ret)
{
	struct boot_info info = {.cmdline = cmdline, .rsdp = rsdp};
	bool pvh = kernel->kind == BOOT_ENTRY_PVH;
	uint64_t copied = 0;
	int r;

	r = check_kernel(kernel, err);
	if (r == 0)
		r = check_cmdline(kernel, cmdline, err);
	if (r == 0)
		r = map_kernel(mem, kernel, err);
	if (r == 0)
		r = map_initrd(mem, kernel, initrd, err, &info);
	if (r < 0)
		return r;
	boot_ranges(mem, &info);
	r = write_structs(mem, kernel, &info, &copied);
	if (r < 0)
		return errmsg_set(err, r, "cannot write the boot structures: %s", strerror(-r));
	*ret = (struct boot_state){
		.kind = kernel->kind,
		.entry = kernel->entry,
		.info = GPA(pvh ? LAYOUT_PVH_INFO : LAYOUT_BOOT_PARAMS),
		.page_tables = GPA(LAYOUT_PAGE_TABLES),
		.copied_bytes = copied,
	};
	return 0;
}
