/* SPDX-License-Identifier: Apache-2.0 */
/* What KSM did: for one process, and on the host. */
#include "stats/ksm-usage.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/size.h"

#define TEXT_MAX 4096

/* The text of a file of at most TEXT_MAX - 1 bytes, from its start. */
static bool read_text(int fd, char *text)
{
	ssize_t n = fd < 0 ? -1 : pread(fd, text, TEXT_MAX - 1, 0);

	text[n < 0 ? 0 : n] = '\0';
	return n > 0;
}

static bool read_number(int fd, uint64_t *ret)
{
	char text[TEXT_MAX];

	if (!read_text(fd, text))
		return false;
	text[strcspn(text, "\n")] = '\0';
	return number_parse(text, UINT64_MAX, ret) == 0;
}

/* "ksm_zero_pages 12" in a file of such lines. */
static bool find_field(const char *text, const char *name, uint64_t *ret)
{
	size_t len = strlen(name);

	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, name, len) == 0 && line[len] == ' ')
			return sscanf(line + len, " %" SCNu64, ret) == 1;
	}
	return false;
}

static int open_in(const char *folder, const char *file)
{
	char path[512];
	int n = snprintf(path, sizeof(path), "%s/%s", folder, file);

	return n > 0 && (size_t)n < sizeof(path) ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
						 : -1;
}

void ksm_process_files_open(const char *proc, struct ksm_process_files *ret)
{
	ret->merging_pages = open_in(proc, "ksm_merging_pages");
	ret->stat = open_in(proc, "ksm_stat");
}

void ksm_process_files_close(struct ksm_process_files *files)
{
	close_fd_p(&files->merging_pages);
	close_fd_p(&files->stat);
	files->merging_pages = files->stat = -1;
}

void ksm_host_files_open(const char *root, struct ksm_host_files *ret)
{
	ret->pages_shared = open_in(root, "pages_shared");
	ret->pages_sharing = open_in(root, "pages_sharing");
	ret->zero_pages = open_in(root, "ksm_zero_pages");
}

void ksm_host_files_close(struct ksm_host_files *files)
{
	close_fd_p(&files->pages_shared);
	close_fd_p(&files->pages_sharing);
	close_fd_p(&files->zero_pages);
	files->pages_shared = files->pages_sharing = files->zero_pages = -1;
}

void ksm_process_usage_read(const struct ksm_process_files *files, struct ksm_process_usage *ret)
{
	struct ksm_process_usage u = {0};
	char text[TEXT_MAX];

	u.known = read_number(files->merging_pages, &u.merging_pages);
	if (read_text(files->stat, text)) {
		u.zero_known = find_field(text, "ksm_zero_pages", &u.zero_pages);
		if (!u.known)
			u.known = find_field(text, "ksm_merging_pages", &u.merging_pages);
	}
	*ret = u;
}

void ksm_host_usage_read(const struct ksm_host_files *files, struct ksm_host_usage *ret)
{
	struct ksm_host_usage u = {0};

	u.known = read_number(files->pages_shared, &u.pages_shared) &&
		  read_number(files->pages_sharing, &u.pages_sharing);
	u.zero_known = read_number(files->zero_pages, &u.zero_pages);
	*ret = u;
}

DEFINE_SYSCALLS(ksm_usage_syscalls, SYSCALL(pread64));
