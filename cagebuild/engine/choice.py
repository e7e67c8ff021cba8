"""Which engine a machine has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cagebuild.process import first_available

if TYPE_CHECKING:
    from cagebuild.engine.job import Engine


def make(name: str, kaniko: str | None) -> Engine:
    """The engine of that name; ``kaniko`` is the image of that engine's executor."""
    match name:
        case "buildkit":
            from cagebuild.engine.buildkit import BuildKit

            return BuildKit()
        case "buildah":
            from cagebuild.engine.buildah import Buildah

            return Buildah()
        case "kaniko":
            from cagebuild.engine.kaniko import Kaniko

            return Kaniko(kaniko)
        case _:
            raise ValueError(name)


AUTO: Final = ("buildkit", "buildah")
"""What ``auto`` tries, in that order."""


def choose(wanted: str, kaniko: str | None, *, needed_for: str) -> Engine:
    """The engine that ``wanted`` names, for ``auto`` the first that works.

    Raises ToolMissingError with the reason for each that was tried.
    """
    return first_available(
        (make(name, kaniko) for name in (AUTO if wanted == "auto" else (wanted,))),
        needed=f"{needed_for} needs an engine for Dockerfiles",
        hint="have Docker with buildx, or buildah (Debian, Ubuntu: apt-get install buildah)",
    )


def available() -> list[str]:
    """Those of ``AUTO`` that can be used on this machine."""
    return [name for name in AUTO if not make(name, None).unavailable]
