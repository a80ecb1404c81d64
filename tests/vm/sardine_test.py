# SPDX-License-Identifier: Apache-2.0
"""Harness of the tests that run the `sardine` command: private folders, VMs, deadlines, and a look at what is left behind.

A test file ends with `sardine_test.main()`; its classes derive from SardineTest. Environment:
  SARDINE_BIN    the command (default: `sardine` of the newest build folder)
  SARDINE_PROBE  the probe guest's kernel image
  SARDINE_KEEP   keep each test's folder and print its name
"""
import contextlib
import glob
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

SKIP = 77
ROOT = pathlib.Path(__file__).resolve().parents[2]


def _newest(pattern):
    found = sorted(glob.glob(str(ROOT / "build" / "*" / pattern)), key=os.path.getmtime)
    return found[-1] if found else None


def sardine_bin():
    path = os.environ.get("SARDINE_BIN") or _newest("tools/sardine")
    if not path:
        sys.exit("no sardine command: build it, or set SARDINE_BIN")
    return os.path.abspath(path)


def probe_kernel():
    """The probe guest, or None when it was not built."""
    return os.environ.get("SARDINE_PROBE") or _newest("tests/guest/probe.elf")


def no_kvm_reason():
    """Why VMs cannot run here, or None."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as e:
        return f"/dev/kvm: {e.strerror}"
    return None


def needs_kvm(test):
    """Decorator: skip the test, with the reason, where VMs cannot run."""
    reason = no_kvm_reason()
    return unittest.skipIf(reason, reason)(test)


def poll(condition, what, seconds=10.0):
    """The first true value of condition(), which is asked until the deadline. `what`: a text, or a function that makes it."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what}")
        time.sleep(0.01)


class Stream:
    """Collects what a file descriptor delivers, on a thread of its own."""

    def __init__(self, file):
        self._data = bytearray()
        self._changed = threading.Condition()
        self._ended = False
        self._file = file
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        while True:
            try:
                data = os.read(self._file.fileno(), 65536)
            except (OSError, ValueError):  # closed by us
                data = b""
            with self._changed:
                self._data += data
                self._ended = not data
                self._changed.notify_all()
            if not data:
                return

    def text(self):
        with self._changed:
            return self._data.decode(errors="replace")

    def expect(self, wanted, seconds=10.0, start=0):
        """Wait for a text at or behind offset `start`; returns the offset behind it."""
        wanted = wanted.encode()
        end = time.monotonic() + seconds
        with self._changed:
            while True:
                at = self._data.find(wanted, start)
                if at >= 0:
                    return at + len(wanted)
                left = end - time.monotonic()
                if self._ended or left <= 0:
                    why = "the stream ended" if self._ended else f"not within {seconds} s"
                    raise AssertionError(f"{why}: {wanted!r} after {bytes(self._data[-2000:])!r}")
                self._changed.wait(left)

    def join(self):
        """Until the other end is closed."""
        self._thread.join(5)

    def close(self):
        self.join()
        self._file.close()


class Control:
    """A connection to a VM's control socket: JSON lines, the first one the server's greeting."""

    def __init__(self, path, seconds=10.0):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(seconds)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self._file = self.socket.makefile("rb")
        self.greeting = self.read()

    def read(self):
        """The next line as an object, None at the end."""
        line = self._file.readline()
        return json.loads(line) if line else None

    def send(self, request):
        self.socket.sendall(json.dumps(request).encode() + b"\n")

    def ask(self, request):
        self.send(request)
        return self.read()

    def close(self):
        self._file.close()
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Vm:
    """A VM in the foreground whose console is our end of pipes."""

    def __init__(self, test, name, args, env, preexec=None, pass_fds=()):
        self.test = test
        self.name = name
        self.process = subprocess.Popen(
            [sardine_bin(), "run", "--name", name, *args], env=env, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=test.dir, preexec_fn=preexec, pass_fds=pass_fds)
        self.console = Stream(self.process.stdout)
        self.log = Stream(self.process.stderr)
        self.pid = self.process.pid

    @property
    def socket_path(self):
        return self.test.rundir / f"{self.name}.sock"

    def wait_running(self, seconds=20.0):
        """Until it says so in its log; fails with its log when it ends before."""
        self.log.expect("running: pid", seconds)
        return self

    def control(self, seconds=10.0):
        return Control(self.socket_path, seconds)

    def send(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, seconds=20.0):
        """The exit code; the log is complete then."""
        try:
            code = self.process.wait(seconds)
            self.log.join()
            return code
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {seconds} s; its log: {self.log.text()}") from None

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.console.close()
        self.log.close()


