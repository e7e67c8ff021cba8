"""The arguments of each instruction, and what BuildKit refuses.

Source of the rules: moby/buildkit, frontend/dockerfile/parser/line_parsers.go and
frontend/dockerfile/instructions/parse.go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cagebuild.dockerfile import heredocs, splitting
from cagebuild.dockerfile.expand import ExpandError

if TYPE_CHECKING:
    from collections.abc import Callable

    Say = Callable[[str, str], None]

KEYWORDS = frozenset(
    [
        "ADD",
        "ARG",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "HEALTHCHECK",
        "LABEL",
        "MAINTAINER",
        "ONBUILD",
        "RUN",
        "SHELL",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    ]
)
_COMMANDS = frozenset({"RUN", "CMD", "ENTRYPOINT", "SHELL"})
_LISTS = frozenset({"COPY", "ADD", "VOLUME"})
_ONE = frozenset({"USER", "WORKDIR", "STOPSIGNAL", "MAINTAINER"})
_FIRST_WORD = re.compile(r"([^\t\n\v\f\r ]+)[\t\n\v\f\r ]*")
_STAGE_NAME = re.compile(r"[a-z][a-z0-9._-]*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """What stands after keyword and flags."""

    exec_form: tuple[str, ...] | None = None
    words: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str | None], ...] = ()


def read(keyword: str, text: str, escape: str, say: Say) -> Arguments:
    """The arguments of any keyword but ONBUILD; what is wrong with them is said."""
    if keyword in {"ENV", "LABEL"}:
        return Arguments(pairs=_pairs(keyword, text, escape, say))
    if keyword == "ARG":
        return Arguments(pairs=_names(text, escape, say))
    if keyword in _ONE:
        if not text:
            say(f"{keyword} needs an argument", "")
        return Arguments(words=(text,))
    if keyword == "HEALTHCHECK":
        return Arguments(words=_health(text, say))
    found = Arguments(exec_form=_array(text, say)) if keyword in _COMMANDS | _LISTS else Arguments()
    if keyword in _COMMANDS:
        _check_shell(keyword, found, say)
        return found
    words = found.exec_form
    if words is None:
        words = tuple(text[start:end] for start, end in splitting.plain_words(text, 0, len(text)))
    _check_words(keyword, words, say)
    return Arguments(exec_form=found.exec_form, words=words)


def _array(text: str, say: Say) -> tuple[str, ...] | None:
    try:
        return splitting.json_texts(text)
    except splitting.NotTextsError:
        say("only texts may stand in a JSON array", 'put each word in double quotes: ["a", "b"]')
        return None


def _check_shell(keyword: str, found: Arguments, say: Say) -> None:
    if keyword == "SHELL" and not found.exec_form:
        say("SHELL needs a JSON array", 'write SHELL ["/bin/bash", "-c"]')


def _check_words(keyword: str, words: tuple[str, ...], say: Say) -> None:
    if keyword == "FROM":
        _check_from(words, say)
    elif keyword in {"COPY", "ADD"}:
        _check_files(keyword, words, say)
    elif not words:
        say(f"{keyword} needs an argument", "")
    elif keyword == "VOLUME" and not all(word.strip() for word in words):
        say("a volume needs a name", "")


def _check_from(words: tuple[str, ...], say: Say) -> None:
    if len(words) == 3 and words[1].lower() == "as":
        if not _STAGE_NAME.fullmatch(words[2].lower()):
            say(
                f"'{words[2][:100]}' cannot be the name of a stage",
                "begin with a letter; then letters, digits and . _ -",
            )
    elif len(words) != 1:
        say("FROM needs an image, or an image and AS name", "write FROM image AS name")


def _check_files(keyword: str, words: tuple[str, ...], say: Say) -> None:
    if len(words) < 2:
        say(f"{keyword} needs a source and a destination", "")
        return
    try:
        destination = heredocs.marker(words[-1])
    except ExpandError:
        return
    if destination:
        say(f"a heredoc cannot be the destination of {keyword}", "name the file behind it")


def _health(text: str, say: Say) -> tuple[str, ...]:
    kind, _, rest = _first(text)
    if kind.upper() == "NONE":
        if rest:
            say("HEALTHCHECK NONE takes no arguments", "")
        return ("NONE",)
    if kind.upper() == "CMD":
        if not rest or rest == "[]":
            say("HEALTHCHECK CMD needs a command", "")
        return ("CMD",)
    say(
        f"HEALTHCHECK does not know '{kind[:40]}'" if kind else "HEALTHCHECK needs an argument",
        "write HEALTHCHECK CMD … or HEALTHCHECK NONE",
    )
    return ()


def _first(text: str) -> tuple[str, int, str]:
    """The first word, where the rest begins, the rest."""
    found = _FIRST_WORD.match(text)
    return (found[1], found.end(), text[found.end() :]) if found else ("", 0, text)


def health_command(text: str) -> int:
    """Where the command of ``CMD command`` begins."""
    return _first(text)[1]


def _pairs(keyword: str, text: str, escape: str, say: Say) -> tuple[tuple[str, str | None], ...]:
    words = splitting.quoted_words(text, escape)
    if not words:
        say(f"{keyword} needs an argument", f"write {keyword} NAME=value")
        return ()
    if "=" not in words[0]:
        spans = splitting.plain_words(text, 0, len(text))
        if len(spans) < 2:
            say(f"{keyword} needs a name and a value", f"write {keyword} {words[0][:40]}=value")
            return ()
        return ((text[: spans[0][1]], text[spans[1][0] :]),)
    found: list[tuple[str, str | None]] = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            say(
                f"{keyword} has '{word[:40]}' without a value",
                f"write {word[:40]}=value, or put a value with spaces in quotes",
            )
        elif not name:
            say(f"{keyword} has a value without a name: '{word[:40]}'", "")
        else:
            found.append((name, value))
    return tuple(found)


def _names(text: str, escape: str, say: Say) -> tuple[tuple[str, str | None], ...]:
    found: list[tuple[str, str | None]] = []
    for word in splitting.quoted_words(text, escape):
        name, equals, value = word.partition("=")
        if not name:
            say(f"ARG has a value without a name: '{word[:40]}'", "")
        found.append((name, value if equals else None))
    if not found:
        say("ARG needs a name", "write ARG NAME or ARG NAME=default")
    return tuple(found)
