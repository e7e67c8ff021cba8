"""The patterns of COPY and ADD: sources (Go's filepath.Match), ``--parents`` and ``--exclude``.

Source of the rules: Go path/filepath (Match); moby/patternmatcher. Names are text with surrogate
escapes, so that a byte that is no UTF-8 counts as one character, as it does in Go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from cagebuild.embedded.refused import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Matched = tuple[bool, ...]
"""Which of several patterns matched a directory."""


def has_wildcards(text: str) -> bool:
    """Whether a name is a pattern. What a backslash escapes doesn't count."""
    return re.search(r"[*?[]", re.sub(r"\\.?", "", text, flags=re.DOTALL)) is not None


@cache
def glob(pattern: str) -> re.Pattern[str]:
    """A pattern for a whole path, where ``*`` and ``?`` stop at slashes; raises Refused."""
    out = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            text, at = _class(pattern, at)
            out.append(text)
        elif char == "\\":
            if at == len(pattern):
                raise _bad(pattern)
            out.append(re.escape(pattern[at]))
            at += 1
        else:
            out.append(re.escape(char))
    return re.compile("".join(out), re.DOTALL)


def _class(pattern: str, at: int) -> tuple[str, int]:
    """The regular expression of ``[…]`` whose inside starts at ``at``, and where it ends."""
    negated = pattern.startswith("^", at)
    at += negated
    ranges: list[str] = []
    while not ranges or not pattern.startswith("]", at):
        low, at = _class_char(pattern, at)
        high = low
        if pattern.startswith("-", at):
            high, at = _class_char(pattern, at + 1)
        # A range that is the wrong way round matches nothing.
        ranges += [f"{re.escape(low)}-{re.escape(high)}"] if low <= high else [""]
    inside = "".join(ranges)
    if not inside:
        return ("(?s:.)" if negated else "(?!)"), at + 1
    return f"[{'^' if negated else ''}{inside}]", at + 1


def _class_char(pattern: str, at: int) -> tuple[str, int]:
    if at < len(pattern) and pattern[at] == "\\":
        at += 1
    elif pattern[at : at + 1] in ("-", "]"):
        raise _bad(pattern)
    if at + 1 >= len(pattern):
        raise _bad(pattern)
    return pattern[at], at + 1


def _bad(pattern: str) -> Refused:
    return Refused(f"{pattern!r} is not a pattern", hint="write '[[]' for a '[' that is a name's")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pattern:
    exception: bool
    match: Callable[[str], object]


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
                match = bool(pattern.match(path))
            each.append(match)
            if match:
                matched = not pattern.exception
        return matched, tuple(each)


def _read(text: str) -> _Pattern:
    text = _cleaned(text)
    exception = text.startswith("!")
    text = text[exception:]
    if not text:
        raise _bad("!")
    glob(text)  # for what it refuses
    return _Pattern(exception=exception, match=_deep_glob(text).fullmatch)


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


def _deep_glob(pattern: str) -> re.Pattern[str]:
    """A pattern where ``**`` is any number of directories, and any name at the end."""
    out: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*" and pattern.startswith("*", at):
            at += 1
            at += pattern.startswith("/", at)
            first, last = at <= 3 and not out, at == len(pattern)
            # Without a slash between, ``**`` at the start is any beginning of a name, too.
            any_start = first and "/" not in pattern[:at] and _plain(pattern[at:])
            out.append(".*" if last or any_start else "(.*/)?")
        elif char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            text, at = _class(pattern, at)
            out.append(text)
        elif char == "\\" and at < len(pattern):
            out.append(re.escape(pattern[at]))
            at += 1
        else:
            out.append(re.escape(char))
    return re.compile("".join(out))


def _plain(text: str) -> bool:
    return not re.search(r"[*?[\]\\]", text)
