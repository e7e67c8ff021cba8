"""Tar archives made byte by byte, for tests: valid ones, awkward ones, and hostile ones.

Nothing here uses the code under test, nor Python's tarfile, which cannot write what is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field

BLOCK = 512
END = bytes(2 * BLOCK)


def octal(value: int, width: int) -> bytes:
    """A number field: zero-filled octal and a NUL."""
    return b"%0*o\0" % (width - 1, value)


def base256(value: int, width: int) -> bytes:
    """A number field in base 256, two's complement."""
    return ((value & ((1 << (8 * width - 1)) - 1)) | 1 << (8 * width - 1)).to_bytes(width, "big")


def pad(data: bytes) -> bytes:
    """Zeros up to a whole number of blocks."""
    return data + bytes(-len(data) % BLOCK)


def seal(header: bytes) -> bytes:
    """A header with its checksum filled in."""
    blank = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(blank) + header[156:]


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Raw header fields; bytes go in as they are."""

    name: bytes = b"x"
    mode: bytes = octal(0o644, 8)
    uid: bytes = octal(0, 8)
    gid: bytes = octal(0, 8)
    size: bytes = octal(0, 12)
    mtime: bytes = octal(0, 12)
    kind: bytes = b"0"
    link: bytes = b""
    magic: bytes = b"ustar\x0000"
    major: bytes = octal(0, 8)
    minor: bytes = octal(0, 8)
    rest: bytes = b""

    def header(self) -> bytes:
        """The 512 bytes."""
        raw = b"".join(
            (
                self.name.ljust(100, b"\0"),
                self.mode,
                self.uid,
                self.gid,
                self.size,
                self.mtime,
                b" " * 8,
                self.kind,
                self.link.ljust(100, b"\0"),
                self.magic.ljust(8, b"\0"),
                bytes(64),
                self.major,
                self.minor,
                self.rest.ljust(167, b"\0"),
            )
        )
        assert len(raw) == BLOCK
        return seal(raw)


def record(key: bytes, value: bytes) -> bytes:
    """A PAX record."""
    length = len(key) + len(value) + 4
    while len(b"%d %s=%s\n" % (length, key, value)) != length:
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def pax(records: dict[bytes, bytes] | list[tuple[bytes, bytes]], kind: bytes = b"x") -> bytes:
    """A PAX header with its data."""
    pairs = records.items() if isinstance(records, dict) else records
    data = b"".join(record(key, value) for key, value in pairs)
    return Fields(name=b"pax", kind=kind, size=octal(len(data), 12)).header() + pad(data)


def gnu_long(name: bytes, kind: bytes = b"L") -> bytes:
    """A GNU long name (``L``) or long link target (``K``)."""
    data = name + b"\0"
    fields = Fields(name=b"././@LongLink", kind=kind, size=octal(len(data), 12), magic=b"ustar  \0")
    return fields.header() + pad(data)


@dataclass(frozen=True, kw_only=True)
class Item:
    """An ordinary entry."""

    name: bytes
    kind: bytes = b"0"
    data: bytes = b""
    link: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    rdev: tuple[int, int] = (0, 0)
    extra: dict[bytes, bytes] = field(default_factory=dict)

    def encoded(self) -> bytes:
        """Header and data, with a PAX header where the name or target is long."""
        records = dict(self.extra)
        if len(self.name) > 100:
            records[b"path"] = self.name
        if len(self.link) > 100:
            records[b"linkpath"] = self.link
        fields = Fields(
            name=self.name[:100],
            kind=self.kind,
            link=self.link[:100],
            mode=octal(self.mode, 8),
            uid=octal(self.uid, 8),
            gid=octal(self.gid, 8),
            mtime=octal(self.mtime, 12),
            size=octal(len(self.data), 12),
            major=octal(self.rdev[0], 8),
            minor=octal(self.rdev[1], 8),
        )
        return (pax(records) if records else b"") + fields.header() + pad(self.data)


def archive(*items: Item | bytes) -> bytes:
    """An archive of items and raw stretches, with its end mark."""
    parts = [item if isinstance(item, bytes) else item.encoded() for item in items]
    return b"".join(parts) + END


def regular(name: str | bytes, data: bytes = b"", mode: int = 0o644, mtime: int = 0) -> Item:
    """A regular file."""
    return Item(name=_raw(name), data=data, mode=mode, mtime=mtime)


def directory(
    name: str | bytes, mode: int = 0o755, uid: int = 0, gid: int = 0, mtime: int = 0
) -> Item:
    """A directory."""
    return Item(name=_raw(name), kind=b"5", mode=mode, uid=uid, gid=gid, mtime=mtime)


def symlink(name: str | bytes, target: str | bytes, mtime: int = 0) -> Item:
    """A symlink."""
    return Item(name=_raw(name), kind=b"2", link=_raw(target), mode=0o777, mtime=mtime)


def hard_link(name: str | bytes, target: str | bytes, mode: int = 0o644, uid: int = 0) -> Item:
    """A hard link."""
    return Item(name=_raw(name), kind=b"1", link=_raw(target), mode=mode, uid=uid)


def device(name: str | bytes, major: int, minor: int, kind: bytes = b"3") -> Item:
    """A character device (``3``) or a block device (``4``)."""
    return Item(name=_raw(name), kind=kind, rdev=(major, minor), mode=0o600)


def _raw(name: str | bytes) -> bytes:
    return name.encode() if isinstance(name, str) else name
