"""Which heredocs an instruction announces: ``<<EOF``, ``<<-EOF``, ``<<"EOF"``.

Source of the rules: moby/buildkit, frontend/dockerfile/parser/parser.go. Whatever the Dockerfile's
escape character is, it is a backslash here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cagebuild.dockerfile.expand import ExpandError, Lexer

_MARKER = re.compile(r"[0-9]*<<(-?)[\t\n\f\r ]*([^<]+)", re.S)
_ESCAPE = "\\"


@dataclass(frozen=True, slots=True)
class Marker:
    """What ``<<-EOF`` says."""

    name: str
    tabs: bool
    """Whether tabs at the start of its lines are dropped."""
    expand: bool


def markers(text: str) -> list[Marker]:
    """Those of a whole instruction, in order; raises ExpandError for a name that is not closed."""
    if "<<" not in text:
        return []
    try:
        words = Lexer(text, _ESCAPE, {}, raw_quotes=True, raw_escapes=True, keep_unset=True).run()[
            1
        ]
    except ExpandError:
        return []
    return [found for word in words if (found := marker(word))]


def marker(word: str) -> Marker | None:
    """One word, where it is a heredoc; raises ExpandError."""
    found = _MARKER.fullmatch(word)
    if found is None:
        return None
    names = Lexer(found[2], _ESCAPE, {}, keep_unset=True).run()[1]
    if len(names) != 1:
        return None
    raw = Lexer(found[2], _ESCAPE, {}, raw_quotes=True, keep_unset=True).run()[1]
    return Marker(names[0], bool(found[1]), _quotes(names[0]) == _quotes("".join(raw)))


def _quotes(text: str) -> int:
    return text.count("'") + text.count('"')
