#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`cmake --install` into a DESTDIR: exactly the files that belong there, with the places of that prefix in them.

Environment: SARDINE_BUILD, the build folder; SARDINE_BIN, the command.
"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "vm"))
import sardine_test  # noqa: E402
from expected import FILES  # noqa: E402

# prefix -> where configurations are
PREFIXES = {"/usr": "/etc", "/usr/local": "/usr/local/etc", "/opt/sardine": "/etc/opt/sardine"}


def run(*argv, **kwargs):
    return subprocess.run(list(map(str, argv)), capture_output=True, text=True, check=False, **kwargs)


class Files(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = pathlib.Path(tempfile.mkdtemp(prefix="sardine-install-"))
        cls.addClassCleanup(shutil.rmtree, cls.dir)
        cls.roots = {}
        for prefix in PREFIXES:
            root = cls.dir / prefix[1:].replace("/", "-")
            done = run("cmake", "--install", os.environ["SARDINE_BUILD"], "--prefix", prefix,
                       env=dict(os.environ, DESTDIR=str(root)))
            assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
            cls.roots[prefix] = root

    def each(self):
        for prefix, root in self.roots.items():
            with self.subTest(prefix):
                yield prefix, root

    def unit(self, prefix):
        return (self.roots[prefix] / prefix[1:] / "lib/systemd/system/sardine@.service").read_text()

    def test_exactly_these(self):
        for prefix, root in self.each():
            files = {"/" + str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() or p.is_symlink()}
            self.assertEqual(files, {f"{prefix}/{p}" for p in FILES})
            empty = {"/" + str(p.relative_to(root)) for p in root.rglob("*") if p.is_dir() and not list(p.iterdir())}
            self.assertEqual(empty, {PREFIXES[prefix] + "/sardine"})

    def test_modes(self):
        for prefix, root in self.each():
            for path in FILES:
                mode = (root / prefix[1:] / path).stat().st_mode & 0o7777
                self.assertEqual(mode, 0o755 if path.startswith("bin/") else 0o644, path)

    def test_places(self):
        """Each file that names others names those of its prefix, and no template's mark is left."""
        for prefix, root in self.each():
            self.assertIn(f"\nExecStart={prefix}/bin/sardine run --config {PREFIXES[prefix]}/sardine/%i.json --name %i\n",
                          self.unit(prefix))
            for path in FILES:
                if path.startswith(("lib/systemd/", "share/man/")):
                    text = (root / prefix[1:] / path).read_text()
                    self.assertNotRegex(text, r"@[a-z_]+@", path)
                    # The daemon has no configuration.
                    named = {"lib/systemd/system/sardined.service": f"\nExecStart={prefix}/bin/sardined\n",
                             "share/man/man8/sardined.8": f"{prefix}/share/doc/sardine/"}
                    self.assertIn(named.get(path, PREFIXES[prefix] + "/sardine/"), text, path)
                    self.assertNotIn(str(self.dir), text, path)

    def test_stop_timeout(self):
        """The service manager waits longer than the VM does by default."""
        config = json.loads(run(sardine_test.sardine_bin(), "run", "--name", "x", "--kernel", "k", "--dry-run").stdout)
        seconds = int(re.search(r"^TimeoutStopSec=(\d+)s$", self.unit("/usr"), re.M)[1])
        self.assertGreater(seconds, config["stop_timeout"] + 5)

    def test_manual_is_well_formed(self):
        if not shutil.which("mandoc"):
            self.skipTest("mandoc is not installed: apt-get install mandoc")
        for page in sorted(self.roots["/usr"].glob("usr/share/man/man*/*")):
            done = run("mandoc", "-T", "lint", "-W", "warning", page)
            self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))

    def test_completion_is_bash(self):
        done = run("bash", "-n", self.roots["/usr"] / "usr/share/bash-completion/completions/sardine")
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_unit_is_well_formed(self):
        if not shutil.which("systemd-analyze"):
            self.skipTest("systemd-analyze is not installed: apt-get install systemd")
        prefix = self.dir / "prefix"  # a real one, as the program must exist
        done = run("cmake", "--install", os.environ["SARDINE_BUILD"], "--prefix", prefix, env=dict(os.environ, DESTDIR=""))
        self.assertEqual(done.returncode, 0, done.stderr)
        done = run("systemd-analyze", "verify", "--man=no", prefix / "lib/systemd/system/sardine@web1.service")
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))


if __name__ == "__main__":
    sardine_test.main()
