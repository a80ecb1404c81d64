/* SPDX-License-Identifier: Apache-2.0 */
/* A VM with the probe guest inside the test's own process. */
#include "tests/vm/probe_vm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fs.h"

bool probe_vm_possible(void)
{
	if (access("/dev/kvm", R_OK | W_OK) == 0)
		return true;
	fprintf(stderr, "skipped: /dev/kvm: %s\n", strerror(errno));
	return false;
}

struct confined_loop {
	struct io_loop *loop;
	thread_confine_fn confine;
};

static void *confined_loop_main(void *arg)
{
	struct confined_loop c = *(struct confined_loop *)arg;

	free(arg);
	c.confine(THREAD_LOOP);
	return loop_thread_main(c.loop);
}

static void start_loop(struct probe_vm *p, thread_confine_fn confine)
{
	struct confined_loop *c;

	if (!confine) {
		loop_thread_start(&p->loop);
		return;
	}
	c = malloc(sizeof(*c));
	if (!c)
		abort();
	*c = (struct confined_loop){p->loop.loop, confine};
	if (pthread_create(&p->loop.thread, NULL, confined_loop_main, c))
		abort();
}

static int configure(struct probe_vm *p, const struct probe_vm_options *o)
{
	if (vm_config_init(&p->config) < 0)
		return -1;
	snprintf(p->config.name, sizeof(p->config.name), "probe");
	p->config.kernel = strdup(getenv("SARDINE_PROBE") ? getenv("SARDINE_PROBE") : "probe.elf");
	p->config.cache_dir = strdup(p->cache);
	p->config.mem_bytes = o->mem_bytes;
	p->config.cpus = o->cpus;
	if (o->disk) {
		p->config.disks[0].path = strdup(o->disk);
		p->config.disk_count = 1;
	}
	return 0;
}

int probe_vm_start(struct probe_vm *p, const struct probe_vm_options *o)
{
	struct errmsg err = {0};
	int fds[2];

	snprintf(p->cache, sizeof(p->cache), "/tmp/sardine-probe-XXXXXX");
	if (!mkdtemp(p->cache) || configure(p, o) < 0 || io_loop_new(&p->loop.loop) < 0 ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return -1;
	p->fd = fds[0];
	if (fcntl(fds[1], F_SETFL, O_NONBLOCK) < 0 ||
	    console_new(p->loop.loop, CONSOLE_NONE, NULL, &err, &p->console) < 0 ||
	    console_attach(p->console, fds[1], "", 0, "", 0) < 0 ||
	    vm_new(&p->config, p->loop.loop, p->console, &err, &p->vm) < 0) {
		fprintf(stderr, "%s\n", err.text);
		return -1;
	}
	if (o->confine)
		vm_set_confine(p->vm, o->confine);
	if (vm_start(p->vm, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		return -1;
	}
	start_loop(p, o->confine);
	if (!probe_vm_hear(p, "probe: ready", o->ready_seconds, NULL, 0)) {
		fprintf(stderr, "the probe guest does not get ready\n");
		return -1;
	}
	return 0;
}

int probe_vm_end(struct probe_vm *p)
{
	char command[64];

	vm_end(p->vm, VM_END_KILLED);
	pthread_join(p->loop.thread, NULL);
	vm_free(p->vm);
	console_free(p->console);
	io_loop_free(p->loop.loop);
	vm_config_done(&p->config);
	close(p->fd);
	snprintf(command, sizeof(command), "rm -rf '%s'", p->cache);
	return system(command);
}

bool probe_vm_say(struct probe_vm *p, const char *line)
{
	return write_full(p->fd, line, strlen(line)) == 0;
}

bool probe_vm_hear(struct probe_vm *p, const char *start, int seconds, char *ret, size_t room)
{
	int64_t deadline = test_now_ms() + seconds * 1000;
	char line[1024];
	size_t len = 0;

	for (;;) {
		struct pollfd f = {.fd = p->fd, .events = POLLIN};
		int64_t left = deadline - test_now_ms();
		char c;

		if (left <= 0 || poll(&f, 1, (int)left) != 1 || read(p->fd, &c, 1) != 1)
			return false;
		if (c == '\n') {
			line[len] = '\0';
			if (strncmp(line, start, strlen(start)) == 0) {
				if (ret)
					snprintf(ret, room, "%s", line + strlen(start));
				return true;
			}
			if (line[0] == '!' || strstr(line, " err "))
				fprintf(stderr, "guest: %s\n", line);
			len = 0;
		} else if (c != '\r' && len + 1 < sizeof(line)) {
			line[len++] = c;
		}
	}
}

uint64_t probe_vm_value(const char *answer, const char *key, uint64_t otherwise)
{
	char wanted[40];
	const char *at;

	snprintf(wanted, sizeof(wanted), " %s=", key);
	at = strstr(answer, wanted);
	return at ? strtoull(at + strlen(wanted), NULL, 10) : otherwise;
}
