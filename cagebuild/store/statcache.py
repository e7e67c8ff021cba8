"""Digests of source files, remembered by what stat says of them.

A file whose path, size, times, inode and device are those of a moment when it was read has the same
content still, with one exception: a file that was changed so shortly before it was read that a
change after it may carry the same time. Such a file is not remembered (git calls it racily clean).
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, cast

from cagebuild.digest import Digest
from cagebuild.errors import StoreError
from cagebuild.files import write_atomically
from cagebuild.store import filelock
from cagebuild.store.records import seal, unseal

if TYPE_CHECKING:
    from pathlib import Path

_TAG = "digests 1"
_MARGIN_NS = 2_000_000_000
"""File systems keep times in steps of up to two seconds."""
_MAX_ENTRIES = 500_000

_Entry = tuple[int, int, int, int, int, str]
"""Size, mtime and ctime in nanoseconds, inode, device, SHA-256."""


class StatCache:
    """SHA-256 of files, remembered in one file between runs. Safe for use from several threads."""

    def __init__(self, path: Path) -> None:
        """Load what is remembered; a missing or damaged file is an empty cache."""
        self.path = path
        self._known = _load(path)
        self._learnt: dict[str, _Entry] = {}

    def digest(self, path: Path) -> Digest:
        """The digest of the file's content now; raises OSError."""
        name = os.fspath(path)
        found = os.stat(name)  # noqa: PTH116 -- called for every file of every cage
        identity = (
            found.st_size,
            found.st_mtime_ns,
            found.st_ctime_ns,
            found.st_ino,
            found.st_dev,
        )
        known = self._known.get(name)
        if known is not None and known[:5] == identity:
            return Digest("sha256", known[5])
        started = time.time_ns()
        digest = Digest.of_file(path)
        if max(found.st_mtime_ns, found.st_ctime_ns) + _MARGIN_NS < started:
            self._known[name] = self._learnt[name] = (*identity, digest.hex)
        return digest

    def save(self) -> None:
        """Write what was learnt, merged with what others wrote meanwhile; raises StoreError."""
        if not self._learnt:
            return
        try:
            with filelock.holding(self.path.with_name(f"{self.path.name}.lock")):
                merged = _load(self.path)
                if len(merged) + len(self._learnt) > _MAX_ENTRIES:
                    merged = {}
                merged |= self._learnt
                write_atomically(self.path, seal(_TAG, merged))
        except OSError as error:
            raise StoreError(
                f"{self.path} cannot be written: {error.strerror or error}",
                hint="make room on that disk, or make the folder writable",
            ) from error
        self._learnt = {}


def _load(path: Path) -> dict[str, _Entry]:
    try:
        value = unseal(path.read_bytes(), _TAG)
    except OSError:
        return {}
    files = cast("dict[str, list[int | str]]", value or {})
    return {name: cast("_Entry", tuple(entry)) for name, entry in files.items()}
