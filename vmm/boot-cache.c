/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cache of unpacked kernels and of initrds, whose files guest RAM maps.
 *
 * Theory of operation
 *
 * Vocabulary. A *source* is a file the user names. An *entry* is a file of the cache: one page of header,
 * then the bytes that guest RAM maps. Its name is KIND-vVERSION-SHA256: what was made of which content by
 * which version of this code. The *index* remembers which SHA-256 a source inode had, so that a start does
 * not read 200 MiB to find that it knows them.
 *
 * Invariants
 * C1. Only complete entries are mapped. An entry is written under a temporary name, fsynced, made 0444, then
 *     linked to its name; it is never written again. Damaged ones (header checksum, length) are replaced by
 *     rename: VMs that map the old inode keep it.
 * C2. Only root or the caller can have made what is mapped: folder and entry belong to one of them, nobody
 * else may write in the folder. All work is relative to the folder's descriptor, which is checked once, and
 *     follows no symbolic link in it. A hard link of a foreign name to one of our own files fails at the
 *     header, which holds kind and SHA-256. So another user can neither make nor exchange an entry, and what
 *     the caller himself does to his own entries (chmod, write) hurts his own VMs only.
 * C3. Sources are copied, never mapped; what happens to them later does not reach a running VM. A kernel is
 *     copied before it is parsed, so that what was checked is what is used.
 * C4. What an entry holds is what its name says: the source is hashed once to find its entry and once more
 *     while it is copied, and both must agree, as must its size and times before and after; else it is being
 *     written to, and we start over, SOURCE_TRIES times.
 * C5. Domains do not mix. A user's VMs share within the user's own folder. In root's folder, sources that
 * only root can write (distribution kernels) are shared by all; those of others go to a folder of their
 * owner, uUID, so that no frame is shared between two users' images, and neither learns by timing what the
 * other boots. Folders are made 0700: an initrd may hold secrets, and entries are 0444. C6. The index is
 * trusted only where a later write must have changed the times: they lay some seconds back when the source
 * was hashed (the rule git has), and the file system keeps true change times. A write through a mapping that
 * was dirty all the while may escape it, as it escapes make and git; such a VM boots the file as it was.
 *
 * Processes. Any number may use a folder at once, without locks: who links first wins, the others drop theirs
 * and open the winner's, so that all map the same inode. Temporary files are flocked by their writer; those
 * without a holder are removed by the next who writes. Entries may be removed at any time: running VMs keep
 * theirs, the next start makes it again. Nothing is evicted by us.
 *
 * Cost. A known source costs some ten system calls and one page read. A new one is read twice.
 *
 * Rejected: reflinks and fs-verity (not everywhere), mapping the source under a lease (root only, and
 * breaks), a daemon (a VM runs without one).
 */
#include "vmm/boot-cache.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/fs.h"
#include "base/size.h"
#include "vmm/boot-cache-internal.h"
#include "vmm/kernel-bzimage.h"
#include "vmm/kernel-elf.h"
#include "vmm/kernel-sparse.h"
#include "vmm/kernel-unpack.h"

#define SOURCE_TRIES 4

struct boot_cache {
	struct cache_dir dir;
};

/* What is asked for. */
struct request {
	enum cache_kind kind;
	struct source source;
	struct errmsg *err;
};

static void request_done(struct request *rq)
{
	source_done(&rq->source);
}

static int default_dir(char **ret, struct errmsg *err)
{
	const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	char *path = NULL;
	int n;

	if (geteuid() == 0)
		n = asprintf(&path, "/var/cache/sardine");
	else if (xdg && xdg[0] == '/')
		n = asprintf(&path, "%s/sardine", xdg);
	else if (home && home[0] == '/')
		n = asprintf(&path, "%s/.cache/sardine", home);
	else
		return errmsg_set(err, -ENOENT,
				  "no place for unpacked kernels: neither HOME nor XDG_CACHE_HOME is set; "
				  "name a folder "
				  "with --cache-dir");
	if (n < 0)
		return -ENOMEM;
	*ret = path;
	return 0;
}

