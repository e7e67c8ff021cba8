"""What ``docker buildx build --progress=plain`` says, line by line.

``#7 [main 3/5] RUN make``, ``#7 0.113 what it printed``, ``#7 ERROR: why``, and after the last step
a summary: what the failed step printed, the part of the Dockerfile (BuildKit 0.9 and newer), and
``ERROR: failed to solve: why``. Sources: moby/buildkit util/progress/progressui, solver/errdefs.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cagebuild.dockerfile.model import Dockerfile, Instruction

_KEPT = 20
_MOST_STEPS = 10_000
_LONGEST = 2000
_STEP = re.compile(r"#(\d+) (.*)", re.DOTALL)
_OUTPUT = re.compile(r"\d+\.\d+ ?(.*)", re.DOTALL)
_END = re.compile(r"(?:ERROR|error): (.*)")
_PLACE = re.compile(r"(.+):(\d+)")
_MARK = re.compile(r"\s*(\d+) \| >>> ")
_COUNTED = re.compile(r"\[(?:(?P<stage>.+) )?\s*(?P<at>\d+)/(?P<of>\d+)\] (?P<what>.*)", re.DOTALL)
_PREFIXES = re.compile(
    r"failed to build: |failed to solve: |failed to solve with frontend \S+: "
    r"|rpc error: code = Unknown desc = |failed to create LLB definition: "
    r"|failed to compute cache key: |failed to load cache key: "
    r"|failed to calculate checksum of ref \S+: |failed to walk \S+: "
)
_MAKES_A_STEP = ("ADD", "COPY", "RUN", "WORKDIR")


@dataclass(slots=True)
class Step:
    """One vertex of the build."""

    name: str
    """``[main 3/5] RUN make``, ``[internal] load metadata for …``, ``exporting to image``."""
    output: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT))
    error: str = ""


class Progress:
    """Follows a build, in bounded memory."""

    def __init__(self) -> None:
        self._steps: dict[str, Step] = {}
        self._rest: deque[str] = deque(maxlen=200)

    def take(self, line: str) -> None:
        """The next line."""
        line = line[:_LONGEST]
        found = _STEP.fullmatch(line)
        if found is None:
            if line:
                self._rest.append(line)
            return
        number, text = found.groups()
        step = self._steps.get(number)
        if step is None:
            if len(self._steps) < _MOST_STEPS:
                self._steps[number] = Step(text)
        elif text.startswith("ERROR: "):
            step.error = text.removeprefix("ERROR: ")
        elif output := _OUTPUT.fullmatch(text):
            step.output.append(output[1])

    @property
    def failed(self) -> Step | None:
        """The step that went wrong first."""
        return next((step for step in self._steps.values() if step.error), None)

    @property
    def reason(self) -> str:
        """Why the build ended, without the names of the parts of BuildKit that it came through."""
        ends = [found[1] for line in self._rest if (found := _END.fullmatch(line))]
        failed = self.failed
        text = ends[-1] if ends else failed.error if failed else ""
        return _PREFIXES.sub("", text)

    @property
    def marked_line(self) -> int | None:
        """Of the Dockerfile: the first that BuildKit marks in its summary."""
        lines = list(self._rest)
        for at, line in enumerate(lines):
            if _PLACE.fullmatch(line) and lines[at + 1 : at + 2] == ["-" * 20]:
                marks = [found for text in lines[at + 2 :] if (found := _MARK.match(text))]
                if marks:
                    return int(marks[0][1])
        return None

    def last_words(self) -> tuple[str, ...]:
        """The end of what was said that belongs to no step."""
        return tuple(self._rest)[-_KEPT:]


def instruction_at(dockerfile: Dockerfile, line: int) -> Instruction | None:
    """The instruction that a line belongs to."""
    for stage in dockerfile.stages:
        for instruction in (stage.from_instruction, *stage.instructions):
            if instruction.line <= line <= instruction.last_line:
                return instruction
    return None


def instruction_of_step(dockerfile: Dockerfile, name: str) -> Instruction | None:
    """The instruction that ``[main 3/5] RUN make`` stands for, where the numbers leave no doubt.

    BuildKit counts the instructions of a stage that make a layer, and its FROM where that is an
    image. A stage without a name is ``stage-1``; a file of one stage has no names at all. Triggers
    (ONBUILD) of the image make the count another one: then it's unknown.
    """
    found = _COUNTED.fullmatch(name)
    if found is None:
        return None
    # ``[linux/arm64 main 3/5]``: the platform is another word.
    wanted = (found["stage"] or "").strip().split(" ")[-1]
    names = {stage.name for stage in dockerfile.stages if stage.name}
    for stage in dockerfile.stages:
        own = stage.name or f"stage-{stage.index}"
        if wanted.lower() != own and (wanted or len(dockerfile.stages) > 1):
            continue
        counted = [item for item in stage.instructions if item.keyword in _MAKES_A_STEP]
        if stage.image != "scratch" and stage.image.lower() not in names:
            counted.insert(0, stage.from_instruction)
        at = int(found["at"]) - 1
        if len(counted) == int(found["of"]) and 0 <= at < len(counted):
            instruction = counted[at]
            if found["what"].split(" ")[0] == instruction.keyword:
                return instruction
    return None
