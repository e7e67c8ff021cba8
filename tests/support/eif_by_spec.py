"""Enclave image files and cpio archives as their specifications describe them, for tests only.

Written from the text of the specifications and sharing no code with the product: everything is held
in memory and cut with slices. It is as strict as the text.
"""

from __future__ import annotations

import binascii
import hashlib
import json
from dataclasses import dataclass, field


class NotToSpecError(AssertionError):
    """The bytes are not what the specification asks for."""


def demand(condition: bool, what: str) -> None:
    if not condition:
        raise NotToSpecError(what)


@dataclass(frozen=True)
class CpioEntry:
    ino: int
    mode: int
    uid: int
    gid: int
    nlink: int
    mtime: int
    dev: tuple[int, int]
    rdev: tuple[int, int]
    check: int
    name: bytes
    data: bytes


@dataclass(frozen=True)
class Archive:
    entries: list[CpioEntry]
    trailer: CpioEntry
    padded_to: int


def cpio(archive: bytes) -> Archive:
    """Every field of every entry of a 'newc' archive, the trailer apart."""
    at = 0
    entries: list[CpioEntry] = []
    while True:
        demand(archive[at : at + 6] == b"070701", f"magic at {at}")
        numbers = []
        for column in range(13):
            digits = archive[at + 6 + 8 * column : at + 14 + 8 * column]
            demand(digits == digits.lower() and len(digits) == 8, f"lower-case digits at {at}")
            numbers.append(int(digits, 16))
        ino, mode, uid, gid, nlink, mtime, size = numbers[:7]
        length = numbers[11]
        name_at = at + 6 + 13 * 8
        demand(archive[name_at + length - 1] == 0, f"NUL after the name at {name_at}")
        name = archive[name_at : name_at + length - 1]
        data_at = name_at + length
        while data_at % 4:
            demand(archive[data_at] == 0, f"padding at {data_at}")
            data_at += 1
        data = archive[data_at : data_at + size]
        demand(len(data) == size, f"{size} bytes of data at {data_at}")
        at = data_at + size
        while at % 4:
            demand(archive[at] == 0, f"padding at {at}")
            at += 1
        entry = CpioEntry(
            ino=ino,
            mode=mode,
            uid=uid,
            gid=gid,
            nlink=nlink,
            mtime=mtime,
            dev=(numbers[7], numbers[8]),
            rdev=(numbers[9], numbers[10]),
            check=numbers[12],
            name=name,
            data=data,
        )
        if name == b"TRAILER!!!":
            break
        entries.append(entry)
    rest = archive[at:]
    demand(rest == bytes(len(rest)), "zeros after the trailer")
    demand(len(archive) % 512 == 0 and len(rest) < 512, "padding to a multiple of 512")
    return Archive(entries=entries, trailer=entry, padded_to=len(archive))


KERNEL, CMDLINE, RAMDISK, SIGNATURE, METADATA = 1, 2, 3, 4, 5


@dataclass
class EnclaveImage:
    version: int = 0
    flags: int = 0
    default_mem: int = 0
    default_cpus: int = 0
    kinds: list[int] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)

    def only(self, kind: int) -> bytes:
        found = [d for k, d in zip(self.kinds, self.data, strict=True) if k == kind]
        demand(len(found) == 1, f"one section of type {kind}")
        return found[0]

    @property
    def ramdisks(self) -> list[bytes]:
        return [d for k, d in zip(self.kinds, self.data, strict=True) if k == RAMDISK]

    @property
    def metadata(self) -> object:
        return json.loads(self.only(METADATA))


def image(file: bytes) -> EnclaveImage:
    """The sections of an enclave image file whose header, offsets and CRC are right."""

    def number(at: int, width: int) -> int:
        return int.from_bytes(file[at : at + width], "big")

    demand(file[0:4] == b".eif", "magic")
    found = EnclaveImage(
        version=number(4, 2),
        flags=number(6, 2),
        default_mem=number(8, 8),
        default_cpus=number(16, 8),
    )
    demand(found.version == 4, "version 4")
    demand(number(24, 2) == 0, "reserved is zero")
    count = number(26, 2)
    demand(2 <= count <= 32, "2 to 32 sections")
    offsets = [number(28 + 8 * i, 8) for i in range(32)]
    sizes = [number(284 + 8 * i, 8) for i in range(32)]
    demand(number(540, 4) == 0, "reserved is zero")
    demand(number(544, 4) == binascii.crc32(file[:544] + file[548:]), "CRC")
    demand(offsets[count:] == [0] * (32 - count), "unused offsets are zero")
    demand(sizes[count:] == [0] * (32 - count), "unused sizes are zero")
    at = 548
    for offset, size in zip(offsets[:count], sizes[:count], strict=True):
        demand(offset == at, "sections follow each other")
        demand(number(at + 2, 2) == 0, "no section flags")
        demand(number(at + 4, 8) == size, "the section says the header's size")
        found.kinds.append(number(at, 2))
        found.data.append(file[at + 12 : at + 12 + size])
        at += 12 + size
    demand(at == len(file), "nothing after the last section")
    return found


def pcr(*contents: bytes) -> str:
    """SHA384(48 zero bytes ‖ SHA384(contents)), in hex."""
    inner = hashlib.sha384(b"".join(contents)).digest()
    return hashlib.sha384(b"\0" * 48 + inner).hexdigest()


def pcrs(of: EnclaveImage) -> dict[str, str]:
    """PCR0, PCR1 and PCR2 by their definitions."""
    kernel, cmdline = of.only(KERNEL), of.only(CMDLINE)
    return {
        "PCR0": pcr(kernel, cmdline, *of.ramdisks),
        "PCR1": pcr(kernel, cmdline, of.ramdisks[0]),
        "PCR2": pcr(*of.ramdisks[1:]),
    }
