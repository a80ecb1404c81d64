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
#define SECONDS_MAX 3600u
#define MEM_MAX	    (UINT64_C(1) << 40)

enum { OPT_VMS = 256, OPT_MEM, OPT_CONTENT, OPT_ENGINES, OPT_THP, OPT_LIMIT, OPT_SECONDS, OPT_PAIRS };

struct args {
	struct bench_options o;
	const char *what;	/* "merge", "idle" */
	bool of_merge, of_idle; /* an option that only this one has */
	char *images;		/* copy that o.images points into */
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
			wrong(a, "engines", arg,
			      "give a list of ksmd-default, ksmd-fastest, store, each once");
			return;
		}
		a->o.engines[a->o.engine_count++] = (enum bench_engine)i;
		p += len;
		if (!*p)
			return;
	}
}

static void set_mems(struct args *a, const char *arg)
{
	a->o.mem_count = 0;
	for (const char *p = arg;; p++) {
		size_t len = strcspn(p, ",");
		char one[24];
		uint64_t bytes = 0;

		if (len < sizeof(one)) {
			memcpy(one, p, len);
			one[len] = '\0';
		}
		if (len >= sizeof(one) || a->o.mem_count == BENCH_MEMS_MAX || size_parse(one, &bytes) < 0 ||
		    bytes == 0 || bytes > MEM_MAX || bytes & PAGE_MASK) {
			wrong(a, "mem", arg,
			      "give sizes of whole pages of 4096 bytes, at most 1T, at most 16 of them");
			return;
		}
		a->o.mems[a->o.mem_count++] = bytes;
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
		a->of_merge = true;
		if (number_parse(arg, BENCH_VMS_MAX, &n) < 0 || n == 0)
			wrong(a, "vms", arg, "give a number, 1 to 64");
		else
			a->o.vms = (unsigned)n;
		return 0;
	case OPT_MEM:
		set_mems(a, arg);
		return 0;
	case OPT_SECONDS:
		a->of_idle = true;
		if (number_parse(arg, SECONDS_MAX, &a->o.seconds) < 0 || a->o.seconds == 0)
			wrong(a, "seconds", arg, "give a number, 1 to 3600");
		return 0;
	case OPT_PAIRS:
		a->of_idle = true;
		if (number_parse(arg, BENCH_PAIRS_MAX, &n) < 0 || n == 0)
			wrong(a, "pairs", arg, "give a number, 1 to 99");
		else
			a->o.pairs = (unsigned)n;
		return 0;
	case OPT_CONTENT:
		set_content(a, arg);
		return 0;
	case OPT_ENGINES:
		a->of_merge = true;
		set_engines(a, arg);
		return 0;
	case OPT_THP:
		if (strcmp(arg, "on") != 0 && strcmp(arg, "off") != 0)
			wrong(a, "thp", arg, "must be on or off");
		a->o.thp = strcmp(arg, "on") == 0;
		return 0;
	case OPT_LIMIT:
		a->of_merge = true;
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
	bool idle = a->what && strcmp(a->what, "idle") == 0;

	if (!a->what)
		errmsg_set(&a->err, -EINVAL, "say what to measure: merge or idle");
	else if (!idle && strcmp(a->what, "merge") != 0)
		errmsg_set(&a->err, -EINVAL, "%.80s: no such benchmark; there are: merge, idle", a->what);
	else if (idle && (a->of_merge || !a->o.synthetic))
		errmsg_set(&a->err, -EINVAL, "--vms, --engines, --limit and images are for: merge");
	else if (!idle && (a->of_idle || a->o.mem_count > 1))
		errmsg_set(&a->err, -EINVAL, "--seconds, --pairs and several sizes are for: idle");
	if (a->err.text[0])
		return cli_error(verb, CLI_USAGE, "%s", a->err.text);
	if (idle && !a->o.mem_count)
		set_mems(a, "1G");
	else if (a->o.synthetic && !a->o.mem_count)
		set_mems(a, "256M");
	a->o.mem_bytes = a->o.mem_count ? a->o.mems[0] : 0;
	return idle ? bench_idle(verb, &a->o) : bench_merge(verb, &a->o);
}

int cmd_bench(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{.name = "vms", .key = OPT_VMS, .arg = "N", .doc = "merge: how many VMs (default 4)"},
		{.name = "mem",
		 .key = OPT_MEM,
		 .arg = "SIZE",
		 .doc = "memory of each (merge: default 256M, with images as large as these); idle: of the "
			"VM, also several "
			"sizes with commas between (default 1G)"},
		{.name = "content",
		 .key = OPT_CONTENT,
		 .arg = "WHAT",
		 .doc = "what the VMs hold: images:FILE[,FILE...], in turn, or synthetic:SPEC (default "
			"synthetic:guests)"},
		{.name = "engines",
		 .key = OPT_ENGINES,
		 .arg = "LIST",
		 .doc = "merge: what to compare, with commas between: ksmd-default, ksmd-fastest, store "
			"(default: "
			"all)"},
		{.name = "thp",
		 .key = OPT_THP,
		 .arg = "on|off",
		 .doc = "transparent huge pages (default off)"},
		{.name = "limit",
		 .key = OPT_LIMIT,
		 .arg = "SECONDS",
		 .doc = "merge: end an engine's run after that time, settled or not (default 120)"},
		{.name = "seconds",
		 .key = OPT_SECONDS,
		 .arg = "N",
		 .doc = "idle: measure each figure for so long (default 10)"},
		{.name = "pairs",
		 .key = OPT_PAIRS,
		 .arg = "N",
		 .doc = "idle: slices of a load without and with the engine (default 5)"},
		CLIENT_OPTION_JSON,
		{0},
	};
	static const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.args_doc = "merge|idle",
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
		      .engines = {BENCH_KSMD_DEFAULT, BENCH_KSMD_FASTEST, BENCH_STORE},
		      .engine_count = BENCH_ENGINES,
		      .limit_s = 120,
		      .seconds = 10,
		      .pairs = 5},
	};
	int code;

	argp_parse(&argp, argc, argv, 0, NULL, &a);
	code = run(argv[0], &a);
	free(a.images);
	free(a.o.images);
	return code;
}
