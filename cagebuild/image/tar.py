"""An index of an uncompressed tar archive: headers are read, contents stay where they are.

Reads ustar, v7 and star headers, PAX records, GNU long names, base-256 numbers and sparse files.
Where readers of tar are known to differ, or something is wrong, the archive is refused: an image
must be the same tree for everyone. Formats: POSIX.1-2017 pax, the GNU tar manual, star(5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NoReturn

from cagebuild.errors import ImageError
from cagebuild.image import sparse
from cagebuild.image.tarextended import Extended, Records, has_xattrs, number
from cagebuild.image.tarfields import (
    BLOCK,
    HEADER,
    MAX_ID,
    MAX_MAJOR,
    MAX_MINOR,
    MAX_SIZE,
    FieldError,
    checksum_is_right,
    parse_number,
    parse_time,
    shown,
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
    b"1": None,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER,
    b"4": Kind.BLOCK,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}
_DEVICES = (b"3", b"4")
_EXTENSIONS = (b"x", b"g", b"L", b"K")
_CHECKSUM = "checksum"
_NUMBERS = ((1, "mode"), (2, "owner"), (3, "group"), (4, "size"), (5, "time"), (6, _CHECKSUM))

Fields = tuple[bytes, ...]


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


class _Values(NamedTuple):
    name: bytes
    link: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int


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
        self._left = max_entries
        self._max_entries = max_entries
        self._position = 0
        self._buffer = b""
        self._buffer_at = 0
        self._start = 0
        self._name = b""
        self._extended = Extended(apply_globals=apply_globals)

    # Bytes

    def _fail(self, reason: str) -> NoReturn:
        entry = f" (entry {shown(self._name)})" if self._name else ""
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
            try:
                entry = self._entry(header)
            except FieldError as error:
                self._fail(str(error))
            if entry is not None:
                yield entry
        if self._region.size:
            self._start = self._position
            self._fail("it ends without an end mark")

    def _finish(self) -> None:
        """Two blocks of zeros end an archive, and only zeros may follow. One at the end will do."""
        if self._extended.waiting:
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

    def _entry(self, header: bytes) -> Entry | None:
        fields = HEADER.unpack(header)
        values = self._values(fields, header)
        flag = fields[7]
        if flag in _EXTENSIONS:
            self._extended.take(flag, self._data(values.size))
            return None
        self._count(1)
        if not self._extended.any:
            return self._made(values, fields, header, None)
        records = self._extended.records()
        values = self._overridden(values, records)
        entry = self._made(values, fields, header, records)
        self._extended.clear()
        return entry

    def _count(self, things: int) -> None:
        self._left -= things
        if self._left < 0:
            self._fail(f"it has more than {self._max_entries} entries or pieces of sparse files")

    def _values(self, fields: Fields, header: bytes) -> _Values:
        """What the header alone says."""
        try:
            mode, uid, gid, size, mtime, checksum = map(parse_number, fields[1:7])
        except FieldError:
            self._blame(fields, header)
        if not checksum_is_right(header, checksum):
            self._fail("the checksum of a header is wrong")
        name = fields[0].partition(b"\0")[0]
        if fields[9][:6] == b"ustar\0" and fields[14][0]:
            prefix = fields[14][:131] if fields[16] == b"tar\0" else fields[14]
            name = prefix.partition(b"\0")[0] + b"/" + name
        self._name = name
        if not 0 <= size <= MAX_SIZE:
            self._fail(f"the size of an entry is {size}")
        return _Values(name, fields[8].partition(b"\0")[0], mode & _MODE, uid, gid, size, mtime)

    def _blame(self, fields: Fields, header: bytes) -> NoReturn:
        """Say which number of a header isn't one, unless it is no header at all."""
        wrong = []
        value = -1
        for index, what in _NUMBERS:
            try:
                value = parse_number(fields[index])
            except FieldError:
                wrong.append(what)
        if _CHECKSUM in wrong or not checksum_is_right(header, value):
            self._fail("the checksum of a header is wrong")
        self._fail(f"the {wrong[0]} of an entry is not a number")

    def _overridden(self, values: _Values, records: Records) -> _Values:
        """What the header says, where no extended header says otherwise."""
        name = self._extended.text(records, b"path", values.name)
        self._name = name
        return _Values(
            name=name,
            link=self._extended.text(records, b"linkpath", values.link),
            mode=values.mode,
            uid=number(records, b"uid", values.uid),
            gid=number(records, b"gid", values.gid),
            size=number(records, b"size", values.size),
            mtime=parse_time(records[b"mtime"]) if b"mtime" in records else values.mtime,
        )

    def _made(
        self, values: _Values, fields: Fields, header: bytes, records: Records | None
    ) -> Entry:
        name, link, mode, uid, gid, size, mtime = values
        if not (0 <= uid <= MAX_ID and 0 <= gid <= MAX_ID):
            self._fail(f"the owner of an entry is {uid}:{gid}, which Linux can't hold")
        flag = fields[7]
        if flag not in _KINDS:
            self._fail(f"an entry has the unknown type {shown(flag)}")
        kind = _KINDS[flag]
        if flag == b"\0" and name.endswith(b"/"):
            kind = Kind.DIRECTORY
        offset = 0
        extents: Extents | None = None
        if kind is Kind.FILE:
            offset = self._position + self._region.offset
            if flag == b"S" or records is not None:
                name, size, extents = self._content(values, flag, header, records or {})
            else:
                self._skip(size)
        elif size or (records is not None and self._extended.sparse(records)):
            # Some readers skip data here and some don't: they would see other entries after it.
            self._fail(f"an entry that is not a regular file has {size} bytes of data")
        if not name:
            self._fail("an entry has no name")
        node = Node(
            Kind.FILE if kind is None else kind,
            # A symlink has no mode of its own on Linux.
            mode=0o777 if kind is Kind.SYMLINK else mode,
            uid=uid,
            gid=gid,
            mtime=mtime,
            size=size,
            target=link if kind is Kind.SYMLINK else b"",
            rdev=self._device(fields) if flag in _DEVICES else (0, 0),
            source=self._region.source if kind is Kind.FILE else None,
            offset=offset if extents is None else 0,
            extents=extents,
            origin=self._origin if isinstance(self._origin, str) else self._origin(name),
            xattrs=records is not None and has_xattrs(records),
        )
        return Entry(name, node, link if kind is None else None, self._start)

    def _device(self, fields: Fields) -> tuple[int, int]:
        major, minor = parse_number(fields[12]), parse_number(fields[13])
        if not (0 <= major <= MAX_MAJOR and 0 <= minor <= MAX_MINOR):
            self._fail(f"a device has the number {major}:{minor}, which Linux can't hold")
        return major, minor

    # Contents of files that may be sparse

    def _content(
        self, values: _Values, flag: bytes, header: bytes, records: Records
    ) -> tuple[bytes, int, Extents | None]:
        """Name, size and pieces; the data is passed by."""
        try:
            if flag == b"S":
                pieces = sparse.old_gnu_pieces(header, parse_number, self._block)
                size = parse_number(header[483:495])
                return values.name, size, self._placed(pieces, size, values.size, 0)
            if self._extended.sparse(records):
                return self._pax_sparse(records, values)
        except sparse.SparseError as error:
            self._fail(f"a sparse file can't be read: {error}")
        self._skip(values.size)
        return values.name, values.size, None

    def _pax_sparse(self, records: Records, values: _Values) -> tuple[bytes, int, Extents]:
        major, minor = (records.get(b"GNU.sparse." + key, b"0") for key in (b"major", b"minor"))
        used = 0
        if (major, minor) == (b"1", b"0"):
            pieces, used = sparse.pax_1_pieces(self._map, values.size)
        elif major == b"0" and minor in (b"0", b"1"):
            listed = records.get(b"GNU.sparse.map")
            pieces = sparse.listed_pieces(listed.split(b",") if listed else self._extended.pieces)
        else:
            raise sparse.SparseError(f"its format is {major!r}.{minor!r}")
        key = b"GNU.sparse.realsize" if major == b"1" else b"GNU.sparse.size"
        size = sparse.decimal(records.get(key, b""))
        name = self._extended.text(
            {b"path": records.get(b"GNU.sparse.name", values.name)}, b"path", b""
        )
        return name, size, self._placed(pieces, size, values.size, used)

    def _map(self, offset: int, size: int) -> bytes:
        return self._region.pread(size, self._position + offset)

    def _placed(self, pieces: sparse.Pieces, size: int, stored: int, used: int) -> Extents:
        self._count(len(pieces))
        if not 0 <= size <= MAX_SIZE:
            raise sparse.SparseError(f"its size is {size}")
        start = self._region.offset + self._skip(stored) + used
        return sparse.place(pieces, size=size, stored=stored - used, offset=start)
