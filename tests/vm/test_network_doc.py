#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The commands that docs/network.md prints, run as printed in a network namespace, with the probe guest as the kernel."""
import json
import os
import re
import shutil
import subprocess

import sardine_test
from net_namespace import drop, ethernet, make_tap, no_taps_reason
from probe import NET, MIB, Probe, ProbeTest
from sardine_test import ROOT, Control, poll


def blocks():
    """The fenced blocks for a host's shell, in order."""
    return re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs" / "network.md").read_text(), re.S | re.M)


class Attached:
    """The console of a detached VM, by its control socket; what Probe wants of a VM."""

    def __init__(self, test, name):
        self.name = name
        self.pid = json.loads(test.sardine("stats", name, "--json").stdout)["pid"]
        self._control = Control(test.rundir / f"{name}.sock")
        answer = self._control.ask({"id": 1, "cmd": "console"})
        test.assertTrue(answer["ok"], answer)
        self._control.socket.settimeout(None)  # read by a thread from here on
        self.console = sardine_test.Stream(self._control.socket)

    def send(self, text):
        self._control.socket.sendall(text.encode())

    def close(self):
        self._control.socket.shutdown(2)
        self.console.close()


class Network(ProbeTest):
    def setUp(self):
        if no_taps_reason():
            self.skipTest(no_taps_reason())
        super().setUp()
        shutil.copy(sardine_test.probe_kernel(), self.dir / "vmlinuz")
        for name in ("initrd.img", "web1.img", "web2.img"):
            (self.dir / name).write_bytes(bytes(MIB))
        (self.dir / "bin").mkdir()
        (self.dir / "bin" / "sardine").symlink_to(sardine_test.sardine_bin())
        self.env["PATH"] = f"{self.dir}/bin:{os.environ['PATH']}"
        make_tap("eth0")  # stands for the host's card

    def tearDown(self):
        drop("eth0")
        super().tearDown()

    def shell(self, block):
        # The default cache of root is the host's: keep out of it.
        script = 'mount -t tmpfs none /var/cache && exec sh -e -c "$1"'
        done = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", block],
                              env=self.env, cwd=self.dir, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=90, check=False)
        self.assertEqual(done.returncode, 0, f"{block}\n{done.stdout}{done.stderr}")
        return done.stdout

    def attach(self, name):
        vm = Attached(self, name)
        self.addCleanup(vm.close)
        probe = Probe(self, vm, 256 * MIB)

        def answers():
            """What comes before the guest has set its port up, it drops."""
            try:
                return probe.ask("hello", seconds=1)
            except AssertionError:
                return None

        poll(answers, f"{name} answers", 30)
        return probe, probe.device(NET)

    def test_as_printed(self):
        printed = blocks()
        self.assertEqual(len(printed), 5)
        bridge, vms, uplink, away, handed = printed
        self.shell(bridge)
        self.shell(vms)
        (first, one), (second, two) = self.attach("web1"), self.attach("web2")
        first.ask("net", dev=one)
        mac = second.ask("net", dev=two)["mac"]
        frame = ethernet(bytes.fromhex(mac.replace(":", "")), b"\x02" + bytes(5), payload=b"over the bridge" + bytes(45))
        first.ask("store", at=32 * MIB, hex=frame.hex())
        # The bridge begins to forward when its ports have been up for a moment.
        for _ in range(100):
            first.ask("net_send", dev=one, at=32 * MIB, bytes=len(frame))
            got = second.ask("net_receive", dev=two, timeout_ms=400, to=40 * MIB)
            if got["frames"]:
                break
        self.assertEqual((got["frames"], got["last"]), (1, len(frame)))
        self.assertEqual(bytes.fromhex(second.ask("load", at=40 * MIB, bytes=len(frame))["hex"]), frame)
        self.shell(uplink)
        ports = subprocess.run(["bridge", "link"], capture_output=True, text=True, check=True).stdout
        for port in ("tap-web1", "tap-web2", "eth0"):
            self.assertRegex(ports, rf"{port}\b.*master br0")
        self.shell(away)
        left = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
        self.assertNotRegex(left, "web1|web2|br0")
        self.shell(handed)


if __name__ == "__main__":
    sardine_test.main()
