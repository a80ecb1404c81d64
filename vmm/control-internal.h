/* SPDX-License-Identifier: Apache-2.0 */
/* Clients and requests of the control socket; for control*.c only. */
#ifndef SARDINE_VMM_CONTROL_INTERNAL_H
#define SARDINE_VMM_CONTROL_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>

#include "vmm/control.h"
#include "vmm/unix-server.h"

#define CONTROL_READ_BYTES 4096

struct control_client {
	struct control *control;
	struct control_client *next;
	uint64_t serial; /* names it to a dump that outlives it */
	int fd;
	struct io_source *source;
	int passed_fd; /* got by SCM_RIGHTS and not yet used; -1: none */
	bool input_ended;
	bool deaf;			  /* takes no more answers */
	bool closing;			  /* goes once its output is written */
	unsigned working;		  /* requests that a thread works on */
	json_t *waits[CONTROL_WAITS_MAX]; /* ids of requests answered at the VM's end */
	unsigned wait_count;
	size_t in_len;
	size_t in_size;
	size_t out_len;
	size_t out_size;
	uint64_t stuck_since_ns; /* its socket took nothing since; 0: it does */
	char *out;		 /* answers not yet taken by the socket */
	char *in;		 /* the line it is sending, and what follows */
};

/* A dump in progress, on its own thread. */
struct control_dump {
	struct control *control;
	uint64_t client; /* serial */
	json_t *id;
	int fd;
	enum dump_format format;
	pthread_t thread;
	atomic_bool cancel;
	int error;
	struct errmsg err;
	struct dump_result result;
};

struct stats_wait;
struct pause_wait;
struct control_work;

enum control_work_kind { CONTROL_MERGE, CONTROL_CHECK };

/* A pause by clients: all of theirs are one. */
enum control_pause_state { CONTROL_NOT_PAUSED, CONTROL_PAUSING, CONTROL_PAUSED };

struct control {
	struct io_loop *loop;
	const struct control_ops *ops;
	void *arg;
	char *name;
	char *greeting;
	struct unix_server *server;
	struct control_client *clients;
	unsigned client_count;
	uint64_t next_serial;

	struct io_source *stop_timer;
	uint64_t stop_at_ns; /* 0: not stopping */

	struct io_source *slow_timer;
	bool slow_armed;
	uint64_t slow_ns; /* how long an answer may stay unread */

	struct stats_wait *stats_waits; /* who asked; its thread runs while there is one */
	pthread_t stats_thread;
	int stats_error;	     /* the thread's result, */
	struct vm_usage stats_usage; /* read after it was joined */
	int stats_fd;		     /* eventfd: it is done */
	struct io_source *stats_source;

	enum control_pause_state pause;
	struct pause_wait *pause_waits; /* who asked while the thread runs */
	pthread_t pause_thread;		/* runs while CONTROL_PAUSING */
	int pause_fd;			/* eventfd: it is done */
	struct io_source *pause_source;

	struct control_work *works; /* who asked; the thread works for the first */
	pthread_t work_thread;	    /* runs while there is one */
	atomic_bool work_cancel;
	int work_fd; /* eventfd: it is done */
	struct io_source *work_source;

	struct control_dump *dump;
	int dump_fd; /* eventfd: the dump's thread is done */
	struct io_source *dump_source;
};

/* What became of a request. */
enum control_verdict {
	CONTROL_ANSWERED, /* or will be */
	CONTROL_STREAM,	  /* the connection is the console's now; the client is to be freed without it */
};

/* Work on one request line (without newline; @rest is what follows it in the buffer). */
enum control_verdict control_request(struct control_client *client, const char *line, size_t len,
				     const char *rest, size_t rest_len);

/* Queue an answer; @result is stolen, NULL stands for {}. */
void control_answer(struct control_client *client, const json_t *id, json_t *result);
void control_answer_error(struct control_client *client, const json_t *id, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* The line of an answer, with its newline; freed by the caller, NULL without memory. @result is stolen. */
char *control_answer_line(const json_t *id, json_t *result);

/* Write and watch for what the client waits for; a client for whom nothing is left to do is freed. */
void control_client_settle(struct control_client *client);

/* NULL: it is gone. */
struct control_client *control_client_find(struct control *control, uint64_t serial);

/* Answer when the figures are read. Return: 0 or an errno. */
int control_stats_start(struct control_client *client, const json_t *id);
/* The source's callback. */
void control_stats_done(void *arg, uint32_t events);
/* Wait for the thread, forget who asked. */
void control_stats_cancel(struct control *control);

#define CONTROL_STOPPING_TEXT "the VM is being stopped"

/*
 * Pause or resume. *@ret_later: it is answered later, else the caller answers.
 * Return: 0, -ESHUTDOWN (a VM that is being stopped is not paused), -ENOMEM, or the errno of pthread_create.
 */
int control_pause(struct control_client *client, const json_t *id, bool *ret_later);
int control_resume(struct control_client *client, const json_t *id, bool *ret_later);
/* The source's callback. */
void control_pause_done(void *arg, uint32_t events);
/* A stop ends a pause. */
void control_pause_end(struct control *control);
/* Wait for the thread, forget who asked. */
void control_pause_cancel(struct control *control);

/* Answer when it is done; several are done one after the other. Return: 0, -ENOMEM, or the errno of pthread_create. */
int control_work_add(struct control_client *client, const json_t *id, enum control_work_kind kind,
		     unsigned max_ms) must_check;
/* The source's callback. */
void control_work_done(void *arg, uint32_t events);
/* Cancel it, wait for the thread, forget who asked. */
void control_work_cancel(struct control *control);

/* Start a dump into @fd, which is taken on success. Return: 0, -EBUSY, or an errno. */
int control_dump_start(struct control_client *client, const json_t *id, int fd, enum dump_format format);
/* The source's callback: the dump's thread is done. */
void control_dump_done(void *arg, uint32_t events);
/* Cancel it and wait. */
void control_dump_cancel(struct control *control);

#endif
