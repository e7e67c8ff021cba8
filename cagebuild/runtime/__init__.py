"""What is injected into an image: the installer archive, the cage's settings, and their sources.

How an installer is made from ``runtime/`` is the business of ``cagebuild.recipes``.
"""

from __future__ import annotations

from cagebuild.runtime.cage_json import settings
from cagebuild.runtime.pins import Wheel, go_wheel, host_architecture
from cagebuild.runtime.sources import source_files, tree_digest

__all__ = [
    "Wheel",
    "go_wheel",
    "host_architecture",
    "settings",
    "source_files",
    "tree_digest",
]
