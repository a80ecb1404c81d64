/* SPDX-License-Identifier: Apache-2.0 */
/* Due work of a store: segments that nobody maps are let go, those that are mostly dead are moved into new ones. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/fs.h"
#include "ksm/store-internal.h"

/*
 * Theory of operation
 *
 * A page of a segment that no VM maps is dead; the kernel gives its memory back only with the whole segment. A tick
 *
 * - lets go of segments without references for evacuate_after_ns: nobody has mapped what was donated, or all are gone;
 * - picks segments that have had dead pages for that long: all that are dead by more than half; and while more than a
 *   twentieth of the store would stay dead, those with the largest dead part, down to a tenth. So no more than a tenth of
 *   the store stays dead once things are quiet, and no page is copied for less than a ninth of a page;
 * - copies their live pages, in their order, so that runs stay runs, into a new segment. Sealed segments cannot change, so
 *   that takes no lock; the tick's own keeps them from going. The new one is indexed instead;
 * - tells each client with references on the old one (STORE_EVENT_MOVE), and again after a while (twice as long each time)
 *   as long as it has any: it had no room, or no time. The new one stays meanwhile although nobody maps it yet. After
 *   MOVE_TRIES the store gives up: the old one is left alone until its references change.
 *
 * The old segment is let go when its last reference is.
 */
#define DEAD_PART     10u /* a segment is worth moving above 1/10 */
#define DEAD_STORE    20u /* of the store, 1/20 may be dead */
#define MOVE_TRIES    5u
#define TARGETS_MAX   64u /* new segments per tick: some 100 ms */
#define PIECE_PAGES   16u
#define TICKS_A_GRACE 4u

static uint32_t dead_pages(const struct store_segment *g)
{
	return g->pages - g->live;
}

void store_move_end(struct store_segment *g)
{
	if (!g->moved_to)
		return;
	g->moved_to->sources--;
	g->moved_to = NULL;
	free(TAKE_PTR(g->moves));
	g->move_count = 0;
}

static bool has_any(const struct store_refs *refs, const struct store_move *m)
{
	for (uint32_t i = m->page; i < m->page + m->run; i++)
		if (refs->counts[i])
			return true;
	return false;
}

/* To each client as much as it takes. */
static void tell_moves(const struct store_segment *g)
{
	for (const struct store_refs *refs = g->refs; refs; refs = refs->next) {
		for (uint32_t i = 0; i < g->move_count; i++) {
			const struct store_move *m = &g->moves[i];
			struct store_event e = {.kind = STORE_EVENT_MOVE,
						.segment = g->number,
						.page = m->page,
						.run = m->run,
						.to_segment = g->moved_to->number,
						.to_page = m->to_page};

			if (has_any(refs, m) && store_send(refs->client, &e) == -ENOSPC)
				break;
		}
	}
}

/* Pages that somebody began to map when they had been dead: they were not moved. */
static bool has_come_alive(const struct store_segment *g)
{
	uint32_t live = 0;

	for (uint32_t i = 0; i < g->move_count; i++)
		for (uint32_t p = 0; p < g->moves[i].run; p++)
			live += store_segment_total(g, g->moves[i].page + p) != 0;
	return live < g->live;
}

static void tell_again(struct store *s, struct store_segment *g)
{
	if (has_come_alive(g)) {
		store_move_end(g); /* and is moved once more */
		return;
	}
	if (g->move_tries == MOVE_TRIES) {
		store_move_end(g);
		g->left_alone = g->live;
		return;
	}
	g->move_again = s->now_ns + (s->evacuate_after_ns << g->move_tries++);
	tell_moves(g);
}

/* Note since when it has dead pages, and let go of it when it is due. */
static void look_at(struct store *s, struct store_segment *g)
{
	uint64_t now = s->now_ns ? s->now_ns : 1;

	if (g->left_alone && g->left_alone != g->live)
		g->left_alone = 0;
	if (g->live || g->sources)
		g->unused_since = 0;
	else if (!g->unused_since)
		g->unused_since = now;
	if (dead_pages(g) <= g->pages / DEAD_PART)
		g->dead_since = 0;
	else if (!g->dead_since)
		g->dead_since = now;
	if (g->unused_since && (g->moved_to || now - g->unused_since >= s->evacuate_after_ns))
		store_segment_drop(s, g);
	else if (g->moved_to && now >= g->move_again)
		tell_again(s, g);
}

