# SPDX-License-Identifier: Apache-2.0
"""scenario_cost.py - kernel memory that a settled stock guest costs its host: VmPTE, and the VM's cgroup as the kernel accounts it."""

import re

from errors import check

ROOT = "/sys/fs/cgroup"
# Of memory.stat (Documentation/admin-guide/cgroup-v2.rst); `kernel` holds all the others, sec_pagetables are KVM's nested page tables.
PARTS = ("kernel_stack", "pagetables", "sec_pagetables", "percpu", "vmalloc", "slab")
# what the kernel has counted for the group and not yet put down to one of the parts, or the other way round
SLACK_KIB = 512


def group(lab, name):
    """Makes the control group for the VM `name`, with memory accounted; returns its folder, for --cgroup."""
    path = f"{ROOT}/{name}"
    lab.outer.must(f"echo +memory >{ROOT}/cgroup.subtree_control && mkdir -p {path}")
    return path


def remove(lab, path):
    """After the VM's end; fails when somebody is left in it."""
    lab.outer.must(f"rmdir {path}")


def _stat_kib(lab, path):
    words = (line.split() for line in lab.outer.must(f"cat {path}/memory.stat").splitlines())
    return {key: int(value) // 1024 for key, value in words}


def measure(lab, scenario, guest, path):
    """Reports what the VM of `guest`, alone in the group `path`, costs in kernel memory, in KiB."""
    # A thread of the kernel's, which older KVMs have for each VM, has no program.
    members = [pid for pid in lab.outer.must(f"cat {path}/cgroup.procs").split() if lab.outer.run(f"readlink /proc/{pid}/exe")[0] == 0]
    check(members == [str(guest.process.pid)], f"{guest.name}: in the group are {members}, its VMM is {guest.process.pid}")
    status = lab.outer.must(f"cat /proc/{guest.process.pid}/status")
    vmpte = int(re.search(r"^VmPTE:\s*(\d+) kB", status, re.M)[1])
    stat = _stat_kib(lab, path)
    current = int(lab.outer.must(f"cat {path}/memory.current")) // 1024
    missing = [key for key in ("kernel", *PARTS) if key not in stat]
    check(not missing, f"memory.stat lacks {missing}: {stat}")
    parts = {key: stat[key] for key in PARTS}
    check(min(vmpte, stat["pagetables"], stat["sec_pagetables"], stat["kernel_stack"]) > 0,
          f"{guest.name}: a VM without page tables or stacks? VmPTE {vmpte}, {parts}")
    check(abs(vmpte - stat["pagetables"]) <= SLACK_KIB, f"{guest.name}: VmPTE is {vmpte} KiB, the group's page tables {stat['pagetables']}")
    check(sum(parts.values()) <= stat["kernel"] + SLACK_KIB, f"{guest.name}: of {stat['kernel']} KiB of kernel memory the parts are {parts}")
    check(stat["kernel"] <= current, f"{guest.name}: {stat['kernel']} KiB of kernel memory in a group of {current}")
    lab.report.figures(f"{lab.title(scenario)} cost_kib", dict(vmpte=vmpte, kernel=stat["kernel"], **parts, anon=stat["anon"], file=stat["file"]))
