# SPDX-License-Identifier: Apache-2.0
"""outer.py - the outer machine: a Debian kernel under QEMU's TCG with SVM, which is the KVM host of the lab.

Its shell is a virtio port (raw bytes, no terminal in between); further ports carry the consoles of inner guests.
"""

import base64
import ctypes
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid

import image
import packages
from channel import Channel
from errors import LabError

MEMORY_MIB = 4096
CONSOLE_PORTS = 6
PR_SET_PDEATHSIG = 1  # linux/prctl.h
BOOT_SECONDS = 120
# XSAVE off: TCG does not intercept XSETBV, so KVM would not know the XCR0 of its guest, and the guest would complain
CPU = "max,+svm,-xsave"


def _die_with_parent():
    """In the child: no machine outlives the harness, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Outer:
    """A running outer machine. Use as a context manager."""

    def __init__(self, kernel, disks, logs, cpus=1, memory_mib=MEMORY_MIB, scratch_mib=0):
        """`disks`: serial -> path of a read-only image, mounted at /lab/SERIAL; `scratch_mib`: size of a raw writable
        disk, /dev/lab/scratch, for files too large for the shell."""
        self.series = kernel.series
        self.release = kernel.release
        self.logs = logs
        self._lock = threading.Lock()
        self._free_ports = list(range(CONSOLE_PORTS))
        self._consoles = {}
        # socket paths are limited to 107 bytes, so they do not live below the log folder
        self._run_dir = tempfile.mkdtemp(prefix="sardine-lab-")
        self.scratch = os.path.join(self._run_dir, "scratch") if scratch_mib else None
        self._process = None
        try:
            self._start(kernel, disks, cpus, memory_mib, scratch_mib)
        except BaseException:
            self.close()
            raise

    def _start(self, kernel, disks, cpus, memory_mib, scratch_mib):
        argv = [packages.tool("qemu-system-x86_64"), "-name", f"sardine-lab-{self.series}",
                # mem-merge off: or the host's own ksmd scans this machine
                "-machine", "pc,mem-merge=off", "-accel", "tcg,thread=multi", "-cpu", CPU,
                "-smp", str(cpus), "-m", str(memory_mib), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                "-kernel", kernel.image, "-initrd", image.outer_initramfs(kernel),
                # no_timer_check: on a busy host that check fails, and the kernel gives up
                "-append", "console=ttyS0 panic=-1 quiet loglevel=4 no_timer_check",
                "-serial", f"file:{os.path.join(self.logs, 'outer-console.log')}",
                "-device", "virtio-serial-pci,max_ports=16"]
        for name in ["shell"] + [f"console{n}" for n in range(CONSOLE_PORTS)]:
            argv += ["-chardev", f"socket,id={name},path={self._socket(name)},server=on,wait=off",
                     "-device", f"virtserialport,chardev={name},name={name}"]
        drives = [(serial, path, "on") for serial, path in disks.items()]
        if scratch_mib:
            with open(self.scratch, "wb") as f:
                f.truncate(scratch_mib << 20)
            drives.append(("scratch", self.scratch, "off"))
        for serial, path, readonly in drives:
            argv += ["-drive", f"id={serial},file={path},format=raw,if=none,readonly={readonly},file.locking=off",
                     "-device", f"virtio-blk-pci,drive={serial},serial={serial}"]
        with open(os.path.join(self.logs, "outer-qemu.log"), "wb") as out:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                             preexec_fn=_die_with_parent)
        deadline = time.monotonic() + 20
        self._shell = Channel(self._socket("shell"), deadline)
        self._shell.log_to(os.path.join(self.logs, "outer-shell.log"))
        for n in range(CONSOLE_PORTS):
            self._consoles[n] = Channel(self._socket(f"console{n}"), deadline)
        ready = time.monotonic() + BOOT_SECONDS
        while True:
            try:
                status, out = self.run("test -c /dev/kvm && uname -r", timeout=ready - time.monotonic())
                break
            except LabError as e:
                raise LabError(f"outer machine {self.series} did not boot in {BOOT_SECONDS} s: {e}; "
                               f"see {self.logs}/outer-console.log") from e
        if status != 0 or out.strip() != self.release:
            raise LabError(f"outer machine {self.series}: no /dev/kvm ({out.strip()}); see {self.logs}/outer-console.log")

    def _socket(self, name):
        return os.path.join(self._run_dir, name)

    def alive(self):
        return self._process is not None and self._process.poll() is None and not self._shell.closed

    def run(self, command, timeout=30, on_data=None):
        """Runs the busybox sh `command` in the outer machine; returns (status, output) with stdout and stderr together.
        It is killed after `timeout` seconds (status 143 or 137). `on_data` sees the output while it comes.
        Context: one command at a time; callers of other threads wait. Raises LabError when the machine is gone."""
        marker = "@@" + uuid.uuid4().hex[:12]
        limit = max(1, int(timeout))
        # everything reaches the shell as one line, so that it has no say in how much input the shell buffers
        wrapped = f"timeout -k 5 {limit} sh -c {shlex.quote(command)} </dev/null 2>&1; printf '\\n{marker} %s\\n' $?"
        line = f"eval \"$(echo {base64.b64encode(wrapped.encode()).decode()} | base64 -d)\"\n"
        done = re.compile(rb"\n" + marker.encode() + rb" (\d+)\n")
        with self._lock:
            if not self.alive():
                raise LabError(f"outer machine {self.series} is gone; see {self.logs}/outer-console.log")
            mark = self._shell.mark()
            self._shell.send(line.encode())
            # the marker is held back from on_data: it is at the end and begins with @@
            match = self._shell.wait(done, limit + 20, mark, on_data and (lambda d: on_data(_without(d, marker))))
            if not match:
                raise LabError(f"outer machine {self.series} did not answer in {limit + 20} s to: {command[:200]}")
            output = match.string[mark:match.start()].decode(errors="replace")
            return int(match.group(1)), output

    def must(self, command, timeout=30):
        """Like run, for commands of the harness itself: returns the output, raises LabError on a status but 0."""
        status, output = self.run(command, timeout)
        if status != 0:
            raise LabError(f"outer machine: '{command[:200]}' exited with {status}: {output.strip()[-400:]}")
        return output

    def clock(self):
        """The outer machine's whole seconds since 1970."""
        return int(self.must("date +%s").strip())

    def fetch(self, path, dest):
        """Copies the small file `path` of the outer machine to `dest` (base64 over the shell); a missing one is skipped."""
        status, out = self.run(f"base64 {shlex.quote(path)}", timeout=60)
        if status == 0:
            with open(dest, "wb") as f:
                f.write(base64.b64decode(out))
        return status == 0

    def read_scratch(self, dest, size):
        """Copies the first `size` bytes of the scratch disk to `dest`, leaving holes for zeros; returns their sha256."""
        digest = hashlib.sha256()
        with open(self.scratch, "rb") as source, open(dest, "wb") as out:
            while size > 0:
                block = source.read(min(size, 1 << 20))
                if not block:
                    raise LabError(f"the scratch disk ends {size} bytes early")
                digest.update(block)
                if block.count(0) == len(block):
                    out.seek(len(block), os.SEEK_CUR)
                else:
                    out.write(block)
                size -= len(block)
            out.truncate()
        return digest.hexdigest()

    def console(self, socket_path, log):
        """Connects a free console port to the Unix socket `socket_path` of an inner VMM; logs it to the file `log`."""
        if not self._free_ports:
            raise LabError(f"more than {CONSOLE_PORTS} guest consoles at once")
        port = self._free_ports.pop(0)
        channel = self._consoles[port]
        channel.log_to(log)
        self.must(f"setsid uconsole /dev/lab/console{port} {shlex.quote(socket_path)} </dev/null "
                  f">/run/lab/uconsole{port}.log 2>&1 & echo $! >/run/lab/uconsole{port}.pid")
        return port, channel

    def release_console(self, port):
        self.run(f"kill $(cat /run/lab/uconsole{port}.pid) 2>/dev/null; "
                 f"while kill -0 $(cat /run/lab/uconsole{port}.pid) 2>/dev/null; do usleep 20000; done", timeout=10)
        self._consoles[port].log_to(None)
        self._free_ports.append(port)

    def close(self):
        if self._process and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for channel in list(self._consoles.values()) + [getattr(self, "_shell", None)]:
            if channel:
                channel.close()
        shutil.rmtree(self._run_dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _without(data, marker):
    at = data.find(b"\n" + marker.encode())
    return data if at < 0 else data[:at]
