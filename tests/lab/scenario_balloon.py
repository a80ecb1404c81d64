# SPDX-License-Identifier: Apache-2.0
"""scenario_balloon.py - memory that a guest used and freed goes back to the host, by reports and through the balloon, and returns."""

import json
import time

import ram
from errors import check

MEMORY_MIB = 320
FILES = 16  # of 8 MiB: 128 MiB of tmpfs
REPORT_SECONDS = 60
REPORTED_MIB = 100
TARGET_MIB = 96
RETURNED_MIB = 86
SECONDS = 60
OOM_TARGET_MIB = 208
DRIVER = "/sys/bus/virtio/drivers/virtio_balloon"
# Of /proc/meminfo, and what the balloon's statistics call it; how far apart they may be, in MiB: they are of different moments.
MEMINFO = (("MemTotal", "total_bytes", 1), ("MemFree", "free_bytes", 16), ("MemAvailable", "available_bytes", 16))


def balloon1(lab):
    """One guest: reports, statistics, a target, the driver's unbind and bind, deflate-on-OOM, and its files in the end."""
    # What the agent shares leaves Rss, too: here it is reports and balloon alone.
    guest = lab.vmm.boot("balloon1", lab.inner, cpus=1, memory_mib=MEMORY_MIB, extra=lab.vmm.NO_ENGINE)
    _reporting(lab, guest)
    _statistics(lab, guest)
    _target(lab, guest)
    _unbind_and_bind(lab, guest)
    _deflate_on_oom(lab, guest)
    _give_all_back(lab, guest)
    guest.must("sha256sum -c /data/sums", timeout=60)
    device = _device(lab, guest)
    for key in ("refused_pages", "report_ignored_ranges", "guest_ignored", "discard_errors"):
        check(device[key] == 0, f"{guest.name}: {key} is {device[key]}")
    check(device["virtio"]["hostile"] == 0, f"{guest.name}: the driver was taken for hostile: {device['virtio']}")
    lab.vmm.stop(guest)


def _fill(guest):
    guest.must("mkdir -p /tmp/fill && mount -t tmpfs -o size=160m fill /tmp/fill && "
               f"for i in $(seq {FILES}); do cat /data/blob >/tmp/fill/$i || exit 1; done", timeout=180)


def _free(guest):
    guest.must("umount /tmp/fill; sync; echo 3 > /proc/sys/vm/drop_caches")


def _check_files(guest):
    sums = set(line.split()[0] for line in guest.must("sha256sum /tmp/fill/* /data/blob", timeout=180).splitlines())
    check(len(sums) == 1, f"the refilled files differ: {sums}")


def _rss_mib(lab, guest):
    return ram.of_process(lab.outer, guest.process.pid, MEMORY_MIB).rss_mib


def _meminfo_mib(guest, key):
    return int(guest.must(f"awk '/^{key}:/ {{print $2}}' /proc/meminfo")) / 1024


def _device(lab, guest):
    return next(d for d in lab.vmm.stats(guest.name)["devices"] if d["type"] == "balloon")


def _balloon(lab, guest, size="", seconds=0):
    """`sardine balloon`; what it says. With `seconds` it waits for the target and must get there."""
    wait = f"--wait {seconds}" if seconds else ""
    status, output = lab.outer.run(f"sardine balloon {guest.name} {size} {wait} --json", timeout=seconds + 20)
    check(status == 0, f"'sardine balloon {guest.name} {size} {wait}' exited with {status}: {output.strip()[-400:]}")
    return json.loads(output)


def _data_mib(lab, guest):
    """What is not zero in the guest's memory."""
    path = f"/run/lab/{guest.name}.dump"
    status, output = lab.outer.run(f"sardine dump {guest.name} {path} --format raw --json; s=$?; rm -f {path}; exit $s", timeout=180)
    check(status == 0, f"'sardine dump' exited with {status}: {output.strip()[-400:]}")
    return json.loads(output)["data_bytes"] / (1 << 20)


def _reporting(lab, guest):
    """Memory that was filled and freed leaves the host within a minute, with no balloon target; it reads as zero then."""
    _fill(guest)
    full, data_full = _rss_mib(lab, guest), _data_mib(lab, guest)
    before = _device(lab, guest)["reported_pages"]
    _free(guest)
    begin = time.monotonic()
    while True:
        now, seconds = _rss_mib(lab, guest), time.monotonic() - begin
        if full - now >= REPORTED_MIB:
            break
        check(seconds < REPORT_SECONDS, f"Rss of the guest's RAM fell from {full:.0f} to {now:.0f} MiB in {seconds:.0f} s by reports "
                                        f"alone, expected a fall of {REPORTED_MIB}; {_device(lab, guest)}")
        time.sleep(0.5)
    device = _device(lab, guest)
    reported = (device["reported_pages"] - before) // 256
    check(reported >= REPORTED_MIB - 16, f"only {reported} MiB were reported")
    check(device["inflated_pages"] == 0, f"frames were inflated: {device}")
    data = _data_mib(lab, guest)
    check(data_full - data >= REPORTED_MIB, f"{data:.0f} MiB of the guest's memory are not zero, {data_full:.0f} before it was freed")
    lab.report.note(f"{lab.title('balloon1')}: Rss fell from {full:.0f} to {now:.0f} MiB in {seconds:.1f} s by reports of {reported} MiB; "
                    f"not zero: {data_full:.0f} MiB before, {data:.0f} after")


