#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Boot and memory, through the probe guest: entries, memory maps, ACPI, every vCPU, initrd."""
import os
import zlib

import sardine_test
from probe import FULL, GIB, IMAGE_BASE, MIB, PAGE, ProbeTest, probe_variant, size

HOLE = 3 * GIB
HIGH = 4 * GIB
LOW_END = 0x9FC00


class Boot(ProbeTest):
    def check_machine(self, probe, mem, cpus, devices=2):
        self.assertSub({"acpi": "ok", "cpus": cpus, "virtio": devices}, probe.ask("hello"))
        self.assertSub({"state": "ok", "hw_reduced": 1, "ged": 1, "button": 1, "com1": 1}, probe.ask("acpi"))
        expected = [(0, LOW_END), (MIB, min(mem, HOLE))]
        if mem > HOLE:
            expected.append((HIGH, HIGH + mem - HOLE))
        self.assertEqual(probe.ranges("ram"), expected)

    def test_entries(self):
        """PVH, the 64-bit boot protocol, and a bzImage by both of its ways in."""
        rows = (("pvh", None, "off"), ("linux64", "probe-linux64.elf", "off"), ("pvh", "probe.bzimage", "off"),
                ("linux64", "probe.bzimage", "on"))
        for i, (how, kernel, kaslr) in enumerate(rows):
            with self.subTest(kernel=kernel, kaslr=kaslr):
                probe = self.probe(f"e{i}", kernel=kernel and probe_variant(kernel), kaslr=kaslr, cpus=2,
                                   cmdline=f"one two={i}")
                self.assertEqual(probe.ask("hello")["boot"], how)
                self.check_machine(probe, 64 * MIB, 2)
                self.assertEqual(probe.ask("cmdline")["text"], f"one two={i}")
                self.assertSub({"ran": 2}, probe.ask("cpus"))
                probe.power_off()

    def test_sizes(self):
        """First and last page of each region, and a page per GiB; also ends that are no multiples of 2 MiB: 67M, 16388K."""
        for mem, pages in (("16388K", 4), ("64M", 4), ("67M", 4), ("250M", 4), ("3G", 8), ("5G", 12)):
            with self.subTest(mem=mem):
                probe = self.probe("m" + mem, mem=mem)
                self.check_machine(probe, size(mem), 1)
                got = probe.ask("touch", seed=7)
                self.assertEqual(got["bad"], 0)
                touched = {value for key, value in got.items() if key.startswith("p") and key[1:].isdigit()}
                for start, end in probe.ranges("ram"):
                    self.assertIn(start, touched)
                    self.assertIn(end // PAGE * PAGE - PAGE, touched)
                    for gib in range((start + GIB - 1) // GIB, (end + GIB - 1) // GIB):
                        self.assertIn(gib * GIB, touched)
                self.assertEqual(got["pages"], pages, got)
                probe.power_off()

    def test_exceptions_are_reported(self):
        """What the guest does wrong reaches it as an exception; the VM goes on."""
        probe = self.probe()
        self.assertIn("vector=6", probe.refuses("fault", how="ud"))
        self.assertIn("vector=13", probe.refuses("fault", how="gp"))
        self.assertIn("vector=14", probe.refuses("fault", how="pf"))
        self.check_machine(probe, 64 * MIB, 1)
        probe.power_off()

    def test_nobody_there(self):
        """Ports and addresses without a device read as all ones."""
        probe = self.probe()
        self.assertEqual(probe.ask("in", port=0x2F8)["value"], 0xFF)
        for width in (1, 2, 4, 8):
            self.assertEqual(probe.ask("peek", at=0xC8000000, width=width)["value"], (1 << 8 * width) - 1)
            probe.ask("poke", at=0xC8000000, width=width, value=1)
        probe.power_off()


class Patterns(ProbeTest):
    def fill_and_check(self, probe, cpus, **args):
        filled = probe.ask("fill", seconds=400, cpus=cpus, **args)
        checked = probe.ask("check", seconds=400, cpus=cpus, **args)
        self.assertEqual((checked["bad"], checked["pages"]), (0, filled["pages"]), checked)
        self.assertGreater(filled["least_per_cpu"], 0)
        print(f"  {cpus} vCPUs: {filled['pages']} pages, filled {filled['pages_per_ms']}/ms, "
              f"checked {checked['pages_per_ms']}/ms")
        return filled

    def test_two_cpus(self):
        probe = self.probe(mem="250M", cpus=2)
        usable = sum(end - start for start, end in probe.ranges("usable"))
        self.assertGreater(usable, 240 * MIB)
        self.assertEqual(self.fill_and_check(probe, 2, seed=3)["pages"], usable // PAGE)
        # Another seed must not match: the check can fail.
        self.assertEqual(probe.ask("check", cpus=2, seed=4)["bad"], usable // PAGE)
        probe.power_off()

    def test_one_cpu_above_4g(self):
        probe = self.probe(mem="5G")
        start, end = HIGH, HIGH + 2 * GIB
        self.fill_and_check(probe, 1, **{"from": start, "to": start + 16 * MIB})
        self.fill_and_check(probe, 1, **{"from": end - 16 * MIB, "to": end})
        probe.power_off()

    def test_all_of_5g(self):
        if not FULL:
            return
        probe = self.probe(mem="5G", cpus=2)
        self.fill_and_check(probe, 2, seed=6)
        probe.power_off()

    def test_32_cpus(self):
        probe = self.probe(cpus=32)
        hello = probe.ask("hello")
        self.assertEqual(hello["cpus"], 32)
        acpi = probe.ask("acpi")
        self.assertEqual([acpi[f"apic{i}"] for i in range(32)], list(range(32)))
        self.assertSub({"ran": 32 * 3}, probe.ask("cpus", seconds=90, rounds=3))
        self.fill_and_check(probe, 32, seed=5)
        probe.power_off()

    def test_fresh_memory_is_zero(self):
        probe = self.probe(cpus=2)
        self.assertEqual(probe.ask("zero", cpus=2)["bad"], 0)
        probe.ask("fill", **{"from": "32M", "to": "33M"})
        self.assertEqual(probe.ask("zero", cpus=2)["bad"], 256)
        probe.power_off()


class Initrd(ProbeTest):
    def check_initrd(self, bytes_, mem, **options):
        content = os.urandom(MIB) * (bytes_ // MIB) + os.urandom(bytes_ % MIB)
        path = self.dir / "initrd"
        path.write_bytes(content)
        probe = self.probe(mem=mem, initrd=path, **options)
        start, length = probe.ask("hello")["initrd"].split(":")
        start, length = int(start, 16), int(length)
        self.assertEqual(length, bytes_)
        self.assertEqual(start % PAGE, 0)
        self.assertGreaterEqual(start, IMAGE_BASE)
        self.assertEqual(probe.ask("crc", **{"from": start, "to": start + length})["crc"], zlib.crc32(content))
        # The rest of its last page is zero, and it can be written like all memory.
        tail = -length % PAGE
        self.assertEqual(probe.ask("load", at=start + length, bytes=tail)["hex"] if tail else "", "00" * tail)
        probe.ask("store", at=start, hex="0123456789abcdef")
        self.assertEqual(probe.ask("load", at=start, bytes=8)["hex"], "0123456789abcdef")
        self.assertEqual(path.read_bytes(), content)
        probe.power_off()

    def test_odd_length(self):
        self.check_initrd(3 * MIB + 1234, "64M")

    def test_linux64(self):
        self.check_initrd(MIB + 1, "64M", kernel=probe_variant("probe-linux64.elf"))

    def test_200_mib(self):
        self.check_initrd(200 * MIB, "250M")


if __name__ == "__main__":
    sardine_test.main()
