/* SPDX-License-Identifier: Apache-2.0 */
/* Where a VM's serial port goes: a history of 64 KiB, its readers, and what is typed into the guest. */
#ifndef SARDINE_VMM_CONSOLE_H
#define SARDINE_VMM_CONSOLE_H

#include <stddef.h>
#include <stdint.h>

#include "base/errmsg.h"
#include "base/syscalls.h"
#include "vmm/config.h"
#include "vmm/io-loop.h"

#define CONSOLE_HISTORY_BYTES 65536
/* The back end and its clients, `sardine console` included. */
#define CONSOLE_ENDS_MAX 16
/* The most input that console_attach() takes over. */
#define CONSOLE_INPUT_BYTES 4096

struct console;

/**
 * console_input_fn - Give typed bytes to the guest.
 * Context: the loop's thread. Must not block.
 * Return: how many of the bytes were taken, from the start. When fewer than @len, console_input_room() must
 * be called once there is room again.
 */
typedef size_t (*console_input_fn)(void *arg, const uint8_t *data, size_t len);

/* All since the start. */
struct console_counters {
	uint64_t output_bytes;	       /* written by the guest */
	uint64_t output_dropped_bytes; /* lost by slow readers, summed over them */
	uint64_t input_bytes;	       /* taken by the guest */
	uint64_t input_dropped_bytes;  /* typed in vain: at a terminal, or by a client that left */
	unsigned readers;	       /* connected now */
};

/**
 * console_new() - Make the console of one VM.
 * @loop: the I/O loop; outlives the console.
 * @kind: where the serial port goes.
 * @path: of CONSOLE_FILE (appended to, created 0600) and CONSOLE_UNIX (listens; a dead socket is replaced);
 *        else NULL.
 * @err: one line on failure.
 * @ret: freed with console_free().
 *
 * CONSOLE_STDIO: a terminal on standard input is put into raw mode (vmm/terminal.h); there Ctrl-A x asks to
 * leave, which stops the VM as SIGTERM does. In the background of its terminal, a console only writes.
 * SIGPIPE is ignored from here on, in the whole process, if nobody has set it.
 *
 * Return: 0 or an errno.
 */
int console_new(struct io_loop *loop, enum console_kind kind, const char *path, struct errmsg *err,
		struct console **ret) must_check;

/*
 * Write what readers still lack (waiting for them at most a second in all), give the terminal back, close.
 * Context: the loop's thread, or after it ended; vCPUs have ended.
 */
void console_free(struct console *console);
/* From now on console_free() leaves the file of a unix: console, and console_discard_file() does nothing: the process is confined. */
void console_leave_file(struct console *console);
DEFINE_CLEANUP(struct console, console_free)

/*
 * When the VM did not come to be: remove the file that console_new() created for CONSOLE_FILE, unless something
 * is in it. Context: as console_free(), which is still to be called.
 */
void console_discard_file(struct console *console);

/**
 * console_reopen() - Open the file of CONSOLE_FILE anew by its name: it was moved away.
 *
 * What the guest wrote before goes to the old one. Context: the loop's thread.
 * Return: 1 when it was done, 0 when there is no file, or it is no regular one; or the errno of reopen_file(), and the console
 * goes on where it is.
 */
int console_reopen(struct console *console) must_check;
/* The folder that console_reopen() looks in, as an O_PATH descriptor of the console's; -1: none. */
int console_folder(const struct console *console);

/* One byte from the guest. Context: a vCPU thread; takes a short mutex, never waits for a reader. */
void console_output(struct console *console, uint8_t byte);

/* Where input goes; until then it waits. NULL stops it. Context: the loop's thread, or before it runs. */
void console_set_input(struct console *console, console_input_fn fn, void *arg);

/* The guest made room for input. Context: any thread, also under the device's own mutex; cheap when nothing
 * waits. */
void console_input_room(struct console *console);

/* Instead of SIGTERM to ourselves when Ctrl-A x is typed. Context: as console_set_input(). */
void console_set_quit(struct console *console, void (*fn)(void *arg), void *arg);

/**
 * console_attach() - Make a connected stream socket a reader and a keyboard.
 * @fd: non-blocking; the console's from here on, also on failure.
 * @prefix, @prefix_len: sent before the history; copied.
 * @input, @input_len: what came in already, at most CONSOLE_INPUT_BYTES.
 *
 * It gets the history (up to CONSOLE_HISTORY_BYTES), then all that follows. Context: the loop's thread.
 * Return: 0, -EUSERS when there are CONSOLE_ENDS_MAX, or an errno.
 */
int console_attach(struct console *console, int fd, const void *prefix, size_t prefix_len, const void *input,
		   size_t input_len) must_check;

/* Context: the loop's thread. */
void console_counters(struct console *console, struct console_counters *ret);

extern const struct syscall_list console_syscalls;

#endif
