"""The checksum of the effective configuration: what cage.lock was made from.

It covers all that can affect the result and nothing of the machine: paths are relative to the
cage's folder, or to the workspace's root as ``//…``.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cagebuild.config.paths import portable
from cagebuild.digest import Digest
from cagebuild.step import canonical

if TYPE_CHECKING:
    from cagebuild.config.paths import Places

VERSION = 2
"""Raised when the same settings come to mean something else."""

_LEFT_OUT = {
    # Where the cage lies, and the checksum itself.
    "Cage": {"address", "file", "folder", "checksum"},
    # A secret that any machine may have elsewhere; the certificate says which one it is.
    "Signing": {"key"},
    # Which engine builds, and what it may spare itself, changes no result.
    "Build": {"engine", "cache_from", "cache_to", "kaniko"},
    # Where a secret lies on this machine.
    "BuildSecret": {"env", "file"},
    # The installer is known by its digest, wherever it comes from.
    "Runtime": {"url"},
}


def of(value: Any, places: Places) -> Digest:
    """The checksum of a model value: the same on every machine and in every checkout."""
    return Digest.of(canonical({"version": VERSION, "settings": facts(value, places)}))


def facts(value: object, places: Places) -> Any:
    """A model value as JSON. A dataclass becomes an object that also names its kind."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, tuple):
        return [facts(item, places) for item in value]
    if isinstance(value, Path):
        return portable(value, places)
    if isinstance(value, PurePosixPath | Digest):
        return str(value)
    return {
        "kind": type(value).__name__,
        **{name: facts(getattr(value, name), places) for name in _names(type(value))},
    }


_known_names: dict[str, tuple[str, ...]] = {}


def _names(kind: type[Any]) -> tuple[str, ...]:
    found = _known_names.get(kind.__name__)
    if found is None:
        left_out = _LEFT_OUT.get(kind.__name__, set())
        found = tuple(field.name for field in fields(kind) if field.name not in left_out)
        _known_names[kind.__name__] = found
    return found
