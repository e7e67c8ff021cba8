"""Pins of a Debian source package: its tar archives by digest, and where they can be had."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from cagebuild import lockjson
from cagebuild.debian.pins import SuitePin, suite_pin
from cagebuild.debian.relations import check_name, check_version
from cagebuild.digest import Digest

_PATH = re.compile(r"(?:[A-Za-z0-9+._~%-]+/)*[A-Za-z0-9+._~%-]+\.tar\.(?:gz|bz2|xz)", re.ASCII)


def check_source_path(path: str) -> str:
    """The path below the archive's URL if it is that of a tar archive; ValueError otherwise."""
    if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise ValueError(f"not the path of a source archive: {path[:80]!r}")
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceArchive:
    """One tar archive of a source package."""

    filename: str
    """Path below the archive's URL."""
    size: int
    """Bytes, compressed."""
    sha256: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePins:
    """One version of a source package, in the format ``3.0 (quilt)``."""

    mirror: str
    suite: SuitePin
    name: str
    version: str
    orig: SourceArchive
    """What its authors published."""
    debian: SourceArchive
    """Debian's patches and packaging."""

    def locations(self, archive: SourceArchive) -> tuple[str, ...]:
        """URLs of one of the archives: on the mirror, then in the snapshot archive."""
        return self.suite.locations(self.mirror, archive.filename)

    def to_json(self) -> dict[str, Any]:
        """What a file of pins holds; equal pins give equal values."""
        return {
            "mirror": self.mirror,
            "suite": self.suite.to_json(),
            "name": self.name,
            "version": self.version,
            "orig": _to_json(self.orig),
            "debian": _to_json(self.debian),
        }

    @classmethod
    def from_json(cls, data: object) -> SourcePins:
        """Read what ``to_json`` gave; raise LockError for anything else."""
        with lockjson.reading("Debian source package"):
            top = lockjson.table(data, "mirror", "suite", "name", "version", "orig", "debian")
            return cls(
                mirror=lockjson.text(top["mirror"]),
                suite=suite_pin(top["suite"]),
                name=check_name(lockjson.text(top["name"])),
                version=check_version(lockjson.text(top["version"])),
                orig=_from_json(top["orig"]),
                debian=_from_json(top["debian"]),
            )


def _to_json(archive: SourceArchive) -> dict[str, Any]:
    return {
        "filename": archive.filename,
        "size": archive.size,
        "sha256": archive.sha256.hex,
    }


def _from_json(data: object) -> SourceArchive:
    each = lockjson.table(data, "filename", "size", "sha256")
    return SourceArchive(
        filename=check_source_path(lockjson.text(each["filename"])),
        size=lockjson.number(each["size"]),
        sha256=Digest("sha256", lockjson.text(each["sha256"])),
    )
