"""Tar archives that depend on nothing but what is put into them.

Entries are ustar; a PAX header comes before those that ustar can't hold. Names and targets are raw
bytes. Formats: POSIX.1-2017 pax.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cagebuild.errors import ImageError
from cagebuild.image.tarfields import BLOCK, HEADER, MAX_SIZE
from cagebuild.image.tree import Kind, Node, Region, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_TYPES = {
    Kind.FILE: b"0",
    Kind.SYMLINK: b"2",
    Kind.CHARACTER: b"3",
    Kind.BLOCK: b"4",
    Kind.DIRECTORY: b"5",
    Kind.FIFO: b"6",
}
_LINK = b"1"
_MAX_OCTAL_7 = 0o7777777
_MAX_OCTAL_11 = 0o77777777777
_PAX_NAME = b"././@PaxHeader"
_HAD_XATTRS = (b"SCHILY.xattr.user.lost", b"1")


class TarWriter:
    """Writes entries in the order in which they come; ``close`` ends the archive."""

    def __init__(self, write: Callable[[bytes], object], *, mark_xattrs: bool = False) -> None:
        self._write = write
        self._mark_xattrs = mark_xattrs

    def add(self, name: bytes, node: Node, link: bytes | None = None) -> None:
        """An entry with the attributes of ``node``, or with ``link`` a hard link to that name.

        A directory's name gets its slash here. Holes of sparse files are written as zeros. Raises
        ImageError when the content ends early or tar can't hold the entry.
        """
        regular = node.kind is Kind.FILE and link is None
        self._header(name, node, link, node.size if regular else 0)
        if regular:
            self._data(node.read(), node.size)

    def add_bytes(self, name: bytes, data: bytes, *, mtime: int, mode: int = 0o644) -> None:
        """A regular file of 0:0 from memory."""
        self.add_region(name, Region.of_bytes(data), mtime=mtime, mode=mode)

    def add_region(self, name: bytes, region: Region, *, mtime: int, mode: int = 0o644) -> None:
        """A regular file of 0:0 from a stretch of a source."""
        node = Node(
            Kind.FILE,
            mode=mode,
            mtime=mtime,
            size=region.size,
            source=region.source,
            offset=region.offset,
        )
        self.add(name, node)

    def close(self) -> None:
        """The end mark. The stream below stays open."""
        self._write(bytes(2 * BLOCK))

    def _data(self, chunks: Iterable[bytes], size: int) -> None:
        for chunk in chunks:
            self._write(chunk)
        self._write(bytes(-size % BLOCK))

    def _header(self, name: bytes, node: Node, link: bytes | None, size: int) -> None:
        if node.kind is Kind.DIRECTORY:
            name = name.rstrip(b"/") + b"/"
        target = node.target if link is None else link
        if not name or b"\0" in name or b"\0" in target or size > MAX_SIZE:
            raise ImageError(
                f"a tar archive can't hold the entry {name[:200]!r}",
                hint="its name is empty or has a NUL, or it is too large",
            )
        records = [_HAD_XATTRS] if self._mark_xattrs and node.xattrs and link is None else []
        prefix, short = _split(name)
        if prefix is None:
            records.append((b"path", name))
            prefix, short = b"", name[:100]
        if len(target) > 100:
            records.append((b"linkpath", target))
        numbers = {b"uid": node.uid, b"gid": node.gid, b"size": size, b"mtime": node.mtime}
        for key, value in numbers.items():
            if not 0 <= value <= (_MAX_OCTAL_7 if key.endswith(b"id") else _MAX_OCTAL_11):
                records.append((key, b"%d" % value))
                numbers[key] = 0
        if records:
            self._pax(records)
        flag = _TYPES[node.kind] if link is None else _LINK
        self._write(_block(flag, prefix, short, target[:100], node.mode, node.rdev, numbers))

    def _pax(self, records: list[tuple[bytes, bytes]]) -> None:
        if any(not _is_utf8(value) for _, value in records):
            records.insert(0, (b"hdrcharset", b"BINARY"))
        data = b"".join(_record(key, value) for key, value in records)
        numbers = {b"uid": 0, b"gid": 0, b"size": len(data), b"mtime": 0}
        self._write(_block(b"x", b"", _PAX_NAME, b"", 0o644, (0, 0), numbers))
        self._data([data], len(data))


def write_tree(
    root: Node,
    write: Callable[[bytes], object],
    *,
    with_root: bool = False,
    mark_xattrs: bool = False,
) -> None:
    """A whole archive of the tree: every entry in the order of ``walk``, ``./`` first if asked for.

    ``mark_xattrs`` tells who reads it which entries had extended attributes, which are lost. The
    first name of an inode has its content; the others are hard links to it. Raises ImageError.
    """
    writer = TarWriter(write, mark_xattrs=mark_xattrs)
    if with_root:
        writer.add(b"./", root)
    first: dict[Node, bytes] = {}
    for path, node in walk(root):
        link = None
        if node.links > 1 and node.kind is not Kind.DIRECTORY:
            link = first.setdefault(node, path)
        writer.add(path, node, None if link is path else link)
    writer.close()


def file_header(name: bytes, *, size: int, mtime: int, mode: int = 0o644) -> bytes:
    """The one block before the data of a regular file of 0:0; ImageError if one is not enough."""
    prefix, short = _split(name)
    if prefix is None or not 0 <= size <= _MAX_OCTAL_11 or not 0 <= mtime <= _MAX_OCTAL_11:
        raise ImageError(
            f"the file {name[:200]!r} of {size} bytes doesn't fit a plain tar header",
            hint="an archive can hold an image of up to 8 GiB; write a folder instead",
        )
    numbers = {b"uid": 0, b"gid": 0, b"size": size, b"mtime": mtime}
    return _block(b"0", prefix, short, b"", mode, (0, 0), numbers)


def _split(name: bytes) -> tuple[bytes | None, bytes]:
    """A name as ustar's prefix and name; no prefix at all when it doesn't fit."""
    if len(name) <= 100:
        return b"", name
    cut = name.find(b"/", max(0, len(name) - 101), min(len(name) - 1, 156))
    if cut <= 0:
        return None, name
    return name[:cut], name[cut + 1 :]


def _record(key: bytes, value: bytes) -> bytes:
    """``length key=value\\n``, where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def _block(
    flag: bytes,
    prefix: bytes,
    name: bytes,
    target: bytes,
    mode: int,
    rdev: tuple[int, int],
    numbers: dict[bytes, int],
) -> bytes:
    header = HEADER.pack(
        name,
        b"%07o" % (mode & 0o7777),
        b"%07o" % numbers[b"uid"],
        b"%07o" % numbers[b"gid"],
        b"%011o" % numbers[b"size"],
        b"%011o" % numbers[b"mtime"],
        b"        ",
        flag,
        target,
        b"ustar\x0000",
        b"",
        b"",
        b"%07o" % rdev[0],
        b"%07o" % rdev[1],
        prefix,
        b"",
        b"",
    )
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
