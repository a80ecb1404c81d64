#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Confinement: what a VM's process has given up while its guest works, and that a call which is not listed kills."""
import ctypes
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import unittest
import unittest.mock

import sardine_test
from probe import BALLOON, BLOCK, MIB, RNG, ProbeTest

CALL = os.environ.get("SARDINE_CONFINE_CALL", "")
# call -> the kinds of threads that may make it
CALLS = {"openat": (), "execve": (), "ptrace": (), "inet": (), "fork": (), "exec-memory": (), "io_uring_setup": (), "unlink": (),
         "create-vm": ("loop",), "run": ("loop", "vcpu"), "accept4": ("loop",), "pwrite": ("loop", "worker"),
         "write": ("loop", "vcpu", "worker"), "signal-itself": ("loop", "vcpu", "worker"), "signal-other": (),
         "end-itself": ("loop",), "end-other": (), "unix": (), "datagrams": (), "connect": (), "append": ()}
# the same under the filters of a VM that has something
WITH_VSOCK = {"unix": ("loop",), "connect": ("loop",), "datagrams": (), "inet": (), "append": ()}
WITH_FILE = {"append": ("loop",), "openat": (), "unix": ()}


NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
LIBC = ctypes.CDLL(None, use_errno=True)


def become_nobody():
    """For `preexec`: another user, who may use KVM."""
    CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000
    if (LIBC.unshare(CLONE_NEWNS) or LIBC.mount(None, b"/", None, MS_REC | MS_PRIVATE, None)
            or LIBC.mount(b"none", b"/dev", b"tmpfs", 0, b"mode=755")):
        raise OSError(ctypes.get_errno(), "a mount namespace")
    os.mknod("/dev/kvm", stat.S_IFCHR, os.makedev(10, 232))
    os.chmod("/dev/kvm", 0o666)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def has_landlock():
    CREATE_RULESET, VERSION = 444, 1
    return LIBC.syscall(CREATE_RULESET, None, 0, VERSION) >= 1


def status(path):
    return dict(line.split(":", 1) for line in pathlib.Path(path).read_text().splitlines() if ":" in line)


class Filters(unittest.TestCase):
    def test_each_kind(self):
        for calls, has in ((CALLS, ()), (WITH_VSOCK, ("vsock",)), (WITH_FILE, ("reopen",))):
            for call, allowed in calls.items():
                for kind in ("loop", "vcpu", "worker"):
                    with self.subTest(call=call, kind=kind, has=has):
                        done = subprocess.run([CALL, kind, call, *has], check=False)
                        self.assertEqual(done.returncode, 0 if kind in allowed else -signal.SIGSYS)


