# SPDX-License-Identifier: Apache-2.0
"""bad_input.py - what the tables of bad input are made of: each row gives one clear line, the right exit code, no crash, and leaves
nothing behind.

A row is a method of a BadInputTest that returns what `run` is told beside the usual options, decorated with the exit code and the
words that the line must hold. Rows with kvm=True reach the point where KVM is needed; the others run anywhere.
"""
import fcntl
import os
import pathlib
import struct

import sardine_test
from kernel_files import MIB, elf, segment
from sardine_test import SardineTest, no_kvm_reason, probe_kernel

NO_KVM = no_kvm_reason()
NOBODY = 65534
# uid 0 without its capabilities: permission bits count for it as for anybody.
NO_CAPS = ("setpriv", "--bounding-set=-all")
LOAD = 16 * MIB


def in_namespace(script, *then):
    """A command line prefix: run a script in a private mount namespace, then the command, under `then` if given."""
    return ("unshare", "-m", "sh", "-c", f'{script} && exec "$@"', "sh", *then)


TAP = "ip tuntap add dev t0 mode tap vnet_hdr"


def in_network(script="true", *then):
    """A command line prefix: run a script in a network namespace of its own, then the command, under `then` if given."""
    return ("unshare", "-n", "sh", "-c", f'{script} && exec "$@"', "sh", *then)


def row(code, *words, kvm=False, root=False, **extra):
    """Decorator of a row; see the module's text. `extra` may override name=, mem=, kernel= (None leaves the option out)."""

    def decorate(make):
        def test(self):
            if kvm and NO_KVM:
                self.skipTest(NO_KVM)
            if root and os.geteuid():
                self.skipTest("needs root")
            self.judge(make(self), code, words, extra)

        test.__name__ = make.__name__
        test.__doc__ = make.__doc__
        test.make = make
        return test

    return decorate


class BadInputTest(SardineTest):
    def judge(self, told, code, words, extra):
        """Run with what the row returned: a list of arguments, or (arguments, options of sardine())."""
        args, kwargs = told if isinstance(told, tuple) else (told, {})
        usual = {"name": "bad", "kernel": self.kernel, "mem": "64M", "console": "none", "cache-dir": self.cache, **extra}
        for name, value in usual.items():
            if value is not None and f"--{name}" not in args:
                args = [f"--{name}", value, *args]
        before = self.files()
        done = self.sardine("run", *args, seconds=20, **kwargs)
        self.assertOneLine(done, code, *words)
        self.assertEqual(self.files(), before, "files that came or went")
        self.assertLess(len(done.stderr), 700)

    def setUp(self):
        super().setUp()
        # Never run to an end by these tests: each fails before.
        self.kernel = probe_kernel() or self.file("halt.elf", elf(segment(LOAD, b"\xf4" * 64)))

    def file(self, name, data=b"", mode=0o644):
        path = self.dir / name
        path.write_bytes(data)
        path.chmod(mode)
        return path

    def sparse(self, name, size):
        path = self.dir / name
        with open(path, "wb") as f:
            f.truncate(size)
        return path

    def fifo(self):
        path = self.dir / "fifo"
        os.mkfifo(path)
        return path

    def elf(self, *args, **kwargs):
        return ["--kernel", self.file("bad.elf", elf(*args, **kwargs))]

    def config(self, text):
        return ["--config", self.file("bad.json", text.encode())]

    def lock(self, path, kind):
        """An open file description lock on all of a file, held to the end of the test."""
        file = open(path, "r+b")
        self.addCleanup(file.close)
        fcntl.fcntl(file, 37, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))  # F_OFD_SETLK

    def leftovers(self):
        return [p for p in super().leftovers() if p not in getattr(self, "foreign", [])]

    def as_nobody(self):
        """What a run as another user needs: its folders, and a kernel where it can read it."""
        for path in (self.dir, self.xdg, self.cache, self.home):
            os.chown(path, NOBODY, NOBODY)
        return ["--kernel", self.file("nobody.elf", elf(segment(LOAD)))]

    def nobody(self, kvm_mode):
        """Run as another user, the command from a copy that this user can reach, /dev/kvm with this mode."""
        copy = self.file("sardine", pathlib.Path(sardine_test.sardine_bin()).read_bytes(), 0o755)
        setup = f"mount -t tmpfs -o mode=755 none /dev && mknod /dev/kvm c 10 232 && chmod {kvm_mode:o} /dev/kvm"
        drop = f"exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups {copy} \"$@\""
        return ("unshare", "-m", "sh", "-c", f"{setup} && shift && {drop}", "sh")
