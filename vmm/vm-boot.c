/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a VM boots from, and placing it in RAM: at the start and at each reboot.
 *
 * The cache's files are held open for as long as the VM lives: a reboot maps the very pages that the first boot had, whatever
 * has become of the cache since.
 */
#include <errno.h>
#include <string.h>

#include "vmm/acpi.h"
#include "vmm/boot-cache.h"
#include "vmm/vm-internal.h"

int vm_boot_open(struct vm *vm, struct errmsg *err)
{
	cleanup(boot_cache_free_p) struct boot_cache *cache = NULL;
	int r;

	r = boot_cache_open(vm->config->cache_dir, err, &cache);
	if (r < 0)
		return r;
	r = boot_cache_kernel(cache, vm->config->kernel, vm->config->kaslr, err, &vm->kernel);
	if (r == 0 && vm->config->initrd)
		r = boot_cache_initrd(cache, vm->config->initrd, err, &vm->initrd);
	return r;
}

void vm_boot_close(struct vm *vm)
{
	boot_image_done(&vm->kernel);
	boot_blob_done(&vm->initrd);
}

/* The ACPI tables lie where the layout says, the RSDP first. */
static int place_acpi(struct vm *vm, struct errmsg *err, uint64_t *copied)
{
	struct acpi_config config = {
		.cpus = vm->config->cpus,
		.virtio_devices = (unsigned)vm->transport_count,
	};
	const size_t room = LAYOUT_RESET_CODE - LAYOUT_ACPI;
	auto_free uint8_t *buf = malloc(room);
	size_t bytes;
	int r;

	if (!buf)
		return -ENOMEM;
	r = acpi_build(&config, LAYOUT_ACPI, buf, room, &bytes);
	if (r == 0)
		r = guest_write(vm->mem, GPA(LAYOUT_ACPI), buf, bytes);
	if (r < 0)
		return errmsg_set(err, r, "cannot write the ACPI tables: %s", strerror(-r));
	*copied += bytes;
	return 0;
}

/*
 * What a PC's firmware has at its reset vector (SDM 3A, 10.1.4; here the copy below 1 MiB): code that resets the machine, in real
 * mode. Linux on hardware-reduced ACPI (drivers/firmware/efi/reboot.c, efi_reboot_required()) wants to reboot by EFI and, where
 * there is none, goes there, with neither ACPI nor the keyboard controller tried before.
 */
static int place_reset_code(struct vm *vm, struct errmsg *err, uint64_t *copied)
{
	static const uint8_t code[] = {
		0xb0, 0xfe, /* mov al, 0xfe: pulse the reset line */
		0xe6, 0x64, /* out 0x64, al */
		0xf4,	    /* hlt */
		0xeb, 0xfd, /* jmp to the hlt */
	};
	int r = guest_write(vm->mem, GPA(LAYOUT_RESET_CODE), code, sizeof(code));

	if (r < 0)
		return errmsg_set(err, r, "cannot write the reset code: %s", strerror(-r));
	*copied += sizeof(code);
	return 0;
}

int vm_boot_place(struct vm *vm, struct errmsg *err, struct boot_state *ret)
{
	/* Files are mapped over untouched memory, so before anything is written there. */
	int r = boot_setup(vm->mem, &vm->kernel, &vm->initrd, vm->config->cmdline, GPA(LAYOUT_ACPI), err,
			   ret);

	if (r == 0)
		r = place_acpi(vm, err, &ret->copied_bytes);
	return r < 0 ? r : place_reset_code(vm, err, &ret->copied_bytes);
}
