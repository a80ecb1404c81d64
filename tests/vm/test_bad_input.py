#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The table of bad input: each row gives one clear line, the right exit code, no crash, and leaves nothing behind.

A row is a method of BadInput that returns what `run` is told beside the usual options, decorated with the exit code and the words
that the line must hold. Rows with kvm=True reach the point where KVM is needed; the others run anywhere.
"""
import fcntl
import json
import os
import pathlib
import resource
import socket
import struct

import sardine_test
from kernel_files import MIB, bzimage, elf, gzip_payload, segment
from sardine_test import SardineTest, no_kvm_reason, probe_kernel

NO_KVM = no_kvm_reason()
NOBODY = 65534
# uid 0 without its capabilities: permission bits count for it as for anybody.
NO_CAPS = ("setpriv", "--bounding-set=-all")
LOAD = 16 * MIB


def in_namespace(script, *then):
    """A command line prefix: run a script in a private mount namespace, then the command, under `then` if given."""
    return ("unshare", "-m", "sh", "-c", f'{script} && exec "$@"', "sh", *then)


TAP = "ip tuntap add dev t0 mode tap vnet_hdr"


def in_network(script="true", *then):
    """A command line prefix: run a script in a network namespace of its own, then the command, under `then` if given."""
    return ("unshare", "-n", "sh", "-c", f'{script} && exec "$@"', "sh", *then)


def row(code, *words, kvm=False, root=False, **extra):
    """Decorator of a row; see the module's text. `extra` may override name=, mem=, kernel= (None leaves the option out)."""

    def decorate(make):
        def test(self):
            if kvm and NO_KVM:
                self.skipTest(NO_KVM)
            if root and os.geteuid():
                self.skipTest("needs root")
            self.judge(make(self), code, words, extra)

        test.__name__ = make.__name__
        test.__doc__ = make.__doc__
        test.make = make
        return test

    return decorate


