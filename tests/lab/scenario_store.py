# SPDX-License-Identifier: Apache-2.0
"""scenario_store.py - stock guests share through our store under a checksummed load, while the daemon dies, and to the last page counted."""

import json
import time

import ram
from errors import check
from vmm import Process

MEMORY_MIB = 192
PAGE = 4096
SHARED_FRAMES = 5000  # of each guest, at least: two guests that idle after their boot have more in common
MERGE_SECONDS = 180
MERGE_ROUND_SECONDS = 5  # the load goes on: it never settles
ROUNDS = 3
ROUND_SECONDS = 150
DAEMON_SECONDS = 60
FREE_SECONDS = 20
# what stats says was a moment before or after what pagemap says; both are of paused guests
SLACK = 0.01
SHMEM_SLACK_KIB = 1024
# Reads the blob, writes copies of it to memory (which breaks what is shared), and checks both, over and over. Frees what it wrote.
LOAD = ("mkdir -p /tmp/load && mount -t tmpfs -o size=64m load /tmp/load && (while :; do [ -e /tmp/rest ] && { touch /tmp/rests; sleep 1; continue; }; "
        "sha256sum -c /data/sums >/dev/null 2>&1 || echo disk >>/tmp/bad; "
        "cp /data/blob /tmp/load/a && cp /data/blob /tmp/load/b || echo copy >>/tmp/bad; "
        "[ \"$(sha256sum </tmp/load/a)\" = \"$(sha256sum </data/blob)\" ] || echo memory >>/tmp/bad; "
        "cmp /tmp/load/a /tmp/load/b || echo differ >>/tmp/bad; rm -f /tmp/load/*; "
        "echo round >>/tmp/rounds; done) </dev/null >/dev/null 2>&1 &")


def _daemon(lab, number):
    process = Process(lab.outer, f"sardined{number}", "sardined")
    deadline = time.monotonic() + DAEMON_SECONDS
    while _status(lab) is None:
        check(process.status() is None, f"sardined exited with {process.status()}: {process.output()[-600:]}")
        check(time.monotonic() < deadline, f"sardined does not answer after {DAEMON_SECONDS} s: {process.output()[-600:]}")
        time.sleep(0.3)
    return process


def _status(lab):
    status, output = lab.outer.run("sardined --status --json 2>/dev/null")
    return json.loads(output) if status == 0 else None


def _merge(lab, guests):
    status, output = lab.outer.run(f"sardine merge --all --timeout {MERGE_ROUND_SECONDS} --json", timeout=MERGE_SECONDS)
    check(status == 0, f"'sardine merge --all' exited with {status}: {output.strip()[-600:]}")
    lab.report.note(f"{lab.title('store2')}: merge --all: {' '.join(output.split())[:400]}")
    return {vm["name"]: vm for vm in lab.vmm.stats()["vms"] if vm["name"] in [g.name for g in guests]}


def _rounds(guest):
    return int(guest.must("cat /tmp/rounds 2>/dev/null | wc -l"))


def _check_load(guests, rounds):
    """Every guest's load has come so many rounds further, and has seen no wrong byte."""
    goals = [_rounds(guest) + rounds for guest in guests]
    deadline = time.monotonic() + ROUND_SECONDS
    for guest, goal in zip(guests, goals):
        while _rounds(guest) < goal:
            check(time.monotonic() < deadline, f"{guest.name}: the load is not {rounds} rounds further after {ROUND_SECONDS} s")
            time.sleep(1)
    for guest in guests:
        bad = guest.run("cat /tmp/bad 2>/dev/null")[1].strip()
        check(not bad, f"{guest.name}: its load found wrong bytes: {bad[:200]}")


