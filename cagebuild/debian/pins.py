"""What cage.lock holds of a Debian base: each package by digest, and where it can be had."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from cagebuild import lockjson
from cagebuild.debian.relations import check_name, check_version
from cagebuild.debian.sources import (
    check_snapshot,
    check_suite,
    mirror_of,
    snapshot_of,
)
from cagebuild.digest import Digest

_FILENAME = re.compile(r"(?:[A-Za-z0-9+._~%-]+/)*[A-Za-z0-9+._~%-]+\.deb", re.ASCII)
_ARCHITECTURES = ("all", "amd64", "arm64")


def check_filename(filename: str) -> str:
    """The path below the archive's URL if it is the path of a package; ValueError otherwise."""
    if not _FILENAME.fullmatch(filename) or {".", ".."} & set(filename.split("/")):
        raise ValueError(f"not the path of a package: {filename[:80]!r}")
    return filename


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagePin:
    """One .deb."""

    name: str
    version: str
    architecture: str
    """Debian's name: ``amd64``, ``arm64`` or ``all``."""
    filename: str
    """Path below the archive's URL."""
    size: int
    """Bytes of the .deb."""
    sha256: Digest
    suite: str
    """Which of the pinned suites it is from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuitePin:
    """The state of a suite that the packages were chosen from."""

    suite: str
    date: int
    """The Date of its Release, in seconds since 1970."""
    snapshot: str
    """A time at which the snapshot archive has all of its packages: ``20260711T221637Z``."""
    release: Digest
    """SHA-256 of its InRelease file."""

    def locations(self, mirror: str, path: str) -> tuple[str, ...]:
        """URLs of a file of the suite's archive: on the mirror, then in the snapshot archive."""
        quoted = quote(path, safe="/~+%")
        return (
            f"{mirror_of(mirror, self.suite)}/{quoted}",
            f"{snapshot_of(self.suite, self.snapshot)}/{quoted}",
        )

    def to_json(self) -> dict[str, Any]:
        """What the lock holds; equal pins give equal values."""
        return {
            "suite": self.suite,
            "date": self.date,
            "snapshot": self.snapshot,
            "release": str(self.release),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class DebianPins:
    """All pins of one base."""

    mirror: str
    suites: tuple[SuitePin, ...]
    """In the order of the configuration."""
    packages: tuple[PackagePin, ...]
    """Sorted by name; no name is there twice."""

    @property
    def suite(self) -> str:
        """The suite that the configuration names first."""
        return self.suites[0].suite

    def locations(self, pin: PackagePin) -> tuple[str, ...]:
        """URLs of a package: on the mirror, then in the snapshot archive."""
        suite = next(each for each in self.suites if each.suite == pin.suite)
        return suite.locations(self.mirror, pin.filename)

    def to_json(self) -> dict[str, Any]:
        """What the lock holds; equal pins give equal values."""
        return {
            "mirror": self.mirror,
            "suites": [each.to_json() for each in self.suites],
            "packages": [
                {
                    "name": pin.name,
                    "version": pin.version,
                    "architecture": pin.architecture,
                    "filename": pin.filename,
                    "size": pin.size,
                    "sha256": pin.sha256.hex,
                    "suite": pin.suite,
                }
                for pin in self.packages
            ],
        }

    @classmethod
    def from_json(cls, data: object) -> DebianPins:
        """Read what ``to_json`` gave; raise LockError for anything else."""
        with lockjson.reading("Debian packages"):
            return _read(data)


def _read(data: object) -> DebianPins:
    top = lockjson.table(data, "mirror", "suites", "packages")
    pins = DebianPins(
        mirror=lockjson.text(top["mirror"]),
        suites=tuple(suite_pin(each) for each in lockjson.items(top["suites"])),
        packages=tuple(_package_pin(each) for each in lockjson.items(top["packages"])),
    )
    suites = [each.suite for each in pins.suites]
    names = [pin.name for pin in pins.packages]
    if not suites or len(set(suites)) != len(suites):
        raise ValueError("no suite, or one that is there twice")
    if names != sorted(set(names)):
        raise ValueError("packages are not sorted by name, or one is there twice")
    if unknown := {pin.suite for pin in pins.packages} - set(suites):
        raise ValueError(f"a package is from {sorted(unknown)[0]}, which is not pinned")
    return pins


def suite_pin(data: object) -> SuitePin:
    """Read what ``SuitePin.to_json`` gave; TypeError, ValueError, ResolveError."""
    each = lockjson.table(data, "suite", "date", "snapshot", "release")
    return SuitePin(
        suite=check_suite(lockjson.text(each["suite"])),
        date=lockjson.number(each["date"]),
        snapshot=check_snapshot(lockjson.text(each["snapshot"])),
        release=lockjson.digest(each["release"]),
    )


def _package_pin(data: object) -> PackagePin:
    each = lockjson.table(
        data, "name", "version", "architecture", "filename", "size", "sha256", "suite"
    )
    if each["architecture"] not in _ARCHITECTURES:
        raise ValueError(f"not an architecture: {str(each['architecture'])[:80]!r}")
    return PackagePin(
        name=check_name(lockjson.text(each["name"])),
        version=check_version(lockjson.text(each["version"])),
        architecture=lockjson.text(each["architecture"]),
        filename=check_filename(lockjson.text(each["filename"])),
        size=lockjson.number(each["size"]),
        sha256=Digest("sha256", lockjson.text(each["sha256"])),
        suite=lockjson.text(each["suite"]),
    )
