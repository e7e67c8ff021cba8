"""Where the keys and values of a TOML document stand.

``tomllib`` says what a document holds but not where. This scanner says where: it takes text that
``tomllib`` has accepted and gives, for every key path, the place of the key and of the value. It is
loaded only when there is a mistake to report.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import NamedTuple

Path = tuple[str | int, ...]
"""Keys and list indexes from the top of the document: ``("app", "files", 0, "source")``."""

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""+|'
    r"'''.*?'''+|"
    r'"(?:\\.|[^"\\\n])*"|'
    r"'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]+")
_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")


class Span(NamedTuple):
    """Offsets into the text: from ``start`` up to ``end``."""

    start: int
    end: int


@dataclass(slots=True)
class Place:
    """Where a key and its value stand. A table that only has headers has no value span."""

    key: Span
    value: Span | None = None


@dataclass(frozen=True, slots=True)
class Positions:
    """The places of a document's keys. Lines and columns count from 1, columns in characters."""

    text: str
    places: dict[Path, Place] = field(default_factory=dict)
    lines: list[int] = field(default_factory=list)

    def line_and_column(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset into the text."""
        line = bisect_right(self.lines, offset)
        return line, offset - self.lines[line - 1] + 1

    def line_text(self, line: int) -> str:
        """The text of a line, counted from 1, without its end."""
        start = self.lines[line - 1]
        end = self.text.find("\n", start)
        return self.text[start : None if end < 0 else end]

    def nearest(self, path: Path) -> Place | None:
        """The place of a path, or of the innermost table or list around it that has one."""
        for length in range(len(path), 0, -1):
            place = self.places.get(path[:length])
            if place is not None:
                return place
        return None


def scan(text: str) -> Positions:
    """The places of all keys and list items of ``text``: valid TOML, "\\n" line ends, no BOM."""
    lines = [0, *(match.end() for match in re.finditer("\n", text))]
    positions = Positions(text=text, lines=lines)
    _Scanner(text, positions.places).document()
    return positions


class _Scanner:
    """One pass over the text. Trusts that the text is valid and never moves backwards."""

    def __init__(self, text: str, places: dict[Path, Place]) -> None:
        self.text = text
        self.at = 0
        self.places = places
        self.tables: dict[Path, int] = {}
        """How many tables each ``[[list of tables]]`` has so far."""

    def skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def document(self) -> None:
        table: Path = ()
        self.skip(_BLANK)
        while self.at < len(self.text):
            if self.peek() == "[":
                table = self.header()
            else:
                self.pair(table)
            self.skip(_BLANK)

    def header(self) -> Path:
        """``[a.b]`` or ``[[a.b]]``: gives the path of the table that is opened."""
        start = self.at
        is_list = self.text.startswith("[[", self.at)
        self.at += 2 if is_list else 1
        keys = self.key()
        self.at += 2 if is_list else 1
        path: Path = ()
        for number, (name, span) in enumerate(keys):
            path += (name,)
            last = number == len(keys) - 1
            if last and is_list:
                self.tables[path] = self.tables.get(path, 0) + 1
            self.places.setdefault(path, Place(span))
            if path in self.tables:
                path += (self.tables[path] - 1,)
                self.places.setdefault(path, Place(Span(start, self.at) if last else span))
        return path

    def key(self) -> list[tuple[str, Span]]:
        """A dotted key: each part with its place. Ends behind the space that follows."""
        parts: list[tuple[str, Span]] = []
        while True:
            self.skip(_SPACE)
            start = self.at
            quoted = self.peek() in {'"', "'"}
            self.skip(_STRING if quoted else _BARE)
            word = self.text[start : self.at]
            name = str(tomllib.loads(f"key = {word}")["key"]) if quoted else word
            parts.append((name, Span(start, self.at)))
            self.skip(_SPACE)
            if self.peek() != ".":
                return parts
            self.at += 1

    def pair(self, table: Path) -> None:
        """``key = value``, at the top or in an inline table."""
        path = table
        keys = self.key()
        for name, span in keys:
            path += (name,)
            self.places.setdefault(path, Place(span))
        self.at += 1
        self.skip(_SPACE)
        self.places[path].value = self.value(path)

    def value(self, path: Path) -> Span:
        start = self.at
        match self.peek():
            case "[":
                self.items(path)
            case "{":
                self.inline_table(path)
            case '"' | "'":
                self.skip(_STRING)
            case _:
                self.skip(_SCALAR)
                word = self.text[start : self.at].rstrip()
                self.at = start + len(word)
        return Span(start, self.at)

    def items(self, path: Path) -> None:
        """``[a, b, …]``, over any number of lines."""
        self.at += 1
        index = 0
        self.skip(_BLANK)
        while self.peek() not in {"]", ""}:
            span = Span(self.at, self.at)
            place = self.places[(*path, index)] = Place(span)
            place.key = place.value = self.value((*path, index))
            index += 1
            self.skip(_BLANK)
            if self.peek() == ",":
                self.at += 1
                self.skip(_BLANK)
        self.at += 1

    def inline_table(self, path: Path) -> None:
        """``{a = 1, b.c = 2}``. TOML 1.1 lets it go over several lines, so this does too."""
        self.at += 1
        self.skip(_BLANK)
        while self.peek() not in {"}", ""}:
            self.pair(path)
            self.skip(_BLANK)
            if self.peek() == ",":
                self.at += 1
                self.skip(_BLANK)
        self.at += 1
