"""Reading enclave image files that nobody vouches for: strictly, and in bounded memory.

``read`` checks everything that can be checked (structure, CRC, PCRs, signature, metadata) in one
pass and returns it; ``ramdisk_members`` goes through the ramdisks' entries. Every failure is an
EifError that names section or offset and the cause. Source of the format:
aws/aws-nitro-enclaves-image-format: README.md, src/defs/mod.rs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cagebuild.errors import EifError
from cagebuild.nitro import eif, newc, sign
from cagebuild.nitro.parallel import fan_out
from cagebuild.nitro.pcr import Architecture, Measurements, Section, SectionName, extend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_CHUNK = 1 << 20
_OLDEST = 2  # version 1 had no CRC
_SIGNED_SINCE = 3
_METADATA_SINCE = 4
_NAMES: dict[int, SectionName] = {number: name for name, number in eif.SECTION_TYPES.items()}
_MAX_DEPTH = 32
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The file's header, without what is only bookkeeping."""

    version: int
    architecture: Architecture
    default_memory: int
    default_cpus: int
    crc: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a section's data lies in the file."""

    name: SectionName
    offset: int
    """Of the data, after the section's own header."""
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Eif:
    """An image file whose every checksum and signature was found right."""

    path: Path
    header: Header
    places: tuple[Place, ...]
    sections: tuple[Section, ...]
    """As ``places``, with digests."""
    measurements: Measurements
    metadata: dict[str, object] | None
    signature: sign.Signature | None
    size: int
    identity: tuple[int, int, int]
    """Device, inode and time of change: tells whether it is still the file that was checked."""


def read(path: Path) -> Eif:
    """Check a whole image file and say what it holds; raises EifError."""
    with _opened(path) as (descriptor, status):
        size = status.st_size
        header, places, raw_header = _structure(descriptor, size)
        checked = _Pass()
        checked.run(descriptor, raw_header, places)
        if checked.crc != header.crc:
            raise EifError(
                f"the CRC is {checked.crc:08x}, the header says {header.crc:08x}",
                hint="the file was damaged; get it again from where it was built",
            )
        pcr0 = extend(checked.whole.digest())
        signed = checked.kept.get("signature")
        signature = None if signed is None else sign.verify(signed, bytes.fromhex(pcr0))
        metadata = checked.kept.get("metadata")
        return Eif(
            path=path,
            header=header,
            places=places,
            sections=tuple(checked.sections),
            measurements=Measurements(
                pcr0=pcr0,
                pcr1=extend(checked.boot.digest()),
                pcr2=extend(checked.image.digest()),
                pcr8=signature.certificate.pcr8 if signature else None,
            ),
            metadata=None if metadata is None else parse_metadata(metadata),
            signature=signature,
            size=size,
            identity=_identity(status),
        )


def ramdisk_members(image: Eif, *, digests: bool = False) -> Iterator[tuple[int, newc.Member]]:
    """Every entry of every ramdisk with the ramdisk's number; raises EifError.

    Ramdisks may be compressed with gzip, as nitro-cli made them before 2024. With ``digests`` the
    SHA-256 of each regular file is computed on the way.
    """
    with _opened(image.path) as (descriptor, status):
        if _identity(status) != image.identity:
            raise EifError("the file was replaced after it was checked")
        ramdisks = [place for place in image.places if place.name == "ramdisk"]
        for number, place in enumerate(ramdisks):
            where = f"ramdisk {number}"
            data = _section_reader(descriptor, place)
            if os.pread(descriptor, min(2, place.size), place.offset) == _GZIP:
                data = newc.Gunzip(data, where).read
            stream = newc.Stream(data, where)
            for member in newc.members(stream, digests=digests):
                yield number, member


