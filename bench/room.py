# SPDX-License-Identifier: Apache-2.0
"""VMs for benchmarks: the harness of tests/vm, with the release build, outside of a test."""
import argparse
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "vm"))
from probe import ProbeTest  # noqa: E402
from sardine_test import no_kvm_reason, sardine_bin  # noqa: E402

CANNOT = 77


class Room(ProbeTest):
    """A private folder with VMs in it; `with Room() as room: room.probe(...)`. Ends what it started."""

    def __enter__(self):
        self.setUp()
        return self

    def __exit__(self, kind, *_):
        if not kind:
            for vm in list(self.vms):
                self.end(vm)
        self.tearDown()

    def end(self, vm):
        """Kill a VM so that it cleans up."""
        if vm.process.poll() is None:
            with vm.control() as control:
                control.ask({"cmd": "kill"})
        vm.wait()
        vm.close()
        self.vms.remove(vm)


def arguments(doc):
    """A parser with what all benchmarks take."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--build", default=str(ROOT / "build" / "release"), help="a build folder (build/release)")
    return parser


def prepare(name, options):
    """Choose the build. Returns why the benchmark cannot run here, or None."""
    build = pathlib.Path(options.build)
    os.environ["SARDINE_BIN"] = str(build / "tools" / "sardine")
    os.environ["SARDINE_PROBE"] = str(build / "tests" / "guest" / "probe.elf")
    for key in ("SARDINE_BIN", "SARDINE_PROBE"):
        if not os.access(os.environ[key], os.R_OK):
            return f"bench/{name}: {os.environ[key]}: not built; give --build"
    reason = no_kvm_reason()
    return f"bench/{name}: {reason}" if reason else None


__all__ = ["CANNOT", "ROOT", "Room", "arguments", "prepare", "sardine_bin"]
