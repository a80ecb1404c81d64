#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`sardine analyze --pid`: exact on a process that holds still, right within what changed on one that does not."""
import json
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import dumps
import live_pages
import slow_count

HOLDER = """
import ctypes, mmap, os, random, sys, time
sys.path.insert(0, {here!r})
import dumps
mode = sys.argv[1]
pages = dumps.synthetic(11, 4000)
private = mmap.mmap(-1, 6000 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
private[:4000 * 4096] = b"".join(pages)
private.seek(4500 * 4096); private.write(pages[7])   # holes that were never touched
fd = os.memfd_create("guest-ram")
os.ftruncate(fd, 3000 * 4096)
shared = mmap.mmap(fd, 3000 * 4096)
for i in range(0, 3000, 3):
    shared.seek(i * 4096); shared.write(pages[i])
file = open({here!r} + "/dumps.py", "rb")
copied = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
copied[0] = 1                                            # one private copy of a file's page
if mode == "name":
    ctypes.CDLL(None).prctl(15, b"qemu-system-x86", 0, 0, 0)
print("ready", flush=True)
random.seed(5)
while mode == "writes":
    at = random.randrange(4000) * 4096
    private[at:at + 8] = random.randbytes(8)
    time.sleep(0.0002)
sys.stdin.readline()
if mode == "exec":
    os.execv("/bin/sleep", ["sleep", "30"])
"""


