# SPDX-License-Identifier: Apache-2.0
"""scenario_vsock.py - a stock guest talks with programs of its host through vsock, and reads the host's random numbers."""

import time

from errors import check
from vmm import Process

PATH = "/run/lab/vsock"
CID = 77
TO_HOST_PORT, TO_GUEST_PORT = 1024, 5000
BYTES = 1 << 20
RANDOM_BYTES = 4096


def _device(lab, guest, kind):
    return [d for d in lab.vmm.stats(guest.name)["devices"] if d["type"] == kind][0]


def _random_numbers(lab, guest):
    current = guest.must("cat /sys/class/misc/hw_random/rng_current")
    check(current.startswith("virtio_rng"), f"the guest's source of random numbers is {current!r}")
    before = _device(lab, guest, "rng")["bytes"]
    sums = {guest.must(f"head -c {RANDOM_BYTES} /dev/hwrng | sha256sum") for _ in range(2)}
    check(len(sums) == 2, "/dev/hwrng gave the same bytes twice")
    after = _device(lab, guest, "rng")["bytes"]
    check(after - before >= RANDOM_BYTES, f"the device gave {after - before} bytes, the guest read {2 * RANDOM_BYTES}")


def _guest_connects(lab, guest):
    listener = Process(lab.outer, "uvsock", f"uvsock unix-listen {PATH}_{TO_HOST_PORT}")
    got = guest.must(f"uvsock connect {TO_HOST_PORT} {BYTES}", timeout=120)
    check(got == f"{BYTES} of {BYTES} bytes came back", f"guest to host: {got}")
    check(listener.wait(20) == 0 and f"echoed {BYTES} bytes" in listener.output(),
          f"the host's program ended with {listener.status()}: {listener.output()}")


def _host_connects(lab, guest):
    guest.must(f"setsid uvsock listen {TO_GUEST_PORT} </dev/null >/tmp/listen 2>&1 &")
    deadline = time.monotonic() + 30
    while "listening" not in guest.must("cat /tmp/listen"):
        check(time.monotonic() < deadline, "nobody listens in the guest")
    status, got = lab.outer.run(f"uvsock unix-connect {PATH} {TO_GUEST_PORT} {BYTES}", timeout=120)
    check(status == 0 and f"{BYTES} of {BYTES} bytes came back" in got, f"host to guest: {status}: {got.strip()}")
    while "echoed" not in guest.must("cat /tmp/listen"):
        check(time.monotonic() < deadline + 60, f"the guest's program has not ended: {guest.must('cat /tmp/listen')}")


def _refusals(lab, guest):
    status, got = lab.outer.run(f"uvsock unix-connect {PATH} {TO_GUEST_PORT + 1} 1", timeout=30)
    check(status == 1 and "does not take port" in got, f"a port on which no guest listens: {status}: {got.strip()}")


def vsock1(lab):
    """A guest and its host echo 1 MiB through vsock, begun by either side; /dev/hwrng is virtio-rng's."""
    guest = lab.vmm.boot("vsock1", lab.inner, cpus=1, extra=f"--vsock cid={CID},path={PATH}")
    _random_numbers(lab, guest)
    _guest_connects(lab, guest)
    _host_connects(lab, guest)
    _refusals(lab, guest)
    deadline = time.monotonic() + 20
    while _device(lab, guest, "vsock")["open"]:
        check(time.monotonic() < deadline, f"connections are left: {_device(lab, guest, 'vsock')}")
        time.sleep(0.2)
    found = _device(lab, guest, "vsock")
    counts = {key: found[key] for key in ("connections", "refused", "resets", "violations", "to_host_bytes", "to_guest_bytes")}
    expected = {"connections": 2, "refused": 1, "resets": 0, "violations": 0, "to_host_bytes": 2 * BYTES,
                "to_guest_bytes": 2 * BYTES}
    check(counts == expected, f"stats say {counts}, expected {expected}")
    lab.report.note(f"{lab.title('vsock1')}: {found['virtio']['requests']} packets, {found['virtio']['kicks']} kicks, "
                    f"{found['virtio']['interrupts']} interrupts for 4 MiB")
    lab.vmm.stop(guest)
    check(lab.outer.run(f"test -e {PATH}")[0] != 0, f"{PATH} is left behind")
