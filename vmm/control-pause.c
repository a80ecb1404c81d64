/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pause and resume on request. A pause waits for vCPUs and for disk I/O, so a thread does it; who asks meanwhile, for either,
 * waits in a queue. Several pauses are one: the first resume ends it, whoever asked.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/signals.h"
#include "vmm/control-internal.h"

struct pause_wait {
	struct pause_wait *next;
	uint64_t client;
	bool pause; /* else resume */
	json_t *id;
};

static void *pause_main(void *arg)
{
	struct control *control = arg;
	uint64_t one = 1;

	if (control->ops->thread_started)
		control->ops->thread_started(control->arg);
	control->ops->pause(control->arg);
	(void)!write(control->pause_fd, &one, sizeof(one));
	return NULL;
}

static int start_thread(struct control *control)
{
	int r = signals_thread_create(&control->pause_thread, pause_main, control);

	if (r == 0)
		control->pause = CONTROL_PAUSING;
	return r;
}

static void resume(struct control *control)
{
	control->ops->resume(control->arg);
	control->pause = CONTROL_NOT_PAUSED;
}

/* Answer the first of the queue. */
static void wait_done(struct control *control, int error)
{
	struct pause_wait *wait = control->pause_waits;
	struct control_client *client = control_client_find(control, wait->client);

	control->pause_waits = wait->next;
	if (client) {
		client->working--;
		if (error < 0)
			control_answer_error(client, wait->id, "%s",
					     error == -ESHUTDOWN ? CONTROL_STOPPING_TEXT : strerror(-error));
		else
			control_answer(client, wait->id, NULL);
		control_client_settle(client);
	}
	json_decref(wait->id);
	free(wait);
}

/* Work on the queue, in order, until a pause has to be waited for. */
static void work(struct control *control)
{
	while (control->pause_waits && control->pause != CONTROL_PAUSING) {
		struct pause_wait *wait = control->pause_waits;
		int error = 0;

		if (wait->pause && control->stop_at_ns) {
			error = -ESHUTDOWN;
		} else if (wait->pause && control->pause == CONTROL_NOT_PAUSED) {
			error = start_thread(control);
			if (error == 0)
				return; /* answered when it is done */
		} else if (!wait->pause && control->pause == CONTROL_PAUSED) {
			resume(control);
		}
		wait_done(control, error);
	}
}

static int wait_add(struct control_client *client, const json_t *id, bool pause)
{
	struct control *control = client->control;
	struct pause_wait *wait = calloc(1, sizeof(*wait));
	struct pause_wait **end = &control->pause_waits;

	if (!wait)
		return -ENOMEM;
	while (*end)
		end = &(*end)->next;
	wait->client = client->serial;
	wait->pause = pause;
	wait->id = id ? json_deep_copy(id) : NULL;
	*end = wait;
	client->working++;
	return 0;
}

/* The queue is empty unless the thread runs. */
int control_pause(struct control_client *client, const json_t *id, bool *ret_later)
{
	struct control *control = client->control;
	bool later = control->pause != CONTROL_PAUSED;
	int r = 0;

	if (control->stop_at_ns)
		return -ESHUTDOWN;
	if (later)
		r = wait_add(client, id, true);
	if (r == 0 && control->pause == CONTROL_NOT_PAUSED) {
		r = start_thread(control);
		if (r < 0) {
			json_decref(control->pause_waits->id);
			free(TAKE_PTR(control->pause_waits));
			client->working--;
		}
	}
	*ret_later = later;
	return r;
}

int control_resume(struct control_client *client, const json_t *id, bool *ret_later)
{
	struct control *control = client->control;

	*ret_later = control->pause == CONTROL_PAUSING;
	if (*ret_later)
		return wait_add(client, id, false);
	control_pause_end(control);
	return 0;
}

void control_pause_done(void *arg, uint32_t events)
{
	struct control *control = arg;
	uint64_t count;

	(void)events;
	if (read(control->pause_fd, &count, sizeof(count)) < 0 || control->pause != CONTROL_PAUSING)
		return;
	pthread_join(control->pause_thread, NULL);
	control->pause = CONTROL_PAUSED;
	wait_done(control, 0); /* for whom the thread was started */
	/* A stop came meanwhile. */
	if (control->stop_at_ns)
		control_pause_end(control);
	work(control);
}

void control_pause_end(struct control *control)
{
	if (control->pause == CONTROL_PAUSED)
		resume(control);
}

void control_pause_cancel(struct control *control)
{
	if (control->pause == CONTROL_PAUSING)
		pthread_join(control->pause_thread, NULL);
	while (control->pause_waits) {
		struct pause_wait *wait = control->pause_waits;

		control->pause_waits = wait->next;
		json_decref(wait->id);
		free(wait);
	}
}
