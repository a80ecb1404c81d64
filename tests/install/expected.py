# SPDX-License-Identifier: Apache-2.0
"""All files that an installation consists of, below the prefix."""

FILES = (
    "bin/sardine",
    "bin/sardined",
    "lib/systemd/system/sardine@.service",
    "lib/systemd/system/sardined.service",
    "share/bash-completion/completions/sardine",
    "share/bash-completion/completions/sardined",
    "share/doc/sardine/CHANGELOG.md",
    "share/doc/sardine/LICENSE",
    "share/doc/sardine/README.md",
    "share/doc/sardine/analyze.md",
    "share/doc/sardine/benchmarks.md",
    "share/doc/sardine/control-protocol.md",
    "share/doc/sardine/daemon.md",
    "share/doc/sardine/operations.md",
    "share/doc/sardine/stats.md",
    "share/doc/sardine/threat-model.md",
    "share/man/man1/sardine.1",
    "share/man/man5/sardine-config.5",
    "share/man/man8/sardined.8",
    "share/sardine/stats.schema.json",
)
_DEB = {"share/doc/sardine/CHANGELOG.md": "share/doc/sardine/changelog.gz", "share/doc/sardine/LICENSE": "share/doc/sardine/copyright"}


def deb_path(path):
    """Where the Debian package has it."""
    if path.startswith("share/man/"):
        path += ".gz"
    return "/usr/" + _DEB.get(path, path)
