#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A guest that breaks the rules: the device stops until its reset and counts it, the VM and its other devices go on."""
import struct

import sardine_test
from net_namespace import drop, make_tap, no_taps_reason
from probe import (BALLOON, BLOCK, F_EVENT_IDX, F_INDIRECT, FULL, GIB, MIB, NEEDS_RESET, NET, PAGE, RNG, SECTOR, VSOCK,
                   ProbeTest, pattern_sectors)
from sardine_test import poll

MEM = 64 * MIB
CID = 9
QUEUE = 64
ROUNDS = 5000 if FULL else 200
NEXT, WRITE, INDIRECT = 1, 2, 4
# Pages of the guest that the rows use.
HEADER, DATA, STATUS, TABLE = 32 * MIB, 33 * MIB, 34 * MIB, 35 * MIB

REG_DRIVER, REG_DRIVER_SEL, REG_QUEUE_SEL, REG_QUEUE_NUM, REG_QUEUE_READY = 0x20, 0x24, 0x30, 0x38, 0x44
REG_NOTIFY, REG_STATUS, REG_DESC, REG_AVAIL, REG_USED, REG_CONFIG = 0x50, 0x70, 0x80, 0x90, 0xA0, 0x100


def desc(address, length, flags=0, link=0):
    return struct.pack("<QIHH", address & (1 << 64) - 1, length, flags, link)


# A request that is fine: read one sector.
GOOD = (desc(HEADER, 16, NEXT, 1), desc(DATA, SECTOR, NEXT | WRITE, 2), desc(STATUS, 1, WRITE))


class Ring:
    """A queue of a device, whose parts are written from here."""

    def __init__(self, probe, dev, features, queue=0):
        self.probe = probe
        self.queue = queue
        got = probe.ask("vstart", dev=dev, size=QUEUE, features=features, queues=queue + 1)
        self.base, *parts = (got[key] for key in ("base", f"desc{queue}", f"avail{queue}", f"used{queue}"))
        self.desc, self.avail, self.used = parts

    def store(self, address, data):
        for at in range(0, len(data), 256):
            self.probe.ask("store", at=address + at, hex=data[at:at + 256].hex())

    def chain(self, *descriptors, at=0):
        self.store(self.desc + 16 * at, b"".join(descriptors))

    def offer(self, *heads, index=None):
        """Put heads into the available ring, and kick."""
        self.store(self.avail + 4, struct.pack(f"<{len(heads)}H", *heads))
        self.store(self.avail + 2, struct.pack("<H", len(heads) if index is None else index))
        self.poke(REG_NOTIFY, self.queue)

    def poke(self, offset, value, width=4):
        self.probe.ask("poke", at=self.base + offset, value=value, width=width)


def one_chain(*descriptors, head=0):
    def row(ring):
        ring.chain(*descriptors)
        ring.offer(head)
    return row


def in_table(*descriptors, length=None, flags=INDIRECT, address=TABLE):
    def row(ring):
        ring.store(TABLE, b"".join(descriptors))
        ring.chain(desc(address, 16 * len(descriptors) if length is None else length, flags, 1))
        ring.offer(0)
    return row


def set_up(register, value, high=0):
    """Enable a queue whose one register is wrong."""
    def row(ring):
        ring.poke(REG_STATUS, 0)
        for status in (1, 3):
            ring.poke(REG_STATUS, status)
        ring.poke(REG_DRIVER_SEL, 1)
        ring.poke(REG_DRIVER, 1)
        ring.poke(REG_STATUS, 11)
        ring.poke(REG_QUEUE_NUM, QUEUE)
        for at, address in ((REG_DESC, ring.desc), (REG_AVAIL, ring.avail), (REG_USED, ring.used)):
            ring.poke(at, address)
            ring.poke(at + 4, 0)
        ring.poke(register, value)
        if high:
            ring.poke(register + 4, high)
        ring.poke(REG_QUEUE_READY, 1)
        ring.poke(REG_STATUS, 15)
        ring.offer(0)
    return row


def pokes(*writes):
    def row(ring):
        for offset, value, width in writes:
            ring.poke(offset, value, width)
    return row


