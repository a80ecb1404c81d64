#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The life of `sardine run`: how it starts, in the background too, how signals end it, what it says and what it leaves."""
import contextlib
import json
import os
import pathlib
import re
import resource
import signal
import subprocess
import time
import unittest

import sardine_test
from sardine_test import SardineTest, no_kvm_reason, poll

MIB = 1 << 20
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z sardine \S+: ")


class RunTest(SardineTest):
    def setUp(self):
        reason = no_kvm_reason()
        if reason:
            self.skipTest(reason)
        super().setUp()

    def probe(self, *args, name="vm"):
        """A VM whose probe guest takes commands."""
        vm = self.start(name, "--mem", "64M", *args)
        vm.wait_running()
        vm.console.expect("probe: ready\n", 20)
        return vm

    def obey(self, vm):
        """Make the guest wait for its power button, and switch off then."""
        vm.send("@1 button off=1 timeout_ms=60000\n")
        # The guest polls for the button from the moment it took the command; the button stays pressed until it looks.

    def assertEnded(self, vm, code, how):
        self.assertEqual(vm.wait(), code, vm.log.text())
        vm.log.close()
        last = vm.log.text().splitlines()[-1]
        self.assertRegex(last, rf"^sardine vm: (error: )?ended: {how}\b")

    def detach(self, *args, name="vm"):
        """The pid of a VM in the background."""
        done = self.sardine("run", "--name", name, "--kernel", sardine_test.probe_kernel(), "--mem", "64M",
                            "--cache-dir", self.cache, "--detach", *args)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        match = re.fullmatch(rf"{name}: running, pid (\d+)\n", done.stdout)
        self.assertTrue(match, done.stdout)
        return int(match[1])

    def end(self, pid):
        """Kill a VM in the background by two signals, and wait for it."""
        os.kill(pid, signal.SIGTERM)
        self.second(pid)
        poll(lambda: pid not in self.processes(), f"process {pid} ends")

    def second(self, pid):
        """The second signal, again and again: one that comes within 100 ms of the first counts as the same request."""
        def kill():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            return pid not in self.processes()

        poll(kill, f"process {pid} ends on a second signal", 5)


