"""From names to pins: the only part of what comes from Debian that uses the network."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cagebuild.debian import release as release_file
from cagebuild.debian.index import Universe, fetch_index
from cagebuild.debian.pins import DebianPins, PackagePin, SuitePin
from cagebuild.debian.resolve import resolve
from cagebuild.debian.sourceindex import fetch_sources, find_source
from cagebuild.debian.sourcepins import SourcePins
from cagebuild.debian.sources import (
    DEBIAN_ARCHITECTURE,
    Architecture,
    archive_keyring,
    check_component,
    check_snapshot,
    check_suite,
    defaults,
    mirror_of,
    snapshot_of,
)
from cagebuild.errors import ResolveError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cagebuild.debian.index import Package
    from cagebuild.debian.release import Release
    from cagebuild.debian.sources import Base, Get

SNAPSHOT_DELAY = 12 * 3600
"""Seconds from a Release's Date to the state of the snapshot archive that surely has its packages.

The archive takes a state about every six hours, after the mirrors were updated; and what a new
Release no longer names stays on the mirrors for at least a day.
"""


def lock_base(
    base: Base, architecture: Architecture, get: Get, *, keyring: bytes | None = None
) -> DebianPins:
    """Resolve a base to pins, from indexes that Debian signed.

    ``keyring`` is Debian's archive keyring unless given. Raises SignatureError, FetchError,
    DigestMismatchError, and ResolveError when packages are missing or do not fit together.
    """
    debian = DEBIAN_ARCHITECTURE[architecture]
    archive = _Archive(base.mirror, base.snapshot, get, keyring)
    universe = Universe(debian)
    suites = []
    for suite in dict.fromkeys((base.suite, *base.updates)):
        release = archive.add(suite, base.components, universe)
        suites.append(_suite_pin(release, base.snapshot))
    return DebianPins(
        mirror=archive.mirror,
        suites=tuple(suites),
        packages=tuple(_pin(package) for package in resolve(universe, base.packages)),
    )


def lock_package(
    name: str,
    suite: str,
    architecture: Architecture,
    get: Get,
    *,
    component: str = "main",
    mirror: str | None = None,
    keyring: bytes | None = None,
) -> DebianPins:
    """Pin the newest version of one package that a suite has, without what it depends on.

    ``mirror`` is Debian's unless given. Raises as ``lock_base`` does.
    """
    archive = _Archive(mirror or defaults().mirror, None, get, keyring)
    universe = Universe(DEBIAN_ARCHITECTURE[architecture])
    release = archive.add(suite, (component,), universe)
    package = universe.candidate(name)
    if package is None:
        raise ResolveError(f"{suite} has no package {name} for {architecture}")
    return _one(archive, release, package)


def lock_kernel(
    architecture: Architecture,
    get: Get,
    *,
    mirror: str | None = None,
    keyring: bytes | None = None,
) -> DebianPins:
    """Pin Debian's kernel: exactly one package, the one that the pinned meta-package depends on.

    It comes from a suite that gets no more updates, so that the pin does not move.
    """
    known = defaults()
    archive = _Archive(mirror or known.mirror, None, get, keyring)
    universe = Universe(DEBIAN_ARCHITECTURE[architecture])
    release = archive.add(known.kernel_suite, (known.kernel_component,), universe)
    meta = universe.candidate(known.kernel_packages[architecture])
    kernels = [
        package
        for clause in (meta.depends if meta else ())
        for relation in clause[:1]
        if relation.name.startswith("linux-image-")
        for package in universe.satisfying(relation)[:1]
    ]
    if len(kernels) != 1:
        raise ResolveError(
            f"{known.kernel_suite} has no kernel by the name {known.kernel_packages[architecture]}"
        )
    return _one(archive, release, kernels[0])


def lock_source(
    name: str,
    suite: str,
    component: str,
    get: Get,
    *,
    mirror: str | None = None,
    keyring: bytes | None = None,
) -> SourcePins:
    """Pin the newest version of a source package that a suite has: its tar archives.

    ``mirror`` is Debian's unless given. Raises as ``lock_base`` does.
    """
    archive = _Archive(mirror or defaults().mirror, None, get, keyring)
    release, root = archive.release(suite)
    index = fetch_sources(release, root, check_component(component), get)
    source = find_source(index, name, suite)
    return SourcePins(
        mirror=archive.mirror,
        suite=_suite_pin(release, None),
        name=source.name,
        version=source.version,
        orig=source.orig,
        debian=source.debian,
    )


class _Archive:
    """Debian's archive on a mirror, or as it was at the time of a snapshot."""

    def __init__(self, mirror: str, snapshot: str | None, get: Get, keyring: bytes | None) -> None:
        self.mirror = mirror.rstrip("/")
        self._snapshot = snapshot
        self._get = get
        self._keyring = keyring or archive_keyring()

    def add(self, suite: str, components: Iterable[str], universe: Universe) -> Release:
        """Add the packages of a suite for the universe's architecture; its verified Release."""
        release, root = self.release(suite)
        for component in components:
            for index in fetch_index(
                release, root, check_component(component), universe.architecture, self._get
            ):
                universe.add(index, suite)
        return release

    def release(self, suite: str) -> tuple[Release, str]:
        """The verified Release of a suite, and the URL of the archive that it describes."""
        if self._snapshot is None:
            root = mirror_of(self.mirror, check_suite(suite))
        else:
            root = snapshot_of(check_suite(suite), check_snapshot(self._snapshot))
        message = self._get(f"{root}/dists/{suite}/InRelease", limit=release_file.LIMIT)
        # Whoever asks for a state of the past knows that it isn't valid any more.
        now = time.time() if self._snapshot is None else None
        release = release_file.parse(message, suite=suite, keyring=self._keyring, now=now)
        made = release_file.snapshot_time(release.date)
        if self._snapshot is not None and made > self._snapshot:
            raise ResolveError(
                f"asked for {suite} of {self._snapshot}, got a Release that was made {made}",
                hint="the snapshot archive has nothing that old, or the server is not the archive",
            )
        return release, root


def _one(archive: _Archive, release: Release, package: Package) -> DebianPins:
    return DebianPins(
        mirror=archive.mirror, suites=(_suite_pin(release, None),), packages=(_pin(package),)
    )


def _suite_pin(release: Release, snapshot: str | None) -> SuitePin:
    return SuitePin(
        suite=release.suite,
        date=release.date,
        snapshot=snapshot or release_file.snapshot_time(release.date + SNAPSHOT_DELAY),
        release=release.digest,
    )


def _pin(package: Package) -> PackagePin:
    return PackagePin(
        name=package.name,
        version=package.version,
        architecture=package.architecture,
        filename=package.filename,
        size=package.size,
        sha256=package.sha256,
        suite=package.suite,
    )
