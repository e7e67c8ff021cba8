"""Compressed streams, known by their first bytes: gzip, zstd, xz, or none.

Output comes in pieces of bounded size whatever the input says. Members or frames may follow one
another, nothing else may follow them. Formats: RFC 1952, RFC 8878, the .xz file format.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Literal

from cagebuild.digest import Digest
from cagebuild.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cagebuild.image.tree import Region

Format = Literal["gzip", "zstd", "xz", "plain"]

_INPUT = 1 << 18
_OUTPUT = 1 << 20
_XZ_MEMORY = 256 << 20
_ZSTD_WINDOW = 128 << 20
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_BLOCK = 128 << 10
_RATIO_FROM = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a stream may grow to: bytes, and times its compressed size once it is over 256 MiB."""

    max_bytes: int = 64 << 30
    max_ratio: int = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """What came out of a stream."""

    digest: Digest
    """SHA-256 of the uncompressed bytes: a layer's diff id."""
    size: int
    compressed: Digest
    """SHA-256 of the bytes that went in."""


def detect(first: bytes) -> Format:
    """The format of a stream that starts with these bytes (six are enough)."""
    if first.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    if first.startswith(b"\xfd7zXZ\0"):
        return "xz"
    skippable = len(first) >= 4 and first[0] & 0xF0 == 0x50 and first[1:4] == b"\x2a\x4d\x18"
    if skippable or first.startswith(_ZSTD_MAGIC):
        return "zstd"
    return "plain"


def decompress(region: Region, label: str, limits: Limits | None = None) -> Iterator[bytes]:
    """The uncompressed bytes of a region, in pieces of 1 MiB at most.

    ``label`` names the stream in errors. Raises ImageError when it is damaged, cut, followed by
    something else, or larger than the limits.
    """
    return _limited(_decompressed(region, label, _ignore), region.size, label, limits or Limits())


def unpack(region: Region, out: BinaryIO, label: str, limits: Limits | None = None) -> Unpacked:
    """Write the uncompressed bytes of a region to a file and say what they are.

    Raises ImageError as ``decompress`` does, and OSError.
    """
    compressed = hashlib.sha256()
    pieces = _decompressed(region, label, compressed.update)
    digest = hashlib.sha256()
    size = 0
    for piece in _limited(pieces, region.size, label, limits or Limits()):
        digest.update(piece)
        out.write(piece)
        size += len(piece)
    return Unpacked(
        digest=Digest("sha256", digest.hexdigest()),
        size=size,
        compressed=Digest("sha256", compressed.hexdigest()),
    )


def unpack_to(region: Region, path: Path, label: str, limits: Limits | None = None) -> Unpacked:
    """``unpack`` to a new file, which is removed again when that fails."""
    with path.open("xb") as out:
        try:
            return unpack(region, out, label, limits)
        except BaseException:
            path.unlink()
            raise


def _ignore(_: bytes) -> None:
    pass


def _limited(
    pieces: Iterator[bytes], compressed: int, label: str, limits: Limits
) -> Iterator[bytes]:
    most = min(limits.max_bytes, max(_RATIO_FROM, limits.max_ratio * compressed))
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > most:
            raise ImageError(
                f"{label}: {compressed} bytes unpack to more than {most}",
                hint="it is built to fill disks, or larger than an enclave can be",
            )
        yield piece


def _decompressed(region: Region, label: str, see: Callable[[bytes], object]) -> Iterator[bytes]:
    """Uncompressed pieces; ``see`` gets every byte that is read, in order."""
    match detect(region.pread(6, 0)):
        case "plain":
            for chunk in region.chunks():
                see(chunk)
                yield chunk
        case "gzip":
            yield from _gzip(_Input(region, see), label)
        case "xz":
            yield from _xz(_Input(region, see), label)
        case "zstd":
            yield from _zstd(_Input(region, see), label)


