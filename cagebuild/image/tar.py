"""An index of an uncompressed tar archive: headers are read, contents stay where they are.

Reads ustar, v7 and star headers, PAX records, GNU long names, base-256 numbers and sparse files.
Where readers of tar are known to differ, or something is wrong, the archive is refused: an image
must be the same tree for everyone. Formats: POSIX.1-2017 pax, the GNU tar manual, star(5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NoReturn

from cagebuild.errors import ImageError
from cagebuild.image import sparse
from cagebuild.image.tarfields import (
    BLOCK,
    HEADER,
    MAX_ID,
    MAX_MAJOR,
    MAX_MINOR,
    MAX_SIZE,
    checksum_is_right,
    parse_number,
    parse_records,
    parse_time,
)
from cagebuild.image.tree import Extents, Kind, Node, Region

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_ENTRIES = 1_000_000
MAX_EXTENSION = 1 << 20
"""Bytes of one PAX header or GNU long name, as in Go's archive/tar."""

_READ_AHEAD = 4 * BLOCK
_MODE = 0o7777
_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"S": Kind.FILE,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER,
    b"4": Kind.BLOCK,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}
_LINK = b"1"

Records = dict[bytes, bytes]


class Entry(NamedTuple):
    """One entry as the archive has it."""

    name: bytes
    """Raw and not cleaned: may be absolute, have ``..``, or end in a slash."""
    node: Node
    """Its attributes. For a hard link, those that the archive gives beside the target."""
    link: bytes | None
    """The raw target of a hard link; None for any other entry."""
    offset: int
    """Where its header stands in the archive."""


def read_tar(
    region: Region,
    label: str,
    *,
    origin: str | Callable[[bytes], str] = "",
    apply_globals: bool = True,
    max_entries: int = MAX_ENTRIES,
) -> Iterator[Entry]:
    """The entries of an archive in order. Regular files read from the region's source.

    ``label`` names the archive in errors; ``origin`` (or what it gives for a raw name) goes to the
    nodes. ``apply_globals=False`` ignores PAX global headers, as Docker does. ``max_entries``
    counts pieces of sparse files too. Raises ImageError with name and offset of the entry at fault.
    """
    return _Reader(region, label, origin, apply_globals, max_entries).entries()


