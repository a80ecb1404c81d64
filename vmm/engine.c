/* SPDX-License-Identifier: Apache-2.0 */
/* What a VM's memory agent did, as control socket and statistics say it. */
#include "vmm/engine.h"

#include <errno.h>
#include <string.h>

#include "base/addr.h"
#include "base/clock.h"

#define SLICE_MS 200u

static void add(struct control_merged *sum, const struct agent_merge_result *r)
{
	sum->store_pages += r->pages_shared;
	sum->zero_pages += r->pages_zeroed;
	sum->passes += r->passes;
	sum->holds += r->holds;
	sum->cpu_ns += r->cpu_ns;
}

int engine_merge(struct agent *agent, unsigned max_ms, const atomic_bool *cancel, struct errmsg *err,
		 struct control_merged *ret)
{
	struct control_merged sum = {0};
	uint64_t start_ns = clock_now_ns(), end_ns = start_ns + (uint64_t)max_ms * 1000000;
	int r;

	do {
		struct agent_merge_result part = {0};
		uint64_t now = clock_now_ns(), left = end_ns > now ? (end_ns - now) / 1000000 : 0;

		r = agent_merge(agent, left < SLICE_MS ? (unsigned)left : SLICE_MS, &part);
		if (r == 0 || r == -ETIMEDOUT)
			add(&sum, &part);
		sum.settled = r == 0 && part.settled;
		if (atomic_load(cancel))
			return -ECANCELED;
	} while (r == -ETIMEDOUT && clock_now_ns() < end_ns);
	if (r < 0 && r != -ETIMEDOUT)
		return errmsg_set(err, r, "%s",
				  r == -EBUSY ? "the VM is rebooting or being checked; try again"
					      : strerror(-r));
	sum.elapsed_ns = clock_now_ns() - start_ns;
	*ret = sum;
	return 0;
}

void engine_usage(const struct agent_stats *stats, struct usage_store *ret)
{
	*ret = (struct usage_store){
		.known = true,
		.mapped_bytes = stats->extent_pages * PAGE_BYTES,
		.mappings = stats->shares.mappings,
		.saved = stats->shares.saved,
	};
}

uint64_t engine_metadata_bytes(const struct agent_stats *stats)
{
	return stats->table_bytes + stats->extents * ENGINE_EXTENT_BYTES + stats->shares.bytes;
}

double engine_quantile_us(const struct extent_stats *apply, unsigned per_mille)
{
	uint64_t wanted = (apply->holds * per_mille + 999) / 1000, seen = 0;
	double max = (double)apply->hold_work_max_ns / 1e3;

	for (unsigned i = 0; i < EXTENT_HOLD_BUCKETS - 1 && apply->holds; i++) {
		seen += apply->hold_work_bucket[i];
		if (seen >= wanted)
			return (double)(1u << i) < max ? (double)(1u << i) : max;
	}
	return max;
}

static json_t *frames_json(const struct agent_stats *s)
{
	json_t *json = json_object();
	int r = json ? 0 : -1;

	for (unsigned i = 0; i < PAGE_STATES && r == 0; i++)
		r = json_object_set_new(json, page_state_name(i), json_integer((json_int_t)s->frames[i]));
	if (r == 0)
		return json;
	json_decref(json);
	return NULL;
}

static json_t *hold_json(const struct extent_stats *a)
{
	return json_pack("{s:I, s:f, s:f, s:f, s:f, s:f}", "count", (json_int_t)a->holds, "work_s",
			 (double)a->hold_work_ns / 1e9, "p50_us", engine_quantile_us(a, 500), "p99_us",
			 engine_quantile_us(a, 990), "p999_us", engine_quantile_us(a, 999), "max_us",
			 (double)a->hold_work_max_ns / 1e3);
}

json_t *engine_held_json(const struct hold_stats *s)
{
	return json_pack("{s:I, s:I, s:I, s:f, s:f, s:f, s:f}", "count", (json_int_t)s->held_ns.count,
			 "given_up", (json_int_t)s->given_up, "nobody_waited", (json_int_t)s->by_caller,
			 "p50_us", (double)histogram_quantile(&s->held_ns, 500000) / 1e3, "p99_us",
			 (double)histogram_quantile(&s->held_ns, 990000) / 1e3, "p999_us",
			 (double)histogram_quantile(&s->held_ns, 999000) / 1e3, "max_us",
			 (double)s->held_ns.max / 1e3);
}

json_t *engine_json(const struct agent_stats *s)
{
	json_t *json = json_pack("{s:s, s:s, s:o, s:f, s:f, s:o, s:I, s:o}", "tracker", s->tracker, "link",
				 s->link, "frames", frames_json(s), "cpu_s", (double)s->cpu_ns / 1e9,
				 "pass_s", (double)s->pass_ns / 1e9, "hold", hold_json(&s->apply),
				 "metadata_bytes", (json_int_t)engine_metadata_bytes(s), "last_error",
				 s->last_error ? json_string(strerror(-s->last_error)) : json_null());
	const struct {
		const char *key;
		uint64_t value;
	} figures[] = {
		{"passes", s->passes},
		{"written_pages", s->scanned_written},
		{"hashed_pages", s->hashed},
		{"zero_dropped_pages", s->zeroed},
		{"donated_pages", s->donated},
		{"found_pages", s->found},
		{"store_pages_mapped", s->extent_pages},
		{"extents", s->extents},
		{"scattered_pages", s->scattered},
		{"broken_pages", s->broken},
		{"retaken_pages", s->retaken},
		{"hot_blocks", s->hot_blocks},
		{"errors", s->errors},
	};

	for (size_t i = 0; json && i < ARRAY_SIZE(figures); i++) {
		if (json_object_set_new(json, figures[i].key, json_integer((json_int_t)figures[i].value)) <
		    0) {
			json_decref(json);
			json = NULL;
		}
	}
	return json;
}
