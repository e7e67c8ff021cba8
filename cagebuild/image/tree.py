"""A file tree in memory: what an image's layers flatten to, with the bytes left where they are.

Names and link targets are raw bytes, as in tar and cpio. A regular file's content is a place in a source
(an open uncompressed tar, or a buffer), so a tree costs memory by the number of its entries, not by size.
"""

from __future__ import annotations

import os
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Kind(IntEnum):
    """The type of an entry."""

    DIRECTORY = 0
    FILE = 1
    SYMLINK = 2
    CHARACTER = 3
    BLOCK = 4
    FIFO = 5


class Source(Protocol):
    """Random access to bytes that hold file contents."""

    def pread(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes from ``offset``; fewer only at the end."""


class FileSource:
    """A source on disk. Safe for use from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def pread(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes from ``offset``; fewer only at the end."""
        return os.pread(self._descriptor, size, offset)

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self._descriptor)


class MemorySource:
    """A source in memory, for small generated files."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def pread(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes from ``offset``; fewer only at the end."""
        return self._data[offset : offset + size]


class Node:
    """One inode. Hard links are the same Node under several names (``links`` counts them)."""

    __slots__ = (
        "children",
        "extents",
        "gid",
        "kind",
        "links",
        "mode",
        "mtime",
        "offset",
        "origin",
        "rdev",
        "size",
        "source",
        "target",
        "uid",
        "xattrs",
    )

    def __init__(
        self,
        kind: Kind,
        *,
        mode: int,
        uid: int = 0,
        gid: int = 0,
        mtime: int = 0,
        size: int = 0,
        target: bytes = b"",
        rdev: tuple[int, int] = (0, 0),
        source: Source | None = None,
        offset: int = 0,
        extents: tuple[tuple[int, int, int], ...] | None = None,
        origin: str = "",
        xattrs: bool = False,
    ) -> None:
        self.kind = kind
        self.mode = mode
        """Permission bits, 07777 at most."""
        self.uid = uid
        self.gid = gid
        self.mtime = mtime
        """Whole seconds since 1970; may be negative or huge as read, the writer decides."""
        self.size = size
        self.target = target
        self.rdev = rdev
        self.source = source
        self.offset = offset
        self.extents = extents
        """For sparse files: (position in the file, position in the source, length), sorted; holes are zero."""
        self.origin = origin
        """Where the entry came from, in words: ``package libc6 2.36-9``, ``layer sha256:…``, ``app``, ``runtime``."""
        self.xattrs = xattrs
        self.links = 1
        self.children: dict[bytes, Node] | None = {} if kind is Kind.DIRECTORY else None

    def read(self, chunk: int = 1 << 20) -> Iterator[bytes]:
        """The content of a regular file in chunks of at most ``chunk`` bytes, holes as zeros.

        Raises ImageError when the source ends early.
        """
        raise NotImplementedError


def new_root() -> Node:
    """An empty root directory: 0755, 0:0."""
    return Node(Kind.DIRECTORY, mode=0o755)


def walk(root: Node, prefix: bytes = b"") -> Iterator[tuple[bytes, Node]]:
    """Every entry below ``root``, depth first, a directory just before its contents.

    Children are sorted by the bytes of the component. Paths have no leading slash; the root has no entry.
    """
    raise NotImplementedError
