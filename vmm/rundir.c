/* SPDX-License-Identifier: Apache-2.0 */
/* The runtime directory: which VM names are in use, and where their sockets are. */
#include "vmm/rundir.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/fs.h"
#include "base/size.h"

#define RUNDIR_DEFAULT "/run/sardine"
/* rundir_clean() of another process, or what removes a dead VM's files, may hold a name's lock for a moment; a claim waits that long. */
#define CLAIM_TRIES	   100
#define CLAIM_RETRY_NS	   (2 * 1000 * 1000)
#define RUNDIR_ENTRIES_MAX 65536
#define RUNDIR_NAME_SPACE  (CONFIG_NAME_MAX + sizeof(".lock"))

struct rundir_name {
	const struct rundir *dir;
	char name[CONFIG_NAME_MAX + 1];
	int fd;
};

bool rundir_name_valid(const char *name)
{
	size_t len = strlen(name);

	if (len < 1 || len > CONFIG_NAME_MAX || !isalnum((unsigned char)name[0]))
		return false;
	for (size_t i = 0; i < len; i++)
		if (!isascii(name[i]) || (!isalnum((unsigned char)name[i]) && !strchr("-_.", name[i])))
			return false;
	return true;
}

int rundir_where(uid_t uid, const char *own, const char *xdg, char **ret)
{
	char *path;

	if (own && own[0]) {
		if (own[0] != '/')
			return -EINVAL;
		path = strdup(own);
	} else if (uid == 0 || !xdg || xdg[0] != '/') {
		/* The XDG specification: a relative path is invalid and ignored. */
		path = strdup(RUNDIR_DEFAULT);
	} else if (asprintf(&path, "%s/sardine", xdg) < 0) {
		path = NULL;
	}
	if (!path)
		return -ENOMEM;
	*ret = path;
	return 0;
}

static int hint(struct errmsg *err, int code, const char *path, const char *what)
{
	return errmsg_set(err, code,
			  "runtime directory %s: %s: %s; set SARDINE_RUNTIME_DIR to a directory of your own "
			  "that you can write to",
			  path, what, strerror(-code));
}

int rundir_open(bool create, struct errmsg *err, struct rundir *ret)
{
	const char *own = getenv("SARDINE_RUNTIME_DIR");
	auto_free char *path = NULL;
	auto_fd fd = -1;
	struct stat st;
	int r;

	r = rundir_where(geteuid(), own, getenv("XDG_RUNTIME_DIR"), &path);
	if (r == -EINVAL)
		return errmsg_set(err, r, "SARDINE_RUNTIME_DIR=%s: not an absolute path", own);
	if (r < 0)
		return r;
	if (create && mkdir(path, 0700) < 0 && errno != EEXIST)
		return hint(err, -errno, path, "cannot create it");
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return hint(err, -errno, path, "cannot open it");
	if (st.st_uid != geteuid())
		return errmsg_set(err, -EPERM,
				  "runtime directory %s: it belongs to uid %u, not to you (uid %u); set "
				  "SARDINE_RUNTIME_DIR to a directory of your own",
				  path, st.st_uid, geteuid());
	if (st.st_mode & 077)
		return errmsg_set(err, -EPERM,
				  "runtime directory %s: others can enter it (mode %04o); run: chmod 700 %s",
				  path, st.st_mode & 07777, path);
	*ret = (struct rundir){.fd = TAKE_FD(fd), .path = TAKE_PTR(path)};
	return 0;
}

void rundir_close(struct rundir *dir)
{
	if (dir->fd >= 0)
		close(dir->fd);
	free(dir->path);
	*dir = RUNDIR_NONE;
}

char *rundir_file(const struct rundir *dir, const char *name, const char *suffix)
{
	char *path = NULL;

	if (asprintf(&path, "%s/%s.%s", dir->path, name, suffix) < 0)
		return NULL;
	return path;
}

/* 0 when locked by us, -EAGAIN when somebody else holds it. */
static int lock_take(int fd)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	return errno == EACCES ? -EAGAIN : -errno;
}

/* Asks without taking, so that `ps` never makes a name look used. */
static int lock_held(int fd, bool *ret_held)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
		return -errno;
	*ret_held = lock.l_type != F_UNLCK;
	return 0;
}

static pid_t lock_pid(int fd)
{
	char text[24] = "";
	uint64_t pid;
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return 0;
	text[strcspn(text, "\n")] = '\0';
	return number_parse(text, INT32_MAX, &pid) < 0 ? 0 : (pid_t)pid;
}

