"""The Dockerfile that buildah gets: as it is, but that WORKDIR makes its folder.

BuildKit makes it at once, for the user of that moment; buildah when something else first needs it,
and for root. A COPY of nothing makes it, and leaves one that is there as it is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cagebuild.dockerfile.model import Dockerfile, Instruction, Stage

NOTHING = "cagebuild-nothing"
"""Name of a build context with no files."""


Steps = tuple[tuple[tuple[str, "Instruction"], ...], ...]
"""By stage: the keyword of each step, and the instruction of the file that it stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A Dockerfile for buildah."""

    data: bytes
    steps: Steps
    added: frozenset[int]
    """Lines of the file as it was which have one more after them here."""

    def line_of(self, number: int) -> int:
        """The line of the file as it was that a line of this one is, or comes from."""
        for line in sorted(self.added):
            if line < number:
                number -= 1
        return number


def for_buildah(
    dockerfile: Dockerfile, bases: Mapping[int, Stage | None], users: Mapping[int, str]
) -> Text:
    """Write the Dockerfile.

    ``bases`` and ``users`` are of the stages that are needed, by their index: the stage that one
    starts from, if it does from a stage, else the user that its image starts with.
    """
    added: dict[int, bytes] = {}
    left: dict[int, str] = {}
    steps = []
    for stage in dockerfile.stages:
        base = bases.get(stage.index)
        user = left[base.index] if base else users.get(stage.index, "")
        known = [("FROM", stage.from_instruction)]
        for instruction in stage.instructions:
            known.append((instruction.keyword, instruction))
            if instruction.keyword == "USER":
                user = instruction.words[0]
            elif instruction.keyword == "WORKDIR" and stage.index in bases:
                known.append(("COPY", instruction))
                owner = f"--chown={user} " if user else ""
                added[instruction.last_line] = os.fsencode(f"COPY --from={NOTHING} {owner}/ .\n")
        left[stage.index] = user
        steps.append(tuple(known))
    data = b""
    for number, line in enumerate(dockerfile.data.split(b"\n"), start=1):
        data += line + b"\n" + added.get(number, b"")
    return Text(data=data, steps=tuple(steps), added=frozenset(added))
