/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the boot cache: the user's file, the folder, the layout of a cache file. For boot-cache*.c and their
 * tests. */
#ifndef SARDINE_VMM_BOOT_CACHE_INTERNAL_H
#define SARDINE_VMM_BOOT_CACHE_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "vmm/boot-cache.h"

#define CACHE_SHA256_BYTES 32

/* The longest name of a file of ours in the folder, with its NUL. */
#define CACHE_NAME_MAX 96

/* Files that a user may name. A vmlinux with debug information is some 400 MiB. */
#define CACHE_KERNEL_FILE_MAX ((uint64_t)1 << 30)
#define CACHE_INITRD_FILE_MAX ((uint64_t)2 << 30)

/* Raised whenever the layout below, or what is made of the same source, changes: it is part of the name. */
#define CACHE_VERSION	 1
#define CACHE_PAGE_BYTES 4096
#define CACHE_MAGIC	 "SARDBOOT"

enum cache_kind {
	CACHE_KERNEL,  /* a flat image: unpacked bzImage, or ELF */
	CACHE_BZIMAGE, /* protected-mode code of a bzImage as it is */
	CACHE_INITRD,
	CACHE_KINDS,
};

/* The first page of a cache file; the image follows. */
struct cache_header {
	uint8_t magic[8];
	le32_t version;
	le32_t crc32; /* of this page, with this field zero */
	le32_t kind;
	le32_t entry_kind;
	uint8_t source_sha256[CACHE_SHA256_BYTES];
	le64_t source_bytes;
	le64_t file_bytes;
	le64_t image_bytes;
	le64_t load;
	le64_t mem_bytes;
	le64_t entry;
	le32_t setup_header_bytes;
	uint8_t setup_header[BOOT_SETUP_HEADER_MAX];
	uint8_t reserved[CACHE_PAGE_BYTES - 252];
};
_Static_assert(sizeof(struct cache_header) == CACHE_PAGE_BYTES, "the header is one page");
_Static_assert(offsetof(struct cache_header, crc32) == 12, "layout of version 1");
_Static_assert(offsetof(struct cache_header, source_sha256) == 24, "layout of version 1");
_Static_assert(offsetof(struct cache_header, source_bytes) == 56, "layout of version 1");
_Static_assert(offsetof(struct cache_header, entry) == 96, "layout of version 1");
_Static_assert(offsetof(struct cache_header, setup_header) == 108, "layout of version 1");
_Static_assert(offsetof(struct cache_header, reserved) == 252, "layout of version 1");

/* What a file is, short of its content. */
struct source_id {
	uint64_t dev;
	uint64_t ino;
	uint64_t bytes;
	int64_t mtime_ns;
	int64_t ctime_ns;
};

/* The user's file, opened. */
struct source {
	const char *option; /* "--kernel", borrowed */
	const char *path;   /* borrowed */
	int fd;
	struct source_id id;
	uid_t uid;
	bool is_system; /* owned by root, and nobody else may write it */
};

#define SOURCE_EMPTY ((struct source){.fd = -1})

/**
 * source_open() - Open a file that a user named, whatever it may turn out to be.
 * @option: for messages; borrowed.
 * @path: borrowed.
 * @max: the most bytes accepted.
 * @err: one line on failure.
 * @ret: the caller ends it with source_done().
 *
 * Context: never blocks on a FIFO, opens no device.
 * Return: 0, -EINVAL for what is no regular file, is empty or too large, or the errno of open.
 */
int source_open(const char *option, const char *path, uint64_t max, struct errmsg *err,
		struct source *ret) must_check;
void source_done(struct source *s);

/* Reads again what the file is. Return: 0, -ESTALE when it is not what it was, or an errno. */
int source_recheck(struct source *s) must_check;

/**
 * source_hash() - Hash a file, and copy it if wanted.
 * @s: the file.
 * @out_fd: where to copy it, sparsely, or -1.
 * @out_offset: where there.
 * @err: one line when the source is at fault, empty when @out_fd is.
 * @ret_sha256: SHA-256 of what was read (and copied).
 *
 * Return: 0, -ESTALE when the file changed meanwhile (@err stays empty), or an errno.
 */
int source_hash(struct source *s, int out_fd, uint64_t out_offset, struct errmsg *err,
		uint8_t ret_sha256[CACHE_SHA256_BYTES]) must_check;

/* True when the change time of files on this file system can be believed. */
bool source_has_ctime(const struct source *s);

/* A folder of the cache. */
struct cache_dir {
	int fd;
	char *path; /* for messages */
};

#define CACHE_DIR_EMPTY ((struct cache_dir){.fd = -1})

/* Opens, or creates, a folder; checks that only root and the caller may write in it. */
int cache_dir_open(const char *path, struct errmsg *err, struct cache_dir *ret) must_check;
/* The same for a folder in it. */
int cache_dir_open_sub(const struct cache_dir *dir, const char *name, struct errmsg *err,
		       struct cache_dir *ret) must_check;
void cache_dir_done(struct cache_dir *dir);

/* Removes what dead writers left, and index records older than 90 days (their sources may be gone). */
void cache_dir_clean(const struct cache_dir *dir);

/* The one line about a failed write in the folder. Return: @code. */
int cache_dir_error(const struct cache_dir *dir, const struct source *s, int code, struct errmsg *err);

/**
 * entry_open() - Open a complete file of the cache and check its header.
 * @dir: the folder.
 * @kind: which form.
 * @sha256: of the source.
 * @ret_fd: read-only.
 * @ret: its header.
 *
 * Return: 0, -ENOENT, -EUCLEAN when a file of that name is not one of ours, or an errno.
 */
int entry_open(const struct cache_dir *dir, enum cache_kind kind, const uint8_t sha256[CACHE_SHA256_BYTES],
	       int *ret_fd, struct cache_header *ret) must_check;

/* A file being written: locked while its writer lives, gone unless published. */
struct cache_temp {
	const struct cache_dir *dir;
	int fd;
	char name[CACHE_NAME_MAX]; /* empty once it has none */
};

#define CACHE_TEMP_EMPTY ((struct cache_temp){.fd = -1})

int cache_temp_new(const struct cache_dir *dir, struct cache_temp *ret) must_check;
/* Takes its name away: it lives on as long as the descriptor. */
void cache_temp_unlink(struct cache_temp *temp);
void cache_temp_done(struct cache_temp *temp);

/**
 * entry_publish() - Complete a file and give it its name.
 * @temp: image written behind the first page; its name is gone afterwards.
 * @header: magic, version, CRC and file_bytes are filled in here.
 *
 * When a valid file of that name came into being meanwhile, that one stays and @temp is dropped, so that all
 * VMs map the same.
 *
 * Return: 0 or an errno; on failure nothing is left behind after cache_temp_done().
 */
int entry_publish(struct cache_temp *temp, struct cache_header *header) must_check;

/* Which content a source had when it was last hashed. Return: 0, or -ENOENT when that is not known. */
int index_find(const struct cache_dir *dir, const struct source_id *id,
	       uint8_t ret_sha256[CACHE_SHA256_BYTES]) must_check;

/* Remembers it; failure only costs time later. @now_ns: when the hashing began. */
void index_store(const struct cache_dir *dir, const struct source *s, int64_t now_ns,
		 const uint8_t sha256[CACHE_SHA256_BYTES]);

#endif