static void lock_file_name(char *buf, const char *name)
{
	snprintf(buf, RUNDIR_NAME_SPACE, "%s.lock", name);
}

static void sock_file_name(char *buf, const char *name)
{
	snprintf(buf, RUNDIR_NAME_SPACE, "%s.sock", name);
}

/* Is the file that @fd locked still the one in the directory? Its last holder may have removed it. */
static bool lock_current(const struct rundir *dir, const char *file, int fd)
{
	struct stat a, b;

	return fstat(fd, &a) == 0 && fstatat(dir->fd, file, &b, AT_SYMLINK_NOFOLLOW) == 0 &&
	       a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* With the lock held: remove the socket that a dead VM left. */
static void remove_socket(const struct rundir *dir, const char *name)
{
	char file[RUNDIR_NAME_SPACE];
	struct stat st;

	sock_file_name(file, name);
	if (fstatat(dir->fd, file, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISSOCK(st.st_mode))
		(void)!unlinkat(dir->fd, file, 0);
}

/* One attempt. -EAGAIN: held by somebody (@ret_pid), -ESTALE: the file was replaced meanwhile, at once again. */
static int claim_once(const struct rundir *dir, const char *name, int *ret_fd, pid_t *ret_pid)
{
	char file[RUNDIR_NAME_SPACE];
	auto_fd fd = -1;
	int r;

	lock_file_name(file, name);
	fd = openat(dir->fd, file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
	if (fd < 0)
		return -errno;
	r = lock_take(fd);
	if (r < 0) {
		*ret_pid = lock_pid(fd);
		return r;
	}
	if (!lock_current(dir, file, fd))
		return -ESTALE;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int rundir_claim(const struct rundir *dir, const char *name, struct errmsg *err, struct rundir_name **ret)
{
	struct rundir_name *held;
	auto_fd fd = -1;
	pid_t pid = 0;
	int r = -EAGAIN;

	if (!rundir_name_valid(name))
		return errmsg_set(err, -EINVAL,
				  "--name %s: use 1 to %d letters, digits, '-', '_' or '.', starting with a "
				  "letter or digit",
				  name, CONFIG_NAME_MAX);
	/* Its socket would be NAME.sock. */
	if (strcmp(name, "sardined") == 0)
		return errmsg_set(err, -EINVAL, "--name %s: the daemon's own; choose another name", name);
	for (unsigned i = 0; i < CLAIM_TRIES && (r == -EAGAIN || r == -ESTALE); i++) {
		if (i > 0 && r == -EAGAIN)
			nanosleep(&(struct timespec){.tv_nsec = CLAIM_RETRY_NS}, NULL);
		r = claim_once(dir, name, &fd, &pid);
	}
	if (r == -EAGAIN && pid)
		return errmsg_set(
			err, -EBUSY,
			"--name %s: in use by process %d; choose another name or run: sardine stop %s", name,
			pid, name);
	if (r == -EAGAIN)
		return errmsg_set(err, -EBUSY, "--name %s: in use; choose another name", name);
	if (r < 0)
		return errmsg_set(err, r, "runtime directory %s: cannot lock %s.lock: %s", dir->path, name,
				  strerror(-r));
	held = calloc(1, sizeof(*held));
	if (!held)
		return -ENOMEM;
	held->dir = dir;
	strcpy(held->name, name);
	held->fd = TAKE_FD(fd);
	remove_socket(dir, name);
	r = rundir_name_set_pid(held);
	if (r < 0) {
		rundir_release(held);
		return errmsg_set(err, r, "runtime directory %s: cannot write %s.lock: %s", dir->path, name,
				  strerror(-r));
	}
	/* Ours is held, so this is about the others. */
	(void)rundir_clean(dir);
	*ret = held;
	return 0;
}

int rundir_name_set_pid(struct rundir_name *held)
{
	char text[24];
	int n = snprintf(text, sizeof(text), "%d\n", getpid());

	if (ftruncate(held->fd, 0) < 0)
		return -errno;
	return pwrite_full(held->fd, text, (size_t)n, 0);
}

void rundir_release(struct rundir_name *held)
{
	char file[RUNDIR_NAME_SPACE];

	if (!held)
		return;
	lock_file_name(file, held->name);
	remove_socket(held->dir, held->name);
	if (lock_current(held->dir, file, held->fd))
		(void)!unlinkat(held->dir->fd, file, 0);
	rundir_name_forget(held);
}

int rundir_name_fd(const struct rundir_name *held)
{
	return held->fd;
}

void rundir_name_forget(struct rundir_name *held)
{
	if (!held)
		return;
	close(held->fd);
	free(held);
}

/* The VM name in a lock file's name, if it is one. */
static bool entry_name(const char *file, char *name)
{
	size_t len = strlen(file);

	if (len <= 5 || len - 5 > CONFIG_NAME_MAX || strcmp(file + len - 5, ".lock") != 0)
		return false;
	memcpy(name, file, len - 5);
	name[len - 5] = '\0';
	return rundir_name_valid(name);
}

int rundir_find(const struct rundir *dir, const char *name, struct rundir_entry *ret)
{
	char file[RUNDIR_NAME_SPACE];
	struct rundir_entry entry = {0};
	auto_fd fd = -1;
	bool held = false;
	int r;

	if (!rundir_name_valid(name))
		return -EINVAL;
	lock_file_name(file, name);
	fd = openat(dir->fd, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	r = lock_held(fd, &held);
	if (r < 0)
		return r;
	if (!held)
		return -ENOENT;
	strcpy(entry.name, name);
	entry.pid = lock_pid(fd);
	*ret = entry;
	return 0;
}

/* Calls fn for each name that has a lock file. */
static int for_each_name(const struct rundir *dir, int (*fn)(const struct rundir *, const char *, void *),
			 void *arg)
{
	char name[CONFIG_NAME_MAX + 1];
	auto_fd fd = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	auto_dir d = NULL;
	struct dirent *e;

	if (fd < 0)
		return -errno;
	d = fdopendir(fd);
	if (!d)
		return -errno;
	fd = -1;
	while ((errno = 0, e = readdir(d))) {
		int r = entry_name(e->d_name, name) ? fn(dir, name, arg) : 0;

		if (r < 0)
			return r;
	}
	return -errno;
}

struct entry_list {
	struct rundir_entry *entries;
	size_t count;
};

static int list_add(const struct rundir *dir, const char *name, void *arg)
{
	struct entry_list *list = arg;
	struct rundir_entry entry, *more;

	if (rundir_find(dir, name, &entry) < 0)
		return 0; /* stale, or gone meanwhile */
	if (list->count >= RUNDIR_ENTRIES_MAX)
		return -EOVERFLOW;
	more = reallocarray(list->entries, list->count + 1, sizeof(*more));
	if (!more)
		return -ENOMEM;
	list->entries = more;
	list->entries[list->count++] = entry;
	return 0;
}

static int entry_compare(const void *a, const void *b)
{
	const struct rundir_entry *x = a, *y = b;

	return strcmp(x->name, y->name);
}

int rundir_list(const struct rundir *dir, struct rundir_entry **ret, size_t *ret_count)
{
	struct entry_list list = {0};
	int r = for_each_name(dir, list_add, &list);

	if (r < 0) {
		free(list.entries);
		return r;
	}
	if (list.count > 1)
		qsort(list.entries, list.count, sizeof(*list.entries), entry_compare);
	*ret = list.entries;
	*ret_count = list.count;
	return 0;
}

static int clean_one(const struct rundir *dir, const char *name, void *arg)
{
	char file[RUNDIR_NAME_SPACE];
	auto_fd fd = -1;
	int *count = arg;

	lock_file_name(file, name);
	fd = openat(dir->fd, file, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 || lock_take(fd) < 0 || !lock_current(dir, file, fd))
		return 0;
	remove_socket(dir, name);
	if (unlinkat(dir->fd, file, 0) == 0)
		(*count)++;
	return 0;
}

int rundir_clean(const struct rundir *dir)
{
	int count = 0;
	int r = for_each_name(dir, clean_one, &count);

	return r < 0 ? r : count;
}

int rundir_connect(const struct rundir *dir, const char *name, struct errmsg *err, int *ret_fd)
{
	struct rundir_entry entry;
	auto_free char *path = NULL;
	int r = rundir_find(dir, name, &entry);

	if (r == -ENOENT || r == -EINVAL)
		return errmsg_set(err, -ENOENT, "%s: no VM of this name runs here; see: sardine ps", name);
	if (r < 0)
		return errmsg_set(err, r, "%s: runtime directory %s: %s", name, dir->path, strerror(-r));
	path = rundir_file(dir, name, "sock");
	if (!path)
		return -ENOMEM;
	r = unix_connect(path, ret_fd);
	if (r < 0)
		return errmsg_set(err, r, "%s: cannot reach its control socket %s: %s", name, path,
				  strerror(-r));
	return 0;
}
