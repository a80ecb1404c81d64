# SPDX-License-Identifier: Apache-2.0
"""cpio.py - writes initramfs archives ("newc" cpio) without needing root for device nodes."""

import os
import stat


class Archive:
    """Collects entries in memory; parents are added by themselves."""

    def __init__(self):
        self._entries = {}

    def _parents(self, path):
        parts = path.split("/")[:-1]
        for n in range(1, len(parts) + 1):
            self._entries.setdefault("/".join(parts[:n]), (stat.S_IFDIR | 0o755, b"", (0, 0)))

    def directory(self, path):
        self._parents(path + "/")

    def data(self, path, content, mode=0o644):
        self._parents(path)
        self._entries[path] = (stat.S_IFREG | mode, content, (0, 0))

    def file(self, path, source, mode=None):
        with open(source, "rb") as f:
            self.data(path, f.read(), mode or stat.S_IMODE(os.stat(source).st_mode))

    def link(self, path, target):
        self._parents(path)
        self._entries[path] = (stat.S_IFLNK | 0o777, target.encode(), (0, 0))

    def chardev(self, path, major, minor, mode=0o600):
        self._parents(path)
        self._entries[path] = (stat.S_IFCHR | mode, b"", (major, minor))

    def write(self, dest):
        """Writes the archive to the path `dest`, whole or not at all."""
        aside = dest + ".new"
        with open(aside, "wb") as out:
            for number, (path, (mode, content, dev)) in enumerate(self._entries.items(), 1):
                self._record(out, number, path, mode, content, dev)
            self._record(out, 0, "TRAILER!!!", 0, b"", (0, 0))
        os.replace(aside, dest)

    @staticmethod
    def _record(out, number, path, mode, content, dev):
        # Documentation/driver-api/early-userspace/buffer-format.rst: 13 fields of 8 hex digits
        name = path.encode() + b"\0"
        fields = [number, mode, 0, 0, 1, 0, len(content), 0, 0, dev[0], dev[1], len(name), 0]
        head = b"070701" + b"".join(b"%08X" % f for f in fields) + name
        out.write(head + b"\0" * (-len(head) % 4))
        out.write(content + b"\0" * (-len(content) % 4))
