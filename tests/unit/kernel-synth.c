/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels made to measure for tests. */
#include "tests/unit/kernel-synth.h"

#include <lz4.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/bytes.h"
#include "base/cleanup.h"

static void *must(void *p)
{
	if (!p)
		abort();
	return p;
}

void bytes_done(struct bytes *b)
{
	free(b->data);
	*b = (struct bytes){0};
}

void bytes_add(struct bytes *b, const void *data, size_t len)
{
	b->data = must(realloc(b->data, b->len + len + 1));
	if (data)
		memcpy(b->data + b->len, data, len);
	else
		memset(b->data + b->len, 0, len);
	b->len += len;
}

void synth_elf_init(struct synth_elf *elf, uint64_t entry)
{
	*elf = (struct synth_elf){
		.eh =
			{
				.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
				.e_type = ET_EXEC,
				.e_machine = EM_X86_64,
				.e_version = EV_CURRENT,
				.e_entry = entry,
				.e_phoff = sizeof(Elf64_Ehdr),
				.e_ehsize = sizeof(Elf64_Ehdr),
				.e_phentsize = sizeof(Elf64_Phdr),
			},
	};
}

Elf64_Phdr *synth_elf_add(struct synth_elf *elf, uint32_t type, uint64_t vaddr, uint64_t paddr,
			  uint64_t mem_bytes, const void *data, size_t len)
{
	Elf64_Phdr *ph = &elf->ph[elf->eh.e_phnum++];

	*ph = (Elf64_Phdr){
		.p_type = type,
		.p_flags = PF_R | PF_W | PF_X,
		.p_offset = SYNTH_BODY + elf->body.len,
		.p_vaddr = vaddr,
		.p_paddr = paddr,
		.p_filesz = len,
		.p_memsz = mem_bytes,
		.p_align = 4,
	};
	bytes_add(&elf->body, data, len);
	return ph;
}

static void add_note(struct bytes *b, const char *name, uint32_t type, const void *desc, uint32_t desc_bytes)
{
	uint32_t head[3] = {(uint32_t)strlen(name) + 1, desc_bytes, type};

	bytes_add(b, head, sizeof(head));
	bytes_add(b, name, head[0]);
	bytes_add(b, NULL, -head[0] & 3);
	bytes_add(b, desc, desc_bytes);
	bytes_add(b, NULL, -desc_bytes & 3);
}

Elf64_Phdr *synth_elf_add_pvh(struct synth_elf *elf, uint64_t entry, uint32_t desc_bytes)
{
	struct bytes notes = {0};
	Elf64_Phdr *ph;

	add_note(&notes, "GNU", 3, "build", 5);
	add_note(&notes, "Linux", 18, "not this", 8);
	add_note(&notes, "Xen", 6, "linux", 6);
	add_note(&notes, "Xen", 18, &entry, desc_bytes);
	ph = synth_elf_add(elf, PT_NOTE, 0, 0, notes.len, notes.data, notes.len);
	bytes_done(&notes);
	return ph;
}

struct bytes synth_elf_build(const struct synth_elf *elf)
{
	struct bytes b = {0};

	bytes_add(&b, &elf->eh, sizeof(elf->eh));
	bytes_add(&b, elf->ph, sizeof(elf->ph));
	bytes_add(&b, elf->body.data, elf->body.len);
	return b;
}

void synth_elf_done(struct synth_elf *elf)
{
	bytes_done(&elf->body);
}

/* Bytes that pack, but not to nothing, and differ by @seed. */
static void pattern(uint8_t *p, size_t len, uint32_t seed)
{
	uint32_t x = seed * 2654435761u + 1;

	for (size_t i = 0; i < len; i++) {
		if (i % 7 == 0)
			x = x * 1664525u + 1013904223u;
		p[i] = (uint8_t)(x >> 24);
	}
}

#define TEXT_BYTES 0x12345u
#define DATA_AT	   0x20000u
#define DATA_BYTES 0x8000u
#define CPU_AT	   0x28000u /* in the page that follows data at once */
#define CPU_BYTES  0x1800u
#define INIT_AT	   0x29800u /* shares a page with the per-CPU data */
#define INIT_BYTES 0x3000u

struct bytes synth_vmlinux_image(void)
{
	struct bytes b = {0};

	bytes_add(&b, NULL, SYNTH_MEM_BYTES);
	pattern(b.data, TEXT_BYTES, 1);
	pattern(b.data + DATA_AT, DATA_BYTES, 2);
	memset(b.data + DATA_AT + 0x2000, 0, 0x3000); /* zeros within */
	pattern(b.data + CPU_AT, CPU_BYTES, 3);
	pattern(b.data + INIT_AT, INIT_BYTES, 4);
	memset(b.data + INIT_AT + INIT_BYTES - 0x1000, 0, 0x1000); /* and at the end */
	return b;
}

struct bytes synth_vmlinux(int with_pvh)
{
	const uint64_t base = 0xffffffff81000000u;
	struct bytes image = synth_vmlinux_image(), b;
	struct synth_elf elf;

	synth_elf_init(&elf, SYNTH_ENTRY);
	synth_elf_add(&elf, PT_LOAD, base, SYNTH_LOAD, TEXT_BYTES, image.data, TEXT_BYTES);
	synth_elf_add(&elf, PT_LOAD, base + DATA_AT, SYNTH_LOAD + DATA_AT, DATA_BYTES, image.data + DATA_AT,
		      DATA_BYTES);
	synth_elf_add(&elf, PT_LOAD, 0, SYNTH_LOAD + CPU_AT, CPU_BYTES, image.data + CPU_AT, CPU_BYTES);
	synth_elf_add(&elf, PT_LOAD, base + INIT_AT, SYNTH_LOAD + INIT_AT, SYNTH_MEM_BYTES - INIT_AT,
		      image.data + INIT_AT, INIT_BYTES);
	if (with_pvh)
		synth_elf_add_pvh(&elf, SYNTH_PVH_ENTRY, 8);
	b = synth_elf_build(&elf);
	/* The build appends relocations. */
	bytes_add(&b, "relocs", 6);
	synth_elf_done(&elf);
	bytes_done(&image);
	return b;
}

