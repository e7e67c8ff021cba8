"""The Dockerfile that an engine is given: the user's own, each image in it by digest.

Nothing else changes, and no line moves: what an engine says of line 12 is true of the user's file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cagebuild.dockerfile import stages
from cagebuild.errors import StaleLockError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cagebuild.config.model import Architecture
    from cagebuild.dockerfile.model import Dockerfile, ImageUse


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A Dockerfile to build, and the name of the stage in it to build."""

    text: bytes
    target: str


def stage(
    dockerfile: Dockerfile,
    *,
    target: str | None,
    pins: Mapping[str, str],
    args: Mapping[str, str],
    architecture: Architecture,
) -> Staged:
    """Put pins in the place of images, and name the target's stage where it has no name.

    ``pins`` tells for each ``ImageUse.reference`` the same image with its digest; one that the
    Dockerfile names by digest itself needs none. Raises DockerfileError, and StaleLockError where a
    pin is missing.
    """
    wanted = stages.find(dockerfile, target)
    edits = [
        (use.span, _in_place(dockerfile, use, _pin(dockerfile, use, pins)))
        for use in stages.images(dockerfile, target, args, architecture)
    ]
    name = stages.target_name(dockerfile, wanted)
    if not wanted.name:
        edits.append(((wanted.words_end, wanted.words_end), f" AS {name}".encode()))
    return Staged(text=_with_line_end(_edited(dockerfile.data, edits)), target=name)


def _pin(dockerfile: Dockerfile, use: ImageUse, pins: Mapping[str, str]) -> str:
    pin = pins.get(use.reference) or (use.reference if "@" in use.reference else None)
    if pin is None:
        raise StaleLockError(
            f"{dockerfile.file}:{use.line}: cage.lock has no pin for {use.reference}",
            hint="run `invoke lock`",
        )
    return pin


def _in_place(dockerfile: Dockerfile, use: ImageUse, pin: str) -> bytes:
    """A name that is broken over lines keeps its line ends, all of them before it."""
    old = dockerfile.data[slice(*use.span)]
    line_end = b"\r\n" if b"\r\n" in old else b"\n"
    broken = (dockerfile.escape.encode() + line_end) * old.count(b"\n")
    return broken + pin.encode()


def _edited(data: bytes, edits: list[tuple[tuple[int, int], bytes]]) -> bytes:
    parts: list[bytes] = []
    at = 0
    # A name is put after the image's word, so of two edits that meet the longer one comes first.
    for (start, end), new in sorted(edits, key=lambda edit: edit[0]):
        parts += [data[at:start], new]
        at = end
    return b"".join([*parts, data[at:]])


def _with_line_end(data: bytes) -> bytes:
    if data.endswith(b"\n"):
        return data
    return data + (b"\r\n" if b"\r\n" in data else b"\n")
