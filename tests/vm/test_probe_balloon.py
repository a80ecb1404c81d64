#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The balloon, through the probe guest: what is given up leaves the host's memory, and comes back as zeroes."""
import contextlib
import os
import pathlib
import unittest
import zlib

import sardine_test
from probe import BALLOON, IMAGE_BASE, MIB, PAGE, ProbeTest
from sardine_test import poll

FROM = 64 * MIB
KSM = pathlib.Path("/sys/kernel/mm/ksm")
# Fast enough for a test; what is not there is left out.
KSM_SETTINGS = {"pages_to_scan": "20000", "sleep_millisecs": "2", "smart_scan": "0", "run": "1"}


@contextlib.contextmanager
def ksmd():
    """ksmd runs; its settings are put back afterwards. Merged pages stay merged."""
    saved = {name: (KSM / name).read_text() for name in KSM_SETTINGS if (KSM / name).exists()}
    try:
        for name in saved:
            (KSM / name).write_text(KSM_SETTINGS[name])
        yield
    finally:
        for name, value in saved.items():
            (KSM / name).write_text(value)


class Balloon(ProbeTest):
    engine = "off"

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

    @unittest.skipUnless(os.access(KSM / "run", os.W_OK), "needs root, and a kernel with KSM")
    def test_merged_frames(self):
        """Frames that KSM merged read as zero here after they were given up, and are what they were there."""
        probes = [self.probe(name, mergeable="on") for name in ("one", "two")]
        one, two = probes
        part = {"from": 16 * MIB, "to": 48 * MIB}
        for probe in probes:
            probe.ask("balloon", dev=probe.device(BALLOON))
            probe.ask("fill", seed=5, **part)
        with ksmd():
            poll(lambda: one.stats()["memory"]["merged_bytes"] > 30 * MIB, "the frames are merged", 60)
        before = one.stats()["memory"]["merged_bytes"]
        one.ask("inflate", dev=one.device(BALLOON), **{"from": 16 * MIB, "to": 32 * MIB})
        one.ask("report", dev=one.device(BALLOON), **{"from": 32 * MIB, "to": 40 * MIB})
        self.assertLess(one.stats()["memory"]["merged_bytes"], before - 22 * MIB)
        self.assertEqual(one.ask("zero", **{"from": 16 * MIB, "to": 40 * MIB})["bad"], 0)
        self.assertEqual(one.ask("check", seed=5, **{"from": 40 * MIB, "to": 48 * MIB})["bad"], 0)
        self.assertEqual(two.ask("check", seed=5, **part)["bad"], 0)
        for probe in probes:
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

    def test_reports(self):
        """Memory that the guest reports as free leaves the host, reads as zero, is not in the balloon, and can be used again."""
        probe = self.probe(mem="128M", cpus=2)
        dev = probe.device(BALLOON)
        probe.ask("balloon", dev=dev)
        part = {"from": 32 * MIB, "to": 96 * MIB}
        # One range of 2 MiB, all in one message, single pages; and the number that the specification gives the queue.
        for bytes_, batch, queue in ((2 * MIB, 1, 3), (4 * MIB, 32, 3), (64 * 1024, 32, 3), (PAGE * 128, 7, 4)):
            with self.subTest(bytes=bytes_, batch=batch, queue=queue):
                probe.ask("fill", cpus=2, seed=1)
                full, before = probe.ram_rss(), probe.device_stats("balloon")
                probe.ask("report", dev=dev, bytes=bytes_, batch=batch, queue=queue, **part)
                # Nothing to wait for: the memory is gone when the answer is there.
                self.assertLess(probe.ram_rss(), full - 64 * MIB + MIB)
                after = probe.device_stats("balloon")
                self.assertEqual(after["reported_pages"] - before["reported_pages"], 64 * MIB // PAGE)
                ranges = after["discard_ranges"] - before["discard_ranges"]
                self.assertEqual(ranges, -(-64 * MIB // (bytes_ * batch)), "neighbours of a message are one range")
                self.assertEqual(probe.stats()["memory"]["ballooned_bytes"], 0)
                self.assertEqual(probe.ask("zero", cpus=2, **part)["bad"], 0)
                for start, end in ((16 * MIB, 32 * MIB), (96 * MIB, 120 * MIB)):
                    self.assertEqual(probe.ask("check", cpus=2, seed=1, **{"from": start, "to": end})["bad"], 0)
        probe.power_off()

    def test_reports_of_poisoned_pages(self):
        """A guest that counts on finding its poison in free pages finds it."""
        probe = self.probe()
        dev = probe.device(BALLOON)
        part = {"from": 16 * MIB, "to": 32 * MIB}
        probe.ask("fill", seed=1)
        for poison, kept in ((0xAAAAAAAA, True), (0, False)):
            probe.ask("balloon", dev=dev, restart=1, poison=poison)
            before = probe.device_stats("balloon")
            probe.ask("report", dev=dev, **part)
            after = probe.device_stats("balloon")
            self.assertEqual(after["report_kept_pages"] - before["report_kept_pages"], 16 * MIB // PAGE * kept)
            self.assertEqual(probe.ask("check", seed=1, **part)["bad"], 0 if kept else 16 * MIB // PAGE)
        probe.power_off()

    def test_reports_of_boot_file_frames(self):
        """They read as zero, not as the file again, whether they were written or not; their mappings merge."""
        path = self.dir / "initrd"
        path.write_bytes(os.urandom(8 * MIB))
        probe = self.probe(initrd=path)
        dev = probe.device(BALLOON)
        start, length = (int(x, 0) for x in probe.ask("hello")["initrd"].split(":"))
        probe.ask("crc", **{"from": start, "to": start + length})
        for page in range(start, start + length, 16 * PAGE):
            probe.ask("store", at=page, hex="00112233")
        maps, before = len(probe.maps()), probe.ram_rss()
        half = {"from": start, "to": start + 4 * MIB}
        probe.ask("report", dev=dev, force=1, batch=4, bytes=64 * 1024, **half)
        self.assertLess(probe.ram_rss(), before - 4 * MIB + 64 * PAGE)
        self.assertEqual(probe.ask("zero", force=1, **half)["bad"], 0)
        self.assertLessEqual(len(probe.maps()), maps + 1)
        probe.power_off()

    def test_statistics(self):
        probe = self.probe()
        dev = probe.device(BALLOON)
        self.assertIsNone(probe.device_stats("balloon")["guest"])
        # The first is there before anybody asks; then stats asks for the next, at most once in a second.
        ident = probe.send("tell", dev=dev, base=1000, values=16, wait_ms=20000)
        told = poll(lambda: probe.device_stats("balloon")["guest"], "the first statistics")
        self.assertEqual(sorted(told[key] for key in told if key != "age_s"), list(range(1000, 1016)))
        self.assertEqual((told["free_bytes"], told["direct_reclaim_bytes"]), (1004, 1015))
        poll(lambda: probe.device_stats("balloon") and probe.vm.console.text().count(f"@{ident} ok"), "the guest is asked")
        probe.answer(ident)
        # The guest is in no hurry: the last ones stay, and age.
        self.assertEqual(probe.device_stats("balloon")["guest"]["free_bytes"], 1004)
        old = probe.device_stats("balloon")["guest"]["age_s"]
        poll(lambda: probe.device_stats("balloon")["guest"]["age_s"] > old + 0.5, "they age")
        probe.ask("tell", dev=dev, base=2000, values=8)
        told = poll(lambda: (lambda guest: guest["free_bytes"] == 2004 and guest)(probe.device_stats("balloon")["guest"]), "new ones")
        self.assertNotIn("oom_kills", told)
        self.assertEqual(probe.device_stats("balloon")["guest_ignored"], 0)
        probe.ask("vreset", dev=dev)
        self.assertIsNone(probe.device_stats("balloon")["guest"])
        probe.power_off()

    def test_statistics_by_interval(self):
        probe = self.probe(balloon="stats-interval=1")
        dev = probe.device(BALLOON)
        for i in range(3):  # nobody calls stats meanwhile
            probe.ask("tell", dev=dev, base=i, wait_ms=20000)
        probe.power_off()

    def test_features(self):
        """Each feature can be switched off; the queues that are left are those of the features that are."""
        stats, oom, poison, reporting = 1 << 1, 1 << 2, 1 << 4, 1 << 5
        for option, features, queues in (("on", stats | oom | poison | reporting, "11111"),
                                         ("stats=off", oom | poison | reporting, "11101"),
                                         ("deflate-on-oom=off", stats | poison | reporting, "11111"),
                                         ("poison=off", stats | oom | reporting, "11111"),
                                         ("reporting=off", stats | oom | poison, "11100"),
                                         ("stats=off,reporting=off,poison=off,deflate-on-oom=off,size=4M", 0, "11000")):
            with self.subTest(option):
                probe = self.probe(balloon=option)
                got = probe.ask("balloon", dev=probe.device(BALLOON))
                self.assertEqual((got["features"] & 0xFF, f"{got['queues']:0>5}"), (features, queues))
                self.assertEqual(got["num_pages"], 1024 if "size" in option else 0)
                probe.power_off()

    def test_liveness(self):
        probe = self.probe()
        dev = probe.device(BALLOON)

        def state():
            return probe.device_stats("balloon")["liveness"]

        self.assertEqual(state(), "no-driver")
        probe.ask("balloon", dev=dev)
        self.assertEqual(state(), "idle")
        probe.balloon(16)
        self.assertEqual(state(), "moving")
        poll(lambda: state() == "stalled", "a guest that does nothing is found out", 20)
        probe.ask("inflate", dev=dev, **{"from": 16 * MIB, "to": 24 * MIB})
        self.assertEqual(state(), "moving")
        probe.ask("inflate", dev=dev, **{"from": 24 * MIB, "to": 32 * MIB})
        self.assertEqual(state(), "idle")
        # Without its driver the balloon is empty and keeps its target.
        probe.ask("vreset", dev=dev)
        self.assertEqual(state(), "no-driver")
        self.assertEqual(probe.device_stats("balloon")["target_bytes"], 16 * MIB)
        probe.power_off()

    def test_calls(self):
        """A contiguous GiB takes at most 1,100 calls in messages of 1 MiB, and 64 in messages of 16 MiB."""
        probe = self.probe(mem="1200M", cpus=2)
        dev = probe.device(BALLOON)
        for batch, most in ((256, 1100), (4096, 64)):
            before = probe.device_stats("balloon")["discard_calls"]
            probe.ask("inflate", dev=dev, order="down", batch=batch, seconds=120, **{"from": 64 * MIB, "to": 1088 * MIB})
            self.assertLessEqual(probe.device_stats("balloon")["discard_calls"] - before, most)
            probe.ask("deflate", dev=dev, batch=batch, seconds=120, **{"from": 64 * MIB, "to": 1088 * MIB})
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
