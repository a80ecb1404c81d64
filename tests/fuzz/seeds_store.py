#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of fuzz_store_serve and fuzz_ring: seeds_store.py store_serve|ring FOLDER."""
import pathlib
import struct
import sys

(HELLO, HELLO_RAW, CALL, RECORDS, REFS, SCRIBBLE, FILL, EVENTS, CLIENT, LEAVE, RAW, TICK) = (bytes([i]) for i in range(12))
(K_HELLO, K_SUBMIT, K_LEND, K_OFFER, K_ADOPT, K_FETCH, K_REFS, K_BYE, K_STATS, K_NONE) = range(1, 11)


def call(kind, count=0, fd=0):
    return CALL + struct.pack("<BIB", kind, count, fd)


def records(count, frame=0, key=7):
    return RECORDS + struct.pack("<BHB", count, frame, key) + call(K_SUBMIT, count)


def refs(segment, page=0, pages=1, delta=1):
    return REFS + struct.pack("<IHHb", segment, page, pages, delta) + call(K_REFS, 1)


def hello_raw(fd=1, low=1, high=1, frames=300, reserved=0, name=b"m"):
    return HELLO_RAW + struct.pack("<BBBQB", fd, low, high, frames, reserved) + name


def store_serve():
    donate = call(K_LEND, 3) + FILL + bytes([9, 3, 1]) + call(K_OFFER, 1)
    both = HELLO + CLIENT + HELLO
    seeds = {"share": both + records(20) + CLIENT + records(20) + donate + refs(1, 0, 3) + call(K_FETCH, 1) + EVENTS + CLIENT + EVENTS,
             "leave": both + records(9) + LEAVE + HELLO + donate + TICK + b"\5" + TICK + b"\5", "adopt": HELLO + call(K_ADOPT) * 2 + refs(1, 0, 2) * 3,
             "unsealed": HELLO + call(K_LEND, 2) + FILL + bytes([1, 2, 0]) + call(K_OFFER, 1), "bye": HELLO + call(K_BYE),
             "stats": call(K_STATS) + HELLO + call(K_STATS), "unknown": call(K_NONE) + HELLO + call(0) + call(11),
             "twice": HELLO + HELLO, "early": call(K_LEND, 1), "too-many": HELLO + call(K_SUBMIT, 16385) + HELLO + call(K_REFS, 0),
             "missing": HELLO + call(K_SUBMIT, 3), "two-fds": HELLO + call(K_LEND, 1, 6), "loans": HELLO + call(K_LEND, 1) * 20,
             "raw": RAW + b"\x04abcd" + RAW + b"\x10" + bytes(16) + HELLO + RAW + b"\xff" + b"\2" * 100,
             "refs": HELLO + donate + refs(1, 0, 3) + refs(1, 0, 3, -1) + refs(1, 1, 9) + refs(9) + refs(1, 0, 1, 5)}
    for at in range(0, 1024 * 4, 128):
        seeds[f"scribble-{at}"] = both + SCRIBBLE + struct.pack("<II", at, 0x80000000) + records(2) + donate + CLIENT + records(3)
    for fd in range(7):
        seeds[f"hello-fd-{fd}"] = hello_raw(fd=fd) + hello_raw(fd=fd, frames=299) + hello_raw(fd=fd, frames=5)
        seeds[f"adopt-fd-{fd}"] = HELLO + call(K_ADOPT, 0, fd)
    for i, wrong in enumerate(({"low": 2, "high": 3}, {"low": 0, "high": 0}, {"high": 3}, {"frames": 1 << 40}, {"reserved": 1},
                               {"name": b"\n"}, {"name": b"c"}, {"name": b"u"}, {"frames": 1})):
        seeds[f"hello-{i}"] = hello_raw(**wrong) + records(1)
    return seeds


def ring():
    def op(step, arg=0):
        return struct.pack("<BI", step, arg)
    return {"plain": (op(0, 5) + op(2, 3) + op(3)) * 4, "full": op(0, 8) + op(0, 1) + op(1, 99) + op(3), "lies": op(4, 9) + op(3) + op(5, 9) + op(0, 1),
            "rewind": op(0, 3) + op(3) + op(6) + op(0, 8) + op(2, 8)}


folder = pathlib.Path(sys.argv[2])
for name, data in {"store_serve": store_serve, "ring": ring}[sys.argv[1]]().items():
    (folder / name).write_bytes(data)
