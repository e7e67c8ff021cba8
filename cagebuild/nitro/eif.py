"""Writing enclave image files (EIF), version 4, in one pass and in memory that does not grow with
the image.

Source of the format: aws/aws-nitro-enclaves-image-format: README.md, src/defs/mod.rs,
src/utils/mod.rs. The header is written last: it holds sizes and a CRC that are known only then.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cagebuild.errors import EifError
from cagebuild.nitro import crc
from cagebuild.nitro.bootfiles import check_kernel
from cagebuild.nitro.newfile import new_file, write_all
from cagebuild.nitro.parallel import fan_out
from cagebuild.nitro.pcr import Architecture, Measured, Measurements, Section, SectionName, extend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from cagebuild.nitro.sign import Certificate, Signer

MAGIC = b".eif"
VERSION = 4
MAX_SECTIONS = 32
HEADER = struct.Struct(">4sHHQQHH32Q32QII")
SECTION_HEADER = struct.Struct(">HHQ")
SECTION_TYPES: dict[SectionName, int] = {
    "kernel": 1,
    "cmdline": 2,
    "ramdisk": 3,
    "signature": 4,
    "metadata": 5,
}
FLAG_AARCH64 = 1
# What the AWS writer puts there; whoever starts an enclave says how much memory and how many CPUs
# it gets.
DEFAULT_MEMORY = 1 << 30
DEFAULT_CPUS = 2
MAX_SIGNATURE = 32_768
MAX_METADATA = 1 << 20
CRC_SIZE = 4
_MAX_CMDLINE = 2047  # the kernels' COMMAND_LINE_SIZE less the NUL
_READ = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What goes into an image file. The ramdisks' bytes are consumed once."""

    architecture: Architecture
    kernel: Path
    cmdline: bytes
    """As the kernel gets it: no line break at the end."""
    metadata: bytes
    """JSON, made by ``metadata.metadata_json``."""
    boot_ramdisk: Iterable[bytes]
    image_ramdisk: Iterable[bytes]
    epoch: int
    """Seconds since 1970; only reported, see ``metadata`` for what is written."""


def write(
    contents: Contents,
    output: Path,
    *,
    signer: Signer | None = None,
    certificate: Certificate | None = None,
    progress: Callable[[int], None] | None = None,
) -> Measured:
    """Write the image file and return what it measures. ``certificate`` decides PCR8.

    The file appears under its name only when it is whole. ``progress`` is told the bytes done so
    far and may raise to stop. Raises EifError, SigningError, and whatever the ramdisks raise.
    """
    _check(contents)
    with new_file(output) as descriptor:
        writer = _Writer(contents=contents, descriptor=descriptor, progress=progress)
        measured = writer.run(certificate)
        if signer is not None:
            writer.sign(signer, measured.measurements.pcr0)
        writer.finish(descriptor)
    return measured


def measure(
    contents: Contents,
    *,
    certificate: Certificate | None = None,
    progress: Callable[[int], None] | None = None,
) -> Measured:
    """What ``write`` would return, without a file. ``certificate`` decides PCR8."""
    _check(contents)
    return _Writer(contents=contents, descriptor=None, progress=progress).run(certificate)


def _check(contents: Contents) -> None:
    check_kernel(contents.kernel, contents.architecture)
    if b"\0" in contents.cmdline:
        raise EifError("the kernel's command line has a NUL byte", hint="remove it")
    if len(contents.cmdline) > _MAX_CMDLINE:
        raise EifError(
            f"the kernel's command line has {len(contents.cmdline)} bytes",
            hint=f"the kernel reads {_MAX_CMDLINE} at most; shorten it",
        )
    if len(contents.metadata) > MAX_METADATA:
        raise EifError(
            f"the metadata has {len(contents.metadata)} bytes; {MAX_METADATA} at most are allowed",
            hint="put less into the custom metadata; a cage's holds its ingress and egress",
        )