def _statistics(lab, guest):
    """The guest's own figures reach `stats`, and are those that it sees itself."""
    deadline = time.monotonic() + SECONDS
    while True:
        told = _device(lab, guest)["guest"]
        if told and told["age_s"] < 3:
            apart = {name: abs(_meminfo_mib(guest, name) - told[key] / (1 << 20)) for name, key, _ in MEMINFO}
            if all(apart[name] <= most for name, _, most in MEMINFO):
                break
        check(time.monotonic() < deadline, f"statistics {told} are not those of /proc/meminfo")
        time.sleep(1.2)
    lab.report.note(f"{lab.title('balloon1')}: {len(told) - 1} statistics, of {told['age_s']:.2f} s ago, "
                    + ", ".join(f"{name} {mib:.1f} MiB apart" for name, mib in apart.items()))


def _target(lab, guest):
    """A target is reached, and costs the guest free memory."""
    free = _meminfo_mib(guest, "MemFree")
    before = _device(lab, guest)
    state = _balloon(lab, guest, f"{TARGET_MIB}M", SECONDS)
    after = _device(lab, guest)
    calls = after["discard_calls"] - before["discard_calls"]
    lab.report.note(f"{lab.title('balloon1')}: {TARGET_MIB} MiB inflated, {(after['reported_pages'] - before['reported_pages']) // 256} MiB "
                    f"reported meanwhile, in {after['discard_ranges'] - before['discard_ranges']} ranges and {calls} calls")
    check(state["liveness"] == "idle" and state["ballooned_bytes"] == TARGET_MIB << 20, f"balloon {state}")
    left = _meminfo_mib(guest, "MemFree")
    check(free - left >= RETURNED_MIB, f"the guest has {left:.0f} MiB free with the balloon, {free:.0f} without")


def _unbind_and_bind(lab, guest):
    """Without its driver the balloon is empty and keeps its target; the driver that comes back works towards it."""
    name = guest.must(f"ls {DRIVER} | grep virtio")
    guest.must(f"echo {name} >{DRIVER}/unbind", timeout=60)
    state = _balloon(lab, guest)
    check(state["liveness"] == "no-driver" and state["ballooned_bytes"] == 0 and state["target_bytes"] == TARGET_MIB << 20,
          f"balloon {state} after the driver's unbind")
    # Nobody reports now, so this stays in the host's memory until the driver is back.
    _fill(guest)
    _check_files(guest)
    _free(guest)
    before = _rss_mib(lab, guest)
    guest.must(f"echo {name} >{DRIVER}/bind", timeout=60)
    begin = time.monotonic()
    _balloon(lab, guest, seconds=SECONDS)
    seconds = time.monotonic() - begin
    now = _rss_mib(lab, guest)
    check(before - now >= RETURNED_MIB, f"Rss of the guest's RAM fell from {before:.0f} to {now:.0f} MiB by {TARGET_MIB} MiB of balloon")
    device = _device(lab, guest)
    lab.report.note(f"{lab.title('balloon1')}: after unbind and bind Rss fell from {before:.0f} to {now:.0f} MiB in {seconds:.1f} s; "
                    f"{device['inflated_pages']} pages inflated in all, {device['discard_calls']} calls for these and the reports")


def _deflate_on_oom(lab, guest):
    """A guest in need takes frames back rather than kill."""
    _balloon(lab, guest, f"{OOM_TARGET_MIB}M", SECONDS)
    _fill(guest)
    state = _balloon(lab, guest)
    check(state["ballooned_bytes"] < OOM_TARGET_MIB << 20, f"the guest took nothing back: {state}")
    # With room again: at the edge of its memory a guest reads its programs from the disk over and over.
    _balloon(lab, guest, "0", SECONDS)
    _check_files(guest)
    killed = guest.must("dmesg | grep -ci 'killed process' || true")
    check(killed == "0", f"the guest killed {killed} processes")
    lab.report.note(f"{lab.title('balloon1')}: of {OOM_TARGET_MIB} MiB the guest took "
                    f"{OOM_TARGET_MIB - (state['ballooned_bytes'] >> 20)} back when it needed them")


def _give_all_back(lab, guest):
    """With target 0 the guest has all of its memory again, and can use it."""
    guest.must("umount /tmp/fill")
    check(_meminfo_mib(guest, "MemFree") >= 128, f"the guest has {_meminfo_mib(guest, 'MemFree'):.0f} MiB free after deflating")
    _fill(guest)
    _check_files(guest)
