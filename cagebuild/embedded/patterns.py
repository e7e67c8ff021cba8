"""The patterns of COPY and ADD: sources (Go's filepath.Match), ``--parents`` and ``--exclude``.

Source of the rules: Go path/filepath (Match); moby/patternmatcher. Names are text with surrogate
escapes, so that a byte that is no UTF-8 counts as one character, as it does in Go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cagebuild.dockerfile.globs import Glob, InvalidGlobError
from cagebuild.embedded.refused import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

_STARS = re.compile(r"(\\.|\[\^?(?:\\.|[^]\\])+\])|\*+", re.DOTALL)
"""Runs of stars; escapes and brackets are found so that none is seen in them."""

Matched = tuple[bool, ...]
"""Which of several patterns matched a directory."""


def has_wildcards(text: str) -> bool:
    """Whether a name is a pattern. What a backslash escapes doesn't count."""
    return re.search(r"[*?[]", re.sub(r"\\.?", "", text, flags=re.DOTALL)) is not None


def glob(pattern: str) -> Glob:
    """A pattern for a whole path, where ``**`` is no more than ``*``; raises Refused."""
    return _glob(_STARS.sub(lambda found: found[1] or "*", pattern), pattern)


def _glob(text: str, written: str) -> Glob:
    try:
        return Glob.parse(text)
    except InvalidGlobError as error:
        hint = "write '[[]' for a '[' that is a name's"
        raise Refused(f"{written!r} is not a pattern: {error}", hint=hint) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pattern:
    exception: bool
    glob: Glob


class Patterns:
    """Patterns of which the last that matches decides; ``!`` before one takes names out again."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Raises Refused."""
        self._patterns = [_read(text) for text in map(str.strip, patterns) if text]
        self.exceptions = any(pattern.exception for pattern in self._patterns)

    def match(self, path: str, parent: Matched) -> tuple[bool, Matched]:
        """Whether a path matches, or a directory that it is in.

        ``parent`` is what this said of the directory, empty at the top; so is the second value.
        """
        matched = False
        each = []
        for number, pattern in enumerate(self._patterns):
            match = bool(parent) and parent[number]
            if not match and pattern.exception == matched:
                match = pattern.glob.matches(path)
            each.append(match)
            if match:
                matched = not pattern.exception
        return matched, tuple(each)


def _read(text: str) -> _Pattern:
    text = _cleaned(text)
    exception = text.startswith("!")
    text = text[exception:]
    if not text:
        raise Refused("'!' is not a pattern", hint="name what is to be taken after all behind it")
    return _Pattern(exception=exception, glob=_glob(text, text))


def _cleaned(path: str) -> str:
    """Go's filepath.Clean."""
    rooted = path.startswith("/")
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in ("", ".") and not (part == ".." and rooted):
            parts.append(part)
    return "/" * rooted + "/".join(parts) or "."
