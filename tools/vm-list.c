/* SPDX-License-Identifier: Apache-2.0 */
/* The statistics of all VMs that run here, or of one. */
#include "tools/vm-list.h"

#include <errno.h>
#include <string.h>

static int ask(const char *name, struct errmsg *err, json_t **ret)
{
	struct client client;
	int r = client_open(name, err, &client);

	if (r < 0)
		return r;
	r = client_call(&client, json_pack("{s:s}", "cmd", "stats"), -1, CLIENT_ANSWER_S, err, ret);
	client_close(&client);
	return r;
}

static int add(struct vm_list *list, const struct rundir_entry *entry, json_t *stats)
{
	struct vm_item *items = reallocarray(list->items, list->count + 1, sizeof(*items));
	struct vm_item *item;

	if (!items)
		return -ENOMEM;
	list->items = items;
	item = &items[list->count++];
	*item = (struct vm_item){.entry = *entry, .stats = json_incref(stats)};
	if (stats && vm_usage_from_json(stats, &item->usage) == 0)
		host_usage_add(&list->host, &item->usage);
	return 0;
}

/* One VM of the directory. */
static int add_entry(struct vm_list *list, const struct rundir *dir, const struct rundir_entry *entry)
{
	struct rundir_entry now;
	struct errmsg err = {0};
	json_t *stats = NULL;
	int r = ask(entry->name, &err, &stats);

	/* It has ended, or it is stuck: then it is still there. */
	if (r < 0 && rundir_find(dir, entry->name, &now) < 0)
		return 0;
	r = add(list, entry, stats);
	json_decref(stats);
	return r;
}

static int get_all(struct errmsg *err, struct vm_list *list)
{
	struct rundir dir = RUNDIR_NONE;
	struct rundir_entry *entries = NULL;
	size_t count = 0;
	struct errmsg ignored = {0};
	int r = rundir_open(false, &ignored, &dir);

	if (r == -ENOENT) /* nobody ever ran a VM */
		return 0;
	if (r < 0)
		return errmsg_set(err, r, "%s", ignored.text);
	/* VMs that were confined leave their files. */
	(void)rundir_clean(&dir);
	r = rundir_list(&dir, &entries, &count);
	if (r < 0)
		errmsg_set(err, r, "runtime directory %s: %s", dir.path, strerror(-r));
	for (size_t i = 0; r == 0 && i < count; i++)
		r = add_entry(list, &dir, &entries[i]);
	free(entries);
	rundir_close(&dir);
	return r;
}

static int get_one(const char *name, struct errmsg *err, struct vm_list *list)
{
	struct rundir_entry entry = {0};
	json_t *stats = NULL;
	int r = ask(name, err, &stats);

	if (r < 0)
		return r;
	strcpy(entry.name, name); /* a VM answered to it, so it fits */
	entry.pid = (pid_t)json_integer_value(json_object_get(stats, "pid"));
	r = add(list, &entry, stats);
	json_decref(stats);
	return r;
}

int vm_list_get(const char *only, struct errmsg *err, struct vm_list *ret)
{
	struct vm_list list = {0};
	struct ksm_host_files ksm;
	int r = only ? get_one(only, err, &list) : get_all(err, &list);

	if (r < 0) {
		vm_list_done(&list);
		return r;
	}
	ksm_host_files_open("/sys/kernel/mm/ksm", &ksm);
	ksm_host_usage_read(&ksm, &list.host.ksm);
	ksm_host_files_close(&ksm);
	*ret = list;
	return 0;
}

void vm_list_done(struct vm_list *list)
{
	for (size_t i = 0; i < list->count; i++)
		json_decref(list->items[i].stats);
	free(list->items);
	*list = (struct vm_list){0};
}