int boot_cache_open(const char *dir, struct errmsg *err, struct boot_cache **ret)
{
	cleanup(boot_cache_free_p) struct boot_cache *cache = calloc(1, sizeof(*cache));
	auto_free char *path = NULL;
	int r;

	if (!cache)
		return -ENOMEM;
	cache->dir = CACHE_DIR_EMPTY;
	if (!dir) {
		r = default_dir(&path, err);
		if (r < 0)
			return r;
		dir = path;
	}
	r = cache_dir_open(dir, err, &cache->dir);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(cache);
	return 0;
}

void boot_cache_free(struct boot_cache *cache)
{
	if (!cache)
		return;
	cache_dir_done(&cache->dir);
	free(cache);
}

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

/* Puts option and file before what is wrong with it. An error without text is ours: of the folder or of
 * memory. */
static int source_error(struct request *rq, const struct cache_dir *dir, int code, const struct errmsg *why)
{
	if (why->text[0])
		return errmsg_set(rq->err, code, "%s %s: %s", rq->source.option, rq->source.path, why->text);
	if (code == -ENOMEM)
		return errmsg_set(rq->err, code, "%s %s: not enough memory to read it", rq->source.option,
				  rq->source.path);
	return cache_dir_error(dir, &rq->source, code, rq->err);
}

/* Refuses at first sight what is no kernel at all. */
static int kernel_probe(struct request *rq)
{
	const struct source *s = &rq->source;
	uint8_t head[BZIMAGE_HEAD_BYTES];
	size_t len = s->id.bytes < sizeof(head) ? (size_t)s->id.bytes : sizeof(head);
	int r = pread_full(s->fd, head, len, 0);

	if (r < 0)
		return errmsg_set(rq->err, r, "%s %s: cannot read: %s", s->option, s->path, strerror(-r));
	if (bzimage_is(head, len))
		return 0;
	if (!elf_is(head, len))
		return errmsg_set(rq->err, -ENOEXEC,
				  "%s %s: not a Linux kernel for x86 (neither bzImage nor ELF); name a "
				  "vmlinuz or vmlinux",
				  s->option, s->path);
	if (rq->kind == CACHE_BZIMAGE)
		return errmsg_set(
			rq->err, -EINVAL,
			"%s %s: an ELF kernel cannot randomise its address; use --kaslr off or its bzImage",
			s->option, s->path);
	return 0;
}

/* --kaslr on: the code as it is. */
static int make_bzimage(const struct bzimage *b, int in_fd, int out_fd, struct errmsg *why,
			struct cache_header *h)
{
	int r;

	if (!b->has_entry64)
		return errmsg_set(
			why, -ENOEXEC,
			"its code cannot be entered in 64-bit mode (XLF_KERNEL_64); use --kaslr off");
	r = sparse_copy(in_fd, b->code_offset, b->code_bytes, out_fd, CACHE_PAGE_BYTES, NULL);
	if (r < 0)
		return r;
	le64_put(&h->image_bytes, page_up(b->code_bytes));
	le64_put(&h->load, b->load);
	le64_put(&h->mem_bytes, b->mem_bytes);
	le64_put(&h->entry, b->load + 0x200);
	le32_put(&h->entry_kind, BOOT_ENTRY_BZIMAGE);
	le32_put(&h->setup_header_bytes, b->setup_header_bytes);
	memcpy(h->setup_header, b->setup_header, b->setup_header_bytes);
	return 0;
}

static int make_flat(int in_fd, uint64_t bytes, int out_fd, struct errmsg *why, struct cache_header *h)
{
	struct elf_kernel elf;
	uint64_t image_bytes;
	int r = elf_kernel_parse(in_fd, bytes, why, &elf);

	if (r == 0)
		r = elf_kernel_flatten(&elf, in_fd, out_fd, CACHE_PAGE_BYTES, &image_bytes);
	if (r < 0)
		return r;
	le64_put(&h->image_bytes, image_bytes);
	le64_put(&h->load, elf.load);
	le64_put(&h->mem_bytes, elf.mem_bytes);
	le64_put(&h->entry, elf.entry);
	le32_put(&h->entry_kind, elf.kind);
	return 0;
}

