# SPDX-License-Identifier: Apache-2.0
"""replay.py - replay VMs for tests: no /dev/kvm, all their bytes known."""
import os
import subprocess

from sardine_test import Control, SardineTest, Stream, poll, sardine_bin

PAGE = 4096
SKIP = 77


class Replay:
    """A replay VM in the foreground."""

    def __init__(self, test, name, args, env):
        self.test = test
        self.name = name
        self.process = subprocess.Popen([sardine_bin(), "replay", "--name", name, *map(str, args)], env=env, cwd=test.dir,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.log = Stream(self.process.stderr)
        self.pid = self.process.pid

    def wait_running(self):
        """Until it is filled; skips the test where the kernel cannot track writes."""
        def running():
            return "running: pid" in self.log.text() or self.process.poll() is not None
        poll(running, f"{self.name} runs", 60)
        if self.process.poll() is not None:
            self.log.join()
            if self.process.returncode == SKIP:
                self.test.skipTest(self.log.text().strip())
            raise AssertionError(self.log.text())
        return self

    def control(self):
        return Control(self.test.rundir / f"{self.name}.sock", 60)

    def stats(self):
        with self.control() as c:
            return c.ask({"cmd": "stats"})["result"]

    def merge(self):
        with self.control() as c:
            answer = c.ask({"cmd": "merge"})
        self.test.assertTrue(answer["ok"], answer)
        return answer["result"]

    def memory(self, frame, count=1, address=None):
        """Bytes of its memory, from outside."""
        address = address or self.stats()["replay"]["address"]
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as f:
            f.seek(address + frame * PAGE)
            return f.read(count * PAGE)

    def damage(self, frame):
        """Change a byte behind its back."""
        address = self.stats()["replay"]["address"]
        fd = os.open(f"/proc/{self.pid}/mem", os.O_RDWR)
        try:
            byte = os.pread(fd, 1, address + frame * PAGE + 17)
            os.pwrite(fd, bytes([byte[0] ^ 1]), address + frame * PAGE + 17)
        finally:
            os.close(fd)

    def wait(self, seconds=60):
        code = self.process.wait(seconds)
        self.log.join()
        return code

    def close(self):
        """An orderly end, so that nothing is left behind; whether its bytes were right is for tests to ask."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        self.log.close()


class ReplayTest(SardineTest):
    def replay(self, name, *args, env=None):
        vm = Replay(self, name, args, env or self.env)
        self.vms.append(vm)
        return vm.wait_running()
