# SPDX-License-Identifier: Apache-2.0
"""ram.py - finds a VMM's guest RAM among its mappings, as the kernel of the outer machine sees it."""

import json
import re

from errors import CheckFailed, LabError

HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (....) ")


class Ram:
    """The mappings that hold the guest's RAM: `start`, `end`, and sums over them in KiB."""

    def __init__(self, start, end, mappings):
        self.start = start
        self.end = end
        self.mappings = mappings

    def sum_kib(self, field):
        return sum(m.get(field, 0) for m in self.mappings)

    @property
    def rss_mib(self):
        return self.sum_kib("Rss") / 1024

    @property
    def range(self):
        return f"{self.start:x}-{self.end:x}"


def _mappings(text):
    found = []
    for line in text.splitlines():
        header = HEADER.match(line)
        if header:
            found.append({"start": int(header.group(1), 16), "end": int(header.group(2), 16), "mode": header.group(3)})
        elif found and ":" in line:
            name, value = line.split(":", 1)
            found[-1][name] = int(value.split()[0]) if value.strip().endswith("kB") else value.strip()
    return found


# A VMM that replaces mappings, as a balloon over boot files does, can be read in the middle: then a part seems to be missing.
READINGS = 6


def _longest_run(outer, pid):
    status, text = outer.run(f"grep -E '^[0-9a-f]+-|^(Rss|Anonymous|Private_Dirty|KSM|VmFlags):' /proc/{pid}/smaps")
    if status != 0:
        raise CheckFailed(f"VMM process {pid} is gone")
    runs = []
    for mapping in _mappings(text):
        if mapping["mode"][0] != "r" or mapping["mode"][3] != "p":
            continue
        if runs and runs[-1][-1]["end"] == mapping["start"]:
            runs[-1].append(mapping)
        else:
            runs.append([mapping])
    longest = max(runs, key=lambda run: run[-1]["end"] - run[0]["start"])
    return longest, longest[-1]["end"] - longest[0]["start"]


def of_process(outer, pid, memory_mib):
    """The guest RAM of the VMM `pid`: the longest run of adjoining writable or private-file mappings. It is `memory_mib` long;
    with VMMs that keep parts of it elsewhere, at least nine tenths of that."""
    wanted = memory_mib * 1024 * 1024
    for _ in range(READINGS):
        longest, length = _longest_run(outer, pid)
        if length >= wanted:
            break
    if length < wanted * 9 // 10:
        raise LabError(f"no run of mappings of {memory_mib} MiB in process {pid}: the longest has {length >> 10} KiB")
    return Ram(longest[0]["start"], longest[-1]["end"], longest)


def common_frames(outer, processes, rams, part=None, files=False):
    """What pfncount says about the RAM of two VMMs, `processes` their pids. `part`: (first byte, length) in guest
    physical memory below 3 GiB; `files`: only pages that are still the files', neither written nor merged."""
    words = ["pfncount"] + (["--file"] if files else [])
    for pid, whole in zip(processes, rams):
        start, end = whole.start, whole.end
        if part:
            start, end = whole.start + part[0], whole.start + part[0] + part[1]
        words += [str(pid), f"{start:x}-{end:x}"]
    return json.loads(outer.must(" ".join(words), timeout=60))