/* From our copy of the kernel file to the image. */
static int make_kernel(struct request *rq, const struct cache_dir *dir, int in_fd, int out_fd,
		       struct errmsg *why, struct cache_header *h)
{
	cleanup(cache_temp_done) struct cache_temp unpacked = CACHE_TEMP_EMPTY;
	uint64_t file_bytes = rq->source.id.bytes, bytes;
	uint8_t head[BZIMAGE_HEAD_BYTES];
	size_t len = file_bytes < sizeof(head) ? (size_t)file_bytes : sizeof(head);
	struct bzimage b;
	int r = pread_full(in_fd, head, len, 0);

	if (r < 0)
		return r;
	if (!bzimage_is(head, len))
		return make_flat(in_fd, file_bytes, out_fd, why, h);
	r = bzimage_parse(head, len, file_bytes, why, &b);
	if (r < 0)
		return r;
	if (rq->kind == CACHE_BZIMAGE)
		return make_bzimage(&b, in_fd, out_fd, why, h);
	r = cache_temp_new(dir, &unpacked);
	if (r < 0)
		return r;
	cache_temp_unlink(&unpacked);
	r = kernel_unpack(in_fd, b.payload_offset, b.payload_bytes, unpacked.fd, KERNEL_UNPACKED_MAX, why,
			  &bytes);
	return r < 0 ? r : make_flat(unpacked.fd, bytes, out_fd, why, h);
}

/* Copies the source; -ESTALE when it is no longer what was hashed. */
static int copy_source(struct request *rq, int out_fd, uint64_t out_offset, const uint8_t *sha256)
{
	uint8_t copied[CACHE_SHA256_BYTES];
	int r = source_hash(&rq->source, out_fd, out_offset, rq->err, copied);

	if (r < 0)
		return r;
	return memcmp(copied, sha256, sizeof(copied)) ? -ESTALE : 0;
}

/* Makes the entry; -ESTALE when the source changes meanwhile. */
static int fill(struct request *rq, const struct cache_dir *dir, const uint8_t sha256[CACHE_SHA256_BYTES])
{
	cleanup(cache_temp_done) struct cache_temp image = CACHE_TEMP_EMPTY, copy = CACHE_TEMP_EMPTY;
	struct cache_header h = {0};
	struct errmsg why = {0};
	int r;

	cache_dir_clean(dir);
	r = cache_temp_new(dir, &image);
	if (r < 0)
		return source_error(rq, dir, r, &why);
	le32_put(&h.kind, rq->kind);
	memcpy(h.source_sha256, sha256, CACHE_SHA256_BYTES);
	if (rq->kind == CACHE_INITRD) {
		r = copy_source(rq, image.fd, CACHE_PAGE_BYTES, sha256);
		le64_put(&h.image_bytes, rq->source.id.bytes);
	} else {
		r = cache_temp_new(dir, &copy);
		if (r == 0) {
			cache_temp_unlink(&copy);
			r = ftruncate(copy.fd, (off_t)rq->source.id.bytes) < 0 ? -errno : 0;
		}
		if (r == 0)
			r = copy_source(rq, copy.fd, 0, sha256);
		if (r == 0)
			r = make_kernel(rq, dir, copy.fd, image.fd, &why, &h);
	}
	le64_put(&h.source_bytes, rq->source.id.bytes);
	if (r == 0)
		r = entry_publish(&image, &h);
	if (r == -ESTALE)
		return r;
	return r < 0 ? source_error(rq, dir, r, &why) : 0;
}

/* One attempt; -ESTALE when the source changed under it. */
static int find_or_make(struct request *rq, const struct cache_dir *dir, int *ret_fd,
			struct cache_header *ret)
{
	uint8_t sha256[CACHE_SHA256_BYTES];
	const struct errmsg none = {0};
	int64_t began_ns;
	int r;

