# SPDX-License-Identifier: Apache-2.0
"""scenario_demo.py - the main job in the lab: guests that share through sardined under a live table on the caller's terminal, and KSM beside it."""

import json
import sys

import ksm_settings
from errors import check

GUESTS = 2
SHARE_SECONDS = 20
LIMIT_SECONDS = 270


def demo(lab):
    """Two guests, sardined, the live table of `sardine stats`, and `bench merge` of what they hold; --json prints the final numbers instead. KSM's settings are put back."""
    lab.outer.must(f"mkdir -p /run/demo && ln -sf /lab/guests/{lab.inner}/vmlinuz /lab/guests/{lab.inner}/initrd "
                   "/lab/guests/root.img /run/demo/")

    in_place = sys.stdout.isatty()
    for name, value in ksm_settings.UNUSUAL.items():
        lab.outer.must(f"echo {value} > {ksm_settings.FOLDER}/{name}")
    before = ksm_settings.of_outer(lab.outer)

    def show(data):
        # In the outer machine `stats --watch` writes to a pipe; on our terminal each table takes the place of the one before.
        sys.stdout.buffer.write(data.replace(b"NAME   ", b"\033[H\033[JNAME   ") if in_place else data)
        sys.stdout.buffer.flush()

    as_json = lab.options.json
    status, output = lab.outer.run(
        f"sh /lab/programs/bin/demo-guests.sh {GUESTS} {SHARE_SECONDS} /run/demo {'--json 2>/run/lab/demo.err' if as_json else ''}",
        timeout=LIMIT_SECONDS, on_data=None if as_json else show)
    detail = lab.outer.run("cat /run/lab/demo.err")[1] if as_json else output
    check(status == 0, f"the demo exited with {status}: {detail.strip()[-600:]}")
    if as_json:
        json.loads(output)
        show(output.encode())
    after = ksm_settings.of_outer(lab.outer)
    check(after == before, f"KSM settings of the machine were {before}, the demo left {after}")
    left = lab.outer.run("pidof sardine")[1].strip()
    check(not left, f"VMMs {left} still run after the demo")
    lab.report.note(f"{lab.title('demo')}: the machine's KSM settings are as before: {after}")
