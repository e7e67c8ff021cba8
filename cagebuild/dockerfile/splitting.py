"""What an instruction's text is cut into: flags, words, JSON arrays, fields of a mount.

Source of the rules: moby/buildkit, frontend/dockerfile/parser/split_command.go and line_parsers.go.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache

from cagebuild.dockerfile.expand import SPACES

_BETWEEN = "\t\v\f\r "
"""What parts words where no quotes count: fewer characters than Go's unicode.IsSpace knows."""
_PLAIN_WORD = re.compile(rf"[^{_BETWEEN}]+")
_LONE = re.compile("[\ud800-\udfff]")


class NotTextsError(ValueError):
    """A JSON array with something else than texts in it."""


class FieldError(ValueError):
    """A mount whose value is not a line of CSV."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """Text without its quotes, and where in the instruction each of its characters stands."""

    text: str
    at: tuple[int, ...]

    def part(self, start: int, end: int | None = None) -> Mapped:
        """A slice."""
        return Mapped(self.text[start:end], self.at[start:end])

    @property
    def whole(self) -> tuple[int, int] | None:
        """First and last + 1, where it stands in one piece."""
        if not self.at or self.at[-1] - self.at[0] + 1 != len(self.at):
            return None
        return self.at[0], self.at[-1] + 1


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A range without the spaces around it."""
    while start < end and text[start] in SPACES:
        start += 1
    while start < end and text[end - 1] in SPACES:
        end -= 1
    return start, end


def plain_words(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Where the words are, quotes having no meaning."""
    return [word.span() for word in _PLAIN_WORD.finditer(text, start, end)]


def quoted_words(text: str, escape: str) -> list[str]:
    """The words, quotes and escapes still in them; a space in quotes parts none."""
    words: list[str] = []
    for found in _quoted_word(escape).finditer(text):
        word = found[0][:-1] if found["cut"] or found["cut_in_quotes"] else found[0]
        if word:
            words.append(word)
    return words


@cache
def _quoted_word(escape: str) -> re.Pattern[str]:
    e = re.escape(escape)
    return re.compile(
        rf"(?:(?P<cut>{e}\Z)|{e}.|'[^']*(?:'|\Z)"
        rf'|"(?:[^"{e}]|{e}.)*(?:"|(?P<cut_in_quotes>{e}\Z)|\Z)'
        rf"|[^{SPACES}'\"{e}])+",
        re.S,
    )


def flags(text: str, start: int, end: int, escape: str) -> tuple[list[Mapped], int]:
    """The words before the arguments that start with ``--``, and where the arguments start."""
    found: list[Mapped] = []
    at = start
    while True:
        while at < end and text[at] in SPACES:
            at += 1
        if not text.startswith("--", at, end):
            return found, at
        word, at = _flag(text, at, end, escape)
        if word.text == "--":
            return found, at
        found.append(word)


def _flag(text: str, at: int, end: int, escape: str) -> tuple[Mapped, int]:
    chars: list[str] = []
    places: list[int] = []
    quote = ""
    while at < end and (quote or text[at] not in SPACES):
        char = text[at]
        if char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        else:
            if char == escape:
                at += 1
                if at == end:
                    break
            chars.append(text[at])
            places.append(at)
        at += 1
    return Mapped("".join(chars), tuple(places)), at


def json_texts(text: str) -> tuple[str, ...] | None:
    """A JSON array of texts; None where it is no JSON array. Raises NotTextsError."""
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text, parse_int=len, parse_float=len, parse_constant=_refuse)
    except RecursionError:
        raise NotTextsError from None
    except ValueError:
        return None
    texts = [_LONE.sub("\ufffd", item) for item in value if isinstance(item, str)]
    if len(texts) != len(value):
        raise NotTextsError
    return tuple(texts)


def _refuse(constant: str) -> float:
    """NaN and Infinity, which only Python takes for JSON."""
    raise ValueError(constant)


def fields(value: Mapped) -> list[Mapped]:
    """The fields of a line of CSV, quotes gone; raises FieldError."""
    if not value.text:
        raise FieldError("it is empty")
    found: list[Mapped] = []
    at = 0
    while at <= len(value.text):
        field, at = (_quoted if value.text.startswith('"', at) else _unquoted)(value, at)
        found.append(field)
    return found


def _unquoted(value: Mapped, at: int) -> tuple[Mapped, int]:
    end = value.text.find(",", at)
    end = len(value.text) if end < 0 else end
    if '"' in value.text[at:end]:
        raise FieldError('a " stands inside of a field')
    return value.part(at, end), end + 1


def _quoted(value: Mapped, at: int) -> tuple[Mapped, int]:
    kept: list[int] = []
    at += 1
    while at < len(value.text):
        if value.text[at] != '"':
            kept.append(at)
        elif value.text.startswith('""', at):
            kept.append(at)
            at += 1
        elif at + 1 == len(value.text) or value.text[at + 1] == ",":
            text = "".join(value.text[n] for n in kept)
            return Mapped(text, tuple(value.at[n] for n in kept)), at + 2
        else:
            raise FieldError('a " is followed by something else than a comma')
        at += 1
    raise FieldError('a " is not closed')
