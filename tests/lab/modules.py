# SPDX-License-Identifier: Apache-2.0
"""modules.py - finds kernel modules of an unpacked kernel package and the order to load them in."""

import lzma
import os
import re

from errors import CannotRun


def _normal(name):
    return name.replace("-", "_")


class ModuleTree:
    """The modules of one kernel, by name; contents are given unpacked."""

    def __init__(self, kernel):
        self.kernel = kernel
        self._paths = {}
        self._content = {}
        for folder, _, files in os.walk(kernel.modules):
            for name in files:
                match = re.fullmatch(r"(.+)\.ko(\.xz)?", name)
                if match:
                    self._paths[_normal(match.group(1))] = os.path.join(folder, name)
        with open(os.path.join(kernel.modules, "modules.builtin"), encoding="ascii") as f:
            self._builtin = {_normal(os.path.basename(line.strip())[:-len(".ko")]) for line in f}

    def content(self, name):
        name = _normal(name)
        if name not in self._content:
            path = self._paths[name]
            with (lzma.open if path.endswith(".xz") else open)(path, "rb") as f:
                self._content[name] = f.read()
        return self._content[name]

    def _depends(self, name):
        # each module's .modinfo section says "depends=a,b" as a NUL-terminated string
        match = re.search(rb"\0depends=([^\0]*)\0", self.content(name))
        return [d for d in match.group(1).decode().split(",") if d] if match else []

    def order(self, wanted):
        """Names in load order, dependencies first; what is built into the kernel is left out."""
        done = []

        def visit(name):
            name = _normal(name)
            if name in done or name in self._builtin:
                return
            if name not in self._paths:
                raise CannotRun(f"kernel {self.kernel.release} has no module {name}")
            for need in self._depends(name):
                visit(need)
            done.append(name)

        for name in wanted:
            visit(name)
        return done
