# SPDX-License-Identifier: Apache-2.0
"""scenario_life.py - a stock guest with 2 vCPUs reboots twice in one VMM, is paused and resumed, and panics."""

import time

from errors import check
from vmm import BOOT_SECONDS

MEMORY_MIB = 256
FILES = 6  # of 8 MiB, in tmpfs
PAUSE_SECONDS = 4
CLOCK_SLACK_SECONDS = 2
BIRTH_PART = 0.9
STALL = "soft lockup|rcu.*stall|clocksource.*unstable|hung_task|BUG:|Oops"


def _check_memory_and_disk(guest, boot):
    """Memory that the guest uses now is what it wrote, and the disk has what earlier boots wrote."""
    guest.must("mkdir -p /tmp/fill && mount -t tmpfs -o size=80m fill /tmp/fill && "
               f"for i in $(seq {FILES}); do cat /data/blob >/tmp/fill/$i || exit 1; done", timeout=120)
    sums = guest.must("sha256sum /tmp/fill/* /data/blob", timeout=180).splitlines()
    check(len(sums) == FILES + 1 and len({line.split()[0] for line in sums}) == 1, f"boot {boot}: files differ: {sums}")
    guest.must("sha256sum -c /data/sums", timeout=90)
    boots = guest.must(f"touch /data/boots && cat /data/boots && echo {boot} >>/data/boots && sync")
    check(boots.split() == [str(i) for i in range(boot)], f"boot {boot} finds {boots.split()} on its disk")
    nproc = guest.must("nproc")
    check(nproc == "2", f"boot {boot}: nproc says {nproc}, not 2")


def _uptime(guest):
    return float(guest.must("cut -d' ' -f1 /proc/uptime"))


def _check_clock(lab, guest, when):
    before = lab.outer.clock()
    inside = int(guest.must("date +%s"))
    after = lab.outer.clock()
    check(before - CLOCK_SLACK_SECONDS <= inside <= after + CLOCK_SLACK_SECONDS,
          f"{when} the guest's clock says {inside}, its host's {before} to {after}")


def _check_calm(guest, when):
    found = guest.run(f"dmesg | grep -E '{STALL}'")[1].strip()
    check(not found, f"{when} the guest's kernel complains: {found[:400]}")


def _reboot(lab, guest, boot, first):
    uptime = _uptime(guest)
    seconds = guest.reboot(BOOT_SECONDS[1])
    now = _uptime(guest)
    lab.report.note(f"{lab.title('life2')}: reboot {boot}: agent ready after {seconds:.0f} s, uptime {uptime:.0f} s before, "
                    f"{now:.0f} s after")
    check(now < seconds + 5, f"the guest's uptime is {now} s, {seconds:.0f} s after its reboot")
    _check_clock(lab, guest, f"after reboot {boot}")
    stats = lab.vmm.stats(guest.name)
    check(stats["reboots"] == boot, f"stats say {stats['reboots']} reboots, not {boot}")
    check(stats["pid"] == guest.process.pid, f"another process: {stats['pid']}")
    births = [s["memory"]["shared_from_birth_bytes"] for s in (first, stats)]
    lab.report.note(f"{lab.title('life2')}: {births[1] // 4096} frames shared from birth, {births[0] // 4096} at the first boot")
    check(births[1] >= BIRTH_PART * births[0], f"{births[1]} bytes shared from birth, {births[0]} at the first boot")
    private = [s["memory"]["private_bytes"] >> 20 for s in (first, stats)]
    check(private[1] < private[0] + 24, f"{private[1]} MiB private after the reboot, {private[0]} at the first boot")
    _check_memory_and_disk(guest, boot)


def _pause(lab, guest):
    lab.outer.must(f"sardine pause {guest.name}")
    check(lab.vmm.stats(guest.name)["state"] == "paused", "the VM is not paused")
    time.sleep(PAUSE_SECONDS)
    lab.outer.must(f"sardine resume {guest.name}")
    _check_clock(lab, guest, "right after the resume")
    _check_calm(guest, "after the resume")
    guest.must("sha256sum -c /data/sums", timeout=90)


def _panic(lab, guest):
    guest.must("ls -d /sys/bus/platform/drivers/pvpanic-mmio/QEMU0001:00")
    guest.tell("sync; echo c > /proc/sysrq-trigger")
    status = guest.process.wait(60)
    output = guest.process.output()
    lab.vmm.finish(guest)
    check(status == 1, f"{guest.name}: the VMM exited with {status} after the guest's panic: {output[-600:]}")
    for word in ("ended: crash: guest panic", "vcpu 0: ", "vcpu 1: ", " cr3 0x"):
        check(word in output, f"{guest.name}: no '{word}' in the log: {output[-1500:]}")


def life2(lab):
    """A guest with 2 vCPUs reboots twice in one process, is paused and resumed, then panics and is reported."""
    guest = lab.vmm.boot("life2", lab.inner, cpus=2, memory_mib=MEMORY_MIB)
    first = lab.vmm.stats(guest.name)
    _check_memory_and_disk(guest, 0)
    for boot in (1, 2):
        _reboot(lab, guest, boot, first)
    _pause(lab, guest)
    _panic(lab, guest)
