# SPDX-License-Identifier: Apache-2.0
"""scenario_boot.py - a stock kernel with 2 vCPUs boots from virtio-blk and powers off in both ways."""

import os

import image
import scenario_cost
from errors import check

# what a sardine guest has: virtio ids 2 (block) and 5 (balloon), virtio 1.2 section 5
EXPECTED_DEVICES = {"0x0002", "0x0005"}
CLOCKSOURCES = ("kvm-clock", "tsc")
CLOCK_SLACK_SECONDS = 2


def _check_guest(lab, guest, cpus):
    cmdline = guest.must("cat /proc/cmdline")
    check("virtio_mmio.device" not in cmdline, f"virtio_mmio.device on the guest's command line: {cmdline}")
    nproc = guest.must("nproc")
    check(nproc == str(cpus), f"nproc says {nproc}, not {cpus}")
    devices = guest.must("for d in /sys/bus/virtio/devices/*; do echo $(cat $d/device) $(basename $(readlink $d/driver)); done")
    found = dict(line.split() for line in devices.splitlines())
    check(EXPECTED_DEVICES <= set(found), f"expected virtio devices {sorted(EXPECTED_DEVICES)}, the guest has: {devices!r}")
    where = guest.must("readlink -f /sys/bus/virtio/devices/virtio0/../firmware_node; cat /sys/bus/acpi/devices/LNRO0005:*/path")
    check("LNRO0005" in where or "\\_SB" in where, f"virtio devices are not announced by ACPI: {where!r}")
    source = guest.must("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")
    check(source in CLOCKSOURCES, f"clocksource is {source}, not {' or '.join(CLOCKSOURCES)}")
    _check_clock(lab, guest)
    _check_disk(guest)


def _check_clock(lab, guest):
    before = lab.outer.clock()
    inside = int(guest.must("date +%s"))
    after = lab.outer.clock()
    lab.report.note(f"{lab.title('boot2')}: the guest's clock differs by {inside - before} to {inside - after} s")
    check(before - CLOCK_SLACK_SECONDS <= inside <= after + CLOCK_SLACK_SECONDS,
          f"the guest's clock says {inside}, its host's {before} to {after}")


def _check_disk(guest):
    expected = image.data_sha256()
    for what in ("at first", "after dropping caches"):
        got = guest.must("sha256sum /data/blob", timeout=90).split()[0]
        check(got == expected, f"checksum of /data/blob {what} is {got}, not {expected}")
        guest.must("sync; echo 3 > /proc/sys/vm/drop_caches")
    # what is written comes back, through the disk
    guest.must("dd if=/data/blob of=/data/copy bs=64k count=32 2>/dev/null && sync && echo 3 > /proc/sys/vm/drop_caches")
    guest.must("dd if=/data/blob bs=64k count=32 2>/dev/null | cmp - /data/copy", timeout=90)


def boot2(lab):
    """2 vCPUs, everything checked, powered off by `sardine stop`; with --repeat and SARDINE_FULL a second boot powers itself off."""
    sardine = lab.vmm.title == "sardine"
    group = scenario_cost.group(lab, "boot2") if sardine else None
    guest = lab.vmm.boot("boot2", lab.inner, cpus=2, extra=f"--cgroup {group}" if sardine else "")
    lab.report.note(f"{lab.title('boot2')}: agent ready after {guest.boot_seconds:.0f} s")
    _check_guest(lab, guest, 2)
    if sardine:
        scenario_cost.measure(lab, "boot2", guest, group)
        lab.vmm.stop(guest)
        scenario_cost.remove(lab, group)
        if not lab.options.repeat and not os.environ.get("SARDINE_FULL"):
            return  # ksm2 has guests that start again and power themselves off
        guest = lab.vmm.boot("boot2-again", lab.inner, cpus=2)
        check(guest.must("nproc") == "2", "the second boot lacks a CPU")
    lab.vmm.poweroff(guest)
