/* SPDX-License-Identifier: Apache-2.0 */
/* `sardine analyze`: exactly what would deduplication save? */
#include <argp.h>
#include <errno.h>
#include <locale.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "base/size.h"
#include "ksm/sketch.h"
#include "tools/analyze.h"
#include "tools/cli.h"

#define SAMPLE_BYTES	   ((size_t)2 << 20)
#define SAMPLE_PAGES_LEAST 8u
#define SAMPLE_PAGES_MAX   1000000u
#define PIDS_MAX	   PAGE_SET_IMAGES_MAX

enum {
	KEY_THREADS = 't',
	KEY_JSON = 'j',
	KEY_PID = 'p',
	KEY_ALL = 'a',
	KEY_PLOT = 256,
	KEY_SKETCH,
	KEY_COMPARE,
	KEY_EVERY,
	KEY_ROUNDS,
	KEY_PAGE,
	KEY_SIZES,
	KEY_SAMPLE,
};

static const struct argp_option option_table[] = {
	{"json", KEY_JSON, NULL, 0, "Print one JSON object", 0},
	{"threads", KEY_THREADS, "N", 0, "Use N threads (default: one per CPU)", 0},
	{"pid", KEY_PID, "PID", 0, "Analyse a running process; may be repeated", 0},
	{"all-vms", KEY_ALL, NULL, 0, "Analyse all processes that run VMs", 0},
	{"plot", KEY_PLOT, "FILE.svg", 0, "Draw the result", 0},
	{"sketch", KEY_SKETCH, "FILE", 0, "Write a sketch of each image, for --compare", 0},
	{"compare", KEY_COMPARE, NULL, 0, "The files are sketches: estimate what they would share", 0},
	{"every", KEY_EVERY, "TIME", 0, "Repeat, one row each TIME (5, 500ms, 60s, 10m); for processes", 0},
	{"rounds", KEY_ROUNDS, "N", 0, "With --every: stop after N rounds", 0},
	{"page-size", KEY_PAGE, "SIZE", 0, "Pages of SIZE, a power of two from 1K to 2M (default: 4K)", 0},
	{"sizes", KEY_SIZES, NULL, 0, "Compare pages of 1K and 2K, too; takes twice as long or more", 0},
	{"sample", KEY_SAMPLE, "N", 0, "Try compression on N pages (default: 512 of 4K; 0: not)", 0},
	{0},
};

static unsigned cpus_usable(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return 1;
	return (unsigned)CPU_COUNT(&set);
}

