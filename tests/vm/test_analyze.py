#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`sardine analyze` on our own VMs: their dumps, raw and ELF, and the VMs themselves while they run."""
import json
import pathlib
import sys

import sardine_test
from probe import MIB, PAGE, ProbeTest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "analyze"))
import live_pages  # noqa: E402
import slow_count  # noqa: E402


class Analyze(ProbeTest):
    def analyze(self, *args):
        done = self.sardine("analyze", "--json", *args)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return json.loads(done.stdout)

    def pair(self):
        """Two guests: 1,024 pages are the same in both, 512 repeat one page's neighbourhood, 768 are each one's own."""
        probes = [self.probe(name, mem="32M") for name in ("left", "right")]
        for i, probe in enumerate(probes):
            probe.ask("fill", seed=5, **{"from": 8 * MIB, "to": 12 * MIB})
            probe.ask("fill", seed=6 + i, **{"from": 16 * MIB, "to": 19 * MIB})
        return probes

    def test_dumps(self):
        probes = self.pair()
        raw, elf = [], []
        for probe in probes:
            for form, paths in (("raw", raw), ("elf", elf)):
                paths.append(str(self.dir / f"{probe.name}.{form}"))
                done = self.sardine("dump", probe.name, paths[-1], "--format", form)
                self.assertEqual(done.returncode, 0, done.stderr)
        slow = slow_count.count(raw)
        fast = self.analyze(*raw)
        self.assertEqual(slow_count.differences(slow, fast), [])
        self.assertGreaterEqual(fast["total"]["inter_pages"], 1024)
        self.assertGreaterEqual(fast["runs"][9]["pages"], 2048)  # 512 pages in a row or more: both guests' 4 MiB
        # A dump goes round its guest's page tables slowly: what the guest writes by itself may differ between the two.
        other = self.analyze(*elf)
        for key, value in fast["total"].items():
            if key != "saved_pct_nonzero":
                self.assertLessEqual(abs(value - other["total"][key]), 16, key)
        self.assertEqual([i["form"] for i in other["images"]], ["elf", "elf"])
        for probe in probes:
            probe.power_off()

    def test_live(self):
        probes = self.pair()
        pids = [probe.pid for probe in probes]
        before = [live_pages.snapshot(pid) for pid in pids]
        fast = self.analyze("--pid", pids[0], "--pid", pids[1])
        after = [live_pages.snapshot(pid) for pid in pids]
        changed = sum(b.get(a) != n.get(a) for b, n in zip(before, after) for a in b.keys() | n.keys())
        paths = []
        for i, pages in enumerate(before):
            paths.append(self.dir / f"{i}.raw")
            paths[-1].write_bytes(b"".join(pages[a] for a in sorted(pages)))
        slow = slow_count.count(paths, sizes=False)["total"]
        for key in ("pages", "zero", "nonzero_pages", "distinct_nonzero", "saved_pages", "inter_pages"):
            self.assertLessEqual(abs(fast["total"][key] - slow[key]), changed, (key, changed))
        self.assertLess(changed, 300)
        self.assertGreaterEqual(fast["total"]["inter_pages"], 1024)
        self.assertFalse(fast["partial"])
        # The guests' patterns are as they were, and the VMs are found by what they are.
        for i, probe in enumerate(probes):
            self.assertEqual(probe.ask("check", seed=5, **{"from": 8 * MIB, "to": 12 * MIB})["bad"], 0)
            self.assertEqual(probe.ask("check", seed=6 + i, **{"from": 16 * MIB, "to": 19 * MIB})["bad"], 0)
        everything = self.sardine("analyze", "--json", "--all-vms", "--sample", 0)
        found = {image["pid"] for image in json.loads(everything.stdout)["images"]}
        self.assertLessEqual(set(pids), found)
        for probe in probes:
            probe.power_off()


assert PAGE == live_pages.PAGE

if __name__ == "__main__":
    sardine_test.main()
