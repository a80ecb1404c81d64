#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The verbs that talk to running VMs: ps, stop, kill, wait, console, stats, balloon, dump; and the control socket behind them."""
import json
import os
import pathlib
import pty
import signal
import socket
import struct
import subprocess
import termios
import unittest

import jsonschema

import sardine_test
from sardine_test import SardineTest, Stream, no_kvm_reason, poll

MIB = 1 << 20
SCHEMA = json.loads((sardine_test.ROOT / "docs" / "stats.schema.json").read_text())
NAMED = ("stop", "kill", "wait", "pause", "resume", "console", "stats", "balloon", "dump")


class Verbs(SardineTest):
    def setUp(self):
        reason = no_kvm_reason()
        if reason:
            self.skipTest(reason)
        super().setUp()

    def tearDown(self):
        for vm in self.vms:
            if vm.process.poll() is None:
                self.sardine("kill", vm.name)
        super().tearDown()

    def probe(self, name="vm", *args):
        """A VM in the background of the test whose probe guest takes commands over our pipes."""
        vm = self.start(name, "--mem", "64M", *args)
        vm.wait_running()
        vm.console.expect("probe: ready\n", 20)
        return vm

    def ask(self, vm, command):
        vm.send(f"@7 {command}\n")
        start = vm.console.expect("@7 ", 60)
        vm.console.expect("\n", 20, start)
        answer = vm.console.text()[start:].split("\n")[0]
        self.assertTrue(answer.startswith("ok"), answer)

    def json(self, *args):
        done = self.sardine(*args, "--json")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return json.loads(done.stdout)

    def valid(self, document):
        jsonschema.validate(document, SCHEMA, cls=jsonschema.Draft202012Validator)
        return document

    # No VM

    def test_without_any_vm(self):
        self.rundir.exists()
        for verb in NAMED:
            done = self.sardine(verb, "nobody", *(["file"] if verb == "dump" else []))
            self.assertOneLine(done, 1, "nobody", "no VM of this name", "sardine ps", verb=verb)
        self.assertFalse((self.dir / "file").exists())
        for name in ("a/b", "..", "", "x" * 64):
            self.assertOneLine(self.sardine("stats", name), 1, "no VM of this name", verb="stats")
        self.assertEqual(self.json("ps"), {"vms": []})
        self.assertEqual(self.valid(self.json("stats"))["host"]["vms"], 0)
        self.assertEqual(self.sardine("stats").returncode, 0)

    def test_usage(self):
        for args in (["stop"], ["kill"], ["wait"], ["pause"], ["resume"], ["pause", "a", "b"], ["resume", "--x"], ["console"], ["dump"], ["dump", "a"], ["ps", "a"], ["stop", "a", "b"],
                     ["stop", "a", "--timeout", "-1"], ["stop", "a", "--timeout", "x"], ["dump", "a", "b", "--format", "zip"],
                     ["balloon"], ["balloon", "a", "lots"], ["balloon", "a", "-1"], ["balloon", "a", "1M", "2M"],
                     ["balloon", "a", "9999999T"], ["balloon", "a", "1M", "--wait", "0"], ["balloon", "a", "--wait", "x"],
                     ["stats", "a", "b"], ["stats", "--watch", "0"], ["stats", "--watch", "x"], ["ps", "--fly"]):
            done = self.sardine(*args)
            self.assertEqual(done.returncode, 2, f"{args}: {done.stderr}")
            self.assertIn(f"sardine {args[0]}", done.stderr)

    def test_runtime_folder_of_others(self):
        self.rundir.mkdir(mode=0o755)
        os.chmod(self.rundir, 0o755)
        for verb in ("ps", "stats"):
            self.assertOneLine(self.sardine(verb), 1, "others can enter it", "chmod 700", verb=verb)
        self.assertOneLine(self.sardine("stop", "a"), 1, "chmod 700", verb="stop")

    def test_balloon(self):
        vm = self.probe("vm", "--rng", "off")
        self.assertEqual(self.sardine("balloon", "vm").stdout, "vm: target 0 B, actual 0 B, no-driver\n")
        self.assertEqual(self.json("balloon", "vm", "16M"),
                         {"name": "vm", "target_bytes": 16 * MIB, "actual_bytes": 0, "ballooned_bytes": 0, "liveness": "no-driver"})
        # Nobody gives anything.
        self.assertOneLine(self.sardine("balloon", "vm", "16M", "--wait", "1"), 1, "vm", "not within 1 s", "target 16 MiB",
                           "actual 0 B", "no-driver", verb="balloon")
        # Somebody does, after we began to wait.
        waits = subprocess.Popen(self.command("balloon", "vm", "8M", "--wait", "60", "--json"), env=self.env,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.ask(vm, "inflate from=0x1000000 to=0x1800000")
        out, err = waits.communicate(timeout=60)
        self.assertEqual((waits.returncode, err), (0, ""))
        self.assertEqual(json.loads(out)["ballooned_bytes"], 8 * MIB)
        self.assertEqual(json.loads(out)["liveness"], "idle")
        self.assertEqual(self.sardine("balloon", "vm").stdout, "vm: target 8 MiB, actual 8 MiB, idle\n")
        self.assertEqual(self.json("stats", "vm")["memory"]["ballooned_bytes"], 8 * MIB)
        # Above RAM, and without a balloon.
        self.assertOneLine(self.sardine("balloon", "vm", "65M"), 1, "vm", "more than the VM's memory", verb="balloon")
        self.assertEqual(self.json("balloon", "vm")["target_bytes"], 8 * MIB)
        self.probe("none", "--balloon", "off")
        for args in (["none"], ["none", "1M"]):
            self.assertOneLine(self.sardine("balloon", *args), 1, "none", "the VM has no balloon", verb="balloon")

    # The end of a VM

    def test_stop(self):
        vm = self.probe()
        vm.send("@1 button off=1 timeout_ms=60000\n")
        done = self.sardine("stop", "vm")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "vm: power-off\n", ""))
        self.assertEqual(vm.wait(5), 0)
        # The name is free at once.
        self.probe()

    def test_stop_of_a_deaf_guest(self):
        vm = self.probe()
        self.assertOneLine(self.sardine("stop", "vm", "--timeout", "1"), 1, "vm", "killed", "within 1 s", verb="stop")
        self.assertEqual(vm.wait(5), 1)

    def test_stop_cut_short_by_another(self):
        """The one that was not waited for to its end does not say that it was."""
        self.probe()
        first = subprocess.Popen(self.command("stop", "vm", "--timeout", "60"), env=self.env, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True)
        self.addCleanup(first.communicate)
        self.waits(first)
        self.assertOneLine(self.sardine("stop", "vm", "--timeout", "1"), 1, "did not power off within 1 s", verb="stop")
        _, stderr = first.communicate(timeout=20)
        self.assertEqual((first.returncode, stderr),
                         (1, "sardine stop: vm: killed: by someone else, before the 60 s were over\n"))

    def test_kill(self):
        vm = self.probe()
        self.assertEqual(self.json("kill", "vm"), {"name": "vm", "end": "killed"})
        self.assertEqual(vm.wait(5), 1)
        self.assertOneLine(self.sardine("kill", "vm"), 1, "no VM of this name", verb="kill")

    def waiter(self, vm, *args):
        """A `wait` that has asked: it polls without a timeout then, as it does not for the greeting."""
        process = subprocess.Popen(self.command("wait", vm.name, *args), env=self.env, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.communicate)
        self.waits(process)
        return process

    def waits(self, process):
        """Until the command has asked, and waits for the VM's end."""

        def waits():
            call = pathlib.Path(f"/proc/{process.pid}/syscall").read_text().split()
            return call[0] == "7" and int(call[3], 16) & 0xffffffff == 0xffffffff  # poll(fds, 1, -1)

        poll(waits, "the command waits")

    def test_wait(self):
        vm = self.probe()
        waiters = [self.waiter(vm), self.waiter(vm, "--json")]
        vm.send("@1 poweroff\n")
        outputs = [w.communicate(timeout=20) for w in waiters]
        self.assertEqual(outputs[0], ("vm: power-off\n", ""))
        self.assertEqual(json.loads(outputs[1][0]), {"name": "vm", "end": "power-off", "detail": ""})
        self.assertEqual([w.returncode for w in waiters], [0, 0])

    def test_wait_for_a_killed_process(self):
        vm = self.probe()
        waiter = self.waiter(vm)
        vm.signal(signal.SIGKILL)
        _, stderr = waiter.communicate(timeout=20)
        self.assertEqual(waiter.returncode, 1)
        self.assertIn("the VM's process ended before it answered", stderr)
        self.assertEqual(self.json("ps"), {"vms": []})
        # What it left is cleaned by whoever looks for VMs.
        vm.wait()
        self.sardine("ps")
        self.assertFalse((self.rundir / "vm.sock").exists())
        self.probe()

    # Looking at VMs

    def test_ps(self):
        self.probe("b")
        a = self.probe("a")
        found = self.json("ps")["vms"]
        self.assertEqual([(v["name"], v["state"], v["configured_bytes"]) for v in found],
                         [("a", "running", 64 * MIB), ("b", "running", 64 * MIB)])
        self.assertEqual(found[0]["pid"], a.pid)
        lines = self.sardine("ps").stdout.splitlines()
        self.assertEqual([line.split()[0] for line in lines], ["NAME", "a", "b"])

    def test_stats_have_their_shape(self):
        disk = self.dir / "disk"
        disk.write_bytes(bytes(MIB))
        self.probe("a", "--disk", f"path={disk}", "--mergeable", "on", "--cpus", "2")
        self.probe("b")
        one = self.valid(self.json("stats", "a"))
        self.assertEqual(one["name"], "a")
        self.assertTrue(one["memory"]["mergeable"])
        self.assertEqual(len(one["vcpus"]), 2)
        self.assertEqual([d["type"] for d in one["devices"]], ["block", "rng", "balloon", "console"])
        both = self.valid(self.json("stats"))
        self.assertEqual([v["name"] for v in both["vms"]], ["a", "b"])
        for vm in both["vms"]:
            memory, saved = vm["memory"], vm["saved"]
            self.assertEqual(memory["populated_bytes"],
                             memory["private_bytes"] + memory["shared_from_birth_bytes"] + memory["merged_bytes"] + memory["store_bytes"])
            self.assertEqual(memory["occupied_bytes"], memory["populated_bytes"] - saved["total_bytes"])
            self.assertLessEqual(vm["boot"]["copied_bytes"], 65536)
            # The two have one kernel: about half of what they share is saved for each.
            self.assertGreater(saved["birth_bytes"], 0)
            self.assertLess(saved["birth_bytes"], memory["shared_from_birth_bytes"])
        self.assertEqual(both["host"]["saved"]["birth_bytes"], sum(v["saved"]["birth_bytes"] for v in both["vms"]))
        self.assertGreater(both["host"]["ratio"], 1)

    def test_the_schema_refuses(self):
        """A schema that takes anything would be no test."""
        self.probe()
        good = self.json("stats", "vm")
        for path, bad in ((("memory", "merged_bytes"), None), (("memory", "merged_bytes"), -1), (("state",), "odd"),
                          (("schema",), 2), (("devices", 0, "throttled"), -1), (("devices", 1, "refused_pages"), "x"),
                          (("saved",), {}), (("pid",), 0)):
            document = json.loads(json.dumps(good))
            place = document
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = bad
            with self.subTest(path=path, bad=bad), self.assertRaises(jsonschema.ValidationError):
                self.valid(document)
        good["new_key"] = good["memory"]["new_key"] = 1
        good["devices"].append({"type": "yet-unknown", "packets": 1})
        self.valid(good)

    def test_stats_follow_the_guest(self):
        vm = self.probe("vm", "--mem", "96M")
        before = self.json("stats", "vm")["memory"]
        self.assertLess(before["populated_bytes"], 8 * MIB)
        self.ask(vm, f"fill from={16 * MIB:#x} to={48 * MIB:#x}")
        after = self.json("stats", "vm")["memory"]
        self.assertAlmostEqual(after["private_bytes"] - before["private_bytes"], 32 * MIB, delta=MIB)
        self.assertEqual(after["configured_bytes"], 96 * MIB)
        self.assertLess(after["vmm_private_bytes"], 24 * MIB)  # much under the sanitizers, but none of the 32

    def test_stats_tables(self):
        self.probe("a")
        lines = self.sardine("stats").stdout.splitlines()
        self.assertEqual(lines[0].split(), "NAME STATE CONFIGURED POPULATED PRIVATE BIRTH MERGED STORE SAVED".split())
        self.assertTrue(lines[2].startswith("total of 1"))
        self.assertTrue(lines[3].startswith("ratio "))
        self.assertIn("zero pages", lines[3])
        watch = subprocess.Popen(self.command("stats", "--watch", "1"), env=self.env, stdout=subprocess.PIPE)
        stream = Stream(watch.stdout)
        stream.expect("ratio", 20, stream.expect("ratio", 20))
        watch.terminate()
        watch.wait()
        stream.close()
        self.assertNotIn("\033", stream.text())
        watch = subprocess.Popen(self.command("stats", "a", "--watch", "1", "--json"), env=self.env, stdout=subprocess.PIPE)
        stream = Stream(watch.stdout)
        stream.expect("\n", 20, stream.expect("\n", 20))
        watch.terminate()
        watch.wait()
        stream.close()
        for line in stream.text().splitlines()[:2]:
            self.valid(json.loads(line))

    def test_silent_vm(self):
        vm = self.probe()
        vm.signal(signal.SIGSTOP)
        try:
            self.assertEqual([(v["name"], v["state"]) for v in self.json("ps")["vms"]], [("vm", "silent")])
            self.assertOneLine(self.sardine("stats", "vm"), 1, "vm", "does not answer", verb="stats")
        finally:
            vm.signal(signal.SIGCONT)
        self.assertEqual(self.json("ps")["vms"][0]["state"], "running")

    # Console

    def test_console_on_a_pipe(self):
        vm = self.probe()
        done = subprocess.Popen(self.command("console", "vm"), env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        stream = Stream(done.stdout)
        stream.expect("probe: ready\n")  # what was before
        done.stdin.write(b"@3 hello\n")
        done.stdin.close()  # the end of input is not the end of output
        stream.expect("@3 ok")
        vm.console.expect("@3 ok")  # the back end reads it too
        vm.send("@4 hello\n")
        stream.expect("@4 ok")
        self.sardine("kill", "vm")
        self.assertEqual(done.wait(10), 0)
        stream.close()

    def test_console_on_a_terminal(self):
        vm = self.probe()
        master, slave = pty.openpty()
        before = termios.tcgetattr(slave)
        process = subprocess.Popen(self.command("console", "vm"), env=self.env, stdin=slave, stdout=slave, stderr=slave,
                                   start_new_session=True)
        stream = Stream(os.fdopen(os.dup(master), "rb", buffering=0))
        stream.expect("probe: ready")
        poll(lambda: not termios.tcgetattr(slave)[3] & termios.ICANON, "raw mode")
        os.write(master, b"@5 hello\r\n")
        stream.expect("@5 ok")
        os.write(master, b"\x01x")
        self.assertEqual(process.wait(10), 0)
        self.assertEqual(termios.tcgetattr(slave), before)
        self.assertIsNone(vm.process.poll())  # the VM runs on
        os.close(slave)
        os.close(master)
        stream.close()

    def test_console_that_is_not_read_stops_nobody(self):
        vm = self.probe()
        with vm.control() as idle:
            self.assertTrue(idle.ask({"id": 1, "cmd": "console"})["ok"])
            # More than the client's socket takes is in tests/unit/test_console.c: here each byte costs an exit.
            self.ask(vm, "flood bytes=20000")
        console = self.json("stats", "vm")["devices"][-1]
        self.assertEqual(console["type"], "console")
        self.assertGreater(console["output_bytes"], 20000)
        self.assertEqual(console["output_dropped_bytes"], 0)

    # Dump

    def test_dump(self):
        vm = self.probe()
        address = 16 * MIB
        self.ask(vm, f"store at={address:#x} hex=5341524442494e45")
        populated = self.json("stats", "vm")["memory"]["populated_bytes"]
        raw = self.dir / "raw"
        found = self.json("dump", "vm", raw, "--format", "raw")
        self.assertEqual(found["file_bytes"], 64 * MIB)
        with raw.open("rb") as f:
            f.seek(address)
            self.assertEqual(f.read(8), b"SARDBINE")
        self.assertEqual(raw.stat().st_mode & 0o777, 0o600)
        self.assertLess(raw.stat().st_blocks * 512, 4 * MIB)
        elf = self.dir / "elf"
        self.assertEqual(self.sardine("dump", "vm", elf).returncode, 0)
        data = elf.read_bytes()
        offset, _, physical, size = struct.unpack_from("<QQQQ", data, 64 + 56 + 8)
        self.assertEqual((physical, size), (0, 64 * MIB))
        self.assertEqual(data[offset + address:offset + address + 8], b"SARDBINE")
        # Looking has populated nothing, and the guest runs on.
        self.assertLessEqual(self.json("stats", "vm")["memory"]["populated_bytes"], populated + MIB)
        self.ask(vm, "hello")

    def test_dump_that_cannot_be(self):
        self.probe()
        os.mkfifo(self.dir / "fifo")
        for path, *words in (("/dev/full", "not a regular file"), (self.dir, "cannot open it"),
                             (self.dir / "missing" / "x", "No such file"), (self.dir / "fifo", str(self.dir / "fifo"))):
            self.assertOneLine(self.sardine("dump", "vm", path), 1, path, *words, verb="dump")

    def test_dump_to_a_disk_in_use(self):
        """A VM's disk, its own or another's and read-only too, keeps its content."""
        content = os.urandom(MIB)
        for name, option in (("own", ""), ("shared", ",ro")):
            (self.dir / name).write_bytes(content)
            self.probe(name, "--disk", f"path={self.dir / name}{option}")
        for vm, path in (("own", "own"), ("shared", "own"), ("own", "shared")):
            self.assertOneLine(self.sardine("dump", vm, self.dir / path), 1, self.dir / path, "in use", verb="dump")
            self.assertEqual((self.dir / path).read_bytes(), content)

    @unittest.skipIf(os.geteuid() != 0, "a small file system needs root")
    def test_dump_to_a_full_disk(self):
        vm = self.probe()
        self.ask(vm, f"fill from={16 * MIB:#x} to={20 * MIB:#x}")
        small = self.dir / "small"
        small.mkdir()
        done = self.sardine("dump", "vm", small / "f", wrap=("unshare", "-m", "sh", "-c",
                            f'mount -t tmpfs -o size=1M none {small} && exec "$@"', "sh"))
        self.assertOneLine(done, 1, small / "f", "No space left", "incomplete", verb="dump")
        self.ask(vm, "hello")

    # The socket

    def test_socket_is_private_and_greets(self):
        vm = self.probe()
        self.assertEqual(vm.socket_path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(self.rundir.stat().st_mode & 0o777, 0o700)
        with vm.control() as control:
            self.assertEqual(control.greeting["protocol"], {"min": 1, "max": 1})
            self.assertEqual((control.greeting["name"], control.greeting["pid"]), ("vm", vm.pid))
            self.assertEqual(control.ask({"id": 5, "cmd": "ping"}), {"id": 5, "ok": True, "result": {}})
            self.assertIn("more than the VM's memory",
                          control.ask({"id": 6, "cmd": "balloon", "target_mib": 65})["error"])
            self.assertTrue(control.ask({"id": 7, "cmd": "balloon", "target_mib": 8})["ok"])
            stats = control.ask({"id": 8, "cmd": "stats"})["result"]
            self.valid(stats)
            self.assertEqual([d["target_bytes"] for d in stats["devices"] if d["type"] == "balloon"], [8 * MIB])

    def test_hostile_clients_leave_the_vm_alone(self):
        vm = self.probe()
        sockets = []
        for junk in (b"", b"\n" * 4000, b"\0" * 5000, b"x" * 70000, b'{"cmd":' * 5000, b"[" * 60000 + b"\n",
                     b'{"id":1,"cmd":"stats"}\n' * 300, b'{"id":1,"cmd":"wait"}\n' * 50):
            s = socket.socket(socket.AF_UNIX)
            s.connect(str(vm.socket_path))
            s.setblocking(False)
            try:
                s.send(junk)
            except OSError:
                pass
            sockets.append(s)
        self.ask(vm, "hello")
        self.assertEqual(self.json("ps")["vms"][0]["state"], "running")
        for s in sockets:
            s.close()
        self.assertEqual(self.json("ps")["vms"][0]["state"], "running")


class Example(unittest.TestCase):
    """Needs no VM."""

    def test_example_of_the_documentation(self):
        text = (sardine_test.ROOT / "docs" / "stats.md").read_text()
        example = json.loads(text.split("```json\n")[1].split("```")[0])
        jsonschema.Draft202012Validator.check_schema(SCHEMA)
        jsonschema.validate(example, SCHEMA, cls=jsonschema.Draft202012Validator)


if __name__ == "__main__":
    sardine_test.main()
