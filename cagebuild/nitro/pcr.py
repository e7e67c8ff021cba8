"""PCRs of an enclave image, and the two forms in which they are written down.

Source: AWS Nitro Enclaves user guide, "Where to get an enclave's measurements", and
aws/aws-nitro-enclaves-image-format: src/defs/eif_hasher.rs.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

HASH_ALGORITHM = "Sha384 { ... }"
"""As nitro-cli prints it."""

_PCR = re.compile(r"[0-9a-f]{96}", re.ASCII)

SectionName = Literal["kernel", "cmdline", "metadata", "ramdisk", "signature"]
Architecture = Literal["x86_64", "aarch64"]


def extend(digest: bytes) -> str:
    """The PCR, in hex, that is zero and then extended once with a SHA-384 digest (48 bytes)."""
    return hashlib.sha384(bytes(48) + digest).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """The PCRs that an image determines, 96 lower-case hex digits each."""

    pcr0: str
    """Kernel, command line and every ramdisk."""
    pcr1: str
    """Kernel, command line and the first ramdisk."""
    pcr2: str
    """All ramdisks but the first."""
    pcr8: str | None = None
    """The signing certificate; None for an unsigned image, whose PCR8 is zero."""

    def __post_init__(self) -> None:
        for value in (self.pcr0, self.pcr1, self.pcr2, self.pcr8):
            if value is not None and not _PCR.fullmatch(value):
                raise ValueError(f"not a SHA-384 PCR: {value[:200]!r}")

    def pcrs(self) -> dict[str, str]:
        """``PCR0`` … by name, in order; PCR8 only where there is one."""
        named = {"PCR0": self.pcr0, "PCR1": self.pcr1, "PCR2": self.pcr2}
        return named if self.pcr8 is None else {**named, "PCR8": self.pcr8}

    def to_json(self) -> dict[str, object]:
        """The object that `nitro-cli build-enclave` prints."""
        return {"Measurements": {"HashAlgorithm": HASH_ALGORITHM, **self.pcrs()}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One section's data: its size in bytes and SHA-384 in hex."""

    name: SectionName
    size: int
    sha384: str

    def to_json(self) -> dict[str, object]:
        """For measurements.json and manifests."""
        return {"section": self.name, "size": self.size, "sha384": self.sha384}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a build comes to: PCRs, and the sections they were made of."""

    measurements: Measurements
    architecture: Architecture
    epoch: int
    """The build's time stamp, seconds since 1970."""
    sections: tuple[Section, ...]
    """In file order, without the signature, which is not the same twice."""

    @property
    def size(self) -> int:
        """Bytes of the image file without a signature."""
        return 548 + sum(12 + section.size for section in self.sections)

    def to_json(self) -> dict[str, object]:
        """measurements.json; schemas/measurements.schema.json describes it."""
        return {
            **self.measurements.to_json(),
            "architecture": self.architecture,
            "epoch": self.epoch,
            "size": self.size,
            "sections": [section.to_json() for section in self.sections],
        }
