#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Random numbers, through the probe guest: they come, they differ, and the limits hold."""
import sardine_test
from probe import RNG, ProbeTest, ProbeError


class Rng(ProbeTest):
    def test_bytes(self):
        probe = self.probe()
        dev = probe.device(RNG)
        seen = set()
        for size, parts in ((1, 1), (64, 1), (64, 64), (4096, 1), (4096, 63), (1000, 7)):
            with self.subTest(size=size, parts=parts):
                got = probe.ask("rng", dev=dev, bytes=size, parts=parts)
                self.assertSub({"written": size, "stray": 0}, got)
                if size > 1:
                    self.assertNotIn(got["crc"], seen)
                    seen.add(got["crc"])
        # A longer buffer is filled in part, and nothing else is touched.
        self.assertSub({"written": 4096, "stray": 0}, probe.ask("rng", dev=dev, bytes=16384, parts=3))
        self.assertSub({"bytes": 64000}, probe.ask("rng", dev=dev, bytes=64, count=1000))
        stats = probe.device_stats("rng")
        self.assertEqual(stats["bytes"], 1 + 64 + 64 + 4096 + 4096 + 1000 + 4096 + 64000)
        self.assertEqual((stats["virtio"]["requests"], stats["throttled"], stats["no_data"]), (1007, 0, 0))
        probe.power_off()

    def test_off(self):
        probe = self.probe(rng="off")
        with self.assertRaises((ProbeError, IndexError)):
            probe.device(RNG)
        self.assertNotIn("rng", [device["type"] for device in probe.stats()["devices"]])
        probe.power_off()

    def test_limits(self):
        """Not faster than told; how much slower depends on the machine."""
        for limit in ("iops=50", "bw=50000"):
            with self.subTest(limit):
                probe = self.probe(limit[:2], rng=limit)
                got = probe.ask("rng", dev=probe.device(RNG), bytes=1000, count=30)
                # The burst is a tenth of a second's, and the last request may be owed.
                self.assertGreater(got["us"], (30 - 5 - 1) / 50 * 1e6 * 0.9)
                self.assertGreater(probe.device_stats("rng")["throttled"], 10)
                probe.power_off()


if __name__ == "__main__":
    sardine_test.main()
