# SPDX-License-Identifier: Apache-2.0
"""Kernel files made to order, good and bad: ELF images and bzImages around a payload."""
import gzip
import struct

MIB = 1 << 20
EM_X86_64 = 62


def segment(paddr, data=b"\x90" * 64, memsz=None, offset=None, filesz=None):
    """A PT_LOAD segment; offset and filesz lie about the data when given."""
    return {"paddr": paddr, "data": data, "memsz": len(data) if memsz is None else memsz, "offset": offset,
            "filesz": filesz}


def elf(*segments, entry=None, machine=EM_X86_64, bits=64, kind=2, phnum=None):
    """A 64-bit executable with these segments."""
    entry = segments[0]["paddr"] if entry is None and segments else entry or 0
    count = len(segments) if phnum is None else phnum
    ident = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1, 1, 0]) + bytes(8)
    head = ident + struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, entry, 64, 0, 0, 64, 56, count, 64, 0, 0)
    offset = 64 + 56 * len(segments)
    table, body = b"", b""
    for s in segments:
        filesz = len(s["data"]) if s["filesz"] is None else s["filesz"]
        at = offset + len(body) if s["offset"] is None else s["offset"]
        table += struct.pack("<IIQQQQQQ", 1, 7, at, s["paddr"], s["paddr"], filesz, s["memsz"], 0)
        body += s["data"]
    return head + table + body


def bzimage(payload, init_size=32 * MIB, version=0x20f, setup_sects=1, magic=b"HdrS", boot_flag=0xaa55):
    """A bzImage (Linux Documentation/arch/x86/boot.rst) whose 64-bit entry halts, around a packed payload."""
    setup = bytearray(512 * (setup_sects + 1))
    code = bytearray(b"\xf4" * 0x400)
    code += payload + bytes(-(len(code) + len(payload)) % 16)
    setup[0x1f1] = setup_sects
    struct.pack_into("<I", setup, 0x1f4, len(code) // 16)
    struct.pack_into("<H", setup, 0x1fe, boot_flag)
    setup[0x200:0x202] = b"\xeb\x6a"  # the header ends at 0x26c
    setup[0x202:0x206] = magic
    struct.pack_into("<H", setup, 0x206, version)
    setup[0x211] = 1  # LOADED_HIGH
    struct.pack_into("<I", setup, 0x22c, 0x7fffffff)  # initrd_addr_max
    struct.pack_into("<I", setup, 0x230, 0x200000)  # kernel_alignment
    setup[0x234] = 1  # relocatable
    struct.pack_into("<H", setup, 0x236, 1)  # XLF_KERNEL_64
    struct.pack_into("<I", setup, 0x238, 4095)  # cmdline_size
    struct.pack_into("<II", setup, 0x248, 0x400, len(payload))
    struct.pack_into("<Q", setup, 0x258, 16 * MIB)  # pref_address
    struct.pack_into("<I", setup, 0x260, init_size)
    return bytes(setup + code)


def gzip_payload(data):
    """As the kernel's build makes it: gzip's own trailer is the unpacked size."""
    return gzip.compress(data, 1)
