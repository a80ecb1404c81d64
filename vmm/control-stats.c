/* SPDX-License-Identifier: Apache-2.0 */
/* Statistics on request: the kernel's figures are read by a thread, since it walks all page tables for them;
 * who asks meanwhile gets the same answer. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/signals.h"
#include "vmm/control-internal.h"

struct stats_wait {
	struct stats_wait *next;
	uint64_t client;
	json_t *id;
};

static void *stats_main(void *arg)
{
	struct control *control = arg;
	uint64_t one = 1;

	if (control->ops->thread_started)
		control->ops->thread_started(control->arg);
	control->stats_error = control->ops->usage(control->arg, &control->stats_usage);
	(void)!write(control->stats_fd, &one, sizeof(one));
	return NULL;
}

int control_stats_start(struct control_client *client, const json_t *id)
{
	struct control *control = client->control;
	struct stats_wait *wait = calloc(1, sizeof(*wait));
	struct stats_wait **end = &control->stats_waits;

	if (!wait)
		return -ENOMEM;
	if (!control->stats_waits) {
		int r = signals_thread_create(&control->stats_thread, stats_main, control);

		if (r < 0) {
			free(wait);
			return r;
		}
	}
	while (*end)
		end = &(*end)->next;
	wait->client = client->serial;
	wait->id = id ? json_deep_copy(id) : NULL;
	*end = wait;
	client->working++;
	return 0;
}

/* What sharing saves less what it costs: below zero it is not worth it. */
static int add_profit(json_t *vm, const struct vm_usage *usage)
{
	json_t *engine = json_object_get(vm, "engine");
	const json_t *cost = json_object_get(engine, "metadata_bytes");

	if (!cost)
		return 0;
	return json_object_set_new(engine, "profit_bytes",
				   json_integer((json_int_t)usage->saved_store - json_integer_value(cost)));
}

/* All of it: what the VM knows, the account, and whose it is. NULL: out of memory. */
static json_t *stats_json(struct control *control)
{
	json_t *json = json_pack("{s:i, s:s, s:i}", "schema", USAGE_SCHEMA, "name", control->name, "pid",
				 (int)getpid());
	json_t *vm = control->ops->stats(control->arg);
	int r = json && vm ? json_object_update(json, vm) : -1;

	if (r == 0)
		r = add_profit(json, &control->stats_usage);
	if (r == 0)
		r = json_object_set_new(json, "memory", vm_usage_memory_json(&control->stats_usage));
	if (r == 0)
		r = json_object_set_new(json, "saved", vm_usage_saved_json(&control->stats_usage));
	json_decref(vm);
	if (r == 0)
		return json;
	json_decref(json);
	return NULL;
}

void control_stats_done(void *arg, uint32_t events)
{
	struct control *control = arg;
	struct stats_wait *waits;
	json_t *json = NULL;
	uint64_t count;

	(void)events;
	if (read(control->stats_fd, &count, sizeof(count)) < 0 || !control->stats_waits)
		return;
	pthread_join(control->stats_thread, NULL);
	waits = TAKE_PTR(control->stats_waits);
	if (control->stats_error == 0)
		json = stats_json(control);
	while (waits) {
		struct stats_wait *wait = waits;
		struct control_client *client = control_client_find(control, wait->client);

		waits = wait->next;
		if (client) {
			client->working--;
			if (json)
				control_answer(client, wait->id, json_incref(json));
			else
				control_answer_error(
					client, wait->id, "cannot read the memory figures: %s",
					strerror(control->stats_error ? -control->stats_error : ENOMEM));
			control_client_settle(client);
		}
		json_decref(wait->id);
		free(wait);
	}
	json_decref(json);
}

void control_stats_cancel(struct control *control)
{
	if (control->stats_waits)
		pthread_join(control->stats_thread, NULL);
	while (control->stats_waits) {
		struct stats_wait *wait = control->stats_waits;

		control->stats_waits = wait->next;
		json_decref(wait->id);
		free(wait);
	}
}
