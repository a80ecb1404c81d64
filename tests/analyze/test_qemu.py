#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`sardine analyze` on a QEMU process and on QEMU's own dumps of the same memory, known content in it."""
import json
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest

import dumps
import live_pages
import slow_count

QEMU = shutil.which("qemu-system-x86_64")


class Qmp:
    def __init__(self, path):
        deadline = time.monotonic() + 30
        while True:
            try:
                self.socket = socket.socket(socket.AF_UNIX)
                self.socket.connect(path)
                break
            except OSError:
                self.socket.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        self.file = self.socket.makefile("rw", encoding="utf-8")
        self.file.readline()
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise AssertionError(f"{command}: {answer}")

    def close(self):
        self.file.close()
        self.socket.close()


class Qemu(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def start(self, *options):
        """48 MiB; at 16 MiB 20 MiB of synthetic memory. The firmware runs, finds nothing to boot and waits."""
        content = dumps.write(self.folder / "content", dumps.synthetic(21, 5120))
        path = str(self.folder / "qmp")
        child = subprocess.Popen([QEMU, "-nodefaults", "-display", "none", "-accel", "tcg", "-m", "48", *options, "-qmp",
                                  f"unix:{path},server=on,wait=off", "-device",
                                  f"loader,file={content},addr=0x1000000,force-raw=on"])

        def end():
            child.kill()
            child.wait()

        self.addCleanup(end)
        qmp = Qmp(path)
        self.addCleanup(qmp.close)
        return child, qmp

    def test_dumps(self):
        _, qmp = self.start()
        qmp.ask("stop")
        raw, elf = str(self.folder / "raw"), str(self.folder / "elf")
        qmp.ask("pmemsave", val=0, size=48 << 20, filename=raw)
        qmp.ask("dump-guest-memory", paging=False, protocol=f"file:{elf}", format="elf")
        fast = dumps.analyze(raw)
        self.assertEqual(slow_count.differences(slow_count.count([raw]), fast), [])
        # QEMU's core also holds video memory and firmware, beyond RAM, and not the legacy window at 0xa0000.
        core = dumps.analyze(elf)
        self.assertGreaterEqual(core["total"]["saved_pages"], fast["total"]["saved_pages"])
        self.assertEqual(core["images"][0]["form"], "elf")
        both = dumps.analyze(raw, elf)
        self.assertGreater(both["similarity"][0][1], 0.9)
        kdump = str(self.folder / "kdump")
        try:
            qmp.ask("dump-guest-memory", paging=False, protocol=f"file:{kdump}", format="kdump-zlib")
        except AssertionError:
            return  # this QEMU was built without
        self.assertIn("makedumpfile", dumps.run(kdump, check=1).stderr)

    def settled(self, pid):
        """A snapshot once QEMU has given back what it needed to start: two looks in a row at the same pages."""
        deadline = time.monotonic() + 30
        before = live_pages.snapshot(pid)
        while True:
            time.sleep(0.1)
            now = live_pages.snapshot(pid)
            if now.keys() == before.keys():
                return now
            self.assertLess(time.monotonic(), deadline)
            before = now

    def live(self, *options):
        child, qmp = self.start(*options)
        qmp.ask("stop")
        before = self.settled(child.pid)
        fast = dumps.analyze("--pid", child.pid)
        after = live_pages.snapshot(child.pid)
        changed = sum(before.get(a) != after.get(a) for a in before.keys() | after.keys())
        path = dumps.write(self.folder / "live", [before[a] for a in sorted(before)])
        slow = slow_count.count([path], sizes=False)["total"]
        for key in ("pages", "zero", "nonzero_pages", "distinct_nonzero", "saved_pages"):
            self.assertLessEqual(abs(fast["total"][key] - slow[key]), changed, (key, changed))
        self.assertFalse(fast["partial"])
        self.assertLess(changed, len(before) // 10)
        self.assertGreater(fast["total"]["nonzero_pages"], 4000)
        # Running again: it still agrees within what it says has changed, and a bit for QEMU's own heap.
        qmp.ask("cont")
        again = dumps.analyze("--all-vms", "--sample", 0) if not options else dumps.analyze("--pid", child.pid)
        mine = [i for i in again["images"] if i["pid"] == child.pid]
        self.assertEqual(len(mine), 1)

    def test_live(self):
        self.live()

    def test_live_shared_memory(self):
        self.live("-object", "memory-backend-memfd,id=m,size=48M,share=on", "-machine", "memory-backend=m")


if __name__ == "__main__":
    if not QEMU:
        print("qemu-system-x86_64 is not installed")
        sys.exit(77)
    unittest.main()
