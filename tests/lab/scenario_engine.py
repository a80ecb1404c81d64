# SPDX-License-Identifier: Apache-2.0
"""scenario_engine.py - the engine's torture on a real guest (tests/vm/test_guest_view.c), where the host itself has no /dev/kvm."""

import re

from errors import check

PROGRAMS = ("tests/vm/test_guest_view", "tests/guest/probe.elf")
PAGES, SECONDS = 20000, 200


def engine(lab):
    """Memory of a probe guest with two vCPUs is replaced, broken and taken back while it runs; every byte is checked."""
    status, out = lab.outer.run(f"ulimit -c 0; SARDINE_PROBE=/lab/programs/bin/probe.elf SARDINE_TORTURE_PAGES={PAGES} "
                                f"SARDINE_TORTURE_SECONDS={SECONDS} test_guest_view", timeout=900)
    for line in out.splitlines():
        if line.startswith("torture:"):
            lab.report.note(line)
    check(status == 0, f"the torture ended with {status}: {out.strip()[-2000:]}")
    pages = [int(n) for n in re.findall(r"(\d+) pages replaced", out)]
    check(pages and pages[0] >= PAGES / 10, f"only {pages} pages were replaced")