	if (index_find(dir, &rq->source.id, sha256) == 0 &&
	    entry_open(dir, rq->kind, sha256, ret_fd, ret) == 0)
		return 0;
	if (rq->kind != CACHE_INITRD) {
		r = kernel_probe(rq);
		if (r < 0)
			return r;
	}
	began_ns = now_ns();
	r = source_hash(&rq->source, -1, 0, rq->err, sha256);
	if (r == -ESTALE)
		return r;
	if (r < 0)
		return source_error(rq, dir, r, &none);
	r = entry_open(dir, rq->kind, sha256, ret_fd, ret);
	if (r == -ENOENT || r == -EUCLEAN) {
		r = fill(rq, dir, sha256);
		if (r < 0)
			return r;
		r = entry_open(dir, rq->kind, sha256, ret_fd, ret);
	}
	if (r < 0)
		return source_error(rq, dir, r, &none);
	index_store(dir, &rq->source, began_ns, sha256);
	return 0;
}

/* The folder of the source's sharing domain. */
static int domain_dir(const struct boot_cache *cache, const struct source *s, struct errmsg *err,
		      struct cache_dir *ret)
{
	char name[32] = ".";

	if (geteuid() == 0 && !s->is_system)
		snprintf(name, sizeof(name), "u%u", (unsigned)s->uid);
	return cache_dir_open_sub(&cache->dir, name, err, ret);
}

static int get(struct boot_cache *cache, struct request *rq, int *ret_fd, struct cache_header *ret)
{
	cleanup(cache_dir_done) struct cache_dir dir = CACHE_DIR_EMPTY;
	int r = domain_dir(cache, &rq->source, rq->err, &dir);

	if (r < 0)
		return r;
	r = -ESTALE;
	for (unsigned i = 0; r == -ESTALE && i < SOURCE_TRIES; i++)
		r = find_or_make(rq, &dir, ret_fd, ret);
	if (r == -ESTALE)
		return errmsg_set(rq->err, -EAGAIN,
				  "%s %s: somebody is writing to it; try again when it is complete",
				  rq->source.option, rq->source.path);
	return r;
}

int boot_cache_kernel(struct boot_cache *cache, const char *path, bool kaslr, struct errmsg *err,
		      struct boot_image *ret)
{
	cleanup(request_done) struct request rq = {
		.kind = kaslr ? CACHE_BZIMAGE : CACHE_KERNEL,
		.source = SOURCE_EMPTY,
		.err = err,
	};
	struct cache_header h;
	auto_fd fd = -1;
	int r = source_open("--kernel", path, CACHE_KERNEL_FILE_MAX, err, &rq.source);

	if (r == 0)
		r = get(cache, &rq, &fd, &h);
	if (r < 0)
		return r;
	*ret = (struct boot_image){
		.fd = TAKE_FD(fd),
		.offset = CACHE_PAGE_BYTES,
		.bytes = le64_get(&h.image_bytes),
		.load = GPA(le64_get(&h.load)),
		.mem_bytes = le64_get(&h.mem_bytes),
		.entry = GPA(le64_get(&h.entry)),
		.kind = (enum boot_entry)le32_get(&h.entry_kind),
		.setup_header_bytes = le32_get(&h.setup_header_bytes),
	};
	memcpy(ret->setup_header, h.setup_header, sizeof(ret->setup_header));
	return 0;
}

int boot_cache_initrd(struct boot_cache *cache, const char *path, struct errmsg *err, struct boot_blob *ret)
{
	cleanup(request_done) struct request rq = {
		.kind = CACHE_INITRD,
		.source = SOURCE_EMPTY,
		.err = err,
	};
	struct cache_header h;
	auto_fd fd = -1;
	int r = source_open("--initrd", path, CACHE_INITRD_FILE_MAX, err, &rq.source);

	if (r == 0)
		r = get(cache, &rq, &fd, &h);
	if (r < 0)
		return r;
	*ret = (struct boot_blob){
		.fd = TAKE_FD(fd),
		.offset = CACHE_PAGE_BYTES,
		.bytes = le64_get(&h.image_bytes),
	};
	return 0;
}
