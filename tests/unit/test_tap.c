/* SPDX-License-Identifier: Apache-2.0 */
/* Taps: attached to only when they are what we need, with one clear line otherwise; frames pass both ways. */
#include "vmm/tap.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdlib.h>

#include "tests/unit/net_namespace.h"
#include "tests/unit/test.h"

#define TAP (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)

static const char *no_taps; /* why */

static int setup(void **state)
{
	(void)state;
	no_taps = net_namespace_enter();
	return 0;
}

#define NEED_TAPS()                                                                                          \
	do {                                                                                                 \
		if (no_taps)                                                                                 \
			TEST_SKIP(no_taps);                                                                  \
	} while (0)

static void assert_refused(int r, int code, const struct errmsg *err, const char *word)
{
	assert_int_equal(r, code);
	if (strncmp(err->text, "--net", 5) != 0 || !strstr(err->text, word))
		fail_msg("no \"%s\" in \"%s\"", word, err->text);
}

TEST(opens_by_name)
{
	struct tap tap = {.fd = -1};
	struct errmsg err = {0};
	struct ifreq req = {.ifr_mtu = 9000};

	NEED_TAPS();
	assert_true(net_make("byname", TAP));
	assert_int_equal(net_request("byname", SIOCSIFMTU, &req), 0);
	assert_int_equal(tap_open("byname", "--net tap=byname", &err, &tap), 0);
	assert_string_equal(tap.name, "byname");
	assert_int_equal(tap.mtu, 9000);
	assert_true(fcntl(tap.fd, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(tap.fd, F_GETFD) & FD_CLOEXEC);
	tap_done(&tap);
	tap_done(&tap);
	/* Whatever the tap was made with: it is ours now. */
	assert_true(net_make("plain", IFF_TAP));
	assert_int_equal(tap_open("plain", "--net tap=plain", &err, &tap), 0);
	tap_done(&tap);
}

TEST(refuses_by_name)
{
	struct tap tap = {.fd = -1}, busy = {.fd = -1};
	struct errmsg err = {0};

	NEED_TAPS();
	assert_refused(tap_open("absent", "--net tap=absent", &err, &tap), -ENODEV, &err,
		       "ip tuntap add dev absent mode tap vnet_hdr");
	/* None was made. */
	assert_int_equal(if_nametoindex("absent"), 0);
	err.text[0] = '\0';
	assert_refused(tap_open("ab%d", "--net tap=ab%d", &err, &tap), -ENODEV, &err, "no such");
	err.text[0] = '\0';
	assert_refused(tap_open("lo", "--net tap=lo", &err, &tap), -EINVAL, &err, "not a tap");
	err.text[0] = '\0';
	assert_true(net_make("tun", IFF_TUN | IFF_NO_PI));
	assert_refused(tap_open("tun", "--net tap=tun", &err, &tap), -EINVAL, &err, "not a tap");
	err.text[0] = '\0';
	assert_true(net_make("queues", TAP | IFF_MULTI_QUEUE));
	assert_refused(tap_open("queues", "--net tap=queues", &err, &tap), -EINVAL, &err, "multi_queue");
	err.text[0] = '\0';
	assert_true(net_make("busy", TAP));
	assert_int_equal(tap_open("busy", "--net tap=busy", &err, &busy), 0);
	assert_refused(tap_open("busy", "--net tap=busy", &err, &tap), -EBUSY, &err, "another process");
	tap_done(&busy);
	assert_int_equal(tap.fd, -1);
}

TEST(adopts)
{
	int fd;
	struct tap tap = {.fd = -1};
	struct errmsg err = {0};

	NEED_TAPS();
	fd = net_attach("handed", TAP);
	assert_true(fd >= 0);
	for (unsigned i = 0; i < 2; i++) { /* a second time, too */
		assert_int_equal(tap_adopt(fd, "--net tap-fd", &err, &tap), 0);
		assert_string_equal(tap.name, "handed");
		assert_int_equal(tap.mtu, 0);
		assert_int_not_equal(tap.fd, fd);
		assert_true(fcntl(tap.fd, F_GETFD) & FD_CLOEXEC);
		tap_done(&tap);
	}
	close(fd);
}

static void refuse_fd(int fd, int code, const char *word)
{
	struct tap tap = {.fd = -1};
	struct errmsg err = {0};

	assert_refused(tap_adopt(fd, "--net tap-fd", &err, &tap), code, &err, word);
	assert_int_equal(tap.fd, -1);
	if (fd >= 0)
		close(fd);
}

TEST(refuses_descriptors)
{
	struct ifreq req;
	int fd;

	NEED_TAPS();
	refuse_fd(777, -EBADF, "handed in");
	refuse_fd(open("/dev/null", O_RDWR | O_CLOEXEC), -EBADF, "handed in");
	refuse_fd(open("/dev/null", O_RDWR), -EINVAL, "not the descriptor of a tap");
	refuse_fd(open("/dev/net/tun", O_RDWR), -EINVAL, "not attached");
	refuse_fd(net_attach("atun", IFF_TUN | IFF_NO_PI | IFF_VNET_HDR), -EINVAL, "atun is a tun");
	refuse_fd(net_attach("nohdr", IFF_TAP | IFF_NO_PI), -EINVAL, "IFF_VNET_HDR");
	/* Not every kernel puts packet information before a virtio-net header. */
	fd = net_attach("withpi", IFF_TAP | IFF_VNET_HDR);
	assert_int_equal(ioctl(fd, TUNGETIFF, &req), 0);
	if (req.ifr_flags & IFF_NO_PI)
		close(fd);
	else
		refuse_fd(fd, -EINVAL, "IFF_NO_PI");
	fd = net_attach("several", TAP | IFF_MULTI_QUEUE);
	refuse_fd(fd, -EINVAL, "several queues");
}

static void bring_up(const char *name)
{
	struct ifreq req = {.ifr_flags = IFF_UP};

	assert_int_equal(net_request(name, SIOCSIFFLAGS, &req), 0);
}

TEST(frames_pass)
{
	struct tap tap = {.fd = -1};
	struct errmsg err = {0};
	uint8_t message[12 + 60] = {0}, got[128];
	struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(0x88b5)};
	struct pollfd poll_fd;
	auto_fd sock = -1;

	NEED_TAPS();
	assert_true(net_make("frames", TAP));
	assert_int_equal(tap_open("frames", "--net tap=frames", &err, &tap), 0);
	bring_up("frames");
	sock = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(0x88b5));
	assert_true(sock >= 0);
	address.sll_ifindex = (int)if_nametoindex("frames");
	assert_int_equal(bind(sock, (struct sockaddr *)&address, sizeof(address)), 0);
	memset(message + 12, 0xff, 6);
	message[12 + 12] = 0x88; /* for local experiments (IEEE 802) */
	message[12 + 13] = 0xb5;
	message[12 + 14] = 0x5a;
	assert_int_equal(write(tap.fd, message, sizeof(message)), sizeof(message));
	poll_fd = (struct pollfd){.fd = sock, .events = POLLIN};
	assert_int_equal(poll(&poll_fd, 1, 10000), 1);
	assert_int_equal(read(sock, got, sizeof(got)), 60);
	assert_int_equal(got[14], 0x5a);
	got[14] = 0xa5;
	assert_int_equal(send(sock, got, 60, 0), 60);
	do { /* the kernel may send frames of its own before */
		poll_fd = (struct pollfd){.fd = tap.fd, .events = POLLIN};
		assert_int_equal(poll(&poll_fd, 1, 10000), 1);
		assert_true(read(tap.fd, got, sizeof(got)) > 12 + 14);
	} while (got[12 + 12] != 0x88);
	assert_int_equal(got[12 + 14], 0xa5);
	tap_done(&tap);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(opens_by_name), cmocka_unit_test(refuses_by_name),
		cmocka_unit_test(adopts),	 cmocka_unit_test(refuses_descriptors),
		cmocka_unit_test(frames_pass),
	};

	return test_exit_code(cmocka_run_group_tests(tests, setup, NULL));
}