class SardineTest(unittest.TestCase):
    """Each test has a folder of its own, with runtime and cache folder in it, and must leave nothing running there."""

    maxDiff = None
    run_seconds = 60

    def setUp(self):
        # Short: a socket's path has at most 107 bytes.
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="sardine-"))
        self.xdg = self.dir / "run"
        self.rundir = self.xdg / "sardine"
        self.cache = self.dir / "cache"
        self.home = self.dir / "home"
        for folder in (self.xdg, self.cache, self.home):
            folder.mkdir(mode=0o700)
        self.env = dict(os.environ, SARDINE_RUNTIME_DIR=str(self.rundir), HOME=str(self.home), LC_ALL="C.UTF-8")
        self.env.pop("XDG_CACHE_HOME", None)
        self.vms = []

    def tearDown(self):
        for vm in self.vms:
            vm.close()
        failed = not self._clean()
        try:
            if not failed:
                self.assertNothingLeft()
        finally:
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if os.environ.get("SARDINE_KEEP"):
                print(f"{self.id()}: kept {self.dir}", file=sys.stderr)
            else:
                shutil.rmtree(self.dir, ignore_errors=True)

    def _clean(self):
        """False when the test has failed already: what it left behind then is of no interest."""
        outcome = getattr(self, "_outcome", None)
        result = getattr(outcome, "result", None)
        problems = getattr(result, "failures", []) + getattr(result, "errors", [])
        errors = getattr(outcome, "errors", [])  # Python before 3.11
        return not any(t is self for t, _ in problems) and not any(e for _, e in errors or [])

    # What is left behind

    def processes(self):
        """Pids whose environment names this test's folder, ours aside."""
        mark = f"SARDINE_RUNTIME_DIR={self.rundir}".encode()
        found = []
        for path in glob.glob("/proc/[0-9]*/environ"):
            pid = int(path.split("/")[2])
            with contextlib.suppress(OSError):
                if pid != os.getpid() and mark in pathlib.Path(path).read_bytes().split(b"\0"):
                    found.append(pid)
        return found

    def leftovers(self):
        """Sockets and locks in the runtime folder, unfinished files in the cache."""
        left = [p for p in glob.glob(f"{self.rundir}/*") if not p.endswith(".log")]
        for folder, _, names in os.walk(self.cache):
            left += [os.path.join(folder, n) for n in names if n.startswith((".", "tmp")) or n.endswith(".tmp")]
        return left

    def files(self):
        """All paths in the test's folder, but for the cache and the runtime folder, which leftovers() knows."""
        found = (p.relative_to(self.dir) for p in self.dir.rglob("*"))
        return {str(p) for p in found if p.parts[0] not in (self.cache.name, self.xdg.name)}

    def assertNothingLeft(self):
        poll(lambda: not self.processes(), f"the processes of {self.dir} end", 5)
        self.assertEqual(self.leftovers(), [], "files left behind")

    # Commands

    def command(self, *args):
        return [sardine_bin(), *map(str, args)]

    def sardine(self, *args, seconds=None, env=None, wrap=(), **kwargs):
        """Run the command to its end; `wrap` is put before it (setpriv, unshare..)."""
        return subprocess.run([*map(str, wrap), *self.command(*args)], env=env or self.env, text=True,
                              errors="replace", capture_output=True, cwd=kwargs.pop("cwd", self.dir),
                              stdin=kwargs.pop("stdin", subprocess.DEVNULL),
                              timeout=seconds or self.run_seconds, check=False, **kwargs)

    def start(self, name, *args, kernel=None, env=None, preexec=None, pass_fds=()):
        """A VM in the foreground, console on pipes; killed at the end of the test. `preexec` runs in it before exec."""
        image = kernel or probe_kernel()
        if not image:
            self.fail("the probe guest was not built; set SARDINE_PROBE")
        vm = Vm(self, name, ["--kernel", str(image), "--cache-dir", str(self.cache), *map(str, args)], env or self.env,
                preexec, pass_fds)
        self.vms.append(vm)
        return vm

    def assertOneLine(self, done, code, *words, verb="run"):
        """One line on stderr that begins with the verb and holds each of the words; this exit code; no output."""
        self.assertEqual(done.returncode, code, f"exit code; stderr: {done.stderr!r}")
        lines = done.stderr.splitlines()
        self.assertEqual(len(lines), 1, f"lines on stderr: {done.stderr!r}")
        self.assertTrue(lines[0].startswith(f"sardine {verb}: "), lines[0])
        for word in words:
            self.assertIn(str(word), lines[0])
        self.assertEqual(done.stdout, "")


def main():
    """Run the file's tests; exit 77 with the reasons when some were skipped and none failed."""
    program = unittest.main(module="__main__", exit=False, verbosity=2)
    result = program.result
    if not result.wasSuccessful():
        sys.exit(1)
    for reason in sorted({reason for _, reason in result.skipped}):
        print(f"skipped: {reason}", file=sys.stderr)
    sys.exit(SKIP if result.skipped else 0)
