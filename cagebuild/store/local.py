"""The store on local disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cagebuild.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from cagebuild.store.records import Blob, Result


class DamagedBlobError(StoreError):
    """A file in the store is gone or isn't what its name says; what was left of it is removed."""


class Store:
    """Content-addressed files and step results below one folder."""

    def __init__(self, root: Path, *, max_bytes: int | None = None) -> None:
        """Open the store at ``root``, or make one; raises StoreError.

        After a run the oldest results are removed until the files take ``max_bytes`` at most.
        """
        self.root = root
        self.max_bytes = max_bytes

    def lookup(self, step_id: str) -> Result | None:
        """The step's result, or None; a damaged one is removed and counts as none."""
        raise NotImplementedError

    def export(self, blob: Blob, target: Path, *, mode: int = 0o644) -> None:
        """Copy a file out of the store, checked on the way; ``target`` is whole or untouched.

        Raises DamagedBlobError (the file is removed from the store, so that the next run makes it
        again) or StoreError.
        """
        raise NotImplementedError
