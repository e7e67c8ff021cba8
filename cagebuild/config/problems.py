"""Mistakes by key path, and how they become diagnostics with a place in a file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cagebuild.config.positions import Path, Place, Positions, Span, scan
from cagebuild.config.toml import printable, shown, shown_line, text_of
from cagebuild.errors import ConfigError, Diagnostic

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterable

_MOST = 100
"""Mistakes that are shown of one file: a file that is no cage.toml at all may have any number."""

_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake: what is wrong with the key or the value at a path of the document."""

    path: Path
    message: str
    hint: str = ""
    at: Literal["key", "value"] = "value"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` for the most similar of the known words, or nothing."""
    import difflib

    close = difflib.get_close_matches(word[:100], sorted(known), n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else ""


def dotted(path: Path) -> str:
    """A path as TOML writes it, with list indexes from 0: ``app.files[0].source``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            word = part if _BARE.fullmatch(part) else quoted(part)
            text += f".{word}" if text else word
    return text


def quoted(value: object) -> str:
    """A value in a message: control characters escaped, and not too long."""
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "…"


def error(file: pathlib.Path, data: bytes, problems: Iterable[Problem]) -> ConfigError:
    """All problems of one file as one error, in the order of the file."""
    positions = scan(text_of(data))
    diagnostics = {_diagnostic(file, positions, problem) for problem in problems}
    found = sorted(diagnostics, key=lambda d: (d.line, d.column, d.key, d.message))
    if len(found) > _MOST:
        more = f"and {len(found) - _MOST} more mistakes in this file"
        found = [*found[:_MOST], Diagnostic(file=shown(file), message=more)]
    return ConfigError(tuple(found))


def _diagnostic(file: pathlib.Path, positions: Positions, problem: Problem) -> Diagnostic:
    span = _span(positions.nearest(problem.path), problem, positions)
    line, column = positions.line_and_column(span.start)
    source_line = positions.line_text(line)
    return Diagnostic(
        file=shown(file),
        line=line,
        column=column,
        width=max(1, min(span.end - span.start, len(source_line) - column + 1)),
        key=dotted(problem.path),
        message=printable(problem.message),
        source_line=shown_line(source_line, column),
        hint=printable(problem.hint),
    )


def _span(place: Place | None, problem: Problem, positions: Positions) -> Span:
    if place is None:
        return Span(0, 0)
    exact = positions.places.get(problem.path) is place
    if problem.at == "value" and exact and place.value is not None:
        return place.value
    return place.key
