/* SPDX-License-Identifier: Apache-2.0 */
/* `sardine bench`: what sharing is worth and what it costs, measured on replay VMs. */
#include <argp.h>
#include <errno.h>
#include <string.h>

#include "base/addr.h"
#include "base/size.h"
#include "tools/bench.h"
#include "tools/cli.h"
#include "tools/client.h"
#include "tools/replay-spec.h"

#define LIMIT_MAX_S 86400u

enum { OPT_VMS = 256, OPT_MEM, OPT_CONTENT, OPT_ENGINES, OPT_THP, OPT_LIMIT };

struct args {
	struct bench_options o;
	const char *what; /* "merge" */
	char *images;	  /* copy that o.images points into */
	struct errmsg err;
};

static void wrong(struct args *a, const char *option, const char *arg, const char *wanted)
{
	errmsg_set(&a->err, -EINVAL, "--%s %.80s: %s", option, arg, wanted);
}

static void set_images(struct args *a, const char *list)
{
	size_t count = 1;
	char *save = NULL;

	for (const char *p = list; *p; p++)
		count += *p == ',';
	free(a->images);
	free(a->o.images);
	a->images = strdup(list);
	a->o.images = calloc(count, sizeof(*a->o.images));
	if (!a->images || !a->o.images) {
		errmsg_set(&a->err, -ENOMEM, "out of memory");
		return;
	}
	a->o.image_count = 0;
	for (char *p = strtok_r(a->images, ",", &save); p; p = strtok_r(NULL, ",", &save)) {
		if (access(p, R_OK) < 0)
			errmsg_set(&a->err, -errno, "--content images: %.200s: %s", p, strerror(errno));
		a->o.images[a->o.image_count++] = p;
	}
	if (a->o.image_count == 0)
		wrong(a, "content", "images:", "give the names of dumps, with commas between");
}

static void set_content(struct args *a, const char *arg)
{
	struct replay_spec spec;
	struct errmsg err = {0};

	a->o.synthetic = NULL;
	if (strncmp(arg, "images:", 7) == 0) {
		set_images(a, arg + 7);
	} else if (strncmp(arg, "synthetic:", 10) != 0) {
		wrong(a, "content", arg, "give images:FILE[,FILE...] or synthetic:SPEC");
	} else if (replay_spec_parse(arg + 10, &err, &spec) < 0) {
		errmsg_set(&a->err, -EINVAL, "--content synthetic: %s", err.text);
	} else {
		replay_spec_done(&spec);
		a->o.synthetic = arg + 10;
	}
}

static void set_engines(struct args *a, const char *arg)
{
	a->o.engine_count = 0;
	for (const char *p = arg;; p++) {
		size_t len = strcspn(p, ",");
		unsigned i = 0;

		while (i < BENCH_ENGINES &&
		       (strlen(bench_engine_name(i)) != len || strncmp(p, bench_engine_name(i), len)))
			i++;
		if (i == BENCH_ENGINES || a->o.engine_count == BENCH_ENGINES) {
			wrong(a, "engines", arg, "give a list of ksmd-default, ksmd-fastest, each once");
			return;
		}
		a->o.engines[a->o.engine_count++] = (enum bench_engine)i;
		p += len;
		if (!*p)
			return;
	}
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct args *a = state->input;
	uint64_t n;

	switch (key) {
	case 'j':
		a->o.json = true;
		return 0;
	case OPT_VMS:
		if (number_parse(arg, BENCH_VMS_MAX, &n) < 0 || n == 0)
			wrong(a, "vms", arg, "give a number, 1 to 64");
		else
			a->o.vms = (unsigned)n;
		return 0;
	case OPT_MEM:
		if (size_parse(arg, &a->o.mem_bytes) < 0 || a->o.mem_bytes == 0 || a->o.mem_bytes & PAGE_MASK)
			wrong(a, "mem", arg, "give a size of whole pages of 4096 bytes");
		return 0;
	case OPT_CONTENT:
		set_content(a, arg);
		return 0;
	case OPT_ENGINES:
		set_engines(a, arg);
		return 0;
	case OPT_THP:
		if (strcmp(arg, "on") != 0 && strcmp(arg, "off") != 0)
			wrong(a, "thp", arg, "must be on or off");
		a->o.thp = strcmp(arg, "on") == 0;
		return 0;
	case OPT_LIMIT:
		if (number_parse(arg, LIMIT_MAX_S, &a->o.limit_s) < 0 || a->o.limit_s == 0)
			wrong(a, "limit", arg, "give seconds, 1 to 86400");
		return 0;
	case ARGP_KEY_ARG:
		if (a->what)
			errmsg_set(&a->err, -EINVAL, "%.80s: one argument too many", arg);
		a->what = arg;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int run(const char *verb, struct args *a)
{
	if (!a->what)
		errmsg_set(&a->err, -EINVAL, "say what to measure: merge");
	else if (strcmp(a->what, "merge") != 0)
		errmsg_set(&a->err, -EINVAL, "%.80s: no such benchmark; there is: merge", a->what);
	if (a->o.synthetic && !a->o.mem_bytes)
		a->o.mem_bytes = 256 * MIB;
	if (a->err.text[0])
		return cli_error(verb, CLI_USAGE, "%s", a->err.text);
	return bench_merge(verb, &a->o);
}

int cmd_bench(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{.name = "vms", .key = OPT_VMS, .arg = "N", .doc = "how many VMs (default 4)"},
		{.name = "mem",
		 .key = OPT_MEM,
		 .arg = "SIZE",
		 .doc = "memory of each (default 256M; with images: as large as these)"},
		{.name = "content",
		 .key = OPT_CONTENT,
		 .arg = "WHAT",
		 .doc = "what the VMs hold: images:FILE[,FILE...], in turn, or synthetic:SPEC (default "
			"synthetic:guests)"},
		{.name = "engines",
		 .key = OPT_ENGINES,
		 .arg = "LIST",
		 .doc = "what to compare, with commas between: ksmd-default, ksmd-fastest (default: all)"},
		{.name = "thp",
		 .key = OPT_THP,
		 .arg = "on|off",
		 .doc = "transparent huge pages (default off)"},
		{.name = "limit",
		 .key = OPT_LIMIT,
		 .arg = "SECONDS",
		 .doc = "end an engine's run after that time, settled or not (default 120)"},
		CLIENT_OPTION_JSON,
		{0},
	};
	static const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.args_doc = "merge",
		.doc = "Measures what sharing is worth and what it costs. merge: the same bytes through each "
		       "engine.\v"
		       "ksmd's settings are put back in the end, also when the benchmark is killed.\n"
		       "Exit status: 0 done, 1 failed, 2 wrong command line, 77 this host cannot (the reason "
		       "is on standard "
		       "error).",
	};
	struct args a = {
		.o = {.vms = 4,
		      .synthetic = REPLAY_SPEC_DEFAULT,
		      .engines = {BENCH_KSMD_DEFAULT, BENCH_KSMD_FASTEST},
		      .engine_count = BENCH_ENGINES,
		      .limit_s = 120},
	};
	int code;

	argp_parse(&argp, argc, argv, 0, NULL, &a);
	code = run(argv[0], &a);
	free(a.images);
	free(a.o.images);
	return code;
}
