#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of fuzz_config_json, fuzz_config_text, fuzz_control and fuzz_acpi: seeds_text.py TARGET FOLDER."""
import json
import pathlib
import struct
import sys

DISKS = [{"path": "/a,b.img", "ro": True, "direct": False, "serial": "S1"}, {"path": "c", "serial": None}]
NETS = [{"tap": "t0", "mac": "52:54:00:12:34:56", "mtu": 1400, "bw": "1M", "iops": 9}, {"tap_fd": 5, "mac": None}]
CONFIG = {"name": "web1", "kernel": "/boot/vmlinuz", "initrd": "initrd.img", "cmdline": "console=ttyS0 quiet",
          "mem": "512M", "cpus": 2, "disks": DISKS, "nets": NETS, "console": "unix:/run/c", "mergeable": True, "kaslr": False,
          "balloon": True, "detach": True, "stop_timeout": 5, "cgroup": "/sys/fs/cgroup/x", "log_file": "l",
          "log_level": "debug", "cache_dir": "/c"}
OPTIONS = ["name web1", "kernel /boot/vmlinuz", "initrd i", "cmdline a b", "mem 1G", "cpus 4",
           "disk path=/a,,b,ro,direct=on,serial=S", "disk path=b", "net tap=t0,mac=52:54:00:12:34:56,mtu=1400,bw=1M,iops=9",
           "net tap-fd=5", "console stdio", "console none", "console file:/x",
           "console unix:y", "engine store", "daemon /d", "mergeable on", "kaslr off", "balloon off", "detach on", "stop-timeout 9", "cgroup /g",
           "log-file /l", "log-level warn", "cache-dir /c"]


def config_json():
    wrong = [{"name": ""}, {"cpus": "2"}, {"mem": True}, {"disks": 1}, {"disks": [1]}, {"disks": [{}]}, {"nothing": 1},
             {"nets": [{"tap": "t", "tap_fd": 3}]}, {"nets": [{"tap": "t", "mac": "01:00:00:00:00:00"}]},
             {"disks": [{"path": 1}]}, {"disks": [{"path": "a", "ro": 1}]}, {"disks": [{"path": "a", "x": 1}]},
             {"console": "tty"}, {"console": "file:"}, {"log_level": "loud"}, {"kernel": ""}, {"mergeable": "on"}, [1]]
    seeds = {"all": json.dumps(CONFIG), "few": json.dumps({"name": "a", "kernel": "k", "mem": 1 << 30}),
             "cut": json.dumps(CONFIG)[:-9], "twice": '{"cpus":1,"cpus":2}',
             "stdio": json.dumps({"name": "a", "kernel": "k", "console": "stdio", "detach": True}),
             "many": json.dumps({"name": "a", "disks": [{"path": "x"}] * 40})}
    seeds |= {f"wrong-{i}": json.dumps(w) for i, w in enumerate(wrong)}
    return {name: text.encode() for name, text in seeds.items()}


def config_text():
    seeds = {"all": "\n".join(OPTIONS)} | {o.split()[0] + str(i): o for i, o in enumerate(OPTIONS)}
    wrong = ["mem 12Q", "net tap=a/b", "net tap=t,mac=1:2", "net tap=t,mtu=1", "mem 99999999999999T", "cpus -1",
             "disk ro", "disk path=a,serial=", "disk path=a,direct=x",
             "disk path=a,serial=" + "s" * 30, "name " + "n" * 80, "console x", "console file:", "log-level x", "no 1",
             "kernel", "balloon maybe", "cpus 99", "mem 1", "mem 5000", "mem 99999G", "stop-timeout 999999",
             "name .x", "name a/b", "cmdline " + "c" * 4100]
    seeds |= {f"wrong-{i}": "name a\nkernel k\n" + w for i, w in enumerate(wrong)}
    seeds["disks"] = "disk path=a\n" * 40
    return {name: text.encode() for name, text in seeds.items()}


# The steps of fuzz_control.c.
LITERAL, LOOP, READ, END, FD, MANY, LONG, SLOW, REFUSE, CLIENT, LEAVE, STAY = (bytes([0xff, i]) for i in range(12))


def request(cmd, **args):
    return json.dumps({"id": 1, "cmd": cmd, **args}).encode() + b"\n"


