"""Reading TOML: bytes to a document, or an error that says where it stops being TOML."""

from __future__ import annotations

import errno
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from cagebuild.errors import ConfigSyntaxError, Diagnostic, SourceError

LIMIT = 1 << 20
"""Bytes that a cage.toml may have."""

_PLACE = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")
_TYPO = (
    (r"Cannot (overwrite|declare|redefine|mutate) .*", "this key or table is given a second time"),
    (r"Invalid value", "no TOML value starts like this; text needs quotes"),
    (r"Invalid statement", "expected 'key = value', '[table]' or a comment"),
    (r"Expected '=' after a key in a key/value pair", "expected '=' after the key"),
    (r"Expected newline or end of document after .*", "expected the end of the line"),
    (r"Unclosed array", "this list is not closed with ']'"),
    (r"Unclosed inline table", "this table is not closed with '}'"),
    (r"Unterminated string", "this text is not closed with a quote"),
)
"""What tomllib says, and what that means to somebody who doesn't know the words of a parser."""

_WIDEST = 240


def read(file: Path) -> bytes:
    """The bytes of a cage.toml. Raises SourceError if it is a symlink, unreadable or too large.

    A symlink could lead to a file that is not part of the commit.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            data = stream.read(LIMIT + 1)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise SourceError(f"{shown(file)} is a symlink", hint="make it a file") from error
        raise SourceError(f"cannot read {shown(file)}: {error.strerror}") from error
    if len(data) > LIMIT:
        raise SourceError(f"{shown(file)} has more than {LIMIT} bytes")
    return data


def shown(file: Path) -> Path:
    """How a file is called in messages: relative where it lies below the current folder."""
    try:
        return file.relative_to(Path.cwd())
    except (ValueError, OSError):
        return file


def printable(text: str) -> str:
    """Text that does nothing to a terminal: what is not printable becomes U+FFFD, tabs spaces."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c == "\t" else "\ufffd" for c in text)


def shown_line(line: str, column: int) -> str:
    """A line of a file as diagnostics show it: printable, of bounded width, or not at all."""
    return printable(line[:_WIDEST]) if column <= _WIDEST else ""


def text_of(data: bytes) -> str:
    """UTF-8 to text with "\\n" line ends and no byte order mark. Raises UnicodeDecodeError."""
    return data.decode("utf-8-sig").replace("\r\n", "\n")


def parse(data: bytes, file: Path) -> dict[str, Any]:
    """The document. Raises ConfigSyntaxError with the place of the first mistake."""
    try:
        return tomllib.loads(text_of(data))
    except UnicodeDecodeError as error:
        raise _not_text(data, file, error) from None
    except RecursionError:
        raise _error(file, "lists or tables are nested too deeply") from None
    except ValueError as error:
        raise _not_toml(text_of(data), file, str(error)) from None


def _error(
    file: Path, message: str, *, line: int = 0, column: int = 0, source: str = "", hint: str = ""
) -> ConfigSyntaxError:
    diagnostic = Diagnostic(
        file=shown(file),
        message=printable(message),
        line=line,
        column=column,
        source_line=shown_line(source, column),
        hint=hint,
    )
    return ConfigSyntaxError((diagnostic,))


def _not_text(data: bytes, file: Path, error: UnicodeDecodeError) -> ConfigSyntaxError:
    # With a byte order mark the decoder counts from behind it.
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    start = error.start
    for line, content in enumerate(lines, 1):
        if start <= len(content):
            column = len(content[:start].decode(errors="replace")) + 1
            source = content.decode(errors="replace").rstrip("\r")
            hint = "save the file as UTF-8"
            return _error(file, "not UTF-8", line=line, column=column, source=source, hint=hint)
        start -= len(content) + 1
    return _error(file, "not UTF-8")


def _not_toml(text: str, file: Path, said: str) -> ConfigSyntaxError:
    match = _PLACE.search(said)
    if match is None:
        # int() refuses numbers of thousands of digits with a message of its own.
        return _error(file, f"not TOML: {said[:200]}")
    words = said[: match.start()]
    known = (meaning for pattern, meaning in _TYPO if re.fullmatch(pattern, words, re.DOTALL))
    message = next(known, words[:1].lower() + words[1:])
    lines = text.split("\n")
    line, column = (int(match[1]), int(match[2])) if match[1] else _end(lines)
    source = lines[line - 1] if line <= len(lines) else ""
    return _error(file, f"not TOML: {message}", line=line, column=column, source=source)


def _end(lines: list[str]) -> tuple[int, int]:
    """Behind the last character that is not white space."""
    for number in range(len(lines), 0, -1):
        if lines[number - 1].strip():
            return number, len(lines[number - 1].rstrip()) + 1
    return 1, 1
