#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run, in their shortest form, and print the keys they promise. Bars of speed are no matter of tests."""
import json
import os
import pathlib
import subprocess
import unittest

import sardine_test
from sardine_test import ROOT, needs_kvm, sardine_bin

BUILD = pathlib.Path(sardine_bin()).parent.parent


def bench(name, *args, codes=(0,)):
    done = subprocess.run([str(ROOT / "bench" / name), "--json", "--build", str(BUILD), *args], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=120, check=False)
    if done.returncode == 77:
        raise unittest.SkipTest(done.stderr.strip())
    if done.returncode not in codes:
        raise AssertionError(f"bench/{name}: exit code {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)


class Bench(unittest.TestCase):
    @needs_kvm
    def test_cost(self):
        # 1: not within the bars, which a busy machine may well be.
        got = bench("vmm-cost", "--starts", "3", "--idle", "0.5", "--settle", "0.5", codes=(0, 1))
        self.assertEqual(set(got["socket_ms_confined"]), {"off", "sandbox", "seccomp", "both"})
        figures = got | {f"confined {name}": ms for name, ms in got["socket_ms_confined"].items()}
        for key in ("private_kib", "private_second_kib", "vmpte_kib", "sweeper_kib", "socket_ms", "idle_wakeups_per_s", "confined both"):
            self.assertIsInstance(figures[key], (int, float), key)
            self.assertGreaterEqual(figures[key], 0, key)
        # Whatever it is, a VM has a stack, a heap, and its program's data.
        self.assertGreater(got["private_kib"], got["private_second_kib"])
        self.assertGreater(got["private_second_kib"], 50)
        self.assertGreater(got["socket_ms"], 0.5)
        self.assertTrue(got["within_bars"]["private_kib"], got)  # this one does not depend on who else uses the machine
        self.assertEqual(set(got["within_bars"]), {"private_kib", "socket_ms", "idle_wakeups_per_s"})

    @needs_kvm
    def test_io(self):
        got = bench("io", "--seconds", "0.05", "--rounds", "1", "--mib", "8")
        for name, load in got["loads"].items():
            for key in ("iops", "mb_per_s", "pread_iops", "pread_mb_per_s", "of_pread", "kicks_per_request"):
                self.assertGreater(load[key], 0, f"{name} {key}")
            for key in ("exits_per_request", "interrupts_per_request"):
                self.assertGreaterEqual(load[key], 0, f"{name} {key}")
        # One at a time: each has a kick and an interrupt of its own. 32 at a time share them: this does not depend on speed.
        self.assertAlmostEqual(got["loads"]["rand4k_qd1"]["kicks_per_request"], 1, delta=0.1)
        self.assertLess(got["loads"]["rand4k_qd32"]["exits_per_request"], 0.5)

    def test_refusals(self):
        for name in ("vmm-cost", "io"):
            done = subprocess.run([str(ROOT / "bench" / name), "--build", "/nowhere"], capture_output=True, text=True, timeout=60,
                                  check=False, env=dict(os.environ))
            self.assertEqual(done.returncode, 77)
            self.assertIn("/nowhere/tools/sardine: not built", done.stderr)


if __name__ == "__main__":
    sardine_test.main()
