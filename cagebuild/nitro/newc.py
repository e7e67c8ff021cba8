"""Reading cpio archives in the "newc" form from untrusted bytes, forward only, in bounded memory.

Accepted is one well-formed archive with nothing but zeros after it.
Source of the format: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import hashlib
import stat
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cagebuild.errors import EifError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_NAME = 1 << 16
MAX_TARGET = 1 << 16
MAX_UNPACKED = 1 << 36
"""Bytes that a compressed ramdisk may come to: 64 GiB, more than an enclave's memory can take."""
_HEADER = 110
_CHUNK = 1 << 20
_HEX = frozenset(b"0123456789abcdefABCDEF")
_TRAILER = b"TRAILER!!!"

MemberKind = Literal["directory", "file", "symlink", "character", "block", "fifo", "socket"]
KINDS: dict[int, MemberKind] = {
    stat.S_IFDIR: "directory",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One entry of an archive as it was read."""

    name: bytes
    """As written, so with a slash at its end where it has one."""
    kind: MemberKind
    mode: int
    """Permission bits."""
    uid: int
    gid: int
    mtime: int
    size: int
    """Bytes of content; of a symlink: of its target."""
    target: bytes
    rdev: tuple[int, int]
    sha256: str
    """Hex digest of a regular file; empty for other types and when it was not asked for."""


class Stream:
    """Bytes of a ramdisk, read forward: fewer than asked for come only at the end."""

    def __init__(self, read: Callable[[int], bytes], where: str) -> None:
        self._read = read
        self.where = where
        self.position = 0

    def take(self, size: int) -> bytes:
        """Exactly ``size`` bytes (at most 1 MiB), or an EifError saying where the ramdisk ends."""
        data = self._read(size)
        if len(data) != size:
            raise self.error(f"ends {size - len(data)} bytes early")
        self.position += size
        return data

    def rest(self) -> Iterator[bytes]:
        """Whatever is left, in chunks."""
        while data := self._read(_CHUNK):
            self.position += len(data)
            yield data

    def error(self, what: str) -> EifError:
        """An error that names this ramdisk and the place in it."""
        return EifError(f"{self.where}, byte {self.position} of the archive: {what}")


class Gunzip:
    """The decompressed bytes of one gzip member; nothing but zeros may follow it."""

    def __init__(self, read: Callable[[int], bytes], where: str) -> None:
        self._compressed = read
        self._where = where
        self._inflater = zlib.decompressobj(wbits=31)
        self._held = bytearray()
        self._total = 0

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, fewer only at the end; raises EifError for damaged data."""
        while len(self._held) < size and not self._inflater.eof:
            self._more()
        data = bytes(self._held[:size])
        del self._held[:size]
        return data

    def _more(self) -> None:
        data = self._inflater.unconsumed_tail or self._compressed(_CHUNK)
        try:
            # At most so much comes out at once, however far a small input swells.
            out = self._inflater.decompress(data, _CHUNK)
        except zlib.error as error:
            raise EifError(f"{self._where}: damaged gzip data: {error}") from error
        self._total += len(out)
        if self._total > MAX_UNPACKED:
            raise EifError(f"{self._where}: unpacks to more than {MAX_UNPACKED} bytes")
        self._held += out
        if self._inflater.eof:
            self._end(self._inflater.unused_data)
        elif not data and not out:
            raise EifError(f"{self._where}: the gzip data ends early")

    def _end(self, tail: bytes) -> None:
        while tail:
            if tail.strip(b"\0"):
                raise EifError(f"{self._where}: there is data after the gzip data")
            tail = self._compressed(_CHUNK)


def members(stream: Stream, *, digests: bool) -> Iterator[Member]:
    """The archive's entries, with the SHA-256 of regular files when ``digests`` says so.

    Raises EifError naming ramdisk, offset and cause for anything but a well-formed archive.
    """
    while True:
        start = stream.position
        numbers = _numbers(stream)
        _, mode, uid, gid, _, mtime, size, _, _, major, minor, length, check = numbers
        if check:
            raise stream.error("a checksum where newc has none")
        name = _name(stream, length, start)
        if name == _TRAILER:
            if size:
                raise stream.error("the trailer has content")
            break
        kind = KINDS.get(stat.S_IFMT(mode))
        if kind is None:
            raise stream.error(f"entry of an unknown type (mode {mode:o})")
        if mode > 0o177777:
            raise stream.error(f"mode {mode:o} is out of range")
        target, sha256 = _content(stream, kind, size, digests)
        yield Member(
            name=name,
            kind=kind,
            mode=stat.S_IMODE(mode),
            uid=uid,
            gid=gid,
            mtime=mtime,
            size=size,
            target=target,
            rdev=(major, minor),
            sha256=sha256,
        )
    for data in stream.rest():
        if data.strip(b"\0"):
            raise stream.error("there is data after the archive's trailer")


def _numbers(stream: Stream) -> tuple[int, ...]:
    header = stream.take(_HEADER)
    if header[:6] != b"070701":
        raise stream.error("no newc header where one must be")
    digits = header[6:]
    if not _HEX.issuperset(digits):
        raise stream.error("a header field that is not 8 hex digits")
    packed = bytes.fromhex(digits.decode("ascii"))
    return struct.unpack(">13I", packed)


def _name(stream: Stream, length: int, start: int) -> bytes:
    if not 2 <= length <= MAX_NAME:
        raise stream.error(f"a name of {length} bytes")
    raw = stream.take(length)
    name = raw[:-1]
    if raw[-1] != 0 or b"\0" in name:
        raise stream.error("a name that does not end at its NUL byte")
    _padding(stream, -(stream.position - start) & 3)
    if b".." in name and b".." in name.split(b"/"):
        raise stream.error("a name with a '..' component")
    return name


def _content(stream: Stream, kind: MemberKind, size: int, digests: bool) -> tuple[bytes, str]:
    """A symlink's target, a regular file's digest."""
    target, sha256 = b"", ""
    if kind == "symlink":
        if not 1 <= size <= MAX_TARGET:
            raise stream.error(f"a symlink's target of {size} bytes")
        target = stream.take(size)
        if b"\0" in target:
            raise stream.error("a symlink's target with a NUL byte")
    elif kind == "file":
        state = hashlib.sha256() if digests else None
        left = size
        while left:
            data = stream.take(min(left, _CHUNK))
            left -= len(data)
            if state is not None:
                state.update(data)
        sha256 = state.hexdigest() if state is not None else ""
    elif size:
        raise stream.error(f"a {kind} with content")
    _padding(stream, -size & 3)
    return target, sha256


def _padding(stream: Stream, size: int) -> None:
    if size and stream.take(size).strip(b"\0"):
        raise stream.error("padding that is not zero")
