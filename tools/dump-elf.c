/* SPDX-License-Identifier: Apache-2.0 */
/* Memory in ELF cores: ours, QEMU's dump-guest-memory, gcore's and the kernel's. */
#include <elf.h>
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/fs.h"
#include "base/size.h"
#include "tools/dump-file.h"

#define HEADERS_AT_ONCE 1024u

/* What is needed of the file header, from either class. */
struct elf_shape {
	bool wide; /* ELFCLASS64 */
	uint64_t phoff, shoff;
	uint32_t phnum;
	uint16_t phentsize;
};

static int elf_damaged(const struct dump_file *dump, struct errmsg *err, const char *what)
{
	return errmsg_set(err, -EINVAL, "%s: damaged ELF file: %s", dump->path, what);
}

/* With 65,535 segments or more the count is in the first section header (System V ABI, PN_XNUM). */
static int elf_extended_count(const struct dump_file *dump, struct elf_shape *shape, struct errmsg *err)
{
	union {
		Elf64_Shdr wide;
		Elf32_Shdr narrow;
	} sh;
	size_t len = shape->wide ? sizeof(sh.wide) : sizeof(sh.narrow);

	if (!shape->shoff || !range_fits(shape->shoff, len, dump->size) ||
	    pread_full(dump->fd, &sh, len, shape->shoff) < 0)
		return elf_damaged(dump, err, "the number of its segments is missing");
	shape->phnum = shape->wide ? sh.wide.sh_info : sh.narrow.sh_info;
	return 0;
}

static int elf_shape_read(const struct dump_file *dump, struct elf_shape *ret, struct errmsg *err)
{
	union {
		unsigned char ident[EI_NIDENT];
		Elf64_Ehdr wide;
		Elf32_Ehdr narrow;
	} h = {0};
	struct elf_shape shape = {0};
	size_t len = dump->size < sizeof(h) ? (size_t)dump->size : sizeof(h);
	uint16_t type;

	if (pread_full(dump->fd, &h, len, 0) < 0)
		return elf_damaged(dump, err, "its header cannot be read");
	shape.wide = h.ident[EI_CLASS] == ELFCLASS64;
	if (!shape.wide && h.ident[EI_CLASS] != ELFCLASS32)
		return elf_damaged(dump, err, "neither 32 nor 64 bits");
	if (h.ident[EI_DATA] != ELFDATA2LSB)
		return errmsg_set(err, -ENOTSUP,
				  "%s: is a big-endian ELF file; only little-endian cores are read",
				  dump->path);
	if (len < (shape.wide ? sizeof(h.wide) : sizeof(h.narrow)))
		return elf_damaged(dump, err, "it ends within its header");
	type = shape.wide ? h.wide.e_type : h.narrow.e_type;
	if (type != ET_CORE)
		return errmsg_set(err, -EINVAL, "%s: is an ELF file, but not a core dump", dump->path);
	shape.phoff = shape.wide ? h.wide.e_phoff : h.narrow.e_phoff;
	shape.shoff = shape.wide ? h.wide.e_shoff : h.narrow.e_shoff;
	shape.phnum = shape.wide ? h.wide.e_phnum : h.narrow.e_phnum;
	shape.phentsize = shape.wide ? h.wide.e_phentsize : h.narrow.e_phentsize;
	if (shape.phentsize != (shape.wide ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)))
		return elf_damaged(dump, err, "its program headers have an unknown size");
	if (shape.phnum == PN_XNUM && elf_extended_count(dump, &shape, err) < 0)
		return -EINVAL;
	if (shape.phnum > DUMP_RANGES_MAX)
		return elf_damaged(dump, err, "it claims more than 4,000,000 segments");
	if (!range_fits(shape.phoff, (uint64_t)shape.phnum * shape.phentsize, dump->size))
		return elf_damaged(dump, err, "it ends within its program headers");
	*ret = shape;
	return 0;
}

struct segments {
	struct dump_file *dump;
	uint64_t *physical; /* by range; ranges hold the virtual address at first */
	bool any_physical;
};

static void segment_add(struct segments *s, const Elf64_Phdr *ph)
{
	if (ph->p_type != PT_LOAD || ph->p_filesz == 0)
		return;
	s->physical[s->dump->range_count] = ph->p_paddr;
	s->any_physical |= ph->p_paddr != 0;
	s->dump->ranges[s->dump->range_count++] =
		(struct page_range){ph->p_vaddr, ph->p_filesz, ph->p_offset};
}

static int segments_read(struct segments *s, const struct elf_shape *shape, struct errmsg *err)
{
	auto_free char *headers = malloc((size_t)HEADERS_AT_ONCE * sizeof(Elf64_Phdr));

	if (!headers)
		return -ENOMEM;
	for (uint32_t done = 0; done < shape->phnum;) {
		uint32_t n = shape->phnum - done < HEADERS_AT_ONCE ? shape->phnum - done : HEADERS_AT_ONCE;
		int r = pread_full(s->dump->fd, headers, (size_t)n * shape->phentsize,
				   shape->phoff + (uint64_t)done * shape->phentsize);

		if (r < 0)
			return elf_damaged(s->dump, err, "its program headers cannot be read");
		for (uint32_t i = 0; i < n; i++) {
			Elf64_Phdr ph;
			Elf32_Phdr narrow;

			if (shape->wide) {
				memcpy(&ph, headers + i * sizeof(ph), sizeof(ph));
			} else {
				memcpy(&narrow, headers + i * sizeof(narrow), sizeof(narrow));
				ph = (Elf64_Phdr){.p_type = narrow.p_type,
						  .p_offset = narrow.p_offset,
						  .p_vaddr = narrow.p_vaddr,
						  .p_paddr = narrow.p_paddr,
						  .p_filesz = narrow.p_filesz};
			}
			segment_add(s, &ph);
		}
		done += n;
	}
	return 0;
}

int dump_parse_elf(struct dump_file *dump, struct errmsg *err)
{
	auto_free uint64_t *physical = NULL;
	struct segments s = {.dump = dump};
	struct elf_shape shape = {0};
	uint64_t beyond;
	int r = elf_shape_read(dump, &shape, err);

	if (r < 0)
		return r;
	dump->form = "elf";
	dump->ranges = calloc((size_t)shape.phnum + 1, sizeof(*dump->ranges));
	s.physical = physical = calloc((size_t)shape.phnum + 1, sizeof(*physical));
	if (!dump->ranges || !physical)
		return -ENOMEM;
	r = segments_read(&s, &shape, err);
	if (r < 0)
		return r;
	/* Guests are laid out by physical addresses; cores of processes have none (all zero). */
	for (size_t i = 0; s.any_physical && i < dump->range_count; i++)
		dump->ranges[i].address = physical[i];
	beyond = dump_ranges_tidy(dump);
	if (beyond)
		errmsg_set(&dump->problem, 0,
			   "%s: is truncated: %" PRIu64 " bytes of its segments are missing", dump->path,
			   beyond);
	return 0;
}
