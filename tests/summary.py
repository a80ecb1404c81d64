#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Adds up ctest's JUnit files: ran, failed and skipped per label. Skips fail unless SARDINE_ALLOW_SKIP names the label."""
import os
import pathlib
import sys
import xml.etree.ElementTree as ET

# Results by the name of their file; those of the lab have a file each.
RUNS = ("unit", "unit-sanitized", "stress", "stress-native", "fuzz", "vm", "install", "lab")


def main():
    folder = pathlib.Path(sys.argv[1])
    allowed = {label.strip() for label in os.environ.get("SARDINE_ALLOW_SKIP", "").split(",") if label.strip()}
    total_ran = total_failed = total_skipped = 0
    bad = []
    print("\nlabel            ran  failed  skipped   seconds")
    for name in RUNS:
        taken = sorted(path.name for path in folder.glob("lab-taken/*")) if name == "lab" else [name]
        ran = failed = skipped = 0
        seconds = 0.0
        cases = []
        if not taken:
            bad.append(f"{name}: no test")
        for path in (folder / f"{part}.xml" for part in taken):
            if path.exists():
                cases += ET.parse(path).getroot().iter("testcase")
            else:
                bad.append(f"{path.stem}: no result, ctest did not run")
        for case in cases:
            seconds += float(case.get("time", "0"))
            if case.get("status") in ("notrun", "disabled") or case.find("skipped") is not None:
                skipped += 1
                if name.split("-")[0] not in allowed:
                    bad.append(f"{name}: {case.get('name')} was skipped")
                continue
            ran += 1
            if case.get("status") != "run" or case.find("failure") is not None:
                failed += 1
                bad.append(f"{name}: {case.get('name')} failed")
        print(f"{name:<15} {ran:>4}  {failed:>6}  {skipped:>7}  {seconds:>8.1f}")
        total_ran += ran
        total_failed += failed
        total_skipped += skipped
    for line in bad:
        print(f"FAIL {line}")
    print(f"{total_ran - total_failed} passed, {total_failed} failed, {total_skipped} skipped")
    sys.exit(1 if bad or not total_ran else 0)


if __name__ == "__main__":
    main()
