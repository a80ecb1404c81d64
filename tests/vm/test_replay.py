#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Replay VMs: a VM to all verbs, every byte known, shared by our store. And `sardine merge`. Needs no /dev/kvm."""
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys

import jsonschema

import sardine_test
from replay import PAGE, ReplayTest
from sardine_test import ROOT, poll, sardine_bin

sys.path.insert(0, str(ROOT / "tests" / "analyze"))
import dumps  # noqa: E402

NOBODY = 65534
SCHEMA = json.loads((ROOT / "docs" / "stats.schema.json").read_text())
# Each run of 512 is the whole pool, and so equal to every other.
SAME = "pool:512,copy:512,unique:64"
MIB = 1 << 20


class Verbs(ReplayTest):
    def json(self, *args):
        done = self.sardine(*args, "--json")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return json.loads(done.stdout)

    def test_a_vm_like_any_other(self):
        self.replay("a", "--synthetic", "guests", "--mem", "32M", "--engine", "off")
        b = self.replay("b", "--synthetic", "runs", "--mem", "16M", "--write-rate", "1000", "--write-set", "0.5")
        listed = self.json("ps")["vms"]
        self.assertEqual([(v["name"], v["state"], v["configured_bytes"]) for v in listed],
                         [("a", "running", 32 * MIB), ("b", "running", 16 * MIB)])
        document = self.json("stats")
        jsonschema.validate(document, SCHEMA, cls=jsonschema.Draft202012Validator)
        one, two = document["vms"]
        self.assertNotIn("engine", one)
        self.assertEqual(two["engine"]["link"], "local")
        self.assertEqual(two["replay"]["write_set_bytes"], 8 * MIB)
        self.assertEqual((two["vcpus"], two["devices"], two["boot"]["entry"]), ([], [], "replay"))
        for vm in document["vms"]:
            m, s = vm["memory"], vm["saved"]
            self.assertEqual(m["populated_bytes"], m["private_bytes"] + m["shared_from_birth_bytes"] + m["merged_bytes"] + m["store_bytes"])
            self.assertEqual(m["occupied_bytes"], m["populated_bytes"] - s["total_bytes"])
            self.assertEqual(m["shared_from_birth_bytes"], 0)
        self.assertIn("engine local", self.sardine("stats", "b").stdout)
        poll(lambda: b.stats()["replay"]["writes"] > 50, "it writes")
        self.assertEqual(self.sardine("pause", "b").returncode, 0)
        before = b.stats()
        self.assertEqual(before["state"], "paused")
        self.assertEqual(self.sardine("replay", "--check", "--name", "b").returncode, 0)
        self.assertEqual(b.stats()["replay"]["writes"], before["replay"]["writes"])
        self.assertEqual(self.sardine("resume", "b").returncode, 0)
        poll(lambda: b.stats()["replay"]["writes"] > before["replay"]["writes"], "it goes on")
        for args, text in ((("dump", "b", "x"), "not dumped"), (("console", "b"), "no console"), (("balloon", "b", "1M"), "no balloon")):
            done = self.sardine(*args)
            self.assertEqual(done.returncode, 1)
            self.assertIn(text, done.stderr)
        (self.dir / "x").unlink(missing_ok=True)
        self.assertEqual(self.sardine("stop", "b").returncode, 0)
        self.assertEqual(b.wait(), 0)
        self.assertIn("every byte read as it must", b.log.text())
        self.assertEqual(self.sardine("kill", "a").returncode, 0)

    def test_signals(self):
        for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -9)):
            vm = self.replay("a", "--synthetic", "unique", "--mem", "4M")
            vm.process.send_signal(number)
            self.assertEqual(vm.wait(), code)
        # What the last one left is nobody's.
        vm = self.replay("a", "--synthetic", "unique", "--mem", "4M")
        self.assertEqual(self.sardine("stop", "a").returncode, 0)

    def test_name_in_use(self):
        self.replay("a", "--synthetic", "unique", "--mem", "4M")
        self.assertOneLine(self.sardine("replay", "--name", "a", "--synthetic", "unique", "--mem", "4M"), 1, "in use", verb="replay")

    def test_a_wrong_byte_is_found(self):
        vm = self.replay("a", "--synthetic", "unique:8,zero:8", "--mem", "4M")
        done = self.sardine("replay", "--check", "--name", "a")
        self.assertEqual((done.returncode, done.stdout), (0, "a: 1024 frames read as they must\n"))
        vm.damage(517)
        self.assertOneLine(self.sardine("replay", "--check", "--name", "a"), 1, "a: frame 517 reads wrong", verb="replay")
        done = self.sardine("replay", "--check", "--json", "--name", "a")
        self.assertEqual((done.returncode, json.loads(done.stdout)), (1, {"frames": 1024, "wrong_frame": 517}))
        self.assertEqual(vm.stats()["replay"]["wrong_frame"], 517)
        done = self.sardine("stop", "a")
        self.assertEqual(done.returncode, 1)
        self.assertIn("frame 517 reads wrong", done.stderr)
        self.assertEqual(vm.wait(), 1)
        self.assertIn("frame 517 reads wrong", vm.log.text())

    def test_a_wrong_byte_is_found_at_the_end(self):
        vm = self.replay("a", "--synthetic", "unique:8,zero:8", "--mem", "4M", "--engine", "off")
        vm.damage(1000)  # a hole
        vm.process.send_signal(signal.SIGTERM)
        self.assertEqual(vm.wait(), 1)
        self.assertIn("frame 1000 reads wrong", vm.log.text())

    def test_unprivileged(self):
        if os.geteuid():
            self.skipTest("already are")
        command = self.dir / "sardine"
        shutil.copy(sardine_bin(), command)
        for path in (self.dir, self.xdg, self.home):
            os.chown(path, NOBODY, NOBODY)
        drop = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all", command)
        with subprocess.Popen([*map(str, drop), "replay", "--name", "n", "--synthetic", SAME, "--mem", "8M", "--manual"], env=self.env,
                              stderr=subprocess.PIPE, text=True) as process:
            try:
                line = process.stderr.readline()
                if "running: pid" not in line:
                    self.skipTest(line.strip())

                def ask(*args):
                    return subprocess.run([*map(str, drop), *args], env=self.env, capture_output=True, text=True, timeout=60, check=False)
                merged = json.loads(ask("merge", "n", "--json").stdout)
                self.assertGreater(merged["total"]["routes"]["store"]["pages"], 1000)
                self.assertEqual(ask("stop", "n").returncode, 0)
            finally:
                process.kill()


