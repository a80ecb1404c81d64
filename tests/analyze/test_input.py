#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`sardine analyze` given what it should not be given: one clear line, the right exit code, partial results marked."""
import gzip
import json
import lzma
import os
import pathlib
import pty
import re
import signal
import struct
import subprocess
import tempfile
import threading
import time
import unittest

import dumps

PAGES = dumps.synthetic(1, 300)
WHOLE = b"".join(PAGES)


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def file(self, name, content):
        return dumps.write(self.folder / name, [content])

    def one_line(self, text):
        self.assertRegex(text, r"\Asardine analyze: [^\n]+\n\Z")

    def refused(self, *arguments, says, code=1, **options):
        done = dumps.run(*arguments, check=code, **options)
        self.assertEqual(done.stdout, "", arguments)
        self.assertIn(says, done.stderr)
        if code != 2:
            self.one_line(done.stderr)
        return done

    def partial(self, *arguments, says, pages=None, **options):
        done = dumps.run("--json", *arguments, check=1, **options)
        self.one_line(done.stderr)
        self.assertIn(says, done.stderr)
        result = json.loads(done.stdout)
        self.assertTrue(result["partial"])
        self.assertEqual(len(result["problems"]), 1)
        self.assertIn(says, result["problems"][0])
        if pages is not None:
            self.assertEqual(result["total"]["pages"], pages)
        return result


