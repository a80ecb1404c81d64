#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`sardine bench merge`: it counts what is there, and leaves the host as it was, also when it is killed. Speed is no matter of tests."""
import fcntl
import glob
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import sardine_test
from sardine_test import ROOT, SardineTest, poll, sardine_bin

sys.path.insert(0, str(ROOT / "tests" / "analyze"))
import dumps  # noqa: E402
import slow_count  # noqa: E402

NOBODY = 65534
KSM = pathlib.Path("/sys/kernel/mm/ksm")
NAMES = ("pages_to_scan", "sleep_millisecs", "smart_scan", "use_zero_pages", "advisor_mode", "run")
# So that no value is by chance the one that a benchmark sets.
UNUSUAL = {"pages_to_scan": "123", "sleep_millisecs": "37"}
STATE = pathlib.Path("/run/sardine-bench.state")


def ksm_settings():
    return {name: (KSM / name).read_text().strip() for name in NAMES if (KSM / name).exists()}


def mess():
    """What a benchmark makes outside of its processes."""
    return sorted(glob.glob("/tmp/sardine-bench-??????") + glob.glob("/sys/fs/cgroup/sardine-bench-*") +
                  glob.glob("/sys/fs/cgroup/memory/sardine-bench-*") + glob.glob(str(STATE)))


class Bench(SardineTest):
    run_seconds = 240

    def setUp(self):
        """Alone on this host: a second run of these tests would see the first one's files and mergeable memory."""
        lock = open("/tmp/sardine-bench-test.lock", "a", encoding="ascii")
        self.addCleanup(lock.close)
        fcntl.flock(lock, fcntl.LOCK_EX)
        super().setUp()

    def bench(self, *args, **kwargs):
        """The result; a skip where ksmd cannot be measured."""
        done = self.sardine("bench", "merge", "--json", *args, **kwargs)
        if done.returncode == 77:
            self.skipTest(done.stderr.strip())
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return json.loads(done.stdout)


