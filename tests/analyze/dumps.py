# SPDX-License-Identifier: Apache-2.0
"""Synthetic dumps in all forms, and a way to run the command."""
import gzip
import json
import lzma
import os
import random
import struct
import shutil
import subprocess
import sys
import unittest

PAGE = 4096
SARDINE = os.environ.get("SARDINE", "build/dev/tools/sardine")
SANITIZED = bool(os.environ.get("SARDINE_SANITIZED"))


def run(*arguments, check=None, **options):
    """`sardine analyze` with these arguments; check: the exit code that it must have."""
    done = subprocess.run([SARDINE, "analyze", *map(str, arguments)], capture_output=True, text=True, timeout=120,
                          check=False, **options)
    if check is not None and done.returncode != check:
        raise AssertionError(f"exit {done.returncode}, not {check}: {arguments}: {done.stderr} {done.stdout[:300]}")
    return done


def analyze(*arguments, check=0, **options):
    return json.loads(run("--json", *arguments, check=check, **options).stdout)


def synthetic(seed, pages, page=PAGE):
    """Memory like a guest's: zero stretches, patterns, runs of common content, single common pages, own content."""
    common = random.Random(7)
    pool = [common.randbytes(page) for _ in range(600)]
    # Pages that differ in one byte at an end only, and pages that begin or end like zero.
    twins = [pool[0][:-1] + bytes([b]) for b in range(4)] + [bytes([b]) + pool[1][1:] for b in range(1, 5)]
    edges = [bytes(page - 1) + b"\1", b"\1" + bytes(page - 1), (b"\1" + bytes(7)) * (page // 8),
             b"\xcc" * (page - 1) + b"\xcd"]
    rnd = random.Random(seed)
    out = []
    while len(out) < pages:
        kind = rnd.random()
        if kind < 0.2:
            out += [bytes(page)] * rnd.randint(1, 80)
        elif kind < 0.3:
            out += [rnd.choice([b"\xcc" * page, b"\xff" * page, struct.pack("<Q", 0xDEAD) * (page // 8)])] * rnd.randint(1, 30)
        elif kind < 0.5:
            start = rnd.randrange(len(pool))
            out += pool[start:start + rnd.choice([1, 2, 3, 20, 64, 600])]
        elif kind < 0.6:
            out += [rnd.choice(twins + edges)]
        elif kind < 0.8:
            out += [rnd.choice(pool)]
        else:
            out += [rnd.randbytes(page) for _ in range(rnd.randint(1, 20))]
    return out[:pages]


def write(path, pages):
    with open(path, "wb") as f:
        f.write(b"".join(pages))
    return str(path)


def write_sparse(path, pages):
    with open(path, "wb") as f:
        for i, page in enumerate(pages):
            if page != bytes(len(page)):
                f.seek(i * len(page))
                f.write(page)
        f.truncate(sum(map(len, pages)))
    return str(path)


def elf_core(segments, wide=True, kind=4, extended=False, virtual=False):
    """segments: [(address, bytes)]; their bytes lie in the file in reverse order."""
    header, entry = (64, 56) if wide else (52, 32)
    table = header + (64 if extended else 0)
    at = (table + entry * (len(segments) + 1) + 4095) // 4096 * 4096
    programs = [struct.pack("<IIQQQQQQ", 4, 0, 0, 0, 0, 0, 0, 0) if wide
                else struct.pack("<IIIIIIII", 4, 0, 0, 0, 0, 0, 0, 0)]
    body = []
    for address, data in reversed(segments):
        physical = 0 if virtual else address
        where = (0xffff888000000000 + address if wide and not virtual else address)
        programs.append(struct.pack("<IIQQQQQQ", 1, 7, at, where, physical, len(data), len(data), 4096) if wide
                        else struct.pack("<IIIIIIII", 1, at, where, physical, len(data), len(data), 7, 4096))
        at += len(data)
        body.append(data)
    count = 0xFFFF if extended else len(programs)
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
    if wide:
        head = ident + struct.pack("<HHIQQQIHHHHHH", kind, 62, 1, 0, table, 64 if extended else 0, 0, header, entry,
                                   count, 64, 1 if extended else 0, 0)
        if extended:
            head += struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, len(programs), 0, 0)
    else:
        head = ident + struct.pack("<HHIIIIIHHHHHH", kind, 3, 1, 0, table, 0, 0, header, entry, count, 40, 0, 0)
    front = head + b"".join(programs)
    return front + bytes(-len(front) % 4096) + b"".join(body)


def lime(segments, version=1):
    return b"".join(struct.pack("<IIQQQ", 0x4C694D45, version, a, a + len(d) - 1, 0) + d for a, d in segments)


def compressed(data):
    """The same bytes as gzip (two members), zstd (two frames), xz."""
    half = len(data) // 2
    zstd = [subprocess.run(["zstd", "-q", "-c"], input=part, capture_output=True, check=True).stdout
            for part in (data[:half], data[half:])]
    return {"gzip": gzip.compress(data[:half], 1) + gzip.compress(data[half:], 1), "zstd": b"".join(zstd),
            "xz": lzma.compress(data, preset=1)}


def as_nobody(folder):
    """How to run the command as somebody who is not root: a copy of it in `folder`, as the build folder may be private."""
    if os.geteuid():
        return [os.path.abspath(SARDINE)]
    os.chmod(folder, 0o755)
    copy = shutil.copy(SARDINE, folder / "sardine")
    os.chmod(copy, 0o755)
    return ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", str(copy)]


def main():
    """Run the file's tests; exit 77 with the reasons when some were skipped and none failed."""
    result = unittest.main(module="__main__", exit=False).result
    if not result.wasSuccessful():
        sys.exit(1)
    for reason in sorted({reason for _, reason in result.skipped}):
        print(f"skipped: {reason}", file=sys.stderr)
    sys.exit(77 if result.skipped else 0)
