# SPDX-License-Identifier: Apache-2.0
"""The memory of a process as a raw dump, read in the obvious way; the slow counter then counts it."""
import re
import struct

PAGE = 4096
SHARED = ("/memfd:", "/dev/shm/", "/dev/zero", "/SYSV", "/anon_hugepage", "/dev/hugepages/")


def populated(pid):
    """Addresses of the pages that are the process's own: anonymous, or of writable shared memory; present ones."""
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as maps, open(f"/proc/{pid}/pagemap", "rb") as pagemap:
        for line in maps:
            start, end, perms, path = re.match(r"(\w+)-(\w+) (\S+) \S+ \S+ \S+\s*(.*)", line).groups()
            if re.match(r"\[v(var|dso|syscall)|anon_inode:", path):
                continue
            everything = path.startswith(SHARED) or (perms[1] == "w" and perms[3] == "s" and not path.startswith("/dev/"))
            if path.startswith("/dev/") and not path.startswith(SHARED):
                continue
            first, last = int(start, 16) // PAGE, int(end, 16) // PAGE
            pagemap.seek(first * 8)
            entries = pagemap.read((last - first) * 8)
            for i, (entry,) in enumerate(struct.iter_unpack("<Q", entries)):
                if entry >> 63 & 1 and (everything or not entry >> 61 & 1):
                    yield (first + i) * PAGE


def snapshot(pid):
    """{address: bytes}"""
    pages = {}
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for address in populated(pid):
            memory.seek(address)
            try:
                pages[address] = memory.read(PAGE)
            except OSError:
                pass
    return pages
