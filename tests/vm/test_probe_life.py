#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the host does with a running guest: stop, kill, dump, statistics, console; and frames shared from birth."""
import os
import shutil
import struct
import time
import zlib

import sardine_test
from probe import BALLOON, BLOCK, GIB, IMAGE_BASE, MIB, PAGE, SECTOR, ProbeTest, pattern, probe_variant
from sardine_test import poll, probe_kernel

MIB64 = 64 * MIB


class Ends(ProbeTest):
    def test_stop_presses_the_button(self):
        for how in ("run", "pressed before the guest looks"):
            with self.subTest(how):
                probe = self.probe(cpus=2)
                if how == "run":
                    probe.send("button", off=1, timeout_ms=20000)
                    done = self.sardine("stop", probe.name)
                    self.assertEqual((done.returncode, done.stderr), (0, ""))
                else:
                    self.assertTrue(probe.control(cmd="power-button")["ok"])
                    probe.send("button", off=1, timeout_ms=20000)
                self.assertEqual(probe.vm.wait(), 0)

    def test_button_is_one_event(self):
        probe = self.probe()
        ident = probe.send("button", timeout_ms=20000)
        probe.control(cmd="power-button")
        self.assertSub({"events": 1, "again": 0}, probe.answer(ident))
        self.assertIn("not pressed", probe.refuses("button", timeout_ms=50))
        probe.power_off()

    def test_stop_of_a_guest_that_ignores_it(self):
        probe = self.probe(cpus=2)
        begun = time.monotonic()
        done = self.sardine("stop", probe.name, "--timeout", "1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("kill", done.stderr)
        self.assertGreater(time.monotonic() - begun, 0.9)
        self.assertEqual(probe.vm.wait(), 1)

    def test_kill_busy_vcpus(self):
        probe = self.probe(mem="250M", cpus=32)
        probe.send("fill", cpus=32)
        self.assertEqual(self.sardine("kill", probe.name).returncode, 0)
        self.assertEqual(probe.vm.wait(5), 1)

    def test_resets(self):
        """With --on-reboot exit each way to reset ends the VM, and is named."""
        for how in ("i8042", "acpi", "triple"):
            with self.subTest(how):
                probe = self.probe("r-" + how, cpus=2, on_reboot="exit")
                probe.send("reset", how=how)
                code = probe.vm.wait()
                log = probe.vm.log.text()
                self.assertIn("ended: " + ("crash" if how == "triple" else "reset"), log)
                self.assertEqual(code, 1)

    def test_from_any_cpu(self):
        """Power off while others work."""
        probe = self.probe(mem="250M", cpus=4)
        probe.ask("fill", cpus=4, **{"from": 64 * MIB, "to": 96 * MIB})
        probe.power_off()


class Dump(ProbeTest):
    def dump(self, probe, form):
        path = self.dir / f"{probe.name}.{form}"
        done = self.sardine("dump", probe.name, path, "--format", form)
        self.assertEqual(done.returncode, 0, done.stderr)
        return path

    def segments(self, file):
        """[(p_paddr, offset, bytes)] of an ELF core's PT_LOADs."""
        header = file.read(64)
        self.assertEqual(header[:6], b"\x7fELF\x02\x01")
        self.assertEqual(struct.unpack_from("<HH", header, 16), (4, 62))
        phoff, = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        found = []
        for i in range(count):
            file.seek(phoff + i * size)
            kind, _, offset, _, paddr, filesz, memsz, _ = struct.unpack("<IIQQQQQQ", file.read(size))
            if kind == 1:
                self.assertEqual(filesz, memsz)
                found.append((paddr, offset, filesz))
        return found

    def test_patterns(self):
        probe = self.probe(cpus=2)
        probe.ask("fill", cpus=2, seed=11)
        ranges = [(start, end) for start, end in probe.ranges("usable")]
        sums = [probe.ask("crc", **{"from": start, "to": end})["crc"] for start, end in ranges]
        raw = self.dump(probe, "raw").read_bytes()
        self.assertEqual(len(raw), MIB64)
        self.assertEqual([zlib.crc32(raw[start:end]) for start, end in ranges], sums)
        for page in range(ranges[-1][0] // PAGE, ranges[-1][1] // PAGE, 997):
            self.assertEqual(raw[page * PAGE:(page + 1) * PAGE], pattern(11, page, PAGE), hex(page))
        with open(self.dump(probe, "elf"), "rb") as file:
            (paddr, offset, bytes_), = self.segments(file)
            self.assertEqual((paddr, bytes_), (0, MIB64))
            file.seek(offset)
            elf = file.read()
        self.assertEqual([zlib.crc32(elf[start:end]) for start, end in ranges], sums)
        # The guest goes on as if nothing had been.
        self.assertEqual(probe.ask("check", cpus=2, seed=11)["bad"], 0)
        probe.power_off()

    def test_both_regions(self):
        """A dump of 5 GiB has both regions at their addresses, and costs neither time nor disk where nothing is."""
        probe = self.probe(mem="5G")
        got = probe.ask("touch", seed=12, keep=1)
        pages = sorted(value for key, value in got.items() if key.startswith("p") and key[1:].isdigit())
        raw = self.dump(probe, "raw")
        self.assertEqual(raw.stat().st_size, 6 * GIB)
        self.assertLess(raw.stat().st_blocks * 512, 16 * MIB)
        with open(raw, "rb") as file:
            for page in pages[1:]:  # page 0 has changed since
                file.seek(page)
                self.assertEqual(file.read(PAGE), pattern(12, page // PAGE, PAGE), hex(page))
        with open(self.dump(probe, "elf"), "rb") as file:
            found = self.segments(file)
            self.assertEqual([(paddr, bytes_) for paddr, _, bytes_ in found], [(0, 3 * GIB), (4 * GIB, 2 * GIB)])
            for page in pages[1:]:
                paddr, offset, _ = next(s for s in found if s[0] <= page < s[0] + s[2])
                file.seek(offset + page - paddr)
                self.assertEqual(file.read(PAGE), pattern(12, page // PAGE, PAGE), hex(page))
        self.assertLess(probe.ram_rss(), 32 * MIB)  # reading did not populate it
        probe.power_off()


class Stats(ProbeTest):
    engine = "off"

    def test_they_follow_what_the_guest_does(self):
        probe = self.probe(mem="250M", cpus=2, disk=f"path={self.image()}")
        first = probe.stats()
        self.assertEqual((first["state"], first["pid"], len(first["vcpus"])), ("running", probe.pid, 2))
        self.assertEqual(first["memory"]["configured_bytes"], 250 * MIB)
        self.assertLess(first["memory"]["populated_bytes"], 8 * MIB)
        self.assertGreater(first["boot"]["shared_bytes"], 64 * 1024)
        self.assertLessEqual(first["boot"]["copied_bytes"], 64 * 1024)
        probe.ask("fill", cpus=2, **{"from": 16 * MIB, "to": 80 * MIB})
        second = probe.stats()
        for key in ("populated_bytes", "private_bytes"):
            self.assertAlmostEqual(second["memory"][key] - first["memory"][key], 64 * MIB, delta=MIB)
        dev = probe.device(BLOCK)
        probe.blk(dev, "write", count=256, size=4096)
        probe.blk(dev, "verify", count=256, size=4096)
        probe.blk(dev, "read", sector=1 << 40, count=8)
        disk = probe.device_stats("block")
        self.assertSub({"writes": 32, "write_bytes": 256 * SECTOR, "reads": 32, "read_bytes": 256 * SECTOR,
                        "in_flight": 0}, disk)
        self.assertSub({"requests": 65, "errors": 1, "hostile": 0}, disk["virtio"])
        balloon = probe.device(BALLOON)
        probe.ask("inflate", dev=balloon, **{"from": 16 * MIB, "to": 48 * MIB})
        third = probe.stats()
        self.assertAlmostEqual(second["memory"]["populated_bytes"] - third["memory"]["populated_bytes"], 32 * MIB,
                               delta=MIB)
        self.assertSub({"actual_bytes": 32 * MIB, "inflated_pages": 8192, "refused_pages": 0},
                       probe.device_stats("balloon"))
        for before, after in zip(first["vcpus"][:1], third["vcpus"]):
            self.assertGreater(after["exits_pio"], before["exits_pio"])
            self.assertGreater(after["exits_mmio"], before["exits_mmio"])
        probe.power_off()


class Console(ProbeTest):
    def test_flood(self):
        """Much output, all of it, in order, to a reader that keeps up."""
        probe = self.probe()
        probe.ask("flood", bytes=65536)
        lines = [line for line in probe.vm.console.text().splitlines() if line.endswith("." * 55)]
        self.assertEqual([int(line[:8]) for line in lines], list(range(1024)))
        probe.power_off()

    def test_noise(self):
        """What is no command is ignored; overlong lines do not hurt."""
        probe = self.probe()
        probe.vm.send("hello\n\n\r\n" + "x" * 5000 + "\n" + "\0\xff\n")
        self.assertIn("unknown", probe.refuses("walk"))
        self.assertEqual(probe.ask("hello")["cpus"], 1)
        probe.power_off()


class SharedFromBirth(ProbeTest):
    engine = "off"

    def setUp(self):
        super().setUp()
        if os.geteuid():
            self.skipTest("needs root to see frame numbers")

    def pair(self, **options):
        self.content = os.urandom(8 * MIB)
        self.initrd = self.dir / "initrd"
        self.initrd.write_bytes(self.content)
        probes = [self.probe(name, initrd=self.initrd, **options) for name in ("one", "two")]
        starts = []
        for probe in probes:
            start, length = (int(x, 0) for x in probe.ask("hello")["initrd"].split(":"))
            # Reading makes them present.
            self.assertEqual(probe.ask("crc", **{"from": start, "to": start + length})["crc"],
                             zlib.crc32(self.content))
            starts.append(start)
        self.assertEqual(starts[0], starts[1])
        return probes, starts[0]

    def test_frames(self):
        for kernel in (None, "probe.bzimage"):
            with self.subTest(kernel=kernel):
                self.check_frames(kernel and probe_variant(kernel))

    def check_frames(self, kernel):
        (one, two), start = self.pair(kernel=kernel)
        first, count = start // PAGE, len(self.content) // PAGE
        frames = one.frames(first, count)
        self.assertNotIn(0, frames)
        self.assertEqual(frames, two.frames(first, count))
        # Of the kernel, what is not written: code and constants, from the fixed part's end on.
        text = [(a, b) for a, b in zip(one.frames((IMAGE_BASE + 0x18000) // PAGE, 4),
                                       two.frames((IMAGE_BASE + 0x18000) // PAGE, 4)) if a and b]
        self.assertGreater(len(text), 1)
        for a, b in text:
            self.assertEqual(a, b)
        # A write makes a copy, for the writer alone.
        one.ask("store", at=start + 5 * PAGE, hex="5a5a5a5a")
        after = one.frames(first, count)
        self.assertNotEqual(after[5], frames[5])
        self.assertEqual(after[:5] + after[6:], frames[:5] + frames[6:])
        self.assertEqual(two.frames(first, count), frames)
        crc = two.ask("crc", **{"from": start, "to": start + len(self.content)})["crc"]
        self.assertEqual(crc, zlib.crc32(self.content))
        one.power_off()
        two.power_off()

    def test_users_files_are_theirs(self):
        """Overwritten, truncated and deleted under a running VM, they change nothing in it."""
        self.content = os.urandom(8 * MIB)
        for how in ("overwritten", "truncated", "deleted"):
            with self.subTest(how):
                initrd, kernel = self.dir / "initrd", self.dir / "kernel.elf"
                initrd.write_bytes(self.content)
                shutil.copyfile(probe_kernel(), kernel)
                probe = self.probe(how, kernel=kernel, initrd=initrd)
                if how == "overwritten":
                    for path in (initrd, kernel):
                        with open(path, "r+b") as file:
                            file.write(bytes(path.stat().st_size))
                for path in (initrd, kernel):
                    if how == "truncated":
                        os.truncate(path, 0)
                    if how == "deleted":
                        path.unlink()
                start, length = (int(x, 0) for x in probe.ask("hello")["initrd"].split(":"))
                self.assertEqual(probe.ask("crc", **{"from": start, "to": start + length})["crc"],
                                 zlib.crc32(self.content))
                probe.power_off()


if __name__ == "__main__":
    sardine_test.main()
