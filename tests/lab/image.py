# SPDX-License-Identifier: Apache-2.0
"""image.py - builds the initramfs archives and disk images of the outer machine and of the inner guests."""

import hashlib
import os
import random
import re
import shutil
import subprocess

import packages
from cpio import Archive
from errors import CannotRun, LabError
from modules import ModuleTree

HERE = os.path.dirname(os.path.abspath(__file__))

# parameters of the outer machine's modules: with vgif on, an inner guest hangs under TCG
OUTER_MODULES = ["virtio_pci", "virtio_blk", "virtio_console", "kvm-amd", "tun", "bridge"]
OUTER_PARAMETERS = {"kvm_amd": "vgif=0"}
# button and evdev carry the power button to the guest's acpid, pvpanic-mmio its panics to the VMM
INNER_MODULES = ["virtio_mmio", "virtio_blk", "virtio_net", "virtio_balloon", "virtio_rng", "vmw_vsock_virtio_transport",
                 "button", "evdev", "pvpanic-mmio"]

DATA_BYTES = 8 << 20
ROOT_DISK_MIB = 48
# QEMU as inner VMM: its firmware, for -kernel on the microvm machine
QEMU_FIRMWARE = ["bios-microvm.bin", "qboot.rom", "linuxboot.bin", "linuxboot_dma.bin", "pvh.bin", "kvmvapic.bin"]
FIRMWARE_DIRS = ["/usr/share/qemu", "/usr/share/seabios"]


def _script(name):
    with open(os.path.join(HERE, "machine", name), "rb") as f:
        return f.read()


def _built_dir():
    path = os.path.join(packages.cache_dir(), "images")
    os.makedirs(path, exist_ok=True)
    return path


