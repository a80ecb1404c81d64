/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An ELF kernel: checked, and flattened to one image by physical address.
 *
 * Theory of operation. Every PT_LOAD goes where its p_paddr says; virtual addresses serve for one thing only,
 * to translate an e_entry that is virtual. So the per-CPU segment of vmlinux, whose p_vaddr is 0, needs no
 * special case. What the file does not fill (bss, gaps between segments) is zero, and is a hole in the image.
 *
 * Entry: PVH when there is a note of owner "Xen" and type XEN_ELFNOTE_PHYS32_ENTRY (Linux
 * arch/x86/platform/pvh/head.S), else e_entry in long mode. Either must lie in bytes that come from the file.
 */
#include "vmm/kernel-elf.h"

#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "base/fs.h"
#include "base/planted.h"
#include "base/size.h"
#include "vmm/kernel-sparse.h"
#include "vmm/layout.h"

#define NOTE_PHYS32_ENTRY 18 /* Xen public/elfnote.h */
#define NOTES_MAX	  ((uint64_t)1 << 20)
#define NOTE_HEADER	  12u

_Static_assert(sizeof(Elf64_Ehdr) == 64 && sizeof(Elf64_Phdr) == 56, "ELF-64 object file format");
_Static_assert(__BYTE_ORDER == __LITTLE_ENDIAN, "headers are used as read");

bool elf_is(const uint8_t *head, size_t head_bytes)
{
	return head_bytes >= SELFMAG && !memcmp(head, ELFMAG, SELFMAG);
}

static int parse_header(int fd, uint64_t file_bytes, struct errmsg *err, Elf64_Ehdr *ret)
{
	Elf64_Ehdr eh;
	int r;

	if (file_bytes < sizeof(eh))
		return errmsg_set(err, -ENOEXEC, "ELF file is truncated within its header");
	r = pread_full(fd, &eh, sizeof(eh), 0);
	if (r < 0)
		return r;
	if (!elf_is(eh.e_ident, sizeof(eh.e_ident)))
		return errmsg_set(err, -ENOEXEC, "not an ELF file");
	if (eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_ident[EI_DATA] != ELFDATA2LSB ||
	    eh.e_machine != EM_X86_64)
		return errmsg_set(err, -ENOEXEC, "ELF file is not for x86-64; use a 64-bit x86 kernel");
	if (eh.e_ident[EI_VERSION] != EV_CURRENT || eh.e_version != EV_CURRENT)
		return errmsg_set(err, -ENOEXEC, "ELF file is of an unknown version");
	if (eh.e_type != ET_EXEC && eh.e_type != ET_DYN)
		return errmsg_set(err, -ENOEXEC, "ELF file is not an executable; use vmlinux, not vmlinux.o");
	if (!eh.e_phnum || eh.e_phnum > KERNEL_ELF_PHDRS_MAX || eh.e_phentsize != sizeof(Elf64_Phdr))
		return errmsg_set(
			err, -ENOEXEC,
			"ELF file is no kernel: %u program headers of %u bytes (1 to %u of 56 can be used)",
			eh.e_phnum, eh.e_phentsize, KERNEL_ELF_PHDRS_MAX);
	if (!range_fits(eh.e_phoff, (uint64_t)eh.e_phnum * sizeof(Elf64_Phdr), file_bytes))
		return errmsg_set(
			err, -ENOEXEC,
			"ELF file is truncated: program headers are outside the file; copy it again");
	*ret = eh;
	return 0;
}

/* One PT_LOAD into its place in the order by paddr. */
static int add_segment(struct elf_kernel *elf, const Elf64_Phdr *ph, unsigned nr, uint64_t file_bytes,
		       struct errmsg *err)
{
	size_t at;

