/* SPDX-License-Identifier: Apache-2.0 */
/* Writes guest RAM to a file, as an ELF core or raw. */
#include "vmm/dump.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "base/size.h"

/* Frames looked at together: one read of pagemap, one look at `cancel`. */
#define PIECE_FRAMES 512
/* Linux Documentation/admin-guide/mm/pagemap.rst */
#define PAGEMAP_PRESENT ((uint64_t)1 << 63)
#define PAGEMAP_SWAPPED ((uint64_t)1 << 62)

#define NOTE_NAME "SARDINE"
#define NOTE_TYPE 1

static const char *const format_names[] = {[DUMP_ELF] = "elf", [DUMP_RAW] = "raw"};
_Static_assert(ARRAY_SIZE(format_names) == DUMP_FORMATS, "a name for each format");

/* What is before the first PT_LOAD's bytes. Layout: System V ABI, ELF64. */
struct elf_head {
	Elf64_Ehdr ehdr;
	Elf64_Phdr phdrs[1 + GUEST_MEMORY_REGIONS_MAX];
	struct {
		Elf64_Nhdr nhdr;
		char name[sizeof(NOTE_NAME)];
		uint32_t version;
		uint32_t page_bytes;
	} note;
};
_Static_assert(offsetof(struct elf_head, phdrs) == 64, "program headers follow the ELF header");
_Static_assert(sizeof(((struct elf_head *)0)->note) == 12 + 8 + 8, "no padding inside the note");
_Static_assert(sizeof(struct elf_head) <= PAGE_BYTES, "RAM starts in the second page of the file");

struct dump {
	struct guest_memory *mem;
	int fd;
	int pagemap_fd; /* -1: unknown what is populated */
	const atomic_bool *cancel;
	struct errmsg *err;
	struct dump_result result;
};

const char *dump_format_name(enum dump_format format)
{
	return format_names[format];
}

int dump_format_parse(const char *s, enum dump_format *ret)
{
	for (unsigned i = 0; i < DUMP_FORMATS; i++) {
		if (strcmp(s, format_names[i]) == 0) {
			*ret = (enum dump_format)i;
			return 0;
		}
	}
	return -EINVAL;
}

