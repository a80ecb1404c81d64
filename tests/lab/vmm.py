# SPDX-License-Identifier: Apache-2.0
"""vmm.py - the VMMs that run inner guests: sardine, and QEMU's microvm as a baseline for the lab itself."""

import json
import os
import re
import shlex
import time

from errors import BootStuck, CheckFailed, LabError, check
from guest import Guest

BOOT_SECONDS = {1: 120, 2: 180}
# Little on the console: under TCG its output takes seconds in which the guest has interrupts off, and as long as it counts
# time by ticks, its clock loses them.
COMMAND_LINE = "console=ttyS0 root=/dev/vda rw loglevel=4"
VERBOSE = "console=ttyS0 root=/dev/vda rw loglevel=7"
# what a VMM writes when KVM itself gave up: never worth a second try
INTERNAL_ERROR = re.compile(r"KVM internal error|KVM_EXIT_INTERNAL_ERROR|internal error", re.I)


class Process:
    """A program started in the background of the outer machine; its status and output are files there."""

    def __init__(self, outer, name, command):
        self._outer = outer
        self._base = f"/run/lab/{name}"
        quoted = shlex.quote(f"echo $$ >{self._base}.pid; exec {command}")
        outer.must(f"rm -f {self._base}.status {self._base}.out {self._base}.pid; "
                   f"(setsid sh -c {quoted} </dev/null >{self._base}.out 2>&1; echo $? >{self._base}.status.new; "
                   f"mv {self._base}.status.new {self._base}.status) </dev/null >/dev/null 2>&1 &")
        deadline = time.monotonic() + 10
        while True:
            pid = outer.run(f"cat {self._base}.pid 2>/dev/null")[1].strip()
            if pid or time.monotonic() > deadline:
                break
        if not pid:
            raise LabError(f"{name}: was not started")
        self.pid = int(pid)

    def status(self):
        """The exit status, None while it runs."""
        text = self._outer.run(f"cat {self._base}.status 2>/dev/null")[1].strip()
        return int(text) if text else None

    def wait(self, seconds):
        deadline = time.monotonic() + seconds
        while True:
            status = self.status()
            if status is not None or time.monotonic() > deadline:
                return status
            time.sleep(0.3)

    def output(self):
        return self._outer.run(f"cat {self._base}.out 2>/dev/null")[1].strip()

    def kill(self):
        self._outer.run(f"kill -9 {self.pid} 2>/dev/null")
        self.wait(20)


class Vmm:
    """Starts guests in an outer machine. `retries`: how often a boot that got stuck is repeated."""

    def __init__(self, outer, logs, report, retries=1):
        self.outer = outer
        self.logs = logs
        self.report = report
        self.retries = retries
        self._guests = []
        self._count = 0

    def boot(self, name, kernel, cpus=1, memory_mib=256, guests=1, extra=""):
        """Starts one guest and waits for its agent; `guests`: how many will run at once (for the deadline)."""
        return self.boot_all([name], kernel, cpus, memory_mib, extra, guests)[0]

    def boot_all(self, names, kernel, cpus=1, memory_mib=256, extra="", guests=None):
        """Starts guests together and waits for all of them."""
        limit = BOOT_SECONDS[min(2, guests or len(names))]
        started = [(n, self.start(n, kernel, cpus, memory_mib, extra)) for n in names]
        ready = []
        begin = time.monotonic()
        for name, guest in started:
            for attempt in range(self.retries + 1):
                try:
                    left = limit if attempt else max(1, limit - (time.monotonic() - begin))
                    guest.boot_seconds = guest.wait_ready(left)
                    break
                except BootStuck as stuck:
                    self._give_up(guest, stuck, last=attempt == self.retries)
                    first = guest.log
                    # a second failure should say more than the first
                    guest = self.start(name, kernel, cpus, memory_mib, extra, VERBOSE)
                    self.report.retry(name, first, guest.log)
            ready.append(guest)
        return ready

    def _give_up(self, guest, stuck, last):
        """After a stuck boot: keeps what it left; raises unless it may be repeated."""
        output = guest.process.output()
        self.finish(guest)
        if INTERNAL_ERROR.search(output) or INTERNAL_ERROR.search(guest.log_text()):
            raise CheckFailed(f"{guest.name}: KVM internal error: {output[-600:]}")
        if last:
            raise stuck

    def start(self, name, kernel, cpus, memory_mib, extra="", command_line=COMMAND_LINE):
        """`extra`: more options, in which {name} stands for the guest's name."""
        self._count += 1
        log = os.path.join(self.logs, f"{name}-{self._count}-console.log")
        disk = f"/run/lab/{name}.img"
        self.outer.must(f"cp /lab/guests/root.img {disk}", timeout=60)
        process = Process(self.outer, name, self.command(name, kernel, cpus, memory_mib, disk, command_line, extra.format(name=name)))
        port, channel = self.outer.console(self.console_socket(name), log)
        guest = Guest(name, channel, log, process)
        guest.port = port
        guest.disk = disk
        self._guests.append(guest)
        return guest

    def finish(self, guest):
        """Ends a guest whatever its state, keeps its VMM's output beside its console log."""
        if guest not in self._guests:
            return
        self._guests.remove(guest)
        if guest.process.status() is None:
            guest.process.kill()
        with open(guest.log.replace("-console.log", "-vmm.log"), "w", encoding="utf-8") as f:
            f.write(guest.process.output() + f"\nexit status {guest.process.status()}\n")
        self.outer.release_console(guest.port)
        self.outer.run(f"rm -f {guest.disk}")

    def finish_all(self):
        for guest in list(self._guests):
            self.finish(guest)

    def poweroff(self, guest, seconds=40):
        """Lets the guest power itself off; its VMM must exit 0."""
        guest.tell("sync; poweroff -f")
        self._expect_exit(guest, seconds, "after the guest's power-off")

    def _expect_exit(self, guest, seconds, when):
        status = guest.process.wait(seconds)
        if status != 0:
            self.finish(guest)
        check(status is not None, f"{guest.name}: the VMM still ran {seconds} s {when}; console log {guest.log}")
        check(status == 0, f"{guest.name}: the VMM exited with {status} {when}: {guest.process.output()[-600:]}")
        self.finish(guest)


