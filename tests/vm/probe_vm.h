/* SPDX-License-Identifier: Apache-2.0 */
/* A VM with the probe guest inside the test's own process: its serial port is our end of a socket pair. */
#ifndef SARDINE_TESTS_VM_PROBE_VM_H
#define SARDINE_TESTS_VM_PROBE_VM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/unit/loop-thread.h"
#include "vmm/console.h"
#include "vmm/vm-internal.h"

struct probe_vm {
	struct vm_config config;
	struct loop_thread loop;
	struct console *console;
	struct vm *vm;
	int fd;
	char cache[40];
};

struct probe_vm_options {
	uint64_t mem_bytes;
	unsigned cpus;
	const char *disk;	   /* NULL: none */
	thread_confine_fn confine; /* of the VM's threads and the loop's; NULL: none */
	int ready_seconds;
};

/* Whether there is a /dev/kvm to use; else says so on stderr. */
bool probe_vm_possible(void);

/* Build and start it; the guest is ready when this returns. Return: 0, or -1 with the reason on stderr. */
int probe_vm_start(struct probe_vm *p, const struct probe_vm_options *options);
/* Return: of removing its files. */
int probe_vm_end(struct probe_vm *p);

/* Send a line to the guest. False: it could not be sent. */
bool probe_vm_say(struct probe_vm *p, const char *line);
/* Read until a line starts with @start, at most so long. @ret: the rest of that line; may be NULL. False: too late. */
bool probe_vm_hear(struct probe_vm *p, const char *start, int seconds, char *ret, size_t room);
/* The value of " key=" in an answer, decimal, or @otherwise. */
uint64_t probe_vm_value(const char *answer, const char *key, uint64_t otherwise);

#endif
