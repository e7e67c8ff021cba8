"""Reading a Dockerfile by BuildKit's rules.

Source of the rules: moby/buildkit, frontend/dockerfile/parser and frontend/dockerfile/instructions.
All mistakes of a file are found at once. What BuildKit only finds when it comes to the line, such
as a mount's option that there is none of, is an error here before anything runs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cagebuild.dockerfile import arguments, flags, heredocs, splitting
from cagebuild.dockerfile.expand import ExpandError
from cagebuild.dockerfile.lines import LONGEST_LINE, Logical, Reader, find_syntax
from cagebuild.dockerfile.model import Dockerfile, Heredoc, Instruction, Stage
from cagebuild.dockerfile.problems import Problems, did_you_mean

if TYPE_CHECKING:
    from pathlib import Path

LARGEST = 1 << 20
"""Bytes of a Dockerfile. The largest that people write are some tens of kilobytes."""
_MOST_STAGES = 1000
_HEREDOCS = frozenset({"RUN", "COPY", "ADD"})


def parse(data: bytes, file: Path) -> Dockerfile:
    """Read a Dockerfile; raises DockerfileError with every mistake in it."""
    problems = Problems(file, data)
    if len(data) > LARGEST:
        problems.add(0, f"larger than {LARGEST >> 20} MiB, so hardly a Dockerfile")
        raise problems.error()
    reader = Reader(data, problems)
    if reader.too_long:
        problems.add(reader.too_long, f"the line is longer than {LONGEST_LINE} bytes")
        raise problems.error()
    found = _Parser(reader, problems).all()
    if problems:
        raise problems.error()
    return Dockerfile(
        file=file,
        data=data,
        escape=reader.escape,
        syntax=find_syntax(data),
        global_args=tuple(found.global_args),
        stages=tuple(found.stages),
    )


class _Parser:
    """Goes through the instructions and puts them in stages."""

    def __init__(self, reader: Reader, problems: Problems) -> None:
        self._reader = reader
        self._problems = problems
        self._body: list[Instruction] = []
        self._head: Stage | None = None
        self._names: dict[str, int] = {}
        self.global_args: list[Instruction] = []
        self.stages: list[Stage] = []

    def all(self) -> _Parser:
        """Read the file to its end."""
        empty = True
        while not self._problems.full and (logical := self._reader.next_logical()):
            empty = False
            self._one(logical)
        self._close_stage()
        if empty:
            self._problems.add(0, "there is no instruction in it", "begin with FROM image")
        elif not self.stages and not self._problems:
            self._problems.add(0, "there is no FROM in it", "begin with FROM image")
        return self

    def _one(self, logical: Logical) -> None:
        reading = _Reading(logical, self._reader, self._problems)
        start, end = splitting.trimmed(logical.text, 0, len(logical.text))
        reading.check_characters()
        found = reading.instruction(start, end)
        if found is None:
            return
        if found.keyword == "FROM":
            self._close_stage()
            self._open_stage(found, reading)
            if len(self.stages) == _MOST_STAGES:
                self._problems.add(found.line, f"there are more than {_MOST_STAGES} stages")
        elif self._head:
            self._body.append(found)
        elif found.keyword == "ARG":
            self.global_args.append(found)
        else:
            self._problems.add(
                found.line,
                f"{found.keyword} stands before the first FROM",
                "only ARG may stand there; put FROM image above it",
            )

    def _open_stage(self, found: Instruction, reading: _Reading) -> None:
        name = found.words[2].lower() if len(found.words) == 3 else None
        if name in self._names:
            self._problems.add(
                found.line,
                f"the stage '{name}' is there already, in line {self._names[name]}",
                "name it otherwise: which of the two is meant depends on the engine",
            )
        elif name:
            self._names[name] = found.line
        spans = reading.word_spans or [(0, 0)]
        self._head = Stage(
            index=len(self.stages),
            name=name,
            image=found.words[0] if found.words else "",
            image_span=spans[0],
            words_end=spans[-1][1],
            from_instruction=found,
            instructions=(),
        )

    def _close_stage(self) -> None:
        if self._head:
            self.stages.append(replace(self._head, instructions=tuple(self._body)))
        self._body = []


class _Reading:
    """One instruction being read, or one in another."""

    def __init__(self, logical: Logical, reader: Reader, problems: Problems) -> None:
        self._logical = logical
        self._text = logical.text
        self._reader = reader
        self._problems = problems
        self.word_spans: list[tuple[int, int]] = []
        """Where the words of FROM are in the file."""

    def check_characters(self) -> None:
        """What no engine can be given: BuildKit sends instructions as UTF-8 without NUL."""
        if "\0" in self._text:
            self._say("a NUL byte stands in the instruction", "")
        elif any("\udc80" <= char <= "\udcff" for char in self._text):
            self._say("the instruction is not UTF-8", "save the file as UTF-8")

    def instruction(self, start: int, end: int, *, inside: str = "") -> Instruction | None:
        """What stands between two characters of the text; None where it is no instruction."""
        spans = splitting.plain_words(self._text, start, end)
        written = self._text[start : spans[0][1]] if spans else ""
        keyword = written.upper()
        if keyword not in arguments.KEYWORDS:
            self._problems.add(
                self._logical.line,
                f"unknown instruction '{written[:40]}'",
                did_you_mean(keyword, arguments.KEYWORDS),
                span=self._logical.span(*spans[0]) if spans else (0, 0),
            )
            return None
        escape = self._reader.escape
        after = spans[0][1]
        given, at = splitting.flags(self._text, after, end, escape)
        at, end = splitting.trimmed(self._text, at, end)
        text = self._text[at:end]
        if keyword == "ONBUILD":
            return self._onbuild(given, at, end, inside=inside)
        if inside and keyword in {"FROM", "MAINTAINER"}:
            self._say(f"{keyword} cannot stand in ONBUILD", "")
            return None
        found = arguments.read(keyword, text, escape, self._say)
        if keyword == "FROM":
            words = splitting.plain_words(self._text, at, end)
            self.word_spans = [self._logical.span(*word) for word in words]
        inner = None
        if keyword == "HEALTHCHECK" and found.words == ("CMD",):
            inner = self._health(at + arguments.health_command(text), end)
        bodies = self._bodies() if keyword in _HEREDOCS and found.exec_form is None else ()
        return self._made(keyword, given, text, found, inner, bodies)

    def _made(
        self,
        keyword: str,
        given: list[splitting.Mapped],
        text: str,
        found: arguments.Arguments,
        inner: Instruction | None = None,
        bodies: tuple[Heredoc, ...] = (),
    ) -> Instruction:
        return Instruction(
            keyword=keyword,
            flags=flags.check(keyword, given, self._say),
            text=text,
            exec_form=found.exec_form,
            words=found.words,
            pairs=found.pairs,
            heredocs=bodies,
            inner=inner,
            line=self._logical.line,
            last_line=self._reader.line,
            origins=flags.origins(keyword, given, self._logical.span, self._say),
        )

    def _onbuild(
        self, given: list[splitting.Mapped], at: int, end: int, *, inside: str
    ) -> Instruction | None:
        if inside:
            self._say("ONBUILD cannot stand in ONBUILD", "")
            return None
        if at == end:
            self._say("ONBUILD needs an instruction", "")
            return None
        inner = self.instruction(at, end, inside="ONBUILD")
        bodies = inner.heredocs if inner else ()
        text = self._text[at:end]
        return self._made("ONBUILD", given, text, arguments.Arguments(), inner, bodies)

    def _health(self, at: int, end: int) -> Instruction:
        text = self._text[at:end]
        found = arguments.read("CMD", text, self._reader.escape, self._say)
        return self._made("CMD", [], text, found)

    def _bodies(self) -> tuple[Heredoc, ...]:
        try:
            announced = heredocs.markers(self._text)
        except ExpandError as error:
            self._say(f"a heredoc: {error}", "")
            return ()
        found: list[Heredoc] = []
        for marker in announced:
            content = self._reader.take_body(marker.name, tabs=marker.tabs)
            if content is None:
                self._say(
                    f"the heredoc '{marker.name[:40]}' does not end",
                    f"put a line below it that is {marker.name[:40]} and nothing else",
                )
                break
            found.append(Heredoc(name=marker.name, content=content, expand=marker.expand))
        return tuple(found)

    def _say(self, message: str, hint: str, at: splitting.Mapped | None = None) -> None:
        span = self._logical.span(at.at[0], at.at[-1] + 1) if at and at.at else (0, 0)
        self._problems.add(self._logical.line, message, hint, span=span)