class BadInput(SardineTest):
    def judge(self, told, code, words, extra):
        """Run with what the row returned: a list of arguments, or (arguments, options of sardine())."""
        args, kwargs = told if isinstance(told, tuple) else (told, {})
        usual = {"name": "bad", "kernel": self.kernel, "mem": "64M", "console": "none", "cache-dir": self.cache, **extra}
        for name, value in usual.items():
            if value is not None and f"--{name}" not in args:
                args = [f"--{name}", value, *args]
        before = self.files()
        done = self.sardine("run", *args, seconds=20, **kwargs)
        self.assertOneLine(done, code, *words)
        self.assertEqual(self.files(), before, "files that came or went")
        self.assertLess(len(done.stderr), 700)

    def setUp(self):
        super().setUp()
        # Never run to an end by these tests: each fails before.
        self.kernel = probe_kernel() or self.file("halt.elf", elf(segment(LOAD, b"\xf4" * 64)))

    def file(self, name, data=b"", mode=0o644):
        path = self.dir / name
        path.write_bytes(data)
        path.chmod(mode)
        return path

    def sparse(self, name, size):
        path = self.dir / name
        with open(path, "wb") as f:
            f.truncate(size)
        return path

    def fifo(self):
        path = self.dir / "fifo"
        os.mkfifo(path)
        return path

    def elf(self, *args, **kwargs):
        return ["--kernel", self.file("bad.elf", elf(*args, **kwargs))]

    def config(self, text):
        return ["--config", self.file("bad.json", text.encode())]

    # Command line and configuration

    @row(2, "--name is missing", name=None)
    def test_no_name(self):
        return []

    @row(2, "--name a/b", "'/'", name="a/b")
    def test_name_with_slash(self):
        return []

    @row(2, "--name ..", name="..")
    def test_name_dots(self):
        return []

    @row(2, "--name nnnn", "100 bytes", name="n" * 100)
    def test_name_too_long(self):
        return []

    @row(2, "--name a?b", name="a\nb")
    def test_name_with_newline(self):
        return []

    @row(2, "--kernel is missing", kernel=None)
    def test_no_kernel(self):
        return []

    @row(2, "--balloon", "\"maybe\"", "on|off|[size=SIZE]")
    def test_balloon_maybe(self):
        return ["--balloon", "maybe"]

    @row(2, "--balloon size", "65 MiB", "more than the VM's memory", "64 MiB")
    def test_balloon_above_memory(self):
        return ["--balloon", "size=65M"]

    @row(2, "--balloon stats-interval", "86401", "86400")
    def test_balloon_interval(self):
        return ["--balloon", "stats-interval=86401"]

    @row(2, "bad.json", "balloon.reporting", "true or false")
    def test_balloon_json(self):
        return self.config('{"balloon": {"reporting": "on"}}')

    @row(2, "--mem", "0 B", "16 MiB", mem="0")
    def test_mem_zero(self):
        return []

    @row(2, "--mem", "15 MiB", mem="15M")
    def test_mem_too_small(self):
        return []

    @row(2, "--mem", "2 TiB", "1 TiB", mem="2T")
    def test_mem_absurd(self):
        return []

    @row(2, "--mem 99999999999999999999G", mem="99999999999999999999G")
    def test_mem_overflow(self):
        return []

    @row(2, "--mem", "4096", mem="67108865")
    def test_mem_not_pages(self):
        return []

    @row(2, "--mem much", mem="much")
    def test_mem_word(self):
        return []

    @row(2, "--cpus 0", "1 to 32")
    def test_cpus_zero(self):
        return ["--cpus", "0"]

    @row(2, "--cpus 33", "1 to 32")
    def test_cpus_too_many(self):
        return ["--cpus", "33"]

    @row(2, "--cpus 4294967297")
    def test_cpus_overflow(self):
        return ["--cpus", "4294967297"]

    @row(2, "--cpus -1")
    def test_cpus_negative(self):
        return ["--cpus=-1"]

    @row(2, "--cmdline", "4095")
    def test_cmdline_too_long(self):
        return ["--cmdline", "x" * 4096]

    @row(2, "--disk", "path=FILE")
    def test_disk_without_path(self):
        return ["--disk", "disk.img"]

    @row(2, "--disk", "serial")
    def test_disk_serial_too_long(self):
        return ["--disk", "path=a,serial=" + "s" * 21]

    @row(2, "--disk", "too many disks", "13")
    def test_disks_too_many(self):
        return [word for i in range(14) for word in ("--disk", f"path=/d{i}")]

    @row(2, "--console tty", "stdio", console=None)
    def test_console_unknown(self):
        return ["--console", "tty"]

    @row(2, "--console stdio", "--detach", console=None)
    def test_console_stdio_detached(self):
        return ["--console", "stdio", "--detach"]

    @row(2, "--mergeable maybe", "on", "off")
    def test_switch_unknown(self):
        return ["--mergeable", "maybe"]

    @row(2, "--rng", "maybe", "on|off|[bw=SIZE][,iops=N]")
    def test_rng_word(self):
        return ["--rng", "maybe"]

    @row(2, "--rng bw", "2T", "1 TiB")
    def test_rng_limit_absurd(self):
        return ["--rng", "bw=2T"]

    @row(2, "--rng iops", "1.5")
    def test_rng_limit_not_whole(self):
        return ["--rng", "iops=1.5"]

    @row(2, "bad.json", "rng.burst", "no such key")
    def test_rng_unknown_key(self):
        return self.config('{"rng": {"burst": 1}}')

    @row(2, "--net", "no tap", "tap-fd=N")
    def test_net_without_tap(self):
        return ["--net", "mtu=1500"]

    @row(2, "--net", '"t0" is no part of tap=NAME')
    def test_net_without_key(self):
        return ["--net", "t0"]

    @row(2, "--net", "tap=t0 and tap-fd=5", "one of them")
    def test_net_two_taps(self):
        return ["--net", "tap=t0,tap-fd=5"]

    @row(2, "--net tap", "16 bytes", "15")
    def test_net_tap_too_long(self):
        return ["--net", "tap=" + "t" * 16]

    @row(2, "--net tap", "0 bytes")
    def test_net_tap_empty(self):
        return ["--net", "tap="]

    @row(2, "--net tap a/b", "'/'")
    def test_net_tap_with_slash(self):
        return ["--net", "tap=a/b"]

    @row(2, "--net tap t%d", "'%'")
    def test_net_tap_pattern(self):
        return ["--net", "tap=t%d"]

    @row(2, "--net tap-fd", "standard files")
    def test_net_fd_standard(self):
        return ["--net", "tap-fd=1"]

    @row(2, "--net tap-fd", "five", "whole number")
    def test_net_fd_word(self):
        return ["--net", "tap-fd=five"]

    @row(2, "--net tap-fd", "99999999999", "must be from")
    def test_net_fd_absurd(self):
        return ["--net", "tap-fd=99999999999"]

    @row(2, "--net mac", "52:54:00:12:34", "six bytes")
    def test_net_mac_short(self):
        return ["--net", "tap=t0,mac=52:54:00:12:34"]

    @row(2, "--net mac", "52:54:00:12:34:xx", "six bytes")
    def test_net_mac_not_hexadecimal(self):
        return ["--net", "tap=t0,mac=52:54:00:12:34:xx"]

    @row(2, "--net mac", "group", "even")
    def test_net_mac_of_a_group(self):
        return ["--net", "tap=t0,mac=01:00:5e:00:00:01"]

    @row(2, "--net mac", "no address")
    def test_net_mac_zero(self):
        return ["--net", "tap=t0,mac=00:00:00:00:00:00"]

    @row(2, "--net mtu", "67", "68")
    def test_net_mtu_too_small(self):
        return ["--net", "tap=t0,mtu=67"]

    @row(2, "--net mtu", "65536", "65535")
    def test_net_mtu_too_large(self):
        return ["--net", "tap=t0,mtu=65536"]

    @row(2, "--net bw", "2T", "1 TiB")
    def test_net_limit_absurd(self):
        return ["--net", "tap=t0,bw=2T"]

    @row(2, "--net iops", "fast", "whole number")
    def test_net_limit_word(self):
        return ["--net", "tap=t0,iops=fast"]

    @row(2, "--net tap=t0", "twice")
    def test_net_tap_twice(self):
        return ["--net", "tap=t0", "--net", "tap=t1", "--net", "tap=t0"]

    @row(2, "--net tap-fd=7", "twice")
    def test_net_fd_twice(self):
        return ["--net", "tap-fd=7", "--net", "tap-fd=7"]

    @row(2, "--net mac=52:54:00:00:00:01", "twice")
    def test_net_mac_twice(self):
        return ["--net", "tap=t0,mac=52:54:00:00:00:01", "--net", "tap=t1,mac=52:54:00:00:00:01"]

    @row(2, "--net tap=t8", "too many", "8")
    def test_net_too_many(self):
        return [word for i in range(9) for word in ("--net", f"tap=t{i}")]

    @row(2, "bad.json", "nets[0].bridge", "no such key")
    def test_net_unknown_key(self):
        return self.config('{"nets": [{"tap": "t0", "bridge": "br0"}]}')

    @row(2, "bad.json", "nets", "array")
    def test_nets_no_array(self):
        return self.config('{"nets": {"tap": "t0"}}')

    @row(1, "--net tap=nosuch", "ip tuntap add dev nosuch mode tap vnet_hdr", kvm=True)
    def test_net_no_such_tap(self):
        return ["--net", "tap=nosuch"]

    @row(1, "--net tap=lo", "not a tap", kvm=True, root=True)
    def test_net_no_tap(self):
        return ["--net", "tap=lo"], {"wrap": in_network()}

    @row(1, "--net tap=t0", "not a tap", "tun", kvm=True, root=True)
    def test_net_tun(self):
        return ["--net", "tap=t0"], {"wrap": in_network("ip tuntap add dev t0 mode tun")}

    @row(1, "--net tap=t0", "multi_queue", kvm=True, root=True)
    def test_net_several_queues(self):
        return ["--net", "tap=t0"], {"wrap": in_network("ip tuntap add dev t0 mode tap multi_queue")}

    @row(1, "--net tap=t0", "another user", "user NAME", kvm=True, root=True)
    def test_net_tap_of_another(self):
        return ["--net", "tap=t0"], {"wrap": in_network(f"{TAP} user nobody", *NO_CAPS)}

    @row(1, "--net tap=t0", "another process", kvm=True, root=True)
    def test_net_tap_busy(self):
        holder = (f"{TAP} && exec 3<>/dev/net/tun && python3 -c 'import fcntl, struct; fcntl.ioctl(3, 0x400454CA, "
                  'struct.pack("16sH22x", b"t0", 0x5002))\'')
        return ["--net", "tap=t0"], {"wrap": in_network(holder)}

    @row(1, "--net tap=t0", "mtu=9000", "1500", "ip link set t0 mtu 9000", kvm=True, root=True)
    def test_net_mtu_above_the_taps(self):
        return ["--net", "tap=t0,mtu=9000"], {"wrap": in_network(TAP)}

    @row(1, "--net tap=t0", "no /dev/net/tun", "modprobe tun", kvm=True, root=True)
    def test_net_no_tun(self):
        return ["--net", "tap=t0"], {"wrap": in_network(TAP, "unshare", "-m", "sh", "-c",
                                                        'mount -t tmpfs none /dev/net && exec "$@"', "sh")}

    @row(1, "--net tap=t0", "/dev/net/tun: Permission denied", kvm=True, root=True)
    def test_net_tun_forbidden(self):
        script = 'mount -t tmpfs none /dev/net && mknod -m 0 /dev/net/tun c 10 200 && exec "$@"'
        return ["--net", "tap=t0"], {"wrap": in_network(TAP, "unshare", "-m", "sh", "-c", script, "sh", *NO_CAPS)}

    @row(1, "--net tap-fd=77", "handed in", kvm=True)
    def test_net_fd_not_open(self):
        return ["--net", "tap-fd=77"]

    @row(1, "--net tap-fd=9", "not the descriptor of a tap", kvm=True)
    def test_net_fd_of_something_else(self):
        return ["--net", "tap-fd=9"], {"wrap": ("bash", "-c", 'exec 9</dev/null; exec "$@"', "bash")}

    @row(2, "--vsock", "no cid", "cid=N")
    def test_vsock_without_cid(self):
        return ["--vsock", "path=/tmp/v"]

    @row(2, "--vsock", "no path", "path=PATH")
    def test_vsock_without_path(self):
        return ["--vsock", "cid=3"]

    @row(2, "--vsock", "no cid")
    def test_vsock_bare_on(self):
        return ["--vsock", "on"]

    @row(2, "--vsock cid", "2", "from 3 to 4294967294")
    def test_vsock_cid_of_the_host(self):
        return ["--vsock", "cid=2,path=v"]

    @row(2, "--vsock cid", "4294967295", "from 3 to 4294967294")
    def test_vsock_cid_any(self):
        return ["--vsock", "cid=4294967295,path=v"]

    @row(2, "--vsock cid", "three")
    def test_vsock_cid_word(self):
        return ["--vsock", "cid=three,path=v"]

    @row(2, "--vsock", "a folder")
    def test_vsock_path_folder(self):
        return ["--vsock", f"cid=3,path={self.home}/"]

    @row(2, "--vsock", "longer than 64 bytes")
    def test_vsock_path_long(self):
        return ["--vsock", f"cid=3,path={'v' * 65}"]

    @row(2, "bad.json", "vsock.cid", "whole number")
    def test_vsock_cid_wrong_type(self):
        return self.config('{"vsock": {"cid": "3", "path": "v"}}')

    @row(2, "devices", "14", "--balloon off")
    def test_devices_too_many(self):
        return [word for i in range(13) for word in ("--disk", f"path=/d{i}")]

    @row(2, "--log-level loud", "debug")
    def test_log_level_unknown(self):
        return ["--log-level", "loud"]

    @row(2, "--config", "nowhere.json", "No such file")
    def test_config_missing(self):
        return ["--config", "nowhere.json"]

    @row(2, "--config /", "directory")
    def test_config_is_folder(self):
        return ["--config", "/"]

    @row(2, "--config", "fifo", "not a regular file")
    def test_config_is_fifo(self):
        return ["--config", self.fifo()]

    @row(2, "--config /dev/zero", "not a regular file")
    def test_config_is_device(self):
        return ["--config", "/dev/zero"]

    @row(2, "bad.json", "not JSON", "line 1")
    def test_config_not_json(self):
        return self.config('{"mem": ')

    @row(2, "bad.json", "memory", "no such key")
    def test_config_unknown_key(self):
        return self.config('{"memory": "1G"}')

    @row(2, "bad.json", "cpus", "whole number")
    def test_config_wrong_type(self):
        return self.config('{"cpus": "2"}')

    @row(2, "bad.json", "duplicate")
    def test_config_key_twice(self):
        return self.config('{"cpus": 1, "cpus": 2}')

    @row(2, "bad.json", "not a configuration")
    def test_config_huge(self):
        return ["--config", self.sparse("bad.json", 64 * MIB)]

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

    def lock(self, path, kind):
        """An open file description lock on all of a file, held to the end of the test."""
        file = open(path, "r+b")
        self.addCleanup(file.close)
        fcntl.fcntl(file, 37, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))  # F_OFD_SETLK

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

    @row(1, "runtime directory", "XDG_RUNTIME_DIR", root=True)
    def test_runtime_folder_read_only(self):
        return [], {"wrap": in_namespace(f"mount -t tmpfs -o ro,mode=700 none {self.xdg}")}

    @row(1, "runtime directory", "XDG_RUNTIME_DIR")
    def test_runtime_folder_missing(self):
        return [], {"env": dict(self.env, XDG_RUNTIME_DIR=f"{self.dir}/nowhere")}

    @row(1, "runtime directory", "others")
    def test_runtime_folder_open_to_others(self):
        self.rundir.mkdir(mode=0o777)
        self.rundir.chmod(0o777)
        return []

    @row(1, "runtime directory", "XDG_RUNTIME_DIR", root=True)
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

    def leftovers(self):
        return [p for p in super().leftovers() if p not in getattr(self, "foreign", [])]

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

    def as_nobody(self):
        """What a run as another user needs: its folders, and a kernel where it can read it."""
        for path in (self.dir, self.xdg, self.cache, self.home):
            os.chown(path, NOBODY, NOBODY)
        return ["--kernel", self.file("nobody.elf", elf(segment(LOAD)))]

    def nobody(self, kvm_mode):
        """Run as another user, the command from a copy that this user can reach, /dev/kvm with this mode."""
        copy = self.file("sardine", pathlib.Path(sardine_test.sardine_bin()).read_bytes(), 0o755)
        setup = f"mount -t tmpfs -o mode=755 none /dev && mknod /dev/kvm c 10 232 && chmod {kvm_mode:o} /dev/kvm"
        drop = f"exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups {copy} \"$@\""
        return ("unshare", "-m", "sh", "-c", f"{setup} && shift && {drop}", "sh")

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
        return [*BadInput.test_name_in_use.make(self), "--detach"]

    @row(1, "--log-file", "fifo", "nobody reads")
    def test_detached_log_file_is_fifo_without_reader(self):
        return ["--log-file", self.fifo(), "--detach"]

    @row(1, "--kernel", "empty", kvm=True)
    def test_detached_kernel_empty(self):
        return ["--kernel", self.file("empty"), "--detach"]

    @row(77, "/dev/kvm", root=True)
    def test_detached_no_kvm(self):
        return ["--detach"], {"wrap": in_namespace("mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3")}


class Good(SardineTest):
    """What the table is made from works when nothing is wrong with it: else its rows would prove nothing."""

    def dry(self, *args):
        return json.loads(self.sardine("run", "--dry-run", *args).stdout)

    def test_usual_options(self):
        got = self.dry("--name", "bad", "--kernel", "k", "--mem", "64M", "--console", "none", "--cache-dir", "c")
        self.assertEqual(got["name"], "bad")


if __name__ == "__main__":
    sardine_test.main()
