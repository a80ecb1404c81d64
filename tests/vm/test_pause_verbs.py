#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`sardine pause` and `sardine resume`: the guest stands still, costs nothing, and goes on; what may be done meanwhile."""
import json
import os
import signal
import time

import sardine_test
from probe import BALLOON, BLOCK, MIB, ProbeTest
from sardine_test import poll


class Pause(ProbeTest):
    def state(self, probe):
        return probe.stats()["state"]

    def verb(self, verb, probe, said):
        done = self.sardine(verb, probe.name)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, f"{probe.name}: {said}\n", ""))

    def cpu(self, probe):
        """Clock ticks that the process has used."""
        with open(f"/proc/{probe.pid}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(") ", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    def test_the_guest_stands_still(self):
        probe = self.probe(cpus=2, disk=f"path={self.image()}")
        for _ in range(3):
            ident = probe.send("spin", us=300000)
            self.verb("pause", probe, "paused")
            self.verb("pause", probe, "paused")  # several are one
            self.assertEqual(self.state(probe), "paused")
            before, text = self.cpu(probe), probe.vm.console.text()
            time.sleep(0.5)  # no condition: nothing is to happen
            self.assertLessEqual(self.cpu(probe) - before, 2)
            self.assertEqual(probe.vm.console.text(), text)
            self.assertFalse(json.loads(self.sardine("ps", "--json").stdout)["vms"][0]["state"] != "paused")
            self.verb("resume", probe, "running")
            self.verb("resume", probe, "running")
            self.assertEqual(self.state(probe), "running")
            probe.answer(ident)
        done = self.sardine("pause", probe.name, "--json")
        self.assertEqual(json.loads(done.stdout), {"name": probe.name, "state": "paused"})
        done = self.sardine("resume", probe.name, "--json")
        self.assertEqual(json.loads(done.stdout), {"name": probe.name, "state": "running"})
        probe.power_off()

    def test_under_load(self):
        """vCPUs that write, a disk that works: what was begun is finished, nothing is lost."""
        probe = self.probe(mem="250M", cpus=4, disk=f"path={self.image(bytes_=16 * MIB)}")
        dev = probe.device(BLOCK)
        for i in range(6):
            ident = (probe.send("fill", cpus=4, seed=i, **{"from": 64 * MIB, "to": 192 * MIB}) if i % 2 else
                     probe.send("blk", dev=dev, op="write", count=32768, seed=i))
            self.verb("pause", probe, "paused")
            if not i % 2:
                self.assertEqual(probe.device_stats("block")["in_flight"], 0)
            self.verb("resume", probe, "running")
            probe.answer(ident)
        self.assertEqual(probe.ask("check", cpus=4, seed=5, **{"from": 64 * MIB, "to": 192 * MIB})["bad"], 0)
        probe.blk(dev, "verify", count=32768, seed=4)
        probe.power_off()

    def test_dump_and_balloon_meanwhile(self):
        probe = self.probe(cpus=2)
        probe.ask("fill", cpus=2, seed=1, **{"from": 16 * MIB, "to": 24 * MIB})
        self.verb("pause", probe, "paused")
        for form in ("raw", "elf"):
            self.assertEqual(self.sardine("dump", probe.name, self.dir / form, "--format", form).returncode, 0)
            self.assertEqual(self.state(probe), "paused")
        probe.balloon(8)
        self.verb("resume", probe, "running")
        probe.ask("target", dev=probe.device(BALLOON), pages=8 * MIB // 4096)
        self.assertEqual(probe.ask("check", cpus=2, seed=1, **{"from": 16 * MIB, "to": 24 * MIB})["bad"], 0)
        probe.power_off()

    def test_stop_resumes_it(self):
        for how in ("stop", "signal"):
            with self.subTest(how):
                probe = self.probe(how, cpus=2)
                probe.send("button", off=1, timeout_ms=60000)
                self.verb("pause", probe, "paused")
                if how == "stop":
                    self.assertEqual(self.sardine("stop", probe.name).returncode, 0)
                else:
                    os.kill(probe.pid, signal.SIGTERM)
                self.assertEqual(probe.vm.wait(), 0)

    def test_kill_does_not_wait(self):
        probe = self.probe(cpus=2)
        self.verb("pause", probe, "paused")
        self.assertEqual(self.sardine("kill", probe.name).returncode, 0)
        self.assertEqual(probe.vm.wait(5), 1)

    def test_a_power_button_waits_for_the_guest(self):
        probe = self.probe(cpus=2)
        probe.send("button", off=1, timeout_ms=60000)
        self.verb("pause", probe, "paused")
        self.assertTrue(probe.control(cmd="power-button")["ok"])
        self.assertEqual(self.state(probe), "paused")
        self.verb("resume", probe, "running")
        self.assertEqual(probe.vm.wait(), 0)

    def test_a_guest_that_resets_and_is_paused(self):
        """Paused at any moment of its reset, it boots at the latest when it is resumed."""
        probe = self.probe(cpus=2)
        for i in range(8):
            probe.send("reset", how="acpi")
            time.sleep(i * 0.01)  # another moment each time
            self.verb("pause", probe, "paused")
            self.assertEqual(self.state(probe), "paused")
            self.verb("resume", probe, "running")
            probe.ready()
            poll(lambda n=i + 1: probe.stats()["reboots"] == n, "it is counted")
        probe.power_off()


if __name__ == "__main__":
    sardine_test.main()
