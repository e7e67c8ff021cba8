"""Digests of source files, remembered by what stat says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from cagebuild.digest import Digest


class StatCache:
    """SHA-256 of files, remembered in one file between runs. Safe for use from several threads."""

    def __init__(self, path: Path) -> None:
        """Load what is remembered; a missing or damaged file is an empty cache."""
        self.path = path

    def digest(self, path: Path) -> Digest:
        """The digest of the file's content now; raises OSError."""
        raise NotImplementedError

    def save(self) -> None:
        """Write what was learnt, merged with what others wrote meanwhile; raises StoreError."""
        raise NotImplementedError
