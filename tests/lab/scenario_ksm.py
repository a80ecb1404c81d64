# SPDX-License-Identifier: Apache-2.0
"""scenario_ksm.py - two guests share kernel frames from birth, and ksmd merges their memory when it may, only then."""

import time

import ksm_stats
import ram
from errors import check

MEMORY_MIB = 192
MERGED_PAGES = 1000
MERGE_SECONDS = 90
# ksmd has settled when it merges less than a hundredth more in a second; after this long it counts as settled anyway
SETTLE_SECONDS = 10
# with merging off, ksmd runs this long without touching the guests
OFF_SECONDS = 10
# where the kernels of Debian are linked to be loaded (CONFIG_PHYSICAL_START), in guest physical memory
KERNEL_START = 0x1000000
PAGE = 4096
# Two guests that started from the same cached kernel have one frame for each page of it that they map and did not write.
# A booting kernel writes the greater part (it patches its own code, and reuses what only its start needed): the second bound is
# below what was measured, and shall notice that guests get copies of what they only read.
UNWRITTEN_PART = 0.99
BIRTH_PART = 0.25
BIRTH_FRAMES = 1000
KSM = "/sys/kernel/mm/ksm"


def start_ksmd(outer):
    """ksmd at a pace that two small guests need; the outer machine is thrown away, so nothing is restored."""
    outer.run(f"echo none > {KSM}/advisor_mode; echo 0 > {KSM}/smart_scan")  # 6.12 only
    outer.must(f"echo 5000 > {KSM}/pages_to_scan && echo 20 > {KSM}/sleep_millisecs && echo 1 > {KSM}/run")


def stop_ksmd(outer):
    """What is merged stays merged, and the counters stand still until it runs again."""
    outer.must(f"echo 0 > {KSM}/run")


def merging_pages(outer, guest):
    return int(outer.must(f"cat /proc/{guest.process.pid}/ksm_merging_pages").strip())


def _born_shared(lab, guests):
    """Before any merging: only what both guests map of the boot cache can be one frame."""
    pids = [g.process.pid for g in guests]
    rams = [ram.of_process(lab.outer, pid, MEMORY_MIB) for pid in pids]
    frames = ram.common_frames(lab.outer, pids, rams)
    title = lab.title("ksm2")
    lab.report.note(f"{title}: {frames['common']} frames of RAM in common of {frames['frames']} before any merging")
    if lab.vmm.title != "sardine":
        return
    size = -(-lab.vmm.stats(guests[0].name)["boot"]["kernel_bytes"] // PAGE) * PAGE
    kernel = (KERNEL_START, size)
    every = ram.common_frames(lab.outer, pids, rams, part=kernel)
    files = ram.common_frames(lab.outer, pids, rams, part=kernel, files=True)
    common, mapped = every["common"], max(every["frames"])
    lab.report.note(f"{title}: of the kernel's {size // PAGE} frames, {every['frames']} are mapped, {files['frames']} of them "
                    f"not written, and {common} in common")
    check(common >= BIRTH_FRAMES, f"only {common} of the kernel's frames in common without merging, expected at least {BIRTH_FRAMES}")
    check(common >= UNWRITTEN_PART * max(files["frames"]),
          f"only {common} of {files['frames']} unwritten frames of the kernel in common, expected {UNWRITTEN_PART:.0%}")
    check(common >= BIRTH_PART * mapped,
          f"only {common} of {mapped} mapped frames of the kernel in common without merging, expected {BIRTH_PART:.0%}")
    ksm_stats.check_birth(lab, guests, MEMORY_MIB)


def _merge(lab, guests):
    """Lets ksmd merge the guests' memory until it has settled, and stops it."""
    start_ksmd(lab.outer)
    begin = time.monotonic()
    enough = None
    last = 0
    while True:
        merged = [merging_pages(lab.outer, guest) for guest in guests]
        seconds = time.monotonic() - begin
        if enough is None and min(merged) > MERGED_PAGES:
            enough = seconds
        if enough is not None and (sum(merged) - last < sum(merged) // 100 or seconds - enough > SETTLE_SECONDS):
            break
        check(enough is not None or seconds < MERGE_SECONDS, f"ksm_merging_pages is {merged} after {seconds:.0f} s of ksmd")
        last = sum(merged)
        time.sleep(1)
    stop_ksmd(lab.outer)
    lab.report.note(f"{lab.title('ksm2')}: ksm_merging_pages {merged} after {seconds:.0f} s of ksmd")


def ksm2(lab):
    """Two guests of one vCPU: shared kernel frames from birth; merged by ksmd with --mergeable on, never with off; `stats` agrees."""
    guests = lab.vmm.boot_all(["off1", "off2"], lab.inner, cpus=1, memory_mib=MEMORY_MIB, extra=lab.vmm.mergeable(False) + lab.vmm.NO_ENGINE)
    _born_shared(lab, guests)
    start_ksmd(lab.outer)
    deadline = time.monotonic() + OFF_SECONDS
    while time.monotonic() < deadline:
        for guest in guests:
            merged = merging_pages(lab.outer, guest)
            check(merged == 0, f"{guest.name}: {merged} pages merged although --mergeable is off")
        time.sleep(1)
    for guest in guests:
        lab.vmm.poweroff(guest)

    stop_ksmd(lab.outer)
    guests = lab.vmm.boot_all(["on1", "on2"], lab.inner, cpus=1, memory_mib=MEMORY_MIB, extra=lab.vmm.mergeable(True))
    _merge(lab, guests)
    if lab.vmm.title == "sardine":
        ksm_stats.check_merged(lab, guests, MEMORY_MIB)
    for guest in guests:
        # merged memory still works
        guest.must("sha256sum -c /data/sums", timeout=120)
        lab.vmm.poweroff(guest)
