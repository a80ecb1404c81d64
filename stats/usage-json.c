/* SPDX-License-Identifier: Apache-2.0 */
/* The account as JSON; its shape is fixed by docs/stats.schema.json and only grows. */
#include <errno.h>

#include "stats/usage.h"

/* Where a figure is in the account and in JSON. */
struct figure {
	const char *key;
	size_t offset;
	bool later; /* came after schema 1 was fixed: a VM that was started before does not tell */
};

#define FIGURE(field)                                                                                        \
	{                                                                                                    \
#field "_bytes", offsetof(struct vm_usage, field), false                                     \
	}

static const struct figure memory_figures[] = {
	FIGURE(configured),
	FIGURE(populated),
	FIGURE(private),
	FIGURE(shared_from_birth),
	FIGURE(merged),
	FIGURE(ballooned),
	FIGURE(huge),
	FIGURE(swapped),
	FIGURE(occupied),
	FIGURE(vmm_private),
	{"store_bytes", offsetof(struct vm_usage, store), true},
};

static const struct figure saved_figures[] = {
	{"birth_bytes", offsetof(struct vm_usage, saved_birth), false},
	{"ksm_bytes", offsetof(struct vm_usage, saved_ksm), false},
	{"store_bytes", offsetof(struct vm_usage, saved_store), true},
	{"total_bytes", offsetof(struct vm_usage, saved_total), false},
};

static json_t *figures_json(const struct vm_usage *vm, const struct figure *figures, size_t count,
			    uint64_t zero)
{
	json_t *json = json_object();
	int r = json ? 0 : -1;

	for (size_t i = 0; i < count && r == 0; i++) {
		const uint64_t *v = (const void *)((const char *)vm + figures[i].offset);

		r = json_object_set_new(json, figures[i].key, json_integer((json_int_t)*v));
	}
	if (r == 0)
		r = json_object_set_new(json, "zero_bytes",
					vm->zero_known ? json_integer((json_int_t)zero) : json_null());
	if (r == 0)
		return json;
	json_decref(json);
	return NULL;
}

static int figures_read(const json_t *json, const struct figure *figures, size_t count, struct vm_usage *ret)
{
	for (size_t i = 0; i < count; i++) {
		const json_t *v = json_object_get(json, figures[i].key);

		if (!v && figures[i].later)
			continue;
		if (!json_is_integer(v) || json_integer_value(v) < 0)
			return -EINVAL;
		*(uint64_t *)(void *)((char *)ret + figures[i].offset) = (uint64_t)json_integer_value(v);
	}
	return 0;
}

json_t *vm_usage_memory_json(const struct vm_usage *vm)
{
	json_t *json = figures_json(vm, memory_figures, ARRAY_SIZE(memory_figures), vm->zero);

	if (json && json_object_set_new(json, "mergeable", json_boolean(vm->mergeable)) < 0) {
		json_decref(json);
		return NULL;
	}
	return json;
}

json_t *vm_usage_saved_json(const struct vm_usage *vm)
{
	return figures_json(vm, saved_figures, ARRAY_SIZE(saved_figures), vm->saved_zero);
}

static json_t *number_or_null(bool known, uint64_t v)
{
	return known ? json_integer((json_int_t)v) : json_null();
}

json_t *host_usage_json(const struct host_usage *host)
{
	const struct ksm_host_usage *ksm = &host->ksm;
	json_t *memory = figures_json(&host->sum, memory_figures, ARRAY_SIZE(memory_figures), host->sum.zero);

	return json_pack("{s:i, s:o, s:o, s:f, s:{s:o, s:o, s:o}}", "vms", (int)host->vms, "memory", memory,
			 "saved", vm_usage_saved_json(&host->sum), "ratio", host_usage_ratio(host), "ksm",
			 "pages_shared", number_or_null(ksm->known, ksm->pages_shared), "pages_sharing",
			 number_or_null(ksm->known, ksm->pages_sharing), "zero_pages",
			 number_or_null(ksm->zero_known, ksm->zero_pages));
}

int vm_usage_from_json(const json_t *vm, struct vm_usage *ret)
{
	const json_t *memory = json_object_get(vm, "memory"), *saved = json_object_get(vm, "saved");
	const json_t *zero = json_object_get(memory, "zero_bytes");
	struct vm_usage u = {0};

	if (figures_read(memory, memory_figures, ARRAY_SIZE(memory_figures), &u) < 0 ||
	    figures_read(saved, saved_figures, ARRAY_SIZE(saved_figures), &u) < 0)
		return -EINVAL;
	u.zero_known = json_is_integer(zero);
	u.zero = u.saved_zero = u.zero_known ? (uint64_t)json_integer_value(zero) : 0;
	u.mergeable = json_is_true(json_object_get(memory, "mergeable"));
	*ret = u;
	return 0;
}
