"""Fuzz the readers of Dockerfiles and of .dockerignore.

Run as a script, with libFuzzer's flags: ``python tests/fuzz/fuzz_dockerfile.py -runs=100000``.
Only DockerfileError, and ExpandError from words, may escape; what is staged reads as before.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped]

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["cagebuild.dockerfile"]):
    from cagebuild.dockerfile import shell, stages, staging
    from cagebuild.dockerfile.expand import Expander, ExpandError
    from cagebuild.dockerfile.ignore import Ignore
    from cagebuild.dockerfile.parse import parse
    from cagebuild.dockerfile.problems import text_of
    from cagebuild.dockerfile.warnings import warnings
    from cagebuild.errors import DockerfileError

FILE = Path("Dockerfile")
MOST = 100


def read(data: bytes) -> None:
    """Everything that is done with a Dockerfile before an engine gets it."""
    found = parse(data, FILE)
    for target in (None, "0"):
        uses = stages.images(found, target, {"A": "b"}, "x86_64")
        pins = {
            use.reference: f"{use.reference.partition('@')[0]}@sha256:{'0' * 64}" for use in uses
        }
        staged = staging.stage(
            found, target=target, pins=pins, args={"A": "b"}, architecture="x86_64"
        )
        again = parse(staged.text, FILE)
        assert stages.find(again, staged.target).index == stages.find(found, target).index
        assert [len(s.instructions) for s in again.stages] == [
            len(s.instructions) for s in found.stages
        ]
        needed = stages.needed(found, target, {"A": "b"}, "x86_64")
        assert len(warnings(found, needed)) <= MOST


def one_input(data: bytes) -> None:
    """The first byte chooses the reader."""
    kind, rest = data[0] % 4 if data else 0, data[1:]
    try:
        if kind == 0:
            read(rest)
        elif kind == 1:
            Ignore.parse(rest).excludes("a/b.c/d")
        elif kind == 2:
            with contextlib.suppress(ExpandError):
                Expander("\\").words(text_of(rest), {"a": "b c", "é": ""})
        else:
            shell.commands(text_of(rest))
    except DockerfileError as error:
        check_message(error)


def check_message(error: DockerfileError) -> None:
    """What is said is of bounded length, and does nothing to a terminal."""
    shown = error.render()
    assert 0 < len(error.diagnostics) <= MOST
    assert len(shown) < MOST * 4096
    assert all(char.isprintable() or char == "\n" for char in shown), shown


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
