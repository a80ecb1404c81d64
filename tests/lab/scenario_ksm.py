# SPDX-License-Identifier: Apache-2.0
"""scenario_ksm.py - two guests share kernel frames from birth, and ksmd merges their memory when it may, only then."""

import time

import ram
from errors import check

MEMORY_MIB = 192
MERGED_PAGES = 1000
MERGE_SECONDS = 90
# with merging off, ksmd runs this long without touching the guests
OFF_SECONDS = 10
# frames both guests map because they started from the same cached kernel and initrd
BIRTH_FRAMES = 1000
KSM = "/sys/kernel/mm/ksm"


def start_ksmd(outer):
    """ksmd at a pace that two small guests need; the outer machine is thrown away, so nothing is restored."""
    outer.run(f"echo none > {KSM}/advisor_mode; echo 0 > {KSM}/smart_scan")  # 6.12 only
    outer.must(f"echo 5000 > {KSM}/pages_to_scan && echo 20 > {KSM}/sleep_millisecs && echo 1 > {KSM}/run")


def merging_pages(outer, guest):
    return int(outer.must(f"cat /proc/{guest.process.pid}/ksm_merging_pages").strip())


def _born_shared(lab, guests):
    rams = [ram.of_process(lab.outer, g.process.pid, MEMORY_MIB) for g in guests]
    frames = ram.common_frames(lab.outer, guests[0].process.pid, rams[0], guests[1].process.pid, rams[1])
    lab.report.note(f"{lab.title('ksm2')}: {frames['common']} frames in common of {frames['frames']} before any merging")
    return frames["common"]


def ksm2(lab):
    """Two guests of one vCPU: shared kernel frames from birth; merged by ksmd with --mergeable on, never with off."""
    guests = lab.vmm.boot_all(["off1", "off2"], lab.inner, cpus=1, memory_mib=MEMORY_MIB, extra=lab.vmm.mergeable(False))
    common = _born_shared(lab, guests)
    check(lab.vmm.title != "sardine" or common >= BIRTH_FRAMES, f"only {common} frames in common without merging, expected at least {BIRTH_FRAMES}")
    start_ksmd(lab.outer)
    deadline = time.monotonic() + OFF_SECONDS
    while time.monotonic() < deadline:
        for guest in guests:
            merged = merging_pages(lab.outer, guest)
            check(merged == 0, f"{guest.name}: {merged} pages merged although --mergeable is off")
        time.sleep(1)
    for guest in guests:
        lab.vmm.poweroff(guest)

    lab.outer.must(f"echo 0 > {KSM}/run")
    guests = lab.vmm.boot_all(["on1", "on2"], lab.inner, cpus=1, memory_mib=MEMORY_MIB, extra=lab.vmm.mergeable(True))
    start_ksmd(lab.outer)
    begin = time.monotonic()
    while True:
        merged = [merging_pages(lab.outer, guest) for guest in guests]
        seconds = time.monotonic() - begin
        if min(merged) > MERGED_PAGES:
            break
        check(seconds < MERGE_SECONDS, f"ksm_merging_pages is {merged} after {seconds:.0f} s of ksmd")
        time.sleep(1)
    lab.report.note(f"{lab.title('ksm2')}: ksm_merging_pages {merged} after {seconds:.0f} s of ksmd")
    for guest in guests:
        # merged memory still works
        guest.must("sha256sum -c /data/sums", timeout=120)
        lab.vmm.poweroff(guest)