def bad_length(length, address=DATA):
    return one_chain(GOOD[0], desc(address, length, NEXT | WRITE, 2), GOOD[2])


# What breaks a queue: (what, row, features)
BREAKS = (
    ("head out of range", one_chain(*GOOD, head=QUEUE), 0),
    ("head 0xffff", one_chain(*GOOD, head=0xFFFF), 0),
    ("next out of range", one_chain(desc(HEADER, 16, NEXT, QUEUE)), 0),
    ("next 0xffff", one_chain(desc(HEADER, 16, NEXT, 0xFFFF)), 0),
    ("a loop of one", one_chain(desc(HEADER, 16, NEXT, 0)), 0),
    ("a loop of two", one_chain(desc(HEADER, 16, NEXT, 1), desc(DATA, 512, NEXT, 0)), 0),
    ("a loop of writables", one_chain(desc(HEADER, 16, NEXT, 1), desc(DATA, 512, NEXT | WRITE, 1)), 0),
    ("behind the end of RAM", bad_length(SECTOR, MEM), 0),
    ("over the end of RAM", bad_length(SECTOR, MEM - 256), 0),
    ("in the hole", bad_length(SECTOR, 0xD0000000), 0),
    ("in the LAPIC", bad_length(SECTOR, 0xFEE00000), 0),
    ("above 4 GiB", bad_length(SECTOR, 4 * GIB), 0),
    ("the last byte there is", bad_length(SECTOR, -1), 0),
    ("an address that wraps", bad_length(2 * PAGE, -PAGE), 0),
    ("4 GiB - 1", bad_length(0xFFFFFFFF), 0),
    ("nothing", bad_length(0), 0),
    ("chain above 4 GiB", one_chain(*[desc(0, MEM, NEXT, i + 1) for i in range(QUEUE - 1)], desc(0, MEM, WRITE)),
     0),
    ("header behind RAM", one_chain(desc(MEM, 16, NEXT, 1), *GOOD[1:]), 0),
    ("short header", one_chain(desc(HEADER, 8, NEXT, 1), *GOOD[1:]), 0),
    ("header for writing", one_chain(desc(HEADER, 16, NEXT | WRITE, 1), *GOOD[1:]), 0),
    ("no status", one_chain(desc(HEADER, 16, NEXT, 1), desc(DATA, SECTOR)), 0),
    ("only a status", one_chain(desc(STATUS, 1, WRITE)), 0),
    ("readable after writable", one_chain(GOOD[0], desc(DATA, SECTOR, NEXT | WRITE, 2), desc(STATUS, 1)), 0),
    ("status behind RAM", one_chain(*GOOD[:2], desc(MEM, 1, WRITE)), 0),
    ("index jumps", lambda r: (r.chain(*GOOD), r.offer(0, index=QUEUE + 1)), 0),
    ("index goes back", lambda r: (r.chain(*GOOD), r.offer(0, index=0xFFFF)), 0),
    ("indirect without the feature", in_table(*GOOD), 0),
    ("nested table", in_table(desc(TABLE, 48, INDIRECT)), F_INDIRECT),
    ("table of no length", in_table(*GOOD, length=0), F_INDIRECT),
    ("table of 24 bytes", in_table(*GOOD, length=24), F_INDIRECT),
    ("table of 4 GiB - 16", in_table(*GOOD, length=0xFFFFFFF0), F_INDIRECT),
    ("table behind RAM", in_table(*GOOD, address=MEM), F_INDIRECT),
    ("table at the end of RAM", in_table(*GOOD, address=MEM - 32), F_INDIRECT),
    ("table and next", in_table(*GOOD, flags=INDIRECT | NEXT), F_INDIRECT),
    ("table's next out of range", in_table(GOOD[0], desc(DATA, SECTOR, NEXT | WRITE, 3), GOOD[2]), F_INDIRECT),
    ("loop in a table", in_table(GOOD[0], desc(DATA, SECTOR, NEXT, 0), GOOD[2]), F_INDIRECT | F_EVENT_IDX),
    ("queue size 0", set_up(REG_QUEUE_NUM, 0), 0),
    ("queue size 3", set_up(REG_QUEUE_NUM, 3), 0),
    ("queue size 32768", set_up(REG_QUEUE_NUM, 32768), 0),
    ("descriptors misaligned", set_up(REG_DESC, 0x2000008), 0),
    ("descriptors behind RAM", set_up(REG_DESC, MEM), 0),
    ("available ring at the end", set_up(REG_AVAIL, MEM - 64), 0),
    ("available ring misaligned", set_up(REG_AVAIL, 0x2000001), 0),
    ("used ring in the hole", set_up(REG_USED, 0xD0000000), 0),
    ("used ring at the top", set_up(REG_USED, 0xFFFFFF00, 0xFFFFFFFF), 0),
    ("write outside the configuration", pokes((REG_CONFIG + 0xE00, 1, 4)), 0),
)

