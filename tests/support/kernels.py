"""Kernels to boot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cagebuild.nitro.pcr import Architecture


def kernel(architecture: Architecture) -> Path:
    """A kernel built by runtime/kernel/build.sh: a bzImage or an Image."""
    return Path(f"/tmp/lab/out/kernel-{architecture}")