class Images(ReplayTest):
    """What is loaded is what the file holds; more memory is never touched, less leaves the rest out."""

    def write(self, name, data):
        path = self.dir / name
        path.write_bytes(data)
        return path

    def setUp(self):
        super().setUp()
        rnd = random.Random(5)
        self.pages = [bytes(PAGE) if i % 3 == 0 else rnd.randbytes(PAGE) for i in range(300)]

    def test_raw(self):
        path = self.write("raw", b"".join(self.pages))
        vm = self.replay("a", "--image", path)
        self.assertEqual(vm.stats()["memory"]["configured_bytes"], 300 * PAGE)
        self.assertTrue(vm.memory(0, 300) == b"".join(self.pages))
        large = self.replay("b", "--image", path, "--mem", "4M", "--engine", "off", "--thp", "off")
        self.assertEqual(large.stats()["memory"]["populated_bytes"], 200 * PAGE)
        self.assertTrue(large.memory(0, 300) == b"".join(self.pages))
        self.assertTrue(large.memory(300, 1) == bytes(PAGE))
        small = self.replay("c", "--image", path, "--mem", str(10 * PAGE))
        self.assertEqual(small.stats()["memory"]["configured_bytes"], 10 * PAGE)
        self.assertTrue(small.memory(0, 10) == b"".join(self.pages[:10]))

    def test_core(self):
        half = [b"".join(self.pages[:100]), b"".join(self.pages[100:])]
        path = self.write("core", dumps.elf_core([(0, half[0]), (1 << 32, half[1])]))
        vm = self.replay("a", "--image", path)
        self.assertEqual(vm.stats()["memory"]["configured_bytes"], 300 * PAGE)
        self.assertTrue(vm.memory(0, 300) == b"".join(self.pages))

    def test_equal_seeds_are_equal_memory(self):
        a, b, c = (hashlib.sha256(self.replay(n, "--synthetic", "runs", "--mem", "4M", "--seed", s, "--engine", "off").memory(0, 1024)).digest()
                   for n, s in (("a", 3), ("b", 3), ("c", 4)))
        self.assertEqual(a, b)
        self.assertNotEqual(a, c)