def _key(*parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else str(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def _file_key(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def _sources_key():
    return _key(*[_file_key(os.path.join(HERE, n)) for n in ("cpio.py", "image.py", "modules.py")])


def _initramfs(dest, kernel, wanted, parameters, init):
    tree = ModuleTree(kernel)
    archive = Archive()
    archive.file("bin/busybox", packages.busybox(), 0o755)
    archive.link("bin/sh", "busybox")
    archive.chardev("dev/console", 5, 1)
    archive.chardev("dev/null", 1, 3, 0o666)
    for folder in ("proc", "sys", "run", "tmp", "root"):
        archive.directory(folder)
    load = []
    for name in tree.order(wanted):
        archive.data(f"modules/{name}.ko", tree.content(name))
        load.append(f"insmod /modules/{name}.ko {parameters.get(name, '')}".strip())
    archive.data("modules/load", ("\n".join(load) + "\n").encode())
    archive.data("init", init, 0o755)
    archive.write(dest)


def outer_initramfs(kernel):
    """The outer machine's initramfs for `kernel`; returns its path."""
    init = _script("outer-init")
    key = _key(_sources_key(), kernel.root, init, _file_key(packages.busybox()))
    dest = os.path.join(_built_dir(), f"outer-{kernel.series}-{key}.cpio")
    if not os.path.exists(dest):
        _initramfs(dest, kernel, OUTER_MODULES, OUTER_PARAMETERS, init)
    return dest


def _mke2fs(dest, tree, size_mib):
    aside = f"{dest}.new.{os.getpid()}"
    # root_owner and the inode size keep the image the same whoever builds it
    made = subprocess.run([packages.tool("mke2fs"), "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E",
                           "root_owner=0:0", "-d", tree, aside, f"{size_mib}M"],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, check=False)
    if made.returncode != 0:
        raise LabError(f"mke2fs of {dest} failed: {made.stdout.strip()[-400:]}")
    os.replace(aside, dest)


def _tree_mib(tree):
    total = 0
    for folder, folders, files in os.walk(tree):
        total += 4096 * len(folders)
        for name in files:
            total += (os.lstat(os.path.join(folder, name)).st_size + 8191) & ~4095
    return total // (1 << 20)


def _disk_of_tree(dest, fill, size_mib=None):
    """Builds the ext4 image `dest` from what `fill(folder)` puts into an empty folder."""
    tree = f"{dest}.tree.{os.getpid()}"
    os.makedirs(tree)
    try:
        fill(tree)
        _mke2fs(dest, tree, size_mib or _tree_mib(tree) * 5 // 4 + 8)
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def _put(tree, path, content, mode=0o644):
    full = os.path.join(tree, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "wb") as f:
        f.write(content)
    os.chmod(full, mode)


def data_content():
    """The known file on every root disk: incompressible, the same on every machine."""
    return random.Random(2).randbytes(DATA_BYTES)


def data_sha256():
    return hashlib.sha256(data_content()).hexdigest()


def _fill_root(tree, programs=()):
    for folder in ("dev", "proc", "sys", "run", "tmp", "mnt", "root"):
        os.makedirs(os.path.join(tree, folder))
    with open(packages.busybox(), "rb") as f:
        _put(tree, "bin/busybox", f.read(), 0o755)
    os.symlink("busybox", os.path.join(tree, "bin/sh"))
    for path in programs:
        with open(path, "rb") as f:
            _put(tree, f"bin/{os.path.basename(path)}", f.read(), 0o755)
    _put(tree, "sbin/init", _script("guest-agent"), 0o755)
    _put(tree, "etc/acpi/PWRF/00000080", _script("guest-power-button"), 0o755)
    _put(tree, "data/blob", data_content())
    _put(tree, "data/sums", f"{data_sha256()}  /data/blob\n".encode())


def guests_image(kernels, programs):
    """The image with kernels, initramfs archives and the root disk of the inner guests, on which `programs` (static
    binaries) are in /bin; returns its path."""
    scripts = [_script(n) for n in ("guest-init", "guest-agent", "guest-power-button")]
    key = _key(_sources_key(), *[k.root for k in kernels], *scripts, *[_file_key(p) for p in [packages.busybox(), *programs]])
    dest = os.path.join(_built_dir(), f"guests-{key}.img")
    if os.path.exists(dest):
        return dest

    def fill(tree):
        for kernel in kernels:
            folder = os.path.join(tree, kernel.series)
            os.makedirs(folder)
            shutil.copyfile(kernel.image, os.path.join(folder, "vmlinuz"))
            _initramfs(os.path.join(folder, "initrd"), kernel, INNER_MODULES, {}, scripts[0])
        _disk_of_tree(os.path.join(tree, "root.img"), lambda root: _fill_root(root, programs), ROOT_DISK_MIB)

    _disk_of_tree(dest, fill)
    return dest


def _libraries(binary):
    """The shared libraries of `binary` by ldd, loader included; empty for a static one."""
    out = subprocess.run([packages.tool("ldd"), binary], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         text=True, check=False).stdout
    missing = re.findall(r"(\S+) => not found", out)
    if missing:
        raise CannotRun(f"{binary}: missing shared libraries {', '.join(missing)}")
    return re.findall(r"(/\S+) \(0x", out)


def _put_binaries(tree, binaries):
    os.makedirs(os.path.join(tree, "bin"), exist_ok=True)
    os.makedirs(os.path.join(tree, "lib"), exist_ok=True)
    for binary in binaries:
        shutil.copy(binary, os.path.join(tree, "bin", os.path.basename(binary)))
        for library in _libraries(binary):
            shutil.copy(library, os.path.join(tree, "lib", os.path.basename(library)))


def _binaries_image(prefix, binaries, more, more_files=()):
    # a change of any library shows in the binary's package version or in the binary; key both
    libraries = sorted({lib for b in binaries for lib in _libraries(b)})
    stats = [f"{p} {os.stat(p).st_size} {os.stat(p).st_mtime_ns}" for p in libraries]
    key = _key(_sources_key(), *[_file_key(b) for b in [*binaries, *more_files]], *stats)
    dest = os.path.join(_built_dir(), f"{prefix}-{key}.img")
    if not os.path.exists(dest):
        def fill(tree):
            _put_binaries(tree, binaries)
            more(tree)
        _disk_of_tree(dest, fill)
    return dest


def qemu_image():
    """The image with QEMU as the inner VMM for baselines; returns its path."""
    def firmware(tree):
        os.makedirs(os.path.join(tree, "firmware"))
        for name in QEMU_FIRMWARE:
            for folder in FIRMWARE_DIRS:
                path = os.path.join(folder, name)
                if os.path.exists(path):
                    shutil.copy(path, os.path.join(tree, "firmware", name))
                    break
    return _binaries_image("qemu", [packages.tool("qemu-system-x86_64")], firmware)


def programs_image(binaries):
    """The image with the project's own binaries, the libraries they need and our scripts; returns its path."""
    script = os.path.join(HERE, "demo-guests.sh")
    return _binaries_image("programs", binaries, lambda tree: shutil.copy(script, os.path.join(tree, "bin")), [script])


def guest_files(kernel, folder):
    """Puts vmlinuz, initrd and root.img for one guest into `folder`, for guests outside of the lab."""
    os.makedirs(folder, exist_ok=True)
    shutil.copyfile(kernel.image, os.path.join(folder, "vmlinuz"))
    _initramfs(os.path.join(folder, "initrd"), kernel, INNER_MODULES, {}, _script("guest-init"))
    _disk_of_tree(os.path.join(folder, "root.img"), _fill_root, ROOT_DISK_MIB)


def prune(keep, days=7):
    """Deletes built images that `keep` does not name and nobody used for `days`."""
    import time
    for name in os.listdir(_built_dir()):
        path = os.path.join(_built_dir(), name)
        if path in keep or not os.path.isfile(path):
            continue
        if time.time() - os.stat(path).st_mtime > days * 86400:
            os.unlink(path)
    for path in keep:
        os.utime(path)