class _Reader:
    def __init__(
        self,
        region: Region,
        label: str,
        origin: str | Callable[[bytes], str],
        apply_globals: bool,
        max_entries: int,
    ) -> None:
        self._region = region
        self._label = label
        self._origin = origin
        self._apply_globals = apply_globals
        self._left = max_entries
        self._max_entries = max_entries
        self._position = 0
        self._buffer = b""
        self._buffer_at = 0
        self._start = 0
        self._name = b""
        self._globals: Records = {}
        self._pax: Records = {}
        self._pieces: list[bytes] = []
        self._long_name: bytes | None = None
        self._long_link: bytes | None = None

    # Bytes

    def _fail(self, reason: str) -> NoReturn:
        entry = f" (entry {_shown(self._name)})" if self._name else ""
        raise ImageError(
            f"{self._label}: {reason}, at offset {self._start}{entry}",
            hint="the archive is damaged, or was written by something that strays from the format",
        )

    def _block(self) -> bytes:
        """The next block, which must be there."""
        at = self._position - self._buffer_at
        block = self._buffer[at : at + BLOCK] if at >= 0 else b""
        if len(block) < BLOCK:
            self._buffer = self._region.pread(_READ_AHEAD, self._position)
            self._buffer_at = self._position
            block = self._buffer[:BLOCK]
            if len(block) < BLOCK:
                self._fail("it ends in the middle")
        self._position += BLOCK
        return block

    def _skip(self, size: int) -> int:
        """Go past ``size`` bytes of data and their padding; returns where the data starts."""
        start = self._position
        if size > self._region.size - start:
            self._fail(f"it is cut: {size} bytes of data don't fit in what is left")
        self._position = start + (size + BLOCK - 1) // BLOCK * BLOCK
        if self._position > self._region.size:
            self._fail("it ends in the middle of an entry's padding")
        return start

    def _data(self, size: int) -> bytes:
        if size > MAX_EXTENSION:
            self._fail(f"an extended header has {size} bytes, more than {MAX_EXTENSION}")
        data = self._region.pread(size, self._skip(size))
        if len(data) != size:
            self._fail("it ends in the middle of an extended header")
        return data

    # Entries

    def entries(self) -> Iterator[Entry]:
        while self._position < self._region.size:
            self._start = self._position
            self._name = b""
            header = self._block()
            if header[0] == 0 and not any(header):
                self._finish()
                return
            entry = self._entry(header)
            if entry is not None:
                yield entry
        if self._region.size:
            self._start = self._position
            self._fail("it ends without an end mark")

    def _finish(self) -> None:
        """Two blocks of zeros end an archive, and only zeros may follow. One at the end will do."""
        if self._extended():
            self._fail("it ends after an extended header")
        position = self._position
        while position < self._region.size:
            data = self._region.pread(1 << 20, position)
            if not data:
                self._fail("it ends in the middle")
            if data.strip(b"\0"):
                self._start = position
                self._fail("something follows the end mark")
            position += len(data)
        if self._region.size % BLOCK:
            self._fail("it ends in the middle of a block")

    def _extended(self) -> bool:
        return bool(
            self._pax or self._pieces or self._long_name is not None or self._long_link is not None
        )

    def _entry(self, header: bytes) -> Entry | None:
        fields = HEADER.unpack(header)
        flag, prefix = fields[7], fields[14]
        if not checksum_is_right(header, self._number(fields[6], "checksum")):
            self._fail("the checksum of a header is wrong")
        name = fields[0].partition(b"\0")[0]
        if fields[9][:6] == b"ustar\0":
            if fields[16] == b"tar\0":
                prefix = prefix[:131]
            prefix = prefix.partition(b"\0")[0]
            if prefix:
                name = prefix + b"/" + name
        self._name = name
        size = self._number(fields[4], "size")
        if flag in b"xgLK":
            self._extension(flag, size)
            return None
        self._left -= 1
        if self._left < 0:
            self._fail(f"it has more than {self._max_entries} entries or pieces of sparse files")
        plain = not (self._globals or self._extended())
        return (
            self._plain(fields, name, size, header) if plain else self._merged(fields, size, header)
        )

    def _number(self, field: bytes, what: str) -> int:
        try:
            value = parse_number(field)
        except ValueError:
            self._fail(f"the {what} of an entry is not a number")
        if value < 0 or value > MAX_SIZE:
            self._fail(f"the {what} of an entry is {value}")
        return value

    # Extended headers

    def _extension(self, flag: bytes, size: int) -> None:
        data = self._data(size)
        if flag in b"LK":
            text = data.partition(b"\0")[0]
            if (self._long_name if flag == b"L" else self._long_link) is not None:
                self._fail("an entry has two GNU long names")
            if flag == b"L":
                self._long_name = text
            else:
                self._long_link = text
            return
        try:
            records = parse_records(data)
        except ValueError as error:
            self._fail(f"in a PAX header {error}")
        if flag == b"g":
            self._global(records)
            return
        if self._pax or self._pieces:
            self._fail("an entry has two PAX headers")
        for key, value in records:
            if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                # Format 0.0 repeats these two in turn.
                if (len(self._pieces) % 2 == 0) != (key == b"GNU.sparse.offset"):
                    self._fail("the map of a sparse file is out of order")
                self._pieces.append(value)
            else:
                self._pax[key] = value

    def _global(self, records: list[tuple[bytes, bytes]]) -> None:
        if not self._apply_globals:
            return
        for key, value in records:
            if key in (b"path", b"linkpath", b"size") or key.startswith(b"GNU.sparse."):
                self._fail(f"a PAX global header sets {_shown(key)} for all entries")
            if value:
                self._globals[key] = value
            else:
                self._globals.pop(key, None)

    # From headers to nodes

    def _plain(self, fields: tuple[bytes, ...], name: bytes, size: int, header: bytes) -> Entry:
        flag = fields[7]
        link = fields[8].partition(b"\0")[0]
        try:
            mtime = parse_number(fields[5])
        except ValueError:
            self._fail("the time of an entry is not a number")
        uid, gid = self._number(fields[2], "owner"), self._number(fields[3], "group")
        return self._make(fields, name, link, (uid, gid, mtime, size), header, flag)

    def _merged(self, fields: tuple[bytes, ...], size: int, header: bytes) -> Entry:
        """An entry with extended headers: PAX records first, where they are not empty."""
        records = {**self._globals, **{key: value for key, value in self._pax.items() if value}}
        name = self._text(records, b"path", self._long_name, self._name)
        link = self._text(records, b"linkpath", self._long_link, fields[8].partition(b"\0")[0])
        self._name = name
        uid = self._decimal(records, b"uid", fields[2])
        gid = self._decimal(records, b"gid", fields[3])
        if b"size" in records:
            size = self._decimal(records, b"size", b"")
        try:
            mtime = (
                parse_time(records[b"mtime"]) if b"mtime" in records else parse_number(fields[5])
            )
        except ValueError:
            self._fail("the time of an entry is not a number")
        entry = self._make(fields, name, link, (uid, gid, mtime, size), header, fields[7], records)
        self._pax = {}
        self._pieces = []
        self._long_name = self._long_link = None
        return entry

    def _text(self, records: Records, key: bytes, long: bytes | None, short: bytes) -> bytes:
        value = records.get(key)
        if value is not None and b"\0" in value:
            self._fail(f"the {key.decode()} of an entry has a NUL")
        if value is not None and long is not None and value != long:
            self._fail(
                f"a PAX header and a GNU long name give an entry two values of {key.decode()}"
            )
        return value if value is not None else long if long is not None else short

    def _decimal(self, records: Records, key: bytes, field: bytes) -> int:
        text = records.get(key)
        if text is None:
            return self._number(field, key.decode())
        try:
            value = sparse.decimal(text)
        except sparse.SparseError:
            self._fail(f"the {key.decode()} of an entry is {_shown(text)}")
        if value > MAX_SIZE:
            self._fail(f"the {key.decode()} of an entry is {value}")
        return value

    def _make(
        self,
        fields: tuple[bytes, ...],
        name: bytes,
        link: bytes,
        numbers: tuple[int, int, int, int],
        header: bytes,
        flag: bytes,
        records: Records | None = None,
    ) -> Entry:
        uid, gid, mtime, size = numbers
        if uid > MAX_ID or gid > MAX_ID:
            self._fail(f"the owner of an entry is {uid}:{gid}, more than Linux can hold")
        kind = _KINDS.get(flag)
        if flag == b"\0" and name.endswith(b"/"):
            kind = Kind.DIRECTORY
        if kind is None and flag != _LINK:
            self._fail(f"an entry has the unknown type {_shown(flag)}")
        extents: Extents | None = None
        offset = self._position
        sparse_records = records is not None and self._is_sparse(records)
        if kind is Kind.FILE:
            if flag == b"S":
                size, extents = self._old_sparse(header, size)
            elif sparse_records:
                name, size, extents = self._pax_sparse(records or {}, name, size)
            else:
                self._skip(size)
        elif size or sparse_records:
            # Some readers skip data here and some don't: they would see other entries after it.
            self._fail(f"an entry that is not a regular file has {size} bytes of data")
        if not name:
            self._fail("an entry has no name")
        special = kind is Kind.CHARACTER or kind is Kind.BLOCK
        node = Node(
            Kind.FILE if kind is None else kind,
            mode=0o777 if kind is Kind.SYMLINK else self._number(fields[1], "mode") & _MODE,
            uid=uid,
            gid=gid,
            mtime=mtime,
            size=size,
            target=link if kind is Kind.SYMLINK else b"",
            rdev=self._device(fields) if special else (0, 0),
            source=self._region.source if kind is Kind.FILE else None,
            offset=offset + self._region.offset if kind is Kind.FILE and extents is None else 0,
            extents=extents,
            origin=self._origin if isinstance(self._origin, str) else self._origin(name),
            xattrs=records is not None and _has_xattrs(records),
        )
        return Entry(name, node, link if kind is None else None, self._start)

    def _device(self, fields: tuple[bytes, ...]) -> tuple[int, int]:
        major, minor = (
            self._number(fields[12], "device number"),
            self._number(fields[13], "device number"),
        )
        if major > MAX_MAJOR or minor > MAX_MINOR:
            self._fail(f"a device has the number {major}:{minor}, more than Linux can hold")
        return major, minor

    # Sparse files

    def _old_sparse(self, header: bytes, stored: int) -> tuple[int, Extents]:
        def number(field: bytes) -> int:
            return self._number(field, "map")

        try:
            pieces = sparse.old_gnu_pieces(header, number, self._block)
        except sparse.SparseError as error:
            self._fail(f"a sparse file can't be read: {error}")
        size = self._number(header[483:495], "real size")
        return size, self._place(pieces, size, stored, 0)

    def _is_sparse(self, records: Records) -> bool:
        return bool(self._pieces) or any(key.startswith(b"GNU.sparse.") for key in records)

    def _pax_sparse(self, records: Records, name: bytes, stored: int) -> tuple[bytes, int, Extents]:
        version = (records.get(b"GNU.sparse.major", b"0"), records.get(b"GNU.sparse.minor", b"0"))
        try:
            if version == (b"1", b"0"):
                pieces, used = sparse.pax_1_pieces(self._sparse_map, stored)
            elif version[0] == b"0" and version[1] in (b"0", b"1"):
                listed = records.get(b"GNU.sparse.map")
                pieces, used = (
                    sparse.listed_pieces(
                        self._pieces if listed is None else listed.split(b",") if listed else []
                    ),
                    0,
                )
            else:
                raise sparse.SparseError(f"its format is {version[0]!r}.{version[1]!r}")
            real = b"GNU.sparse.realsize" if version[0] == b"1" else b"GNU.sparse.size"
            size = sparse.decimal(records.get(real, b""))
        except sparse.SparseError as error:
            self._fail(f"a sparse file can't be read: {error}")
        name = self._text(records, b"GNU.sparse.name", None, name)
        return name, size, self._place(pieces, size, stored, used)

    def _sparse_map(self, offset: int, size: int) -> bytes:
        return self._region.pread(size, self._position + offset)

    def _place(self, pieces: sparse.Pieces, size: int, stored: int, used: int) -> Extents:
        self._left -= len(pieces)
        start = self._region.offset + self._skip(stored) + used
        if size > MAX_SIZE:
            self._fail(f"a sparse file has the size {size}")
        try:
            return sparse.place(pieces, size=size, stored=stored - used, offset=start)
        except sparse.SparseError as error:
            self._fail(f"a sparse file can't be read: {error}")


def _has_xattrs(records: Records) -> bool:
    return any(key.startswith((b"SCHILY.xattr.", b"LIBARCHIVE.xattr.")) for key in records)


def _shown(name: bytes) -> str:
    text = name.decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= 200 else text[:200] + "…")
