/* SPDX-License-Identifier: Apache-2.0 */
/* Filling a replay VM's memory. */
#include "tools/replay-load.h"

#include <errno.h>
#include <string.h>

#include "base/addr.h"
#include "base/fs.h"
#include "tools/dump-file.h"
#include "tools/replay-spec.h"

#define STOP_EVERY 1024u

/* Advice for huge pages is taken, and has no effect, where they are switched off. */
static bool thp_never(void)
{
	char host[16];

	return file_read_choice("/sys/kernel/mm/transparent_hugepage/enabled", host, sizeof(host)) < 0 ||
	       strcmp(host, "never") == 0;
}

static int new_memory(const struct replay_load *load, uint64_t frames, struct errmsg *err,
		      struct replay_memory **ret)
{
	int r;

	if (load->thp == REPLAY_THP_ON && thp_never())
		return errmsg_set(err, -ENOTSUP,
				  "--thp on: transparent huge pages are switched off here "
				  "(/sys/kernel/mm/transparent_hugepage/enabled)");
	r = replay_memory_new_empty(frames, load->thp, ret);
	if (r < 0)
		return errmsg_set(err, r, "cannot reserve %llu frames: %s", (unsigned long long)frames,
				  strerror(-r));
	return 0;
}

static int copy_pages(const struct replay_load *load, const struct page_set *set, struct replay_memory *m)
{
	uint64_t frames = replay_memory_frames(m), pages = set->pages < frames ? set->pages : frames;
	uint64_t page[PAGE_BYTES / 8];

	for (uint64_t i = 0; i < pages; i++) {
		int r = page_set_read(set, i, page);

		if (r < 0)
			return r;
		replay_memory_put(m, GFN(i), page);
		if (i % STOP_EVERY == 0 && load->stopped())
			return -ECANCELED;
	}
	return 0;
}

static int load_pages(const struct replay_load *load, const struct page_set *set, struct errmsg *err,
		      struct replay_memory **ret)
{
	cleanup(replay_memory_free_p) struct replay_memory *m = NULL;
	int r;

	if (set->pages == 0)
		return errmsg_set(err, -EINVAL, "--image %s: no whole page of memory in it", load->image);
	r = new_memory(load, load->frames ? load->frames : set->pages, err, &m);
	if (r < 0)
		return r;
	r = copy_pages(load, set, m);
	if (r < 0 && r != -ECANCELED)
		return errmsg_set(err, r, "--image %s: cannot read it: %s", load->image, strerror(-r));
	if (r == 0)
		*ret = TAKE_PTR(m);
	return r;
}

static int load_image(const struct replay_load *load, struct errmsg *err, struct replay_memory **ret)
{
	const struct work_control control = {0};
	struct dump_file dump;
	struct page_set set;
	int r = dump_file_open(load->image, &control, &dump, err);

	if (r < 0)
		return r;
	page_set_init(&set, PAGE_BYTES);
	if (dump.problem.text[0])
		r = errmsg_set(err, -EINVAL, "%s", dump.problem.text);
	if (r == 0)
		r = page_set_add(&set, load->image, &dump_file_ops, &dump, dump.ranges, dump.range_count);
	if (r == 0)
		r = load_pages(load, &set, err, ret);
	page_set_done(&set);
	dump_file_done(&dump);
	return r;
}

static int load_synthetic(const struct replay_load *load, struct errmsg *err, struct replay_memory **ret)
{
	cleanup(replay_memory_free_p) struct replay_memory *m = NULL;
	struct errmsg why = {0};
	struct replay_spec spec;
	int r = replay_spec_parse(load->synthetic, &why, &spec);

	if (r < 0)
		return errmsg_set(err, r, "--synthetic %s", errmsg_text(&why, r));
	spec.seed = load->seed;
	r = new_memory(load, load->frames, err, &m);
	if (r == 0)
		r = replay_memory_fill(m, &spec);
	replay_spec_done(&spec);
	if (r == 0 && load->stopped())
		r = -ECANCELED;
	if (r == 0)
		*ret = TAKE_PTR(m);
	return r;
}

int replay_load(const struct replay_load *load, struct errmsg *err, struct replay_memory **ret)
{
	return load->image ? load_image(load, err, ret) : load_synthetic(load, err, ret);
}