# What is to be ignored, or answered with an error, while the device goes on.
SURVIVES = (
    ("unknown descriptor flags", one_chain(desc(HEADER, 16, NEXT | 0xFFF8 & ~INDIRECT, 1), *GOOD[1:]), 0),
    ("queues that do not exist", pokes((REG_NOTIFY, 1, 4), (REG_NOTIFY, 0xFFFFFFFF, 4), (REG_QUEUE_SEL, 77, 4),
                                       (REG_QUEUE_NUM, 8, 4), (REG_QUEUE_READY, 1, 4)), 0),
    ("wrong widths", pokes(*((offset, 0xFF, width) for offset in range(4, 0xC0, 4) if offset != REG_STATUS
                             for width in (1, 2, 8) if offset + width <= REG_STATUS or offset > REG_STATUS)), 0),
    ("between registers", pokes((0x51, 0, 4), (0x72, 1, 2), (0x71, 0, 1)), 0),
    ("read-only registers", pokes(*((offset, 0xFFFFFFFF, 4) for offset in (0, 4, 8, 12, 0x10, 0x34, 0x60, 0xFC))), 0),
    ("features after FEATURES_OK", pokes((REG_DRIVER, 0xFFFFFFFF, 4)), 0),
    ("registers of a queue in use", pokes((REG_QUEUE_NUM, 1, 4), (REG_DESC, 0, 4), (REG_AVAIL, MEM, 4),
                                          (REG_USED, MEM, 4)), 0),
    ("the same chain 64 times", lambda r: (r.chain(*GOOD), r.offer(*[0] * QUEUE)), 0),
)

BALLOON_BREAKS = (
    ("three bytes", one_chain(desc(DATA, 3))),
    ("for writing", one_chain(desc(DATA, 64, WRITE))),
    ("two parts, one for writing", one_chain(desc(DATA, 64, NEXT, 1), desc(DATA, 64, WRITE))),
    ("60 MiB of page numbers", one_chain(desc(0, 60 * MIB))),
    ("behind RAM", one_chain(desc(MEM, 64))),
    ("nothing", one_chain(desc(DATA, 0))),
    ("loop", one_chain(desc(DATA, 64, NEXT, 0))),
    ("write outside the configuration", pokes((REG_CONFIG + 16, 1, 4))),
)

# Features of the balloon.
F_STATS, F_POISON, F_REPORTING = 1 << 1, 1 << 4, 1 << 5

