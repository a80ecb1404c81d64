# SPDX-License-Identifier: Apache-2.0
"""scenario_dumps.py - memory dumps of stock guests with different jobs, as input for studies of sharing."""

import json
import os

from errors import check

# What a guest does before it is dumped: {seed} differs from guest to guest, {mib} is a sixth of its memory.
ROLES = {
    "web": "mkdir -p /tmp/www && for i in $(seq 200); do echo \"page $i of {seed}\" >/tmp/www/$i.html; done && "
           "ip link set lo up && httpd -p 127.0.0.1:80 -h /tmp/www && "
           "for i in $(seq 20); do wget -q -O /dev/null http://127.0.0.1/$i.html || exit 1; done; cat /data/blob >/dev/null",
    "cache": "mkdir -p /tmp/c && mount -t tmpfs -o size=80% c /tmp/c && dd if=/dev/urandom of=/tmp/c/{seed} bs=1M count={mib} 2>/dev/null",
    "files": "mkdir -p /tmp/f && mount -t tmpfs -o size=80% f /tmp/f && n=$(({mib} / 8)) && "
             "for i in $(seq $n); do cat /data/blob >/tmp/f/$i; done; echo {seed} >/tmp/f/seed; sha256sum /bin/busybox",
    "build": "for i in $(seq 3); do gzip -c /bin/busybox >/tmp/$i.gz; done; tar cf /tmp/sys.tar /bin /sbin /etc; "
             "for i in $(seq 8); do sh -c 'sleep 1000000' & done; seq {seed}000 >/tmp/numbers; sort -r /tmp/numbers >/tmp/sorted",
}
SCRATCH_SLACK_MIB = 16


def scratch_mib(options):
    return options.mem + SCRATCH_SLACK_MIB


def dumps(lab):
    """Boots --guests guests one after the other, gives each a job, and writes their dumps and roles.json to --out."""
    folder = lab.options.out
    os.makedirs(folder, exist_ok=True)
    written = []
    for number in range(lab.options.guests):
        role = list(ROLES)[number % len(ROLES)]
        name = f"{role}{number + 1}"
        guest = lab.vmm.boot(name, lab.inner, memory_mib=lab.options.mem)
        job = ROLES[role].format(seed=number + 1, mib=lab.options.mem // 6)
        guest.must(job, timeout=180)
        path = os.path.join(folder, f"{name}.{lab.options.format}")
        _dump(lab, guest, path)
        lab.vmm.poweroff(guest)
        written.append({"file": os.path.basename(path), "role": role, "seed": number + 1, "memory_mib": lab.options.mem,
                        "kernel": lab.inner, "job": job})
        lab.report.note(f"{lab.title('dumps')}: {path}, {os.path.getsize(path)} bytes")
    with open(os.path.join(folder, "roles.json"), "w", encoding="utf-8") as f:
        json.dump(written, f, indent=2)


def _dump(lab, guest, path):
    inside = f"/run/lab/{guest.name}.dump"
    status, output = lab.outer.run(f"sardine dump {guest.name} {inside} --format {lab.options.format}", timeout=120)
    check(status == 0, f"'sardine dump' exited with {status}: {output.strip()[-400:]}")
    size = int(lab.outer.must(f"stat -c %s {inside}"))
    expected = lab.outer.must(f"dd if={inside} of=/dev/lab/scratch bs=1M conv=fsync 2>/dev/null && sha256sum {inside}",
                              timeout=300).split()[0]
    lab.outer.must(f"rm {inside}")
    got = lab.outer.read_scratch(path, size)
    check(got == expected, f"{path}: the copy's checksum is {got}, not {expected}")