def control():
    plain = [request("ping"), request("stats"), request("power-button"), request("balloon", target_mib=7),
             request("wait"), request("stop", timeout_s=3), request("stop"), request("kill"), request("merge", timeout_s=1), request("check")]
    dump = FD + request("dump", format="elf") + LOOP
    seeds = {"all": READ.join(plain), "at-once": b"".join(plain), "halves": b'{"cmd":' + LOOP + b'"ping"}\n' + READ,
             "dump": dump + READ + FD + request("dump", format="raw") + READ, "dump-leave": dump + LEAVE + plain[0],
             "dump-twice": dump + FD + request("dump") + READ, "no-fd": request("dump"), "bad": request("dump", format=1),
             "attach": (FD + REFUSE + request("attach-store") + READ) * 8,
             "console": plain[0] + request("console") + b"typed\n" + READ, "stay": plain[4] * 20 + STAY,
             "refused": b"".join(REFUSE + plain[1] + plain[3] + request("console") + READ for _ in range(5)),
             "refused-typed": REFUSE + request("console") + b"typed" + READ, "waits-console": plain[4] + request("console"),
             "flood": MANY * 8 + READ, "deaf": MANY * 8 + LEAVE, "slow": SLOW + MANY * 8 + LOOP * 4 + READ,
             "slow-stats": SLOW + (MANY * 4 + plain[1]) * 3 + LOOP * 4, "long": LONG + READ, "long-end": LONG + b"\n" + READ,
             "end": plain[0] + END + READ, "end-wait": plain[4] + plain[1] + END + READ,
             "clients": (plain[0] + CLIENT) * 4 + plain[5] + CLIENT + plain[6], "stats-20": plain[1] * 20 + READ,
             "wrong": b'\xff\x00[]\n{}\n{"id":"x","cmd":"ping"}\n{"cmd":1}\n{"cmd":"fly"}\n{"cmd":"ping","x":1}\n' +
                      request("balloon") + request("balloon", target_mib=-1) + request("stop", timeout_s=0)}
    return seeds


def path(text):
    letters = "AZ_09BCDEFX.\\^ a"
    return bytes([len(text)]) + bytes(letters.index(c) for c in text)


def acpi():
    (integer, string, eisa, resources, package, device, scope, method, if_, close, region, field, store,
     notify) = (bytes([i]) for i in range(14))
    numbers = [0, 1, 0xff, 0x100, 0x10000, 1 << 32]
    program = scope + path("\\_BC") + device + path("A0")
    program += b"".join(integer + path("A") + struct.pack("<Q", n) for n in numbers)
    program += eisa + path("_B") + struct.pack("<I", 0x41d00501) + string + path("^^A.BC") + b"\x09"
    program += resources + path("A.B.C") + bytes([6]) + bytes(range(6)) + close
    program += package + path("A.B.C.D") + bytes([3]) + struct.pack("<3Q", 0, 5, 5000)
    program += region + path("E") + struct.pack("<QQ", 1 << 31, 4096) + field + path("E") + bytes([3, 8, 1, 63])
    program += method + path("F") + b"\x81" + store + path("E") + b"\x00" + if_ + b"\x00" + struct.pack("<Q", 1)
    program += notify + path("\\A.B") + struct.pack("<Q", 0x80)
    long = device + path("A") + (string + path("B") + b"\x3f") * 70 + close
    wrong = [resources + path("A") + bytes([31]) + bytes([0] * 31), method + path("A") + b"\x08", field + path("A") + b"\x01\x40",
             eisa + path("A") + bytes(4), integer + path("9"), integer + path("A.A.A.A.A.A.A")]
    seeds = {"all": bytes([2, 5, 0, 0x10, 0, 0]) + program, "long": bytes([32, 14, 0xff, 0xff, 0, 0]) + long,
             "short": bytes([1, 0, 0x80, 0, 0x20, 0]) + program, "none": bytes([0, 15, 0, 0, 0, 0])}
    return seeds | {f"wrong-{i}": bytes([1, 1, 0, 4, 0, 0]) + w for i, w in enumerate(wrong)}


if __name__ == "__main__":
    chosen = {f.__name__: f for f in (config_json, config_text, control, acpi)}[sys.argv[1]]()
    for seed, content in chosen.items():
        pathlib.Path(sys.argv[2], seed).write_bytes(content)
