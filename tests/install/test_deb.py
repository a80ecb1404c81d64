#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The Debian package: built by cpack, installed by apt into a clean Debian 12 root, used there with the probe guest, purged.

Environment: SARDINE_BUILD, the build folder; SARDINE_PROBE, the probe guest.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import unittest

import debian_root
from debian_root import CannotRun, Root

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "vm"))
import sardine_test  # noqa: E402
from sardine_test import no_kvm_reason  # noqa: E402
from expected import FILES, deb_path  # noqa: E402

NAME = "web1"


def build_deb(folder):
    done = subprocess.run(["cpack", "-G", "DEB", "--config", os.environ["SARDINE_BUILD"] + "/CPackConfig.cmake", "-B", folder],
                          capture_output=True, text=True, check=False)
    found = list(pathlib.Path(folder).glob("*.deb"))
    assert done.returncode == 0 and len(found) == 1, done.stdout + done.stderr
    assert "CMake Warning" not in done.stdout + done.stderr, done.stdout + done.stderr
    return found[0]


class Package(unittest.TestCase):
    """One story in the order of the methods' names: install, look, run, purge."""

    @classmethod
    def setUpClass(cls):
        cls.root = Root()
        cls.deb = build_deb("/run/deb")
        shutil.copy(cls.deb, cls.root.path / "root")
        cls.before = cls.root.files()
        done = cls.root.apt_install(f"/root/{cls.deb.name}")
        assert done.returncode == 0, done.stdout + done.stderr
        cls.installed = cls.root.files()

    def ok(self, *argv):
        done = self.root.run(*argv)
        self.assertEqual((done.returncode, done.stderr), (0, ""), f"{argv}: {done.stdout}")
        return done.stdout

    def test_1_package(self):
        self.assertRegex(self.deb.name, r"^sardine_\d+\.\d+\.\d+_amd64\.deb$")
        self.assertIn("sardine", self.ok("dpkg-query", "-W", "-f", "${Depends} ${Package} ${Maintainer}", "sardine"))
        self.assertEqual(self.ok("dpkg", "-V", "sardine"), "")
        listed = [p for p in self.ok("dpkg", "-L", "sardine").splitlines() if (self.root.path / p[1:]).is_file()]
        self.assertEqual(sorted(listed), sorted(deb_path(p) for p in FILES))
        for path in listed:
            mode = (self.root.path / path[1:]).stat().st_mode & 0o7777
            self.assertEqual(mode, 0o755 if path.startswith("/usr/bin/") else 0o644, path)
        self.assertTrue((self.root.path / "etc/sardine").is_dir())

    def test_2_command(self):
        self.assertRegex(self.ok("sardine", "--version"), r"^sardine \d+\.\d+\.\d+\n$")
        done = self.root.run("sardine", "check", "--json")
        self.assertIn(done.returncode, (0, 77))
        self.assertEqual(json.loads(done.stdout)["kvm"]["usable"], no_kvm_reason() is None)

    def test_3_completion(self):
        script = ("source /usr/share/bash-completion/completions/sardine && COMP_WORDS=(sardine run --ker) COMP_CWORD=2 && "
                  "_sardine && echo ${COMPREPLY[*]}")
        self.assertEqual(self.ok("bash", "-uc", script), "--kernel=\n")

    def test_4_unit(self):
        text = (self.root.path / "usr/lib/systemd/system/sardine@.service").read_text()
        self.assertIn("\nExecStart=/usr/bin/sardine run --config /etc/sardine/%i.json --name %i", text)

    @sardine_test.needs_kvm
    def test_5_vm(self):
        """By the configuration that the unit reads, at the places that the package uses."""
        root = self.root
        shutil.copy(sardine_test.probe_kernel(), root.path / "root/probe")
        config = self.ok("sardine", "run", "--name", NAME, "--kernel", "/root/probe", "--mem", "64M", "--detach", "--dry-run")
        (root.path / f"etc/sardine/{NAME}.json").write_text(config)
        self.assertIn("running", self.ok("sardine", "run", "--config", f"/etc/sardine/{NAME}.json"))
        self.assertEqual([vm["name"] for vm in json.loads(self.ok("sardine", "ps", "--json"))["vms"]], [NAME])
        self.assertEqual(json.loads(self.ok("sardine", "stats", NAME, "--json"))["name"], NAME)
        self.assertTrue((root.path / f"run/sardine/{NAME}.sock").exists())
        self.assertTrue(list((root.path / "var/cache/sardine").iterdir()))
        # The probe guest does not heed its power button unless it is told to.
        done = root.run("sardine", "stop", NAME, "--timeout", "1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("did not power off within 1 s", done.stderr)
        self.assertEqual(json.loads(self.ok("sardine", "ps", "--json")), {"vms": []})
        (root.path / f"etc/sardine/{NAME}.json").unlink()

    def test_6_purge(self):
        """Nothing stays but what is not on a disk: the log of the VM in /run."""
        done = self.root.run("apt-get", "-q", "-y", "purge", "sardine")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertNotIn("not empty", done.stdout + done.stderr)
        left = {p for p in self.root.files() if "sardine" in p and not p.startswith("run/") and not p.startswith("root/")}
        self.assertEqual(left, set())
        self.assertEqual(self.root.run("dpkg", "-s", "sardine").returncode, 1)


def main():
    try:
        debian_root.enter()
        sardine_test.main()
    except CannotRun as e:
        print(f"cannot run here: {e}", file=sys.stderr)
        sys.exit(sardine_test.SKIP)


if __name__ == "__main__":
    main()
