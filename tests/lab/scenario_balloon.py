# SPDX-License-Identifier: Apache-2.0
"""scenario_balloon.py - memory that a guest used and freed goes back to the host through the balloon, and returns."""

import json
import time

import ram
from errors import check

MEMORY_MIB = 320
FILES = 16  # of 8 MiB: 128 MiB of tmpfs
TARGET_MIB = 96
RETURNED_MIB = 86
RETURN_SECONDS = 30
CONTROL = "/run/sardine/{name}.sock"


def _fill(guest):
    guest.must("mkdir -p /tmp/fill && mount -t tmpfs -o size=160m fill /tmp/fill && "
               f"for i in $(seq {FILES}); do cat /data/blob >/tmp/fill/$i || exit 1; done", timeout=120)


def _request(lab, guest, target_mib):
    line = json.dumps({"id": 1, "cmd": "balloon", "target_mib": target_mib})
    answer = lab.outer.must(f"uconsole --request {CONTROL.format(name=guest.name)} '{line}'")
    got = json.loads(answer)
    check(got.get("id") == 1 and "error" not in got, f"{guest.name}: balloon request {line} was answered {answer.strip()}")


def balloon1(lab):
    """A guest fills and frees 128 MiB; a balloon request of 96 MiB gives at least 86 MiB back; deflating returns them."""
    guest = lab.vmm.boot("balloon1", lab.inner, cpus=1, memory_mib=MEMORY_MIB)
    pid = guest.process.pid
    _fill(guest)
    guest.must("umount /tmp/fill; sync; echo 3 > /proc/sys/vm/drop_caches")
    before = ram.of_process(lab.outer, pid, MEMORY_MIB).rss_mib
    free_before = _free_mib(guest)

    _request(lab, guest, TARGET_MIB)
    begin = time.monotonic()
    while True:
        now = ram.of_process(lab.outer, pid, MEMORY_MIB).rss_mib
        seconds = time.monotonic() - begin
        if before - now >= RETURNED_MIB:
            break
        check(seconds < RETURN_SECONDS, f"Rss of the guest's RAM fell from {before:.0f} to {now:.0f} MiB in {seconds:.0f} s, "
                                        f"expected a fall of {RETURNED_MIB}")
        time.sleep(0.5)
    lab.report.note(f"{lab.title('balloon1')}: Rss of the guest's RAM fell from {before:.0f} to {now:.0f} MiB in {seconds:.1f} s")
    free_inflated = _free_mib(guest)
    check(free_before - free_inflated >= RETURNED_MIB,
          f"the guest has {free_inflated} MiB free with the balloon, {free_before} without")

    _request(lab, guest, 0)
    deadline = time.monotonic() + RETURN_SECONDS
    while _free_mib(guest) < free_before - 10:
        check(time.monotonic() < deadline, f"the guest has {_free_mib(guest)} MiB free after deflating, {free_before} before")
        time.sleep(0.5)
    _fill(guest)
    sums = set(line.split()[0] for line in guest.must("sha256sum /tmp/fill/* /data/blob", timeout=180).splitlines())
    check(len(sums) == 1, f"the refilled files differ: {sums}")
    guest.must("sha256sum -c /data/sums", timeout=60)
    lab.vmm.stop(guest)


def _free_mib(guest):
    return int(guest.must("awk '/^MemFree/ {print int($2 / 1024)}' /proc/meminfo"))
