#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Wraps the probe guest as a bzImage, so that both ways into one are tested without Linux.

usage: mkbzimage.py PROBE.elf OUT [gzip|xz|zstd|lz4]

Unpacked on the host, its payload is the ELF file; entered as it is (64-bit boot protocol, load address + 0x200), what
runs is the flat image in front of the payload. The payload lies behind the end of .bss, where that run leaves it alone.
"""
import gzip
import lzma
import pathlib
import struct
import subprocess
import sys

SETUP_SECTORS = 4
HEADER_END = 0x268


def flat_image(elf):
    """(load address, bytes, size in memory) of a static ELF64."""
    phoff, = struct.unpack_from("<Q", elf, 32)
    entsize, count = struct.unpack_from("<HH", elf, 54)
    loads = []
    for i in range(count):
        kind, _, offset, _, paddr, filesz, memsz, _ = struct.unpack_from("<IIQQQQQQ", elf, phoff + i * entsize)
        if kind == 1 and memsz:
            loads.append((paddr, offset, filesz, memsz))
    base = min(load[0] for load in loads)
    end = max(load[0] + load[3] for load in loads)
    image = bytearray(end - base)
    for paddr, offset, filesz, _ in loads:
        image[paddr - base:paddr - base + filesz] = elf[offset:offset + filesz]
    return base, image, end - base


def compress(data, how):
    size = struct.pack("<I", len(data))  # follows all payloads but gzip's, which ends with it anyway
    if how == "gzip":
        return gzip.compress(data, mtime=0)
    if how == "xz":
        return lzma.compress(data, check=lzma.CHECK_CRC32) + size
    command = {"zstd": ["zstd", "-q", "-c"], "lz4": ["lz4", "-l", "-c", "-q"]}[how]
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout + size


def bzimage(elf, how):
    base, image, mem_size = flat_image(elf)
    payload_offset = (len(image) + 15) & ~15
    payload = compress(elf, how)
    code = bytes(image).ljust(payload_offset, b"\0") + payload
    code += bytes(-len(code) % 16)
    setup = bytearray((SETUP_SECTORS + 1) * 512)
    # Linux boot protocol 2.15: offset, format, value
    for offset, form, value in (
            (0x1f1, "<B", SETUP_SECTORS), (0x1f4, "<I", len(code) // 16), (0x1fe, "<H", 0xaa55),
            (0x200, "<B", 0xeb), (0x201, "<B", HEADER_END - 0x202), (0x202, "<4s", b"HdrS"), (0x206, "<H", 0x020f),
            (0x211, "<B", 1), (0x214, "<I", base), (0x22c, "<I", 0x7fffffff), (0x230, "<I", 0x200000),
            (0x234, "<B", 0), (0x235, "<B", 21), (0x236, "<H", 1), (0x238, "<I", 2047),
            (0x248, "<I", payload_offset), (0x24c, "<I", len(payload)), (0x258, "<Q", base),
            (0x260, "<I", (max(mem_size, len(code)) + 4095) & ~4095)):
        struct.pack_into(form, setup, offset, value)
    return bytes(setup) + code


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    elf = pathlib.Path(sys.argv[1]).read_bytes()
    pathlib.Path(sys.argv[2]).write_bytes(bzimage(elf, sys.argv[3] if len(sys.argv) == 4 else "gzip"))


if __name__ == "__main__":
    main()