class Ksmd(Bench):
    def setUp(self):
        super().setUp()
        if os.geteuid() or not KSM.exists():
            self.skipTest("needs root and KSM")
        before = ksm_settings()
        self.addCleanup(lambda: [(KSM / name).write_text(before[name]) for name in NAMES if name in before and name != "advisor_mode"])
        for name, value in UNUSUAL.items():
            (KSM / name).write_text(value)
        self.settings = ksm_settings()
        self.mess = mess()

    def assertHostAsBefore(self, seconds=15):
        poll(lambda: ksm_settings() == self.settings and mess() == self.mess, lambda: f"the host is as before: {ksm_settings()}, {mess()}", seconds)
        poll(lambda: not self.processes(), "all processes end")

    def images(self):
        return [dumps.write(self.dir / f"{n}.raw", dumps.synthetic(n, 700)) for n in range(2)]

    def test_counts_what_is_there(self):
        paths = self.images()
        slow = slow_count.count(paths, sizes=False)["total"]["saved_pages"]
        got = self.bench("--vms", "2", "--content", "images:" + ",".join(map(str, paths)), "--engines", "ksmd-fastest", "--limit", "120")
        self.assertEqual([r["engine"] for r in got["runs"]], ["ksmd-fastest"])
        run = got["runs"][0]
        self.assertGreater(slow, 100)
        self.assertEqual(run["reachable_pages"], slow)
        self.assertTrue(run["settled"], run)
        self.assertEqual(run["saved_pages"], slow)
        self.assertEqual(run["saved_pct_of_reachable"], 100)
        self.assertEqual(run["extents"], 0)
        for key in ("t95_s", "t99_s", "cpu_us_per_shared_page", "kernel_meta_bytes"):
            self.assertGreater(run[key], 0, key)
        self.assertGreater(run["cpu_s"]["ksmd"], 0)
        # The control group's usage says the same, but for what it cannot know to the page.
        self.assertAlmostEqual((run["cgroup_bytes_before"] - run["cgroup_bytes_after"]) / 4096, slow, delta=0.5 * slow)
        self.assertHostAsBefore()

    def started(self):
        """A benchmark that will not end by itself soon, with ksmd running."""
        command = self.command("bench", "merge", "--vms", "2", "--mem", "64M", "--content", "synthetic:runs", "--engines", "ksmd-default",
                               "--limit", "600")
        process = subprocess.Popen(command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)

        def running():
            if process.poll() is not None:
                text = process.stderr.read()
                if process.returncode == 77:
                    self.skipTest(text.strip())
                raise AssertionError(text)
            return (KSM / "run").read_text() == "1\n"
        poll(running, "ksmd runs", 60)
        self.assertNotEqual(ksm_settings(), self.settings)
        self.assertGreater(len(mess()), len(self.mess))
        return process

    def test_killed(self):
        process = self.started()
        process.kill()
        process.wait()
        self.assertHostAsBefore()

    def test_stopped(self):
        process = self.started()
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(30), 1)
        self.assertIn("stopped by a signal", process.stderr.read())
        self.assertHostAsBefore(0.1)

    def guard_of(self, process):
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        guards = [int(pid) for pid in children if pathlib.Path(f"/proc/{pid}/comm").read_text() == "sardine-guard\n"]
        self.assertEqual(len(guards), 1)
        return guards[0]

    def test_killed_with_its_guard(self):
        """The next benchmark puts things back."""
        process = self.started()
        os.kill(self.guard_of(process), signal.SIGKILL)
        process.kill()
        process.wait()
        poll(lambda: not self.processes(), "all processes end")
        self.assertNotEqual(ksm_settings(), self.settings)
        self.assertTrue(STATE.exists())
        done = self.sardine("bench", "merge", "--vms", "1", "--mem", "1M", "--content", "synthetic:unique", "--engines", "ksmd-fastest", "--limit", "1")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("put back what a benchmark that was killed had left", done.stderr)
        self.assertHostAsBefore()

    def test_one_at_a_time(self):
        process = self.started()
        done = self.sardine("bench", "merge", "--engines", "ksmd-fastest")
        process.kill()
        process.wait()
        # Its VMs have mergeable memory; without them the state file's lock says it.
        self.assertEqual(done.returncode, 77)
        self.assertIn("mergeable memory", done.stderr)
        self.assertHostAsBefore()

    def test_state_of_somebody_else(self):
        for text in ("hello\n", "set run 1\nset other 5\n", "ksm ../etc\n"):
            STATE.write_text(text)
            self.addCleanup(STATE.unlink, missing_ok=True)
            done = self.sardine("bench", "merge", "--engines", "ksmd-fastest")
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn("not the state of a benchmark", done.stderr)
            self.assertEqual(STATE.read_text(), text)