	if (!ph->p_memsz)
		return 0;
	if (ph->p_filesz > ph->p_memsz)
		return errmsg_set(err, -ENOEXEC,
				  "ELF segment %u is corrupt: larger in the file than in memory", nr);
	if (!range_fits(ph->p_offset, ph->p_filesz, file_bytes))
		return errmsg_set(err, -ENOEXEC,
				  "ELF file is truncated: segment %u is outside the file; copy it again", nr);
	if (ph->p_paddr < LAYOUT_HIGH_START || !range_fits(ph->p_paddr, ph->p_memsz, LAYOUT_VIRTIO_MMIO))
		return errmsg_set(err, -ENOEXEC,
				  "ELF segment %u of 0x%" PRIx64 " bytes at physical address 0x%" PRIx64
				  " is outside usable RAM (0x%x to 0x%x)",
				  nr, ph->p_memsz, ph->p_paddr, LAYOUT_HIGH_START, LAYOUT_VIRTIO_MMIO);
	for (at = elf->segments; at > 0 && elf->segment[at - 1].paddr > ph->p_paddr; at--)
		elf->segment[at] = elf->segment[at - 1];
	elf->segment[at] = (struct elf_segment){
		.offset = ph->p_offset,
		.file_bytes = ph->p_filesz,
		.vaddr = ph->p_vaddr,
		.paddr = ph->p_paddr,
		.mem_bytes = ph->p_memsz,
	};
	elf->segments++;
	return 0;
}

static int check_segments(struct elf_kernel *elf, struct errmsg *err)
{
	uint64_t file_end = 0, mem_end = 0;

	if (!elf->segments)
		return errmsg_set(err, -ENOEXEC, "ELF file is no kernel: nothing to load");
	for (size_t i = 0; i < elf->segments; i++) {
		const struct elf_segment *s = &elf->segment[i];

		if (s->paddr < mem_end)
			return errmsg_set(err, -ENOEXEC,
					  "ELF segments overlap at physical address 0x%" PRIx64, s->paddr);
		mem_end = s->paddr + s->mem_bytes;
		if (s->file_bytes)
			file_end = s->paddr + s->file_bytes;
	}
	if (!file_end)
		return errmsg_set(err, -ENOEXEC, "ELF file is no kernel: its segments are empty");
	elf->load = page_down(elf->segment[0].paddr);
	elf->bytes = page_up(file_end) - elf->load;
	elf->mem_bytes = page_up(mem_end) - elf->load;
	if (elf->mem_bytes > KERNEL_SPAN_MAX)
		return errmsg_set(err, -ENOEXEC,
				  "ELF segments are spread over %" PRIu64 " MiB of memory; %" PRIu64
				  " MiB are the most that can be loaded",
				  elf->mem_bytes / MIB, KERNEL_SPAN_MAX / MIB);
	return 0;
}

/* True when @addr is in bytes that come from the file. */
static bool is_loaded(const struct elf_kernel *elf, uint64_t addr)
{
	for (size_t i = 0; i < elf->segments; i++)
		if (addr >= elf->segment[i].paddr &&
		    addr - elf->segment[i].paddr < elf->segment[i].file_bytes)
			return true;
	return false;
}

/* e_entry, which is physical in vmlinux and virtual in kernels linked otherwise. */
static int entry_translate(const struct elf_kernel *elf, uint64_t entry, struct errmsg *err, uint64_t *ret)
{
	if (is_loaded(elf, entry)) {
		*ret = entry;
		return 0;
	}
	for (size_t i = 0; i < elf->segments; i++) {
		const struct elf_segment *s = &elf->segment[i];

		if (entry >= s->vaddr && entry - s->vaddr < s->file_bytes) {
			*ret = s->paddr + (entry - s->vaddr);
			return 0;
		}
	}
	return errmsg_set(err, -ENOEXEC, "ELF entry point 0x%" PRIx64 " is in none of its segments", entry);
}

