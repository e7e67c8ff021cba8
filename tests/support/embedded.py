"""Building Dockerfiles of a few lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cagebuild.dockerfile.parse import parse
from cagebuild.embedded.build import Base, Built, build
from cagebuild.image.tree import Node, new_root

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def no_images(reference: str) -> Base:
    """For Dockerfiles that need none."""
    raise AssertionError(f"asked for {reference}")


def built(
    dockerfile: bytes | str,
    scratch: Path,
    *,
    context: Node | None = None,
    images: Callable[[str], Base] = no_images,
    args: Mapping[str, str] | None = None,
    target: str | None = None,
) -> Built:
    """Build; the epoch is 5, the file's name ``Dockerfile``."""
    data = dockerfile.encode() if isinstance(dockerfile, str) else dockerfile
    return build(
        parse(data, Path("app/Dockerfile")),
        target=target,
        context=context or new_root(),
        images=images,
        args=args or {},
        architecture="x86_64",
        epoch=5,
        scratch=scratch,
    )
