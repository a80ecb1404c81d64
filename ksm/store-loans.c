/* SPDX-License-Identifier: Apache-2.0 */
/* Segments on their way into the store, and out: lent, offered, adopted, fetched. */
#include <errno.h>
#include <fcntl.h>

#include "ksm/store-internal.h"

static int refused(struct store *s, int r)
{
	if (r == -EINVAL || r == -EPERM || r == -ENOENT)
		atomic_fetch_add_explicit(&s->counters.refused, 1, memory_order_relaxed);
	return r;
}

static struct store_loan *loan_of(struct store_client *c, uint32_t number)
{
	for (unsigned i = 0; i < STORE_LOANS_MAX; i++)
		if (c->loans[i].number == number)
			return &c->loans[i];
	return NULL;
}

/* Count one loan more, or one less. */
static bool count_loan(struct store *s, int delta)
{
	bool room;

	pthread_mutex_lock(&s->lock);
	room = delta < 0 || store_room_for_segment(s);
	if (room)
		s->loans += (uint64_t)(int64_t)delta;
	pthread_mutex_unlock(&s->lock);
	return room;
}

int store_lend(struct store_client *c, uint32_t pages, uint32_t *ret_loan, int *ret_fd)
{
	struct store *s = c->store;
	struct store_loan *loan = loan_of(c, 0);
	auto_fd own = -1, fd = -1;
	int r;

	if (pages == 0 || pages > SEGMENT_PAGES)
		return refused(s, -EINVAL);
	if (!loan)
		return -EMFILE;
	if (!count_loan(s, 1))
		return -ENOSPC;
	r = segment_file_new(pages, &own);
	if (r == 0) {
		fd = fcntl(own, F_DUPFD_CLOEXEC, 0);
		r = fd < 0 ? -errno : 0;
	}
	if (r < 0) {
		count_loan(s, -1);
		return r;
	}
	while (c->loans_made == 0 || loan_of(c, c->loans_made))
		c->loans_made++;
	*loan = (struct store_loan){.number = c->loans_made, .pages = pages, .fd = TAKE_FD(own)};
	*ret_loan = loan->number;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* Take a sealed file into the store. */
static int take_in(struct store_client *c, int fd, uint32_t pages, uint32_t *ret_segment)
{
	struct store *s = c->store;
	struct store_segment *g, *was;
	int r;

	r = store_segment_new(s, fd, pages, &g);
	if (r < 0) {
		close(fd);
		return r;
	}
	was = g;
	pthread_mutex_lock(&s->lock);
	r = store_index_reserve(s, pages);
	if (r == 0)
		r = store_segment_publish(s, &g);
	if (r == 0) {
		*ret_segment = g->number;
		if (g == was)
			store_segment_index(s, g, c);
	}
	pthread_mutex_unlock(&s->lock);
	if (r < 0)
		store_segment_free(g);
	store_reclaim(s);
	return r;
}

int store_offer(struct store_client *c, uint32_t loan, uint32_t *ret_segment)
{
	struct store *s = c->store;
	struct store_loan *l = loan ? loan_of(c, loan) : NULL;
	struct store_loan taken;
	uint32_t pages;
	int r;

	if (!l)
		return refused(s, -ENOENT);
	taken = *l;
	*l = (struct store_loan){.fd = -1};
	count_loan(s, -1);
	r = segment_check(taken.fd, &pages, NULL);
	if (r == 0 && pages > taken.pages)
		r = -EPERM; /* cannot be: it was sealed against growing */
	if (r < 0) {
		close(taken.fd);
		return refused(s, r);
	}
	return take_in(c, taken.fd, pages, ret_segment);
}

int store_adopt(struct store_client *c, int fd, uint32_t *ret_segment)
{
	struct store *s = c->store;
	auto_fd own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	uint32_t pages;
	int r;

	if (own < 0)
		return refused(s, errno == EBADF ? -EINVAL : -errno);
	r = segment_check(own, &pages, NULL);
	if (r < 0)
		return refused(s, r);
	return take_in(c, TAKE_FD(own), pages, ret_segment);
}

int store_fetch(struct store_client *c, uint32_t segment, int *ret_fd)
{
	struct store *s = c->store;
	struct store_segment *g;
	int fd = -1, r = 0;

	pthread_mutex_lock(&s->lock);
	g = store_segment_get(s, segment);
	if (g)
		fd = fcntl(g->fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		r = g ? -errno : -ENOENT;
	pthread_mutex_unlock(&s->lock);
	if (r == 0)
		*ret_fd = fd;
	return r;
}
