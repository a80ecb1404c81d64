/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a ring: chains that come out lie in RAM, fit their array and add up; all else breaks the
 * queue. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/size.h"
#include "tests/fuzz/virtio_program.h"
#include "vmm/virtqueue.h"

#define IOVS 32

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_chain(struct driver *d, const struct iovec *iov, const struct virtqueue_chain *chain)
{
	const uint8_t *ram = driver_ptr(d, 0, DRIVER_RAM);
	uint64_t readable = 0, writable = 0;

	require(chain->readable + chain->writable >= 1 && chain->readable + chain->writable <= IOVS);
	for (unsigned i = 0; i < chain->readable + chain->writable; i++) {
		uint64_t offset = (uint64_t)((const uint8_t *)iov[i].iov_base - ram);

		require(iov[i].iov_len > 0 && range_fits(offset, iov[i].iov_len, DRIVER_RAM));
		*(i < chain->readable ? &readable : &writable) += iov[i].iov_len;
	}
	require(readable == chain->readable_bytes && writable == chain->writable_bytes);
	require(readable + writable <= UINT32_MAX);
}

static size_t smaller(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* What devices do with a chain: copy from it, copy into it, cut a header off. */
static void use_chain(struct iovec *iov, const struct virtqueue_chain *chain, size_t offset, size_t len)
{
	struct iovec *rest = iov;
	unsigned count = chain->readable;
	uint8_t buf[256];
	size_t left = chain->readable_bytes, cut;

	len %= sizeof(buf);
	require(iov_copy_out(iov, chain->readable, offset, buf, len) ==
		smaller(len, left - smaller(left, offset)));
	require(iov_copy_in(iov + chain->readable, chain->writable, buf, len) ==
		smaller(len, chain->writable_bytes));
	cut = iov_trim_front(&rest, &count, offset);
	require(cut == smaller(offset, left));
	for (unsigned i = 0; i < count; i++)
		cut += rest[i].iov_len;
	require(cut == left);
}

/* Input: log2 of the size, flags, where the parts lie (3 x u16, in units of 2 bytes), then the bytes there. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct driver d;
	const uint32_t area = 0x20000;
	struct virtqueue vq;
	struct iovec iov[IOVS];
	struct virtqueue_chain chain;

	if (!d.mem)
		require(driver_init(&d) == 0);
	if (size < 8 || size - 8 > area)
		return 0;
	memset(driver_ptr(&d, 0, area), 0, area);
	memcpy(driver_ptr(&d, 0, area), data + 8, size - 8);
	virtqueue_init(&vq, d.mem, 16);
	vq.size = data[0] & 0x80 ? data[0] & 0x7f : 1u << (data[0] % 5);
	vq.desc_gpa = 2ull * load_le16(data + 2);
	vq.avail_gpa = 2ull * load_le16(data + 4);
	vq.used_gpa = 2ull * load_le16(data + 6);
	if (virtqueue_enable(&vq, data[1] & 1, data[1] & 2) < 0) {
		require(vq.broken && !vq.enabled);
		return 0;
	}
	/* What is pushed may land on the ring itself and make new chains, so this is bounded. */
	for (unsigned i = 0; i < 64; i++) {
		int r = virtqueue_pop(&vq, iov, IOVS, &chain);

		require(r == 1 || (r == 0 && !vq.broken) || (r < 0 && vq.broken));
		if (r <= 0)
			break;
		check_chain(&d, iov, &chain);
		use_chain(iov, &chain, data[1] >> 3, data[4]);
		virtqueue_push(&vq, chain.head, chain.writable_bytes);
		if (virtqueue_should_signal(&vq))
			virtqueue_kicks_off(&vq);
		else if (!virtqueue_kicks_on(&vq) && (data[1] & 4))
			break;
	}
	virtqueue_disable(&vq);
	require(virtqueue_pop(&vq, iov, IOVS, &chain) <= 0);
	virtqueue_reset(&vq);
	return 0;
}
