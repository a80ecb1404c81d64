#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`sardine check`, and the command line around the verbs."""
import json
import os
import subprocess
import unittest

import sardine_test
from sardine_test import SardineTest, needs_kvm

HIDE_KVM = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev && exec "$@"', "sh")


class Check(SardineTest):
    def check_json(self, code=0, **kwargs):
        done = self.sardine("check", "--json", **kwargs)
        self.assertEqual(done.returncode, code, done.stderr)
        return json.loads(done.stdout), done.stderr

    @needs_kvm
    def test_this_host_can(self):
        found, stderr = self.check_json()
        self.assertEqual(stderr, "")
        self.assertTrue(found["can_run"])
        self.assertIsNone(found["reason"])
        self.assertEqual(found["kvm"]["api_version"], 12)
        self.assertIn(found["kvm"]["guest_kernel"], ("native", "interpreted"))
        self.assertGreater(found["kvm"]["guest_kernel_mips"], 0)
        self.assertEqual(found["kernel"], os.uname().release)

    @needs_kvm
    def test_table_says_the_same(self):
        found, _ = self.check_json()
        done = self.sardine("check")
        self.assertEqual(done.returncode, 0)
        self.assertEqual(done.stderr, "")
        self.assertIn(f"guest kernels    {found['kvm']['guest_kernel']} (", done.stdout)
        self.assertIn(f"max_map_count    {found['max_map_count']}\n", done.stdout)
        for what in ("KVM", "userfaultfd", "PAGEMAP_SCAN", "KSM", "KSM manager", "THP", "tun", "io_uring", "cgroup"):
            self.assertRegex(done.stdout, rf"(?m)^{what} +\S")

    @unittest.skipIf(os.geteuid(), "needs root to hide /dev")
    def test_no_kvm_is_77_with_the_reason(self):
        found, stderr = self.check_json(77, wrap=HIDE_KVM)
        self.assertFalse(found["can_run"])
        self.assertIn("/dev/kvm", found["reason"])
        self.assertEqual(found["kvm"]["guest_kernel"], "unknown")
        self.assertFalse(found["tun"]["usable"])
        self.assertEqual(stderr, f"sardine check: {found['reason']}\n")

    def test_full_output_is_an_error(self):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(self.command("check", "--json"), stdout=full, stderr=subprocess.PIPE, env=self.env,
                                  timeout=30, check=False)
        self.assertEqual(done.returncode, 1 if sardine_test.no_kvm_reason() is None else 77)


class CommandLine(SardineTest):
    def test_help_and_version(self):
        for args in (("--help",), ("--version",), ("run", "--help"), ("check", "--help")):
            done = self.sardine(*args)
            self.assertEqual((done.returncode, done.stderr), (0, ""), args)
            self.assertIn("sardine", done.stdout)

    def test_wrong_verbs(self):
        for args, word in (((), "no verb"), (("walk",), "walk"), (("--walk",), "--walk"), (("",), "no such verb")):
            done = self.sardine(*args)
            self.assertEqual(done.returncode, 2)
            self.assertEqual(len(done.stderr.splitlines()), 1)
            self.assertIn(word, done.stderr)
            self.assertIn("sardine --help", done.stderr)

    def test_wrong_options(self):
        for args in (("run", "--walk"), ("run", "--mem"), ("run", "web1"), ("check", "--walk"), ("check", "x")):
            done = self.sardine(*args)
            self.assertEqual(done.returncode, 2, args)
            self.assertIn("Try `sardine", done.stderr)


class DryRun(SardineTest):
    def dry(self, *args):
        done = self.sardine("run", "--dry-run", *args)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return json.loads(done.stdout)

    def test_round_trip(self):
        first = self.dry("--name", "web1", "--kernel", "vmlinuz", "--initrd", "../initrd", "--cmdline", 'a="b c"',
                         "--mem", "1G", "--cpus", "3", "--disk", "path=a,,b.img,ro,serial=S1", "--disk",
                         "path=/c.img,direct=on", "--console", "unix:c.sock", "--engine", "local", "--daemon", "d.sock", "--mergeable", "on", "--kaslr", "on",
                         "--rng", "bw=1M,iops=50", "--vsock", "cid=7,path=v", "--balloon", "off", "--detach", "--cgroup", "/sys/fs/cgroup/x", "--log-level", "debug",
                         "--log-file", "l", "--cache-dir", "k", "--stop-timeout", "5")
        self.assertEqual(first["kernel"], f"{self.dir}/vmlinuz")
        self.assertEqual(first["disks"][0]["path"], f"{self.dir}/a,b.img")
        self.assertEqual(first["console"], f"unix:{self.dir}/c.sock")
        self.assertEqual(first["mem"], 1 << 30)
        self.assertEqual(first["vsock"], {"cid": 7, "path": f"{self.dir}/v", "bw": 0, "iops": 0})
        self.assertEqual(first["rng"], {"bw": 1 << 20, "iops": 50})
        self.assertEqual((first["engine"], first["daemon"]), ("local", f"{self.dir}/d.sock"))
        self.assertTrue(first["detach"])
        path = self.dir / "config.json"
        path.write_text(json.dumps(first))
        self.assertEqual(self.dry("--config", path), first)
        self.assertEqual(self.sardine("run", "--config", path, "--dry-run", cwd="/").stdout,
                         self.sardine("run", "--config", path, "--dry-run").stdout)

    def test_options_go_over_the_file_wherever_it_stands(self):
        (self.dir / "a.json").write_text('{"name": "a", "kernel": "/k", "mem": "64M", "disks": [{"path": "/d0"}]}')
        (self.dir / "b.json").write_text('{"cpus": 2, "mem": "96M"}')
        got = self.dry("--mem", "128M", "--disk", "path=/d1", "--config", "a.json", "--config", "b.json")
        self.assertEqual((got["name"], got["mem"], got["cpus"]), ("a", 128 << 20, 2))
        self.assertEqual([d["path"] for d in got["disks"]], ["/d0", "/d1"])

    def test_defaults(self):
        got = self.dry("--name", "a", "--kernel", "/k")
        self.assertEqual((got["mem"], got["cpus"], got["console"]), (256 << 20, 1, "stdio"))
        self.assertEqual((got["mergeable"], got["kaslr"], got["detach"]), (False, False, False))
        self.assertEqual(got["balloon"], {"size": 0, "stats": True, "deflate_on_oom": True, "reporting": True, "poison": True,
                                          "stats_interval": 0})
        self.assertEqual(self.dry("--name", "a", "--kernel", "/k", "--detach")["console"], "none")

    def test_it_touches_nothing(self):
        self.dry("--name", "a", "--kernel", "/k")
        self.assertFalse(self.rundir.exists())


if __name__ == "__main__":
    sardine_test.main()
