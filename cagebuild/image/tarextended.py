"""What extended headers say about the entry that follows them: PAX records and GNU long names."""

from __future__ import annotations

from cagebuild.image.sparse import SparseError, decimal
from cagebuild.image.tarfields import MAX_SIZE, FieldError, parse_records, shown

Records = dict[bytes, bytes]

_XATTRS = (b"SCHILY.xattr.", b"LIBARCHIVE.xattr.")
_SPARSE = b"GNU.sparse."
_REPEATED = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")


class Extended:
    """Extended headers seen since the last entry, and PAX global ones.

    Everything raises FieldError with the reason.
    """

    def __init__(self, *, apply_globals: bool) -> None:
        self._apply_globals = apply_globals
        self._globals: Records = {}
        self._pax: Records | None = None
        self._long: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        """The map of a sparse file of format 0.0: offset, length, offset, …"""
        self.waiting = False
        """Whether there is something for the next entry alone."""

    @property
    def any(self) -> bool:
        """Whether there is something for the next entry."""
        return self.waiting or bool(self._globals)

    def take(self, flag: bytes, data: bytes) -> None:
        """One extended header: its type and its data."""
        if flag in (b"L", b"K"):
            key = b"path" if flag == b"L" else b"linkpath"
            if key in self._long:
                raise FieldError("an entry has two GNU long names")
            self._long[key] = data.partition(b"\0")[0]
            self.waiting = True
            return
        try:
            records = parse_records(data)
        except FieldError as error:
            raise FieldError(f"in a PAX header {error}") from error
        if flag == b"g":
            self._take_globals(records)
            return
        if self._pax is not None:
            raise FieldError("an entry has two PAX headers")
        self._pax = {}
        self.waiting = True
        for key, value in records:
            if key in _REPEATED:
                if key != _REPEATED[len(self.pieces) % 2]:
                    raise FieldError("the map of a sparse file is out of order")
                self.pieces.append(value)
            else:
                self._pax[key] = value

    def _take_globals(self, records: list[tuple[bytes, bytes]]) -> None:
        if not self._apply_globals:
            return
        for key, value in records:
            if key in (b"path", b"linkpath", b"size") or key.startswith(_SPARSE):
                raise FieldError(f"a PAX global header sets {shown(key)} for all entries")
            if value:
                self._globals[key] = value
            else:
                self._globals.pop(key, None)

    def records(self) -> Records:
        """All that holds for this entry. A record without a value means: as the header has it."""
        own = (self._pax or {}).items()
        return {**self._globals, **{key: value for key, value in own if value}}

    def text(self, records: Records, key: bytes, short: bytes) -> bytes:
        """A name or target: the PAX record, the GNU long name, or ``short``."""
        value, long = records.get(key), self._long.get(key)
        if value is None:
            return short if long is None else long
        if b"\0" in value:
            raise FieldError(f"the {key.decode()} of an entry has a NUL")
        if long is not None and value != long:
            raise FieldError(
                f"a PAX header and a GNU long name give an entry two values of {key.decode()}"
            )
        return value

    def sparse(self, records: Records) -> bool:
        """Whether the entry is a sparse file in one of the PAX formats."""
        return bool(self.pieces) or any(key.startswith(_SPARSE) for key in records)

    def clear(self) -> None:
        """The entry has come."""
        self._pax = None
        self._long = {}
        self.pieces = []
        self.waiting = False


def number(records: Records, key: bytes, short: int) -> int:
    """A decimal record, or ``short`` if there is none."""
    text = records.get(key)
    if text is None:
        return short
    try:
        value = decimal(text)
    except SparseError as error:
        raise FieldError(f"the {key.decode()} of an entry is {shown(text)}") from error
    if value > MAX_SIZE:
        raise FieldError(f"the {key.decode()} of an entry is {value}")
    return value


def has_xattrs(records: Records) -> bool:
    """Whether there are extended attributes (of star's, Go's or libarchive's kind)."""
    return any(key.startswith(_XATTRS) for key in records)
