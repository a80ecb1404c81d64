/* SPDX-License-Identifier: Apache-2.0 */
/* Work on all of guest memory by request: merging, checking. A thread of its own does it, one request after the other. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/signals.h"
#include "base/size.h"
#include "vmm/control-internal.h"

struct control_work {
	struct control_work *next;
	struct control *control;
	uint64_t client; /* serial */
	json_t *id;
	enum control_work_kind kind;
	unsigned max_ms;
	int error;
	struct errmsg err;
	struct control_merged merged;
	struct control_checked checked;
};

static void *work_main(void *arg)
{
	struct control_work *w = arg;
	struct control *control = w->control;
	uint64_t one = 1;

	if (control->ops->thread_started)
		control->ops->thread_started(control->arg);
	if (w->kind == CONTROL_MERGE)
		w->error = control->ops->merge(control->arg, w->max_ms, &control->work_cancel, &w->err,
					       &w->merged);
	else
		w->error = control->ops->check(control->arg, &control->work_cancel, &w->err, &w->checked);
	(void)!write(control->work_fd, &one, sizeof(one));
	return NULL;
}

static json_t *route_json(uint64_t pages)
{
	return json_pack("{s:I, s:I}", "pages", (json_int_t)pages, "bytes", (json_int_t)(pages * PAGE_BYTES));
}

static json_t *merged_json(const struct control_merged *m)
{
	return json_pack("{s:{s:o, s:o}, s:I, s:I, s:f, s:f, s:b}", "routes", "store",
			 route_json(m->store_pages), "zero", route_json(m->zero_pages), "passes",
			 (json_int_t)m->passes, "holds", (json_int_t)m->holds, "cpu_s",
			 (double)m->cpu_ns / 1e9, "elapsed_s", (double)m->elapsed_ns / 1e9, "settled",
			 (int)m->settled);
}

static json_t *checked_json(const struct control_checked *c)
{
	return json_pack("{s:I, s:o}", "frames", (json_int_t)c->frames, "wrong_frame",
			 c->wrong == UINT64_MAX ? json_null() : json_integer((json_int_t)c->wrong));
}

static void answer(struct control_client *client, const struct control_work *w)
{
	if (w->error < 0)
		control_answer_error(client, w->id, "%s", errmsg_text(&w->err, w->error));
	else
		control_answer(client, w->id,
			       w->kind == CONTROL_MERGE ? merged_json(&w->merged)
							: checked_json(&w->checked));
}

/* Answer the first of the queue, whom nobody may be waiting for any more, and forget it. */
static void work_done(struct control *control)
{
	struct control_work *w = control->works;
	struct control_client *client = control_client_find(control, w->client);

	control->works = w->next;
	if (client) {
		client->working--;
		answer(client, w);
		control_client_settle(client);
	}
	json_decref(w->id);
	free(w);
}

/* Start the first of the queue that can be started. */
static void work_start(struct control *control)
{
	while (control->works) {
		struct control_work *w = control->works;
		/* Once there is a thread, the result is its to write. */
		int r = signals_thread_create(&control->work_thread, work_main, w);

		if (r == 0)
			return;
		w->error = r;
		work_done(control);
	}
}

int control_work_add(struct control_client *client, const json_t *id, enum control_work_kind kind,
		     unsigned max_ms)
{
	struct control *control = client->control;
	struct control_work *w = calloc(1, sizeof(*w));
	struct control_work **end = &control->works;

	if (!w)
		return -ENOMEM;
	*w = (struct control_work){
		.control = control, .client = client->serial, .kind = kind, .max_ms = max_ms};
	w->id = id ? json_deep_copy(id) : NULL;
	if (!control->works) {
		int r = signals_thread_create(&control->work_thread, work_main, w);

		if (r < 0) {
			json_decref(w->id);
			free(w);
			return r;
		}
	}
	while (*end)
		end = &(*end)->next;
	*end = w;
	client->working++;
	return 0;
}

void control_work_done(void *arg, uint32_t events)
{
	struct control *control = arg;
	uint64_t count;

	(void)events;
	if (read(control->work_fd, &count, sizeof(count)) < 0 || !control->works)
		return;
	pthread_join(control->work_thread, NULL);
	work_done(control);
	work_start(control);
}

void control_work_cancel(struct control *control)
{
	atomic_store(&control->work_cancel, true);
	if (control->works)
		pthread_join(control->work_thread, NULL);
	while (control->works) {
		struct control_work *w = control->works;

		control->works = w->next;
		json_decref(w->id);
		free(w);
	}
}
