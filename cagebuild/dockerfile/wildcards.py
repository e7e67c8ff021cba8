"""The patterns of ``${x#pattern}``: ``*`` and ``?``, matched in linear time.

Go's regular expressions, which BuildKit uses, never backtrack; Python's do. So a pattern is cut at
its stars into pieces of fixed length, and each piece is looked for once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_GROUP = re.compile(r"\$(\$|\{[0-9A-Za-z_]+\}|[0-9A-Za-z_]+)")


class InvalidPatternError(ValueError):
    """A backslash before what cannot be escaped."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Pieces with a star between each two; None stands for any one character."""

    pieces: tuple[tuple[str | None, ...], ...]

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read ``*``, ``?``, and a backslash before ``*``, ``?``, ``\\``, ``/`` or ``}``."""
        pieces: list[list[str | None]] = [[]]
        chars = iter(text)
        for char in chars:
            if char == "*":
                pieces.append([])
            elif char == "?":
                pieces[-1].append(None)
            elif char == "\\":
                escaped = next(chars, "")
                if not escaped or escaped not in "*?\\/}":
                    raise InvalidPatternError(f"'\\{escaped}' has no meaning in a pattern")
                pieces[-1].append(escaped)
            else:
                pieces[-1].append(char)
        return cls(tuple(map(tuple, pieces)))

    def without_prefix(self, value: str, *, longest: bool) -> str:
        """``${x#p}`` and ``${x##p}``."""
        first = _piece(self.pieces[0]).match(value)
        end = self._end(value, first.end(), longest=longest) if first else -1
        return value if end < 0 else value[end:]

    def without_suffix(self, value: str, *, longest: bool) -> str:
        """``${x%p}`` and ``${x%%p}``."""
        mirrored = Pattern(tuple(piece[::-1] for piece in self.pieces[::-1]))
        return mirrored.without_prefix(value[::-1], longest=longest)[::-1]

    def replaced(self, value: str, replacement: str, *, everywhere: bool) -> str:
        """``${x/p/r}`` and ``${x//p/r}``; a match is as long as can be.

        Everywhere, BuildKit takes ``$0`` in the replacement for what was found.
        """
        if len(self.pieces) == 1:
            found = list(_piece(self.pieces[0]).finditer(value))
            spans = [match.span() for match in found]
        else:
            spans = self._starred(value)
        result: list[str] = []
        at = 0
        for start, end in spans if everywhere else spans[:1]:
            new = _filled(replacement, value[start:end]) if everywhere else replacement
            result += [value[at:start], new]
            at = end
        return "".join([*result, value[at:]])

    def _starred(self, value: str) -> list[tuple[int, int]]:
        """All matches: the last piece is taken where it is last, so there is one, rarely two."""
        spans: list[tuple[int, int]] = []
        at = 0
        while first := _piece(self.pieces[0]).search(value, at):
            end = self._end(value, first.end(), longest=True)
            if end < 0:
                break
            if end > first.start():
                spans.append((first.start(), end))
            if end >= len(value) or end == first.start():
                break
            at = end
        return spans or ([(0, 0)] if not value and not any(self.pieces) else [])

    def _end(self, value: str, at: int, *, longest: bool) -> int:
        """Where a match ends whose first piece ends at ``at``; -1 if there is none."""
        for number, piece in enumerate(self.pieces[1:], 2):
            expression = _piece(piece)
            found = expression.search(value, at)
            if found is None:
                return -1
            if longest and number == len(self.pieces):
                return _last(expression, value, found.end(), len(piece))
            at = found.end()
        return at


def _piece(piece: tuple[str | None, ...]) -> re.Pattern[str]:
    return re.compile("".join("." if char is None else re.escape(char) for char in piece), re.S)


def _last(expression: re.Pattern[str], value: str, first: int, width: int) -> int:
    """The end of the last place where a piece is found, ``first`` being that of the first."""
    for start in range(len(value) - width, first - width, -1):
        if expression.match(value, start):
            return start + width
    return first


def _filled(replacement: str, found: str) -> str:
    return _GROUP.sub(
        lambda name: {"$": "$", "0": found, "{0}": found}.get(name[1], ""), replacement
    )
