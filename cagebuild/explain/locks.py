"""Comparing two locks: which pins moved, and which PCRs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cagebuild.explain.model import PinChange

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cagebuild.lock import Lock

_SUBJECTS = {
    "config": "configuration",
    "epoch inputs": "the cage's own files",
    "base from": "settings of the base",
    "boot from": "settings of the boot files",
}
"""Keys of the lock in the words of a person; any other is named as it is."""

_NAMES = ("name", "suite", "path", "platform")
"""By which key the tables of a list are told apart, the first that they have."""

_IMPLIED = frozenset({"filename", "size"})
"""What says nothing that the digest beside it doesn't say."""


def pins(expected: Lock, got: Lock) -> tuple[PinChange, ...]:
    """Every value that differs, the expected PCRs apart; a list of named things by their names."""
    before, after = _leaves_of(expected), _leaves_of(got)
    return tuple(
        _change(subject, before.get(subject), after.get(subject))
        for subject in [*before, *(subject for subject in after if subject not in before)]
        if before.get(subject) != after.get(subject)
    )


def pcrs(expected: Lock, got: Lock) -> tuple[PinChange, ...]:
    """Every expected PCR that differs."""
    before, after = expected.expected or {}, got.expected or {}
    return tuple(
        PinChange(subject=name, got=after.get(name), expected=before.get(name))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    )


def _leaves_of(lock: Lock) -> dict[str, Any]:
    data = lock.to_json()
    del data["expected"]
    return dict(_leaves((), data))


def _leaves(path: tuple[str, ...], value: Any) -> Iterator[tuple[str, Any]]:
    """Subjects and values: plain values, and the tables of lists, which are compared whole."""
    if isinstance(value, dict):
        for key in sorted(value):
            yield from _leaves((*path, key), value[key])
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield _subject((*path, _name(item, place))), item
    elif value is not None:
        yield _subject(path), value


def _name(item: Any, place: int) -> str:
    if not isinstance(item, dict):
        return str(place + 1)
    return next((str(item[key]) for key in _NAMES if key in item), str(place + 1))


def _subject(path: tuple[str, ...]) -> str:
    words = " ".join(word for word in path if word != "pins")
    return _SUBJECTS.get(words, words.replace("base packages", "package"))


def _change(subject: str, expected: Any, got: Any) -> PinChange:
    before, after = _text(expected, _IMPLIED), _text(got, _IMPLIED)
    if before == after:
        before, after = _text(expected, frozenset()), _text(got, frozenset())
    return PinChange(subject=subject, got=after, expected=before)


def _text(value: Any, without: frozenset[str]) -> str | None:
    """A value in one line; a table as its version, then its other values with their keys."""
    if not isinstance(value, dict):
        return None if value is None else str(value)
    return " ".join(_words(value, without))


def _words(table: Mapping[str, Any], without: frozenset[str]) -> Iterator[str]:
    name = next((key for key in _NAMES if key in table), "")
    if "version" in table:
        yield str(table["version"])
    for key in sorted(table.keys() - without - {name, "version"}):
        yield f"{key} {table[key]}"
