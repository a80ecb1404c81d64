#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Block devices, through the probe guest: what reaches the file, what the guest reads, framing, errors, reset in flight."""
import os
import time
import zlib

import sardine_test
from probe import BLOCK, GIB, IO_URING_SETUP, KIB, MIB, SECTOR, ProbeTest, pattern_sectors, without_syscall
from sardine_test import poll

SECTORS = 4 * MIB // SECTOR

# Every framing of a request that the specification allows, polled and by interrupt.
FRAMINGS = (
    {"depth": 1, "size": 512},
    {"depth": 1, "size": 4096, "event": 1},
    {"depth": 1, "size": 4096, "irq": 1},
    {"depth": 1, "size": 4096, "event": 1, "irq": 1},  # each kick and each interrupt counts
    {"depth": 16, "size": 4096},
    {"depth": 8, "size": 65536, "segs": 8, "irq": 1},
    {"depth": 4, "size": 12288, "segs": 3, "odd": 1, "event": 1},
    {"depth": 32, "size": 16384, "segs": 4, "indirect": 1, "irq": 1},
    {"depth": 64, "size": 32768, "segs": 32, "indirect": 1, "event": 1, "irq": 1},
    {"depth": 64, "size": 1536, "segs": 3, "odd": 1, "indirect": 1, "event": 1},
)