static int time_parse(const char *s, uint64_t *ret_ms)
{
	static const struct {
		const char *unit;
		uint64_t ms;
	} units[] = {{"", 1000}, {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
	size_t digits = strspn(s, "0123456789");
	char number[16];
	uint64_t v;

	if (digits == 0 || digits >= sizeof(number))
		return -EINVAL;
	memcpy(number, s, digits);
	number[digits] = '\0';
	if (number_parse(number, 1000000000, &v) < 0)
		return -EINVAL;
	for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
		if (strcmp(s + digits, units[i].unit) != 0)
			continue;
		*ret_ms = v * units[i].ms;
		return *ret_ms ? 0 : -EINVAL;
	}
	return -EINVAL;
}

static void pid_add(struct analyze_options *o, const char *arg, struct argp_state *state)
{
	uint64_t pid;
	pid_t *v;

	if (number_parse(arg, INT32_MAX, &pid) < 0 || pid == 0)
		argp_error(state, "--pid %s: is not a process number", arg);
	for (size_t i = 0; i < o->pid_count; i++)
		if ((uint64_t)o->pids[i] == pid)
			argp_error(state, "--pid %s: is given twice", arg);
	v = realloc(o->pids, (o->pid_count + 1) * sizeof(*v));
	if (!v)
		argp_failure(state, CLI_FAILED, ENOMEM, "--pid");
	o->pids = v;
	o->pids[o->pid_count++] = (pid_t)pid;
}

static void options_check(const struct analyze_options *o, struct argp_state *state)
{
	unsigned live = o->pid_count || o->all_vms;

	if (o->compare && (live || o->plot || o->sketch || o->every_ms))
		argp_error(state, "--compare takes sketches and no other input or output than --json");
	if (o->compare && o->file_count < 2)
		argp_error(state, "--compare needs two sketches or more");
	if (live && o->file_count)
		argp_error(state, "%s: give either dumps or processes", o->files[0]);
	if (o->pid_count && o->all_vms)
		argp_error(state, "give either --pid or --all-vms");
	if (!live && o->file_count == 0)
		argp_error(state, "no input: give dumps, --pid or --all-vms");
	if (o->every_ms && !live)
		argp_error(state, "--every is for running processes");
	if (o->rounds && !o->every_ms)
		argp_error(state, "--rounds needs --every");
}

static void file_add(struct analyze_options *o, char *arg, struct argp_state *state)
{
	char **v = realloc(o->files, (o->file_count + 1) * sizeof(*v));

	if (!v)
		argp_failure(state, CLI_FAILED, ENOMEM, "%s", arg);
	o->files = v;
	o->files[o->file_count++] = arg;
}

static void number_option(const char *name, const char *arg, uint64_t least, uint64_t most, uint64_t *ret,
			  struct argp_state *state)
{
	if (number_parse(arg, most, ret) < 0 || *ret < least)
		argp_error(state, "--%s %s: is not a number from %ju to %ju", name, arg, (uintmax_t)least,
			   (uintmax_t)most);
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct analyze_options *o = state->input;
	uint64_t v = 0;

	switch (key) {
	case KEY_JSON:
		o->json = true;
		return 0;
	case KEY_THREADS:
		number_option("threads", arg, 1, WORKERS_MAX, &v, state);
		o->threads = (unsigned)v;
		return 0;
	case KEY_PID:
		pid_add(o, arg, state);
		return 0;
	case KEY_ALL:
		o->all_vms = true;
		return 0;
	case KEY_PLOT:
		o->plot = arg;
		return 0;
	case KEY_SKETCH:
		o->sketch = arg;
		return 0;
	case KEY_COMPARE:
		o->compare = true;
		return 0;
	case KEY_EVERY:
		if (time_parse(arg, &o->every_ms) < 0)
			argp_error(state, "--every %s: is not a time; give e.g. 60s", arg);
		return 0;
	case KEY_ROUNDS:
		number_option("rounds", arg, 1, UINT32_MAX, &o->rounds, state);
		return 0;
	case KEY_PAGE:
		if (size_parse(arg, &v) < 0 || v < PAGE_SET_BYTES_MIN || v > PAGE_SET_BYTES_MAX ||
		    (v & (v - 1)))
			argp_error(state, "--page-size %s: is not a power of two from 1K to 2M", arg);
		o->page_bytes = (size_t)v;
		return 0;
	case KEY_SIZES:
		o->sizes = true;
		return 0;
	case KEY_SAMPLE:
		number_option("sample", arg, 0, SAMPLE_PAGES_MAX, &o->sample_pages, state);
		return 0;
	case ARGP_KEY_ARG:
		file_add(o, arg, state);
		return 0;
	case ARGP_KEY_END:
		options_check(o, state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* Set by the first Ctrl-C; the second one ends the command. */
static atomic_int stop;

static void on_stop(int signal_number)
{
	atomic_store(&stop, 1);
	signal(signal_number, SIG_DFL);
}

static void catch_stop(void)
{
	struct sigaction action = {.sa_handler = on_stop};

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

/* The extra outputs of a finished analysis. */
static int write_files(const struct analysis *a, struct errmsg *err)
{
	const struct analyze_options *o = a->options;
	int r = 0;

	if (o->plot)
		r = analyze_plot(a, o->plot, err);
	if (r == 0 && o->sketch) {
		struct sketch_file f;

		r = sketch_make(&a->dedup, &f);
		if (r < 0)
			return errmsg_set(err, r, "%s: cannot be made: %s", o->sketch, strerror(-r));
		r = sketch_save(&f, o->sketch, err);
		sketch_file_done(&f);
	}
	return r;
}

struct session {
	struct analyze_options *options;
	struct work_control control;
	struct analyze_progress progress;
	const char *verb;
};

/* Analyses once and prints. Return: an exit code. */
static int round_run(struct session *s, uint64_t round)
{
	bool series = s->options->every_ms != 0;
	struct errmsg err = {0};
	struct analysis a;
	int code = CLI_OK;
	int r = analyze_run(s->options, &s->control, &a, &err);

	analyze_progress_clear(&s->progress);
	if (r == 0) {
		if (s->options->json)
			r = analyze_print_json(&a, stdout, series);
		else if (series)
			analyze_print_row(&a, stdout, round == 0);
		else
			analyze_print_table(&a, stdout);
		fflush(stdout);
	}
	if (r == 0)
		r = write_files(&a, &err);
	/* A series is meant to be stopped; each of its rounds is whole. */
	for (unsigned i = 0; r == 0 && i < a.problem_count; i++)
		code = cli_error(s->verb, CLI_FAILED, "%s", a.problems[i].text);
	if (r < 0)
		code = cli_error(s->verb, CLI_FAILED, "%s",
				 r == -ECANCELED ? "stopped before anything was known"
						 : errmsg_text(&err, r));
	analyze_done(&a);
	return code;
}

static int find_vms(struct session *s)
{
	struct analyze_options *o = s->options;
	size_t hidden = 0;
	int r;

	free(o->pids);
	o->pids = NULL;
	o->pid_count = 0;
	r = live_find_vms(&o->pids, &o->pid_count, &hidden);
	if (r < 0)
		return cli_error(s->verb, CLI_FAILED, "/proc: %s", strerror(-r));
	if (o->pid_count == 0)
		return cli_error(s->verb, CLI_FAILED, "no process runs a VM that this user may see");
	return CLI_OK;
}

/* Sleeps until the next multiple of the interval after the start, or a stop. */
static void wait_round(const struct session *s, const struct timespec *start, uint64_t rounds)
{
	uint64_t due_ms = rounds * s->options->every_ms;

	while (!atomic_load(&stop)) {
		struct timespec now;
		uint64_t ms;

		clock_gettime(CLOCK_MONOTONIC, &now);
		ms = (uint64_t)(now.tv_sec - start->tv_sec) * 1000 +
		     (uint64_t)((now.tv_nsec - start->tv_nsec) / 1000000);
		if (ms >= due_ms)
			return;
		poll(NULL, 0, (int)(due_ms - ms < 1000 ? due_ms - ms : 1000));
	}
}

static int session_run(struct session *s)
{
	const struct analyze_options *o = s->options;
	struct timespec start;
	int code = CLI_OK;

	clock_gettime(CLOCK_MONOTONIC, &start);
	for (uint64_t round = 0;; round++) {
		code = o->all_vms ? find_vms(s) : CLI_OK;
		if (code == CLI_OK)
			code = round_run(s, round);
		if (!o->every_ms || (o->rounds && round + 1 >= o->rounds))
			return code;
		/* VMs come and go; only a process that was asked for by its number ends the series. */
		if (code != CLI_OK && (!o->all_vms || o->pid_count == 0))
			return code;
		wait_round(s, &start, round + 1);
		if (atomic_load(&stop))
			return code;
	}
}

int cmd_analyze(int argc, char **argv)
{
	static const struct argp argp = {
		option_table,
		parse_option,
		"FILE...\n--pid=PID...\n--all-vms\n--compare SKETCH SKETCH...",
		"Says exactly what sharing identical pages would save: in memory dumps (raw, ELF cores, "
		"LiME; each "
		"also gzip, zstd, xz), one per VM, or in the memory of running processes.",
		NULL,
		NULL,
		NULL};
	struct analyze_options o = {.page_bytes = 4096, .sample_pages = UINT64_MAX};
	struct session s = {.options = &o, .verb = argv[0]};
	int code;

	setlocale(LC_CTYPE, "");
	o.threads = cpus_usable();
	argp_parse(&argp, argc, argv, 0, NULL, &o);
	if (o.sample_pages == UINT64_MAX)
		o.sample_pages = SAMPLE_BYTES / o.page_bytes > SAMPLE_PAGES_LEAST
					 ? SAMPLE_BYTES / o.page_bytes
					 : SAMPLE_PAGES_LEAST;
	if (o.compare) {
		code = analyze_compare(&o, argv[0]);
	} else {
		s.progress.on = isatty(STDERR_FILENO);
		s.control = (struct work_control){.threads = o.threads,
						  .stop = &stop,
						  .progress = analyze_progress_draw,
						  .progress_ctx = &s.progress};
		catch_stop();
		code = session_run(&s);
	}
	free(o.files);
	free(o.pids);
	return code;
}
