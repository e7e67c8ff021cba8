"""Bounding the store: what is in it, and removing what was not used for longest.

A result was last used when it was made or was a hit, or when a run went on whose graph has it.
Files go with the last result that names them.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cagebuild.store import filelock
from cagebuild.store.records import Result, Run
from cagebuild.store.session import live_step_ids, remove_dead_sessions, remove_free_locks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from cagebuild.store.local import Store

_KEEP_LOGS = 30 * 86400.0
_KEEP_PARTIALS = 7 * 86400.0
_HEADROOM = 0.9
"""What a store that has outgrown its bound is cut down to, so that not every run has to prune."""


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


class _Contents:
    """All of a store at one moment."""

    def __init__(self, store: Store) -> None:
        self.blobs: dict[str, tuple[Path, int]] = {}
        self.results: dict[str, Result] = {}
        self.used: dict[str, float] = {}
        self.broken: list[Path] = []
        for path, found in _files(store.root / "blobs"):
            self.blobs[path.name] = (path, found.st_size)
        for path, found in _files(store.root / "results"):
            result = Result.decode(path.read_bytes(), path.name)
            if result is None:
                self.broken.append(path)
                continue
            self.results[path.name] = result
            self.used[path.name] = found.st_mtime
        self._add_runs(store)

    def _add_runs(self, store: Store) -> None:
        for path in sorted((store.root / "runs").iterdir()):
            run = Run.decode(path.read_bytes())
            for step_id in run.steps.values() if run else ():
                if step_id in self.used:
                    self.used[step_id] = max(self.used[step_id], path.stat().st_mtime)

    def names(self, step_id: str) -> set[str]:
        """The blobs that a result names and that are there."""
        named = {blob.digest.hex for blob in self.results[step_id].outputs.values()}
        return named & self.blobs.keys()

    def size(self, names: set[str]) -> int:
        return sum(self.blobs[name][1] for name in names)


def usage(store: Store) -> Usage:
    """Count what is in the store; raises StoreError."""
    with store.errors(), filelock.holding(store.gate, shared=True):
        contents = _Contents(store)
    by_kind: dict[str, set[str]] = defaultdict(set)
    counts: dict[str, int] = defaultdict(int)
    for step_id, result in contents.results.items():
        kind = str(result.facts.get("kind"))
        by_kind[kind] |= contents.names(step_id)
        counts[kind] += 1
    referenced = set().union(*by_kind.values())
    return Usage(
        results=len(contents.results),
        blobs=len(contents.blobs),
        bytes=contents.size(set(contents.blobs)),
        unreferenced=contents.size(contents.blobs.keys() - referenced),
        kinds={kind: (counts[kind], contents.size(by_kind[kind])) for kind in sorted(by_kind)},
    )


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
    with store.errors():
        remove_dead_sessions(store)
        with filelock.holding(store.gate):
            live, busy = live_step_ids(store)
            contents = _Contents(store)
            leaving = _choose(contents, live, max_age, max_bytes)
            kept = [contents.names(s) for s in contents.results.keys() - leaving]
            # A file without a result may be about to get one from a run that goes on.
            named = [contents.names(step_id) for step_id in leaving]
            candidates = set().union(*named) if busy else set(contents.blobs)
            blobs = candidates.difference(*kept)
            pruned = Pruned(
                results=len(leaving) + len(contents.broken),
                blobs=len(blobs),
                bytes=contents.size(blobs),
            )
            if not dry_run:
                # Results first: killed in between, what is left are files that nothing names.
                for path in [*contents.broken, *(store.result_path(s) for s in sorted(leaving))]:
                    path.unlink(missing_ok=True)
                for name in sorted(blobs):
                    contents.blobs[name][0].unlink(missing_ok=True)
                remove_free_locks(store)
                _remove_older(store.root / "logs", _KEEP_LOGS)
                _remove_older(store.root / "partials", _KEEP_PARTIALS)
    return pruned


def bound(store: Store) -> None:
    """Prune a store that has outgrown its ``max_bytes``; raises StoreError."""
    if store.max_bytes is None:
        return
    with store.errors():
        total = sum(found.st_size for _, found in _files(store.root / "blobs"))
    if total > store.max_bytes:
        prune(store, max_bytes=int(store.max_bytes * _HEADROOM))


def _choose(
    contents: _Contents, live: set[str], max_age: float | None, max_bytes: int | None
) -> set[str]:
    """The ids of the results to remove: too old, then the oldest while there is too much."""
    oldest_first = sorted(
        (contents.used[step_id], step_id) for step_id in contents.results.keys() - live
    )
    limit = time.time() - max_age if max_age is not None else None
    users: dict[str, int] = defaultdict(int)
    for step_id in contents.results:
        for name in contents.names(step_id):
            users[name] += 1
    total = contents.size(set(users))
    leaving: set[str] = set()
    for used, step_id in oldest_first:
        too_old = limit is not None and used < limit
        too_much = max_bytes is not None and total > max_bytes
        if not too_old and not too_much:
            break
        leaving.add(step_id)
        for name in contents.names(step_id):
            users[name] -= 1
            if not users[name]:
                total -= contents.blobs[name][1]
    return leaving


def _files(top: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The regular files two levels below ``top``, but for those that go away meanwhile."""
    for folder in sorted(top.iterdir()):
        for path in sorted(folder.iterdir()):
            with suppress(FileNotFoundError):
                yield path, path.stat(follow_symlinks=False)


def _remove_older(folder: Path, seconds: float) -> None:
    oldest = time.time() - seconds
    for path in sorted(folder.iterdir()):
        with suppress(OSError):
            if path.stat(follow_symlinks=False).st_mtime < oldest:
                path.unlink()
