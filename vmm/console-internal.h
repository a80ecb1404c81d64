/* SPDX-License-Identifier: Apache-2.0 */
/* The ends of a console (who reads, who types) and the history they share; for console*.c only. */
#ifndef SARDINE_VMM_CONSOLE_INTERNAL_H
#define SARDINE_VMM_CONSOLE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/reopen.h"
#include "vmm/console.h"
#include "vmm/terminal.h"
#include "vmm/unix-server.h"

/* The reading half: its place in the history. fd -1: there is none, or it went away. */
struct console_out {
	int fd;
	bool socket;	   /* written by send(MSG_DONTWAIT) */
	bool lossy;	   /* a file: an error loses bytes, not the reader */
	int restore_flags; /* of fd, which is not ours to change for good; -1: none */
	struct io_source *source;
	uint64_t pos; /* next byte of the history to write */
	uint64_t gap; /* bytes lost that are not yet told */
	char *prefix; /* to be written first, and where in it we are */
	size_t prefix_len;
	size_t prefix_off;
	bool blocked; /* waits for EPOLLOUT */
};

/* The typing half. fd -1 as above. */
struct console_in {
	int fd;
	bool socket;
	bool terminal; /* raw: has the escape key, and drops rather than waits */
	bool pollable; /* epoll takes it; regular files and /dev/null it does not */
	struct io_source *source;
	struct terminal_escape escape;
	size_t pending_off;
	size_t pending_len;
	uint8_t pending[CONSOLE_INPUT_BYTES];
};

struct console_end {
	struct console *console;
	struct console_end *next; /* older */
	bool client;		  /* came by console_attach(); not the back end */
	struct console_out out;
	struct console_in in;
};

struct console {
	struct io_loop *loop;
	struct console_end *ends;
	unsigned end_count;
	struct unix_server *server;
	bool raw;	    /* we put the terminal into raw mode */
	struct reopen file; /* of CONSOLE_FILE */
	char *created_path; /* of CONSOLE_FILE, when the file is new */

	console_input_fn input_fn;
	void *input_arg;
	void (*quit_fn)(void *arg);
	void *quit_arg;
	struct console_counters counters; /* those of the loop's thread */

	int wake_fd;
	struct io_source *wake;
	struct io_source *pace;	   /* the next look at the history */
	atomic_bool input_stalled; /* the guest took less than it was given */
	atomic_bool input_room;	   /* and has room again */

	pthread_mutex_t mutex;
	uint64_t head;	    /* guarded by mutex: bytes ever written */
	bool wake_sent;	    /* guarded by mutex: the loop will look */
	uint64_t looked_at; /* guarded by mutex: head when it last did */
	uint8_t *ring;	    /* guarded by mutex: the last CONSOLE_HISTORY_BYTES */
};

/* Wake the loop's thread. Any thread. */
void console_wake(struct console *console);
/* Copy from the history at @*pos, moving it forward over what is lost (counted in @*ret_lost). Return: bytes. */
size_t console_copy(struct console *console, uint64_t *pos, uint8_t *buf, size_t len, uint64_t *ret_lost);
/* Bytes ever written by the guest. */
uint64_t console_head(struct console *console);
/* Ctrl-A x. */
void console_quit(struct console *console);

/* Add an end without halves, at the limit in the place of a client that left. NULL: -ENOMEM or -EUSERS in @ret_error. */
struct console_end *console_end_new(struct console *console, int *ret_error);
/* Remove an end whose halves are both gone. Return: true when it was freed. */
bool console_end_reap(struct console_end *end);
void console_end_free(struct console_end *end);

/* Let @end read by @fd, which becomes its own. */
int console_out_open(struct console_end *end, int fd, uint64_t pos);
/* Write what the reader lacks, as far as it goes without waiting. */
void console_out_drain(struct console_end *end);
/* Has it all? */
bool console_out_done(struct console_end *end);

/* Let @end type by @fd, which becomes its own. */
int console_in_open(struct console_end *end, int fd, bool terminal);
/* Move bytes to the guest, as far as it takes them. */
void console_in_pump(struct console_end *end);

#endif
