"""Path patterns: ``*`` and ``?`` stay inside one component, ``**`` is any number of folders."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class PatternError(ValueError):
    """Text that is no pattern."""


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """The expression that matches the whole of what ``pattern`` means. Raises PatternError.

    Patterns are relative, with ``/`` between components. ``[abc]``, ``[a-z]`` and ``[!a]`` are one
    character. A component that is ``**`` stands for any number of components, none included.
    """
    if not pattern or "\0" in pattern:
        raise PatternError("is empty or has a NUL")
    if pattern.startswith("/"):
        raise PatternError("starts with '/', but patterns are relative")
    components = pattern.removesuffix("/").split("/")
    if any(part in {"", ".", ".."} for part in components):
        raise PatternError("has an empty, '.' or '..' component")
    text = ""
    for number, part in enumerate(components):
        last = number == len(components) - 1
        if part == "**":
            text += ".+" if last else "(?:[^/]+/)*"
        elif "**" in part:
            raise PatternError("has '**' beside other characters; it stands for whole components")
        else:
            text += _component(part) + ("" if last else "/")
    return re.compile(text, re.DOTALL)


def _component(part: str) -> str:
    text = ""
    at = 0
    while at < len(part):
        character = part[at]
        at += 1
        if character == "*":
            # Possessive-like: a run of stars is one, so that matching stays linear in practice.
            text += "" if text.endswith("[^/]*") else "[^/]*"
        elif character == "?":
            text += "[^/]"
        elif character == "[":
            end = part.find("]", at + 2 if part[at : at + 1] == "!" else at + 1)
            if end < 0:
                raise PatternError("has a '[' without ']'")
            text += _set(part[at:end])
            at = end + 1
        else:
            text += re.escape(character)
    return text


def _set(inside: str) -> str:
    negated = inside.startswith("!")
    inside = inside.removeprefix("!")
    parts = re.findall(r".-.|.", inside, re.DOTALL)
    for part in parts:
        if len(part) == 3 and part[0] > part[2]:
            raise PatternError(f"has the empty range '{part}'")
    members = "".join(
        f"{re.escape(p[0])}-{re.escape(p[2])}" if len(p) == 3 else re.escape(p) for p in parts
    )
    return f"(?!/)[{'^' if negated else ''}{members}]"


def matcher(patterns: Iterable[str], *, below: bool = True) -> Callable[[str], bool]:
    """Whether any of the patterns matches a relative path or, if ``below``, a folder it lies in."""
    expressions = [compiled(pattern) for pattern in patterns]

    def matches(path: str) -> bool:
        names = [path]
        if below and expressions:
            names += [path[:at] for at, character in enumerate(path) if character == "/"]
        return any(e.fullmatch(name) for e in expressions for name in names)

    return matches
