"""Digests: values that are checked when they are made and so cannot be invalid later.

The text form is that of the OCI image specification: ``sha256:`` and 64 lower-case hex digits.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_HEX_DIGITS = {"sha256": 64, "sha384": 96, "sha512": 128}
_TEXT = re.compile(r"(sha256|sha384|sha512):([0-9a-f]+)", re.ASCII)
_CHUNK = 1 << 20


class InvalidDigestError(ValueError):
    """The text is not ``algorithm:lower-case hex`` of the algorithm's length."""


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A content digest: algorithm name and lower-case hex digits."""

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        if _HEX_DIGITS.get(self.algorithm) != len(self.hex) or not _TEXT.fullmatch(str(self)):
            raise InvalidDigestError(f"not a digest: {self.algorithm}:{self.hex}"[:200])

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read ``sha256:<hex>`` (or sha384, sha512); raise InvalidDigestError otherwise."""
        algorithm, _, digits = text.partition(":")
        return cls(algorithm, digits)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of bytes in memory."""
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    @classmethod
    def of_chunks(cls, chunks: Iterable[bytes], algorithm: str = "sha256") -> Digest:
        """The digest of a stream of chunks."""
        state = hashlib.new(algorithm)
        for chunk in chunks:
            state.update(chunk)
        return cls(algorithm, state.hexdigest())

    @classmethod
    def of_stream(cls, stream: BinaryIO, algorithm: str = "sha256") -> Digest:
        """The digest of what is left of a binary stream, in constant memory."""
        return cls.of_chunks(iter(lambda: stream.read(_CHUNK), b""), algorithm)

    @classmethod
    def of_file(cls, path: Path, algorithm: str = "sha256") -> Digest:
        """The digest of a file's content; raises OSError."""
        with path.open("rb") as stream:
            return cls.of_stream(stream, algorithm)