class Ends(RunTest):
    def test_power_off_by_the_guest(self):
        vm = self.probe()
        vm.send("@1 poweroff\n")
        self.assertEnded(vm, 0, "power-off")

    def test_signals_press_the_button(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # of files to reopen there are none here
            with self.subTest(number):
                vm = self.probe()
                self.obey(vm)
                vm.signal(number)
                self.assertEnded(vm, 0, "power-off")
                self.assertIn(f"signal {int(number)} ", vm.log.text())

    def test_deaf_guest_is_killed_after_the_timeout(self):
        vm = self.probe("--stop-timeout", "1")
        begun = time.monotonic()
        vm.signal(signal.SIGTERM)
        self.assertEnded(vm, 1, "killed")
        self.assertGreaterEqual(time.monotonic() - begun, 0.99)

    def test_timeout_of_zero_kills_at_once(self):
        vm = self.probe("--stop-timeout", "0")
        vm.signal(signal.SIGTERM)
        self.assertEnded(vm, 1, "killed")

    def test_second_signal_kills(self):
        vm = self.probe("--stop-timeout", "600")
        vm.signal(signal.SIGTERM)
        vm.log.expect("a second one kills it")
        self.second(vm.pid)
        self.assertEnded(vm, 1, "killed")

    def test_a_burst_is_one_request(self):
        vm = self.probe("--stop-timeout", "600")
        self.obey(vm)
        for _ in range(3):
            vm.signal(signal.SIGTERM)
            vm.signal(signal.SIGINT)
        self.assertEnded(vm, 0, "power-off")

    def test_reset_by_the_guest(self):
        for how in ("i8042", "acpi"):
            with self.subTest(how):
                vm = self.probe("--on-reboot", "exit")
                vm.send(f"@1 reset how={how}\n")
                self.assertEnded(vm, 1, "reset")

    def test_triple_fault(self):
        vm = self.probe()
        vm.send("@1 reset how=triple\n")
        self.assertEnded(vm, 1, "crash")
        self.assertRegex(vm.log.text(), r"vcpu 0:.* rip 0x[0-9a-f]+ .* cr3 (0x[0-9a-f]+|0 )")  # AMD: KVM has reset them

    def test_reader_of_the_console_goes_away(self):
        vm = self.probe()
        vm.process.stdout.close()
        vm.send("@1 flood bytes=20000\n@2 button off=1 timeout_ms=60000\n")
        vm.signal(signal.SIGTERM)
        self.assertEnded(vm, 0, "power-off")


class Names(RunTest):
    def test_a_killed_vms_name_is_free(self):
        # Confined, a process beside the VM removes its files (vm-confine); without one they are left to the next VM.
        vm = self.probe("--sandbox", "off", "--seccomp", "off")
        vm.process.kill()
        vm.wait()
        self.assertTrue(vm.socket_path.exists())
        vm = self.probe()
        vm.send("@1 poweroff\n")
        self.assertEnded(vm, 0, "power-off")
        self.assertFalse(vm.socket_path.exists())

    def test_a_running_vms_name_is_not(self):
        vm = self.probe()
        done = self.sardine("run", "--name", "vm", "--kernel", sardine_test.probe_kernel(), "--console", "none")
        self.assertOneLine(done, 1, "--name vm", "in use", vm.pid)
        vm.send("@1 poweroff\n")
        self.assertEnded(vm, 0, "power-off")

    def test_of_many_at_once_one_wins(self):
        vms = [self.start("vm", "--mem", "64M") for _ in range(6)]
        winners = []
        for vm in vms:
            poll(lambda vm=vm: "running: pid" in vm.log.text() or vm.process.poll() is not None, "it runs or ends", 20)
            if vm.process.poll() is None:
                winners.append(vm)
            else:
                self.assertEqual(vm.wait(), 1)
                self.assertIn("in use", vm.log.text())
        self.assertEqual(len(winners), 1)
        winners[0].console.expect("probe: ready\n", 20)
        winners[0].send("@1 poweroff\n")
        self.assertEnded(winners[0], 0, "power-off")


class Detached(RunTest):
    def test_it_lives_on_by_itself(self):
        pid = self.detach("--stop-timeout", "600")
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        self.assertEqual(int(fields[3]), pid, "a session of its own")
        # Its root, which is an empty folder of its own when it is confined: no folder of the starter's is held.
        self.assertTrue(os.path.samestat(os.stat(f"/proc/{pid}/cwd"), os.stat(f"/proc/{pid}/root")))
        for fd in range(3):
            self.assertEqual(os.readlink(f"/proc/{pid}/fd/{fd}"), "/dev/null")
        self.end(pid)
        lines = (self.rundir / "vm.log").read_text().splitlines()
        for line in lines:
            self.assertRegex(line, LOG_LINE)
        self.assertIn(f"running: pid {pid}", lines[0])
        self.assertIn("ended: killed", lines[-1])
        self.assertEqual((self.rundir / "vm.log").stat().st_mode & 0o777, 0o600)

    def test_json(self):
        done = self.sardine("run", "--name", "vm", "--kernel", sardine_test.probe_kernel(), "--mem", "64M",
                            "--cache-dir", self.cache, "--detach", "--json")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        answer = json.loads(done.stdout)
        self.assertEqual((answer["name"], answer["state"]), ("vm", "running"))
        self.end(answer["pid"])

    def test_closed_standard_descriptors_stay_nobodys(self):
        """Nothing that the VM opens takes their place: the guest's output and the log must not land in its files."""
        shell = 'exec "$0" "$@" <&- >&- 2>&-'
        vm = subprocess.Popen(["sh", "-c", shell, *self.command(
            "run", "--name", "vm", "--kernel", sardine_test.probe_kernel(), "--mem", "64M", "--cache-dir", self.cache)],
            env=self.env, cwd=self.dir)
        try:
            poll(lambda: f" {vm.pid} running" in self.sardine("ps").stdout, "it runs, and its lock says who", 20)
            self.assertEqual({os.readlink(f"/proc/{vm.pid}/fd/{fd}") for fd in range(3)}, {"/dev/null"})
        finally:
            self.sardine("kill", "vm")
            vm.wait(10)

    def test_log_file(self):
        self.end(self.detach("--log-file", "log"))
        self.assertIn("ended: killed", (self.dir / "log").read_text())
        self.assertFalse((self.rundir / "vm.log").exists())

    def test_what_went_wrong_is_in_the_log_too(self):
        (self.dir / "empty").touch()
        done = self.sardine("run", "--name", "vm", "--kernel", "empty", "--detach")
        self.assertOneLine(done, 1, "--kernel", "empty")
        self.assertIn(done.stderr.removeprefix("sardine run: ").strip(), (self.rundir / "vm.log").read_text())

    def test_output_does_not_hold_the_starters_pipes(self):
        """Whoever reads the command's output to its end is not kept waiting by the VM."""
        begun = time.monotonic()
        pid = self.detach()
        self.assertLess(time.monotonic() - begun, 20)
        self.end(pid)

    def test_with_the_starter_gone_it_ends(self):
        starter = subprocess.Popen(self.command(*self.slow(), "--detach"), env=self.env, cwd=self.dir,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(starter.communicate)
        self.starting()
        starter.kill()
        starter.wait()
        poll(lambda: not self.processes(), "the VM ends without its starter", 30)
        self.assertIn("is gone", (self.rundir / "vm.log").read_text())

    def slow(self):
        """Arguments of a start that takes a moment, because a large file is read."""
        with open(self.dir / "initrd", "wb") as f:
            f.truncate(400 * MIB)
        return ("run", "--name", "vm", "--kernel", sardine_test.probe_kernel(), "--mem", "1G", "--console", "none",
                "--cache-dir", self.cache, "--initrd", "initrd")

    def starting(self):
        """Wait until it reads files; sooner, its signals are not blocked yet."""
        poll(lambda: list(self.cache.iterdir()), "the cache is used", 10)

    def test_a_signal_before_the_start(self):
        process = subprocess.Popen(self.command(*self.slow()), env=self.env, cwd=self.dir, stderr=subprocess.PIPE,
                                   text=True)
        self.starting()
        process.terminate()
        _, stderr = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 1, stderr)
        self.assertEqual(stderr, "sardine run: stopped by a signal before the guest was started\n")


class Settings(RunTest):
    def test_configuration_file(self):
        printed = self.sardine("run", "--dry-run", "--name", "vm", "--kernel", sardine_test.probe_kernel(), "--mem",
                               "64M", "--cpus", "2", "--cache-dir", self.cache, "--cmdline", "from the file")
        (self.dir / "vm.json").write_text(printed.stdout)
        vm = sardine_test.Vm(self, "vm", ["--config", "vm.json"], self.env)
        self.vms.append(vm)
        vm.console.expect("probe: ready\n", 20)
        vm.send("@1 cmdline\n@2 hello\n")
        vm.console.expect("@1 ok text=from the file\n")
        vm.console.expect("cpus=2")
        vm.send("@3 poweroff\n")
        self.assertEnded(vm, 0, "power-off")

    def test_log_file_that_is_a_pipe(self):
        """Its reader gets the lines; when that stops reading, the VM goes on."""
        path = self.dir / "fifo"
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        vm = self.start("vm", "--mem", "64M", "--log-file", path)
        vm.console.expect("probe: ready\n", 20)
        self.assertIn(b"running: pid", os.read(reader, 4096))
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(4096))
        os.close(writer)
        vm.send("@1 poweroff\n")
        self.assertEqual(vm.wait(), 0)
        os.close(reader)

    def test_log_file_and_level(self):
        vm = self.start("vm", "--mem", "64M", "--log-file", "log")
        vm.console.expect("probe: ready\n", 20)
        vm.send("@1 poweroff\n")
        self.assertEqual(vm.wait(), 0)
        lines = (self.dir / "log").read_text().splitlines()
        self.assertRegex(lines[0], LOG_LINE.pattern + r"running: pid \d+$")
        self.assertRegex(lines[-1], LOG_LINE.pattern + "ended: power-off$")
        vm.log.close()
        self.assertEqual(vm.log.text(), "")

        vm = self.start("vm", "--mem", "64M", "--log-level", "error")
        vm.console.expect("probe: ready\n", 20)
        vm.send("@1 poweroff\n")
        self.assertEqual(vm.wait(), 0)
        vm.log.close()
        self.assertEqual(vm.log.text(), "")

    def test_core_files_exclude_guest_ram(self):
        """The kernel's mark for it ("dd") is on all of guest RAM, what is mapped from the cache included."""
        vm = self.probe()
        covered, flags = 0, None
        for line in reversed(pathlib.Path(f"/proc/{vm.pid}/smaps").read_text().splitlines()):
            first = line.split(maxsplit=1)[0]
            if first == "VmFlags:":
                flags = line.split()[1:]
            elif first[-1] != ":":
                start, end = (int(x, 16) for x in first.split("-"))
                if "dd" not in flags:
                    self.assertNotIn(str(self.cache), line)
                elif "anon_inode" not in line:
                    covered += end - start
        self.assertGreaterEqual(covered, 64 * MIB)
        vm.send("@1 poweroff\n")
        self.assertEnded(vm, 0, "power-off")

    @unittest.skipIf(os.geteuid(), "needs root to make a control group")
    def test_cgroup(self):
        """Joined before memory is used, so that the guest's is charged to it."""
        done = json.loads(self.sardine("check", "--json").stdout)["cgroup"]
        if not done["memory"]:
            self.skipTest("no control groups that account memory")
        group = pathlib.Path(done["mount"]) / f"sardine-test-{os.getpid()}"
        group.mkdir()
        self.addCleanup(self.remove_group, group)
        vm = self.probe("--cgroup", group)
        self.assertEqual(int((group / "cgroup.procs").read_text()), vm.pid)
        usage = group / ("memory.usage_in_bytes" if done["version"] == 1 else "memory.current")
        vm.send("@1 fill\n")
        vm.console.expect("\n@1 ok", 30)
        self.assertGreater(int(usage.read_text()), 40 * MIB)
        vm.send("@2 poweroff\n")
        self.assertEnded(vm, 0, "power-off")

    @staticmethod
    def remove_group(group):
        def gone():
            with contextlib.suppress(OSError):
                group.rmdir()
            return not group.exists()

        poll(gone, f"{group} is removed")

    def test_few_descriptors_are_enough(self):
        """A start that runs out of descriptors says so in one line and leaves nothing."""
        for limit in (4, 8, 12, 16, 20):
            with self.subTest(limit):
                done = self.sardine("run", "--name", "vm", "--kernel", sardine_test.probe_kernel(), "--mem", "64M",
                                    "--console", "none", "--cache-dir", self.cache,
                                    preexec_fn=lambda n=limit: resource.setrlimit(resource.RLIMIT_NOFILE, (n, n)))
                self.assertOneLine(done, 1)


if __name__ == "__main__":
    sardine_test.main()
