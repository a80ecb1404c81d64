#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Confinement, which is the default: what a VM's process has given up while its guest works, what it still holds, what is removed in the
end and by whom, what a host that cannot do all of it gets, and that a call which is not listed kills."""
import collections
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
from probe import BALLOON, BLOCK, MIB, RNG, ProbeTest, without_syscall

CALL = os.environ.get("SARDINE_CONFINE_CALL", "")
# call -> the kinds of threads that may make it
CALLS = {"openat": (), "execve": (), "ptrace": (), "inet": (), "fork": (), "exec-memory": (), "io_uring_setup": (), "unlink": (),
         "create-vm": ("loop",), "run": ("loop", "vcpu"), "accept4": ("loop",), "pwrite": ("loop", "worker", "agent"), "memfd": ("agent",),
         "write": ("loop", "vcpu", "worker", "agent"), "signal-itself": ("loop", "vcpu", "worker", "agent"), "signal-other": (),
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


LANDLOCK_CREATE_RULESET, SECCOMP = 444, 317
# What a VM with 1 vCPU, no disk, no network, random numbers and balloon holds, log on standard error, console on pipes (of which it has
# copies). Whatever else there is fails the test: a descriptor that is new has to be thought about.
HELD = {"pipe:": 5, "vm.lock": 1, "anon_inode:[eventpoll]": 2, "anon_inode:[signalfd]": 1, "/dev/kvm": 1, "anon_inode:kvm-vm": 1,
        "anon_inode:kvm-vcpu:0": 1, "pagemap": 2, "anon_inode:[userfaultfd]": 1, "maps": 1, "max_map_count": 1, "smaps": 1, "smaps_rollup": 1, "ksm_merging_pages": 1, "ksm_stat": 1,
        "pages_shared": 1, "pages_sharing": 1, "ksm_zero_pages": 1,
        "boot file": 1,
        "socket:": 2}  # the control socket, and the way to the sweeper
MANY = ("anon_inode:[eventfd]", "anon_inode:[timerfd]")  # of the devices: harmless, and their number is nobody's business
# Older kernels have not all of these files.
MAY_MISS = ("ksm_merging_pages", "ksm_stat", "ksm_zero_pages")


def landlock_abi():
    VERSION = 1
    return max(LIBC.syscall(LANDLOCK_CREATE_RULESET, None, 0, VERSION), 0)


def both(*steps):
    """One `preexec` of several."""
    def run():
        for step in steps:
            step()

    return run


def limits(pid):
    """{name: (soft, hard)} as /proc says it."""
    found = {}
    for line in pathlib.Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]:
        found[line[:26].strip()] = tuple(line[26:].split()[:2])
    return found


def descriptors(pid):
    """Counter of what the descriptors of a process are, in short."""
    found = collections.Counter()
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        target = os.readlink(fd)
        name = target.rsplit("/", 1)[-1]
        if target.startswith(("pipe:", "socket:")):
            name = target.split("[")[0]
        elif target.startswith(("anon_inode:", "/dev/")):
            name = target
        elif name.startswith("kernel-v"):
            name = "boot file"
        found[name] += 1
    return found


def status(path):
    return dict(line.split(":", 1) for line in pathlib.Path(path).read_text().splitlines() if ":" in line)


class Filters(unittest.TestCase):
    def test_each_kind(self):
        for calls, has in ((CALLS, ()), (WITH_VSOCK, ("vsock",)), (WITH_FILE, ("reopen",))):
            for call, allowed in calls.items():
                for kind in ("loop", "vcpu", "worker", "agent"):
                    with self.subTest(call=call, kind=kind, has=has):
                        done = subprocess.run([CALL, kind, call, *has], check=False)
                        self.assertEqual(done.returncode, 0 if kind in allowed else -signal.SIGSYS)


class Confined(ProbeTest):
    def confined(self, **options):
        return self.probe("vm", cpus=2, **options)

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

    def test_descriptors(self):
        """Exactly these, and nothing that the starter left open."""
        leaked = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        self.addCleanup(os.close, leaked)
        for options, more in (({}, {}), ({"log_file": self.dir / "log"}, {"log": 1, self.dir.name: 1}),
                              ({"vsock": f"cid=5,path={self.dir}/v.sock"}, {"socket:": 1})):
            with self.subTest(options=options):
                probe = self.probe("vm", pass_fds=(leaked,), **options)
                got = descriptors(probe.pid)
                for name in MANY:
                    self.assertGreater(got.pop(name, 0), 0)
                expected = collections.Counter(HELD) + collections.Counter(more)
                for name in MAY_MISS:
                    if not got[name]:
                        del expected[name]
                self.assertEqual(dict(+got), dict(expected))
                probe.power_off()

    def test_limits(self):
        probe = self.confined()
        got = limits(probe.pid)
        self.assertLessEqual(int(got["Max open files"][1]), 4096)
        for name in ("Max msgqueue size", "Max nice priority", "Max realtime priority"):
            self.assertEqual(got[name], ("0", "0"), name)
        probe.power_off()

    def test_stats_say_it(self):
        root = os.geteuid() == 0
        for options, expected in (({}, {"sandbox": True, "empty_root": root, "landlock_abi": landlock_abi(), "seccomp": "on"}),
                                  ({"seccomp": "log"}, {"sandbox": True, "seccomp": "log"}),
                                  ({"sandbox": "off"}, {"sandbox": False, "empty_root": False, "landlock_abi": 0, "seccomp": "on"}),
                                  ({"sandbox": "off", "seccomp": "off"}, {"sandbox": False, "landlock_abi": 0, "seccomp": "off"})):
            with self.subTest(options=options):
                probe = self.probe("vm", **options)
                self.assertSub(expected | {"uid": os.geteuid()}, probe.stats()["confinement"])
                words = "sandbox +" + ("on, " if expected["sandbox"] else "off;") + f".*seccomp {expected['seccomp']}; uid"
                self.assertRegex(self.sardine("stats", "vm").stdout, words)
                probe.power_off()

    def everything_by_name(self):
        return {"console": f"unix:{self.dir}/c.sock", "vsock": f"cid=5,path={self.dir}/v.sock", "log_file": self.dir / "log", "wait": False}

    def running(self):
        log = self.dir / "log"
        sardine_test.poll(lambda: log.exists() and "running: pid" in log.read_text(), "it runs", 20)

    def test_files_are_removed(self):
        """By the process that was split off, however the VM ends; a socket that somebody put into the place of one of them stays."""
        for how in ("kill", signal.SIGKILL, signal.SIGSYS):
            with self.subTest(how=how):
                (self.dir / "log").unlink(missing_ok=True)
                probe = self.probe("vm", **self.everything_by_name())
                self.running()
                files = [self.dir / "c.sock", self.dir / "v.sock", self.rundir / "vm.sock", self.rundir / "vm.lock"]
                self.assertEqual([str(f) for f in files if not f.exists()], [])
                if how == "kill":
                    self.assertEqual(self.sardine("kill", "vm").returncode, 0)
                    self.assertEqual(probe.vm.wait(), 1)
                    # not a moment later
                    self.assertEqual([str(f) for f in files if f.exists()], [])
                else:
                    os.kill(probe.pid, how)
                    sardine_test.poll(lambda f=files: not any(x.exists() for x in f), "its files are gone", 20)
        probe = self.probe("vm", **self.everything_by_name())
        sardine_test.poll(lambda: (self.rundir / "vm.sock").exists(), "it runs", 20)
        sardine_test.poll(lambda: (self.dir / "log").read_text().count("running: pid") == 2, "it runs", 20)
        (self.dir / "c.sock").rename(self.dir / "moved")
        (self.dir / "c.sock").touch()
        self.assertEqual(self.sardine("kill", "vm").returncode, 0)
        self.assertTrue((self.dir / "c.sock").exists())
        (self.dir / "c.sock").unlink()
        (self.dir / "moved").unlink()

    def sweeper(self, pid):
        return next(p for p in self.processes() if p != pid)

    def test_sweeper(self):
        """It holds what it needs, is deaf to signals, and if it is killed all the same, what looks for VMs removes the files."""
        probe = self.confined()
        sweeper = self.sweeper(probe.pid)
        self.assertEqual(descriptors(sweeper), {"sardine": 1, "vm.lock": 1, "socket:": 1})
        os.kill(sweeper, signal.SIGTERM)
        os.kill(sweeper, signal.SIGINT)
        probe.ask("map")
        self.assertEqual(self.sweeper(probe.pid), sweeper)
        os.kill(sweeper, signal.SIGKILL)
        probe.power_off()
        self.assertTrue((self.rundir / "vm.sock").exists())
        self.assertEqual(self.sardine("ps").returncode, 0)
        self.assertFalse((self.rundir / "vm.sock").exists())
        self.assertFalse((self.rundir / "vm.lock").exists())

    def test_start_that_fails_leaves_nothing(self):
        done = self.sardine("run", "--name", "x", "--kernel", "/dev/null")
        self.assertOneLine(done, 1, "--kernel")
        sardine_test.poll(lambda: not self.processes(), "no process is left", 5)
        self.assertEqual(self.leftovers(), [])

    def missing(self, preexec, says, level, confinement, **options):
        probe = self.confined(preexec=preexec, **options)
        lines = [line for line in probe.vm.log.text().splitlines() if "confined in part" in line]
        self.assertEqual(len(lines), 1, probe.vm.log.text())
        for word in says:
            self.assertIn(word, lines[0])
        self.assertEqual("warn: " in lines[0], level == "warn", lines[0])
        self.assertSub(confinement, probe.stats()["confinement"])
        probe.power_off()

    def refused(self, preexec, *args, says=()):
        done = self.sardine("run", "--name", "x", "--kernel", os.environ["SARDINE_PROBE"], *args, preexec_fn=preexec)
        self.assertOneLine(done, 77, *says)

    def test_no_landlock(self):
        """A kernel before 5.13, or a container that hides it: the default goes on, --sandbox on does not."""
        if os.geteuid() != 0:
            self.skipTest("needs root, for the empty root")
        gone = without_syscall(LANDLOCK_CREATE_RULESET)
        self.missing(gone, ["no Landlock"], "info", {"sandbox": True, "empty_root": True, "landlock_abi": 0, "seccomp": "on"})
        self.refused(gone, "--sandbox", "on", says=["--sandbox on", "no Landlock", "--sandbox auto"])

    def test_no_seccomp(self):
        gone = without_syscall(SECCOMP)
        self.missing(gone, ["no seccomp filters"], "warn", {"sandbox": True, "seccomp": "off"})
        for mode in ("on", "log"):
            self.refused(gone, "--seccomp", mode, says=["--seccomp", "no seccomp filters", "--seccomp off"])

    def test_whole(self):
        """--sandbox on is all of it, or no VM."""
        if os.geteuid() != 0 or not landlock_abi():
            self.refused(None, "--sandbox", "on", says=["--sandbox on"])
            return
        probe = self.confined(sandbox="on", seccomp="on")
        self.assertSub({"sandbox": True, "empty_root": True, "landlock_abi": landlock_abi(), "seccomp": "on"},
                       probe.stats()["confinement"])
        self.assertNotIn("in part", probe.vm.log.text())
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
        with unittest.mock.patch.dict(os.environ, SARDINE_BIN=binary, SARDINE_PROBE=str(kernel)):
            self.refused(become_nobody, "--sandbox", "on", says=["--sandbox on", "only root", "--sandbox auto"])
            self.missing(both(become_nobody, without_syscall(LANDLOCK_CREATE_RULESET)), ["no empty root", "no Landlock", "in sight"],
                         "warn", {"sandbox": True, "empty_root": False, "landlock_abi": 0, "seccomp": "on", "uid": NOBODY}, kernel=kernel)
            probe = self.confined(kernel=kernel, preexec=become_nobody, disk=f"path={self.image_of(NOBODY)}")
            self.work(probe, AS_NOBODY)
            for task in pathlib.Path(f"/proc/{probe.pid}/task").iterdir():
                got = status(task / "status")
                self.assertEqual((got["Seccomp"].strip(), got["NoNewPrivs"].strip()), ("2", "1"))
                self.assertEqual(set(got["Uid"].split()), {str(NOBODY)})
            self.assertIn("confined in part: no empty root", probe.vm.log.text())
            self.assertEqual("in sight" in probe.vm.log.text(), not landlock_abi())
            probe.power_off()
            self.assertEqual(self.leftovers(), [])

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

    def test_refused(self):
        for args, code, says in ((("--user", "no-such-user"), 1, "no user"), (("--user", "root:no-such"), 1, "no group"),
                                 (("--sandbox", "maybe"), 2, "use auto, on or off"),
                                 (("--seccomp", "maybe"), 2, "use auto, on, log or off")):
            with self.subTest(args=args):
                done = self.sardine("run", "--name", "x", "--kernel", os.environ["SARDINE_PROBE"], *args)
                self.assertEqual(done.returncode, code, done.stderr)
                self.assertIn(says, done.stderr)


if __name__ == "__main__":
    sardine_test.main()
