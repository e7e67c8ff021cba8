"""Why a step has no result: what changed since the last run, followed back to where it began."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Facts = Mapping[str, object]
    Find = Callable[[str], Facts | None]

_SHOWN = 3
_WIDTH = 60
_MISSING = object()


def explain_miss(previous: Facts | None, facts: Facts, find: Find = lambda _: None) -> str:
    """What is in ``facts`` of a step that was not in ``previous``, in words.

    Where an input is made by a step whose id is another one now, the two steps' facts are compared
    in turn, so that the file or setting which began it is named. ``find`` gives the facts behind a
    step id, or None where they are no longer known.
    """
    if previous is None:
        return "not built before"
    causes: dict[str, None] = {}
    for trail, text in _differences(previous, facts, find, (), set()):
        causes.setdefault(f"{' ← '.join(trail)}: {text}" if trail else text)
    if not causes:
        return "nothing changed"
    shown = list(causes)[:_SHOWN]
    more = len(causes) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


_Cause = tuple[tuple[str, ...], str]
"""Names of inputs from the step to the one that changed, and what changed there."""


def _differences(
    old: Facts, new: Facts, find: Find, trail: tuple[str, ...], seen: set[tuple[str, str]]
) -> Iterator[_Cause]:
    if old.get("kind") != new.get("kind"):
        yield trail, f"kind {_short(old.get('kind'))} → {_short(new.get('kind'))}"
        return
    if old.get("code") != new.get("code"):
        yield (), "cagebuild's own code changed"
    for name in ("platform", "outputs"):
        if old.get(name) != new.get(name):
            yield trail, f"{name} {_short(old.get(name))} → {_short(new.get(name))}"
    for text in _values("", old.get("params"), new.get("params")):
        yield trail, text
    yield from _inputs(old, new, find, trail, seen)


def _inputs(
    old: Facts, new: Facts, find: Find, trail: tuple[str, ...], seen: set[tuple[str, str]]
) -> Iterator[_Cause]:
    before, after = _mapping(old.get("inputs")), _mapping(new.get("inputs"))
    for name in sorted(before.keys() | after.keys()):
        was, now = str(before.get(name, "")), str(after.get(name, ""))
        if was == now:
            continue
        if not was or not now:
            yield trail, f"input {name} is {'new' if now else 'gone'}"
            continue
        ids = _step_id(was), _step_id(now)
        if ids in seen:
            continue
        known = all(ids) and ids[0] != ids[1]
        earlier, later = (find(ids[0]), find(ids[1])) if known else (None, None)
        if earlier is None or later is None:
            yield trail, f"input {name} changed"
            continue
        seen.add(ids)
        yield from _differences(earlier, later, find, (*trail, f"input {name}"), seen)


def _step_id(given: str) -> str:
    """The id in ``step:<id>/<output>``; empty for a file."""
    return given.removeprefix("step:").partition("/")[0] if given.startswith("step:") else ""


def _values(place: str, old: object, new: object) -> Iterator[str]:
    """``env.PORT 80 → 81`` for each setting of two parameters that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys(), key=str):
            inner = f"{place}.{key}" if place else str(key)
            yield from _values(inner, old.get(key, _MISSING), new.get(key, _MISSING))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (was, now) in enumerate(zip(old, new, strict=True)):
            yield from _values(f"{place}[{index}]", was, now)
    elif old is _MISSING:
        yield f"{place} is new: {_short(new)}"
    elif new is _MISSING:
        yield f"{place} is gone: was {_short(old)}"
    elif json.dumps(old, sort_keys=True) != json.dumps(new, sort_keys=True):
        yield f"{place} {_short(old)} → {_short(new)}"


def _mapping(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
