"""Lines: directives at the top, continuations and comments, and the bodies of heredocs.

Source of the rules: moby/buildkit, frontend/dockerfile/parser/parser.go and directives.go.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cagebuild.dockerfile.expand import SPACES
from cagebuild.dockerfile.model import Span, Syntax
from cagebuild.dockerfile.problems import bytes_of, text_of

if TYPE_CHECKING:
    from cagebuild.dockerfile.problems import Problems

LONGEST_LINE = 65_535
"""Bytes, the end of the line included: BuildKit's limit."""
_BOM = b"\xef\xbb\xbf"
_DIRECTIVE = re.compile(r"([a-zA-Z][a-zA-Z0-9]*)[\t\n\f\r ]*=[\t\n\f\r ]*(.+?)[\t\n\f\r ]*")
_KNOWN = frozenset({"syntax", "escape", "check"})


@dataclass(slots=True)
class Logical:
    """One instruction with its continuations joined, and where each piece of it stands."""

    line: int
    last_line: int
    text: str = ""
    starts: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    def add(self, piece: str, offset: int) -> None:
        """Append a piece that stands at a byte of the file."""
        self.starts.append(self.starts[-1] + len(self.pieces[-1]) if self.pieces else 0)
        self.offsets.append(offset)
        self.pieces.append(piece)

    def span(self, start: int, end: int) -> Span:
        """The bytes from one character of the text up to another."""
        if end <= start:
            return (self._byte(start), self._byte(start))
        return (self._byte(start), self._byte(end - 1) + len(bytes_of(self.text[end - 1])))

    def _byte(self, index: int) -> int:
        piece = bisect_right(self.starts, index) - 1
        while piece and not self.pieces[piece]:
            piece -= 1
        within = self.pieces[piece][: index - self.starts[piece]]
        return self.offsets[piece] + len(bytes_of(within))


class Reader:
    """Goes through a file line by line."""

    def __init__(self, data: bytes, problems: Problems) -> None:
        self._problems = problems
        self._lines = _lines(data)
        self._at = 0
        self._offset = 0
        self.too_long = next(
            (n for n, line in enumerate(self._lines, 1) if len(line) > LONGEST_LINE), 0
        )
        self.escape = self._find_escape()

    def next_logical(self) -> Logical | None:
        """The next instruction; None at the end."""
        while self._at < len(self._lines):
            text, offset = self._take()
            line = self._at
            stripped = text.lstrip(SPACES)
            offset += len(bytes_of(text[: len(text) - len(stripped)]))
            if not stripped or stripped.startswith("#"):
                continue
            found = Logical(line, line)
            more = self._add(found, stripped, offset)
            while more and self._at < len(self._lines):
                text, offset = self._take()
                start = text.lstrip(SPACES)[:1]
                if start and start != "#":
                    more = self._add(found, text, offset)
            found.text = "".join(found.pieces)
            found.last_line = self._at
            return found
        return None

    def take_body(self, name: str, *, tabs: bool) -> str | None:
        """The lines up to the one that is ``name``; None where there is none.

        With ``tabs``, those at the start of the lines do not count.
        """
        body: list[str] = []
        while self._at < len(self._lines):
            raw = text_of(self._lines[self._at])
            self._take()
            candidate = raw.rstrip("\r\n")
            if (candidate.lstrip("\t") if tabs else candidate) == name:
                return "".join(body)
            body.append(raw.lstrip("\t") if tabs else raw)
        return None

    @property
    def line(self) -> int:
        """How many lines have been read."""
        return self._at

    def _take(self) -> tuple[str, int]:
        raw, offset = self._lines[self._at], self._offset
        self._at += 1
        self._offset += len(raw)
        if self._at == 1 and raw.startswith(_BOM):
            raw, offset = raw[len(_BOM) :], offset + len(_BOM)
        return text_of(raw.rstrip(b"\r\n")), offset

    def _add(self, found: Logical, text: str, offset: int) -> bool:
        """Append a line; whether it is continued."""
        cut = text.rstrip("\t ")
        before = cut[:-1]
        continued = cut.endswith(self.escape) and not before.endswith(self.escape)
        found.add(before if continued else text, offset)
        return continued

    def _find_escape(self) -> str:
        """``# escape=``; mistakes in directives are noted."""
        seen: set[str] = set()
        escape = "\\"
        for number, raw in enumerate(self._lines, 1):
            text = text_of(raw.removeprefix(_BOM) if number == 1 else raw).rstrip("\r\n")
            found = _directive(text.lstrip(SPACES))
            if found is None:
                break
            name, value = found[1].lower(), found[2]
            if name in seen:
                self._problems.add(number, f"the directive '{name}' is given twice")
            elif name == "escape" and value not in {"\\", "`"}:
                self._problems.add(
                    number, f"'{value[:20]}' cannot be the escape character", "use \\ or `"
                )
            elif name == "escape":
                escape = value
            seen.add(name)
        return escape


def find_syntax(data: bytes) -> Syntax | None:
    """``# syntax=``, as BuildKit looks for it: before anything else, but after a ``#!`` line."""
    line, at = 1, len(_BOM) if data.startswith(_BOM) else 0
    if data.startswith(b"#!", at):
        line, at = 2, _after(data, at)
    while at < len(data):
        end = _after(data, at)
        text = text_of(data[at:end]).rstrip("\r\n")
        found = _directive(text)
        if found is None:
            return None
        if found[1].lower() == "syntax":
            image = found[2].partition(" ")[0]
            start = at + len(bytes_of(text[: len(text) - len(found.string) + found.start(2)]))
            return Syntax(image=image, span=(start, start + len(bytes_of(image))), line=line)
        at, line = end, line + 1
    return None


def _directive(text: str) -> re.Match[str] | None:
    if not text.startswith("#"):
        return None
    found = _DIRECTIVE.fullmatch(text[1:].lstrip(SPACES))
    return found if found and found[1].lower() in _KNOWN else None


def _lines(data: bytes) -> list[bytes]:
    """Lines end with a line feed alone."""
    lines = [line + b"\n" for line in data.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def _after(data: bytes, at: int) -> int:
    end = data.find(b"\n", at)
    return len(data) if end < 0 else end + 1
