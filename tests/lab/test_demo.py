#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The main job as a user starts it: `./demo.sh --json` ends with 0, prints figures that fit the schema and show memory shared, and
leaves the host's KSM settings as they were.

    test_demo.py SOURCE-FOLDER
"""
import json
import os
import subprocess
import sys

import ksm_settings
import ksm_stats
from errors import CheckFailed, check

RATIO = 1.2
# what demo.sh may take, with its build checked and the packages there
LIMIT_SECONDS = 300


def host_settings():
    """The KSM settings of this host; the lab's outer machine has its own, which scenario_demo.py compares."""
    found = {}
    for name in ksm_settings.NAMES:
        try:
            with open(os.path.join(ksm_settings.FOLDER, name), encoding="ascii") as f:
                found[name] = f.read().strip()
        except FileNotFoundError:
            pass
    return found


def check_document(document):
    """What must hold at the end of the demo."""
    stats = ksm_stats.validated(document["stats"])
    host = stats["host"]
    check(host["vms"] >= 2, f"{host['vms']} VMs in the end")
    check(host["ratio"] > RATIO, f"ratio is {host['ratio']}, expected more than {RATIO}")
    check(host["saved"]["total_bytes"] > 0, "nothing is saved")
    check(host["saved"]["store_bytes"] > 0, "nothing is saved by the store")
    print(f"demo: {host['vms']} VMs, ratio {host['ratio']}, saved {host['saved']}")
    runs = {run["engine"]: run for run in document["bench"]["runs"]}
    check(list(runs) == ["ksmd-fastest", "store"], f"engines side by side: {list(runs)}")
    for name, run in runs.items():
        # pages of zeros are apart: neither reachable nor saved
        check(0 < run["saved_pages"] <= run["reachable_pages"], f"{name}: {run['saved_pages']} of {run['reachable_pages']} pages saved")
        print(f"demo: {name}: {run['saved_pages']} of {run['reachable_pages']} pages saved, {run['cpu_us_per_shared_page']} us each")


def main():
    before = host_settings()
    done = subprocess.run([os.path.join(sys.argv[1], "demo.sh"), "--json"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          text=True, timeout=LIMIT_SECONDS, check=False)
    if done.returncode == 77:
        return 77
    try:
        check(done.returncode == 0, f"demo.sh exited with {done.returncode}")
        try:
            document = json.loads(done.stdout)
        except ValueError as e:
            raise CheckFailed(f"standard output is not JSON ({e}): {done.stdout[:400]!r}") from e
        check_document(document)
        after = host_settings()
        check(after == before, f"KSM settings of the host were {before}, now they are {after}")
    except CheckFailed as e:
        print(f"demo: FAIL: {e}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
