# SPDX-License-Identifier: Apache-2.0
"""lab.py - what a scenario gets: the outer machine, the VMM, the inner kernel's series and the report."""

from dataclasses import dataclass
from typing import Any


@dataclass
class Lab:
    outer: Any
    vmm: Any
    inner: str
    report: Any
    logs: str
    options: Any

    def title(self, scenario):
        return f"{scenario} outer={self.outer.series} inner={self.inner} vmm={self.vmm.title}"
