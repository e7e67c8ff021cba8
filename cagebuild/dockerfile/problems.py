"""Mistakes in a Dockerfile, all of them at once, each with its place."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from cagebuild.errors import Diagnostic, DockerfileError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cagebuild.dockerfile.model import Dockerfile

_MOST = 100
"""Mistakes that are shown of one file: one that is no Dockerfile at all may have any number."""
_WIDEST = 200


class Problems:
    """Collects the mistakes of one file."""

    def __init__(self, file: Path, data: bytes) -> None:
        self._file = file
        self._data = data
        self._found: list[Diagnostic] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    @property
    def full(self) -> bool:
        """Whether more of them would not be shown."""
        return len(self._found) >= _MOST

    def add(
        self, line: int, message: str, hint: str = "", *, span: tuple[int, int] = (0, 0)
    ) -> None:
        """Note a mistake in a line; with ``span``, bytes of the file, the place in it too."""
        if not self.full:
            self._found.append(
                diagnostic(self._file, self._data, line, message, hint=hint, span=span)
            )

    def error(self) -> DockerfileError:
        """All of them, in file order."""
        return DockerfileError(
            tuple(sorted(self._found, key=lambda found: (found.line, found.column)))
        )


def diagnostic(
    file: Path,
    data: bytes,
    line: int,
    message: str,
    *,
    hint: str = "",
    key: str = "",
    span: tuple[int, int] = (0, 0),
) -> Diagnostic:
    """A Diagnostic for a line of a Dockerfile, and bytes in it."""
    column, width, start = 1, 1, 0
    if span[1] > span[0]:
        line = data.count(b"\n", 0, span[0]) + 1
        start = data.rfind(b"\n", 0, span[0]) + 1
        column = len(text_of(data[start : span[0]])) + 1
        width = max(len(text_of(data[span[0] : span[1]]).splitlines()[0]), 1)
    return Diagnostic(
        file=file,
        line=line,
        column=min(column, _WIDEST),
        width=min(width, _WIDEST),
        key=key,
        message=_printable(message),
        source_line=shown(line_of(data, line)),
        hint=_printable(hint),
    )


def at_line(dockerfile: Dockerfile, line: int, message: str, hint: str = "") -> DockerfileError:
    """One mistake, found after the file was read."""
    found = diagnostic(dockerfile.file, dockerfile.data, line, message, hint=hint)
    return DockerfileError((found,))


def line_of(data: bytes, line: int) -> str:
    """A line of the file, counted from 1, without its end."""
    start = 0
    for _ in range(line - 1):
        start = data.find(b"\n", start) + 1
        if not start:
            return ""
    end = data.find(b"\n", start)
    return text_of(data[start : end if end >= 0 else len(data)]).rstrip("\r")


def text_of(data: bytes) -> str:
    """Bytes of a Dockerfile as text from which they can be had again."""
    return data.decode("utf-8", "surrogateescape")


def bytes_of(text: str) -> bytes:
    """The bytes that ``text_of`` made a text of."""
    return text.encode("utf-8", "surrogateescape")


def shown(text: str) -> str:
    """Text of a file in a message: one line, nothing that moves a terminal's cursor."""
    return _printable(text if len(text) <= _WIDEST else text[:_WIDEST] + "…")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in text.replace("\t", " "))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` for the most similar of the known words, or nothing."""
    close = difflib.get_close_matches(word[:100], sorted(known), n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else ""
