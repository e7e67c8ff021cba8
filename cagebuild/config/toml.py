"""Reading TOML: bytes to a document, or an error that says where it stops being TOML."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from cagebuild.errors import ConfigSyntaxError, Diagnostic, SourceError

LIMIT = 1 << 20
"""Bytes that a cage.toml may have."""

_PLACE = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")
_TYPO = {
    "Cannot overwrite a value": "this key, or its table, is given a second time",
    "Invalid value": "no TOML value starts like this; text needs quotes",
    "Invalid statement": "expected 'key = value', '[table]' or a comment",
    "Expected '=' after a key in a key/value pair": "expected '=' after the key",
    "Expected newline or end of document after a statement": "expected the end of the line",
    "Unclosed array": "this list is not closed with ']'",
    "Unterminated string": "this text is not closed with a quote",
    "Unclosed inline table": "this table is not closed with '}'",
}


def read(file: Path) -> bytes:
    """The bytes of a cage.toml. Raises SourceError if it cannot be read or is too large."""
    try:
        with file.open("rb") as stream:
            data = stream.read(LIMIT + 1)
    except OSError as error:
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


def _error(file: Path, message: str, **place: Any) -> ConfigSyntaxError:
    return ConfigSyntaxError((Diagnostic(file=shown(file), message=message, **place),))


def _not_text(data: bytes, file: Path, error: UnicodeDecodeError) -> ConfigSyntaxError:
    # With a byte order mark the decoder counts from behind it.
    before = data.removeprefix(b"\xef\xbb\xbf")[: error.start].decode(errors="replace")
    line = before.count("\n") + 1
    column = len(before) - (before.rfind("\n") + 1) + 1
    return _error(
        file,
        "not UTF-8",
        line=line,
        column=column,
        hint="save the file as UTF-8",
    )


def _not_toml(text: str, file: Path, said: str) -> ConfigSyntaxError:
    match = _PLACE.search(said)
    if match is None:
        # int() refuses numbers of thousands of digits with a message of its own.
        return _error(file, f"not TOML: {said[:200]}")
    words = said[: match.start()]
    message = _TYPO.get(words) or words[:1].lower() + words[1:]
    lines = text.split("\n")
    line, column = (int(match[1]), int(match[2])) if match[1] else _end(lines)
    return _error(
        file,
        f"not TOML: {message}",
        line=line,
        column=column,
        source_line=lines[line - 1] if line <= len(lines) else "",
    )


def _end(lines: list[str]) -> tuple[int, int]:
    """Behind the last character that is not white space."""
    for number in range(len(lines), 0, -1):
        if lines[number - 1].strip():
            return number, len(lines[number - 1].rstrip()) + 1
    return 1, 1
