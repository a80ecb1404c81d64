# SPDX-License-Identifier: Apache-2.0
"""errors.py - the three ways a lab run ends badly."""


class CannotRun(Exception):
    """The host lacks something (a package, a tool, a binary): the caller exits 77 with this reason."""


class LabError(Exception):
    """The outer machine or the harness failed; says nothing about the VMM under test."""


class CheckFailed(Exception):
    """A scenario saw something wrong: the VMM or its guest failed the test."""


class BootStuck(CheckFailed):
    """A guest did not reach its init in time, and nothing else went wrong: the one failure that may be retried."""


def check(condition, message):
    if not condition:
        raise CheckFailed(message)
