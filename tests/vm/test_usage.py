#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The README's screen of usage, run as printed, line by line, with the probe guest as the kernel."""
import json
import os
import pty
import shutil
import subprocess

import sardine_test
from sardine_test import ROOT, SardineTest, Stream, no_kvm_reason, poll

MIB = 1 << 20


def printed():
    """The fenced block of the README's section Usage."""
    return (ROOT / "README.md").read_text().split("\n## Usage\n")[1].split("```")[1]


def screen():
    """The commands: lines joined at backslashes, comments cut off."""
    text = printed().replace("\\\n", " ")
    return [line.split("#")[0].strip() for line in text.splitlines() if line.split("#")[0].strip()]


class Usage(SardineTest):
    def setUp(self):
        if no_kvm_reason():
            self.skipTest(no_kvm_reason())
        super().setUp()
        shutil.copy(sardine_test.probe_kernel(), self.dir / "vmlinuz")
        (self.dir / "initrd.img").write_bytes(os.urandom(MIB))
        for name in ("web1.img", "base.img"):
            (self.dir / name).write_bytes(bytes(MIB))
        (self.dir / "bin").mkdir()
        (self.dir / "bin" / "sardine").symlink_to(sardine_test.sardine_bin())
        self.env["PATH"] = f"{self.dir}/bin:{os.environ['PATH']}"
        # The default cache of root is the host's: keep out of it.
        self.prefix = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /var/cache && exec sh -c "$1"', "sh"] \
            if os.geteuid() == 0 else ["sh", "-c"]

    def spawn(self, line, **kwargs):
        return subprocess.Popen([*self.prefix, line], env=self.env, cwd=self.dir, **kwargs)

    def shell(self, line):
        process = self.spawn(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, err = process.communicate(timeout=90)
        self.assertEqual(process.returncode, 0, f"{line}: {out}{err}")
        return out

    def console(self, line):
        """At a terminal: the guest is told to heed its power button, then Ctrl-A x."""
        ours, theirs = pty.openpty()
        process = self.spawn(line, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE)
        os.close(theirs)
        with open(ours, "rb", buffering=0) as terminal:
            stream = Stream(terminal)
            stream.expect("probe: ready", 20)
            command = b"@1 button off=1 timeout_ms=60000\r"
            os.write(ours, command)
            # Leaving drops what the guest has not taken yet.
            poll(lambda: self.taken("web1") == len(command), "the guest takes the command", 20)
            os.write(ours, b"\x01x")
            _, err = process.communicate(timeout=20)
            self.assertEqual(process.returncode, 0, err)

    def taken(self, name):
        """Bytes of console input that the guest has read."""
        stats = json.loads(self.sardine("stats", name, "--json").stdout)
        return next(d["input_bytes"] for d in stats["devices"] if d["type"] == "console")

    def foreground(self, line):
        with self.spawn(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                console = Stream(process.stdout)
                # What comes before the guest has set its port up, it drops, as on any machine.
                console.expect("probe: ready", 20)
                process.stdin.write(b"@1 poweroff\n")
                process.stdin.flush()
                self.assertEqual(process.wait(20), 0, console.text())
            finally:
                process.kill()

    def test_as_printed(self):
        lines = screen()
        self.assertGreater(len(lines), 10)
        for line in lines:
            with self.subTest(line):
                if " console " in line:
                    self.console(line)
                elif line.startswith("sardine run --config"):
                    self.foreground(line)
                else:
                    self.shell(line)
        self.assertEqual((self.dir / "web1.core").read_bytes()[:4], b"\x7fELF")

    def test_the_screen_is_a_screen(self):
        lines = printed().strip().splitlines()
        self.assertLessEqual(len(lines), 24)
        self.assertLessEqual(max(map(len, lines)), 110)


if __name__ == "__main__":
    sardine_test.main()
