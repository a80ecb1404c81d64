/* SPDX-License-Identifier: Apache-2.0 */
/* make-filters OUTPUT: compiles the system call lists of all kinds of threads into seccomp programs, at build time, so that a VM's
 * start neither needs libseccomp nor waits for it. With --text: says what each program allows, for people. */
#include <errno.h>
#include <linux/filter.h>
#include <seccomp.h>
#include <stdio.h>
#include <string.h>

#include "tools/confine-threads.h"

static int add_rule(scmp_filter_ctx ctx, const struct syscall_rule *rule)
{
	struct scmp_arg_cmp arg = SCMP_CMP64(rule->argument, SCMP_CMP_MASKED_EQ, rule->mask, rule->value);
	int r = seccomp_rule_add_array(ctx, SCMP_ACT_ALLOW, (int)rule->number, rule->checked ? 1 : 0, &arg);

	/* A call that another list allows already. */
	return r == -EEXIST ? 0 : r;
}

/* What the lists allow, everything else as @otherwise. NULL on failure. */
static scmp_filter_ctx make(enum thread_kind kind, uint32_t otherwise)
{
	scmp_filter_ctx ctx = seccomp_init(otherwise);
	int r;

	if (!ctx)
		return NULL;
	/* A tree instead of a chain: the same work for each call. */
	r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	for (const struct syscall_list *const *list = confine_thread_lists(kind); r == 0 && *list; list++) {
		for (size_t i = 0; r == 0 && i < (*list)->count; i++) {
			r = add_rule(ctx, &(*list)->rules[i]);
			if (r < 0)
				fprintf(stderr, "make-filters: %s, row %zu: %s\n", (*list)->who, i,
					strerror(-r));
		}
	}
	/* The C library then makes threads by clone(), whose flags a filter can see. */
	if (r == 0 && kind == THREAD_LOOP)
		r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	if (r == 0)
		return ctx;
	seccomp_release(ctx);
	return NULL;
}

static int print_program(FILE *out, enum thread_kind kind, const char *suffix, uint32_t otherwise)
{
	scmp_filter_ctx ctx = make(kind, otherwise);
	FILE *bpf = tmpfile();
	struct sock_filter insn;
	int r = ctx && bpf ? seccomp_export_bpf(ctx, fileno(bpf)) : -1;

	if (ctx)
		seccomp_release(ctx);
	if (!bpf)
		return -1;
	rewind(bpf);
	fprintf(out, "static const struct sock_filter %s_%s[] = {\n", thread_kind_name(kind), suffix);
	while (r == 0 && fread(&insn, sizeof(insn), 1, bpf) == 1)
		fprintf(out, "\t{%#x, %u, %u, %#x},\n", insn.code, insn.jt, insn.jf, insn.k);
	fprintf(out, "};\n\n");
	fclose(bpf);
	return r;
}

/* The programs of all kinds, by kind. */
static void print_table(FILE *out, const char *suffix)
{
	fprintf(out, "static const struct filter_program programs_%s[] = {\n", suffix);
	for (unsigned kind = 0; kind < THREAD_KINDS; kind++) {
		const char *name = thread_kind_name((enum thread_kind)kind);

		fprintf(out, "\t{%s_%s, sizeof(%s_%s) / sizeof(%s_%s[0])},\n", name, suffix, name, suffix,
			name, suffix);
	}
	fprintf(out, "};\n\n");
}

static int print_programs(FILE *out, const char *suffix, uint32_t otherwise)
{
	int r = 0;

	for (unsigned kind = 0; r == 0 && kind < THREAD_KINDS; kind++)
		r = print_program(out, (enum thread_kind)kind, suffix, otherwise);
	print_table(out, suffix);
	return r;
}

static int print_text(enum thread_kind kind)
{
	scmp_filter_ctx ctx = make(kind, SCMP_ACT_KILL_PROCESS);
	int r;

	if (!ctx)
		return -1;
	printf("# %s\n", thread_kind_name(kind));
	fflush(stdout);
	r = seccomp_export_pfc(ctx, fileno(stdout));
	seccomp_release(ctx);
	return r;
}

int main(int argc, char **argv)
{
	FILE *out;
	int r = 0;

	if (argc != 2) {
		fprintf(stderr, "usage: make-filters OUTPUT|--text\n");
		return 2;
	}
	if (strcmp(argv[1], "--text") == 0) {
		for (unsigned kind = 0; r == 0 && kind < THREAD_KINDS; kind++)
			r = print_text((enum thread_kind)kind);
		return r == 0 ? 0 : 1;
	}
	out = fopen(argv[1], "w");
	if (!out) {
		fprintf(stderr, "make-filters: %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	fprintf(out, "/* Made by tools/make-filters.c from the tables of system calls. */\n"
		     "struct filter_program {\n\tconst struct sock_filter *insns;\n\tunsigned short "
		     "count;\n};\n\n");
	r = print_programs(out, "kill", SCMP_ACT_KILL_PROCESS);
	if (r == 0)
		r = print_programs(out, "log", SCMP_ACT_LOG);
	if (fclose(out) != 0)
		r = -1;
	return r == 0 ? 0 : 1;
}