@dataclass(slots=True, kw_only=True)
class _Part:
    """One section as it was written."""

    name: SectionName
    offset: int
    size: int = 0
    crc: int = 0

    def store_in(self, descriptor: int) -> Callable[[bytes], None]:
        def store(chunk: bytes) -> None:
            self.crc = zlib.crc32(chunk, self.crc)
            write_all(descriptor, chunk)

        return store

    def header(self) -> bytes:
        return SECTION_HEADER.pack(SECTION_TYPES[self.name], 0, self.size)


@dataclass(slots=True, kw_only=True)
class _Writer:
    contents: Contents
    descriptor: int | None
    progress: Callable[[int], None] | None
    parts: list[_Part] = field(default_factory=list)
    position: int = HEADER.size

    def run(self, certificate: Certificate | None) -> Measured:
        """All but the signature and the header, hashed on the way."""
        given = self.contents
        whole = hashlib.sha384()
        sections = [
            self._section("kernel", _file(given.kernel), whole.update),
            self._section("cmdline", (given.cmdline,), whole.update),
            self._section("metadata", (given.metadata,)),
            self._section("ramdisk", given.boot_ramdisk, whole.update),
        ]
        boot = whole.digest()
        image = self._section("ramdisk", given.image_ramdisk, whole.update)
        measurements = Measurements(
            pcr0=extend(whole.digest()),
            pcr1=extend(boot),
            # One ramdisk is all that PCR2 covers, so its digest is that of the section.
            pcr2=extend(bytes.fromhex(image.sha384)),
            pcr8=certificate.pcr8 if certificate else None,
        )
        return Measured(
            measurements=measurements,
            architecture=given.architecture,
            epoch=given.epoch,
            sections=(*sections, image),
        )

    def _section(
        self, name: SectionName, data: Iterable[bytes], *consumers: Callable[[bytes], object]
    ) -> Section:
        part = _Part(name=name, offset=self.position)
        self.parts.append(part)
        own = hashlib.sha384()

        if self.descriptor is not None:
            os.lseek(self.descriptor, part.offset + SECTION_HEADER.size, os.SEEK_SET)
            consumers = (*consumers, part.store_in(self.descriptor))
        with fan_out(own.update, *consumers) as put:
            for chunk in data:
                put(chunk)
                part.size += len(chunk)
                if self.progress is not None:
                    self.progress(part.offset + part.size)
        self.position = part.offset + SECTION_HEADER.size + part.size
        return Section(name=name, size=part.size, sha384=own.hexdigest())

    def sign(self, signer: Signer, pcr0: str) -> None:
        """Add the signature section."""
        signature = signer.sign(bytes.fromhex(pcr0))
        if len(signature) > MAX_SIGNATURE:
            raise signature_too_large(len(signature))
        self._section("signature", (signature,))

    def finish(self, descriptor: int) -> None:
        """Write the headers of the sections and, with the CRC over everything, that of the file."""
        header = pack_header(
            self.contents.architecture, [(part.offset, part.size) for part in self.parts]
        )
        checksum = zlib.crc32(header)
        for part in self.parts:
            part_header = part.header()
            checksum = zlib.crc32(part_header, checksum)
            checksum = crc.combine(checksum, part.crc, part.size)
            os.pwrite(descriptor, part_header, part.offset)
        os.pwrite(descriptor, header + struct.pack(">I", checksum), 0)


def signature_too_large(size: int) -> EifError:
    """The error for a signature section beyond the format's limit."""
    return EifError(
        f"the signature section has {size} bytes; {MAX_SIGNATURE} at most fit",
        hint="use a smaller certificate",
    )


def pack_header(architecture: Architecture, places: list[tuple[int, int]]) -> bytes:
    """The file's header but for the CRC. ``places`` are the sections' offsets and sizes."""
    unused = [0] * (MAX_SECTIONS - len(places))
    packed = HEADER.pack(
        MAGIC,
        VERSION,
        FLAG_AARCH64 if architecture == "aarch64" else 0,
        DEFAULT_MEMORY,
        DEFAULT_CPUS,
        0,
        len(places),
        *(offset for offset, _ in places),
        *unused,
        *(size for _, size in places),
        *unused,
        0,
        0,
    )
    return packed[:-CRC_SIZE]


def _file(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        yield from iter(lambda: stream.read(_READ), b"")
