"""Where buildah builds something else than BuildKit without a word: refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cagebuild.dockerfile.model import Dockerfile, Stage
    from cagebuild.engine.buildahwords import Version


def refuse(dockerfile: Dockerfile, needed: tuple[Stage, ...], version: Version) -> None:
    """Raise DockerfileError."""