class Confined(ProbeTest):
    def confined(self, **options):
        return self.probe("vm", cpus=2, sandbox="on", seccomp="on", **options)

    def work(self, probe, wrap=()):
        """Every device, and every verb that makes a thread."""
        probe.ask("fill", cpus=2, seed=3, **{"from": 16 * MIB, "to": 24 * MIB})
        dev = probe.device(BLOCK)
        probe.blk(dev, "write", sector=8, count=8, seed=1)
        probe.ask("rng", dev=probe.device(RNG), bytes=64)
        self.assertEqual(self.sardine("stats", "vm", "--json", wrap=wrap).returncode, 0)
        self.assertEqual(self.sardine("dump", "vm", self.dir / "core", wrap=wrap).returncode, 0)
        self.assertEqual(self.sardine("pause", "vm", wrap=wrap).returncode, 0)
        self.assertEqual(self.sardine("resume", "vm", wrap=wrap).returncode, 0)
        self.assertEqual(self.sardine("balloon", "vm", "1M", wrap=wrap).returncode, 0)
        self.assertGreater(probe.device(BALLOON), 0)
        self.assertEqual(probe.ask("check", cpus=2, seed=3, **{"from": 16 * MIB, "to": 24 * MIB})["bad"], 0)

    def test_work_and_reboot(self):
        disk = self.dir / "disk.img"
        disk.write_bytes(bytes(MIB))
        probe = self.confined(disk=f"path={disk}")
        self.work(probe)
        probe.send("reset", how="acpi")
        probe.ready()
        self.assertEqual(probe.stats()["reboots"], 1)
        self.work(probe)
        probe.power_off()

    def test_what_is_left(self):
        probe = self.confined()
        for task in pathlib.Path(f"/proc/{probe.pid}/task").iterdir():
            with self.subTest(thread=(task / "comm").read_text().strip()):
                got = status(task / "status")
                self.assertEqual((got["Seccomp"].strip(), got["NoNewPrivs"].strip()), ("2", "1"))
                self.assertEqual({int(got[key], 16) for key in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")
                                  if key != "CapBnd" or os.geteuid() == 0}, {0})
        if os.geteuid() == 0:
            self.assertEqual(os.listdir(f"/proc/{probe.pid}/root"), [])
        probe.power_off()

    def test_user(self):
        if os.geteuid() != 0:
            self.skipTest("needs root")
        probe = self.confined(user="nobody")
        got = status(f"/proc/{probe.pid}/status")
        self.assertEqual(set(got["Uid"].split()), {"65534"})
        self.assertEqual(got["Groups"].split(), [])
        self.assertEqual({int(value, 16) for key, value in got.items() if key.startswith("Cap")}, {0})
        self.assertEqual(self.sardine("stats", "vm", "--json").returncode, 0)
        probe.power_off()

    def test_not_root(self):
        if os.geteuid() != 0:
            self.skipTest("needs root, to become another user before the start")
        for path in (self.dir, self.xdg, self.cache, self.home):
            os.chown(path, NOBODY, NOBODY)
        kernel = pathlib.Path(shutil.copy(os.environ["SARDINE_PROBE"], self.dir))
        kernel.chmod(0o644)
        binary = shutil.copy(sardine_test.sardine_bin(), self.dir)
        with unittest.mock.patch.dict(os.environ, SARDINE_BIN=binary):
            probe = self.confined(kernel=kernel, preexec=become_nobody, disk=f"path={self.image_of(NOBODY)}")
            self.work(probe, AS_NOBODY)
            for task in pathlib.Path(f"/proc/{probe.pid}/task").iterdir():
                got = status(task / "status")
                self.assertEqual((got["Seccomp"].strip(), got["NoNewPrivs"].strip()), ("2", "1"))
                self.assertEqual(set(got["Uid"].split()), {str(NOBODY)})
            self.assertIn("Landlock alone keeps files out of reach" if has_landlock() else "the file system stays in sight",
                          probe.vm.log.text())
            probe.power_off()
            # Only this user may remove what was left.
            self.assertEqual(self.sardine("ps", wrap=AS_NOBODY).returncode, 0)

    def image_of(self, owner):
        path = self.dir / "disk.img"
        path.write_bytes(bytes(MIB))
        os.chown(path, owner, owner)
        return path

    def test_log_is_opened_anew(self):
        """The one thing that may still be opened by name, and only with these filters."""
        probe = self.confined(**{"log_file": self.dir / "log"})
        (self.dir / "log").rename(self.dir / "old")
        os.kill(probe.pid, signal.SIGHUP)
        sardine_test.poll(lambda: (self.dir / "log").exists(), "the log is there again", 20)
        self.assertEqual(probe.stats()["state"], "running")
        probe.power_off()

    def test_inherited_descriptors(self):
        probe = self.confined()
        for fd in pathlib.Path(f"/proc/{probe.pid}/fd").iterdir():
            target = os.readlink(fd)
            self.assertFalse(target.startswith("/dev/null") and int(fd.name) > 2, target)
        probe.power_off()

    def test_refused(self):
        for args, code, says in ((("--user", "no-such-user"), 1, "no user"), (("--user", "root:no-such"), 1, "no group"),
                                 (("--sandbox", "maybe"), 2, "--sandbox"), (("--seccomp", "maybe"), 2, "use on, log or off")):
            with self.subTest(args=args):
                done = self.sardine("run", "--name", "x", "--kernel", os.environ["SARDINE_PROBE"], *args)
                self.assertEqual(done.returncode, code, done.stderr)
                self.assertIn(says, done.stderr)


if __name__ == "__main__":
    sardine_test.main()
