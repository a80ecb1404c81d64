# SPDX-License-Identifier: Apache-2.0
"""guest.py - one inner guest: its console, and the agent on its root disk that executes commands.

The console also carries kernel messages, and a serial port may lose bytes; so answers carry their length and are asked
for again when they came damaged, and a request has a number, so that it is executed once however often it is sent.
"""

import base64
import re
import time

from errors import BootStuck, CheckFailed

PANIC = b"Kernel panic"
READY = re.compile(rb"sardine-lab: agent ready")
RESEND_SECONDS = 15
BASE64_LINE = re.compile(rb"[A-Za-z0-9+/]+=*")


class Guest:
    """A started guest; made by a Vmm."""

    def __init__(self, name, channel, log, process):
        self.name = name
        self.log = log
        self.process = process
        self._channel = channel
        self._next = 1

    def wait_ready(self, seconds, mark=0):
        """Waits until the agent answers on the console. Raises BootStuck when only that failed."""
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            if self._channel.wait(READY, 2, mark):
                return time.monotonic() - started
            if PANIC in self._channel.since(mark):
                raise BootStuck(f"{self.name}: the guest's kernel panicked during boot; console log {self.log}")
            self.check_alive("during boot")
        self.check_alive("during boot")
        text = self._channel.since(mark)
        state = "reached its initramfs but not its root disk" if b"initramfs reached" in text else \
            "wrote to its console" if text.strip() else "wrote nothing to its console"
        raise BootStuck(f"{self.name} is not ready after {seconds:.0f} s ({state}); console log {self.log}")

    def check_alive(self, when):
        status = self.process.status()
        if status is not None:
            raise CheckFailed(f"{self.name}: the VMM exited with {status} {when}: {self.process.output()[-600:]}; "
                              f"console log {self.log}")

    def run(self, command, timeout=60):
        """Runs the sh `command` in the guest; returns (status, output)."""
        number = str(self._next)
        self._next += 1
        body = base64.b64encode(command.encode()).decode()
        request = f"# {number} {len(body)} {body}\n".encode()
        begin = re.compile(rb"\n<<" + number.encode() + rb" (\d+) (\d+)\r?\n(.*?)" + number.encode() + rb">>", re.S)
        accepted = re.compile(rb"\n\+\+" + number.encode() + rb"\r?\n|\n\?\?\r?\n|\n<<" + number.encode() + rb" ")
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            mark = self._channel.mark()
            self._channel.send(request)
            got = self._channel.wait(accepted, min(RESEND_SECONDS, deadline - time.monotonic()), mark)
            if not got or b"??" in got.group(0):
                self.check_alive(f"while running '{command[:80]}'")
                continue
            while time.monotonic() < deadline:
                match = self._channel.wait(begin, min(2, deadline - time.monotonic()), mark)
                if match:
                    output = self._decode(match)
                    if output is not None:
                        return int(match.group(1)), output
                    break  # damaged by a kernel message: ask again
                self.check_alive(f"while running '{command[:80]}'")
        raise CheckFailed(f"{self.name} did not answer in {timeout} s to '{command[:200]}'; console log {self.log}")

    @staticmethod
    def _decode(match):
        lines = [line.strip() for line in match.group(3).split(b"\n")]
        try:
            data = base64.b64decode(b"".join(line for line in lines if BASE64_LINE.fullmatch(line)))
        except ValueError:
            return None
        return data.decode(errors="replace") if len(data) == int(match.group(2)) else None

    def must(self, command, timeout=60):
        """Like run; a status but 0 fails the scenario. Returns the output, stripped."""
        status, output = self.run(command, timeout)
        if status != 0:
            raise CheckFailed(f"{self.name}: '{command[:200]}' exited with {status}: {output.strip()[-400:]}")
        return output.strip()

    def tell(self, command):
        """Sends `command` without waiting for an answer (for powering off)."""
        body = base64.b64encode(command.encode()).decode()
        self._channel.send(f"# {self._next} {len(body)} {body}\n".encode())
        self._next += 1

    def reboot(self, seconds):
        """Lets the guest reboot itself, and waits for its agent."""
        mark = self._channel.mark()
        self.tell("sync; reboot -f")
        return self.wait_ready(seconds, mark)

    def log_text(self):
        """All that the console said so far."""
        with open(self.log, "rb") as f:
            return f.read().decode(errors="replace")
