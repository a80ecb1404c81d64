/* SPDX-License-Identifier: Apache-2.0 */
/* The log of a program: levels, one line per event, a file that can be reopened. Libraries log at debug only. */
#ifndef SARDINE_BASE_LOG_H
#define SARDINE_BASE_LOG_H

#include "base/cleanup.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/**
 * log_level_parse() - "error", "warn", "info" or "debug" to a level.
 *
 * Return: 0 or -EINVAL.
 */
int log_level_parse(const char *s, enum log_level *ret) must_check;

/* The name of a level. */
const char *log_level_name(enum log_level level);

/**
 * log_open() - Send the log to a file (appended, created 0600) or, with NULL, to stderr.
 * @path: the file, or NULL.
 * @level: the most verbose level to write.
 * @tag: put before each message, e.g. "sardine web1"; copied.
 *
 * Context: once, before other threads exist. Until then messages go to stderr at LOG_LEVEL_INFO.
 * Return: 0 or the errno of open.
 */
int log_open(const char *path, enum log_level level, const char *tag) must_check;

/**
 * log_reopen() - Open the log's file anew by its name: it was moved away.
 *
 * Context: any thread.
 * Return: 1 when it was done, 0 when the log is no regular file; or the errno of reopen_file(), and the log goes on where it is.
 */
int log_reopen(void) must_check;
/* The folder that log_reopen() looks in, as an O_PATH descriptor of the log's; -1: none. */
int log_folder(void);

/* Writes one line with one write(2); any thread. */
void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
