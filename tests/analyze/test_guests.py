#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`sardine analyze` agrees to the page with the slow counter on stock guests with differing roles and seeds.

    test_guests.py LAB-RUN BUILD-FOLDER     lets the lab make the dumps (some minutes; with SARDINE_FULL larger guests and more forms)
    SARDINE_DUMPS=FOLDER test_guests.py     takes the ELF dumps in FOLDER
"""
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

import dumps
import slow_count


FULL = bool(os.environ.get("SARDINE_FULL"))
MEMORY_MIB = 256 if FULL else 128
# the command and the suffix of each compressed dump; the other dumps of that run stay raw
COMPRESSED = [(["gzip", "-1"], "gz"), (["zstd", "-1", "-q"], "zst"), (["xz", "-0"], "xz"), (["gzip", "-1"], "gz")]
if not FULL:
    # unit-analyze-exact has each format
    COMPRESSED = COMPRESSED[:2]


def raw_of(core, raw):
    """The memory of an ELF core as a raw dump, its holes left out, read in the obvious way."""
    content = pathlib.Path(core).read_bytes()
    offset, = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<HH", content, 54)
    segments = []
    for i in range(count):
        kind, _, where, _, physical, length, _, _ = struct.unpack_from("<IIQQQQQQ", content, offset + i * size)
        if kind == 1:
            segments.append((physical, content[where:where + length]))
    with open(raw, "wb") as f:
        for _, memory in sorted(segments):
            assert len(memory) % 4096 == 0
            f.write(memory)
    return len(segments)


def check(name, found):
    print(f"{name}: {'equal' if not found else found[:5]}", flush=True)
    return not found


def main():
    folder = os.environ.get("SARDINE_DUMPS")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as temporary:
        if not folder:
            folder = temporary + "/guests"
            made = subprocess.run([sys.argv[1], "--build", sys.argv[2], "dumps", "--out", folder, "--guests", "4",
                                   "--mem", str(MEMORY_MIB), "--format", "elf"], check=False)
            if made.returncode:
                return made.returncode
        cores = sorted(str(p) for p in pathlib.Path(folder).glob("*.elf"))
        raws = [f"{temporary}/{pathlib.Path(core).stem}.raw" for core in cores]
        whole = [raw_of(core, raw) == 1 for core, raw in zip(cores, raws)]
        good = check("number of dumps", [] if len(cores) >= 2 else [f"{len(cores)} in {folder}"])
        fast = dumps.analyze(*raws)
        slow = slow_count.count(raws)
        good &= check(f"raw, {fast['total']['pages']} pages", slow_count.differences(slow, fast))
        # With holes, runs and blocks can differ: they end at a hole in the addresses.
        same = ("total", "pairs") + (("runs", "sizes", "huge") if all(whole) else ())
        wanted = {key: fast[key] for key in same}
        good &= check("ELF", slow_count.differences(wanted, dumps.analyze(*cores)))
        good &= check("one thread", slow_count.differences(wanted, dumps.analyze("--threads", 1, *raws)))
        packed = []
        for raw, (command, suffix) in zip(raws, COMPRESSED):
            packed.append(f"{raw}.{suffix}")
            with open(raw, "rb") as source, open(packed[-1], "wb") as target:
                subprocess.run([*command, "-c"], stdin=source, stdout=target, check=True)
        good &= check("compressed", slow_count.differences(wanted, dumps.analyze(*packed, *raws[len(packed):])))
        sparse = []
        for raw in raws:
            sparse.append(raw + ".sparse")
            subprocess.run(["cp", "--sparse=always", raw, sparse[-1]], check=True)
        good &= check("sparse", slow_count.differences(wanted, dumps.analyze(*sparse)))
        total = fast["total"]
        print(json.dumps(total))
        if os.environ.get("SARDINE_KEEP"):
            shutil.copytree(temporary, os.environ["SARDINE_KEEP"], dirs_exist_ok=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
