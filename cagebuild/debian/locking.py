"""From names to pins: the only part of the Debian bases that uses the network."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cagebuild.debian import release as release_file
from cagebuild.debian.index import Universe, fetch_index
from cagebuild.debian.pins import DebianPins, PackagePin, SuitePin
from cagebuild.debian.resolve import resolve
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
    universe = Universe(debian)
    suites = []
    for suite in dict.fromkeys((base.suite, *base.updates)):
        release, root = _release(base, check_suite(suite), get, keyring or archive_keyring())
        for component in base.components:
            for index in fetch_index(release, root, check_component(component), debian, get):
                universe.add(index, suite)
        suites.append(_suite_pin(release, base.snapshot))
    return DebianPins(
        mirror=base.mirror.rstrip("/"),
        suites=tuple(suites),
        packages=tuple(_pin(package) for package in resolve(universe, base.packages)),
    )


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
    debian = DEBIAN_ARCHITECTURE[architecture]
    root = mirror or known.mirror
    message = get(f"{root}/dists/{known.kernel_suite}/InRelease", limit=release_file.LIMIT)
    release = release_file.parse(
        message, suite=known.kernel_suite, keyring=keyring or archive_keyring(), now=time.time()
    )
    universe = Universe(debian)
    for index in fetch_index(release, root, known.kernel_component, debian, get):
        universe.add(index, known.kernel_suite)
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
    return DebianPins(
        mirror=root, suites=(_suite_pin(release, None),), packages=(_pin(kernels[0]),)
    )


def _release(base: Base, suite: str, get: Get, keyring: bytes) -> tuple[Release, str]:
    """The verified Release of a suite, and the URL of the archive that it describes."""
    if base.snapshot is None:
        root = mirror_of(base.mirror, suite)
    else:
        root = snapshot_of(suite, check_snapshot(base.snapshot))
    message = get(f"{root}/dists/{suite}/InRelease", limit=release_file.LIMIT)
    # Whoever asks for a state of the past knows that it isn't valid any more.
    now = time.time() if base.snapshot is None else None
    release = release_file.parse(message, suite=suite, keyring=keyring, now=now)
    made = release_file.snapshot_time(release.date)
    if base.snapshot is not None and made > base.snapshot:
        raise ResolveError(
            f"asked for {suite} of {base.snapshot}, got a Release that was made {made}",
            hint="the snapshot archive has nothing that old, or the server is not the archive",
        )
    return release, root


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
