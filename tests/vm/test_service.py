#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A VM under a service manager: it is told how the VM fares, files are rotated by SIGHUP, terminals hang up."""
import fcntl
import os
import pty
import select
import signal
import socket
import subprocess
import termios

import sardine_test
from probe import Probe, ProbeTest
from sardine_test import poll, probe_kernel


class Manager:
    """The service manager's end."""

    def __init__(self, test, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        test.addCleanup(self.socket.close)
        self.socket.bind(address.replace("@", "\0", 1))
        self.socket.settimeout(20)

    def told(self):
        return self.socket.recv(4096).decode().splitlines()


class Notify(ProbeTest):
    def told(self, address, *args):
        manager = Manager(self, address)
        env = dict(self.env, NOTIFY_SOCKET=address)
        vm = self.start("web", "--mem", "64M", *args, env=env)
        return Probe(self, vm, 64 << 20).ready(), manager

    def test_both_kinds_of_addresses(self):
        for address in (str(self.dir / "notify"), f"@sardine-test-{os.getpid()}"):
            with self.subTest(address):
                probe, manager = self.told(address)
                self.assertEqual(manager.told(), ["READY=1", f"MAINPID={probe.pid}", "STATUS=running"])
                probe.send("reset", how="acpi")
                probe.ready()
                self.assertEqual(manager.told(), ["STATUS=running, rebooted"])
                probe.send("button", off=1, timeout_ms=60000)
                probe.vm.signal(signal.SIGTERM)
                self.assertEqual(manager.told(), ["STOPPING=1", "STATUS=stopping", "EXTEND_TIMEOUT_USEC=45000000"])
                self.assertEqual(manager.told(), ["STOPPING=1", "STATUS=ended: power-off"])
                self.assertEqual(probe.vm.wait(), 0)

    def test_crash(self):
        probe, manager = self.told(str(self.dir / "notify"))
        manager.told()
        probe.send("reset", how="triple")
        self.assertRegex(manager.told()[1], "^STATUS=ended: crash: .*triple fault")
        self.assertEqual(probe.vm.wait(), 1)

    def test_detached(self):
        """The VM tells, with its own pid, before its starter is done."""
        manager = Manager(self, str(self.dir / "notify"))
        done = self.sardine("run", "--name", "d", "--kernel", probe_kernel(), "--mem", "64M", "--cache-dir", self.cache,
                            "--detach", env=dict(self.env, NOTIFY_SOCKET=str(self.dir / "notify")))
        self.assertEqual(done.returncode, 0, done.stderr)
        manager.socket.settimeout(0.001)
        told = manager.told()
        self.assertEqual(told[0], "READY=1")
        self.assertIn(told[1].replace("MAINPID=", "pid "), done.stdout)
        self.assertEqual(self.sardine("kill", "d").returncode, 0)

    def test_nobody_who_can_be_told(self):
        """A VM runs all the same, and says so once."""
        for address in ("vsock:2:1234", "relative", str(self.dir / "nobody"), "/" + "x" * 120):
            with self.subTest(address):
                vm = self.start("web", "--mem", "64M", env=dict(self.env, NOTIFY_SOCKET=address))
                Probe(self, vm, 64 << 20).ready().power_off()
                self.assertEqual(vm.log.text().count("NOTIFY_SOCKET="), 1)


    def test_reload_without_files(self):
        """SIGHUP is `systemctl reload` there: a VM that logs to the journal goes on."""
        probe, manager = self.told(str(self.dir / "notify"))
        manager.told()
        probe.vm.signal(signal.SIGHUP)
        probe.vm.log.expect("no file to open anew")
        probe.power_off()
        self.assertEqual(manager.told(), ["STOPPING=1", "STATUS=ended: power-off"])


class HangUp(ProbeTest):
    def test_files_are_opened_anew(self):
        console, log = self.dir / "console", self.dir / "log"
        vm = self.start("web", "--mem", "64M", "--console", f"file:{console}", "--log-file", log)
        poll(lambda: console.exists() and "probe: ready" in console.read_text(), "the guest runs", 30)
        for path in (console, log):
            path.rename(f"{path}.1")
        vm.signal(signal.SIGHUP)
        poll(lambda: console.exists() and log.exists() and "console's file reopened" in log.read_text(), "new files")
        self.assertIn("the log reopened", log.read_text())
        self.assertEqual(log.stat().st_mode & 0o777, 0o600)
        with vm.control() as control:
            control.ask({"id": 1, "cmd": "console"})
            control.socket.sendall(b"@1 hello\n")
            poll(lambda: "@1 ok" in console.read_text(), "output to the new file")
            self.assertNotIn("@1 ok", (self.dir / "console.1").read_text())
            control.socket.sendall(b"@2 poweroff\n")
            self.assertEqual(vm.wait(), 0)
        self.assertIn("ended: power-off", log.read_text())

    def test_what_others_put_there(self):
        log = self.dir / "log"
        vm = self.start("web", "--mem", "64M", "--log-file", log)
        probe = Probe(self, vm, 64 << 20).ready()
        log.rename(f"{log}.1")
        (self.dir / "victim").write_text("")
        log.symlink_to("victim")
        vm.signal(signal.SIGHUP)
        poll(lambda: "cannot reopen the log" in (self.dir / "log.1").read_text(), "the line in the old file")
        probe.power_off()
        self.assertIn("ended: power-off", (self.dir / "log.1").read_text())
        self.assertEqual((self.dir / "victim").read_text(), "")

    def test_detached(self):
        done = self.sardine("run", "--name", "d", "--kernel", probe_kernel(), "--mem", "64M", "--cache-dir", self.cache,
                            "--detach", "--json")
        pid = int(done.stdout.split('"pid": ')[1].split("\n")[0].rstrip("},"))
        log = self.rundir / "d.log"
        log.rename(f"{log}.1.log")
        os.kill(pid, signal.SIGHUP)
        poll(lambda: log.exists() and "reopened" in log.read_text(), "a new log")
        self.assertEqual(self.sardine("kill", "d").returncode, 0)
        poll(lambda: "ended: killed" in log.read_text(), "its last line")

    def test_without_files_it_stops(self):
        vm = self.start("web", "--mem", "64M")
        probe = Probe(self, vm, 64 << 20).ready()
        probe.send("button", off=1, timeout_ms=60000)
        vm.signal(signal.SIGHUP)
        self.assertEqual(vm.wait(), 0)

    def on_terminal(self, preexec=None, controlling=False):
        """A VM whose console is a terminal of its own, as in a window, and our end: closing it is closing the window."""
        master, slave = pty.openpty()
        log = self.dir / "log"

        def prepare():
            if preexec:
                preexec()
            if controlling:
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        vm = subprocess.Popen(self.command("run", "--name", "t", "--kernel", probe_kernel(), "--mem", "64M", "--cache-dir",
                                           self.cache, "--stop-timeout", "1", "--log-file", log),
                              stdin=slave, stdout=slave, stderr=subprocess.DEVNULL, env=self.env, cwd=self.dir,
                              start_new_session=True, preexec_fn=prepare)
        self.addCleanup(vm.wait)
        self.addCleanup(vm.kill)
        os.close(slave)
        text = b""
        while b"probe: ready" not in text:
            self.assertTrue(select.select([master], [], [], 30)[0], text)
            text += os.read(master, 4096)
        return vm, master, log

    def test_a_window_that_is_closed_stops_it(self):
        """Although there is a file that could be reopened: told by the kernel, or by a shell that passes it on."""
        for by in ("kernel", "shell"):
            with self.subTest(by):
                vm, master, log = self.on_terminal(controlling=by == "kernel")
                os.kill(vm.pid, signal.SIGHUP)  # the window is still there: this is for the log
                poll(lambda: "reopened" in log.read_text(), "the log is opened anew")
                os.close(master)
                if by == "shell":
                    os.kill(vm.pid, signal.SIGHUP)
                self.assertEqual(vm.wait(20), 1)
                self.assertIn("ended: killed", log.read_text())
                log.unlink()

    def test_nohup_keeps_it(self):
        vm, master, log = self.on_terminal(lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN), controlling=True)
        os.close(master)
        os.kill(vm.pid, signal.SIGHUP)
        poll(lambda: "reopened" in log.read_text(), "the log is opened anew")
        self.assertEqual(self.sardine("kill", "t").returncode, 0)


if __name__ == "__main__":
    sardine_test.main()