class Block(ProbeTest):
    def run_framings(self, engine="io_uring", preexec=None, **disk):
        path = self.image()
        options = "".join(f",{key}={value}" for key, value in disk.items())
        probe = self.probe(cpus=2, disk=f"path={path}{options}", preexec=preexec)
        dev = probe.device(BLOCK)
        self.assertEqual(probe.device_stats("block")["engine"], engine)
        info = probe.ask("blk_info", dev=dev)
        self.assertSub({"capacity": SECTORS, "ro": 0, "flush": 1, "discard": 1, "zeroes": 1}, info)
        block = info["blk_size"]
        for seed, framing in enumerate(FRAMINGS, 1):
            if framing["size"] // framing.get("segs", 1) % block:
                continue  # the host's O_DIRECT asks for more, and the guest was told so
            with self.subTest(framing=framing):
                count = min(SECTORS, framing["size"] // SECTOR * (50 if framing["depth"] == 1 else 200))
                wrote = probe.blk(dev, "write", seed=seed, count=count, **framing)
                self.assertSub({"errors": 0, "unsupported": 0, "bytes": count * SECTOR}, wrote)
                self.assertEqual(path.read_bytes()[:count * SECTOR], pattern_sectors(seed, 0, count))
                read = probe.blk(dev, "verify", seed=seed, count=count, **framing)
                self.assertSub({"errors": 0, "bad": 0, "bytes": count * SECTOR}, read)
                self.assertEqual(read["crc"], zlib.crc32(path.read_bytes()[:count * SECTOR]))
                print(f"  {framing}: wrote {wrote['mib_per_s']} MiB/s, read {read['mib_per_s']} MiB/s")
        self.assertSub({"errors": 0}, probe.blk(dev, "flush"))
        self.assertEqual(path.stat().st_size, 4 * MIB)
        probe.power_off()

    def test_framings(self):
        self.run_framings()

    def test_framings_direct(self):
        self.run_framings(direct="on")

    def test_framings_without_io_uring(self):
        self.run_framings("plain", without_syscall(IO_URING_SETUP))

    def test_direct_misaligned(self):
        """What is not whole blocks of the disk is an error to the guest; buffers may lie anywhere."""
        path = self.image()
        probe = self.probe(disk=f"path={path},direct=on")
        dev = probe.device(BLOCK)
        block = probe.ask("blk_info", dev=dev)["blk_size"]
        got = probe.blk(dev, "write", seed=9, sector=1, count=3, size=1536, segs=3)
        if block > SECTOR:
            self.assertSub({"errors": 1, "bytes": 0}, got)
        else:
            self.assertSub({"errors": 0}, got)
            self.assertEqual(path.read_bytes()[SECTOR:4 * SECTOR], pattern_sectors(9, 1, 3))
            self.assertSub({"errors": 0, "bad": 0}, probe.blk(dev, "verify", seed=9, sector=1, count=3, size=1536))
        probe.power_off()

    def test_host_content_reaches_the_guest(self):
        content = os.urandom(4 * MIB)
        path = self.image(content=content)
        probe = self.probe(disk=f"path={path}")
        dev = probe.device(BLOCK)
        got = probe.blk(dev, "read", count=SECTORS, size=32768, depth=8)
        self.assertSub({"errors": 0, "crc": zlib.crc32(content)}, got)
        probe.power_off()

    def test_buffers_above_4g(self):
        path = self.image()
        probe = self.probe(mem="5G", disk=f"path={path}")
        dev = probe.device(BLOCK)
        for buf in (4 * GIB, 6 * GIB - 4 * MIB, 3 * GIB - MIB):
            args = {"count": 1024, "size": 65536, "depth": 8, "buf": buf, "seed": buf >> 20}
            self.assertSub({"errors": 0}, probe.blk(dev, "write", **args))
            self.assertSub({"errors": 0, "bad": 0}, probe.blk(dev, "verify", **args))
        probe.power_off()

    def test_discard_and_zeroes(self):
        path = self.image()
        probe = self.probe(disk=f"path={path}")
        dev = probe.device(BLOCK)
        probe.blk(dev, "write", seed=1, count=SECTORS, size=65536, depth=8)
        full = pattern_sectors(1, 0, SECTORS)
        self.assertEqual(path.read_bytes(), full)
        blocks = os.stat(path).st_blocks
        self.assertSub({"errors": 0, "unsupported": 0}, probe.blk(dev, "zeroes", sector=8, size=8192))
        self.assertSub({"errors": 0, "unsupported": 0},
                       probe.blk(dev, "zeroes", sector=1024, size=65536, unmap=1))
        self.assertSub({"errors": 0, "unsupported": 0}, probe.blk(dev, "discard", sector=2048, size=1 * MIB))
        content = path.read_bytes()
        self.assertEqual(len(content), len(full))
        for first, bytes_ in ((8, 8192), (1024, 65536)):
            at = first * SECTOR
            self.assertEqual(content[at:at + bytes_], bytes(bytes_))
        self.assertEqual(content[:8 * SECTOR], full[:8 * SECTOR])
        self.assertEqual(content[2048 * SECTOR + MIB:], full[2048 * SECTOR + MIB:])
        self.assertLess(os.stat(path).st_blocks, blocks - MIB // 512 // 2)
        probe.power_off()

    def test_identity_and_unknown(self):
        path = self.image()
        probe = self.probe(disk=[f"path={path},serial=abc-123"])
        dev = probe.device(BLOCK)
        self.assertSub({"errors": 0, "id": "abc-123"}, probe.blk(dev, "id"))
        self.assertSub({"unsupported": 1, "errors": 0}, probe.blk(dev, "77"))
        probe.power_off()

    def test_outside_the_disk(self):
        path = self.image()
        probe = self.probe(disk=f"path={path}")
        dev = probe.device(BLOCK)
        before = path.read_bytes()
        for op in ("read", "write", "zeroes", "discard"):
            for sector in (SECTORS, SECTORS - 4, (1 << 63) // SECTOR, (1 << 64) - 1):
                got = probe.blk(dev, op, sector=sector, count=8, size=4096)
                self.assertSub({"errors": 1, "bytes": 0}, got)
        self.assertEqual(path.read_bytes(), before)
        self.assertSub({"errors": 0}, probe.blk(dev, "read", sector=SECTORS - 8, count=8, size=4096))
        probe.power_off()

    def test_read_only(self):
        content = os.urandom(4 * MIB)
        path = self.image(content=content)
        os.chmod(path, 0o444)
        probe = self.probe(disk=f"path={path},ro")
        dev = probe.device(BLOCK)
        self.assertSub({"ro": 1}, probe.ask("blk_info", dev=dev))
        self.assertSub({"errors": 0, "crc": zlib.crc32(content)},
                       probe.blk(dev, "read", count=SECTORS, size=65536, depth=4))
        for op in ("write", "discard", "zeroes"):
            got = probe.blk(dev, op, count=8)
            self.assertEqual((got["errors"] + got["unsupported"], got["bytes"]), (1, 0), op)
        self.assertEqual(path.read_bytes(), content)
        probe.power_off()

    def test_two_disks_are_two(self):
        paths = [self.image(f"d{i}.img", (i + 1) * MIB) for i in range(3)]
        probe = self.probe(disk=[f"path={path}" for path in paths])
        for i, path in enumerate(paths):
            dev = probe.device(BLOCK, i)
            self.assertSub({"capacity": (i + 1) * MIB // SECTOR}, probe.ask("blk_info", dev=dev))
            probe.blk(dev, "write", seed=100 + i, count=64)
        for i, path in enumerate(paths):
            self.assertEqual(path.read_bytes()[:64 * SECTOR], pattern_sectors(100 + i, 0, 64))
        probe.power_off()

    def test_truncated_underneath(self):
        """I/O errors of the host reach the guest as errors, and only for what is gone."""
        path = self.image()
        probe = self.probe(disk=f"path={path}")
        dev = probe.device(BLOCK)
        self.assertSub({"errors": 0}, probe.blk(dev, "write", seed=1, count=SECTORS, size=65536))
        os.truncate(path, 2 * MIB)
        self.assertSub({"errors": 0, "bad": 0}, probe.blk(dev, "verify", seed=1, count=SECTORS // 2, size=65536))
        got = probe.blk(dev, "read", sector=SECTORS // 2, count=SECTORS // 2, size=65536, depth=4)
        self.assertSub({"errors": 32, "bytes": 0}, got)
        probe.power_off()

    def test_full_disk(self):
        """A write that the host has no room for is an error, not a loss."""
        if os.geteuid():
            self.skipTest("needs root to mount")
        mount = self.dir / "small"
        mount.mkdir()
        if os.system(f"mount -t tmpfs -o size=1m none {mount}"):
            self.skipTest("cannot mount a tmpfs")
        try:
            path = self.image("small/disk.img")
            probe = self.probe(disk=f"path={path}")
            dev = probe.device(BLOCK)
            got = probe.blk(dev, "write", seed=1, count=SECTORS, size=65536, depth=8)
            self.assertEqual(got["requests"], 64)
            self.assertGreater(got["errors"], 40)
            self.assertGreater(got["bytes"], 512 * KIB)
            good = probe.blk(dev, "verify", seed=1, count=got["bytes"] // SECTOR // 2, size=4096)
            self.assertSub({"errors": 0}, good)
            probe.power_off()
        finally:
            for vm in self.vms:
                vm.close()
            os.system(f"umount {mount}")

    def test_limits(self):
        """Over two seconds, within 20 % of what was told; slower than that only as the machine is busy."""
        for limit, count, size in (("bw=4M", 16384, 131072), ("iops=100", 1600, 4096)):
            with self.subTest(limit):
                image = self.image(limit[:2], 16 * MIB)
                probe = self.probe(limit[:2], disk=f"path={image},{limit}")
                dev = probe.device(BLOCK)
                begun = time.monotonic()
                probe.blk(dev, "write", count=count, size=size, seed=3)
                took = time.monotonic() - begun
                self.assertGreater(took, 2 * 0.8)  # 8 MiB; 200 requests
                self.assertLess(took, 2 * 1.2 + 10)
                self.assertGreater(probe.device_stats("block")["throttled"], 5)
                self.assertEqual(image.read_bytes()[:count * SECTOR], pattern_sectors(3, 0, count))
                probe.power_off()

    def test_limits_hold_nobody_up(self):
        """A pause, a reset and the end do not wait for requests that the limits hold back."""
        probe = self.probe(cpus=2, disk=f"path={self.image()},iops=1")
        probe.send("blk", dev=probe.device(BLOCK), op="write", count=8000, size=512)
        poll(lambda: probe.device_stats("block")["throttled"], "requests wait")
        begun = time.monotonic()
        for verb in ("pause", "resume"):
            self.assertEqual(self.sardine(verb, probe.name).returncode, 0)
        self.assertEqual(self.sardine("kill", probe.name).returncode, 0)
        self.assertEqual(probe.vm.wait(), 1)
        self.assertLess(time.monotonic() - begun, 10)

    def test_reset_in_flight(self):
        """When the reset is through, nothing is written to guest memory any more."""
        path = self.image(bytes_=64 * MIB)
        probe = self.probe(disk=[f"path={path}", f"path={self.image('direct.img', 64 * MIB)},direct=on"])
        cut_short = 0
        for dev in (probe.device(BLOCK, 0), probe.device(BLOCK, 1)):
            for i in range(12):
                got = probe.ask("blk_reset", dev=dev, op="write" if i % 3 == 2 else "read", depth=16, size=65536,
                                count=4096, indirect=i % 2, event=i % 2, after_us=(0, 10, 100, 1000)[i % 4],
                                wait_us=10000)
                self.assertSub({"submitted": 16, "touched": 0}, got)
                cut_short += got["finished"] < got["submitted"]
            self.assertSub({"errors": 0}, probe.blk(dev, "write", seed=3, count=256, size=65536, depth=2))
            self.assertSub({"errors": 0, "bad": 0}, probe.blk(dev, "verify", seed=3, count=256, size=65536))
        print(f"  {cut_short} of 24 resets came before all requests were through")
        self.assertGreater(cut_short, 0)
        probe.power_off()

    def test_locks(self):
        """A writable image has one user; read-only ones share."""
        path, shared = self.image(), self.image("shared.img")
        first = self.probe("one", disk=[f"path={path}", f"path={shared},ro"])
        for options in ("", ",ro"):
            done = self.sardine("run", "--name", "two", "--kernel", sardine_test.probe_kernel(), "--cache-dir",
                                self.cache, "--mem", "64M", "--disk", f"path={path}{options}")
            self.assertOneLine(done, 1, path)
        self.assertOneLine(self.sardine("run", "--name", "two", "--kernel", sardine_test.probe_kernel(), "--cache-dir",
                                        self.cache, "--mem", "64M", "--disk", f"path={shared}"), 1, shared)
        second = self.probe("two", disk=f"path={shared},ro")
        second.power_off()
        first.power_off()
        third = self.probe("three", disk=f"path={path}")
        third.power_off()
        poll(lambda: not self.processes(), "all VMs end")


if __name__ == "__main__":
    sardine_test.main()
