"""What in a Dockerfile cannot be reproduced, with the line and the cure."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from cagebuild.dockerfile import flags, habits, heredocs, shell
from cagebuild.dockerfile.expand import ExpandError
from cagebuild.dockerfile.packages import Finding
from cagebuild.dockerfile.problems import diagnostic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cagebuild.dockerfile.model import Dockerfile, Instruction, Stage
    from cagebuild.errors import Diagnostic

_MOST = 100
_EPOCH = "SOURCE_DATE_EPOCH"
_FRONTENDS = ("docker/dockerfile", "docker.io/docker/dockerfile")
_GIT = re.compile(r"(git@|git://|https?://[^#]*\.git(#|$))")
_PINNED = re.compile(r"#([0-9a-f]{40,64}|\$.*)(:.*)?$")


def warnings(dockerfile: Dockerfile, stages: tuple[Stage, ...]) -> tuple[Diagnostic, ...]:
    """What varies from build to build in the stages that a target needs, in file order.

    ``stages`` are those of ``stages.needed``: the last one is the target. Images in FROM and
    ``--from`` are pinned anyway and so no matter of this.
    """
    found = [*_of_syntax(dockerfile)]
    shipped = _shipped(stages)
    for stage in stages:
        found += _of_stage(dockerfile, stage, shipped=stage.index in shipped)
    return tuple(found[:_MOST])


def _shipped(stages: tuple[Stage, ...]) -> set[int]:
    """The target and the stages that it is built upon: what they leave behind is in the image."""
    found: set[int] = set()
    below: Stage | None = stages[-1]
    while below:
        found.add(below.index)
        name, index = below.image, below.index
        below = next((s for s in stages if s.name == name and s.index < index), None)
    return found


def _of_syntax(dockerfile: Dockerfile) -> Iterator[Diagnostic]:
    syntax = dockerfile.syntax
    if syntax and not syntax.image.startswith(_FRONTENDS):
        yield diagnostic(
            dockerfile.file,
            dockerfile.data,
            syntax.line,
            f"{syntax.image[:100]} reads this file, by rules that are not known here",
            hint="use docker/dockerfile, or check what was built",
            span=syntax.span,
        )


def _of_stage(dockerfile: Dockerfile, stage: Stage, *, shipped: bool) -> Iterator[Diagnostic]:
    runs = {id(each): commands for each, commands in _runs(stage)}
    everything = [command for commands in runs.values() for command in commands]
    text = "\n".join(_text(instruction) for instruction in stage.instructions)
    has_epoch = False
    for instruction in map(_innermost, stage.instructions):
        has_epoch = has_epoch or any(name == _EPOCH for name, _ in instruction.pairs)
        yield from _of_instruction(dockerfile, instruction)
        commands = runs.get(id(instruction), [])
        around = habits.Around(
            run=commands, stage=everything, text=text, shipped=shipped, has_epoch=has_epoch
        )
        seen: Counter[str] = Counter()
        for command in commands:
            for finding in habits.find(command, around):
                place = _place(dockerfile, instruction, command, seen[command.program])
                yield diagnostic(
                    dockerfile.file,
                    dockerfile.data,
                    instruction.line,
                    finding.message,
                    hint=finding.hint,
                    span=place,
                )
            seen[command.program] += 1


def _innermost(instruction: Instruction) -> Instruction:
    return instruction.inner or instruction if instruction.keyword == "ONBUILD" else instruction


def _text(instruction: Instruction) -> str:
    return "\n".join([instruction.text, *(heredoc.content for heredoc in instruction.heredocs)])


def _runs(stage: Stage) -> Iterator[tuple[Instruction, list[shell.Command]]]:
    """Each RUN and its commands, as far as it is a shell that runs them."""
    known = True
    for instruction in map(_innermost, stage.instructions):
        if instruction.keyword == "SHELL" and instruction.exec_form:
            known = instruction.exec_form[0].rpartition("/")[2] in shell.SHELLS
        if instruction.keyword == "RUN" and instruction.exec_form is not None:
            yield instruction, shell.of_words(instruction.exec_form)
        elif instruction.keyword == "RUN" and known:
            yield instruction, _commands(instruction)


def _commands(instruction: Instruction) -> list[shell.Command]:
    if not instruction.heredocs:
        return shell.commands(instruction.text)
    bodies = [heredoc.content for heredoc in instruction.heredocs]
    try:
        alone = heredocs.marker(instruction.text) is not None
    except ExpandError:
        alone = False
    if alone:
        first = bodies[0].partition("\n")[0]
        interpreter = re.split(r"[/ ]", first.strip())[-1] if first.startswith("#!") else "sh"
        return shell.commands(bodies[0]) if interpreter in shell.SHELLS else []
    found = shell.commands(instruction.text)
    if found and found[0].program in shell.SHELLS:
        found += shell.commands(bodies[0])
    return found


def _place(
    dockerfile: Dockerfile, instruction: Instruction, command: shell.Command, number: int
) -> tuple[int, int]:
    """Where the file names a program for the n-th time in an instruction; (0, 0) if nowhere."""
    if not command.words:
        return (0, 0)
    start, end = _range(dockerfile.data, instruction)
    name = re.escape(command.program.encode("utf-8", "surrogateescape"))
    named = re.compile(rb"(?<![\w.-])" + name + rb"(?![\w-])")
    places = [found.span() for found in named.finditer(dockerfile.data, start, end)]
    return places[min(number, len(places) - 1)] if places else (0, 0)


def _range(data: bytes, instruction: Instruction) -> tuple[int, int]:
    start = 0
    for _ in range(instruction.line - 1):
        start = data.find(b"\n", start) + 1
    end = start
    for _ in range(instruction.last_line - instruction.line + 1):
        end = data.find(b"\n", end) + 1 or len(data)
    return start, end


def _of_instruction(dockerfile: Dockerfile, instruction: Instruction) -> Iterator[Diagnostic]:
    for finding in _findings(instruction):
        yield diagnostic(
            dockerfile.file,
            dockerfile.data,
            instruction.line,
            finding.message,
            hint=finding.hint,
        )


def _findings(instruction: Instruction) -> Iterator[Finding]:
    if instruction.keyword == "RUN":
        types = [flags.mount(value)["type"] for name, value in instruction.flags if name == "mount"]
        if "cache" in types:
            yield Finding(
                "a mount of type=cache has what earlier builds left in it",
                "see that nothing in the image depends on it, or leave it out",
            )
    elif instruction.keyword == "ADD" and not instruction.flag("checksum"):
        for source in instruction.words[:-1]:
            if _GIT.match(source):
                if not _PINNED.search(source):
                    yield Finding(
                        f"ADD takes what {source[:80]} is today", "write …#COMMIT with 40 digits"
                    )
            elif source.startswith(("http://", "https://")):
                yield Finding(
                    f"ADD gets {source[:80]}, and nothing checks what it is",
                    "write ADD --checksum=sha256:…",
                )