/* Counts what is written also when it fails on the way. */
static int write_at(struct dump *d, const void *data, uint64_t len, uint64_t off)
{
	const char *p = data;

	while (len) {
		ssize_t n = pwrite(d->fd, p, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errmsg_set(d->err, -errno, "cannot write: %s", strerror(errno));
		p += n;
		off += (uint64_t)n;
		len -= (uint64_t)n;
		d->result.data_bytes += (uint64_t)n;
	}
	return 0;
}

static bool page_is_zero(const uint8_t *page)
{
	const uint64_t *w = (const void *)page;
	uint64_t any = 0;

	for (size_t i = 0; i < PAGE_BYTES / sizeof(*w); i += 8) {
		for (size_t k = 0; k < 8; k++)
			any |= w[i + k];
		if (any)
			return false;
	}
	return true;
}

/* Which of @count frames have bytes of their own: those the kernel holds, and those of files. */
static int find_populated(struct dump *d, const struct guest_region *region, uint64_t first, uint64_t count,
			  bool *populated)
{
	uint64_t entries[PIECE_FRAMES];
	uint64_t virt = (uintptr_t)region->hva / PAGE_BYTES + first;
	int r = d->pagemap_fd < 0 ? -ENOENT
				  : pread_full(d->pagemap_fd, entries, count * sizeof(*entries),
					       virt * sizeof(*entries));

	for (uint64_t i = 0; i < count;) {
		enum frame_backing backing;
		uint64_t run;
		gfn_t gfn = GFN(region->gpa.v / PAGE_BYTES + first + i);
		int e = guest_memory_backing(d->mem, gfn, &backing, &run);

		if (e < 0)
			return e;
		for (; run > 0 && i < count; run--, i++)
			populated[i] = r < 0 || backing != FRAME_PRIVATE ||
				       (entries[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED));
	}
	return 0;
}

static int write_piece(struct dump *d, const struct guest_region *region, uint64_t first, uint64_t count,
		       uint64_t off)
{
	bool populated[PIECE_FRAMES];
	int r = find_populated(d, region, first, count, populated);
	uint64_t begin;

	if (r < 0)
		return r;
	for (uint64_t i = 0; i < count;) {
		const uint8_t *at = region->hva + first * PAGE_BYTES;

		while (i < count && (!populated[i] || page_is_zero(at + i * PAGE_BYTES)))
			i++;
		begin = i;
		while (i < count && populated[i] && !page_is_zero(at + i * PAGE_BYTES))
			i++;
		if (i == begin)
			break;
		r = write_at(d, at + begin * PAGE_BYTES, (i - begin) * PAGE_BYTES, off + begin * PAGE_BYTES);
		if (r < 0)
			return r;
	}
	return 0;
}

/* A region's bytes from @off of the file on. */
static int write_region(struct dump *d, const struct guest_region *region, uint64_t off)
{
	uint64_t frames = region->bytes / PAGE_BYTES;

	for (uint64_t first = 0; first < frames; first += PIECE_FRAMES) {
		uint64_t count = frames - first < PIECE_FRAMES ? frames - first : PIECE_FRAMES;
		int r;

		if (d->cancel && atomic_load_explicit(d->cancel, memory_order_relaxed))
			return errmsg_set(d->err, -ECANCELED, "cancelled");
		r = write_piece(d, region, first, count, off + first * PAGE_BYTES);
		if (r < 0)
			return r;
	}
	return 0;
}

static int set_length(struct dump *d, uint64_t bytes)
{
	/* Down to nothing first: old bytes must not show through the holes. */
	if (ftruncate(d->fd, 0) < 0 || ftruncate(d->fd, (off_t)bytes) < 0)
		return errmsg_set(d->err, -errno, "cannot set the file's length: %s", strerror(errno));
	d->result.file_bytes = bytes;
	return 0;
}

static int write_raw(struct dump *d)
{
	size_t count = guest_memory_region_count(d->mem);
	const struct guest_region *last = guest_memory_region(d->mem, count - 1);
	int r = set_length(d, last->gpa.v + last->bytes);

	for (size_t i = 0; r == 0 && i < count; i++) {
		const struct guest_region *region = guest_memory_region(d->mem, i);

		r = write_region(d, region, region->gpa.v);
	}
	return r;
}

static void elf_head_fill(struct elf_head *h, const struct guest_memory *mem, size_t count)
{
	uint64_t off = PAGE_BYTES;

	*h = (struct elf_head){
		.ehdr = {.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
			 .e_type = ET_CORE,
			 .e_machine = EM_X86_64,
			 .e_version = EV_CURRENT,
			 .e_phoff = offsetof(struct elf_head, phdrs),
			 .e_ehsize = sizeof(Elf64_Ehdr),
			 .e_phentsize = sizeof(Elf64_Phdr),
			 .e_phnum = (Elf64_Half)(1 + count)},
		.note = {.nhdr = {.n_namesz = sizeof(NOTE_NAME), .n_descsz = 8, .n_type = NOTE_TYPE},
			 .name = NOTE_NAME,
			 .version = 1,
			 .page_bytes = PAGE_BYTES},
	};
	h->phdrs[0] = (Elf64_Phdr){.p_type = PT_NOTE,
				   .p_offset = offsetof(struct elf_head, note),
				   .p_filesz = sizeof(h->note),
				   .p_align = 4};
	for (size_t i = 0; i < count; i++) {
		const struct guest_region *region = guest_memory_region(mem, i);

		h->phdrs[1 + i] = (Elf64_Phdr){.p_type = PT_LOAD,
					       .p_flags = PF_R | PF_W | PF_X,
					       .p_offset = off,
					       .p_vaddr = region->gpa.v,
					       .p_paddr = region->gpa.v,
					       .p_filesz = region->bytes,
					       .p_memsz = region->bytes,
					       .p_align = PAGE_BYTES};
		off += region->bytes;
	}
}

static int write_elf(struct dump *d)
{
	size_t count = guest_memory_region_count(d->mem);
	struct elf_head head;
	int r = set_length(d, PAGE_BYTES + guest_memory_bytes(d->mem));

	elf_head_fill(&head, d->mem, count);
	if (r == 0)
		r = write_at(d, &head, sizeof(head), 0);
	for (size_t i = 0; r == 0 && i < count; i++)
		r = write_region(d, guest_memory_region(d->mem, i), head.phdrs[1 + i].p_offset);
	return r;
}

static int check_file(int fd, struct errmsg *err)
{
	int flags = fcntl(fd, F_GETFL);
	struct stat st;

	if (flags < 0 || fstat(fd, &st) < 0)
		return errmsg_set(err, -errno, "%s", strerror(errno));
	if (!S_ISREG(st.st_mode))
		return errmsg_set(err, -EINVAL,
				  "not a regular file; a dump has holes, which only a file can have");
	/* With O_APPEND, Linux's pwrite() ignores the offset. */
	if ((flags & O_ACCMODE) == O_RDONLY || (flags & (O_APPEND | O_PATH)))
		return errmsg_set(err, -EINVAL, "the file must be open for writing, and not for appending");
	return 0;
}

int dump_write(struct guest_memory *mem, int fd, enum dump_format format, const atomic_bool *cancel,
	       struct errmsg *err, struct dump_result *ret)
{
	struct dump d = {.mem = mem,
			 .fd = fd,
			 .pagemap_fd = guest_memory_pagemap_fd(mem),
			 .cancel = cancel,
			 .err = err};
	int r = check_file(fd, err);

	if (r == 0)
		r = format == DUMP_RAW ? write_raw(&d) : write_elf(&d);
	*ret = d.result;
	return r;
}

DEFINE_SYSCALLS(dump_syscalls, SYSCALL(pread64), SYSCALL(pwrite64), SYSCALL(ftruncate),
		SYSCALL_IF(fcntl, 1, F_GETFL), SYSCALL_IF(newfstatat, 3, AT_EMPTY_PATH));
