/* SPDX-License-Identifier: Apache-2.0 */
/* Writes the seeds of fuzz_elf and fuzz_bzimage: seeds_kernel elf|bzimage FOLDER. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fs.h"
#include "tests/unit/kernel-synth.h"

static int write_seed(const char *dir, const char *name, struct bytes b)
{
	cleanup(bytes_done) struct bytes owned = b;
	char path[4096];
	auto_fd fd = -1;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	return fd < 0 || write_full(fd, owned.data, owned.len) < 0;
}

static int seeds_elf(const char *dir)
{
	struct synth_elf elf;
	int bad = write_seed(dir, "vmlinux-pvh", synth_vmlinux(1)) |
		  write_seed(dir, "vmlinux", synth_vmlinux(0));

	synth_elf_init(&elf, 0xffffffff81000010);
	synth_elf_add(&elf, PT_LOAD, 0xffffffff81000000, 0x1000000, 0x3000,
		      "\x90\x90\x90\x90 small text here", 20);
	synth_elf_add_pvh(&elf, 0x1000000, 4);
	bad |= write_seed(dir, "small", synth_elf_build(&elf));
	synth_elf_done(&elf);
	return bad;
}

static int seeds_bzimage(const char *dir)
{
	cleanup(bytes_done) struct bytes small = {0};
	int bad = 0;

	for (unsigned i = 0; i < 40; i++)
		bytes_add(&small, "\x7f\x45LF and some more ", 20);
	for (int i = 0; i < SYNTH_PACKINGS; i++) {
		cleanup(bytes_done) struct bytes payload = synth_pack((enum synth_packing)i, &small);

		bad |= write_seed(dir, synth_packing_names[i], synth_bzimage(&payload));
	}
	return bad;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "elf"))
		return seeds_elf(argv[2]);
	if (argc == 3 && !strcmp(argv[1], "bzimage"))
		return seeds_bzimage(argv[2]);
	fprintf(stderr, "usage: seeds_kernel elf|bzimage FOLDER\n");
	return 2;
}
