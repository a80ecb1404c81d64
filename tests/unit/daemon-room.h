/* SPDX-License-Identifier: Apache-2.0 */
/* A daemon's server on a loop of its own, in this process, to be ended and started anew by a test. */
#ifndef SARDINE_TESTS_UNIT_DAEMON_ROOM_H
#define SARDINE_TESTS_UNIT_DAEMON_ROOM_H

#include "tests/unit/loop-thread.h"
#include "tests/unit/tempdir.h"
#include "tests/unit/test.h"
#include "tools/sardined-server.h"

struct daemon_room {
	struct tempdir dir;
	char path[128];
	struct loop_thread loop;
	struct server *server; /* NULL: no daemon */
};

static inline void daemon_start(struct daemon_room *room)
{
	struct errmsg err = {0};

	assert_int_equal(io_loop_new(&room->loop.loop), 0);
	assert_int_equal(server_new(room->loop.loop, room->path, 2, &err, &room->server), 0);
	loop_thread_start(&room->loop);
}

static inline void daemon_end(struct daemon_room *room)
{
	if (!room->server)
		return;
	loop_thread_stop(&room->loop);
	server_free(TAKE_PTR(room->server));
	io_loop_free(room->loop.loop);
}

static inline void daemon_room_init(struct daemon_room *room)
{
	*room = (struct daemon_room){.dir = tempdir_make()};
	snprintf(room->path, sizeof(room->path), "%s/sardined.sock", room->dir.path);
}

static inline void daemon_room_done(struct daemon_room *room)
{
	daemon_end(room);
	tempdir_remove(&room->dir);
}

/* A figure of the first domain, or of the server; -1: there is none. */
static inline json_int_t daemon_figure(struct daemon_room *room, bool of_domain, const char *key)
{
	json_t *json = server_json(room->server);
	const json_t *in = of_domain ? json_array_get(json_object_get(json, "domains"), 0) : json;
	const json_t *value = json_object_get(in, key);
	json_int_t n = json_is_integer(value) ? json_integer_value(value) : -1;

	json_decref(json);
	return n;
}

#endif
