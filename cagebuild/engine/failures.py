"""What a build that BuildKit ended means for the user."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cagebuild.engine.job import FailedInstructionError
from cagebuild.engine.progress import instruction_at, instruction_of_step
from cagebuild.errors import ToolFailedError

if TYPE_CHECKING:
    from pathlib import Path

    from cagebuild.dockerfile.model import Dockerfile, Instruction
    from cagebuild.engine.progress import Progress

_PROGRAM_FAILED = re.compile(
    r"(?:did not complete successfully|executor failed running .*): (exit code: \d+)", re.DOTALL
)
_LONGEST = 300


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of failure that no instruction is to blame for."""

    words: re.Pattern[str]
    what: str
    hint: str


NEWER_FRONTEND = (
    "let the frontend of Docker be one that does: '# syntax=docker/dockerfile:1' as the first line,"
    " which 'invoke lock' pins; or build with a newer Docker, or a newer builder (BUILDX_BUILDER)"
)
_KINDS = (
    _Kind(
        re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE),
        "the builder's disk is full",
        "make room where the daemon keeps its data: 'docker system df' says what takes it,"
        " 'docker builder prune' removes the build cache",
    ),
    _Kind(
        re.compile(r"permission denied while trying to connect"),
        "this user may not use Docker's socket",
        "join the group 'docker', or set DOCKER_HOST to a rootless daemon",
    ),
    _Kind(
        re.compile(
            r"code = Unavailable|error reading from server|Cannot connect to the Docker daemon"
            r"|transport is closing|closing transport|\bunexpected EOF|: EOF$|context deadline"
            r"|graceful_stop|code = Canceled|connection reset by peer|broken pipe|context canceled",
            re.IGNORECASE,
        ),
        "the builder went away",
        "see whether the daemon still runs, and what its log says; then build again",
    ),
    _Kind(
        re.compile(r"dockerfile parse error|unknown flag|unknown instruction", re.IGNORECASE),
        "the builder's own frontend does not know something in this Dockerfile",
        NEWER_FRONTEND,
    ),
    _Kind(
        re.compile(r"cache export .* not supported|cache exporter", re.IGNORECASE),
        "this builder cannot export its cache",
        "build with another one: docker buildx create --driver docker-container, BUILDX_BUILDER",
    ),
    _Kind(
        re.compile(
            r"pull access denied|unauthorized|authorization failed|no basic auth|access forbidden"
            r"|\b40[13] (Unauthorized|Forbidden)|denied: ",
            re.IGNORECASE,
        ),
        "a registry refused an image",
        "log in where the daemon or this client pulls from: docker login",
    ),
    _Kind(
        re.compile(
            r"\b(failed to resolve source metadata|failed to do request|failed to resolve reference"
            r"|manifest unknown|dial tcp|no such host)\b"
        ),
        "an image could not be had",
        "see whether its registry is reachable from the builder and still has that digest;"
        " 'invoke lock --update' pins what it has now",
    ),
)
_ABOUT_IMAGES = ("[internal] load metadata for ", "resolve image config for ")
_IMAGE = _KINDS[-1]


def from_progress(
    progress: Progress, dockerfile: Dockerfile | None, file: Path, builder: str
) -> FailedInstructionError | ToolFailedError:
    """The error for a build that ended in failure. ``builder``: what it was built with."""
    step, reason = progress.failed, progress.reason
    name = step.name if step else ""
    instruction = _instruction(progress, dockerfile, name)
    line = instruction.line if instruction else progress.marked_line
    if step and (ended := _PROGRAM_FAILED.search(reason)):
        return _of_instruction(line, instruction, name, (*step.output, ended[1]))
    kind = next((kind for kind in _KINDS if kind.words.search(reason)), None)
    if kind is None and (name.startswith(_ABOUT_IMAGES) or "] FROM " in name):
        kind = _IMAGE
    if kind:
        place = f"{file.name}:{line}: " if line else ""
        said = [f"{place}{kind.what} ({builder})", reason[:_LONGEST] or "it did not say why"]
        return ToolFailedError("\n  ".join(said), hint=kind.hint)
    if step and (line or instruction):
        return _of_instruction(line, instruction, name, (*step.output, reason[:_LONGEST]))
    said = [f"{builder} failed: {reason[:_LONGEST]}", *progress.last_words()]
    return ToolFailedError("\n  ".join(said))


def _instruction(
    progress: Progress, dockerfile: Dockerfile | None, name: str
) -> Instruction | None:
    if dockerfile is None:
        return None
    marked = progress.marked_line
    if marked is not None:
        return instruction_at(dockerfile, marked)
    return instruction_of_step(dockerfile, name)


def _of_instruction(
    line: int | None, instruction: Instruction | None, name: str, said: tuple[str, ...]
) -> FailedInstructionError:
    if instruction:
        shown = f"{instruction.keyword} {instruction.text}"
    else:
        shown = re.sub(r"^\[[^\]]*\] ", "", name)
    return FailedInstructionError(line=line, instruction=shown[:_LONGEST], said=said)