const char *const synth_packing_names[SYNTH_PACKINGS] = {"gzip", "xz", "zstd", "lz4"};

static struct bytes pack_gzip(const struct bytes *plain)
{
	struct bytes b = {0};
	z_stream z = {0};

	if (deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) != Z_OK)
		abort();
	bytes_add(&b, NULL, deflateBound(&z, plain->len));
	z.next_in = plain->data;
	z.avail_in = (uInt)plain->len;
	z.next_out = b.data;
	z.avail_out = (uInt)b.len;
	if (deflate(&z, Z_FINISH) != Z_STREAM_END)
		abort();
	b.len = z.total_out;
	deflateEnd(&z);
	return b;
}

static struct bytes pack_xz(const struct bytes *plain)
{
	struct bytes b = {0};
	lzma_options_lzma lzma;
	lzma_filter filters[] = {
		{.id = LZMA_FILTER_X86},
		{.id = LZMA_FILTER_LZMA2, .options = &lzma},
		{.id = LZMA_VLI_UNKNOWN},
	};
	size_t pos = 0;

	if (lzma_lzma_preset(&lzma, 6))
		abort();
	bytes_add(&b, NULL, lzma_stream_buffer_bound(plain->len));
	if (lzma_stream_buffer_encode(filters, LZMA_CHECK_CRC32, NULL, plain->data, plain->len, b.data, &pos,
				      b.len) != LZMA_OK)
		abort();
	b.len = pos;
	return b;
}

static struct bytes pack_zstd(const struct bytes *plain)
{
	struct bytes b = {0};
	size_t n;

	bytes_add(&b, NULL, ZSTD_compressBound(plain->len));
	n = ZSTD_compress(b.data, b.len, plain->data, plain->len, 19);
	if (ZSTD_isError(n))
		abort();
	b.len = n;
	return b;
}

static struct bytes pack_lz4(const struct bytes *plain)
{
	static const uint8_t magic[4] = {0x02, 0x21, 0x4c, 0x18};
	const size_t block = (size_t)8 << 20;
	struct bytes b = {0};

	bytes_add(&b, magic, sizeof(magic));
	for (size_t pos = 0; pos < plain->len; pos += block) {
		size_t len = plain->len - pos < block ? plain->len - pos : block, at = b.len;
		int n;

		bytes_add(&b, NULL, 4 + (size_t)LZ4_compressBound((int)len));
		n = LZ4_compress_default((const char *)plain->data + pos, (char *)b.data + at + 4, (int)len,
					 LZ4_compressBound((int)len));
		if (n <= 0)
			abort();
		store_le32(b.data + at, (uint32_t)n);
		b.len = at + 4 + (size_t)n;
	}
	return b;
}

struct bytes synth_pack(enum synth_packing how, const struct bytes *plain)
{
	static struct bytes (*const pack[])(const struct bytes *) = {
		[SYNTH_GZIP] = pack_gzip,
		[SYNTH_XZ] = pack_xz,
		[SYNTH_ZSTD] = pack_zstd,
		[SYNTH_LZ4] = pack_lz4,
	};
	struct bytes b = pack[how](plain);
	uint8_t size[4];

	store_le32(size, (uint32_t)plain->len);
	if (how != SYNTH_GZIP)
		bytes_add(&b, size, sizeof(size));
	return b;
}

struct bytes synth_bzimage(const struct bytes *payload)
{
	size_t code_bytes = (SYNTH_PAYLOAD_AT + payload->len + 64 + 15) / 16 * 16;
	struct bytes b = {0};

	bytes_add(&b, NULL, SYNTH_CODE_OFFSET + code_bytes);
	b.data[0x1f1] = SYNTH_SETUP_SECTS;
	store_le32(b.data + 0x1f4, (uint32_t)(code_bytes / 16));
	store_le16(b.data + 0x1fe, 0xaa55);
	b.data[0x200] = 0xeb;
	b.data[0x201] = 0x6a;
	memcpy(b.data + 0x202, "HdrS", 4);
	store_le16(b.data + 0x206, 0x020f);
	b.data[0x211] = 0x01;
	store_le32(b.data + 0x22c, 0x7fffffff); /* initrd_addr_max */
	store_le32(b.data + 0x230, 0x200000);	/* kernel_alignment */
	b.data[0x234] = 1;			/* relocatable_kernel */
	store_le16(b.data + 0x236, 0x7f);	/* xloadflags */
	store_le32(b.data + 0x238, 2047);	/* cmdline_size */
	store_le32(b.data + 0x248, SYNTH_PAYLOAD_AT);
	store_le32(b.data + 0x24c, (uint32_t)payload->len);
	store_le64(b.data + 0x258, SYNTH_LOAD);
	store_le32(b.data + 0x260, 0x200000); /* init_size */
	memset(b.data + SYNTH_CODE_OFFSET + 0x200, 0x90, 16);
	memcpy(b.data + SYNTH_CODE_OFFSET + SYNTH_PAYLOAD_AT, payload->data, payload->len);
	/* A signature behind the code. */
	bytes_add(&b, "signed", 6);
	return b;
}