static int by_dead_part(const void *a, const void *b)
{
	const struct store_segment *x = *(struct store_segment *const *)a,
				   *y = *(struct store_segment *const *)b;
	uint64_t p = (uint64_t)dead_pages(x) * y->pages, q = (uint64_t)dead_pages(y) * x->pages;

	return p > q ? -1 : p < q;
}

/* Segments to be moved, or NULL; the caller frees it. */
static struct store_segment **pick(struct store *s, size_t *ret_count)
{
	struct store_segment **v = malloc((s->stats.segments + 1) * sizeof(struct store_segment *));
	uint64_t dead = 0, pages = 0;
	size_t n = 0, kept = 0;

	*ret_count = 0;
	if (!v)
		return NULL;
	for (struct store_segment *g = store_segment_next(s, 0); g; g = store_segment_next(s, g->number)) {
		if (g->moved_to)
			continue;
		pages += g->pages;
		dead += g->sources ? 0 : dead_pages(g);
		if (g->live && !g->sources && !g->left_alone && g->dead_since &&
		    s->now_ns - g->dead_since >= s->evacuate_after_ns)
			v[n++] = g;
	}
	qsort(v, n, sizeof(struct store_segment *), by_dead_part);
	for (size_t i = 0; i < n; i++) {
		if (2 * (uint64_t)dead_pages(v[i]) <= v[i]->pages && DEAD_STORE * dead <= pages)
			break;
		dead -= dead_pages(v[i]);
		pages -= dead_pages(v[i]);
		kept++;
	}
	*ret_count = kept;
	return v;
}

/* Live pages of some segments that fill a new one. */
struct load {
	struct store_segment **sources;
	size_t source_count;
	struct store_place *from; /* of each page */
	uint32_t pages;
};

static void load_done(struct load *l)
{
	free(l->from);
}

/* The next of @v that fit together, at least one. Return: 0 or -ENOMEM. */
static int load_make(struct store_segment **v, size_t count, struct load *ret)
{
	struct load l = {.sources = v};
	uint32_t pages = 0, n = 0;

	do {
		pages += v[l.source_count++]->live;
	} while (l.source_count < count && pages + v[l.source_count]->live <= SEGMENT_PAGES);
	l.from = calloc(pages ? pages : 1, sizeof(*l.from));
	if (!l.from)
		return -ENOMEM;
	for (size_t i = 0; i < l.source_count; i++)
		for (uint32_t p = 0; p < v[i]->pages; p++)
			if (store_segment_total(v[i], p))
				l.from[n++] = (struct store_place){v[i], p};
	l.pages = n;
	*ret = l;
	return 0;
}

/* So many from @i on, at most @max, lie one after the other. */
static uint32_t load_run(const struct load *l, uint32_t i, uint32_t max)
{
	uint32_t n = 1;

	while (n < max && i + n < l->pages && l->from[i + n].segment == l->from[i].segment &&
	       l->from[i + n].page == l->from[i].page + n)
		n++;
	return n;
}

static int copy_pages(const struct load *l, struct segment *to)
{
	auto_free uint8_t *piece = malloc(PIECE_PAGES * PAGE_BYTES);
	uint32_t n, first;

	if (!piece)
		return -ENOMEM;
	for (uint32_t i = 0; i < l->pages; i += n) {
		int r;

		n = load_run(l, i, PIECE_PAGES);
		r = pread_full(l->from[i].segment->fd, piece, n * PAGE_BYTES, l->from[i].page * PAGE_BYTES);
		if (r == 0)
			r = segment_append(to, piece, n, &first);
		if (r < 0)
			return r;
	}
	return 0;
}

/* A sealed copy, with its keys. */
static int load_copy(struct store *s, const struct load *l, struct store_segment **ret)
{
	cleanup(segment_free_p) struct segment *to = NULL;
	auto_fd fd = -1;
	int r = segment_new(l->pages, &to);

	if (r == 0)
		r = copy_pages(l, to);
	if (r == 0)
		r = segment_seal(to, &fd);
	if (r == 0)
		r = store_segment_new(s, fd, l->pages, ret);
	if (r == 0)
		(void)TAKE_FD(fd);
	return r;
}

