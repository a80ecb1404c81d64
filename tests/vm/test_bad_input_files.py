#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The table of bad input in files, folders and devices of the host. Rows: bad_input.py."""
import fcntl
import os
import resource
import socket

import sardine_test
from bad_input import BadInputTest, LOAD, NOBODY, NO_CAPS, in_namespace, row
from kernel_files import MIB, bzimage, elf, gzip_payload, segment


class BadFiles(BadInputTest):
    # The kernel file

    @row(1, "--kernel", "nowhere", "no such file", kvm=True)
    def test_kernel_missing(self):
        return ["--kernel", "nowhere"]

    @row(1, "--kernel", "empty", kvm=True)
    def test_kernel_empty(self):
        return ["--kernel", self.file("empty")]

    @row(1, "--kernel", "folder", kvm=True)
    def test_kernel_is_folder(self):
        return ["--kernel", self.home]

    @row(1, "--kernel", "FIFO", kvm=True)
    def test_kernel_is_fifo(self):
        return ["--kernel", self.fifo()]

    @row(1, "--kernel /dev/zero", "device", kvm=True)
    def test_kernel_is_device(self):
        return ["--kernel", "/dev/zero"]

    @row(1, "--kernel", "65536 MiB", "most", kvm=True)
    def test_kernel_huge(self):
        return ["--kernel", self.sparse("huge", 64 << 30)]

    @row(1, "--kernel", "neither bzImage nor ELF", kvm=True)
    def test_kernel_is_text(self):
        return ["--kernel", self.file("text", b"not a kernel\n" * 1000)]

    @row(1, "--kernel", "secret", "permission denied", kvm=True, root=True)
    def test_kernel_unreadable(self):
        return ["--kernel", self.file("secret", elf(segment(LOAD)), 0)], {"wrap": NO_CAPS}

    @row(1, "--kernel", "truncated", kvm=True)
    def test_elf_truncated_in_header(self):
        return ["--kernel", self.file("bad.elf", elf(segment(LOAD))[:40])]

    @row(1, "--kernel", "truncated", kvm=True)
    def test_elf_truncated_in_segment(self):
        return ["--kernel", self.file("bad.elf", elf(segment(LOAD, b"x" * 8192))[:4096])]

    @row(1, "--kernel", "overlap", "0x1000020", kvm=True)
    def test_elf_segments_overlap(self):
        return self.elf(segment(LOAD), segment(LOAD + 32))

    @row(1, "--kernel", "segment 1", "outside", kvm=True)
    def test_elf_segment_at_the_end_of_addresses(self):
        return self.elf(segment(LOAD), segment((1 << 64) - 4096))

    @row(1, "--kernel", "segment 1", "outside", kvm=True)
    def test_elf_segment_in_device_memory(self):
        return self.elf(segment(LOAD), segment(0xd0000000))

    @row(1, "--kernel", "segment 0", "outside the file", kvm=True)
    def test_elf_segment_outside_the_file(self):
        return self.elf(segment(LOAD, offset=(1 << 64) - 32))

    @row(1, "--kernel", "larger in the file", kvm=True)
    def test_elf_segment_larger_in_file(self):
        return self.elf(segment(LOAD, memsz=8))

    @row(1, "--kernel", "entry point", kvm=True)
    def test_elf_entry_nowhere(self):
        return self.elf(segment(LOAD), entry=4096)

    @row(1, "--kernel", "x86", kvm=True)
    def test_elf_for_another_cpu(self):
        return self.elf(segment(LOAD), machine=183)

    @row(1, "--kernel", "program headers", kvm=True)
    def test_elf_without_segments(self):
        return self.elf()

    @row(1, "--kernel", "program headers", kvm=True)
    def test_elf_too_many_segments(self):
        return self.elf(segment(LOAD), phnum=65535)

    @row(1, "--kernel", "bzImage", "truncated", kvm=True)
    def test_bzimage_truncated_in_header(self):
        return ["--kernel", self.file("bad", bzimage(b"")[:0x230])]

    @row(1, "--kernel", "truncated", kvm=True)
    def test_bzimage_truncated_in_payload(self):
        good = bzimage(gzip_payload(os.urandom(65536)))
        return ["--kernel", self.file("bad", good[: len(good) // 2])]

    @row(1, "--kernel", "gzip payload is corrupt", kvm=True)
    def test_bzimage_corrupt_payload(self):
        payload = bytearray(gzip_payload(os.urandom(65536)))
        payload[1000:1100] = bytes(100)
        payload[-40:] = bytes(40)
        return ["--kernel", self.file("bad", bzimage(bytes(payload)))]

    @row(1, "--kernel", "no known format", kvm=True)
    def test_bzimage_payload_of_unknown_kind(self):
        return ["--kernel", self.file("bad", bzimage(b"\x01\x02\x03\x04" * 64))]

    @row(1, "--kernel", "not an ELF", kvm=True)
    def test_bzimage_payload_is_no_elf(self):
        return ["--kernel", self.file("bad", bzimage(gzip_payload(b"text" * 4096)))]

    @row(1, "--kernel", "MiB", kvm=True)
    def test_bzimage_payload_is_a_bomb(self):
        return ["--kernel", self.file("bad", bzimage(gzip_payload(bytes(1100 * MIB))))]

    @row(1, "--kernel", "--kaslr", kvm=True)
    def test_elf_with_kaslr(self):
        return [*self.elf(segment(LOAD)), "--kaslr", "on"]

    @row(1, "--mem", "64 MiB", "kernel", kvm=True)
    def test_kernel_does_not_fit(self):
        return self.elf(segment(LOAD, memsz=100 * MIB))

    # The initrd

    @row(1, "--initrd", "nowhere", "no such file", kvm=True)
    def test_initrd_missing(self):
        return ["--initrd", "nowhere"]

    @row(1, "--initrd", "folder", kvm=True)
    def test_initrd_is_folder(self):
        return ["--initrd", self.home]

    @row(1, "--initrd", "FIFO", kvm=True)
    def test_initrd_is_fifo(self):
        return ["--initrd", self.fifo()]

    @row(1, "--initrd", "empty", kvm=True)
    def test_initrd_empty(self):
        return ["--initrd", self.file("empty")]

    @row(1, "--mem", "64 MiB", "initrd of 200 MiB", kvm=True)
    def test_initrd_does_not_fit(self):
        return ["--initrd", self.sparse("initrd", 200 * MIB)]

    # Disks

    @row(1, "--disk", "nowhere", kvm=True)
    def test_disk_missing(self):
        return ["--disk", "path=nowhere"]

    @row(1, "--disk", "vanished", kvm=True)
    def test_disk_vanished(self):
        (self.dir / "vanished").symlink_to("gone.img")
        return ["--disk", "path=vanished"]

    @row(1, "--disk", "home", kvm=True)
    def test_disk_is_folder(self):
        return ["--disk", f"path={self.home}"]

    @row(1, "--disk", "fifo", kvm=True)
    def test_disk_is_fifo(self):
        return ["--disk", f"path={self.fifo()}"]

    @row(1, "--disk", "empty", kvm=True)
    def test_disk_empty(self):
        return ["--disk", f"path={self.file('empty')}"]

    @row(1, "--disk", "secret", kvm=True, root=True)
    def test_disk_unreadable(self):
        return ["--disk", f"path={self.file('secret', bytes(MIB), 0)}"], {"wrap": NO_CAPS}

    @row(1, "--disk", "disk.img", "ro", kvm=True, root=True)
    def test_disk_not_writable(self):
        return ["--disk", f"path={self.file('disk.img', bytes(MIB), 0o444)}"], {"wrap": NO_CAPS}

    @row(1, "--disk", "disk.img", "in use", kvm=True)
    def test_disk_locked(self):
        path = self.file("disk.img", bytes(MIB))
        self.lock(path, fcntl.F_RDLCK)
        return ["--disk", f"path={path}"]

    @row(1, "--disk", "disk.img", "in use", kvm=True)
    def test_disk_locked_for_writing(self):
        path = self.file("disk.img", bytes(MIB))
        self.lock(path, fcntl.F_WRLCK)
        return ["--disk", f"path={path},ro"]

    @row(1, "--disk", "disk.img", "in use", kvm=True)
    def test_disk_twice(self):
        path = self.file("disk.img", bytes(MIB))
        return ["--disk", f"path={path}", "--disk", f"path={path}"]

    # The cache

    @row(1, "cache", "No space left", "--cache-dir", kvm=True, root=True)
    def test_cache_full(self):
        mount = in_namespace(f"mount -t tmpfs -o size=64k,mode=700 none {self.cache}")
        kernel = self.file("big.elf", elf(segment(LOAD, os.urandom(MIB))))
        return ["--kernel", kernel], {"wrap": mount}

    @row(1, "cache", "File too large", "--cache-dir", kvm=True)
    def test_cache_file_size_limited(self):
        kernel = self.file("big.elf", elf(segment(LOAD, os.urandom(MIB))))
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        return ["--kernel", kernel], {"preexec_fn": limit}

    @row(1, "cache", "--cache-dir", "Read-only", kvm=True, root=True)
    def test_cache_read_only(self):
        mount = in_namespace(f"mount -t tmpfs -o ro,mode=700 none {self.cache}")
        return [], {"wrap": mount}

    @row(1, "cache", "--cache-dir", kvm=True)
    def test_cache_is_file(self):
        return ["--cache-dir", self.file("file")]

    @row(1, "cache", "others", kvm=True)
    def test_cache_writable_by_others(self):
        self.cache.chmod(0o777)
        return []

    @row(1, "HOME", "--cache-dir", kvm=True, root=True, **{"cache-dir": None})
    def test_no_home(self):
        """As another user, for whom the default is in HOME."""
        for path in (self.dir, self.xdg):
            os.chown(path, NOBODY, NOBODY)
        env = {"XDG_RUNTIME_DIR": str(self.xdg), "PATH": os.environ["PATH"]}
        return self.as_nobody(), {"env": env, "wrap": self.nobody(0o666)}

    # The runtime folder and names

    @row(1, "runtime directory", "SARDINE_RUNTIME_DIR", root=True)
    def test_runtime_folder_read_only(self):
        return [], {"wrap": in_namespace(f"mount -t tmpfs -o ro,mode=700 none {self.xdg}")}

    @row(1, "runtime directory", "SARDINE_RUNTIME_DIR")
    def test_runtime_folder_missing(self):
        return [], {"env": dict(self.env, SARDINE_RUNTIME_DIR=f"{self.dir}/nowhere/sardine")}

    @row(1, "SARDINE_RUNTIME_DIR=run", "absolute")
    def test_runtime_folder_relative(self):
        return [], {"env": dict(self.env, SARDINE_RUNTIME_DIR="run")}

    @row(1, "runtime directory", "others")
    def test_runtime_folder_open_to_others(self):
        self.rundir.mkdir(mode=0o777)
        self.rundir.chmod(0o777)
        return []

    @row(1, "runtime directory", "SARDINE_RUNTIME_DIR", root=True)
    def test_runtime_folder_of_somebody_else(self):
        self.rundir.mkdir(mode=0o700)
        os.chown(self.rundir, NOBODY, NOBODY)
        return []

    @row(1, "--name bad", "in use")
    def test_name_in_use(self):
        self.rundir.mkdir(mode=0o700)
        lock = self.rundir / "bad.lock"
        lock.write_text(f"{os.getpid()}\n")
        lock.chmod(0o600)
        self.lock(lock, fcntl.F_WRLCK)
        self.foreign = [str(lock)]
        return []

    # The host

    @row(77, "/dev/kvm", "no such device", root=True)
    def test_no_kvm_device(self):
        return [], {"wrap": in_namespace("mount -t tmpfs none /dev")}

    @row(77, "/dev/kvm", "permission", root=True)
    def test_no_permission(self):
        return [], {"wrap": in_namespace("mount -t tmpfs none /dev && mknod -m 0 /dev/kvm c 10 232", *NO_CAPS)}

    @row(77, "/dev/kvm", "KVM", root=True)
    def test_device_is_no_kvm(self):
        return [], {"wrap": in_namespace("mount -t tmpfs none /dev && mknod -m 666 /dev/kvm c 1 3")}

    @row(77, "/dev/kvm", "permission", root=True)
    def test_another_user(self):
        return self.as_nobody(), {"wrap": self.nobody(0o600)}

    # Other files

    @row(1, "--cgroup", "nowhere", "make the group")
    def test_cgroup_missing(self):
        return ["--cgroup", "/sys/fs/cgroup/nowhere"]

    @row(1, "--cgroup", "not in a control group")
    def test_cgroup_is_no_cgroup(self):
        return ["--cgroup", self.home]

    @row(1, "--log-file", "nowhere")
    def test_log_file_in_no_folder(self):
        return ["--log-file", "nowhere/log"]

    @row(1, "--log-file", "fifo", "nobody reads")
    def test_log_file_is_fifo_without_reader(self):
        return ["--log-file", self.fifo()]

    @row(1, "--console file:", "nowhere", console=None)
    def test_console_file_in_no_folder(self):
        return ["--console", "file:nowhere/console"]

    @row(1, "--kernel", "empty", kvm=True, console=None)
    def test_console_file_of_a_failed_start(self):
        return ["--kernel", self.file("empty"), "--console", "file:new.txt"]

    @row(1, "--kernel", "empty", kvm=True, console=None)
    def test_console_file_that_was_there(self):
        return ["--kernel", self.file("empty"), "--console", f"file:{self.file('old.txt')}"]

    @row(1, "--console unix:", "taken", console=None)
    def test_console_socket_is_file(self):
        return ["--console", f"unix:{self.file('taken')}"]

    @row(1, "--kernel", "empty", kvm=True)
    def test_vsock_of_a_failed_start(self):
        return ["--kernel", self.file("empty"), "--vsock", f"cid=3,path={self.dir}/v"]

    @row(1, "--vsock path=", "taken", "no socket", kvm=True)
    def test_vsock_file_in_the_way(self):
        return ["--vsock", f"cid=3,path={self.file('taken')}"]

    @row(1, "--vsock path=", "nowhere/v", "No such file", kvm=True)
    def test_vsock_folder_missing(self):
        return ["--vsock", f"cid=3,path={self.dir}/nowhere/v"]

    @row(1, "--vsock path=", "live", "in use", kvm=True)
    def test_vsock_live_socket(self):
        self.live = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.live.close)
        self.live.bind(f"{self.dir}/live")
        self.live.listen()
        return ["--vsock", f"cid=3,path={self.dir}/live"]

    @row(1, "--console unix:", "live", console=None)
    def test_console_socket_in_use(self):
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(str(self.dir / "live"))
        listener.listen()
        return ["--console", f"unix:{self.dir}/live"]

    # The same through --detach: the starter hears of it

    @row(1, "--name bad", "in use")
    def test_detached_name_in_use(self):
        return [*BadFiles.test_name_in_use.make(self), "--detach"]

    @row(1, "--log-file", "fifo", "nobody reads")
    def test_detached_log_file_is_fifo_without_reader(self):
        return ["--log-file", self.fifo(), "--detach"]

    @row(1, "--kernel", "empty", kvm=True)
    def test_detached_kernel_empty(self):
        return ["--kernel", self.file("empty"), "--detach"]

    @row(77, "/dev/kvm", root=True)
    def test_detached_no_kvm(self):
        return ["--detach"], {"wrap": in_namespace("mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3")}


if __name__ == "__main__":
    sardine_test.main()
