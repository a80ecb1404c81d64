# SPDX-License-Identifier: Apache-2.0
"""packages.py - fetches Debian kernel packages by name and unpacks them into the lab's cache, installing nothing."""

import glob
import os
import re
import shutil
import subprocess

from errors import CannotRun

# Metapackages; the version in use is whatever they depend on today.
KERNELS = {
    "6.1": "linux-image-cloud-amd64",
    "6.12": "linux-image-6.12-cloud-amd64",
}


def cache_dir():
    """The lab's cache, outside the source tree; created on first use."""
    base = os.environ.get("SARDINE_CACHE")
    if not base:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        base = os.path.join(home, "sardine-lab")
    os.makedirs(base, mode=0o755, exist_ok=True)
    return base


def _run(argv, cwd=None):
    return subprocess.run(argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)


def _resolve(metapackage):
    """The versioned kernel package `metapackage` stands for, with its version; None if apt knows neither."""
    out = _run(["apt-cache", "depends", metapackage]).stdout
    match = re.search(r"Depends: (linux-image-\S+-cloud-amd64)$", out, re.M)
    if not match:
        return None
    package = match.group(1)
    policy = _run(["apt-cache", "policy", package]).stdout
    version = re.search(r"Candidate: (\S+)", policy)
    if not version or version.group(1) == "(none)":
        return None
    return package, version.group(1)


class Kernel:
    """One unpacked kernel package: `image` (bzImage as shipped), `release`, `modules` (directory)."""

    def __init__(self, series, root):
        self.series = series
        self.root = root
        images = glob.glob(os.path.join(root, "boot", "vmlinuz-*"))
        if len(images) != 1:
            raise CannotRun(f"{root}: expected one boot/vmlinuz-*, found {len(images)}; delete it to fetch it again")
        self.image = images[0]
        self.release = os.path.basename(images[0])[len("vmlinuz-"):]
        self.modules = os.path.join(root, "lib", "modules", self.release)


def kernel(series):
    """Fetches (once) and returns the stock cloud kernel of `series`, "6.1" or "6.12"."""
    metapackage = KERNELS[series]
    store = os.path.join(cache_dir(), "packages")
    os.makedirs(store, exist_ok=True)
    found = _resolve(metapackage)
    if not found:
        cached = sorted(glob.glob(os.path.join(store, f"{metapackage}@*")), key=os.path.getmtime)
        if cached:
            return Kernel(series, cached[-1])
        raise CannotRun(f"apt knows no package {metapackage}: run 'apt-get update' "
                        "with Debian's main and security archives enabled")
    package, version = found
    dest = os.path.join(store, f"{metapackage}@{version.replace(':', '_')}")
    if not os.path.isdir(dest):
        _fetch(package, version, dest)
    return Kernel(series, dest)


def _fetch(package, version, dest):
    aside = f"{dest}.new.{os.getpid()}"
    os.makedirs(aside)
    try:
        got = _run(["apt-get", "-q", "-o", "APT::Sandbox::User=" + ("root" if os.geteuid() == 0 else ""),
                    "download", f"{package}={version}"], cwd=aside)
        debs = glob.glob(os.path.join(aside, "*.deb"))
        if got.returncode != 0 or len(debs) != 1:
            raise CannotRun(f"apt-get download {package}={version} failed: {got.stdout.strip()[-400:]}")
        tree = os.path.join(aside, "tree")
        unpacked = _run(["dpkg", "-x", debs[0], tree])
        if unpacked.returncode != 0:
            raise CannotRun(f"dpkg -x {debs[0]} failed: {unpacked.stdout.strip()[-400:]}")
        os.rename(tree, dest)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def tool(*names):
    """The path of the first host tool in `names` that exists (also in sbin), with the package to install otherwise."""
    packages = {"qemu-system-x86_64": "qemu-system-x86", "mke2fs": "e2fsprogs", "busybox": "busybox-static",
                "dpkg": "dpkg", "ldd": "libc-bin", "ip": "iproute2"}
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    for name in names:
        found = shutil.which(name, path=path)
        if found:
            return found
    raise CannotRun(f"{names[0]} is not installed: apt-get install {packages.get(names[0], names[0])}")


def busybox():
    """A static busybox."""
    path = tool("busybox")
    with open(path, "rb") as f:
        head = f.read(4096)
    if b"ld-linux" in head:
        raise CannotRun(f"{path} is not static: apt-get install busybox-static")
    return path
