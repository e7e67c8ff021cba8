"""Which engine a machine has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cagebuild.engine.buildah import Buildah
from cagebuild.engine.buildkit import BuildKit
from cagebuild.engine.kaniko import Kaniko
from cagebuild.errors import ToolMissingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cagebuild.engine.job import Engine

KINDS: Final[dict[str, Callable[[str | None], Engine]]] = {
    "buildkit": lambda _: BuildKit(),
    "buildah": lambda _: Buildah(),
    "kaniko": Kaniko,
}
"""How each is made, given the image of kaniko's executor."""

AUTO: Final = ("buildkit", "buildah")
"""What ``auto`` tries, in that order."""


def choose(wanted: str, kaniko: str | None, *, needed_for: str) -> Engine:
    """The engine that ``wanted`` names, for ``auto`` the first that works.

    Raises ToolMissingError with the reason for each that was tried.
    """
    reasons = []
    for name in AUTO if wanted == "auto" else (wanted,):
        engine = KINDS[name](kaniko)
        reason = engine.unavailable
        if not reason:
            return engine
        reasons.append(f"  {name}: {reason}")
    raise ToolMissingError(
        "\n".join([f"{needed_for} needs an engine for Dockerfiles:", *reasons]),
        hint="have Docker with buildx, or buildah (Debian, Ubuntu: apt-get install buildah)",
    )
