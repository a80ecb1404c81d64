#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The network device, through the probe guest and a tap: frames of all sizes, offloads both ways, limits, taps that come and go."""
import hashlib
import os
import socket
import struct
import time
import zlib

import net_namespace
import sardine_test
from net_namespace import (GSO_TCPV4, NEEDS_CSUM, Wire, attach_tap, checksum, drop, ethernet, ip, ipv4, make_tap, no_taps_reason,
                           tcp, udp)
from probe import F_EVENT_IDX, F_INDIRECT, FULL, MIB, NET, ProbeTest
from sardine_test import poll

AT, TO = 32 * MIB, 40 * MIB  # frames in the guest
HOST, GUEST = bytes([10, 0, 2, 1]), bytes([10, 0, 2, 2])
BROADCAST = b"\xff" * 6
CSUM = 1 << 0 | 1 << 1
TSO = CSUM | 7 << 7 | 7 << 11
MERGED = 1 << 15
ETH, IPV4, TCP_HEADERS = 14, 0x0800, 54


def pattern(size, seed=0):
    return bytes((i * 7 + i // 251 + seed) & 0xFF for i in range(size))


class Net(ProbeTest):
    def setUp(self):
        if no_taps_reason():
            self.skipTest(no_taps_reason())
        super().setUp()
        self.tap = make_tap(f"t{os.urandom(4).hex()}")
        self.wires = []

    def tearDown(self):
        for wire in self.wires:
            wire.close()
        super().tearDown()
        drop(self.tap)

    def wire(self, headers=False):
        self.wires.append(Wire(self.tap, headers))
        return self.wires[-1]

    def guest(self, net="", **start):
        """A probe guest with its device started."""
        self.vm = self.probe(net=net or f"tap={self.tap}")
        self.dev = self.vm.device(NET)
        return self.restart(**start)

    def restart(self, **start):
        got = self.vm.ask("net", dev=self.dev, **start)
        self.mac = bytes.fromhex(got["mac"].replace(":", ""))
        return got

    def store(self, data, at=AT):
        """Put bytes into the guest's memory; long runs of zeroes are there already."""
        for i in range(0, len(data), 256):
            if i == 0 or any(data[i:i + 256]):
                self.vm.ask("store", at=at + i, hex=data[i:i + 256].hex())

    def load(self, size, at=TO):
        got = b""
        while len(got) < size:
            got += bytes.fromhex(str(self.vm.ask("load", at=at + len(got), bytes=min(1024, size - len(got)))["hex"]))
        return got

    def stats(self):
        return self.vm.device_stats("net")

    def test_configuration(self):
        got = self.guest()
        digest = bytearray(hashlib.sha256(b"probe/0").digest()[:6])
        digest[0] = digest[0] & 0xFC | 2
        self.assertEqual(self.mac, bytes(digest))
        self.assertEqual((got["status"], got["mtu"]), (1, 1500))
        stats = self.stats()
        self.assertSub({"tap": self.tap, "mac": digest.hex(":"), "mtu": 1500, "link": True}, stats)
        self.vm.power_off()

    def test_given(self):
        ip("link", "set", self.tap, "mtu", 9000)
        got = self.guest(f"tap={self.tap},mac=52:54:00:AB:cd:01,mtu=4000")
        self.assertEqual((got["mac"], got["mtu"]), ("52:54:00:ab:cd:01", 4000))
        self.vm.power_off()

    def test_frames_out(self):
        wire = self.wire()
        self.guest()
        total = 0
        for n, (size, parts) in enumerate(((14, 1), (60, 1), (60, 46), (1514, 1), (1514, 2), (1514, 63), (65549, 17))):
            # The long one is a pattern at both ends.
            payload = pattern(min(size - ETH, 1500), parts) + bytes(max(0, size - 2014)) + pattern(500)[:max(0, size - 1514)]
            frame = ethernet(BROADCAST, self.mac, payload=payload)
            self.assertEqual(len(frame), size)
            self.store(frame, AT + n * MIB // 8)
            for features in (0, F_EVENT_IDX | F_INDIRECT):
                with self.subTest(size=size, parts=parts, features=features):
                    self.restart(features=features)
                    self.vm.ask("net_send", dev=self.dev, at=AT + n * MIB // 8, bytes=size, parts=parts)
                    self.assertEqual(wire.receive(), frame)
                    total += size
        self.assertSub({"tx_packets": 14, "tx_bytes": total, "tx_dropped_header": 0, "tx_dropped_length": 0,
                        "tx_dropped_tap": 0}, self.stats())
        self.vm.power_off()

    def test_frames_in(self):
        ip("link", "set", self.tap, "mtu", 65000)
        wire = self.wire()
        self.guest()
        for size, start in ((60, {}), (1514, {}), (1514, {"features": 0, "irq": 1}),
                            (60, {"features": MERGED}), (1514, {"features": MERGED | F_EVENT_IDX, "bytes": 100}),
                            (9014, {"features": MERGED | F_EVENT_IDX, "irq": 1}),
                            (64000, {"features": MERGED | F_EVENT_IDX})):
            with self.subTest(size=size, start=start):
                self.restart(**start)
                frame = ethernet(self.mac, BROADCAST[:5] + b"\x02", payload=pattern(size - ETH, size))
                wire.send(frame)
                got = self.vm.ask("net_receive", dev=self.dev, to=TO)
                per_buffer = start.get("bytes", 2048)
                self.assertSub({"frames": 1, "last": size, "buffers": -(-(size + 12) // per_buffer)}, got)
                self.assertEqual(got["crc"], zlib.crc32(frame))
                self.assertEqual(self.load(min(size, 2048)), frame[:2048])
        # Longer than one buffer, and they may not be merged: dropped, and the next one gets through.
        self.restart(features=0)
        wire.send(ethernet(self.mac, self.mac, payload=pattern(3000)))
        wire.send(ethernet(self.mac, self.mac, payload=pattern(100)))
        self.assertSub({"frames": 1, "last": 114}, self.vm.ask("net_receive", dev=self.dev))
        self.assertEqual(self.stats()["rx_dropped_long"], 1)
        self.vm.power_off()

    def test_bursts(self):
        """Thousands of frames, out and in, none lost."""
        count = 50000 if FULL else 3000
        wire = self.wire()
        self.guest(features=F_EVENT_IDX | MERGED, buffers=256)
        frame = ethernet(BROADCAST, self.mac, payload=pattern(500))
        self.store(frame)
        ident = self.vm.send("net_send", dev=self.dev, at=AT, bytes=len(frame), count=count)
        for _ in range(count):
            self.assertEqual(wire.receive(), frame)
        self.assertEqual(self.vm.answer(ident, 60)["sent"], count)
        ident = self.vm.send("net_receive", dev=self.dev, count=count, timeout_ms=60000)
        crc = 0
        for i in range(count):
            frame = ethernet(self.mac, BROADCAST, payload=pattern(46 + i % 1400, i))
            crc = zlib.crc32(frame, crc)
            wire.send(frame)
            if i % 200 == 199:  # the tap's queue holds some hundred
                poll(lambda: self.stats()["rx_packets"] >= i, f"{i} frames are taken", 30)
        got = self.vm.answer(ident, 90)
        self.assertEqual((got["frames"], got["crc"]), (count, crc))
        self.vm.power_off()

    def test_checksum_out(self):
        """A datagram whose checksum the guest leaves to us reaches its socket; the same without saying so does not."""
        ip("addr", "add", "10.0.2.1/24", "dev", self.tap)
        self.guest(features=CSUM)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("10.0.2.1", 7777))
            sock.settimeout(10)
            link = net_namespace.address(self.tap)
            for partial, payload in ((False, b"wrong"), (True, b"right")):
                frame = ethernet(link, self.mac, IPV4, ipv4(GUEST, HOST, 17, udp(GUEST, HOST, 7777, payload)))
                self.store(frame)
                asked = {"flags": NEEDS_CSUM, "start": 34, "offset": 6} if partial else {}
                self.vm.ask("net_send", dev=self.dev, at=AT, bytes=len(frame), **asked)
            self.assertEqual(sock.recv(100), b"right")
        self.vm.power_off()

    def test_segments_out(self):
        """A large segment arrives at the host as one, with what is needed to cut it."""
        wire = self.wire(headers=True)
        self.guest(features=TSO)
        frame = ethernet(BROADCAST, self.mac, IPV4, ipv4(GUEST, HOST, 6, tcp(GUEST, HOST, pattern(8000))))
        self.store(frame)
        sent = {"flags": NEEDS_CSUM, "gso": GSO_TCPV4, "hdr": TCP_HEADERS, "start": 34, "offset": 16}
        self.vm.ask("net_send", dev=self.dev, at=AT, bytes=len(frame), gsosize=1000, parts=3, **sent)
        header, got = wire.receive()
        self.assertEqual((header[0], header[1], header[3]), (NEEDS_CSUM, GSO_TCPV4, 1000))
        self.assertEqual(got, frame)
        # What makes no sense is dropped here, and the guest hears of it by its packets' loss only.
        for bad in ({"gsosize": 0}, {"gsosize": 1000, "gso": 3}, {"gsosize": 1000, "start": 65000},
                    {"gsosize": 1000, "flags": 0}):
            with self.subTest(bad):
                before = self.stats()
                self.vm.ask("net_send", dev=self.dev, at=AT, bytes=len(frame), **{**sent, **bad})
                after = self.stats()
                self.assertEqual(after["tx_dropped_header"], before["tx_dropped_header"] + 1)
                self.assertEqual(after["tx_packets"], before["tx_packets"])
        self.vm.power_off()

    def test_segments_in(self):
        """A guest that takes large segments gets them whole; one that does not gets small ones, with checksums done."""
        wire = self.wire(headers=True)
        self.guest(features=TSO | MERGED | F_EVENT_IDX)
        payload = pattern(8000)
        frame = ethernet(self.mac, BROADCAST, IPV4, ipv4(HOST, GUEST, 6, tcp(HOST, GUEST, payload)))
        header = (NEEDS_CSUM, GSO_TCPV4, TCP_HEADERS, 1000, 34, 16)
        wire.send(frame, header)
        got = self.vm.ask("net_receive", dev=self.dev, type=IPV4, to=TO)
        self.assertSub({"frames": 1, "last": len(frame), "flags": NEEDS_CSUM, "gso": GSO_TCPV4, "gsosize": 1000,
                        "buffers": 4}, got)
        self.assertEqual(self.load(len(frame)), frame)
        self.restart(features=MERGED | F_EVENT_IDX)
        wire.send(frame, header)
        got = self.vm.ask("net_receive", dev=self.dev, type=IPV4, count=8, to=TO)
        self.assertSub({"frames": 8, "last": TCP_HEADERS + 1000, "flags": 0, "gso": 0}, got)
        last = self.load(TCP_HEADERS + 1000)
        self.assertEqual(last[TCP_HEADERS:], payload[7000:])
        segment = last[34:]
        self.assertEqual(checksum(HOST + GUEST + struct.pack("!HH", 6, len(segment)) + segment), 0xFFFF)
        self.vm.power_off()

    def test_limits(self):
        """Not faster than told, in each direction; how much slower depends on the machine."""
        wire = self.wire()
        for limit in ("iops=50", "bw=50000"):
            with self.subTest(limit):
                self.guest(f"tap={self.tap},{limit}")
                frame = ethernet(BROADCAST, self.mac, payload=pattern(1000 - ETH))
                self.store(frame)
                # The burst is a tenth of a second's, and the last frame may be owed.
                least = (30 - 5 - 1) / 50 * 0.9
                got = self.vm.ask("net_send", dev=self.dev, at=AT, bytes=1000, count=30)
                self.assertGreater(got["us"], least * 1e6)
                begun = time.monotonic()
                for _ in range(30):
                    wire.send(ethernet(self.mac, BROADCAST, payload=pattern(1000 - ETH)))
                self.vm.ask("net_receive", dev=self.dev, count=30)
                self.assertGreater(time.monotonic() - begun, least)
                self.assertGreater(self.stats()["throttled"], 20)
                self.vm.power_off()

    def test_tap_handed_in(self):
        name = f"h{os.urandom(4).hex()}"
        fd = attach_tap(name)
        ip("link", "set", name, "up")
        self.vm = self.probe(net=f"tap-fd={fd},mtu=2000", pass_fds=(fd,))
        os.close(fd)
        self.dev = self.vm.device(NET)
        self.assertEqual(self.restart()["mtu"], 2000)
        self.assertEqual(self.stats()["tap"], name)
        wire = Wire(name)
        self.wires.append(wire)
        frame = ethernet(BROADCAST, self.mac, payload=pattern(100))
        self.store(frame)
        self.vm.ask("net_send", dev=self.dev, at=AT, bytes=len(frame))
        while wire.receive() != frame:
            pass
        self.vm.power_off()

    def test_several(self):
        """Each device on its own tap, in the order of the options, with an address of its own."""
        other = make_tap(f"o{os.urandom(4).hex()}")
        self.vm = self.probe(net=[f"tap={self.tap}", f"tap={other}"])
        wires = [self.wire(), Wire(other)]
        self.wires.append(wires[1])
        seen = set()
        for n, wire in enumerate(wires):
            self.dev = self.vm.device(NET, n)
            self.restart()
            seen.add(self.mac)
            frame = ethernet(BROADCAST, self.mac, payload=pattern(60, n))
            self.store(frame)
            self.vm.ask("net_send", dev=self.dev, at=AT, bytes=len(frame))
            self.assertEqual(wire.receive(), frame)
            self.assertEqual(self.vm.device_stats("net", n)["tap"], (self.tap, other)[n])
        self.assertEqual(len(seen), 2)
        self.vm.power_off()

    def test_tap_down_and_deleted(self):
        """A tap that is down drops; one that is deleted is a link that is down. Neither costs the VM its time."""
        self.guest()
        frame = ethernet(BROADCAST, self.mac, payload=pattern(60))
        self.store(frame)
        ip("link", "set", self.tap, "down")
        self.vm.ask("net_send", dev=self.dev, at=AT, bytes=len(frame))
        self.assertSub({"tx_packets": 0, "tx_dropped_tap": 1, "link": True}, self.stats())
        ip("link", "set", self.tap, "up")
        self.vm.ask("net_send", dev=self.dev, at=AT, bytes=len(frame))
        self.assertEqual(self.stats()["tx_packets"], 1)
        ip("link", "del", self.tap)
        poll(lambda: not self.stats()["link"], "the device notices", 10)
        self.vm.ask("net_send", dev=self.dev, at=AT, bytes=len(frame), count=10)
        self.assertSub({"tx_packets": 1, "tx_dropped_tap": 11}, self.stats())
        self.assertEqual(self.restart()["status"], 0)
        self.assertLess(self.io_thread_seconds(), 0.08, "CPU of the I/O thread in one second")
        self.vm.power_off()

    def io_thread_seconds(self):
        """CPU time that the main thread takes in a second of nothing to do."""
        def used():
            with open(f"/proc/{self.vm.pid}/task/{self.vm.pid}/stat", encoding="ascii") as f:
                fields = f.read().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        before = used()
        time.sleep(1)  # what is measured, not a wait
        return used() - before

    def test_idle(self):
        """Frames for a guest without a driver, without buffers, or with a broken device do not keep the VMM busy."""
        wire = self.wire()
        self.vm = self.probe(net=f"tap={self.tap}")
        self.dev = self.vm.device(NET)
        for start in (None, {"buffers": 0}, {"buffers": 64}):
            with self.subTest(start):
                if start:
                    self.restart(**start)
                if start == {"buffers": 64}:
                    base = int(self.vm.ask("virtio")[f"d{self.dev}"].split(":")[1], 16)
                    self.vm.ask("poke", at=base + 0x100 + 12, value=1, width=4)  # outside the configuration
                    self.assertEqual(self.stats()["virtio"]["hostile"], 1)
                for _ in range(20):
                    wire.send(ethernet(BROADCAST, BROADCAST, payload=pattern(60)))
                self.assertLess(self.io_thread_seconds(), 0.08)
        self.vm.power_off()


if __name__ == "__main__":
    sardine_test.main()
