"""What an instruction is called where the files that it brought are spoken of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cagebuild.dockerfile.model import Instruction

_LONGEST: Final = 60


def origin(name: str, instruction: Instruction) -> str:
    """``Dockerfile:12 RUN make install``; ``name`` is what the file is called."""
    text = " ".join(instruction.text.split())
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 1] + "…"
    return f"{name}:{instruction.line} {instruction.keyword} {text}".rstrip()
