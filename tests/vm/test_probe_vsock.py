#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""vsock, through the probe guest: real Unix sockets at the host's end, streams both ways, ends of all kinds."""
import os
import random
import socket
import subprocess
import threading
import time
import zlib

import sardine_test
from probe import FULL, KIB, MIB, VSOCK, ProbeTest, pattern
from sardine_test import ROOT, poll

CID = 52
PORT = 4000
CHUNK = 2048
RST, SHUTDOWN, RW = 3, 4, 5
RECEIVE, SEND, BOTH = 1, 2, 3


def stream(seed, size):
    """What vs_send sends."""
    return b"".join(pattern(seed, i, CHUNK) for i in range(size // CHUNK))


class Vsock(ProbeTest):
    def setUp(self):
        super().setUp()
        self.path = self.dir / "v.sock"
        self.sockets = []

    def tearDown(self):
        for one in self.sockets:
            one.close()
        for path in self.dir.glob("v.sock_*"):
            path.unlink()
        super().tearDown()

    def vsock(self, driver=True, limits="", **options):
        self.vm = self.probe(vsock=f"cid={CID},path={self.path}{limits}", **options)
        self.dev = self.vm.device(VSOCK)
        if driver:
            self.ask("vs_start")
        return self.vm

    def keep(self, one):
        one.settimeout(20)
        self.sockets.append(one)
        return one

    def listen(self, port):
        listener = self.keep(socket.socket(socket.AF_UNIX))
        listener.bind(f"{self.path}_{port}")
        listener.listen()
        return listener

    def accept(self, listener):
        return self.keep(listener.accept()[0])

    def program(self, text=None):
        """A program of the host that connects to PATH and says its line."""
        one = self.keep(socket.socket(socket.AF_UNIX))
        one.connect(str(self.path))
        one.sendall((text or f"CONNECT {PORT}\n").encode())
        return one

    def ask(self, verb, **args):
        return self.vm.ask(verb, dev=self.dev, **args)

    def stats(self):
        return self.vm.device_stats("vsock")

    def receive(self, one, size):
        data = bytearray()
        while len(data) < size:
            part = one.recv(min(65536, size - len(data)))
            if not part:
                break
            data += part
        return bytes(data)

    def test_guest_connects(self):
        self.vsock()
        listener = self.listen(PORT)
        self.ask("vs_connect", port=PORT)
        one = self.accept(listener)
        self.ask("vs_send", bytes=CHUNK, seed=3)
        self.assertEqual(self.receive(one, CHUNK), stream(3, CHUNK))
        one.sendall(b"an answer")
        self.assertSub({"received": 9, "crc": zlib.crc32(b"an answer")}, self.ask("vs_receive", bytes=9))
        self.assertSub({"cid": CID, "connections": 1, "open": 1, "refused": 0, "resets": 0, "violations": 0,
                        "to_host_bytes": CHUNK, "to_guest_bytes": 9}, self.stats())
        # The guest closes: the program sees the end.
        self.ask("vs_op", op=SHUTDOWN, flags=BOTH)
        self.assertSub({"op": RST}, self.ask("vs_expect"))
        self.assertEqual(one.recv(1), b"")
        self.assertEqual(self.stats()["open"], 0)
        self.vm.power_off()
        self.assertFalse(self.path.exists())

    def test_host_connects(self):
        self.vsock()
        one = self.program(f"CONNECT {PORT}\nearly")
        got = self.ask("vs_accept")
        self.assertEqual(got["port"], PORT)
        self.assertEqual(self.receive(one, 3 + len(str(got["host_port"])) + 1), f"OK {got['host_port']}\n".encode())
        self.assertSub({"crc": zlib.crc32(b"early")}, self.ask("vs_receive", bytes=5))
        self.ask("vs_send", bytes=CHUNK, seed=1)
        self.assertEqual(self.receive(one, CHUNK), stream(1, CHUNK))
        # The program closes: the guest is told, and answers.
        one.close()
        self.assertSub({"op": SHUTDOWN, "flags": BOTH}, self.ask("vs_expect"))
        self.ask("vs_op", op=RST)
        self.assertSub({"connections": 1, "open": 0, "resets": 0}, self.stats())
        self.vm.power_off()

    def test_much_to_a_slow_program(self):
        """Beyond all that socket and buffer hold; the program reads late, and then all of it is right."""
        size = (64 if FULL else 2) * MIB
        self.vsock()
        listener = self.listen(PORT)
        self.ask("vs_connect", port=PORT)
        one = self.accept(listener)
        ident = self.vm.send("vs_send", dev=self.dev, bytes=size, seed=9)
        seen = -1

        def stalled():
            nonlocal seen
            before, seen = seen, self.stats()["to_host_bytes"]
            time.sleep(0.1)
            return seen > 0 and before == seen

        poll(stalled, "the guest waits for the program", 20)
        self.assertLess(seen, size)
        self.assertEqual(zlib.crc32(self.receive(one, size)), zlib.crc32(stream(9, size)))
        self.assertGreater(self.vm.answer(ident)["waits"], 0)
        self.vm.power_off()

    def test_much_to_the_guest(self):
        size = (64 if FULL else 2) * MIB
        self.vsock()
        one = self.program()
        self.ask("vs_accept")
        data = random.Random(1).randbytes(size)
        sender = threading.Thread(target=one.sendall, args=(data,))
        sender.start()
        got = self.ask("vs_receive", bytes=size, seconds=120)
        sender.join()
        self.assertEqual((got["received"], got["crc"]), (size, zlib.crc32(data)))
        self.vm.power_off()

    def test_half_closes(self):
        self.vsock()
        listener = self.listen(PORT)
        self.ask("vs_connect", port=PORT)
        one = self.accept(listener)
        self.ask("vs_op", op=SHUTDOWN, flags=SEND)
        self.assertEqual(one.recv(1), b"")
        one.sendall(b"still")
        self.assertSub({"crc": zlib.crc32(b"still")}, self.ask("vs_receive", bytes=5))
        one.shutdown(socket.SHUT_WR)
        # Both have sent their last.
        self.assertSub({"op": SHUTDOWN}, self.ask("vs_expect"))
        self.vm.power_off()

    def test_refusals(self):
        self.vsock()
        self.assertEqual(self.vm.refuses("vs_connect", dev=self.dev, port=PORT), "rst")
        listener = self.listen(PORT)
        listener.close()  # the file stays, and nobody is there
        self.assertEqual(self.vm.refuses("vs_connect", dev=self.dev, port=PORT), "rst")
        one = self.program()
        self.ask("vs_accept", refuse=1)
        self.assertEqual(one.recv(1), b"")
        for text in ("CONNECT\n", "HELLO 1\n", "CONNECT 1 2\n", "x" * 40):
            with self.subTest(text):
                one = self.program(text)
                try:
                    self.assertEqual(one.recv(1), b"")
                except ConnectionResetError:
                    self.assertGreater(len(text), 32)  # not all of it was read
        self.assertSub({"connections": 0, "open": 0}, self.stats())
        self.assertEqual(self.stats()["refused"], 7)
        self.vm.power_off()

    def test_no_driver(self):
        """Nobody to ask: the program is not left waiting."""
        self.vsock(driver=False)
        self.assertEqual(self.program().recv(1), b"")
        self.vm.power_off()

    def test_a_pause_keeps_what_was_sent(self):
        """During a dump nothing comes into the guest; after it everything does."""
        self.vsock(mem="256M")
        one = self.program()
        self.ask("vs_accept")
        self.assertTrue(one.recv(64).startswith(b"OK "))
        self.vm.ask("fill", seed=1)
        data = os.urandom(48 * KIB)
        dump = threading.Thread(target=self.sardine, args=("dump", self.vm.name, self.dir / "core"))
        dump.start()
        one.sendall(data)
        dump.join()
        self.assertSub({"crc": zlib.crc32(data)}, self.ask("vs_receive", bytes=len(data)))
        (self.dir / "core").unlink()
        self.vm.power_off()

    def test_a_reset_ends_all(self):
        self.vsock()
        listener = self.listen(PORT)
        self.ask("vs_connect", port=PORT)
        one = self.accept(listener)
        self.vm.ask("vreset", dev=self.dev)
        self.assertEqual(one.recv(1), b"")
        self.ask("vs_connect", port=PORT, restart=1)
        one = self.accept(listener)
        self.ask("vs_send", bytes=CHUNK, seed=1)
        self.assertEqual(self.receive(one, CHUNK), stream(1, CHUNK))
        # The VM's end is an end, too.
        self.vm.send("poweroff")
        self.assertEqual(one.recv(1), b"")
        self.assertEqual(self.vm.vm.wait(), 0)

    def test_a_stale_socket_is_replaced(self):
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(str(self.path))
        stale.close()
        self.vsock(driver=False)
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o600)
        self.assertEqual(self.program().recv(1), b"")
        self.vm.power_off()

    def printed(self, what, nth):
        """A block of docs/vsock.md, with our path in it."""
        text = (ROOT / "docs" / "vsock.md").read_text()
        return text.split(f"```{what}\n")[nth].split("```")[0].replace("/run/vm1.vsock", str(self.path))

    def test_printed_commands(self):
        """What docs/vsock.md says to do on the host, as it stands there."""
        self.vsock()
        listener = subprocess.Popen(["sh", "-c", "exec " + self.printed("sh", 1)])
        self.addCleanup(listener.wait)
        self.addCleanup(listener.terminate)
        poll(lambda: os.path.exists(f"{self.path}_1024"), "socat listens", 10)
        self.ask("vs_connect", port=1024)
        self.ask("vs_send", bytes=CHUNK, seed=5)
        self.assertSub({"crc": zlib.crc32(stream(5, CHUNK))}, self.ask("vs_receive", bytes=CHUNK))
        self.ask("vs_op", op=RST)
        client = subprocess.Popen(["/usr/bin/python3", "-c", self.printed("python", 2)])
        self.assertSub({"port": 5000}, self.ask("vs_accept"))
        self.assertSub({"crc": zlib.crc32(b"hello")}, self.ask("vs_receive", bytes=5))
        self.assertEqual(client.wait(20), 0)
        self.ask("vs_expect")
        self.ask("vs_op", op=RST)
        client = subprocess.Popen(["sh", "-c", "exec " + self.printed("sh", 2)], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE)
        client.stdin.write(b"CONNECT 5000\n")
        client.stdin.flush()
        self.ask("vs_accept")
        self.assertTrue(client.stdout.readline().startswith(b"OK "))
        client.stdin.close()
        self.assertSub({"op": SHUTDOWN}, self.ask("vs_expect"))
        self.ask("vs_op", op=RST)
        self.assertEqual(client.wait(20), 0)
        client.stdout.close()
        self.vm.power_off()

    def test_limits(self):
        self.vsock(limits=",bw=100K")
        listener = self.listen(PORT)
        self.ask("vs_connect", port=PORT)
        one = self.accept(listener)
        begin = time.monotonic()
        ident = self.vm.send("vs_send", dev=self.dev, bytes=128 * KIB, seed=9)
        self.assertEqual(self.receive(one, 128 * KIB), stream(9, 128 * KIB))
        self.assertGreater(time.monotonic() - begin, (128 - 10 - 2) / 100 * 0.9)
        self.vm.answer(ident)
        self.assertGreater(self.stats()["throttled"], 10)
        self.vm.power_off()


if __name__ == "__main__":
    sardine_test.main()