# What a balloon's statistics and reporting queues take for what it is: nothing. (what, features, queue, descriptors, counter that
# rises, by how much)
BALLOON_IGNORES = (
    ("statistics of 7 bytes", F_STATS, 2, [desc(DATA, 7)], "guest_ignored", 1),
    ("statistics for writing", F_STATS, 2, [desc(DATA, 20, WRITE)], "guest_ignored", 1),
    ("statistics of unknown tags", F_STATS, 2, [desc(TABLE, 40)], "guest_ignored", 4),
    ("statistics of 1 MiB", F_STATS, 2, [desc(TABLE, MIB)], "guest_ignored", 1),
    ("a report between pages", F_REPORTING, 2, [desc(DATA + 8, PAGE, WRITE)], "report_ignored_ranges", 1),
    ("a report of half a page", F_REPORTING, 2, [desc(DATA, PAGE // 2, WRITE)], "report_ignored_ranges", 1),
    ("a report of 4 GiB - 1", F_REPORTING, 2, [desc(0, 0xFFFFFFFF, WRITE)], "report_ignored_ranges", 1),
    ("a report of more than RAM", F_REPORTING, 4, [desc(0, 0xFFFFF000, WRITE)], "report_ignored_ranges", 1),
    ("a report behind RAM", F_REPORTING | F_STATS, 3, [desc(MEM, PAGE, WRITE)], "report_ignored_ranges", 1),
    ("a report of the hole", F_REPORTING, 2, [desc(0xD0000000, PAGE, WRITE)], "report_ignored_ranges", 1),
    ("a report that wraps", F_REPORTING, 2, [desc(-PAGE, 2 * PAGE, WRITE)], "report_ignored_ranges", 1),
    ("a report to be read", F_REPORTING, 2, [desc(DATA, PAGE)], "report_ignored_ranges", 1),
    ("good and bad ones", F_REPORTING, 2,
     [desc(DATA, 1, NEXT | WRITE, 1), desc(DATA, PAGE, NEXT | WRITE, 2), desc(MEM - PAGE, 2 * PAGE, WRITE)],
     "report_ignored_ranges", 2),
    ("a report with poison", F_REPORTING | F_POISON, 2, [desc(DATA, PAGE, WRITE)], "report_kept_pages", 1),
)

# What breaks the balloon on these queues: (what, features, queue, descriptors)
BALLOON_QUEUE_BREAKS = (
    ("statistics behind RAM", F_STATS, 2, [desc(MEM, 10)]),
    ("statistics of no length", F_STATS, 2, [desc(DATA, 0)]),
    ("a report of no length", F_REPORTING, 2, [desc(DATA, 0, WRITE)]),
    ("reports in a loop", F_REPORTING, 2, [desc(DATA, PAGE, WRITE | NEXT, 0)]),
    ("reports above 4 GiB", F_REPORTING, 2, [desc(0, 0xFFFFF000, WRITE | NEXT, 1), desc(0, PAGE, WRITE)]),
)


# Queue 0 is for reception.
RX_BREAKS = (
    ("for reading", one_chain(desc(DATA, 2048))),
    ("a part for reading", one_chain(desc(DATA, 64, NEXT, 1), desc(DATA, 2048, WRITE))),
    ("no room for a header", one_chain(desc(DATA, 11, WRITE))),
    ("behind RAM", one_chain(desc(MEM, 2048, WRITE))),
    ("nothing", one_chain(desc(DATA, 0, WRITE))),
    ("loop", one_chain(desc(DATA, 64, NEXT | WRITE, 0))),
    ("head out of range", one_chain(desc(DATA, 2048, WRITE), head=QUEUE)),
    ("write outside the configuration", pokes((REG_CONFIG + 12, 1, 4))),
)
TX_BREAKS = (
    ("for writing", one_chain(desc(DATA, 100, WRITE))),
    ("a part for writing", one_chain(desc(DATA, 100, NEXT, 1), desc(DATA, 64, WRITE))),
    ("no header", one_chain(desc(DATA, 11))),
    ("behind RAM", one_chain(desc(HEADER, 12, NEXT, 1), desc(MEM, 60))),
    ("over the end of RAM", one_chain(desc(HEADER, 12, NEXT, 1), desc(MEM - 30, 60))),
    ("an address that wraps", one_chain(desc(HEADER, 12, NEXT, 1), desc(-PAGE, 2 * PAGE))),
    ("loop", one_chain(desc(DATA, 64, NEXT, 0))),
    ("head out of range", one_chain(desc(DATA, 64), head=0xFFFF)),
)

RNG_BREAKS = (
    ("readable", one_chain(desc(DATA, 64))),
    ("two parts, one readable", one_chain(desc(DATA, 64, NEXT, 1), desc(DATA, 64, WRITE))),
    ("nothing", one_chain(desc(DATA, 0, WRITE))),
    ("behind RAM", one_chain(desc(MEM, 64, WRITE))),
    ("over the end of RAM", one_chain(desc(MEM - 32, 64, WRITE))),
    ("4 GiB - 1", one_chain(desc(DATA, 0xFFFFFFFF, WRITE))),
    ("loop", one_chain(desc(DATA, 64, NEXT | WRITE, 0))),
    ("head out of range", one_chain(desc(DATA, 64, WRITE), head=QUEUE)),
    ("write outside the configuration", pokes((REG_CONFIG, 1, 4))),
)


def packet(op, length=0, src=CID, dst=2, kind=1, there=None):
    """A vsock packet whose header says this, with so many bytes of payload behind it."""
    data = struct.pack("<QQIIIHHIII", src, dst, 1000, 4000, length, kind, op, 0, 65536, 0)

    def row(ring):
        ring.store(DATA, data)
        ring.chain(desc(DATA, len(data) + (length if there is None else there)))
        ring.offer(0)
    return row


VSOCK_BREAKS = (
    ("half a header", one_chain(desc(DATA, 43))),
    ("for writing", one_chain(desc(DATA, 64, WRITE))),
    ("two parts, one for writing", one_chain(desc(DATA, 44, NEXT, 1), desc(DATA, 64, WRITE))),
    ("less payload than it says", packet(5, 100, there=99)),
    ("4 GiB of payload", packet(5, 0xFFFFFFFF, there=100)),
    ("behind RAM", one_chain(desc(MEM, 64))),
    ("loop", one_chain(desc(DATA, 64, NEXT, 0))),
    ("write outside the configuration", pokes((REG_CONFIG + 8, 1, 4))),
)

# Dropped, or answered with an RST as soon as there is room for one.
VSOCK_SURVIVES = (
    ("of another guest", packet(1, src=CID + 1)),
    ("of the host", packet(5, 8, src=2)),
    ("of a CID with high bits", packet(1, src=CID | 1 << 32)),
    ("to another guest", packet(1, dst=CID + 1)),
    ("of another type", packet(1, kind=2)),
    ("an unknown operation", packet(77)),
    ("data for no connection", packet(5, 8)),
    ("a connection to nobody", packet(1)),
    ("an RST for no connection", packet(3)),
    ("no payload", packet(5)),
    ("the CID is not the driver's", pokes((REG_CONFIG, 1, 4))),
    ("64 answers and no room for one", lambda r: (packet(1)(r), r.offer(*[0] * QUEUE))),
)


class Hostile(ProbeTest):
    def setUp(self):
        super().setUp()
        self.disk = self.image(bytes_=4 * MIB, content=pattern_sectors(1, 0, 512))
        self.vm = self.probe(cpus=2, disk=f"path={self.disk}", vsock=f"cid={CID},path={self.dir}/v")
        self.blk = self.vm.device(BLOCK)
        self.balloon = self.vm.device(BALLOON)
        self.rng = self.vm.device(RNG)
        self.vsock = self.vm.device(VSOCK)

    def status(self, dev):
        return self.vm.ask("vstatus", dev=dev)["status"]

    def healthy(self):
        """All devices work after a reset, and the VM lives."""
        got = self.vm.blk(self.blk, "verify", seed=1, count=64, size=4096, depth=4)
        self.assertSub({"errors": 0, "bad": 0, "requests": 8}, got)
        part = {"from": 16 * MIB, "to": 16 * MIB + 16 * PAGE}
        self.assertSub({"pfns": 16}, self.vm.ask("inflate", dev=self.balloon, restart=1, **part))
        self.assertSub({"pfns": 16}, self.vm.ask("deflate", dev=self.balloon, **part))
        self.assertSub({"written": 4096}, self.vm.ask("rng", dev=self.rng, restart=1, bytes=4096))
        self.assertEqual(self.vm.refuses("vs_connect", dev=self.vsock, port=1, restart=1), "rst")

    def hostile_count(self, kind):
        return self.vm.device_stats(kind)["virtio"]["hostile"]

    def test_broken_rings(self):
        for what, row, features in BREAKS:
            with self.subTest(what):
                before = self.hostile_count("block")
                row(Ring(self.vm, self.blk, features))
                poll(lambda: self.status(self.blk) & NEEDS_RESET, f"{what}: the device needs a reset", 5)
                self.assertEqual(self.hostile_count("block"), before + 1)
                self.healthy()
        self.vm.power_off()

    def test_tolerated(self):
        for what, row, features in SURVIVES:
            with self.subTest(what):
                before = self.hostile_count("block")
                row(Ring(self.vm, self.blk, features))
                self.assertEqual(self.status(self.blk) & NEEDS_RESET, 0)
                self.healthy()
                self.assertEqual(self.hostile_count("block"), before)
        self.vm.power_off()

    def test_broken_balloon(self):
        for what, row in BALLOON_BREAKS:
            with self.subTest(what):
                before = self.hostile_count("balloon")
                row(Ring(self.vm, self.balloon, 0))
                poll(lambda: self.status(self.balloon) & NEEDS_RESET, f"{what}: the device needs a reset", 5)
                self.assertEqual(self.hostile_count("balloon"), before + 1)
                self.healthy()
        self.vm.power_off()

    def test_broken_rng(self):
        for what, row in RNG_BREAKS:
            with self.subTest(what):
                before = self.hostile_count("rng")
                row(Ring(self.vm, self.rng, 0))
                poll(lambda: self.status(self.rng) & NEEDS_RESET, f"{what}: the device needs a reset", 5)
                self.assertEqual(self.hostile_count("rng"), before + 1)
                self.healthy()
        self.vm.power_off()

    def network(self):
        """Another VM, with a network device; its number."""
        if no_taps_reason():
            self.skipTest(no_taps_reason())
        self.vm.power_off()
        self.vm = self.probe("net", cpus=2, disk=f"path={self.disk}", vsock=f"cid={CID},path={self.dir}/v",
                             net=f"tap={make_tap('hostile')}")
        self.addCleanup(drop, "hostile")
        self.blk, self.rng, self.balloon, self.vsock = (self.vm.device(kind) for kind in (BLOCK, RNG, BALLOON, VSOCK))
        return self.vm.device(NET)

    def sends(self, dev):
        """The network device works after a reset."""
        before = self.vm.device_stats("net")["tx_packets"]
        self.vm.ask("net", dev=dev)
        self.vm.ask("net_send", dev=dev, at=DATA, bytes=60, count=5)
        self.assertEqual(self.vm.device_stats("net")["tx_packets"], before + 5)

    def test_broken_network(self):
        dev = self.network()
        for queue, rows in enumerate((RX_BREAKS, TX_BREAKS)):
            for what, row in rows:
                with self.subTest(what, queue=queue):
                    before = self.hostile_count("net")
                    row(Ring(self.vm, dev, 0, queue))
                    poll(lambda: self.status(dev) & NEEDS_RESET, f"{what}: the device needs a reset", 5)
                    self.assertEqual(self.hostile_count("net"), before + 1)
                    self.sends(dev)
        self.healthy()
        self.vm.power_off()

    def test_network_storms(self):
        dev = self.network()
        broken = 0
        for seed in range(100 if FULL else 4):
            self.vm.ask("register_storm", dev=dev, seed=seed, rounds=2000)
            self.sends(dev)
            broken += self.vm.ask("ring_storm", dev=dev, seed=seed, rounds=200, seconds=60)["broken"]
            self.sends(dev)
        self.assertGreater(broken, 10)
        self.vm.blk(self.blk, "write", seed=1, count=64, size=4096)
        self.healthy()
        self.vm.power_off()

    def test_broken_vsock(self):
        for what, row in VSOCK_BREAKS:
            with self.subTest(what):
                before = self.hostile_count("vsock")
                row(Ring(self.vm, self.vsock, 0, 1))
                poll(lambda: self.status(self.vsock) & NEEDS_RESET, f"{what}: the device needs a reset", 5)
                self.assertEqual(self.hostile_count("vsock"), before + 1)
                self.healthy()
        self.vm.power_off()

    def test_tolerated_by_vsock(self):
        for what, row in VSOCK_SURVIVES:
            with self.subTest(what):
                before = self.hostile_count("vsock")
                row(Ring(self.vm, self.vsock, 0, 1))
                self.assertEqual(self.status(self.vsock) & NEEDS_RESET, 0)
                self.healthy()
                self.assertEqual(self.hostile_count("vsock"), before)
        self.assertGreaterEqual(self.vm.device_stats("vsock")["violations"], 5)
        self.vm.power_off()

    def test_ignored_by_the_balloon(self):
        self.vm.ask("fill", seed=7, **{"from": 40 * MIB, "to": 41 * MIB})
        for what, features, queue, descriptors, counter, more in BALLOON_IGNORES:
            with self.subTest(what):
                before = self.vm.device_stats("balloon")
                ring = Ring(self.vm, self.balloon, features, queue)
                ring.store(TABLE, b"".join(struct.pack("<HQ", 1000 + i, i) for i in range(4)))
                if features & F_POISON:
                    ring.poke(REG_CONFIG + 12, 0xAAAAAAAA)
                ring.chain(*descriptors)
                ring.offer(0)
                poll(lambda: self.vm.device_stats("balloon")[counter] > before[counter], f"{what}: {counter} rises", 5)
                after = self.vm.device_stats("balloon")
                if "unknown" in what or "report" in counter:
                    self.assertEqual(after[counter], before[counter] + more)
                self.assertEqual(after["virtio"]["hostile"], before["virtio"]["hostile"])
                self.assertEqual(self.status(self.balloon) & NEEDS_RESET, 0)
                self.healthy()
        self.assertEqual(self.vm.ask("check", seed=7, **{"from": 40 * MIB, "to": 41 * MIB})["bad"], 0)
        self.vm.power_off()

    def test_broken_balloon_queues(self):
        for what, features, queue, descriptors in BALLOON_QUEUE_BREAKS:
            with self.subTest(what):
                before = self.hostile_count("balloon")
                ring = Ring(self.vm, self.balloon, features, queue)
                ring.chain(*descriptors)
                ring.offer(0)
                poll(lambda: self.status(self.balloon) & NEEDS_RESET, f"{what}: the device needs a reset", 5)
                self.assertEqual(self.hostile_count("balloon"), before + 1)
                self.healthy()
        self.vm.power_off()

    def test_actual_out_of_range(self):
        ring = Ring(self.vm, self.balloon, 0)
        for value in (0xFFFFFFFF, MEM // PAGE + 1):
            ring.poke(REG_CONFIG + 4, value)
            self.assertLessEqual(self.vm.device_stats("balloon")["actual_bytes"], MEM)
        ring.poke(REG_CONFIG, 77)  # the target is not the driver's
        self.assertEqual(self.vm.device_stats("balloon")["target_bytes"], 0)
        self.healthy()
        self.vm.power_off()

    def test_register_storm(self):
        for seed in range(100 if FULL else 4):
            for dev in (self.blk, self.balloon, self.rng, self.vsock):
                self.vm.ask("register_storm", dev=dev, seed=seed, rounds=2000)
                self.healthy()
        self.vm.power_off()

    def test_ring_storm(self):
        broken = 0
        for seed in range(100 if FULL else 4):
            for dev in (self.blk, self.balloon, self.rng, self.vsock):
                got = self.vm.ask("ring_storm", dev=dev, seed=seed, rounds=200, seconds=60)
                broken += got["broken"]
                # The storm may have written to the disk.
                self.vm.blk(self.blk, "write", seed=1, count=64, size=4096)
                self.healthy()
        self.assertGreater(broken, 20)
        self.vm.power_off()

    def test_resets_race_kicks(self):
        got = self.vm.ask("race", dev=self.blk, rounds=ROUNDS, seconds=300)
        self.assertEqual(got["resets"], ROUNDS)
        self.healthy()
        self.vm.power_off()


if __name__ == "__main__":
    sardine_test.main()
