"""What is injected into an image: sources, the toolchain that builds them, archive, settings.

The runtime is built from ``runtime/`` (Go) by a pinned toolchain. The result is the installer
archive, the same bytes on every machine, whose digest per architecture is in ``pins/runtime.json``.
"""

from __future__ import annotations

from cagebuild.runtime.cage_json import settings
from cagebuild.runtime.pins import Wheel, go_wheel, host_architecture, installer_digest
from cagebuild.runtime.recipe import build
from cagebuild.runtime.sources import source_files, tree_digest

__all__ = [
    "Wheel",
    "build",
    "go_wheel",
    "host_architecture",
    "installer_digest",
    "settings",
    "source_files",
    "tree_digest",
]