def parse_metadata(data: bytes) -> dict[str, object]:
    """The metadata section's JSON object; raises EifError. Depth and size are limited."""
    depth = 0
    for token in re.finditer(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', data, re.DOTALL):
        if token[0] in (b"[", b"{"):
            depth += 1
            if depth > _MAX_DEPTH:
                raise EifError(f"metadata section: nested more than {_MAX_DEPTH} deep")
        elif token[0] in (b"]", b"}"):
            depth -= 1
    try:
        value = json.loads(data.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise EifError(f"metadata section: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise EifError("metadata section: not a JSON object")
    return value


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[int, os.stat_result]]:
    """Descriptor and status of a regular file. Errors inside the block get the file's name."""
    try:
        # O_NONBLOCK: opening a FIFO must not wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise EifError(f"cannot read {path}: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise EifError("not a regular file")
        yield descriptor, status
    except EifError as error:
        raise EifError(f"{path}: {error.message}", hint=error.hint) from error
    except OSError as error:
        raise EifError(f"{path}: cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_dev, status.st_ino, status.st_ctime_ns


def _structure(descriptor: int, size: int) -> tuple[Header, tuple[Place, ...], bytes]:
    """Header and sections, all in place and in order, before any content is looked at."""
    raw = os.pread(descriptor, eif.HEADER.size, 0)
    if raw[:4] != eif.MAGIC:
        raise EifError("not an enclave image file: it does not start with '.eif'")
    if len(raw) < eif.HEADER.size:
        raise EifError(f"the header has {eif.HEADER.size} bytes, the file {len(raw)}")
    _, version, flags, memory, cpus, reserved, count, *rest = eif.HEADER.unpack(raw)
    offsets, sizes = rest[: eif.MAX_SECTIONS], rest[eif.MAX_SECTIONS : 2 * eif.MAX_SECTIONS]
    unused, crc = rest[2 * eif.MAX_SECTIONS :]
    if not _OLDEST <= version <= eif.VERSION:
        raise EifError(
            f"version {version} of the format is not known; {_OLDEST} to {eif.VERSION} are"
        )
    if flags & ~eif.FLAG_AARCH64 or reserved or unused:
        raise EifError("flags or reserved fields of the header are set that have no meaning")
    if not 2 <= count <= eif.MAX_SECTIONS:
        raise EifError(f"{count} sections; there must be 2 to {eif.MAX_SECTIONS}")
    if any(offsets[count:]) or any(sizes[count:]):
        raise EifError(f"the header has offsets or sizes beyond its {count} sections")
    places = []
    position = eif.HEADER.size
    for number, (offset, length) in enumerate(zip(offsets[:count], sizes[:count], strict=True)):
        places.append(_place(descriptor, size, number, (position, offset, length)))
        position = offset + eif.SECTION_HEADER.size + length
    if position != size:
        raise EifError(f"{size - position} bytes after the last section")
    _check_order(version, [place.name for place in places])
    for place in places:
        _check_size(place)
    header = Header(
        version=version,
        architecture="aarch64" if flags & eif.FLAG_AARCH64 else "x86_64",
        default_memory=memory,
        default_cpus=cpus,
        crc=crc,
    )
    return header, tuple(places), raw[: -eif.CRC_SIZE]


def _place(descriptor: int, file_size: int, number: int, where: tuple[int, int, int]) -> Place:
    expected, offset, length = where
    if offset != expected:
        how = "overlaps what is before it" if offset < expected else "leaves a gap before it"
        raise EifError(f"section {number} at offset {offset} {how}: it must start at {expected}")
    data = offset + eif.SECTION_HEADER.size
    if data + length > file_size:
        raise EifError(
            f"section {number} at offset {offset} with {length} bytes reaches past the file's end "
            f"({file_size} bytes)"
        )
    kind, flags, size = eif.SECTION_HEADER.unpack(
        os.pread(descriptor, eif.SECTION_HEADER.size, offset)
    )
    name = _NAMES.get(kind)
    if name is None:
        raise EifError(f"section {number} at offset {offset} is of the unknown type {kind}")
    if flags:
        raise EifError(f"section {number} ({name}) at offset {offset} has flags: {flags:#x}")
    if size != length:
        raise EifError(
            f"section {number} ({name}) at offset {offset} says {size} bytes, the header {length}"
        )
    return Place(name=name, offset=data, size=length)


def _check_order(version: int, names: list[SectionName]) -> None:
    for name, count in Counter(names).items():
        if count > 1 and name != "ramdisk":
            raise EifError(f"more than one {name} section")
    for needed in ("kernel", "cmdline", "ramdisk"):
        if needed not in names:
            raise EifError(f"no {needed} section")
    if names.index("kernel") > names.index("ramdisk"):
        raise EifError("a ramdisk section comes before the kernel")
    if version >= _METADATA_SINCE and "metadata" not in names:
        raise EifError(f"no metadata section, which version {version} must have")
    if version < _METADATA_SINCE and "metadata" in names:
        raise EifError(f"a metadata section, which version {version} does not have")
    if version < _SIGNED_SINCE and "signature" in names:
        raise EifError(f"a signature section, which version {version} does not have")


def _check_size(place: Place) -> None:
    limits: dict[SectionName, int] = {
        "signature": eif.MAX_SIGNATURE,
        "metadata": eif.MAX_METADATA,
        "cmdline": 1 << 16,
    }
    limit = limits.get(place.name)
    if limit is not None and place.size > limit:
        raise EifError(f"the {place.name} section has {place.size} bytes; at most {limit} may be")


class _Pass:
    """One pass over all sections: the CRC, every digest, and the small sections' data."""

    def __init__(self) -> None:
        self.whole = hashlib.sha384()  # PCR0
        self.boot = hashlib.sha384()  # PCR1
        self.image = hashlib.sha384()  # PCR2
        self.crc = 0
        self.sections: list[Section] = []
        self.kept: dict[SectionName, bytes] = {}
        self._ramdisks = 0

    def run(self, descriptor: int, raw_header: bytes, places: tuple[Place, ...]) -> None:
        self.crc = zlib.crc32(raw_header)
        for place in places:
            head = os.pread(descriptor, eif.SECTION_HEADER.size, place.offset - 12)
            self._check(head)
            own = hashlib.sha384()
            read_more = _section_reader(descriptor, place)
            with fan_out(own.update, self._check, *self._pcrs(place.name)) as put:
                while data := read_more(_CHUNK):
                    put(data)
            self.sections.append(Section(name=place.name, size=place.size, sha384=own.hexdigest()))
            if place.name in ("metadata", "signature"):
                self.kept[place.name] = _section_reader(descriptor, place)(place.size)

    def _check(self, data: bytes) -> None:
        self.crc = zlib.crc32(data, self.crc)

    def _pcrs(self, name: SectionName) -> list[Callable[[bytes], object]]:
        """The PCRs' hashes that cover the next section of this name."""
        if name in ("metadata", "signature"):
            return []
        if name == "ramdisk":
            self._ramdisks += 1
            if self._ramdisks > 1:
                return [self.whole.update, self.image.update]
        return [self.whole.update, self.boot.update]


def _section_reader(descriptor: int, place: Place) -> Callable[[int], bytes]:
    """Reads a section's data forward: up to so many bytes, fewer only at its end."""
    position = place.offset
    end = place.offset + place.size

    def read_more(size: int) -> bytes:
        nonlocal position
        wanted = min(size, end - position)
        data = os.pread(descriptor, wanted, position) if wanted else b""
        if len(data) != wanted:
            raise EifError(f"the file was cut while it was read, at offset {position}")
        position += len(data)
        return data

    return read_more
