#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of fuzz_dump and fuzz_sketch: seeds_dump.py dump|sketch FOLDER."""
import pathlib
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "analyze"))
import dumps  # noqa: E402


def dump_seeds():
    whole = b"".join(dumps.synthetic(1, 12, 1024))
    parts = [(0x1000, whole[:4096]), (0x100000, whole[4096:])]
    seeds = {"raw": whole, "elf": dumps.elf_core(parts), "elf32": dumps.elf_core(parts, wide=False),
             "extended": dumps.elf_core(parts, extended=True), "process": dumps.elf_core(parts, virtual=True),
             "lime": dumps.lime(parts)}
    # Small, next to each other or overlapping.
    over = [(0x1000, whole[:64]), (0x1020, whole[64:192])]
    seeds |= {"elf-over": dumps.elf_core(over), "lime-over": dumps.lime(over)}
    near = [(0x1000, whole[:64]), (0x1040, whole[64:192])]
    seeds |= {"elf-near": dumps.elf_core(near), "elf32-near": dumps.elf_core(near, wide=False), "lime-near": dumps.lime(near)}
    for name, packed in dumps.compressed(seeds["lime"]).items():
        seeds[name] = packed
    seeds["makedumpfile"] = b"KDUMP   " + whole[:64]
    return seeds


def sketch_record(name, keys):
    return struct.pack("<256sQQQQII", name, 100, 10, len(keys), len(keys), len(keys), 0) + \
        struct.pack("<1024Q", *sorted(keys), *([0] * (1024 - len(keys))))


def sketch_seeds():
    seeds = {}
    for count in (0, 1, 1024):
        records = [sketch_record(name, [i * 977 + 1 for i in range(count)]) for name in (b"all", b"one")]
        body = b"".join(records)
        seeds[str(count)] = struct.pack("<8sIIIIQ", b"SRDNSKCH", 1, 4096, len(records), len(records[0]), 0) + body
    return seeds


if __name__ == "__main__":
    chosen = {"dump": dump_seeds, "sketch": sketch_seeds}[sys.argv[1]]()
    for seed, content in chosen.items():
        pathlib.Path(sys.argv[2], seed).write_bytes(content)
