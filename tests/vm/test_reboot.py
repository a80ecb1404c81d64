#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A guest that resets or crashes boots again in the same process, as at the first start, and costs the host nothing by it."""
import os
import pathlib
import shutil
import subprocess
import threading
import time
import zlib

import sardine_test
from probe import BALLOON, BLOCK, FULL, IMAGE_BASE, MIB, PAGE, ProbeTest, pattern_sectors
from sardine_test import poll, probe_kernel

REBOOTS = 50
WAYS = ("acpi", "i8042")


class RebootTest(ProbeTest):
    def reboot(self, probe, how="acpi"):
        probe.send("reset", how=how)
        return probe.ready()

    def background(self, *args):
        process = subprocess.Popen(self.command(*args), env=self.env, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        return process

    def settled(self, probe):
        """The statistics once nothing is under way any more."""
        poll(lambda: probe.stats()["state"] == "running", "the VM runs")
        return probe.stats()


class Reboot(RebootTest):
    engine = "off"

    def cost(self, probe):
        """Descriptors, threads and mappings of the VMM, and what it holds of memory (bytes)."""
        status = dict(line.split(":", 1) for line in
                      pathlib.Path(f"/proc/{probe.pid}/status").read_text().splitlines())
        rss = sum(int(status[key].split()[0]) * 1024 for key in ("RssAnon", "RssShmem"))
        threads = 0
        for task in pathlib.Path(f"/proc/{probe.pid}/task").iterdir():
            threads += not (task / "comm").read_text().startswith("iou-")  # io_uring's come and go
        return len(os.listdir(f"/proc/{probe.pid}/fd")), threads, len(probe.maps()), rss

    def test_nothing_is_left_of_it(self):
        """Fifty reboots, each with memory written and devices in use: descriptors, threads, mappings and memory are as before."""
        probe = self.probe(cpus=2, disk=f"path={self.image()}")
        self.reboot(probe)
        self.settled(probe)
        before = self.cost(probe)
        for i in range(REBOOTS):
            probe.ask("fill", cpus=2, seed=i, **{"from": 16 * MIB, "to": 24 * MIB})
            dev = probe.device(BLOCK)
            probe.blk(dev, "write", sector=8 * i, count=8, seed=i)
            self.reboot(probe, WAYS[i % 2])
        stats = self.settled(probe)
        self.assertEqual((stats["reboots"], stats["crashes"]), (REBOOTS + 1, 0))
        # Connections that were closed a moment ago are still going, here and in what was counted before.
        poll(lambda: all(now <= then for now, then in zip(self.cost(probe)[:3], before[:3])),
             lambda: f"descriptors, threads, mappings: {before}, after the reboots {self.cost(probe)}")
        self.assertLess(self.cost(probe)[3] - before[3], MIB)
        probe.power_off()
        log = probe.vm.log.text()
        self.assertLess(log.count("rebooted"), REBOOTS)  # a guest cannot fill the log
        self.assertIn("rebooted", log)

    def test_memory_and_devices_are_as_new(self):
        initrd = self.dir / "initrd"
        content = os.urandom(MIB)
        initrd.write_bytes(content)
        probe = self.probe(cpus=2, initrd=initrd, disk=f"path={self.image()}")
        start, length = (int(x, 0) for x in probe.ask("hello")["initrd"].split(":"))
        first = self.settled(probe)
        # A kernel that is not pristine could not greet any more.
        kernel = pathlib.Path(probe_kernel()).read_bytes()
        greeting = IMAGE_BASE + kernel.index(b"probe: ready") - PAGE
        self.assertTrue(initrd.exists())
        for name in os.listdir(self.cache):  # the cache may have been emptied since
            shutil.rmtree(path) if (path := self.cache / name).is_dir() else path.unlink()
        for how in WAYS:
            with self.subTest(how):
                dev, balloon = probe.device(BLOCK), probe.device(BALLOON)
                probe.blk(dev, "write", count=64, seed=5)
                probe.balloon(24)
                probe.ask("inflate", dev=balloon, **{"from": 40 * MIB, "to": 48 * MIB})
                probe.ask("fill", cpus=2, seed=7, **{"from": 16 * MIB, "to": 32 * MIB})
                probe.ask("store", at=greeting, hex="58585858")
                for page in range(start, start + length, PAGE):
                    if page // PAGE % 16 == 0:
                        probe.ask("store", at=page, hex="5a5a5a5a")
                self.assertNotEqual(probe.ask("crc", **{"from": start, "to": start + length})["crc"],
                                    zlib.crc32(content))
                self.reboot(probe, how)
                stats = self.settled(probe)
                self.assertEqual(stats["boot"], first["boot"])
                self.assertLess(stats["memory"]["private_bytes"], first["memory"]["private_bytes"] + MIB)
                zeros = probe.ask("crc", **{"from": 16 * MIB, "to": 32 * MIB})["crc"]
                self.assertEqual(zeros, zlib.crc32(bytes(16 * MIB)))
                self.assertEqual(probe.ask("crc", **{"from": start, "to": start + length})["crc"], zlib.crc32(content))
                # The balloon is empty, its target is kept; the disk has what was written.
                self.assertSub({"target_bytes": 24 * MIB, "actual_bytes": 0}, probe.device_stats("balloon"))
                probe.ask("target", dev=probe.device(BALLOON), pages=24 * MIB // PAGE)
                self.assertEqual(probe.ask("vstatus", dev=probe.device(BLOCK))["status"], 0)
                probe.blk(probe.device(BLOCK), "verify", count=64, seed=5)
        probe.power_off()

    @sardine_test.unittest.skipIf(os.geteuid(), "needs root to see frame numbers")
    def test_shared_from_birth_again(self):
        initrd = self.dir / "initrd"
        initrd.write_bytes(os.urandom(MIB))
        one, two = (self.probe(name, initrd=initrd) for name in ("one", "two"))
        start, length = (int(x, 0) for x in two.ask("hello")["initrd"].split(":"))

        def frames(probe):
            probe.ask("crc", **{"from": start, "to": start + length})
            return probe.frames(start // PAGE, length // PAGE)

        wanted = frames(two)
        self.assertNotIn(0, wanted)
        for page in range(0, length, PAGE):
            one.ask("store", at=start + page, hex="5a5a5a5a")
        self.assertNotEqual(frames(one)[3], wanted[3])
        self.reboot(one)
        self.assertEqual(frames(one), wanted)
        one.power_off()
        two.power_off()

    def test_reset_vector(self):
        """Linux without EFI resets by jumping there in real mode; the lab executes it."""
        probe = self.probe()
        for _ in range(2):
            self.assertEqual(self.sardine("dump", probe.name, self.dir / "raw", "--format", "raw").returncode, 0)
            with open(self.dir / "raw", "rb") as file:
                file.seek(0xffff0)
                self.assertEqual(file.read(7), bytes.fromhex("b0fee664f4ebfd"))
            self.reboot(probe)
        probe.power_off()

    def test_console_and_control_stay(self):
        """Clients stay connected; what they see goes on."""
        probe = self.probe(cpus=2)
        with probe.vm.control() as control:
            control.send({"id": 1, "cmd": "wait"})
            self.reboot(probe)
            answer = control.ask({"id": 2, "cmd": "ping"})
            self.assertSub({"id": 2, "ok": True}, answer)
            probe.send("poweroff")
            self.assertEqual(control.read()["result"], {"end": "power-off", "detail": ""})
        self.assertEqual(probe.vm.wait(), 0)
        self.assertEqual(probe.vm.console.text().count("probe: ready"), 2)

    def test_a_stop_holds_over_it(self):
        """A guest that resets when its button is pressed is asked again; one that goes on resetting is killed in time."""
        probe = self.probe(cpus=2)
        probe.send("button", timeout_ms=20000)
        stop = self.background("stop", probe.name, "--timeout", "60")
        probe.vm.console.expect(" events=0x1")
        self.reboot(probe)
        probe.send("button", off=1, timeout_ms=20000)
        self.assertEqual((stop.wait(30), probe.vm.wait()), (0, 0))

        probe = self.probe("deaf", cpus=2)
        stop = self.background("stop", probe.name, "--timeout", "2")
        begun = time.monotonic()
        try:
            while time.monotonic() - begun < 30:
                self.reboot(probe)
        except (AssertionError, OSError):
            pass
        self.assertEqual((stop.wait(30), probe.vm.wait()), (1, 1))
        self.assertIn("ended: killed", probe.vm.log.text())

    def test_a_press_during_the_reset_is_not_lost(self):
        probe = self.probe(cpus=2)
        probe.control(cmd="power-button")
        self.reboot(probe)
        probe.send("button", off=1, timeout_ms=20000)
        self.assertEqual(probe.vm.wait(), 0)

    def test_from_any_vcpu_while_others_work(self):
        probe = self.probe(mem="250M", cpus=4)
        for how in WAYS * 3:
            probe.send("fill", cpus=4, **{"from": 64 * MIB, "to": 96 * MIB})
            self.reboot(probe, how)
            self.assertEqual(probe.ask("crc", **{"from": 64 * MIB, "to": 96 * MIB})["crc"], zlib.crc32(bytes(32 * MIB)))
        probe.power_off()


class Storm(RebootTest):
    """A guest that resets all the time, against whoever wants something of the VM meanwhile."""

    def test_dumps_and_stats(self):
        probe = self.probe(cpus=2, disk=f"path={self.image()}")
        stop, problems = threading.Event(), []

        def bother(path):
            while not stop.is_set():
                for args in (("dump", probe.name, path, "--format", "raw"), ("stats", probe.name, "--json")):
                    done = self.sardine(*args)
                    if done.returncode:
                        problems.append(done.stderr)

        threads = [threading.Thread(target=bother, args=(self.dir / f"dump{i}",)) for i in range(2)]
        for thread in threads:
            thread.start()
        for i in range(60 if FULL else 20):
            dev = probe.device(BLOCK)
            probe.blk(dev, "write", count=128, seed=i)
            self.reboot(probe, WAYS[i % 2])
        stop.set()
        for thread in threads:
            thread.join()
        self.assertEqual([p for p in problems if "already" not in p], [])
        self.assertEqual(probe.blk(probe.device(BLOCK), "verify", count=128, seed=i).get("bad", 0), 0)
        image = (self.dir / "disk.img").read_bytes()
        self.assertEqual(image[:128 * 512], pattern_sectors(i, 0, 128))
        probe.power_off()

    def test_kill_at_any_moment(self):
        for i in range(12):
            probe = self.probe(f"k{i}", cpus=2)
            probe.send("reset", how=WAYS[i % 2])
            time.sleep(i * 0.008)  # another moment of the reset each time
            self.assertEqual(self.sardine("kill", probe.name).returncode, 0)
            self.assertEqual(probe.vm.wait(5), 1)
            self.assertIn("ended: killed", probe.vm.log.text())


class Crash(RebootTest):
    def test_exit_is_the_default(self):
        probe = self.probe(cpus=2)
        probe.send("reset", how="triple")
        self.assertEqual(probe.vm.wait(), 1)
        log = probe.vm.log.text()
        self.assertRegex(log, r"vcpu 0:.* rip 0x[0-9a-f]+ ")
        self.assertIn("vcpu 1: ", log)
        self.assertRegex(log, r"ended: crash: .*triple fault")

    def test_restart_waits_longer_and_longer(self):
        probe = self.probe(cpus=2, on_crash="restart")
        waits = []
        for _ in range(4):
            probe.ask("fill", cpus=2, seed=3, **{"from": 16 * MIB, "to": 17 * MIB})
            begun = time.monotonic()
            probe.send("reset", how="triple")
            probe.ready()
            waits.append(time.monotonic() - begun)
            self.assertEqual(probe.ask("crc", **{"from": 16 * MIB, "to": 17 * MIB})["crc"], zlib.crc32(bytes(MIB)))
        for i, wait in enumerate(waits):
            self.assertGreaterEqual(wait, 0.1 * 2**i)
        stats = self.settled(probe)
        self.assertEqual((stats["reboots"], stats["crashes"]), (4, 4))
        log = probe.vm.log.text()
        self.assertEqual(log.count("triple fault"), 4)
        self.assertEqual(log.count("vcpu 1: "), 4)
        probe.power_off()

    def test_guest_panic(self):
        """By the port that ACPI announces (pvpanic)."""
        probe = self.probe(cpus=2, on_crash="restart")
        self.assertEqual(probe.ask("in", port=0x505)["value"], 7)
        probe.send("out", port=0x505, value=2)  # it looks after itself: nothing follows but a line
        probe.vm.log.expect("the guest panicked, and writes a dump of its own")
        probe.send("out", port=0x505, value=1)
        probe.ready()
        probe.vm.log.expect("the guest crashed: guest panic: booting it again")
        probe.send("out", port=0x505, value=4)
        self.assertEqual(probe.vm.wait(), 0)
        probe = self.probe("exits", cpus=2)
        waiter = subprocess.Popen(self.command("wait", probe.name, "--json"), env=self.env, stdout=subprocess.PIPE)
        poll(lambda: waiter.poll() is None and probe.stats(), "somebody waits")
        probe.send("out", port=0x505, value=1)
        self.assertEqual(probe.vm.wait(), 1)
        self.assertIn("ended: crash: guest panic", probe.vm.log.text())
        waiter.communicate(timeout=10)
        self.assertEqual(waiter.returncode, 1)

    def test_panics_do_not_fill_the_log(self):
        probe = self.probe(cpus=2)
        for _ in range(200):
            probe.ask("out", port=0x505, value=2)
        probe.power_off()
        self.assertIn(probe.vm.log.text().count("dump of its own"), range(1, 12))

    def test_stop_of_one_that_waits(self):
        """There is nobody to press a button for; the VM ends as it crashed."""
        probe = self.probe(cpus=2, on_crash="restart")
        for i in range(5):
            probe.send("reset", how="triple")
            if i < 4:
                probe.ready()
        poll(lambda: probe.stats()["state"] == "restarting", "the VM waits")
        begun = time.monotonic()
        done = self.sardine("stop", probe.name)
        self.assertEqual((done.returncode, probe.vm.wait()), (1, 1))
        self.assertIn("crash", done.stderr)
        self.assertLess(time.monotonic() - begun, 10)
        self.assertIn("ended: crash: ", probe.vm.log.text())


if __name__ == "__main__":
    sardine_test.main()
