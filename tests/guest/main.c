/* SPDX-License-Identifier: Apache-2.0 */
/* The command loop. */
#include "probe.h"

static const struct verb *const tables[] = {machine_verbs, memory_verbs,  virtio_verbs, blk_verbs,
					    net_verbs,	   balloon_verbs, rng_verbs,	vsock_verbs,
					    hostile_verbs, churn_verbs};
static struct command current; /* id NULL: none runs */

void probe_main(unsigned boot, uint64_t info);

void answer(const struct command *c)
{
	say("@%s ok", c->id);
}

void fail(const struct command *c, const char *fmt, ...)
{
	char text[256];
	va_list args;

	va_start(args, fmt);
	say("@%s err ", c->id);
	serial_write(text, text_format(text, sizeof(text), fmt, args));
	va_end(args);
}

/* The value of KEY=VALUE among the arguments, its length in *ret; NULL when absent. */
static const char *arg_find(const struct command *c, const char *key, size_t *ret)
{
	size_t n = text_length(key);

	for (const char *p = c->args; *p;) {
		const char *word = p;

		while (*p && *p != ' ')
			p++;
		if ((size_t)(p - word) > n && word[n] == '=' && !memcmp(word, key, n)) {
			*ret = (size_t)(p - word) - n - 1;
			return word + n + 1;
		}
		while (*p == ' ')
			p++;
	}
	return NULL;
}

bool arg_given(const struct command *c, const char *key)
{
	size_t n;

	return arg_find(c, key, &n);
}

uint64_t arg(const struct command *c, const char *key, uint64_t otherwise)
{
	size_t n;
	uint64_t v;
	const char *text = arg_find(c, key, &n);

	return text && text_number(text, n, &v) ? v : otherwise;
}

bool arg_text(const struct command *c, const char *key, char *buf, size_t size)
{
	size_t n;
	const char *text = arg_find(c, key, &n);

	if (!text || n >= size)
		return false;
	memcpy(buf, text, n);
	buf[n] = 0;
	return true;
}

static char *next_word(char **p)
{
	char *word = *p;

	while (**p && **p != ' ')
		(*p)++;
	while (**p == ' ')
		*(*p)++ = 0;
	return word;
}

static void run(char *line)
{
	current.id = next_word(&line);
	current.verb = next_word(&line);
	current.args = line;
	for (size_t t = 0; t < ARRAY_SIZE(tables); t++) {
		for (const struct verb *v = tables[t]; v->name; v++) {
			if (text_equal(v->name, current.verb)) {
				v->run(&current);
				say("\n");
				current.id = NULL;
				return;
			}
		}
	}
	fail(&current, "unknown verb");
	say("\n");
	current.id = NULL;
}

static _Noreturn void command_loop(void)
{
	for (;;) {
		char *line = serial_line();

		if (line && line[0] == '@')
			run(line + 1);
		else if (!line)
			delay_us(20);
	}
}

void fault_on_first_cpu(uint64_t vector, uint64_t code, uint64_t rip, uint64_t cr2, uint64_t rsp)
{
	cpus_stop();
	say("\n!fault cpu=0 vector=%lu code=%lx rip=%lx cr2=%lx rsp=%lx\n", vector, code, rip, cr2, rsp);
	if (current.id) {
		fail(&current, "fault vector=%lu rip=%lx cr2=%lx\n", vector, rip, cr2);
		current.id = NULL;
	}
	command_loop();
}

void probe_main(unsigned boot, uint64_t info)
{
	serial_init();
	say("\nprobe: entered by %s\n", boot == BOOT_PVH ? "pvh" : "linux64");
	machine_find(boot, info);
	irqs_init();
	say("probe: ready\n");
	command_loop();
}
