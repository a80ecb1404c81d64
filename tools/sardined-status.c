/* SPDX-License-Identifier: Apache-2.0 */
/* What the daemon serves, as JSON. */
#include <errno.h>

#include "base/clock.h"
#include "tools/sardined-internal.h"

static json_t *domain_json(struct domain *d)
{
	struct store_stats s;

	store_stats(d->store, &s);
#define FIELD(name_) #name_, (json_int_t)s.name_
	return json_pack(
		"{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
		"s:I}",
		"uid", (json_int_t)d->uid, "vms", (json_int_t)s.clients, FIELD(segments),
		FIELD(segment_pages), FIELD(dead_pages), FIELD(mappings), FIELD(pages_saved), FIELD(records),
		FIELD(index_bytes), FIELD(table_bytes), FIELD(submitted), FIELD(found), FIELD(wanted),
		FIELD(waits), FIELD(promises_broken), FIELD(moves_pages), FIELD(refused),
		FIELD(records_evicted), FIELD(events_lost));
#undef FIELD
}

json_t *server_json(struct server *s)
{
	json_t *domains = json_array(), *ret;
	bool whole = domains != NULL;

	/* Counting holds up HELLO and goodbye, but no call. */
	pthread_mutex_lock(&s->mutex);
	for (struct domain *d = s->domains; d && whole; d = d->next)
		whole = json_array_append_new(domains, domain_json(d)) == 0;
	ret = json_pack("{s:i, s:s, s:i, s:f, s:I, s:I, s:I, s:I, s:o}", "schema", SERVER_SCHEMA, "version",
			SARDINE_VERSION, "pid", (int)getpid(), "uptime_s",
			(double)(clock_now_ns() - s->started_ns) / 1e9, "connections",
			(json_int_t)s->connection_count, "accepted", (json_int_t)s->accepted,
			"protocol_errors", (json_int_t)atomic_load(&s->protocol_errors), "segment_limit",
			(json_int_t)s->segment_limit, "domains", domains);
	pthread_mutex_unlock(&s->mutex);
	if (whole)
		return ret;
	json_decref(ret);
	return NULL;
}