class Sardine(Vmm):
    """The VMM under test."""

    title = "sardine"
    NO_ENGINE = " --engine off"

    @staticmethod
    def mergeable(on):
        """The option of start() that lets ksmd merge the guest's memory, or keeps it from doing so."""
        return "--mergeable on" if on else "--mergeable off"

    @staticmethod
    def console_socket(name):
        return f"/run/lab/{name}.console"

    def command(self, name, kernel, cpus, memory_mib, disk, command_line, extra):
        return (f"sardine run --name {name} --kernel /lab/guests/{kernel}/vmlinuz --initrd /lab/guests/{kernel}/initrd "
                f"--cmdline '{command_line}' --mem {memory_mib}M --cpus {cpus} --disk path={disk} "
                f"--console unix:{self.console_socket(name)} {extra}")

    def stop(self, guest, seconds=30):
        """`sardine stop`: the power button; both it and the VMM must exit 0."""
        status, output = self.outer.run(f"sardine stop {guest.name} --timeout {seconds}", timeout=seconds + 15)
        check(status == 0, f"{guest.name}: 'sardine stop' exited with {status}: {output.strip()[-400:]}; "
                           f"console log {guest.log}")
        self._expect_exit(guest, 10, "after 'sardine stop'")

    def stats(self, name=None):
        """What `sardine stats --json` says, parsed."""
        status, output = self.outer.run(f"sardine stats {name or ''} --json")
        check(status == 0, f"'sardine stats --json' exited with {status}: {output.strip()[-400:]}")
        try:
            return json.loads(output)
        except ValueError as e:
            raise CheckFailed(f"'sardine stats --json' printed no JSON ({e}): {output[:400]}") from e


class Microvm(Vmm):
    """QEMU's microvm as the inner VMM: what the lab itself can do, whatever the VMM."""

    title = "microvm"
    NO_ENGINE = ""

    @staticmethod
    def mergeable(on):
        return ",mem-merge=on" if on else ",mem-merge=off"

    @staticmethod
    def console_socket(name):
        return f"/run/lab/{name}.console"

    def command(self, name, kernel, cpus, memory_mib, disk, command_line, extra):
        return (f"qemu-system-x86_64 -L /lab/qemu/firmware -name {name} -machine microvm,acpi=on,accel=kvm{extra} -cpu host "
                f"-smp {cpus} -m {memory_mib} -nodefaults -no-user-config -display none -no-reboot "
                f"-kernel /lab/guests/{kernel}/vmlinuz -initrd /lab/guests/{kernel}/initrd -append '{command_line}' "
                f"-serial unix:{self.console_socket(name)},server=on,wait=on "
                f"-drive id=root,file={disk},format=raw,if=none -device virtio-blk-device,drive=root "
                "-device virtio-balloon-device")


VMMS = {"sardine": Sardine, "microvm": Microvm}
