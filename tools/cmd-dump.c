/* SPDX-License-Identifier: Apache-2.0 */
/* `sardine dump`: the memory of a running VM into a file. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/size.h"
#include "tools/cli.h"
#include "tools/client.h"
#include "vmm/dump.h"

struct args {
	struct client_args common;
	enum dump_format format;
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct args *args = state->input;

	if (key != 'f')
		return client_parse(&args->common, 2, false, key, arg, state);
	if (dump_format_parse(arg, &args->format) < 0)
		argp_error(state, "--format %s: use elf or raw", arg);
	return 0;
}

/* Disk images of running VMs are locked, by us as by QEMU. Held until the dump is complete. */
static int lock_file(int fd, const char *path, struct errmsg *err)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return errmsg_set(err, -EBUSY, "%s: in use by a VM or another program; choose another path",
				  path);
	return errmsg_set(err, -errno, "%s: cannot lock it: %s", path, strerror(errno));
}

static int dump(const struct args *args, struct errmsg *err, json_t **ret_result)
{
	struct client client = CLIENT_NONE;
	auto_fd fd = -1;
	struct errmsg answer = {0};
	struct stat st;
	int r = client_open(args->common.name, err, &client);

	if (r < 0)
		return r;
	/* Only now, so that a wrong name leaves no file. Guest memory is nobody else's business: 0600. */
	fd = open(args->common.file, O_WRONLY | O_CREAT | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0600);
	if (fd < 0)
		r = errmsg_set(err, -errno, "%s: cannot open it for writing: %s", args->common.file,
			       strerror(errno));
	else if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		r = errmsg_set(err, -EINVAL, "%s: not a regular file; choose another path",
			       args->common.file);
	else
		r = lock_file(fd, args->common.file, err);
	if (r == 0)
		r = client_call(
			&client,
			json_pack("{s:s, s:s}", "cmd", "dump", "format", dump_format_name(args->format)), fd,
			0, &answer, ret_result);
	client_close(&client);
	if (answer.text[0])
		errmsg_set(err, r, "%s: %s", args->common.file, answer.text);
	return r;
}

int cmd_dump(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{.name = "format",
		 .key = 'f',
		 .arg = "elf|raw",
		 .doc = "elf (default): a core file with load addresses; raw: file offset = guest physical "
			"address"},
		CLIENT_OPTION_JSON,
		{0},
	};
	static const struct argp argp = {
		.options = options,
		.parser = parse_option,
		.args_doc = "NAME FILE",
		.doc = "Writes the memory of a running VM to a file. The guest stands still meanwhile. Pages "
		       "of zeros "
		       "are holes of the file.\vExit status: 0 the file is complete, 1 it is not.",
	};
	struct args args = {.format = DUMP_ELF};
	struct errmsg err = {0};
	json_t *result = NULL;
	json_int_t file_bytes, data_bytes;
	char file_size[16], data_size[16];
	int r;

	argp_parse(&argp, argc, argv, 0, NULL, &args);
	r = dump(&args, &err, &result);
	if (r == 0 &&
	    json_unpack(result, "{s:I, s:I}", "file_bytes", &file_bytes, "data_bytes", &data_bytes) < 0)
		r = errmsg_set(&err, -EPROTO, "%s: the VM did not say what it wrote", args.common.name);
	json_decref(result);
	if (r < 0)
		return cli_error(argv[0], CLI_FAILED, "%s", errmsg_text(&err, r));
	if (args.common.json)
		return client_print_json(argv[0],
					 json_pack("{s:s, s:s, s:s, s:I, s:I}", "name", args.common.name,
						   "file", args.common.file, "format",
						   dump_format_name(args.format), "file_bytes", file_bytes,
						   "data_bytes", data_bytes),
					 false);
	printf("%s: %s, of which %s written to %s\n", args.common.name,
	       size_format((uint64_t)file_bytes, file_size, sizeof(file_size)),
	       size_format((uint64_t)data_bytes, data_size, sizeof(data_size)), args.common.file);
	return CLI_OK;
}
