"""One pattern of a .dockerignore, matched in time linear in the path.

Source of the rules: moby/patternmatcher. Go's regular expressions, to which it turns a pattern,
never backtrack; Python's do. So the states in which a match can be are the bits of a number, and
each character of a path moves all of them at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_SPECIAL = frozenset("*?[\\")
_AFTER_SPECIAL = re.compile(r"[*?\[\]\\]")


class InvalidGlobError(ValueError):
    """A pattern with brackets that are not closed, or the like."""


@dataclass(slots=True)
class Glob:
    """``*`` and ``?`` stop at a slash, ``**`` does not."""

    _accepts: list[Callable[[str], bool]] = field(default_factory=list)
    """For each state, the characters that lead to the next one."""
    _stays: list[Callable[[str], bool]] = field(default_factory=list)
    """For each state, the characters that leave it as it is."""
    _free: int = 0
    """States that lead to the next one with nothing."""
    _free_two: int = 0
    """States that lead to the one after the next with nothing."""
    _suffix: str = ""
    """What a path has to end with: a quick no for most."""
    _moves: dict[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Glob:
        """Read a cleaned pattern; raises InvalidGlobError."""
        glob = cls()
        at = 0
        while at < len(text):
            at = glob._one(text, at)
        tail = _AFTER_SPECIAL.split(text)[-1]
        after_any = text.removesuffix(tail).endswith("**")
        glob._suffix = tail.removeprefix("/") if after_any else tail
        return glob

    def matches(self, path: str) -> bool:
        """Whether the whole of a path matches."""
        if not path.endswith(self._suffix):
            return False
        states = self._spread(1)
        for char in path:
            move = self._moves.get(char) or self._learn(char)
            states = self._spread(((states & move[0]) << 1) | (states & move[1]))
            if not states:
                return False
        return bool(states >> len(self._accepts) & 1)

    def _spread(self, states: int) -> int:
        while True:
            more = states | (states & self._free) << 1 | (states & self._free_two) << 2
            if more == states:
                return states
            states = more

    def _learn(self, char: str) -> tuple[int, int]:
        move = (
            sum(1 << n for n, accepts in enumerate(self._accepts) if accepts(char)),
            sum(1 << n for n, stays in enumerate(self._stays) if stays(char)),
        )
        self._moves[char] = move
        return move

    def _add(self, accepts: Callable[[str], bool], stays: Callable[[str], bool]) -> None:
        self._accepts.append(accepts)
        self._stays.append(stays)

    def _one(self, text: str, at: int) -> int:
        """Add what stands at a place of the pattern; the place after it."""
        char = text[at]
        if text.startswith("**", at):
            folders = text.startswith("/", at + 2)
            # moby compares only the ends where a pattern starts with ** and goes on plainly.
            ends = at == 0 and not folders and not _AFTER_SPECIAL.search(text, 2)
            at += 2 + folders
            self._any_depth(anything=ends or at == len(text))
            return at
        if char == "*":
            self._free |= 1 << len(self._accepts)
            self._add(_nothing, _no_slash)
        elif char == "?":
            self._add(_no_slash, _nothing)
        elif char == "[":
            accepts, at = _class(text, at + 1)
            self._add(accepts, _nothing)
            return at
        elif char == "\\":
            self._add(_escaped(text, at).__eq__, _nothing)
            return at + 2
        else:
            self._add(char.__eq__, _nothing)
        return at + 1

    def _any_depth(self, *, anything: bool) -> None:
        """``**``: anything where it is last; else folders, any number of them, or none."""
        state = 1 << len(self._accepts)
        self._free |= state
        if anything:
            self._add(_nothing, _anything)
        else:
            self._free_two |= state
            self._add(_nothing, _nothing)
            self._add("/".__eq__, _anything)


def _nothing(char: str) -> bool:  # noqa: ARG001
    return False


def _anything(char: str) -> bool:  # noqa: ARG001
    return True


def _no_slash(char: str) -> bool:
    return char != "/"


def _escaped(text: str, at: int) -> str:
    if at + 1 == len(text):
        raise InvalidGlobError("it ends with a backslash")
    return text[at + 1]


def _class(text: str, at: int) -> tuple[Callable[[str], bool], int]:
    """``[a-z]`` or ``[^a-z]`` from behind the bracket, in the grammar of Go's path.Match."""
    negated = text.startswith("^", at)
    at += negated
    ranges: list[tuple[str, str]] = []
    while not (ranges and text.startswith("]", at)):
        low, at = _class_char(text, at)
        high = low
        if text.startswith("-", at):
            high, at = _class_char(text, at + 1)
        ranges.append((low, high))
    wanted = not negated
    return lambda char: any(low <= char <= high for low, high in ranges) is wanted, at + 1


def _class_char(text: str, at: int) -> tuple[str, int]:
    if at >= len(text) or text[at] in "-]":
        raise InvalidGlobError("its brackets are not closed, or hold a - or ] without a backslash")
    if text[at] == "\\":
        return _escaped(text, at), at + 2
    return text[at], at + 1


def is_plain(text: str) -> bool:
    """Whether a pattern has no character with a meaning of its own."""
    return not _SPECIAL & set(text)