class Usage(Folder):
    def test_options(self):
        good = self.file("good", WHOLE)
        table = [
            ([], "no input"),
            (["--threads", "0", good], "--threads 0"),
            (["--threads", "257", good], "--threads 257"),
            (["--threads", "-1", good], "--threads -1"),
            (["--threads", "two", good], "--threads two"),
            (["--threads", "", good], "--threads"),
            (["--page-size", "0", good], "--page-size 0"),
            (["--page-size", "3000", good], "--page-size 3000"),
            (["--page-size", "512", good], "--page-size 512"),
            (["--page-size", "4M", good], "--page-size 4M"),
            (["--pid", "0"], "--pid 0"),
            (["--pid", "x"], "--pid x"),
            (["--pid", "99999999999999999999"], "--pid 9"),
            (["--pid", "1", "--pid", "1"], "given twice"),
            (["--pid", "1", good], "either dumps or processes"),
            (["--pid", "1", "--all-vms"], "either --pid or --all-vms"),
            (["--every", "0", "--pid", "1"], "--every 0"),
            (["--every", "1y", "--pid", "1"], "--every 1y"),
            (["--every", "1s", good], "--every"),
            (["--rounds", "2", "--pid", "1"], "--rounds"),
            (["--compare", good], "two sketches"),
            (["--compare", "--plot", "x", good, good], "--compare"),
            (["--sample", "1000001", good], "--sample"),
            (["--no-such", good], "--no-such"),
        ]
        for arguments, says in table:
            with self.subTest(arguments):
                self.refused(*arguments, says=says, code=2)

    def test_output_that_fails(self):
        good = self.file("good", WHOLE)
        self.assertIn("/no/such/x.svg", dumps.run("--plot", "/no/such/x.svg", good, check=1).stderr)
        self.assertIn("/no/such/x", dumps.run("--sketch", "/no/such/x", good, check=1).stderr)
        self.assertIn("not a regular file", dumps.run("--sketch", "/dev/null", good, check=1).stderr)
        with open("/dev/full", "w", encoding="ascii") as full:
            done = subprocess.run([dumps.SARDINE, "analyze", "--json", good], stdout=full, stderr=subprocess.PIPE,
                                  text=True, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("No space left", done.stderr)


class Files(Folder):
    def test_refused(self):
        core = dumps.elf_core([(0, WHOLE)])
        table = [
            ("empty", b"", "is empty"),
            ("elf-short", core[:40], "ends within its header"),
            ("elf-no-segments", core[:64], "ends within its program headers"),
            ("elf-executable", dumps.elf_core([(0, WHOLE)], kind=2), "not a core"),
            ("elf-big-endian", core[:5] + b"\2" + core[6:], "big-endian"),
            ("elf-class", core[:4] + b"\7" + core[5:], "neither 32 nor 64 bits"),
            ("elf-phentsize", core[:54] + b"\x10\0" + core[56:], "program headers"),
            ("elf-phoff", core[:32] + b"\xff" * 8 + core[40:], "program headers"),
            ("elf-phnum", core[:56] + b"\xff\xff" + core[58:], "number of its segments"),
            ("elf-empty", dumps.elf_core([]), "holds no memory"),
            ("lime-version", dumps.lime([(0, WHOLE)], version=2), "version 2"),
            ("lime-short", dumps.lime([(0, WHOLE)])[:20], "no block header"),
            ("lime-backwards", struct.pack("<IIQQQ", 0x4C694D45, 1, 0x2000, 0x1000, 0), "no block header"),
            ("lime-all", struct.pack("<IIQQQ", 0x4C694D45, 1, 0, 2**64 - 1, 0), "no block header"),
            ("kdump", b"KDUMP   " + WHOLE, "makedumpfile"),
            ("makedumpfile", b"makedumpfile\0\0\0\0" + WHOLE, "makedumpfile"),
            ("less-than-a-page", b"x" * 4095, "no whole page"),
            ("gzip-short", gzip.compress(WHOLE)[:8], "nothing that can be decoded"),
            ("zstd-corrupt", b"\x28\xb5\x2f\xfd" + b"\xff" * 100, "nothing that can be decoded"),
            ("xz-of-nothing", lzma.compress(b""), "nothing that can be decoded"),
        ]
        for name, content, says in table:
            with self.subTest(name):
                self.refused(self.file(name, content), says=says)

    def test_not_files(self):
        self.refused(str(self.folder), says="is a directory")
        self.refused("/dev/zero", says="not a regular file")
        self.refused(str(self.folder / "absent"), says="No such file")
        os.mkfifo(self.folder / "fifo")
        self.refused(str(self.folder / "fifo"), says="not a regular file")
        # Good ones do not make up for a bad one, and the name is one line whatever it holds.
        self.refused(self.file("good", WHOLE), str(self.folder / "new\nline\33[2J"), says="new?line?[2J")

    def test_unreadable(self):
        secret = self.file("secret", WHOLE)
        os.chmod(secret, 0)
        done = subprocess.run([*dumps.as_nobody(self.folder), "analyze", secret], capture_output=True, text=True,
                              check=False)
        self.assertEqual(done.returncode, 1, done)
        self.assertIn("Permission denied", done.stderr)
        self.one_line(done.stderr)

    def test_partial(self):
        core = dumps.elf_core([(0, WHOLE[:0x40000]), (0x100000, WHOLE[0x40000:])])
        packed = dumps.compressed(WHOLE)
        table = [
            ("misaligned", WHOLE + b"tail", "not made of whole pages", 300),
            ("elf-truncated", core[:-0x5000], "truncated: 20480 bytes", 295),
            ("lime-truncated", dumps.lime([(0, WHOLE[:0x10000]), (0x20000, WHOLE)])[:-0x3000], "truncated", 313),
            ("lime-damaged", dumps.lime([(0, WHOLE)]) + b"x" * 4096, "no block header", 300),
            ("gzip-truncated", packed["gzip"][:-1000], "truncated", None),
            ("zstd-truncated", packed["zstd"][:-1000], "truncated", None),
            ("xz-truncated", packed["xz"][:-1000], "truncated", None),
            ("gzip-corrupt", packed["gzip"][:len(packed["gzip"]) - 5] + b"\0" * 5, "after", None),
            ("gzip-and-more", packed["gzip"] + b"junk junk junk junk", "something else follows", 300),
            ("zstd-and-more", packed["zstd"] + b"junk junk junk junk", "something else follows", 300),
        ]
        for name, content, says, pages in table:
            with self.subTest(name):
                result = self.partial(self.file(name, content), says=says, pages=pages)
                self.assertGreater(result["total"]["pages"], 100)

    def test_mixed_page_counts(self):
        result = dumps.analyze(self.file("a", WHOLE[:4096]), self.file("b", WHOLE), self.file("c", WHOLE[:8192]))
        self.assertEqual([i["pages"] for i in result["images"]], [1, 300, 2])
        self.assertEqual(sum(i["duplicate"] for i in result["images"]), result["total"]["duplicate_pages"])

    def test_only_zeros(self):
        result = dumps.analyze(self.file("zeros", bytes(1 << 20)))
        self.assertEqual(result["total"]["saved_pct_nonzero"], 0)
        self.assertEqual(result["top"], [])
        dumps.run(self.file("zeros", bytes(1 << 20)), check=0)

    def test_no_room_for_the_copy(self):
        packed = self.file("x.gz", gzip.compress(WHOLE))
        done = self.refused(packed, says="/no/such/folder", env={"TMPDIR": "/no/such/folder"})
        self.assertIn("decoded copy", done.stderr)
        # A limit on the size of files stands for a full disk.
        done = subprocess.run(["sh", "-c", 'trap "" XFSZ; ulimit -f 100; exec "$0" analyze "$1"', dumps.SARDINE, packed],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 1, done)
        self.assertIn("set TMPDIR", done.stderr)
        self.one_line(done.stderr)

    def test_growing_and_shrinking(self):
        """The file changes all the time; the pages that were there are counted, and it is said."""
        for grow, says in ((True, "grew"), (False, "shrank")):
            path = self.folder / "moving"
            dumps.write(path, [WHOLE] * 40)
            ended = threading.Event()

            def move(path=path, grow=grow, ended=ended):
                while not ended.is_set():
                    size = os.stat(path).st_size
                    os.truncate(path, size + 4096 if grow else max(size - 4096, 8192))

            mover = threading.Thread(target=move)
            mover.start()
            try:
                done = dumps.run("--json", path, check=1)
            finally:
                ended.set()
                mover.join()
            result = json.loads(done.stdout)
            self.assertTrue(result["partial"])
            self.assertIn(says, done.stderr)
            for line in done.stderr.splitlines():
                self.assertRegex(line, r"^sardine analyze: .*moving: ")

    if not dumps.SANITIZED:  # sanitizers need the address space for themselves

        def test_larger_than_the_address_space_allows(self):
            """A dump larger than the memory that the command may have: it needs its index only."""
            sparse = self.folder / "sparse"
            with open(sparse, "wb") as f:
                f.write(WHOLE)
                f.truncate(32 << 30)
            done = subprocess.run(["sh", "-c", 'ulimit -v 700000; exec "$0" analyze --json "$1"', dumps.SARDINE, sparse],
                                  capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(json.loads(done.stdout)["total"]["pages"], (32 << 30) // 4096)
            # And when not even that fits, it says so.
            done = subprocess.run(["sh", "-c", 'ulimit -v 100000; exec "$0" analyze --json "$1"', dumps.SARDINE, sparse],
                                  capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn("not enough memory", done.stderr)
            self.one_line(done.stderr)

    def test_too_many_pages(self):
        with open(self.folder / "vast", "wb") as f:
            f.truncate((8 << 40) - 4096)
        self.refused("--page-size", "1K", str(self.folder / "vast"), says="too much to analyse at once")


class Terminal(Folder):
    """What a person sees: progress on a terminal only, and Ctrl-C."""

    def big(self, gib):
        """Holes take some time, too: enough for several progress steps, without filling the disk."""
        path = self.folder / "big"
        with open(path, "wb") as f:
            f.write(WHOLE)
            f.truncate(gib << 30)
        return path

    def bar_seen(self, path):
        leader, follower = pty.openpty()
        with subprocess.Popen([dumps.SARDINE, "analyze", "--threads", "1", path], stdout=subprocess.DEVNULL,
                              stderr=follower) as child:
            os.close(follower)
            seen = b""
            try:
                while part := os.read(leader, 4096):
                    seen += part
            except OSError:
                pass  # the end of a terminal
        os.close(leader)
        self.assertEqual(child.returncode, 0)
        return seen

    def test_progress(self):
        """On a terminal, for work that takes longer than a moment: how much that is depends on the machine."""
        for gib in (96, 256, 1024, 3000):
            seen = self.bar_seen(self.big(gib))
            if seen:
                break
        self.assertRegex(seen.decode(), r"\r(reading|comparing)")
        self.assertTrue(seen.endswith(b"\r\33[K"), "the bar is cleared")
        # None in a pipe.
        self.assertEqual(dumps.run(self.big(1), check=0).stderr, "")

    def interrupted(self, path):
        """Ctrl-C as soon as it is caught."""
        with subprocess.Popen([dumps.SARDINE, "analyze", "--threads", "1", "--json", path], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as child:
            status = pathlib.Path(f"/proc/{child.pid}/status")
            deadline = time.monotonic() + 30
            while not int(re.search(r"SigCgt:\t(\w+)", status.read_text(encoding="ascii")).group(1), 16) & 2:
                self.assertLess(time.monotonic(), deadline)
            child.send_signal(signal.SIGINT)
            out, err = child.communicate()
        return child.returncode, out, err

    def test_ctrl_c(self):
        """When it came too late the result is whole, and the next try counts."""
        path = self.big(32)
        for _ in range(10):
            code, out, err = self.interrupted(path)
            result = json.loads(out)
            self.assertEqual(result["partial"], code == 1)
            if result["partial"]:
                break
            self.assertEqual(result["total"]["pages"], (32 << 30) // 4096)
        self.assertEqual(code, 1)
        self.one_line(err)
        self.assertIn("stopped: ", err)
        self.assertLess(result["total"]["pages"], (32 << 30) // 4096)


class Sketches(Folder):
    def sketch(self, name, *paths):
        out = self.folder / name
        dumps.run("--sketch", out, *paths, check=0)
        return out

    def test_estimate_is_within_its_error(self):
        """Sets of known overlap; of ten estimates, all within four standard deviations, most within two."""
        near = 0
        for step in range(10):
            first = [struct.pack("<Q", i + 1) * 512 for i in range(6000)]
            second = [struct.pack("<Q", i + 1 + 600 * step) * 512 for i in range(6000)]
            a = self.sketch("a", dumps.write(self.folder / "1", first))
            b = self.sketch("b", dumps.write(self.folder / "2", second))
            pair = json.loads(dumps.run("--compare", "--json", a, b, check=0).stdout)["pairs"][0]
            true = 6000 - 600 * step
            self.assertLessEqual(abs(pair["shared_pages"] - true), 4 * pair["shared_pages_error"] + 1)
            near += abs(pair["shared_pages"] - true) <= 2 * pair["shared_pages_error"] + 1
            self.assertLess(pair["similarity_error"], 0.017)
            self.assertFalse(pair["exact"])
            self.assertLess(os.stat(a).st_size, 18000)
        self.assertGreaterEqual(near, 8)

    def test_small_sets_are_exact(self):
        first, second = dumps.write(self.folder / "1", PAGES[:200]), dumps.write(self.folder / "2", PAGES[100:])
        pair = json.loads(dumps.run("--compare", "--json", self.sketch("a", first), self.sketch("b", second),
                                    check=0).stdout)["pairs"][0]
        self.assertTrue(pair["exact"])
        together = dumps.analyze(first, second)
        self.assertEqual(pair["shared_pages"], together["pairs"][0][1])
        self.assertEqual(pair["shared_pages"], together["total"]["inter_pages"])
        self.assertAlmostEqual(pair["similarity"], together["similarity"][0][1], places=3)
        dumps.run("--compare", self.folder / "a", self.folder / "b", check=0)

    def test_several_images(self):
        paths = [dumps.write(self.folder / f"{i}", dumps.synthetic(i, 400)) for i in range(4)]
        a, b = self.sketch("a", *paths[:2]), self.sketch("b", *paths[2:])
        result = json.loads(dumps.run("--compare", "--json", a, b, check=0).stdout)
        self.assertEqual(len(result["image_pairs"]), 4)
        apart = sum(dumps.analyze(*half)["total"]["distinct_nonzero"] for half in (paths[:2], paths[2:]))
        self.assertEqual(result["pairs"][0]["shared_pages"],
                         apart - dumps.analyze(*paths)["total"]["distinct_nonzero"])

    def test_damaged(self):
        good = self.sketch("good", self.file("m", WHOLE))
        content = good.read_bytes()
        table = [(b"", "is not a sketch"), (WHOLE, "is not a sketch"), (content[:-1], "wrong length"),
                 (content + b"x", "wrong length"), (content[:8] + b"\2" + content[9:], "version 2"),
                 (content[:16] + b"\xff\xff\xff\xff" + content[20:], "damaged"),
                 (content[:1000] + bytes([content[1000] ^ 1]) + content[1001:], "damaged")]
        for broken, says in table:
            self.refused("--compare", good, self.file("bad", broken), says=says)
        self.refused("--compare", good, self.folder, says="is not a sketch")
        self.refused("--compare", good, self.folder / "absent", says="No such file")
        other = self.folder / "other"
        dumps.run("--page-size", "8K", "--sketch", other, self.folder / "m", check=0)
        self.refused("--compare", good, other, says="pages of 8192 bytes")


if __name__ == "__main__":
    dumps.main()
