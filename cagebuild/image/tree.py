"""A file tree in memory: what an image's layers flatten to, with the bytes left where they are.

Names and link targets are raw bytes, as in tar and cpio. A regular file's content is a place in a
source (an open uncompressed tar, or a buffer), so a tree costs memory by the number of its entries,
not by size: about 300 bytes an entry.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import IntEnum
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple, Protocol

from cagebuild.errors import ImageError

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
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def pread(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes from ``offset``; fewer only at the end."""
        return os.pread(self._descriptor, size, offset)

    def close(self) -> None:
        """Release the descriptor. Happens by itself when nothing refers to the source any more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of a source, itself a source: a blob inside an archive, without copying it."""

    source: Source
    offset: int
    size: int

    @classmethod
    def of_file(cls, path: Path) -> Region:
        """All of a file; raises OSError."""
        return cls(FileSource(path), 0, path.stat().st_size)

    @classmethod
    def of_bytes(cls, data: bytes) -> Region:
        """All of a buffer."""
        return cls(MemorySource(data), 0, len(data))

    def pread(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes from ``offset`` of this stretch; fewer only at its end."""
        size = min(size, self.size - offset)
        return self.source.pread(size, self.offset + offset) if size > 0 else b""

    def chunks(self, chunk: int = 1 << 20) -> Iterator[bytes]:
        """All its bytes in order; raises ImageError when the source ends early."""
        return stored(self.source, self.offset, self.size, chunk)


class MemorySource:
    """A source in memory, for small generated files."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def pread(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes from ``offset``; fewer only at the end."""
        return self._data[offset : offset + size]


Extents = tuple[tuple[int, int, int], ...]


class _Rare(NamedTuple):
    """What few inodes have; the others share one."""

    extents: Extents | None = None
    rdev: tuple[int, int] = (0, 0)
    xattrs: bool = False


_COMMON = _Rare()


class Node:
    """One inode. Hard links are the same Node under several names (``links`` counts them)."""

    __slots__ = (
        "_rare",
        "children",
        "gid",
        "kind",
        "links",
        "mode",
        "mtime",
        "offset",
        "origin",
        "size",
        "source",
        "target",
        "uid",
    )

    def __init__(  # noqa: PLR0913 - an inode has this many attributes, all by keyword
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
        extents: Extents | None = None,
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
        self.source = source
        self.offset = offset
        self.origin = origin
        """Where it came from, in words: ``package libc6 2.36-9``, ``layer sha256:…``, ``app``."""
        self.links = 1
        self.children: dict[bytes, Node] | None = {} if kind is Kind.DIRECTORY else None
        usual = extents is None and not xattrs and rdev == (0, 0)
        self._rare = _COMMON if usual else _Rare(extents, rdev, xattrs)

    @property
    def extents(self) -> Extents | None:
        """For sparse files: (position in the file, position in the source, length).

        Sorted, not overlapping; holes are zeros. None for any other file.
        """
        return self._rare.extents

    @extents.setter
    def extents(self, extents: Extents | None) -> None:
        self._rare = self._rare._replace(extents=extents)

    @property
    def rdev(self) -> tuple[int, int]:
        """Major and minor number of a device."""
        return self._rare.rdev

    @rdev.setter
    def rdev(self, rdev: tuple[int, int]) -> None:
        self._rare = self._rare._replace(rdev=rdev)

    @property
    def xattrs(self) -> bool:
        """Whether the archive had extended attributes for it; they are not kept."""
        return self._rare.xattrs

    @xattrs.setter
    def xattrs(self, xattrs: bool) -> None:
        self._rare = self._rare._replace(xattrs=xattrs)

    def read(self, chunk: int = 1 << 20) -> Iterator[bytes]:
        """The content of a regular file in chunks of at most ``chunk`` bytes, holes as zeros.

        Raises ImageError when the source ends early.
        """
        extents = self._rare.extents
        if extents is None:
            yield from stored(self.source, self.offset, self.size, chunk, self.origin)
            return
        position = 0
        for start, offset, length in extents:
            yield from _zeros(start - position, chunk)
            yield from stored(self.source, offset, length, chunk, self.origin)
            position = start + length
        yield from _zeros(self.size - position, chunk)


def new_root() -> Node:
    """An empty root directory: 0755, 0:0."""
    return Node(Kind.DIRECTORY, mode=0o755)


def walk(root: Node, prefix: bytes = b"") -> Iterator[tuple[bytes, Node]]:
    """Every entry below ``root``, depth first, a directory just before its contents.

    Children are sorted by the bytes of the component. Paths have no leading slash; the root has no
    entry. ``prefix`` is put before every path as it is. The caller may change the directory just
    given: its children are listed when the next entry is asked for.
    """
    pending = [(prefix, _sorted_children(root))]
    while pending:
        before, children = pending[-1]
        for name, node in children:
            path = before + name
            yield path, node
            if node.children:
                pending.append((path + b"/", _sorted_children(node)))
                break
        else:
            pending.pop()


def release(node: Node) -> list[Node]:
    """Count that a name of ``node`` is gone, and those of all that is in it.

    Returns the directories among them.
    """
    directories = []
    pending = [node]
    while pending:
        gone = pending.pop()
        if gone.children is None:
            gone.links -= 1
        else:
            directories.append(gone)
            pending += gone.children.values()
    return directories


def _sorted_children(node: Node) -> Iterator[tuple[bytes, Node]]:
    return iter(sorted(node.children.items(), key=itemgetter(0)) if node.children else ())


def stored(
    source: Source | None, offset: int, length: int, chunk: int = 1 << 20, origin: str = ""
) -> Iterator[bytes]:
    """``length`` bytes of a source in chunks; raises ImageError when it ends early."""
    end = offset + length
    while offset < end:
        data = source.pread(min(chunk, end - offset), offset) if source else b""
        if not data:
            raise ImageError(
                f"the content of a file from {origin or 'an unnamed source'} ends early: "
                f"{end - offset} bytes are missing at offset {offset}",
                hint="the archive was cut or changed while it was read; fetch it again",
            )
        offset += len(data)
        yield data


def _zeros(length: int, chunk: int) -> Iterator[bytes]:
    block = bytes(min(length, chunk)) if length > 0 else b""
    while length > 0:
        yield block if length >= len(block) else block[:length]
        length -= len(block)