def _count(lab, guests):
    """Holds stats of paused guests against the frame numbers of all their pages. The load rests: what it writes is seen by the next pass."""
    for guest in guests:
        guest.must("rm -f /tmp/rests; touch /tmp/rest")
    for guest in guests:
        guest.must(f"for i in $(seq {ROUND_SECONDS}); do [ -e /tmp/rests ] && exit 0; sleep 1; done; exit 1", timeout=ROUND_SECONDS + 30)
    _merge(lab, guests)
    for guest in guests:
        lab.outer.must(f"sardine pause {guest.name}")
        # Pages of the store count in pagemap once they were touched: a dump reads all of them.
        lab.outer.must(f"sardine dump {guest.name} /run/lab/all.raw --format raw && rm -f /run/lab/all.raw", timeout=180)
    stats = lab.vmm.stats()
    rams = [ram.of_process(lab.outer, g.process.pid, MEMORY_MIB) for g in guests]
    files = ram.common_frames(lab.outer, [g.process.pid for g in guests], rams, files=True)
    every = ram.common_frames(lab.outer, [g.process.pid for g in guests], rams)
    for guest in guests:
        lab.outer.must(f"sardine resume {guest.name}")
        guest.must("rm -f /tmp/rest")
    memory, saved = stats["host"]["memory"], stats["host"]["saved"]
    said = {"shared": memory["store_bytes"] + memory["shared_from_birth_bytes"], "saved": saved["store_bytes"] + saved["birth_bytes"],
            "occupied": memory["occupied_bytes"]}
    counted = {"shared": sum(files["present"]) * PAGE, "saved": (sum(files["present"]) - sum(files["frames"]) + files["common"]) * PAGE,
               "occupied": (sum(every["frames"]) - every["common"]) * PAGE}
    lab.report.figures(f"{lab.title('store2')} stats_kib", {key: value >> 10 for key, value in said.items()})
    lab.report.figures(f"{lab.title('store2')} pagemap_kib", {key: value >> 10 for key, value in counted.items()})
    for key, value in said.items():
        check(abs(value - counted[key]) <= SLACK * counted[key],
              f"stats says {key} {value >> 10} KiB, pagemap {counted[key] >> 10} (allowed: {SLACK:.0%})")


def _shared(lab, vms, when):
    frames = {name: vm["memory"]["store_bytes"] // PAGE for name, vm in vms.items()}
    lab.report.note(f"{lab.title('store2')}: {when}: frames of the store {frames}, engine {[vm['engine']['link'] for vm in vms.values()]}")
    for name, vm in vms.items():
        check(vm["engine"]["link"] == "sardined", f"{name}: its link is '{vm['engine']['link']}', not the daemon's")
        check(frames[name] >= SHARED_FRAMES, f"{name}: only {frames[name]} frames of the store {when}")


def _shmem_kib(lab):
    """Shared memory but for the files of the outer machine, which are in memory, too: the boot cache, disks, logs."""
    shmem = int(lab.outer.must("awk '/^Shmem:/ {print $2}' /proc/meminfo"))
    files = lab.outer.run("du -skx /var/cache /run /tmp 2>/dev/null")[1].splitlines()
    return shmem - sum(int(line.split()[0]) for line in files)


def store2(lab):
    """Two guests share through sardined under load: pagemap agrees with stats, kill -9 of the daemon harms nobody, nothing is left."""
    before = _shmem_kib(lab)
    daemon = _daemon(lab, 1)
    guests = lab.vmm.boot_all(["store1", "store2"], lab.inner, cpus=1, memory_mib=MEMORY_MIB, extra="--engine store")
    for guest in guests:
        guest.must(LOAD)
    _shared(lab, _merge(lab, guests), "under load")
    _check_load(guests, 1)
    _count(lab, guests)

    daemon.kill()
    _check_load(guests, 1)
    daemon = _daemon(lab, 2)
    deadline = time.monotonic() + DAEMON_SECONDS
    while _status(lab)["connections"] < len(guests) + 1:
        check(time.monotonic() < deadline, f"the guests' VMMs have not found the new daemon after {DAEMON_SECONDS} s: {_status(lab)}")
        time.sleep(0.5)
    _shared(lab, _merge(lab, guests), "with the new daemon")
    _check_load(guests, ROUNDS)
    _count(lab, guests)
    for guest in guests:
        guest.must("sha256sum -c /data/sums", timeout=120)
        lab.vmm.poweroff(guest)

    deadline = time.monotonic() + FREE_SECONDS
    while _shmem_kib(lab) > before + SHMEM_SLACK_KIB:
        check(time.monotonic() < deadline, f"{_shmem_kib(lab) - before} KiB of Shmem are left after the last VM: {_status(lab)}")
        time.sleep(0.5)
    left = lab.outer.run("ls -l /proc/[0-9]*/fd /proc/[0-9]*/map_files 2>/dev/null | grep -c memfd:sardine")[1].strip()
    check(left == "0", f"{left} descriptors and mappings of segments are left")
    status = _status(lab)
    check(status["protocol_errors"] == 0, f"protocol errors: {status}")
    daemon.kill()
