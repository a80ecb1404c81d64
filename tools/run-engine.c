/* SPDX-License-Identifier: Apache-2.0 */
/* --engine and --daemon: the link to a store, and the agent that uses it. */
#include "tools/run-engine.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "ksm/store-remote.h"
#include "tools/store-client.h"

static int remote_link(const struct vm_config *config, const struct store_link_config *link,
		       struct errmsg *err, _Atomic uint64_t **ret_recorded, struct store_link **ret)
{
	auto_free char *found = config->daemon ? NULL : store_socket_path();
	const char *path = config->daemon ? config->daemon : found;

	if (!path)
		return -ENOMEM;
	return store_link_remote_new(link, &path, 1, err, ret_recorded, ret);
}

int run_engine_new(const struct vm_config *config, struct vm *vm, struct errmsg *err,
		   struct store_link **ret_link)
{
	struct store_link_config link_config = {.frames = vm_agent_frames(vm), .vm_name = config->name};
	bool local = config->engine == CONFIG_ENGINE_LOCAL;
	struct store_link *link;
	_Atomic uint64_t *recorded;
	struct errmsg why = {0};
	int r;

	*ret_link = NULL;
	if (config->engine == CONFIG_ENGINE_OFF || (config->engine == CONFIG_ENGINE_AUTO && config->mergeable))
		return 0;
	r = local ? store_link_local_new(&link_config, &why, &recorded, &link)
		  : remote_link(config, &link_config, &why, &recorded, &link);
	if (r == 0)
		r = vm_agent_new(vm, link, recorded, &why);
	if (r == 0) {
		*ret_link = local ? NULL : link;
		return 0;
	}
	if (config->engine == CONFIG_ENGINE_AUTO) {
		log_info("pages are not shared: %s", errmsg_text(&why, r));
		return 0;
	}
	return errmsg_set(err, r, "--engine %s: %s", local ? "local" : "store", errmsg_text(&why, r));
}
