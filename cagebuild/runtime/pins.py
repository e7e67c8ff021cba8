"""The pins of the Go toolchain, as data: its wheels."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from cagebuild.digest import Digest
from cagebuild.errors import UnsupportedError

PINS = Path(__file__).parent.parent / "pins"
ARCHITECTURES: Final = ("aarch64", "x86_64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """The wheel of the Go toolchain for one kind of build machine."""

    package: str
    version: str
    file: str
    platform: str
    """The wheel's platform tag, such as ``manylinux_2_17_x86_64``."""
    digest: Digest
    size: int
    """Bytes."""


def host_architecture() -> str:
    """The architecture of this machine, if it can run a pinned toolchain; else UnsupportedError."""
    machine = platform.machine()
    if platform.system() != "Linux" or machine not in ARCHITECTURES:
        raise UnsupportedError(
            f"no Go toolchain is pinned for {platform.system()} on {machine}",
            hint="build on Linux, x86_64 or aarch64, or serve the installer by its digest"
            " (runtime.url)",
        )
    return machine


@cache
def go_wheel(host: str) -> Wheel:
    """The pinned Go toolchain for a build machine of architecture ``host``."""
    pins = read("go.json")
    wheel = pins["wheels"][host]
    return Wheel(
        package=pins["package"],
        version=pins["version"],
        file=wheel["file"],
        platform=wheel["platform"],
        digest=Digest("sha256", wheel["sha256"]),
        size=wheel["size"],
    )


def read(name: str) -> Any:
    """A file of pins."""
    return json.loads((PINS / name).read_bytes())