/* What became of the pages of @g, as runs. */
static int note_moves(const struct load *l, struct store_segment *g)
{
	struct store_move *moves = calloc(g->pages, sizeof(*moves)), *fit;
	uint32_t count = 0, n;

	if (!moves)
		return -ENOMEM;
	for (uint32_t i = 0; i < l->pages; i += n) {
		n = load_run(l, i, l->pages);
		if (l->from[i].segment == g)
			moves[count++] = (struct store_move){l->from[i].page, n, i};
	}
	fit = realloc(moves, (count ? count : 1) * sizeof(*moves));
	g->moves = fit ? fit : moves;
	g->move_count = count;
	return 0;
}

static void undo_moves(const struct load *l)
{
	for (size_t i = 0; i < l->source_count; i++)
		free(TAKE_PTR(l->sources[i]->moves));
}

/* Under the lock. */
static int put_in_place(struct store *s, const struct load *l, struct store_segment **to)
{
	int r = store_index_reserve(s, l->pages);

	for (size_t i = 0; r == 0 && i < l->source_count; i++)
		r = note_moves(l, l->sources[i]);
	if (r == 0)
		r = store_segment_publish(s, to);
	if (r < 0) {
		undo_moves(l);
		return r;
	}
	for (size_t i = 0; i < l->source_count; i++) {
		/* Contents of dead pages are forgotten. */
		store_segment_unindex(s, l->sources[i]);
		l->sources[i]->moved_to = *to;
		l->sources[i]->move_tries = 0;
		(*to)->sources++;
	}
	store_segment_index(s, *to, NULL);
	s->stats.moves_pages += l->pages;
	for (size_t i = 0; i < l->source_count; i++)
		tell_again(s, l->sources[i]);
	return 0;
}

static int move_some(struct store *s, struct store_segment **v, size_t count, size_t *ret_done)
{
	cleanup(load_done) struct load l = {0};
	struct store_segment *to = NULL;
	int r;

	pthread_mutex_lock(&s->lock);
	r = store_room_for_segment(s) ? load_make(v, count, &l) : -ENOSPC;
	pthread_mutex_unlock(&s->lock);
	if (r < 0)
		return r;
	*ret_done = l.source_count;
	if (l.pages == 0)
		return 0;
	r = load_copy(s, &l, &to);
	if (r < 0)
		return r;
	pthread_mutex_lock(&s->lock);
	r = put_in_place(s, &l, &to);
	pthread_mutex_unlock(&s->lock);
	if (r < 0)
		store_segment_free(to);
	return r;
}

/* Contents that were found in a segment that has gone, and are in another one, too. */
static void find_places(struct store *s)
{
	struct store_segment *g = NULL;
	int r = 0;

	pthread_mutex_lock(&s->lock);
	if (s->lost_places) {
		s->lost_places = false;
		do {
			g = store_segment_next(s, g ? g->number : 0);
			if (g)
				r = store_segment_reindex(s, g);
			/* Others may have a turn. */
			pthread_mutex_unlock(&s->lock);
			pthread_mutex_lock(&s->lock);
		} while (g && r == 0);
		s->lost_places |= r < 0;
	}
	pthread_mutex_unlock(&s->lock);
}

uint64_t store_tick(struct store *s, uint64_t now_ns)
{
	auto_free struct store_segment **v = NULL;
	size_t count = 0, at = 0, done = 0;

	pthread_mutex_lock(&s->tick_lock);
	pthread_mutex_lock(&s->lock);
	s->now_ns = now_ns;
	store_pending_tick(s);
	for (struct store_segment *g = store_segment_next(s, 0); g; g = store_segment_next(s, g->number))
		look_at(s, g);
	v = pick(s, &count);
	pthread_mutex_unlock(&s->lock);
	find_places(s);
	/* Without memory, descriptors or room: at the next tick. */
	for (unsigned i = 0; i < TARGETS_MAX && at < count; i++, at += done)
		if (move_some(s, v + at, count - at, &done) < 0)
			break;
	pthread_mutex_unlock(&s->tick_lock);
	store_reclaim(s);
	return now_ns + s->evacuate_after_ns / TICKS_A_GRACE;
}
