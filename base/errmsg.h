/* SPDX-License-Identifier: Apache-2.0 */
/* One line for a person about what went wrong: what it is, which file or option, what to do. */
#ifndef SARDINE_BASE_ERRMSG_H
#define SARDINE_BASE_ERRMSG_H

#include <stddef.h>

#define ERRMSG_MAX 512

/* A zeroed errmsg is empty. The first message set stays: it is nearest to the cause. */
struct errmsg {
	char text[ERRMSG_MAX];
};

/**
 * errmsg_set() - Set the message unless one is set already, and pass an error through.
 * @err: the message, or NULL to drop it.
 * @code: a negative errno, returned as it is.
 * @fmt: printf format of one line without a newline; control characters in the result become '?'.
 *
 * Use as `return errmsg_set(err, -EINVAL, "--mem %s: not a size; ...", s);`
 *
 * Return: @code.
 */
int errmsg_set(struct errmsg *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/**
 * errmsg_text() - The message, or the text of an errno when none was set.
 * @err: the message.
 * @code: a negative errno.
 *
 * Return: a string, valid as long as @err; never NULL.
 */
const char *errmsg_text(const struct errmsg *err, int code);

#endif
