#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The package's unit under a real systemd: a clean Debian 12 root with the package in it, booted by systemd-nspawn.

Environment: SARDINE_BUILD, the build folder; SARDINE_PROBE, the probe guest.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import unittest

import debian_root
from debian_root import CannotRun, Root
from test_deb import build_deb

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "vm"))
import sardine_test  # noqa: E402
from sardine_test import Control, no_kvm_reason, poll  # noqa: E402

UNIT = "sardine@web1.service"
BOOT_SECONDS = 120
# Of the host's devices the machine gets those that the unit allows.
DEVICES = ("/dev/kvm", "/dev/net/tun")


class Machine:
    """systemd as the first process of the Debian root, in a container."""

    def __init__(self, root):
        self.root = root
        (root.path / "etc/machine-id").write_text("")
        for mounted in ("proc", "sys", "dev", "run"):  # nspawn has its own
            subprocess.run(["umount", "--recursive", "--lazy", root.path / mounted], check=True)
        binds = [f"--bind={device}" for device in DEVICES if os.path.exists(device)]
        self.log = open("/run/nspawn.log", "w+b")  # pylint: disable=consider-using-with
        self.process = subprocess.Popen(
            ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--console=pipe", "--machine=sardine-test", *binds,
             "--directory", root.path, "--boot", "systemd.journald.forward_to_console=1"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.leader = None

    def output(self):
        return pathlib.Path(self.log.name).read_text(errors="replace")[-3000:]

    def boot(self):
        """Returns why not, or None."""
        end = time.monotonic() + BOOT_SECONDS
        state = ""
        while time.monotonic() < end:
            if self.process.poll() is not None:
                return f"systemd-nspawn ended with {self.process.returncode}: {self.output()}"
            self.leader = self.leader or self._leader()
            if self.leader:
                state = self.run("systemctl", "is-system-running").stdout.strip()
                if state in ("running", "degraded"):
                    return None
            time.sleep(0.1)
        return f"systemd is '{state}' after {BOOT_SECONDS} s: {self.output()}"

    def _leader(self):
        """The pid of systemd, a child of nspawn's."""
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            for child in task.read_text().split():
                if pathlib.Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    return child
        return None

    def run(self, *argv, seconds=60):
        """A command of the machine's, in its namespaces, as by a login of root."""
        enter = ["nsenter", "--target", self.leader, "--mount", "--uts", "--ipc", "--pid", "--root", "--wd"]
        env = dict(self.root.environment(), XDG_RUNTIME_DIR="/run/user/0")
        return subprocess.run([*enter, *argv], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=env, timeout=seconds)

    def path(self, name):
        """A file of the machine's, seen from here."""
        return pathlib.Path(f"/proc/{self.leader}/root{name}")

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()


class Service(unittest.TestCase):
    """The service of one VM, from `systemctl start` on."""

    @classmethod
    def setUpClass(cls):
        root = Root()
        shutil.copy(build_deb("/run/deb"), root.path / "root/sardine.deb")
        done = root.apt_install("/root/sardine.deb", "systemd-sysv")
        assert done.returncode == 0, done.stdout + done.stderr
        shutil.copy(sardine_test.probe_kernel(), root.path / "root/probe")
        (root.path / "usr/sbin/policy-rc.d").unlink()
        cls.machine = Machine(root)
        cls.addClassCleanup(cls.machine.close)
        why = cls.machine.boot()
        if why:
            raise unittest.SkipTest(f"no systemd in a container here: {why}")

    def configure(self, *options):
        done = self.ok("sardine", "run", "--name", "web1", "--kernel", "/root/probe", "--mem", "64M", *options, "--dry-run")
        self.machine.path("/etc/sardine/web1.json").write_text(done)

    def ok(self, *argv):
        done = self.machine.run(*argv)
        self.assertEqual((done.returncode, done.stderr), (0, ""), f"{argv}: {done.stdout}{self.journal()}")
        return done.stdout

    def journal(self):
        return self.machine.run("journalctl", "--no-pager", "-u", UNIT).stdout[-3000:]

    def property(self, name):
        return self.ok("systemctl", "show", "--value", "-p", name, UNIT).strip()

    def test_bad_configuration(self):
        """Exit status 2 is final."""
        self.machine.path("/etc/sardine/web1.json").write_text('{"kernel": "/root/probe", "cpus": "many"}\n')
        done = self.machine.run("systemctl", "start", UNIT)
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual([self.property(p) for p in ("ActiveState", "ExecMainStatus", "NRestarts")], ["failed", "2", "0"], self.journal())
        self.assertIn("cpus", self.journal())
        self.ok("systemctl", "reset-failed", UNIT)

    def test_host_that_cannot(self):
        """So is 77."""
        if not no_kvm_reason():
            self.skipTest("there is a KVM here")
        self.configure()
        done = self.machine.run("systemctl", "start", UNIT)
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual([self.property(p) for p in ("ActiveState", "ExecMainStatus", "NRestarts")], ["failed", "77", "0"], self.journal())
        self.ok("systemctl", "reset-failed", UNIT)

    def vms(self):
        return [(vm["name"], vm["pid"]) for vm in json.loads(self.ok("sardine", "ps", "--json"))["vms"]]

    @sardine_test.needs_kvm
    def test_life(self):
        """Started, seen by root's login, reloaded, stopped by its power button; a VM that is killed comes back."""
        log = self.machine.path("/var/log/web1.console")
        self.configure("--console", "file:/var/log/web1.console")
        self.ok("systemctl", "start", UNIT)
        self.assertEqual([self.property(p) for p in ("ActiveState", "SubState", "StatusText")], ["active", "running", "running"])
        pid = int(self.property("MainPID"))
        self.assertEqual(self.vms(), [("web1", pid)])
        self.assertEqual(json.loads(self.ok("sardine", "stats", "web1", "--json"))["pid"], pid)
        poll(lambda: log.exists() and "probe: ready" in log.read_text(), self.journal, 60)

        log.rename(f"{log}.1")
        self.ok("systemctl", "reload", UNIT)
        poll(log.exists, self.journal)
        self.assertEqual((self.property("ActiveState"), int(self.property("MainPID"))), ("active", pid))

        os.kill(int(self.host_pid()), 9)
        poll(lambda: self.property("NRestarts") == "1" and self.property("ActiveState") == "active", self.journal, 30)
        again = int(self.property("MainPID"))
        self.assertEqual(self.vms(), [("web1", again)])
        poll(lambda: "probe: ready" in log.read_text(), self.journal, 60)

        with Control(self.machine.path("/run/sardine/web1.sock")) as control:
            self.assertTrue(control.ask({"id": 1, "cmd": "console"})["ok"])
            control.socket.sendall(b"@1 button off=1 timeout_ms=60000\n")  # answered when the button is pressed
            self.ok("systemctl", "stop", UNIT)
        self.assertEqual([self.property(p) for p in ("ActiveState", "Result", "ExecMainStatus")], ["inactive", "success", "0"], self.journal())
        self.assertIn("ended: power-off", self.journal())
        self.assertEqual(self.vms(), [])
        self.assertEqual(list(self.machine.path("/run/sardine").iterdir()), [])

    def host_pid(self):
        """The VM's pid, as we see it."""
        wanted = self.property("MainPID")
        for status in pathlib.Path("/proc").glob("[0-9]*/status"):
            words = {line.split(":")[0]: line.split()[1:] for line in status.read_text().splitlines() if ":" in line}
            if words["Name"] == ["sardine"] and words["NSpid"][-1] == wanted:
                return words["Pid"][0]
        raise AssertionError(f"no process {wanted}")


def main():
    try:
        debian_root.enter()
        if not shutil.which("systemd-nspawn"):
            raise CannotRun("systemd-nspawn is not installed: apt-get install systemd-container")
        sardine_test.main()
    except CannotRun as e:
        print(f"cannot run here: {e}", file=sys.stderr)
        sys.exit(sardine_test.SKIP)


if __name__ == "__main__":
    main()
