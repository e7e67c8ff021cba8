"""What in a Dockerfile cannot be reproduced, with the line and the cure."""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import accumulate, islice
from typing import TYPE_CHECKING

from cagebuild.dockerfile import flags, habits, heredocs, shell
from cagebuild.dockerfile.differences import differences
from cagebuild.dockerfile.expand import ExpandError
from cagebuild.dockerfile.packages import Finding
from cagebuild.dockerfile.problems import bytes_of, diagnostic, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cagebuild.dockerfile.model import Dockerfile, Instruction, Stage
    from cagebuild.errors import Diagnostic

_MOST = 100
_EPOCH = "SOURCE_DATE_EPOCH"
_FRONTENDS = ("docker/dockerfile", "docker.io/docker/dockerfile")
_GIT = re.compile(r"(git@|git://|https?://[^#]*\.git(#|$))")
_INTERPRETER = re.compile(r"#![ \t]*(?:\S*/env[ \t]+(?:-\S+[ \t]+)*)?(?:\S*/)?([^\s/]*)")
_PINNED = re.compile(r"#([0-9a-f]{40,64}|\$.*)(:.*)?$")


def warnings(dockerfile: Dockerfile, stages: tuple[Stage, ...]) -> tuple[Diagnostic, ...]:
    """What varies from build to build in the stages that a target needs, in file order.

    ``stages`` are those of ``stages.needed``: the last one is the target. Images in FROM and
    ``--from`` are pinned anyway and so no matter of this.
    """
    return tuple(islice(_all(dockerfile, stages), _MOST))


def _all(dockerfile: Dockerfile, stages: tuple[Stage, ...]) -> Iterator[Diagnostic]:
    yield from _of_syntax(dockerfile)
    yield from differences(dockerfile, stages)
    shipped = _shipped(stages)
    lines = [*accumulate((len(line) + 1 for line in dockerfile.data.split(b"\n")), initial=0)]
    for stage in stages:
        yield from _of_stage(dockerfile, lines, stage, shipped=stage.index in shipped)


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


def _of_stage(
    dockerfile: Dockerfile, lines: list[int], stage: Stage, *, shipped: bool
) -> Iterator[Diagnostic]:
    runs = {id(each): (script, commands) for each, script, commands in _runs(stage)}
    everything = [command for _, commands in runs.values() for command in commands]
    text = "\n".join(_text(instruction) for instruction in stage.instructions)
    habitat = habits.Habitat.of(everything, text, shipped=shipped)
    has_epoch = False
    for instruction in map(_innermost, stage.instructions):
        has_epoch = has_epoch or any(name == _EPOCH for name, _ in instruction.pairs)
        yield from _of_instruction(dockerfile, instruction)
        script, commands = runs.get(id(instruction), ("", []))
        around = habits.Around.of(commands, habitat, has_epoch=has_epoch)
        places = _Places(dockerfile.data, lines, instruction, script)
        for command in commands:
            for finding in habits.find(command, around):
                yield diagnostic(
                    dockerfile.file,
                    dockerfile.data,
                    instruction.line,
                    finding.message,
                    hint=finding.hint,
                    span=places.of(command),
                )


def _innermost(instruction: Instruction) -> Instruction:
    return instruction.inner or instruction if instruction.keyword == "ONBUILD" else instruction


def _text(instruction: Instruction) -> str:
    return "\n".join([instruction.text, *(heredoc.content for heredoc in instruction.heredocs)])


def _runs(stage: Stage) -> Iterator[tuple[Instruction, str, list[shell.Command]]]:
    """Each RUN, its script and the commands in it, as far as it is a shell that runs them."""
    known = True
    for instruction in map(_innermost, stage.instructions):
        if instruction.keyword == "SHELL" and instruction.exec_form:
            known = instruction.exec_form[0].rpartition("/")[2] in shell.SHELLS
        if instruction.keyword == "RUN" and instruction.exec_form is not None:
            yield instruction, "", shell.of_words(instruction.exec_form)
        elif instruction.keyword == "RUN" and known:
            yield instruction, *_commands(instruction)


def _commands(instruction: Instruction) -> tuple[str, list[shell.Command]]:
    if not instruction.heredocs:
        return instruction.text, shell.commands(instruction.text)
    body = instruction.heredocs[0].content
    try:
        alone = heredocs.marker(instruction.text) is not None
    except ExpandError:
        alone = False
    if alone:
        return body, shell.commands(body) if _interpreter(body) in shell.SHELLS else []
    script = f"{instruction.text}\n{body}"
    found = shell.commands(instruction.text)
    if found and found[0].program in shell.SHELLS:
        found += shell.commands(body, at=len(instruction.text) + 1)
    return script, found


def _interpreter(script: str) -> str:
    """``bash`` for ``#!/usr/bin/env bash``."""
    found = _INTERPRETER.match(script)
    return found[1] if found else "sh"


class _Places:
    """Where an instruction names the programs of its commands."""

    def __init__(
        self, data: bytes, lines: list[int], instruction: Instruction, script: str
    ) -> None:
        """``lines`` tells where each line of the file begins, its end last."""
        self._start = lines[instruction.line - 1]
        self._text = text_of(data[self._start : lines[instruction.last_line]])
        self._script = script
        self._known: dict[str, tuple[list[int], list[tuple[int, int]]]] = {}

    def of(self, command: shell.Command) -> tuple[int, int]:
        """The bytes of the file; (0, 0) if it is nowhere.

        The script has no continuations and no comments between them, so what is counted in the one
        is looked up in the other.
        """
        if not command.words:
            return (0, 0)
        if command.program not in self._known:
            in_script = [end for _, end in _named(command.program, self._script)]
            self._known[command.program] = (in_script, _named(command.program, self._text))
        in_script, in_file = self._known[command.program]
        number = bisect_right(in_script, command.places[0]) - 1
        if not in_file:
            return (0, 0)
        first, last = in_file[min(max(number, 0), len(in_file) - 1)]
        at = self._start + len(bytes_of(self._text[:first]))
        return at, at + len(bytes_of(self._text[first:last]))


def _named(program: str, text: str) -> list[tuple[int, int]]:
    """Where a text names a program, lines of comments left out."""
    named = re.compile(rf"(?m)^[ \t]*#.*|(?<![\w.-])({re.escape(program)})(?![\w-])")
    return [found.span(1) for found in named.finditer(text) if found[1]]


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
