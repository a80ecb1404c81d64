# SPDX-License-Identifier: Apache-2.0
"""A clean, minimal Debian 12 root in a tmpfs, inside namespaces of our own: whatever happens, nothing of it outlives this process.

The root's tarball and the packages that were installed into it are cached beside the lab's files.
"""
import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lab"))
from errors import CannotRun  # noqa: E402
from packages import cache_dir  # noqa: E402

SUITE = "bookworm"
INSIDE = "SARDINE_INSTALL_INSIDE"


def enter():
    """Starts this program again as process 1 of namespaces of its own; returns in that one."""
    if os.environ.get(INSIDE):
        return
    if os.geteuid() != 0:
        raise CannotRun("mounting a Debian root needs root")
    for tool, package in (("mmdebstrap", "mmdebstrap"), ("dpkg-shlibdeps", "dpkg-dev"), ("file", "file")):
        if not shutil.which(tool):
            raise CannotRun(f"{tool} is not installed: apt-get install {package}")
    command = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*command, "true"], check=False, capture_output=True).returncode != 0:
        raise CannotRun("no mount and process namespaces of our own here (a container?)")
    os.execvpe(command[0], [*command, sys.executable, "-B", *sys.argv], dict(os.environ, **{INSIDE: "1"}))


def sources():
    """This machine's apt sources that have the suite, as files."""
    found = [p for pattern in ("sources.list", "sources.list.d/*.list", "sources.list.d/*.sources")
             for p in sorted(pathlib.Path("/etc/apt").glob(pattern)) if SUITE in p.read_text() and "debian" in p.read_text()]
    if not found:
        raise CannotRun(f"no apt sources of Debian {SUITE} in /etc/apt")
    return found


def _run(argv, what, **kwargs):
    done = subprocess.run(list(map(str, argv)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, check=False, **kwargs)
    if done.returncode != 0:
        raise CannotRun(f"{what}: {done.stdout.strip()[-600:]}")
    return done.stdout


class Root:
    """`path` is the root, `deb` a folder for the package, both in a tmpfs."""

    def __init__(self):
        self.cache = pathlib.Path(cache_dir()) / "install"
        self.archives = self.cache / "archives"
        (self.archives / "partial").mkdir(parents=True, exist_ok=True)
        self.base = pathlib.Path("/run")
        _run(["mount", "-t", "tmpfs", "-o", "size=2G,mode=755", "sardine-install", self.base], "a tmpfs")
        self.path = self.base / "root"
        self.path.mkdir()
        with self._locked():
            _run(["tar", "-xf", self._tarball(), "-C", self.path], "the Debian root")
        self._mount()

    @contextlib.contextmanager
    def _locked(self):
        fd = os.open(self.cache, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _tarball(self):
        files = sources()
        key = hashlib.sha256(b"\0".join(p.read_bytes() for p in files)).hexdigest()[:16]
        path = self.cache / f"{SUITE}-{key}.tar"
        if path.exists():
            return path
        aside = path.with_suffix(".new")
        # The package lists stay: what is installed later comes from the same moment.
        _run(["mmdebstrap", "--quiet", "--variant=minbase", "--format=tar", "--skip=cleanup/apt/lists", SUITE, aside, *files],
             "mmdebstrap")
        aside.rename(path)
        return path

    def _mount(self):
        root = self.path
        _run(["mount", "-t", "proc", "proc", root / "proc"], "proc")
        _run(["mount", "-t", "sysfs", "-o", "ro", "sysfs", root / "sys"], "sysfs")
        _run(["mount", "--rbind", "/dev", root / "dev"], "dev")
        _run(["mount", "-t", "tmpfs", "-o", "mode=755", "run", root / "run"], "run")
        _run(["mount", "--bind", self.archives, root / "var/cache/apt/archives"], "apt's archives")
        # Names are resolved, and proxies asked, as on this machine.
        shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        for conf in pathlib.Path("/etc/apt/apt.conf.d").glob("*"):
            text = conf.read_text(errors="replace")
            if any(word in text for word in ("Proxy", "Check-Valid-Until", "Check-Date")):
                shutil.copy(conf, root / "etc/apt/apt.conf.d" / conf.name)
        (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
        (root / "usr/sbin/policy-rc.d").chmod(0o755)

    def command(self, *argv):
        return ["chroot", str(self.path), *map(str, argv)]

    def environment(self):
        keep = {k: v for k, v in os.environ.items() if k.lower().endswith("_proxy")}
        return dict(keep, PATH="/usr/sbin:/usr/bin:/sbin:/bin", HOME="/root", LC_ALL="C.UTF-8", DEBIAN_FRONTEND="noninteractive")

    def run(self, *argv, seconds=120, **kwargs):
        return subprocess.run(self.command(*argv), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                              env=self.environment(), timeout=seconds, **kwargs)

    def apt_install(self, *what):
        """What apt says. Its archives are kept, so that the next time needs no network."""
        options = ("-q", "-y", "-o", "APT::Keep-Downloaded-Packages=true", "-o", "APT::Sandbox::User=root")
        install = ("apt-get", *options, "--no-install-recommends", "install", *what)
        done = self.run(*install, seconds=240)
        if done.returncode != 0:
            # The lists are of the day when the root was made: the archive may have newer packages only.
            self.run("apt-get", *options, "update", seconds=120)
            done = self.run(*install, seconds=240)
        return done

    def files(self):
        """All paths in the root that packages or programs may change: not those of mounts."""
        skip = {self.path / name for name in ("proc", "sys", "dev", "var/cache/apt", "var/lib/dpkg", "var/lib/apt", "var/log")}
        found = set()
        for folder, names, files in os.walk(self.path):
            at = pathlib.Path(folder)
            names[:] = [n for n in names if at / n not in skip]
            found.update(str((at / n).relative_to(self.path)) for n in names + files)
        return found
