# SPDX-License-Identifier: Apache-2.0
"""ksm_stats.py - compares `sardine stats` of two guests with what the kernel of the outer machine counts."""

import json
import os
import time

import jsonschema

import ram
from errors import CheckFailed, check

HERE = os.path.dirname(os.path.abspath(__file__))
SCHEMA = os.path.join(os.path.dirname(os.path.dirname(HERE)), "docs", "stats.schema.json")
KSM = "/sys/kernel/mm/ksm"
PAGE = 4096
# the guests run on between two readings
SLACK = 0.01
# Frames that a guest wrote since ksmd merged them are in the kernel's counters until ksmd comes by again.
OCCUPIED_SLACK = 0.02
READINGS = 5
SETTLE_SECONDS = 3


def _near(name, got, expected, slack=SLACK):
    check(abs(got - expected) <= slack * expected, f"stats: {name} is {got}, the kernel says {expected} (allowed: {slack:.0%})")


def validated(stats):
    """Checks what `sardine stats --json` printed for the host against its schema, and its sums."""
    with open(SCHEMA, encoding="utf-8") as f:
        schema = json.load(f)
    try:
        jsonschema.validate(stats, schema, cls=jsonschema.Draft202012Validator)
    except jsonschema.ValidationError as e:
        check(False, f"stats: not by docs/stats.schema.json: {e.message}")
    host = stats["host"]
    for group in ("memory", "saved"):
        for key, value in host[group].items():
            parts = [vm[group][key] for vm in stats["vms"]]
            check(value == (None if None in parts else sum(parts)), f"stats: host.{group}.{key} is {value}, those of the VMs {parts}")
    for who in [host, *stats["vms"]]:
        memory, saved = who["memory"], who["saved"]
        check(memory["populated_bytes"] == sum(memory[f"{k}_bytes"] for k in ("private", "shared_from_birth", "merged", "store")),
              f"stats: populated is not private + shared_from_birth + merged + store: {memory}")
        check(saved["total_bytes"] == saved["birth_bytes"] + saved["ksm_bytes"] + saved["store_bytes"], f"stats: saved.total is not birth + ksm + store: {saved}")
        check(memory["occupied_bytes"] == memory["populated_bytes"] - saved["total_bytes"],
              f"stats: occupied is not populated - saved.total: {memory} {saved}")
    return stats


def _of(lab, guests):
    stats = validated(lab.vmm.stats())
    vms = {vm["name"]: vm for vm in stats["vms"]}
    check(sorted(vms) == sorted(g.name for g in guests), f"stats: shows {sorted(vms)}, running are {[g.name for g in guests]}")
    return stats, [vms[g.name] for g in guests]


def _populated(lab, guests, vms, memory_mib):
    """Compares populated with Rss; returns where the guests' RAM is."""
    rams = [ram.of_process(lab.outer, g.process.pid, memory_mib) for g in guests]
    for guest, vm, where in zip(guests, vms, rams):
        check(vm["pid"] == guest.process.pid, f"{guest.name}: stats says pid {vm['pid']}, it is {guest.process.pid}")
        check(vm["memory"]["configured_bytes"] == memory_mib << 20, f"{guest.name}: configured is {vm['memory']['configured_bytes']}")
        _near(f"{guest.name} populated", vm["memory"]["populated_bytes"], where.sum_kib("Rss") * 1024)
    return rams


def _again(what):
    """A guest that touches or frees a block between two readings moves 2 MiB at once where the host uses huge pages: what is right shows at rest."""
    def tried(*args):
        for _ in range(READINGS - 1):
            try:
                return what(*args)
            except CheckFailed:
                time.sleep(SETTLE_SECONDS)
        return what(*args)

    return tried


@_again
def check_birth(lab, guests, memory_mib):
    """Before any merging: what is shared from birth, and saved by it, by the frame numbers of both guests."""
    stats, vms = _of(lab, guests)
    rams = _populated(lab, guests, vms, memory_mib)
    pids = [g.process.pid for g in guests]
    files = ram.common_frames(lab.outer, pids, rams, files=True)
    every = ram.common_frames(lab.outer, pids, rams)
    for guest, vm, pages in zip(guests, vms, files["present"]):
        check(vm["memory"]["merged_bytes"] == 0 and not vm["memory"]["mergeable"], f"{guest.name}: merged without --mergeable")
        _near(f"{guest.name} shared_from_birth", vm["memory"]["shared_from_birth_bytes"], pages * PAGE)
    _near("sum of saved.birth", stats["host"]["saved"]["birth_bytes"], files["common"] * PAGE)
    _near("sum of occupied", stats["host"]["memory"]["occupied_bytes"], (sum(every["frames"]) - every["common"]) * PAGE)
    lab.report.note(f"{lab.title('ksm2')}: before merging, stats says saved.birth {stats['host']['saved']['birth_bytes'] >> 10} KiB, "
                    f"frames in common are {files['common'] * PAGE >> 10} KiB")


@_again
def check_merged(lab, guests, memory_mib):
    """With ksmd stopped after it merged: every figure of merging, and that what all occupy is what distinct frames there are."""
    stats, vms = _of(lab, guests)
    host = stats["host"]
    for guest, vm in zip(guests, vms):
        pages = int(lab.outer.must(f"cat /proc/{guest.process.pid}/ksm_merging_pages"))
        check(vm["memory"]["mergeable"], f"{guest.name}: stats says mergeable false")
        check(vm["memory"]["merged_bytes"] == pages * PAGE,
              f"stats: {guest.name} merged is {vm['memory']['merged_bytes']}, ksm_merging_pages {pages} is {pages * PAGE}")
    counters = {name: int(lab.outer.must(f"cat {KSM}/{name}")) for name in ("pages_shared", "pages_sharing")}
    for name, pages in counters.items():
        check(host["ksm"][name] == pages, f"stats: host.ksm.{name} is {host['ksm'][name]}, the kernel says {pages}")
    _near("sum of saved.ksm", host["saved"]["ksm_bytes"], counters["pages_sharing"] * PAGE)
    rams = _populated(lab, guests, vms, memory_mib)
    pids = [g.process.pid for g in guests]
    files = ram.common_frames(lab.outer, pids, rams, files=True)
    every = ram.common_frames(lab.outer, pids, rams)
    for guest, vm, pages in zip(guests, vms, files["present"]):
        _near(f"{guest.name} shared_from_birth", vm["memory"]["shared_from_birth_bytes"], pages * PAGE)
    distinct = (sum(every["frames"]) - every["common"]) * PAGE
    lab.report.note(f"{lab.title('ksm2')}: merged, stats says saved.birth {host['saved']['birth_bytes'] >> 10} KiB (frames: "
                    f"{files['common'] * PAGE >> 10}), saved.ksm {host['saved']['ksm_bytes'] >> 10} (pages_sharing: "
                    f"{counters['pages_sharing'] * PAGE >> 10}), occupied {host['memory']['occupied_bytes'] >> 10} (distinct frames: {distinct >> 10})")
    _near("sum of saved.birth", host["saved"]["birth_bytes"], files["common"] * PAGE)
    _near("sum of occupied", host["memory"]["occupied_bytes"], distinct, OCCUPIED_SLACK)
