"""A Dockerfile as it is written: stages and instructions, with variables still unexpanded.

Text is decoded from UTF-8 with surrogate escapes, so that any bytes survive. Lines count from 1;
spans are byte offsets into ``Dockerfile.data``. Source of the rules: moby/buildkit, the packages
frontend/dockerfile/parser, frontend/dockerfile/instructions and frontend/dockerfile/shell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

Span = tuple[int, int]
"""First byte, and the one after the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heredoc:
    """A file or script that stands in the Dockerfile itself."""

    name: str
    """The word after ``<<``, without quotes."""
    content: str
    """Its lines, without tabs at their start where it is ``<<-``."""
    expand: bool
    """Whether variables in it are expanded where the instruction expands any: it was not quoted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What ``--from=`` of COPY, or ``from=`` of a mount, names: a stage or an image."""

    name: str
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One instruction."""

    keyword: str
    """In upper case."""
    flags: tuple[tuple[str, str], ...]
    """``--chown=1:1`` is ("chown", "1:1"); a flag without a value has an empty one. In order."""
    text: str
    """All after keyword and flags: continuations joined, comments out, heredoc markers still in."""
    exec_form: tuple[str, ...] | None
    """The words of a JSON array of strings, where the arguments are one."""
    words: tuple[str, ...]
    """The arguments as BuildKit splits them for this keyword, quotes still there: sources and
    destination of COPY and ADD, ports, volumes, the image and ``AS name`` of FROM, the one word of
    USER, WORKDIR, STOPSIGNAL and MAINTAINER, ``CMD`` or ``NONE`` of HEALTHCHECK. Not of RUN, CMD,
    ENTRYPOINT, SHELL and the pairs of ENV, LABEL and ARG."""
    pairs: tuple[tuple[str, str | None], ...]
    """Of ENV, LABEL and ARG: names and values, quotes and variables as written; None for an ARG
    without a default."""
    heredocs: tuple[Heredoc, ...]
    """Of ONBUILD, those of the instruction that it holds."""
    inner: Instruction | None
    """Of ONBUILD, and of HEALTHCHECK with CMD: the instruction that it holds."""
    line: int
    last_line: int
    origins: tuple[Origin, ...] = ()
    """Of COPY one at most, of RUN as many as its mounts have."""

    def flag(self, name: str) -> str | None:
        """The last value of a flag, or None where it is not given."""
        return next((value for given, value in reversed(self.flags) if given == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """FROM, and all up to the next one."""

    index: int
    name: str | None
    """In lower case."""
    image: str
    """What stands after FROM: a stage, ``scratch`` or an image, unexpanded."""
    image_span: Span
    """Of that word."""
    words_end: int
    """The byte after the last word of FROM: where a name can be put."""
    from_instruction: Instruction
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Syntax:
    """The directive ``# syntax=``: the image of the frontend that is to read the file."""

    image: str
    span: Span
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dockerfile:
    """A whole file. At least one stage."""

    file: Path
    data: bytes
    escape: str
    """``\\`` or a back-tick."""
    syntax: Syntax | None
    global_args: tuple[Instruction, ...]
    """The ARGs before the first FROM."""
    stages: tuple[Stage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageUse:
    """An image from outside that a build of some target needs."""

    reference: str
    """``host/repository:tag`` or ``…@sha256:…``, Docker's short names made whole."""
    span: Span
    """Where the Dockerfile names it: what a digest can be put in the place of."""
    line: int
    keyword: str
    """``FROM``, ``COPY``, ``ADD``, ``RUN`` or ``syntax``."""
    platform: str | None
    """Of FROM, expanded."""
