#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`sardine analyze` agrees to the page with the slow counter, in every form that a dump comes in."""
import os
import pathlib
import tempfile
import unittest

import dumps
import slow_count


class Exact(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def make(self, count=3, pages=1500, seed=0, page=dumps.PAGE):
        made = [dumps.synthetic(seed + i, pages + 211 * i, page) for i in range(count)]
        return made, [dumps.write(self.folder / f"{seed}-{i}.raw", m) for i, m in enumerate(made)]

    def agree(self, paths, *options, page=dumps.PAGE, sizes=True):
        fast = dumps.analyze(*options, *paths)
        self.assertEqual(slow_count.differences(slow_count.count(paths, page, sizes), fast), [])
        self.assertFalse(fast["partial"])
        return fast

    def test_synthetic(self):
        for seed in range(0, 60, 10):
            _, paths = self.make(count=1 + seed // 10, seed=seed, pages=400 + 200 * (seed // 10))
            self.agree(paths)

    def test_threads_do_not_matter(self):
        _, paths = self.make()
        alone = dumps.analyze("--threads", 1, *paths)
        for threads in (2, 7, 256):
            many = dumps.analyze("--threads", threads, *paths)
            for key in ("seconds", "time"):
                alone.pop(key, None)
                many.pop(key)
            self.assertEqual(alone, many)

    def test_other_page_sizes(self):
        _, paths = self.make(pages=1024)
        for page in (1024, 2048, 16384, 2 << 20):
            self.agree(paths, "--page-size", page, page=page)

    def test_small_sizes_beside(self):
        _, paths = self.make(pages=700)
        fast = dumps.analyze("--sizes", *paths)
        slow = slow_count.count(paths, 1024)
        self.assertEqual(slow_count.differences(slow["sizes"], fast["sizes"]), [])

    def test_huge_blocks(self):
        block = b"".join(dumps.synthetic(1, 512))
        other = b"".join(dumps.synthetic(2, 512))
        zero = bytes(len(block))
        path = dumps.write(self.folder / "huge", [block, other, zero, block, other[:-1] + b"x", zero, block, b"y" * 4096])
        fast = self.agree([path])
        self.assertEqual(fast["huge"], {"blocks": 7, "zero": 2, "identical": 3})

    def test_same_file_twice(self):
        _, paths = self.make(count=1)
        fast = self.agree(paths * 2)
        self.assertEqual(fast["similarity"], [[1, 1], [1, 1]])

    def forms(self, segments):
        data = {"elf": dumps.elf_core(segments), "elf32": dumps.elf_core(segments, wide=False),
                "extended": dumps.elf_core(segments, extended=True), "gcore": dumps.elf_core(segments, virtual=True),
                "lime": dumps.lime(segments), "lime unsorted": dumps.lime(segments[::-1])}
        for name, plain in list(data.items()):
            for kind, packed in dumps.compressed(plain).items():
                if name in ("elf", "lime"):
                    data[f"{name} {kind}"] = packed
        return data

    def test_forms_agree_with_raw(self):
        pages = dumps.synthetic(3, 900)
        raw = dumps.write(self.folder / "raw", pages)
        whole = b"".join(pages)
        want = self.agree([raw])
        # Cut into segments that touch: the same memory.
        cuts = [(at, whole[at:end]) for at, end in ((0, 0xA0000), (0xA0000, 0x200000), (0x200000, len(whole)))]
        data = self.forms(cuts)
        for kind, packed in dumps.compressed(whole).items():
            data[f"raw {kind}"] = packed
        for name, content in data.items():
            path = dumps.write(self.folder / "form", [content])
            got = dumps.analyze(path)
            for key in ("total", "runs", "huge", "sizes", "pairs"):
                self.assertEqual(got[key], want[key], (name, key))
            self.assertEqual(got["images"][0]["form"], name.split()[0].replace("elf32", "elf").replace(
                "extended", "elf").replace("gcore", "elf"))
            if len(name.split()) == 2 and name.split()[1] != "unsorted":
                self.assertEqual(got["images"][0]["compression"], name.split()[1])

    def test_gaps_in_addresses(self):
        first, second = dumps.synthetic(4, 600), dumps.synthetic(5, 700)
        for name, content in self.forms([(0x1000, b"".join(first)), (0x40000000, b"".join(second))]).items():
            path = dumps.write(self.folder / "gaps", [content])
            got = dumps.analyze(path)
            together = dumps.write(self.folder / "together", first + second)
            want = slow_count.count([together], sizes=False)
            self.assertEqual(slow_count.differences({"total": want["total"]}, got), [], name)

    def test_sparse_is_read_sparsely(self):
        pages = dumps.synthetic(6, 2000)
        pages[500:1500] = [bytes(4096)] * 1000
        raw = dumps.write(self.folder / "raw", pages)
        sparse = dumps.write_sparse(self.folder / "sparse", pages)
        self.assertLess(os.stat(sparse).st_blocks, os.stat(raw).st_blocks)
        want, got = dumps.analyze(raw), dumps.analyze(sparse)
        for key in ("total", "runs", "huge", "sizes"):
            self.assertEqual(got[key], want[key])
        # 256 GiB of holes with a few pages: neither time nor memory are spent on them.
        with open(self.folder / "vast", "wb") as f:
            for i, page in enumerate(pages[:300]):
                f.seek(i * (800 << 20) // 4096 * 4096)
                f.write(page)
            f.truncate(256 << 30)
        got = dumps.analyze(str(self.folder / "vast"))
        self.assertEqual(got["total"]["pages"], 256 << 18)
        distinct = len({p for p in pages[:300] if p != bytes(4096)})
        self.assertEqual(got["total"]["distinct_nonzero"], distinct)


if __name__ == "__main__":
    dumps.main()
