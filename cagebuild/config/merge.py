"""What a cage inherits from its workspace."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from cagebuild.config.paths import PathError, Places, locate, named, portable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_KEY_BY_KEY = ("build", "egress", "enclave", "logs", "runtime")
_WHOLE = ("epoch", "signing")
"""Sections whose keys mean something only together, as a certificate and its key."""


def merge(document: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The cage's own document over the workspace's defaults.

    Tables are merged key by key and the cage's own key wins. Lists and ``enclave.boot`` are values:
    one side's is taken whole, and so are the sections ``epoch`` and ``signing``. ``base.debian`` is
    inherited where the cage's base is Debian.
    """
    merged = {key: value for key, value in document.items() if key != "workspace"}
    for section in _WHOLE:
        if section in defaults:
            merged.setdefault(section, defaults[section])
    for section in _KEY_BY_KEY:
        if section in defaults:
            merged[section] = _over(merged.get(section), defaults[section])
    debian = (merged.get("base") or {}).get("debian")
    inherited = defaults.get("base", {}).get("debian")
    if debian is not None and inherited is not None:
        merged["base"] = {**merged["base"], "debian": _over(debian, inherited)}
    return merged


def _over(own: Any, inherited: Any) -> Any:
    if own is None:
        return inherited
    if isinstance(own, dict) and isinstance(inherited, dict):
        return {**inherited, **own}
    return own


def from_root(defaults: dict[str, Any], root: Path) -> dict[str, Any]:
    """Defaults as any cage can take them: relative paths start with ``//``, a key's is absolute.

    Malformed paths stay as they are; they are reported as mistakes.
    """
    changed: dict[str, Any] = {name: _copy(section) for name, section in defaults.items()}
    places = Places(root, root)
    for at, text, scope in list(named(defaults)):
        try:
            path = locate(text, scope, places)
        except PathError:
            continue
        table = changed
        for key in at[:-1]:
            table = table[str(key)]
        table[str(at[-1])] = (
            str(path) if scope == "anywhere" else "//" + portable(path, places).removeprefix("//")
        )
    return changed


def _copy(value: Any) -> Any:
    return {k: _copy(v) for k, v in value.items()} if isinstance(value, dict) else value


MAX_DEPTH = 32


def plain(value: Any, depth: int = 0) -> Any:
    """A document with JSON types only: dates and times become text. Raises RecursionError."""
    if depth > MAX_DEPTH:
        raise RecursionError
    if isinstance(value, dict):
        return {key: plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    return value
