"""Packages: an ar archive of ``debian-binary``, ``control.tar.*`` and ``data.tar.*`` (deb(5)).

Read strictly and in bounded memory: what dpkg-deb doesn't write is refused.
"""

from __future__ import annotations

import io
import lzma
import re
import zlib
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from cagebuild.debian.control import ControlSyntaxError, parse_paragraph
from cagebuild.debian.relations import RelationSyntaxError, check_name, check_version
from cagebuild.errors import ImageError
from cagebuild.image.tar import read_tar
from cagebuild.image.tree import FileSource, Kind, Region

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from _typeshed import WriteableBuffer as Buffer

MAX_CONTROL = 16 << 20
"""Bytes of an uncompressed control.tar, and of a compressed one."""
MAX_DATA = 8 << 30
"""Bytes of an uncompressed data.tar. Nothing in Debian comes near."""

_CHUNK = 1 << 20
_MEMORY = 256 << 20
_MAX_MEMBERS = 16
_MAGIC = b"!<arch>\n"
_HEADER = re.compile(
    rb"([!-~]{1,16}) *[0-9 ]{12}[0-9 ]{6}[0-9 ]{6}[0-7 ]{8}([0-9]{1,10}) *`\n", re.DOTALL
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deb:
    """A package's control file and where its files are."""

    name: str
    version: str
    architecture: str
    control: bytes
    """The control file as it is."""
    fields: Mapping[str, str]
    data: Path
    """The uncompressed data.tar."""

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class _Member(NamedTuple):
    name: str
    region: Region


def unpack(deb: Path, data: Path, *, limit: int = MAX_DATA) -> Deb:
    """Read a .deb and write its uncompressed data.tar, of at most ``limit`` bytes, to ``data``.

    Raises ImageError for anything but a well-formed package of format 2; OSError.
    """
    with closing(FileSource(deb)) as source:
        try:
            version, control, files = _parts(Region(source, 0, deb.stat().st_size))
            if not re.fullmatch(rb"2\.[0-9]{1,4}\n", version.region.pread(64, 0)):
                raise _MalformedError("it is not of format 2")
            text = _control_file(b"".join(_decompressed(control, MAX_CONTROL)))
            with data.open("wb") as out:
                for chunk in _decompressed(files, limit):
                    out.write(chunk)
            fields = parse_paragraph(text.decode())
            return Deb(
                name=check_name(fields["Package"]),
                version=check_version(fields["Version"]),
                architecture=fields["Architecture"],
                control=text,
                fields=fields,
                data=data,
            )
        except (_MalformedError, RelationSyntaxError, ControlSyntaxError) as error:
            raise _refused(deb, str(error)) from None
        except UnicodeDecodeError:
            raise _refused(deb, "its control file is not UTF-8") from None
        except KeyError as error:
            raise _refused(deb, f"its control file has no field {error.args[0]}") from None


class _MalformedError(ValueError):
    """What is wrong with the package."""


def _refused(deb: Path, reason: str) -> ImageError:
    return ImageError(
        f"{deb.name}: not a package that can be used: {reason}",
        hint="the file is damaged, or was not made by dpkg-deb",
    )


def _parts(region: Region) -> tuple[_Member, _Member, _Member]:
    """debian-binary, control.tar and data.tar, in this order; members that begin with ``_`` are
    skipped, as deb(5) wants it."""
    members = [member for member in _members(region) if not member.name.startswith("_")]
    names = [member.name for member in members]
    if (
        len(members) != 3
        or names[0] != "debian-binary"
        or not names[1].startswith("control.tar")
        or not names[2].startswith("data.tar")
    ):
        raise _MalformedError(f"its members are {', '.join(names)[:200] or 'none'}")
    return members[0], members[1], members[2]


def _members(region: Region) -> Iterator[_Member]:
    if region.pread(len(_MAGIC), 0) != _MAGIC:
        raise _MalformedError("it is not an ar archive")
    position = len(_MAGIC)
    for _ in range(_MAX_MEMBERS):
        if position >= region.size:
            return
        header = region.pread(60, position)
        match = _HEADER.fullmatch(header)
        if match is None:
            raise _MalformedError(f"there is no ar header at byte {position}")
        size = int(match[2])
        position += 60
        if size > region.size - position:
            raise _MalformedError("it is cut")
        yield _Member(
            match[1].decode().removesuffix("/"),
            Region(region.source, region.offset + position, size),
        )
        position += size
        if size % 2 and region.pread(1, position) not in (b"\n", b""):
            raise _MalformedError(f"there is no padding at byte {position}")
        position += size % 2
    raise _MalformedError("it has too many members")


def _control_file(archive: bytes) -> bytes:
    found = [
        b"".join(entry.node.read())
        for entry in read_tar(Region.of_bytes(archive), "control.tar")
        if entry.name.removeprefix(b"./") == b"control"
        and entry.node.kind is Kind.FILE
        and entry.link is None
    ]
    if len(found) != 1:
        raise _MalformedError(f"its control.tar has {len(found)} control files")
    return found[0]


def _decompressed(member: _Member, limit: int) -> Iterator[bytes]:
    """The content of a tar member in chunks of at most 1 MiB; more than ``limit`` is refused."""
    suffix = member.name.partition(".tar")[2]
    readers = {"": _plain, ".gz": _gzip, ".xz": _xz, ".zst": _zstd}
    if suffix not in readers:
        raise _MalformedError(f"{member.name} has a compression that is not known here")
    total = 0
    try:
        for chunk in readers[suffix](member.region):
            total += len(chunk)
            if total > limit:
                raise _MalformedError(f"{member.name} unpacks to more than {limit} bytes")
            yield chunk
    except (lzma.LZMAError, zlib.error, EOFError) as error:
        raise _MalformedError(f"{member.name} cannot be decompressed: {error}") from None


def _plain(region: Region) -> Iterator[bytes]:
    return region.chunks(_CHUNK)


def _gzip(region: Region) -> Iterator[bytes]:
    state = zlib.decompressobj(31)
    for chunk in region.chunks(_CHUNK):
        if state.eof:
            raise EOFError("something follows its end")
        left = chunk
        while left and not state.eof:
            yield state.decompress(left, _CHUNK)
            left = state.unconsumed_tail
    while not state.eof and (rest := state.decompress(state.unconsumed_tail, _CHUNK)):
        yield rest
    if not state.eof or state.unused_data:
        raise EOFError("something follows its end" if state.eof else "it is cut")


def _xz(region: Region) -> Iterator[bytes]:
    state = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)
    for chunk in region.chunks(_CHUNK):
        if state.eof:
            raise EOFError("something follows its end")
        yield state.decompress(chunk, _CHUNK)
        while not state.needs_input and not state.eof:
            yield state.decompress(b"", _CHUNK)
    if not state.eof or state.unused_data:
        raise EOFError("something follows its end" if state.eof else "it is cut")


class _File(io.RawIOBase):
    """A region as a file that is read from its start."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self._region.pread(len(view), self._position)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


def _zstd(region: Region) -> Iterator[bytes]:
    import zstandard

    # A frame that is cut ends without an error here; the reader of the tar archive then sees it.
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MEMORY)
    try:
        with decompressor.stream_reader(
            io.BufferedReader(_File(region), _CHUNK), read_across_frames=True
        ) as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
    except zstandard.ZstdError as error:
        raise EOFError(str(error)) from None
