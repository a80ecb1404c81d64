# SPDX-License-Identifier: Apache-2.0
"""scenario_pair.py - two guests of one vCPU at once: the lab's baseline for scenarios with several guests."""

import image
from errors import check


def pair(lab):
    """Two guests boot together, read their disks and power off."""
    guests = lab.vmm.boot_all(["pair1", "pair2"], lab.inner, cpus=1)
    for guest in guests:
        got = guest.must("sha256sum /data/blob", timeout=90).split()[0]
        check(got == image.data_sha256(), f"{guest.name}: checksum of /data/blob is {got}")
    for guest in guests:
        lab.vmm.poweroff(guest)