class _Input:
    """Sequential reading, with bytes put back."""

    def __init__(self, region: Region, see: Callable[[bytes], object]) -> None:
        self._chunks = region.chunks(_INPUT)
        self._see = see
        self._buffer = b""
        self._at = 0

    def some(self) -> bytes:
        """The next bytes, none at the end."""
        if self._at == len(self._buffer):
            self._buffer = next(self._chunks, b"")
            self._at = 0
            self._see(self._buffer)
        data = self._buffer[self._at :] if self._at else self._buffer
        self._at = len(self._buffer)
        return data

    def put_back(self, data: bytes) -> None:
        """Have the end of what ``some`` gave last come again."""
        self._at = len(self._buffer) - len(data)

    def exactly(self, size: int) -> bytes:
        """That many bytes, fewer only at the end."""
        data = self._buffer[self._at : self._at + size]
        self._at += len(data)
        while len(data) < size and (more := self.some()):
            self.put_back(more[size - len(data) :])
            data += more[: size - len(data)]
        return data


def _bad(label: str, what: str) -> ImageError:
    return ImageError(
        f"{label}: {what}", hint="the file is damaged or was cut; fetch or export it again"
    )


def _gzip(source: _Input, label: str) -> Iterator[bytes]:
    while data := source.some():
        if not data.startswith(b"\x1f"):
            raise _bad(label, "something follows the end of the gzip stream")
        member = zlib.decompressobj(wbits=31)
        while True:
            try:
                piece = member.decompress(data, _OUTPUT)
            except zlib.error as error:
                raise _bad(label, f"the gzip stream is damaged ({error})") from error
            if piece:
                yield piece
            if member.eof:
                break
            data = member.unconsumed_tail
            # A full piece may leave output behind even where no input is left.
            if not data and len(piece) < _OUTPUT:
                data = source.some()
                if not data:
                    raise _bad(label, "the gzip stream ends early")
        source.put_back(member.unused_data)


def _xz(source: _Input, label: str) -> Iterator[bytes]:
    import lzma

    while data := source.some():
        stream = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
        while not stream.eof:
            if stream.needs_input and not data:
                raise _bad(label, "the xz stream ends early")
            try:
                piece = stream.decompress(data, _OUTPUT)
            except lzma.LZMAError as error:
                raise _bad(label, f"the xz stream is damaged ({error})") from error
            if piece:
                yield piece
            data = source.some() if stream.needs_input and not stream.eof else b""
        source.put_back(stream.unused_data)


def _zstd(source: _Input, label: str) -> Iterator[bytes]:
    """Frames, given to the decompressor a block at a time.

    The library's streams don't say when their input is cut, and its objects give all output at
    once. A block never gives more than 128 KiB.
    """
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    while magic := source.exactly(4):
        if len(magic) == 4 and magic[0] & 0xF0 == 0x50 and magic[1:] == b"\x2a\x4d\x18":
            _skip_frame(source, label)
            continue
        if magic != _ZSTD_MAGIC:
            raise _bad(label, "something follows the end of the zstd stream")
        frame = decompressor.decompressobj()
        try:
            for part in _frame_parts(source, label):
                piece = frame.decompress(part)
                if piece:
                    yield piece
        except zstandard.ZstdError as error:
            raise _bad(label, f"the zstd stream is damaged ({error})") from error
        if not frame.eof:
            raise _bad(label, "the zstd stream is damaged")


def _take(source: _Input, size: int, label: str) -> bytes:
    data = source.exactly(size)
    if len(data) != size:
        raise _bad(label, "the zstd stream ends early")
    return data


def _skip_frame(source: _Input, label: str) -> None:
    left = int.from_bytes(_take(source, 4, label), "little")
    while left > 0:
        left -= len(_take(source, min(left, _INPUT), label))


def _frame_parts(source: _Input, label: str) -> Iterator[bytes]:
    """One frame after its magic number: its header, then each block, then its checksum."""
    descriptor = _take(source, 1, label)
    flags = descriptor[0]
    single = flags >> 5 & 1
    content_size = (single, 2, 4, 8)[flags >> 6]
    rest = (0 if single else 1) + (0, 1, 2, 4)[flags & 3] + content_size
    header = _ZSTD_MAGIC + descriptor + _take(source, rest, label)
    last = False
    while not last:
        field = _take(source, 3, label)
        number = int.from_bytes(field, "little")
        last, kind, size = bool(number & 1), number >> 1 & 3, number >> 3
        if kind == 3 or size > _ZSTD_BLOCK:
            raise _bad(label, "the zstd stream is damaged")
        yield header + field + _take(source, 1 if kind == 1 else size, label)
        header = b""
    if flags & 4:
        yield _take(source, 4, label)
