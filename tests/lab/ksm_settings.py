# SPDX-License-Identifier: Apache-2.0
"""ksm_settings.py - the settings of KSM that a demo changes and must put back."""

FOLDER = "/sys/kernel/mm/ksm"
NAMES = ("run", "pages_to_scan", "sleep_millisecs", "smart_scan", "advisor_mode", "use_zero_pages")
# Set before the demo, so that no value is by chance the one that the demo sets.
UNUSUAL = {"pages_to_scan": 123, "sleep_millisecs": 37}


def of_outer(outer):
    """name -> value in the outer machine; what its kernel does not have is left out."""
    text = outer.must(f"cd {FOLDER} && for n in {' '.join(NAMES)}; do [ ! -e $n ] || echo $n $(cat $n); done")
    return dict(line.split(None, 1) for line in text.splitlines() if line.strip())
