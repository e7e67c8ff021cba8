"""Bounding the store: what is in it, and removing what was not used for longest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cagebuild.store.local import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What is in a store."""

    results: int
    blobs: int
    bytes: int
    """Size of all blobs."""
    unreferenced: int
    """Size of the blobs that no result names: left by runs that were killed."""
    kinds: Mapping[str, tuple[int, int]]
    """For each kind of step: its results, and the bytes of their outputs, each blob once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What was removed, or would be."""

    results: int
    blobs: int
    bytes: int


def usage(store: Store) -> Usage:
    """Count what is in the store; raises StoreError."""
    raise NotImplementedError


def prune(
    store: Store,
    *,
    max_age: float | None = None,
    max_bytes: int | None = None,
    dry_run: bool = False,
) -> Pruned:
    """Remove what was not used for ``max_age`` seconds, then the oldest down to ``max_bytes``.

    Nothing that a running build uses is removed. Raises StoreError.
    """
    raise NotImplementedError
