/* SPDX-License-Identifier: Apache-2.0 */
/* A dump on request: written by a thread of its own while the loop goes on. */
#include <errno.h>
#include <string.h>

#include "base/signals.h"
#include "base/size.h"
#include "vmm/control-internal.h"

static void *dump_main(void *arg)
{
	struct control_dump *dump = arg;
	struct control *control = dump->control;
	uint64_t one = 1;

	if (control->ops->thread_started)
		control->ops->thread_started(control->arg);
	dump->error = control->ops->dump(control->arg, dump->fd, dump->format, &dump->cancel, &dump->err,
					 &dump->result);
	(void)!write(control->dump_fd, &one, sizeof(one));
	return NULL;
}

static void dump_free(struct control_dump *dump)
{
	close(dump->fd);
	json_decref(dump->id);
	free(dump);
}

int control_dump_start(struct control_client *client, const json_t *id, int fd, enum dump_format format)
{
	struct control *control = client->control;
	struct control_dump *dump;
	int r;

	if (control->dump)
		return -EBUSY;
	dump = calloc(1, sizeof(*dump));
	if (!dump)
		return -ENOMEM;
	*dump = (struct control_dump){
		.control = control, .client = client->serial, .fd = fd, .format = format};
	dump->id = id ? json_deep_copy(id) : NULL;
	r = signals_thread_create(&dump->thread, dump_main, dump);
	if (r < 0) {
		json_decref(dump->id);
		free(dump);
		return r;
	}
	control->dump = dump;
	client->working++;
	return 0;
}

static void answer(struct control_client *client, const struct control_dump *dump)
{
	char size[32];

	if (dump->error == 0) {
		control_answer(client, dump->id,
			       json_pack("{s:I, s:I}", "file_bytes", (json_int_t)dump->result.file_bytes,
					 "data_bytes", (json_int_t)dump->result.data_bytes));
		return;
	}
	control_answer_error(client, dump->id, "%s; the file is incomplete: %s were written",
			     errmsg_text(&dump->err, dump->error),
			     size_format(dump->result.data_bytes, size, sizeof(size)));
}

void control_dump_done(void *arg, uint32_t events)
{
	struct control *control = arg;
	struct control_dump *dump = control->dump;
	struct control_client *client;
	uint64_t count;

	(void)events;
	if (read(control->dump_fd, &count, sizeof(count)) < 0 || !dump)
		return;
	pthread_join(dump->thread, NULL);
	control->dump = NULL;
	client = control_client_find(control, dump->client);
	if (client) {
		client->working--;
		answer(client, dump);
		control_client_settle(client);
	}
	dump_free(dump);
}

void control_dump_cancel(struct control *control)
{
	struct control_dump *dump = TAKE_PTR(control->dump);

	if (!dump)
		return;
	atomic_store(&dump->cancel, true);
	pthread_join(dump->thread, NULL);
	dump_free(dump);
}
