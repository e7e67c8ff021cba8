"""Dockerfiles for tests, from text."""

from __future__ import annotations

from pathlib import Path

import pytest

from cagebuild.dockerfile.model import Dockerfile, Instruction
from cagebuild.dockerfile.parse import parse
from cagebuild.errors import DockerfileError

FILE = Path("app/Dockerfile")


def read(text: str | bytes) -> Dockerfile:
    """Parse a whole file."""
    return parse(text.encode() if isinstance(text, str) else text, FILE)


def instructions(text: str) -> tuple[Instruction, ...]:
    """What follows FROM in a file of one stage."""
    (stage,) = read(text).stages
    return stage.instructions


def one(text: str) -> Instruction:
    """The only instruction below FROM."""
    (instruction,) = instructions("FROM debian\n" + text)
    return instruction


def mistakes(text: str | bytes) -> list[tuple[int, str]]:
    """Lines and messages of what is wrong with a file."""
    with pytest.raises(DockerfileError) as caught:
        read(text)
    return [(found.line, found.message) for found in caught.value.diagnostics]
