/* SPDX-License-Identifier: Apache-2.0 */
/* Tells a service manager how the VM fares: the datagrams of sd_notify(3), by hand. */
#include "tools/run-notify.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "base/log.h"

#define MESSAGE_MAX 1024

static int address(const char *text, struct sockaddr_un *ret, socklen_t *ret_len)
{
	size_t len = strlen(text);

	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (text[0] != '@' && text[0] != '/')
		return -EAFNOSUPPORT;
	if (len >= sizeof(ret->sun_path))
		return -ENAMETOOLONG;
	memcpy(ret->sun_path, text, len);
	if (text[0] == '@')
		ret->sun_path[0] = '\0'; /* no NUL at the end: it would be part of the name (unix(7)) */
	*ret_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + (text[0] == '/'));
	return 0;
}

int run_notify_open(struct run_notify *n, struct errmsg *err)
{
	const char *env = getenv("NOTIFY_SOCKET");
	auto_free char *text = env ? strdup(env) : NULL;
	struct timeval second = {.tv_sec = 1};
	struct sockaddr_un sun;
	socklen_t len = 0;
	int r;

	*n = RUN_NOTIFY_NONE;
	/* Nobody whom we start speaks for us. */
	unsetenv("NOTIFY_SOCKET");
	if (!text || !text[0])
		return 0;
	r = address(text, &sun, &len);
	if (r < 0)
		return errmsg_set(err, r, "NOTIFY_SOCKET=%s: %s; a path or @name is needed", text,
				  strerror(-r));
	n->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (n->fd < 0 || setsockopt(n->fd, SOL_SOCKET, SO_SNDTIMEO, &second, sizeof(second)) < 0 ||
	    connect(n->fd, (struct sockaddr *)&sun, len) < 0) {
		r = -errno;
		run_notify_close(n);
		return errmsg_set(err, r, "NOTIFY_SOCKET=%s: %s; the service manager is not told", text,
				  strerror(-r));
	}
	return 0;
}

void run_notify_close(struct run_notify *n)
{
	close_fd_p(&n->fd);
	*n = RUN_NOTIFY_NONE;
}

void run_notify_send(const struct run_notify *n, const char *fmt, ...)
{
	char text[MESSAGE_MAX];
	va_list ap;

	if (n->fd < 0)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (send(n->fd, text, strlen(text), MSG_NOSIGNAL) < 0)
		log_debug("the service manager was not told: %s", strerror(errno));
}
