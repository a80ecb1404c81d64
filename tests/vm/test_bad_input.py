#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The table of bad input on the command line and in the configuration. Rows: bad_input.py."""
import json

import sardine_test
from bad_input import BadInputTest, NO_CAPS, TAP, in_network, row
from kernel_files import MIB
from sardine_test import SardineTest


class BadInput(BadInputTest):
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

    @row(2, "--engine magic", "auto, store, local or off")
    def test_engine_unknown(self):
        return ["--engine", "magic"]

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
        # Held by a process beside the VM, until that ends: what the VM itself inherits is closed before anything is opened.
        holder = (f"{TAP} && exec 3<>/dev/net/tun && python3 -c 'import fcntl, struct; fcntl.ioctl(3, 0x400454CA, "
                  'struct.pack("16sH22x", b"t0", 0x5002))\' && { tail -s 0.1 --pid=$$ -f /dev/null >/dev/null 2>&1 & } && exec 3>&-')
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


class Good(SardineTest):
    """What the table is made from works when nothing is wrong with it: else its rows would prove nothing."""

    def dry(self, *args):
        return json.loads(self.sardine("run", "--dry-run", *args).stdout)

    def test_usual_options(self):
        got = self.dry("--name", "bad", "--kernel", "k", "--mem", "64M", "--console", "none", "--cache-dir", "c")
        self.assertEqual(got["name"], "bad")


if __name__ == "__main__":
    sardine_test.main()