class Live(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def hold(self, mode="still"):
        here = str(pathlib.Path(__file__).resolve().parent)
        child = subprocess.Popen([sys.executable, "-B", "-c", HOLDER.format(here=here), mode], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, text=True)

        def end():
            child.kill()
            child.communicate()

        self.addCleanup(end)
        self.assertEqual(child.stdout.readline(), "ready\n")
        return child

    def stop(self, child):
        """Waits until it is stopped indeed, so that two looks at it see the same."""
        child.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 10
        while not re.search(r"\) T ", pathlib.Path(f"/proc/{child.pid}/stat").read_text(encoding="ascii")):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.001)

    def slow(self, pages):
        path = dumps.write(self.folder / "snapshot", [pages[a] for a in sorted(pages)])
        return slow_count.count([path], sizes=False)

    def test_exact_on_a_stopped_process(self):
        child = self.hold()
        self.stop(child)
        before = pathlib.Path(f"/proc/{child.pid}/statm").read_text(encoding="ascii")
        fast = dumps.analyze("--pid", child.pid)
        # Reading has populated nothing.
        self.assertEqual(pathlib.Path(f"/proc/{child.pid}/statm").read_text(encoding="ascii"), before)
        slow = self.slow(live_pages.snapshot(child.pid))
        self.assertEqual(slow_count.differences({"total": slow["total"], "images": slow["images"]}, fast), [])
        self.assertEqual(fast["changed_pages"], 0)
        self.assertEqual(fast["images"][0]["pid"], child.pid)
        self.assertFalse(fast["partial"])
        self.assertGreater(fast["total"]["pages"], 5000)
        self.assertIsInstance(fast["images"][0]["ksm_pages"], int)

    def test_two_processes_share(self):
        children = [self.hold(), self.hold()]
        for child in children:
            self.stop(child)
        fast = dumps.analyze("--pid", children[0].pid, "--pid", children[1].pid)
        paths = []
        for i, child in enumerate(children):
            pages = live_pages.snapshot(child.pid)
            paths.append(dumps.write(self.folder / str(i), [pages[a] for a in sorted(pages)]))
        slow = slow_count.count(paths, sizes=False)
        self.assertEqual(slow_count.differences({k: slow[k] for k in ("total", "pairs")}, fast), [])
        self.assertGreater(fast["total"]["inter_pages"], 1000)

    def test_right_within_what_changed(self):
        child = self.hold("writes")
        before = live_pages.snapshot(child.pid)
        fast = dumps.analyze("--pid", child.pid, "--threads", 1)
        after = live_pages.snapshot(child.pid)
        self.assertFalse(fast["partial"])
        changed = sum(before.get(a) != after.get(a) for a in before.keys() | after.keys())
        self.assertGreater(changed, 0)
        self.assertLessEqual(fast["changed_pages"], changed)
        slow = self.slow(before)["total"]
        for key in ("pages", "zero", "nonzero_pages", "distinct_nonzero", "saved_pages"):
            self.assertLessEqual(abs(fast["total"][key] - slow[key]), changed, key)
        # A page that loses its only twin makes two pages lose their duplicate.
        self.assertLessEqual(abs(fast["total"]["duplicate_pages"] - slow["duplicate_pages"]), 2 * changed)

    def ends(self, mode, finish, says):
        """Ends at a random moment of many analyses: whole, partial, or nothing left, and never anything else."""
        rnd = random.Random(3)
        seen = set()
        for i in range(60):
            if i >= 12 and 1 in seen:
                break
            child = self.hold(mode)
            analysis = subprocess.Popen([dumps.SARDINE, "analyze", "--json", "--threads", "1", "--pid", str(child.pid)],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            time.sleep(rnd.uniform(0, 0.05 * (1 + i // 12)))  # a busy host is slow to begin
            finish(child)
            out, err = analysis.communicate(timeout=60)
            self.assertIn(analysis.returncode, (0, 1), err)
            self.assertEqual(analysis.returncode == 1, err != "", err)
            if err:
                self.assertRegex(err, rf"\Asardine analyze: process {child.pid}: ({says})[^\n]*\n\Z")
            if out:
                result = json.loads(out)
                self.assertEqual(result["partial"], analysis.returncode == 1)
            seen.add(analysis.returncode)
            child.kill()
        self.assertIn(1, seen)

    def test_exit_while_read(self):
        self.ends("still", lambda child: child.kill(), "ended|there is none|has no memory|cannot be read")

    def test_exec_while_read(self):
        def execute(child):
            child.stdin.write("\n")
            child.stdin.flush()

        self.ends("exec", execute, "ended or ran another program|has no memory|cannot be read")

    def test_refused(self):
        gone = subprocess.Popen(["true"])
        gone.wait()
        table = [(gone.pid, "there is none"), (2**31 - 1, "there is none")]
        if pathlib.Path("/proc/2/comm").exists() and "kthreadd" in pathlib.Path("/proc/2/comm").read_text(encoding="ascii"):
            table.append((2, "has no memory"))
        for pid, says in table:
            done = dumps.run("--pid", pid, check=1)
            self.assertRegex(done.stderr, rf"\Asardine analyze: process {pid}: [^\n]*{says}[^\n]*\n\Z")
        done = subprocess.run(["sh", "-c", 'exec "$0" analyze --pid $$', dumps.SARDINE], capture_output=True, text=True,
                              check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("this command itself", done.stderr)

    def test_no_permission(self):
        done = subprocess.run([*dumps.as_nobody(self.folder), "analyze", "--pid", "1"], capture_output=True, text=True,
                              check=False)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"\Asardine analyze: process 1: may not be read[^\n]*\n\Z")

    def test_all_vms_finds_monitors(self):
        child = self.hold("name")
        done = dumps.run("--all-vms", "--json", "--sample", "0")
        self.assertIn(child.pid, [i["pid"] for i in json.loads(done.stdout)["images"]])

    def test_over_time(self):
        child = self.hold("writes")
        done = dumps.run("--pid", child.pid, "--json", "--every", "200ms", "--rounds", 3, check=0)
        rounds = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual(len(rounds), 3)
        done = dumps.run("--pid", child.pid, "--every", "100ms", "--rounds", 3, check=0)
        self.assertEqual(len(done.stdout.splitlines()), 4)
        # When the process ends the series does, too.
        watch = subprocess.Popen([dumps.SARDINE, "analyze", "--pid", str(child.pid), "--every", "50ms"],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        watch.stdout.readline()
        watch.stdout.readline()
        child.kill()
        child.wait()
        _, err = watch.communicate(timeout=20)
        self.assertEqual(watch.returncode, 1)
        self.assertIn(f"process {child.pid}", err)

    def test_series_ends_well_when_stopped(self):
        child = self.hold()
        watch = subprocess.Popen([dumps.SARDINE, "analyze", "--pid", str(child.pid), "--every", "1h"],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        watch.stdout.readline()
        watch.stdout.readline()
        watch.send_signal(signal.SIGINT)
        _, err = watch.communicate(timeout=20)
        self.assertEqual((watch.returncode, err), (0, ""))


if __name__ == "__main__":
    dumps.main()
