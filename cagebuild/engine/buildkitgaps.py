"""Where an older BuildKit builds something else than a newer one without a word: refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from cagebuild.dockerfile.problems import Problems

if TYPE_CHECKING:
    from cagebuild.dockerfile.model import Dockerfile, Instruction

_OCTAL: Final = re.compile(r"[0-7]{1,4}")
_WITHOUT_SPECIAL: Final = re.compile(r"0?[0-7]{1,3}")
_REMEDY: Final = (
    "use a newer Docker or builder, or another builder's frontend (`# syntax=docker/dockerfile:1`,"
    " pinned by `invoke lock`)"
)


def refuse(dockerfile: Dockerfile, who: str, *, old: bool, very_old: bool) -> None:
    """Raise DockerfileError for what such a frontend of ``who``'s own passes over.

    ``old``: before Docker 28 or BuildKit 0.20, where ``--chmod`` is octal digits. ``very_old``:
    Docker 20.10, where the bits above 0777 are lost.
    """
    if dockerfile.syntax is not None:
        return
    found = Problems(dockerfile.file, dockerfile.data)
    for stage in dockerfile.stages:
        for instruction in stage.instructions:
            inner = instruction.inner or instruction
            mode = inner.flag("chmod")
            if very_old and inner.keyword == "ADD" and _has_zstd(inner):
                what = f"{who} does not unpack archives of zstd"
                found.add(instruction.line, what, _REMEDY)
            if mode is None:
                continue
            if old and not _OCTAL.fullmatch(mode):
                what = f"{who} takes --chmod={mode} for no mode at all: it knows octal digits only"
                found.add(instruction.line, what, _REMEDY)
            elif very_old and not _WITHOUT_SPECIAL.fullmatch(mode):
                what = f"{who} drops what is above 0777 of --chmod={mode}"
                found.add(instruction.line, what, _REMEDY)
    if found:
        raise found.error()


def _has_zstd(instruction: Instruction) -> bool:
    return any(source.endswith((".zst", ".tzst")) for source in instruction.words[:-1])