/* Looks for the PVH entry in one PT_NOTE; *ret_found only when it is there. */
static int find_pvh(const uint8_t *notes, size_t len, struct errmsg *err, bool *ret_found,
		    uint64_t *ret_entry)
{
	size_t pos = 0;

	while (len - pos >= NOTE_HEADER) {
		uint64_t name_bytes = load_le32(notes + pos), desc_bytes = load_le32(notes + pos + 4);
		uint64_t name_room = (name_bytes + 3) & ~(uint64_t)3,
			 desc_room = (desc_bytes + 3) & ~(uint64_t)3;
		const uint8_t *name = notes + pos + NOTE_HEADER, *desc;
		uint64_t left = len - pos - NOTE_HEADER;

		/* Padding after the last one may be missing. */
		if ((name_room > left || desc_bytes > left - name_room) && !PLANTED("elf"))
			return errmsg_set(err, -ENOEXEC,
					  "ELF notes are corrupt: one is longer than its segment");
		desc = name + name_room;
		if (load_le32(notes + pos + 8) == NOTE_PHYS32_ENTRY && name_bytes == 4 &&
		    !memcmp(name, "Xen", 4)) {
			if (desc_bytes != 4 && desc_bytes != 8)
				return errmsg_set(err, -ENOEXEC, "PVH note is corrupt: %" PRIu64 " bytes",
						  desc_bytes);
			*ret_entry = desc_bytes == 4 ? load_le32(desc) : load_le64(desc);
			*ret_found = true;
			return 0;
		}
		if (desc_room > left - name_room)
			break;
		pos += NOTE_HEADER + (size_t)(name_room + desc_room);
	}
	return 0;
}

static int parse_notes(int fd, const Elf64_Phdr *ph, uint64_t file_bytes, struct errmsg *err, bool *ret_found,
		       uint64_t *ret_entry)
{
	auto_free uint8_t *notes = NULL;
	int r;

	if (!ph->p_filesz)
		return 0;
	if (ph->p_filesz > NOTES_MAX || !range_fits(ph->p_offset, ph->p_filesz, file_bytes))
		return errmsg_set(
			err, -ENOEXEC,
			"ELF file is truncated or corrupt: notes are outside the file or above 1 MiB");
	notes = malloc((size_t)ph->p_filesz);
	if (!notes)
		return -ENOMEM;
	r = pread_full(fd, notes, (size_t)ph->p_filesz, ph->p_offset);
	return r < 0 ? r : find_pvh(notes, (size_t)ph->p_filesz, err, ret_found, ret_entry);
}

int elf_kernel_parse(int fd, uint64_t file_bytes, struct errmsg *err, struct elf_kernel *ret)
{
	struct elf_kernel elf = {0};
	Elf64_Phdr ph[KERNEL_ELF_PHDRS_MAX];
	uint64_t pvh = 0;
	bool has_pvh = false;
	Elf64_Ehdr eh = {0};
	int r;

	r = parse_header(fd, file_bytes, err, &eh);
	if (r == 0)
		r = pread_full(fd, ph, eh.e_phnum * sizeof(ph[0]), eh.e_phoff);
	for (unsigned i = 0; r == 0 && i < eh.e_phnum; i++) {
		if (ph[i].p_type == PT_LOAD)
			r = add_segment(&elf, &ph[i], i, file_bytes, err);
		else if (ph[i].p_type == PT_NOTE && !has_pvh)
			r = parse_notes(fd, &ph[i], file_bytes, err, &has_pvh, &pvh);
	}
	if (r == 0)
		r = check_segments(&elf, err);
	if (r < 0)
		return r;
	if (has_pvh) {
		if (!is_loaded(&elf, pvh))
			return errmsg_set(err, -ENOEXEC, "PVH entry point 0x%" PRIx64 " is in no segment",
					  pvh);
		elf.kind = BOOT_ENTRY_PVH;
		elf.entry = pvh;
	} else {
		elf.kind = BOOT_ENTRY_ELF64;
		r = entry_translate(&elf, eh.e_entry, err, &elf.entry);
		if (r < 0)
			return r;
	}
	*ret = elf;
	return 0;
}

int elf_kernel_flatten(const struct elf_kernel *elf, int in_fd, int out_fd, uint64_t out_offset,
		       uint64_t *ret_bytes)
{
	/* Where the entry is belongs to the image even if zero. */
	uint64_t end = out_offset + (elf->entry - elf->load) + 1;

	for (size_t i = 0; i < elf->segments; i++) {
		const struct elf_segment *s = &elf->segment[i];
		int r = sparse_copy(in_fd, s->offset, s->file_bytes, out_fd,
				    out_offset + (s->paddr - elf->load), &end);

		if (r < 0)
			return r;
	}
	*ret_bytes = page_up(end - out_offset);
	return 0;
}