class Merge(ReplayTest):
    def frames(self, vm):
        """Numbers of the frames behind its memory, those that are in memory."""
        stats = vm.stats()
        with open(f"/proc/{vm.pid}/pagemap", "rb") as f:
            f.seek(stats["replay"]["address"] // PAGE * 8)
            entries = struct.unpack(f"{stats['memory']['configured_bytes'] // PAGE}Q", f.read(stats["memory"]["configured_bytes"] // PAGE * 8))
        return [e & (1 << 55) - 1 for e in entries if e >> 63]

    def test_one(self):
        """What `stats` says is saved is what is gone from memory."""
        vm = self.replay("a", "--synthetic", SAME, "--mem", "32M", "--manual", "--thp", "off")
        before = vm.stats()
        self.assertEqual(before["memory"]["store_bytes"], 0)
        got = vm.merge()
        self.assertTrue(got["settled"])
        stats = vm.stats()
        jsonschema.validate(stats, SCHEMA, cls=jsonschema.Draft202012Validator)
        mapped = stats["engine"]["store_pages_mapped"]
        # 14 whole runs of 512 equal pages, and a part of one.
        self.assertGreaterEqual(mapped, 14 * 512)
        self.assertEqual(got["routes"]["store"], {"pages": mapped, "bytes": mapped * PAGE})
        self.assertEqual(stats["memory"]["store_bytes"], mapped * PAGE)
        self.assertEqual(stats["saved"]["store_bytes"], (mapped - 512) * PAGE)
        self.assertEqual(stats["engine"]["profit_bytes"], stats["saved"]["store_bytes"] - stats["engine"]["metadata_bytes"])
        self.assertGreater(stats["engine"]["profit_bytes"], 0)
        self.assertEqual(self.sardine("replay", "--check", "--name", "a").returncode, 0)
        frames = self.frames(vm)
        self.assertEqual(len(frames), 8192)
        if os.geteuid() == 0:
            self.assertEqual(8192 - len(set(frames)), mapped - 512)
        # A second time there is nothing to do.
        again = vm.merge()
        self.assertEqual(again["routes"]["store"]["pages"], 0)
        self.assertTrue(again["settled"])

    def daemon(self):
        """sardined in the test's runtime folder, ended before the VMs are looked after."""
        self.rundir.mkdir(mode=0o700, exist_ok=True)
        process = subprocess.Popen([str(pathlib.Path(sardine_bin()).parent / "sardined")], env=self.env, stderr=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        poll(lambda: (self.rundir / "sardined.sock").exists(), "the daemon listens")
        return process

    def test_between_vms(self):
        """Each VM is credited with its part: the sum is what is gone from memory."""
        daemon = self.daemon()
        try:
            vms = [self.replay(name, "--synthetic", SAME, "--mem", "8M", "--seed", seed, "--engine", "store", "--manual", "--thp", "off")
                   for seed, name in enumerate("abc")]
            done = self.sardine("merge", "--all", "--json")
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            for vm in vms:
                self.assertEqual(self.sardine("replay", "--check", "--name", vm.name).returncode, 0)
            frames = [f for vm in vms for f in self.frames(vm)]
            self.assertEqual(len(frames), 3 * 2048)

            def credited():
                """The daemon tells what its store comes to once in a while; a pass of the agent takes it over."""
                self.assertEqual(self.sardine("merge", "--all").returncode, 0)
                document = json.loads(self.sardine("stats", "--json").stdout)
                jsonschema.validate(document, SCHEMA, cls=jsonschema.Draft202012Validator)
                self.assertEqual([v["engine"]["link"] for v in document["vms"]], ["sardined"] * 3)
                self.assertGreater(sum(v["engine"]["store_pages_mapped"] for v in document["vms"]), 3 * 3 * 512)
                saved = sum(v["saved"]["store_bytes"] for v in document["vms"]) / PAGE
                # Rounded down in each VM. Only root sees which frames are the same.
                return saved > 0 if os.geteuid() else abs(saved - (len(frames) - len(set(frames)))) <= 3
            poll(credited, "the VMs' parts add up", 20)
        finally:
            daemon.terminate()

    def test_under_writes(self):
        vm = self.replay("a", "--synthetic", SAME, "--mem", "16M", "--write-rate", "20000", "--write-set", "0.5")
        for _ in range(3):
            vm.merge()
            done = self.sardine("replay", "--check", "--name", "a")
            self.assertEqual((done.returncode, done.stderr), (0, ""))
        stats = vm.stats()
        self.assertGreater(stats["memory"]["store_bytes"], 0)
        held = stats["engine"]["held"]
        self.assertGreater(held["count"] + held["nobody_waited"], 0)
        self.assertLessEqual(held["p50_us"], held["max_us"])
        self.assertEqual(self.sardine("stop", "a").returncode, 0)

    def test_all(self):
        for name in ("a", "b"):
            self.replay(name, "--synthetic", SAME, "--mem", "8M", "--manual")
        done = self.sardine("merge", "--all", "--json")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        got = json.loads(done.stdout)
        self.assertEqual([v["name"] for v in got["vms"]], ["a", "b"])
        self.assertGreaterEqual(got["rounds"], 2)
        self.assertEqual(got["total"]["routes"]["store"]["pages"], sum(v["routes"]["store"]["pages"] for v in got["vms"]))
        self.assertGreater(got["total"]["routes"]["store"]["pages"], 2 * 1024)
        self.replay("c", "--synthetic", SAME, "--mem", "8M", "--engine", "off")
        done = self.sardine("merge", "--all")
        self.assertEqual(done.returncode, 1)
        self.assertIn("c: no engine of ours", done.stderr)
        self.assertEqual([line.split()[0] for line in done.stdout.splitlines()], ["NAME", "a", "b", "total"])

    def test_nothing_there(self):
        self.assertOneLine(self.sardine("merge", "nobody"), 1, "nobody: no VM of this name", verb="merge")
        done = self.sardine("merge", "--all", "--json")
        self.assertEqual((done.returncode, json.loads(done.stdout)["vms"]), (0, []))
        for args in ((), ("a", "--all"), ("a", "b"), ("--timeout", "x", "a")):
            self.assertEqual(self.sardine("merge", *args).returncode, 2, args)

    def test_a_long_merge_does_not_hold_up_the_end(self):
        vm = self.replay("a", "--synthetic", SAME, "--mem", "8M", "--write-rate", "1000000", "--write-set", "1")
        with vm.control() as c:
            c.send({"cmd": "merge", "timeout_s": 86400})
            self.assertEqual(self.sardine("kill", "a").returncode, 0)
        self.assertEqual(vm.wait(), 1)


class BadInput(ReplayTest):
    ROWS = (
        (2, ("--name is missing",), ("--synthetic", "unique", "--mem", "4M")),
        (2, ("--name a/b",), ("--name", "a/b", "--synthetic", "unique", "--mem", "4M")),
        (2, ("--image or --synthetic", "one of them"), ("--name", "a")),
        (2, ("--image and --synthetic", "one of them"), ("--name", "a", "--synthetic", "unique", "--image", "x", "--mem", "4M")),
        (2, ("--synthetic", '"foo"', "is wanted at"), ("--name", "a", "--synthetic", "foo", "--mem", "4M")),
        (2, ("--synthetic", "longer than the pool"), ("--name", "a", "--synthetic", "copy:5,pool:4", "--mem", "4M")),
        (2, ("--mem is missing",), ("--name", "a", "--synthetic", "unique")),
        (2, ("--mem 5000", "4096"), ("--name", "a", "--synthetic", "unique", "--mem", "5000")),
        (2, ("--mem 0",), ("--name", "a", "--synthetic", "unique", "--mem", "0")),
        (2, ("--mem 2T", "1T"), ("--name", "a", "--synthetic", "unique", "--mem", "2T")),
        (2, ("--seed -1",), ("--name", "a", "--synthetic", "unique", "--mem", "4M", "--seed=-1")),
        (2, ("--write-rate x",), ("--name", "a", "--synthetic", "unique", "--mem", "4M", "--write-rate", "x")),
        (2, ("--write-set 1.5",), ("--name", "a", "--synthetic", "unique", "--mem", "4M", "--write-rate", "1", "--write-set", "1.5")),
        (2, ("--write-set 0",), ("--name", "a", "--synthetic", "unique", "--mem", "4M", "--write-rate", "1", "--write-set", "0")),
        (2, ("--write-set", "--write-rate"), ("--name", "a", "--synthetic", "unique", "--mem", "4M", "--write-set", "0.5")),
        (2, ("--engine magic", "off, local, store or ksm"), ("--name", "a", "--synthetic", "unique", "--mem", "4M", "--engine", "magic")),
        (2, ("--thp maybe",), ("--name", "a", "--synthetic", "unique", "--mem", "4M", "--thp", "maybe")),
        (2, ("--check", "only --name"), ("--name", "a", "--check", "--mem", "4M")),
        (2, ("--json is for --check",), ("--name", "a", "--synthetic", "unique", "--mem", "4M", "--json")),
        (2, ("one argument too many",), ("--name", "a", "--synthetic", "unique", "--mem", "4M", "more")),
        (1, ("a: no VM of this name",), ("--name", "a", "--check")),
        (1, ("missing", "No such file"), ("--name", "a", "--image", "missing")),
        (1, ("empty",), ("--name", "a", "--image", "empty")),
        (1, ("--cgroup", "No such file"), ("--name", "a", "--synthetic", "unique", "--mem", "4M", "--cgroup", "/nowhere")),
        (1, ("--write-rate", "too few"), ("--name", "a", "--synthetic", "unique", "--mem", "4096", "--write-rate", "1")),
    )

    def test_rows(self):
        (self.dir / "empty").touch()
        before = self.files()
        for code, words, args in self.ROWS:
            with self.subTest(args=args):
                self.assertOneLine(self.sardine("replay", *args), code, *words, verb="replay")
                self.assertEqual(self.files(), before)


if __name__ == "__main__":
    sardine_test.main()
