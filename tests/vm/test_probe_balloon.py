#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The balloon, through the probe guest: what is given up leaves the host's memory, and comes back as zeroes."""
import os
import zlib

import sardine_test
from probe import BALLOON, IMAGE_BASE, MIB, PAGE, ProbeTest
from sardine_test import poll

FROM = 64 * MIB


class Balloon(ProbeTest):
    def test_inflate_and_deflate(self):
        probe = self.probe(mem="250M", cpus=2)
        dev = probe.device(BALLOON)
        self.assertSub({"num_pages": 0, "actual": 0}, probe.ask("balloon", dev=dev))
        probe.ask("fill", cpus=2, seed=1)
        full = probe.ram_rss()
        self.assertGreater(full, 240 * MIB)
        probe.balloon(96)
        self.assertSub({"num_pages": 96 * MIB // PAGE}, probe.ask("target", dev=dev, pages=96 * MIB // PAGE))
        for order, mib in (("up", 96), ("down", 16), ("scattered", 16)):
            with self.subTest(order=order):
                part = {"from": FROM, "to": FROM + mib * MIB}
                got = probe.ask("inflate", dev=dev, order=order, **part)
                self.assertSub({"pfns": mib * MIB // PAGE, "actual": mib * MIB // PAGE}, got)
                # Nothing to wait for: the memory is gone when the answer is there.
                self.assertLess(probe.ram_rss(), full - mib * MIB + MIB)
                self.assertEqual(probe.ask("zero", cpus=2, **part)["bad"], 0)
                self.assertSub({"actual": 0}, probe.ask("deflate", dev=dev, order=order, **part))
                probe.ask("fill", cpus=2, seed=2, **part)
                self.assertEqual(probe.ask("check", cpus=2, seed=2, **part)["bad"], 0)
        # All the others still hold what they held.
        for start, end in ((FROM + 96 * MIB, 240 * MIB), (16 * MIB, FROM)):
            self.assertEqual(probe.ask("check", cpus=2, seed=1, **{"from": start, "to": end})["bad"], 0)
        probe.balloon(0)
        probe.ask("target", dev=dev, pages=0)
        probe.power_off()

    def test_single_pages_and_twice(self):
        """Every second page, one by one; a page given up twice is counted once."""
        probe = self.probe()
        dev = probe.device(BALLOON)
        first, last = 16 * MIB, 16 * MIB + 128 * PAGE
        probe.ask("fill", seed=1, **{"from": first, "to": last})
        probe.ask("balloon", dev=dev)
        before = probe.ram_rss()
        for page in range(first, last, 2 * PAGE):
            probe.ask("inflate", dev=dev, batch=1, **{"from": page, "to": page + PAGE})
            probe.ask("inflate", dev=dev, batch=1, report=0, **{"from": page, "to": page + PAGE})
        self.assertLessEqual(probe.ram_rss(), before - 48 * PAGE)
        for page in range(first, last, 32 * PAGE):
            self.assertEqual(probe.ask("zero", **{"from": page, "to": page + 2 * PAGE})["bad"], 1)
            self.assertEqual(probe.ask("check", seed=1, **{"from": page + PAGE, "to": page + 2 * PAGE})["bad"], 0)
        probe.power_off()

    def test_target(self):
        probe = self.probe()
        dev = probe.device(BALLOON)
        probe.ask("balloon", dev=dev)
        for mib in (1, 63, 64, 17, 0):
            probe.balloon(mib)
            probe.ask("target", dev=dev, pages=mib * MIB // PAGE)
        self.assertIn("error", probe.control(cmd="balloon", target_mib=65))
        # The target outlives a reset of the device.
        probe.balloon(5)
        probe.ask("vreset", dev=dev)
        self.assertSub({"num_pages": 5 * MIB // PAGE, "actual": 0}, probe.ask("balloon", dev=dev, restart=1))
        probe.power_off()

    def test_boot_file_frames(self):
        """Frames mapped from the boot cache read as zero after the balloon, not as the file again; the file stays."""
        content = os.urandom(4 * MIB)
        path = self.dir / "initrd"
        path.write_bytes(content)
        probe = self.probe(initrd=path)
        dev = probe.device(BALLOON)
        start, length = (int(x, 0) for x in probe.ask("hello")["initrd"].split(":"))
        self.assertEqual(length, len(content))
        crc = zlib.crc32(content)
        self.assertEqual(probe.ask("crc", **{"from": start, "to": start + length})["crc"], crc)
        probe.ask("store", at=start + MIB, hex="00112233")  # a private copy of a file's page
        half = start + 2 * MIB
        before = probe.ram_rss()
        probe.ask("inflate", dev=dev, force=1, **{"from": start, "to": half})
        self.assertLess(probe.ram_rss(), before - 2 * MIB + 64 * PAGE)
        self.assertEqual(probe.ask("zero", force=1, **{"from": start, "to": half})["bad"], 0)
        self.assertEqual(probe.ask("crc", **{"from": half, "to": start + length})["crc"], zlib.crc32(content[2 * MIB:]))
        probe.ask("fill", force=1, seed=3, **{"from": start, "to": half})
        self.assertEqual(probe.ask("check", force=1, seed=3, **{"from": start, "to": half})["bad"], 0)
        again = self.probe("again", initrd=path)
        self.assertEqual(again.ask("crc", **{"from": start, "to": start + length})["crc"], crc)
        again.power_off()
        probe.power_off()

    def test_frames_that_are_not_there(self):
        """Page numbers in the hole, behind the end of RAM, and the last one there is: nothing happens to others."""
        probe = self.probe()
        dev = probe.device(BALLOON)
        probe.ask("fill", seed=1)
        before = probe.ram_rss()
        for first in (64 * MIB, 0xD0000000, 4 << 30, (1 << 44) - 256 * PAGE):
            probe.ask("inflate", dev=dev, force=1, report=0, **{"from": first, "to": first + MIB})
            probe.ask("deflate", dev=dev, force=1, report=0, **{"from": first, "to": first + MIB})
        # One half in, one half out.
        probe.ask("inflate", dev=dev, force=1, report=0, **{"from": 63 * MIB, "to": 65 * MIB})
        self.assertAlmostEqual(probe.ram_rss(), before - MIB, delta=64 * PAGE)
        self.assertEqual(probe.ask("check", seed=1, **{"from": 8 * MIB, "to": 63 * MIB})["bad"], 0)
        probe.power_off()

    def test_guest_takes_its_own_code_away(self):
        """It is the guest's memory: it may crash of it, the host does not."""
        probe = self.probe(cpus=2)
        dev = probe.device(BALLOON)
        probe.send("inflate", dev=dev, force=1, **{"from": IMAGE_BASE, "to": IMAGE_BASE + 2 * MIB})
        # What it then does is undefined, for it runs zeroes: it crashes, or it spins.
        poll(lambda: probe.vm.process.poll() is not None or probe.control(cmd="ping"), "the VMM answers or has ended")
        if probe.vm.process.poll() is None:
            probe.control(cmd="kill")
        self.assertEqual(probe.vm.wait(), 1)

    def test_off(self):
        probe = self.probe(balloon="off")
        self.assertEqual(probe.ask("hello")["virtio"], 1)  # random numbers
        self.assertIn("error", probe.control(cmd="balloon", target_mib=1))
        probe.power_off()


if __name__ == "__main__":
    sardine_test.main()
