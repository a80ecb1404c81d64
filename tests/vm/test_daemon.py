#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""sardined as a program: its options and manual, one per socket, its end, what it tells, and sockets for VMs that run already."""
import errno
import fcntl
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import threading

import jsonschema

import sardine_test
from sardine_test import ROOT, SardineTest, Stream, poll, sardine_bin

SCHEMA = json.loads((ROOT / "docs/stats.schema.json").read_text())
PAGE = ROOT / "docs/man/sardined.8.in"
COMPLETION = ROOT / "dist/completion-sardined.bash"
ANSWER, STATS, UNKNOWN = 0x1000, 9, 77


class FakeVm:
    """The control socket of a VM that takes a daemon's socket, and the lock that says that it lives."""

    def __init__(self, test, name, answer):
        self.lock = os.open(test.rundir / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        test.addCleanup(os.close, self.lock)
        fcntl.fcntl(self.lock, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        os.write(self.lock, f"{os.getpid()}\n".encode())
        self.path = test.rundir / f"{name}.sock"
        self.listener = socket.socket(socket.AF_UNIX)
        test.addCleanup(self.listener.close)
        self.listener.bind(str(self.path))
        self.listener.listen()
        self.listener.settimeout(20)
        self.answer, self.request, self.fds = answer, None, []
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        connection, _ = self.listener.accept()
        with connection:
            connection.sendall(b'{"sardine":"x","protocol":{"min":1,"max":1},"name":"x","pid":1}\n')
            data, self.fds, _, _ = socket.recv_fds(connection, 4096, 4)
            self.request = json.loads(data)
            connection.sendall(json.dumps({"id": self.request["id"], **self.answer}).encode() + b"\n")
            connection.recv(1)


class Daemon(SardineTest):
    def setUp(self):
        super().setUp()
        self.rundir.mkdir(mode=0o700)
        self.socket = self.rundir / "sardined.sock"
        self.daemons = []

    def tearDown(self):
        for daemon in self.daemons:
            if daemon.poll() is None:
                daemon.terminate()
            daemon.wait(20)
            daemon.log.close()
        super().tearDown()

    def program(self, *args):
        return [str(pathlib.Path(sardine_bin()).with_name("sardined")), *map(str, args)]

    def run_sardined(self, *args):
        return subprocess.run(self.program(*args), env=self.env, text=True, capture_output=True, cwd=self.dir, timeout=30, check=False)

    def start_daemon(self, *args, env=None, **kwargs):
        daemon = subprocess.Popen(self.program(*args), env=env or self.env, stderr=subprocess.PIPE, cwd=self.dir, **kwargs)
        daemon.log = Stream(daemon.stderr)
        self.daemons.append(daemon)
        return daemon

    def serving(self, *args, **kwargs):
        daemon = self.start_daemon(*args, **kwargs)
        daemon.log.expect("serving ", 20)
        return daemon

    def status(self):
        done = self.run_sardined("--status", "--json")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return json.loads(done.stdout)

    def connect(self):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.addCleanup(s.close)
        s.settimeout(20)
        s.connect(str(self.socket))
        return s

    def call(self, s, kind, data=b""):
        """(kind, result) of the answer to a call."""
        s.sendall(struct.pack("=IIII", kind, 5, 0, 0) + data)
        answer = s.recv(100)
        self.assertEqual(len(answer), 24)
        kind, serial, result = struct.unpack("=IIi", answer[:12])
        self.assertEqual(serial, 5)
        return kind, result

    # Options

    def test_manual_and_completion(self):
        shown = set(re.findall(r"^ {6}--([a-z-]+)", self.run_sardined("--help").stdout, re.M)) - {"usage"}
        self.assertGreaterEqual(shown, {"socket", "threads", "status"})
        page = re.findall(r"^\.It Fl -([a-z-]+)", PAGE.read_text(), re.M)
        self.assertEqual(page, sorted(shown))
        offered = set(re.findall(r"--([a-z-]+)", re.search(r"compgen -W '(--[^']*)'", COMPLETION.read_text())[1]))
        self.assertEqual(offered - {"help", "usage", "version"}, shown)

    def test_wrong_command_lines(self):
        for args, word in ((("--threads", "0"), "--threads 0"), (("--threads", "x"), "--threads x"), (("extra",), "extra"),
                           (("--log-level", "loud"), "--log-level loud"), (("--json",), "--json"), (("--nope",), "--nope")):
            done = self.run_sardined(*args)
            self.assertEqual(done.returncode, 2, args)
            self.assertIn(word, done.stderr)
        done = self.run_sardined("--socket", self.dir / "missing" / "s")
        self.assertEqual((done.returncode, len(done.stderr.splitlines())), (1, 1), done.stderr)

    # Its life

    def test_one_per_socket(self):
        first = self.serving()
        second = self.run_sardined()
        self.assertEqual(second.returncode, 1)
        self.assertEqual(len(second.stderr.splitlines()), 1, second.stderr)
        self.assertIn("in use", second.stderr)
        self.assertEqual(self.status()["pid"], first.pid)

    def test_sigterm_ends_it_and_removes_its_socket(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            daemon = self.serving()
            silent = self.connect()
            daemon.send_signal(number)
            self.assertEqual(daemon.wait(10), 0)
            self.assertEqual(silent.recv(1), b"")
            self.assertFalse(self.socket.exists())
        done = self.run_sardined("--status")
        self.assertEqual((done.returncode, len(done.stderr.splitlines())), (1, 1))

    def test_what_a_killed_one_left_is_replaced(self):
        daemon = self.serving()
        daemon.kill()
        daemon.wait()
        self.assertTrue(self.socket.exists())
        again = self.serving()
        self.assertEqual(self.status()["pid"], again.pid)

    def test_a_file_that_is_no_socket_stays(self):
        self.socket.write_text("precious")
        done = self.run_sardined()
        self.assertEqual(done.returncode, 1)
        self.assertEqual(self.socket.read_text(), "precious")
        self.socket.unlink()

    def test_service_manager_and_log(self):
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(manager.close)
        manager.settimeout(20)
        manager.bind(str(self.dir / "notify"))
        log = self.dir / "log"
        daemon = self.start_daemon("--log-file", log, env=dict(self.env, NOTIFY_SOCKET=str(self.dir / "notify")))
        self.assertEqual(manager.recv(1000).decode().splitlines(), ["READY=1", f"MAINPID={daemon.pid}", "STATUS=serving"])
        self.status()
        log.rename(self.dir / "log.1")
        daemon.send_signal(signal.SIGHUP)
        poll(lambda: log.exists() and "reopened" in log.read_text(), "the log is opened anew")
        daemon.terminate()
        self.assertEqual(daemon.wait(10), 0)
        self.assertEqual(manager.recv(1000), b"STOPPING=1")

    # Whom it serves

    def test_status(self):
        daemon = self.serving("--threads", "1")
        status = self.status()
        self.assertEqual((status["pid"], status["domains"], status["connections"], status["protocol_errors"]), (daemon.pid, [], 1, 0))
        done = self.run_sardined("--status")
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stdout, rf"^sardined \S+: pid {daemon.pid}, 1 connections, 0 protocol errors\n$")

    def test_stats_of_the_host(self):
        def store():
            done = self.sardine("stats", "--json")
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            document = json.loads(done.stdout)
            jsonschema.validate(document, SCHEMA, cls=jsonschema.Draft202012Validator)
            return document["host"]["store"]
        self.assertIsNone(store())
        daemon = self.serving()
        zero = dict.fromkeys(("vms", "segments", "held_bytes", "mapped_bytes", "saved_bytes", "dead_bytes", "index_bytes", "protocol_errors"), 0)
        self.assertEqual(store(), {"pid": daemon.pid, **zero})

    def test_hostile_peers_are_dropped_and_counted(self):
        self.serving()
        good = self.connect()
        self.assertEqual(self.call(good, UNKNOWN), (ANSWER, -errno.ENOSYS))
        for data in (b"x", b"\0" * 8, struct.pack("=IIII", 2, 1, 1, 0), b"\1\0\0\0" * 1000, struct.pack("=IIIII", STATS, 1, 0, 0, 0)):
            bad = self.connect()
            bad.sendall(data)
            # Kind 0 is answered as unknown; everything else is the end.
            reply = bad.recv(100)
            self.assertEqual(len(reply), 24 if data == b"\0" * 8 else 0, data[:20])
        poll(lambda: self.status()["protocol_errors"] == 4, "four are counted")
        self.assertEqual(self.call(good, UNKNOWN), (ANSWER, -errno.ENOSYS))

    def test_peers_that_do_not_read_are_dropped(self):
        self.serving()
        deaf = self.connect()
        deaf.settimeout(5)
        with self.assertRaises(OSError):
            for _ in range(100000):
                deaf.sendall(struct.pack("=IIII", UNKNOWN, 1, 0, 0))
        poll(lambda: self.status()["protocol_errors"] == 1, "it is counted")

    # VMs that run already

    def test_hands_sockets_to_vms_that_run(self):
        vm = FakeVm(self, "confined", {"ok": True, "result": {}})
        old = FakeVm(self, "old", {"ok": False, "error": 'no command "attach-store"'})
        self.serving()
        poll(lambda: vm.request and old.request, "both are asked")
        self.assertEqual(vm.request["cmd"], "attach-store")
        self.assertEqual(len(vm.fds), 1)
        handed = socket.socket(fileno=vm.fds[0])
        self.addCleanup(handed.close)
        handed.settimeout(20)
        self.assertEqual(self.call(handed, UNKNOWN), (ANSWER, -errno.ENOSYS))
        # A VM learns nothing of other users'.
        self.assertEqual(self.call(handed, STATS), (ANSWER, -errno.EPERM))
        for fd in old.fds:
            with socket.socket(fileno=fd) as refused:
                self.assertEqual(refused.recv(1), b"")
        vm.path.unlink()
        old.path.unlink()
        for name in ("confined", "old"):
            (self.rundir / f"{name}.lock").unlink()


if __name__ == "__main__":
    sardine_test.main()