class Store(Bench):
    """Needs no root; what root alone can see is null then."""

    def test_shares_between_vms(self):
        got = self.bench("--vms", "3", "--mem", "8M", "--content", "synthetic:pool:512,copy:512,unique:64", "--engines", "store", "--limit", "120")
        run = got["runs"][0]
        self.assertTrue(run["settled"], run)
        # Runs of 512 pages are all equal; what is unique is not touched.
        self.assertGreater(run["reachable_pages"], 3 * 3 * 512)
        self.assertGreater(run["extents"], 3 * 3 - 1)
        self.assertGreater(run["cpu_s"]["agent"] + run["cpu_s"]["daemon"], 0)
        self.assertLess(run["cpu_s"]["agent"], 600)
        for key in ("index_bytes", "kernel_meta_bytes"):
            self.assertGreater(run[key], 0, key)
        self.assertLessEqual(run["hold_us"]["p50"], run["hold_us"]["max"])
        self.assertEqual(run["saved_by"], "references" if os.geteuid() else "frames")
        self.assertGreaterEqual(run["saved_pct_of_reachable"], 90)
        self.assertLessEqual(run["saved_pages"], run["reachable_pages"])
        poll(lambda: not self.processes(), "all processes end")

    def test_without_root(self):
        """The same figures, by the store's own references."""
        if os.geteuid():
            self.skipTest("already are")
        os.chown(self.dir, NOBODY, NOBODY)
        os.chown(self.xdg, NOBODY, NOBODY)
        for name in ("sardine", "sardined"):
            shutil.copy(pathlib.Path(sardine_bin()).parent / name, self.dir / name)
        command = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all", str(self.dir / "sardine"),
                   "bench", "merge", "--json", "--vms", "2", "--mem", "8M", "--content", "synthetic:pool:512,copy:512,unique:64", "--engines", "store")
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=120, check=False, cwd=self.dir)
        if done.returncode == 77:
            self.skipTest(done.stderr.strip())
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        run = json.loads(done.stdout)["runs"][0]
        self.assertEqual((run["saved_by"], run["t95_s"], run["cgroup_bytes_after"]), ("references", None, None))
        self.assertGreaterEqual(run["saved_pct_of_reachable"], 90)
        self.assertLessEqual(run["saved_pages"], run["reachable_pages"])

    def test_idle(self):
        done = self.sardine("bench", "idle", "--json", "--mem", "16M,32M", "--seconds", "1", "--pairs", "1")
        if done.returncode == 77:
            self.skipTest(done.stderr.strip())
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        got = json.loads(done.stdout)
        self.assertEqual([(r["mem_bytes"] >> 20, r["writes_per_s"]) for r in got["cost"]],
                         [(m, w) for m in (16, 32) for w in (0, 1000, 10000)])
        self.assertEqual([e["load"] for e in got["effect"]], ["reader", "writer"])
        for effect in got["effect"]:
            self.assertEqual(len(effect["pairs"]), 1)
            self.assertGreater(effect["ratio_median"], 0)
        for row in got["cost"]:
            if row["writes_per_s"] == 0:
                self.assertEqual(row["written_pages"], 0)


class BadInput(Bench):
    ROWS = (
        (("say what to measure",), ()),
        (("fly: no such benchmark", "merge, idle"), ("fly",)),
        (("--seconds", "idle"), ("merge", "--seconds", "5")),
        (("several sizes", "idle"), ("merge", "--mem", "1M,2M")),
        (("--vms", "for: merge"), ("idle", "--vms", "2")),
        (("--pairs 0", "1 to 99"), ("idle", "--pairs", "0")),
        (("--mem 1M,", "at most 16"), ("idle", "--mem", "1M,")),
        (("more: one argument too many",), ("merge", "more")),
        (("--vms 0", "1 to 64"), ("merge", "--vms", "0")),
        (("--vms 65", "1 to 64"), ("merge", "--vms", "65")),
        (("--mem 5000", "4096"), ("merge", "--mem", "5000")),
        (("--engines magic", "ksmd-fastest"), ("merge", "--engines", "magic")),
        (("--engines", "each once"), ("merge", "--engines", "ksmd-fastest,")),
        (("--content foo", "synthetic:SPEC"), ("merge", "--content", "foo")),
        (("--content synthetic", "is wanted"), ("merge", "--content", "synthetic:foo")),
        (("missing", "No such file"), ("merge", "--content", "images:missing")),
        (("--content images", "names of dumps"), ("merge", "--content", "images:")),
        (("--thp maybe",), ("merge", "--thp", "maybe")),
        (("--limit 0", "1 to 86400"), ("merge", "--limit", "0")),
    )

    def test_rows(self):
        for words, args in self.ROWS:
            with self.subTest(args=args):
                self.assertOneLine(self.sardine("bench", *args), 2, *words, verb="bench")

    def test_without_root(self):
        if os.geteuid():
            wrap = ()
        else:
            os.chown(self.dir, NOBODY, NOBODY)
            shutil.copy(sardine_bin(), self.dir / "sardine")
            wrap = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all")
        command = [*wrap, str(self.dir / "sardine") if wrap else sardine_bin(), "bench", "merge", "--engines", "ksmd-fastest"]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60, check=False, cwd=self.dir)
        self.assertEqual(done.returncode, 77)
        self.assertTrue("needs root" in done.stderr or "has no KSM" in done.stderr, done.stderr)


if __name__ == "__main__":
    sardine_test.main()
