"""Manifests of enclaves that were never built: entries as a test wants them, PCRs that fit."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from cagebuild.nitro.manifest import Head, ManifestEntry, Writer
from cagebuild.nitro.pcr import Measurements, Section, extend

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cagebuild.nitro.pcr import SectionName


def file_entry(path: str, content: bytes = b"", *, origin: str = "app") -> ManifestEntry:
    """A regular file of the second ramdisk: 0644, 0:0, time 0."""
    return ManifestEntry(
        ramdisk=1,
        path=path.encode("utf-8", "surrogateescape"),
        kind="file",
        mode=0o644,
        uid=0,
        gid=0,
        mtime=0,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        origin=origin,
    )


def directory_entry(path: str, *, origin: str = "app") -> ManifestEntry:
    """A directory of the second ramdisk: 0755, 0:0, time 0."""
    found = replace(file_entry(path, origin=origin), kind="directory", mode=0o755)
    return replace(found, size=0, sha256="")


def symlink_entry(path: str, target: str, *, origin: str = "app") -> ManifestEntry:
    """A symlink of the second ramdisk."""
    found = replace(file_entry(path, origin=origin), kind="symlink", mode=0o777)
    return replace(found, size=0, sha256="", target=target.encode())


def write_manifest(
    folder: Path,
    name: str,
    entries: Sequence[ManifestEntry],
    *,
    kernel: bytes = b"kernel",
    cmdline: bytes = b"cmdline",
    salt: bytes = b"",
) -> Path:
    """A manifest of these entries; what the registers hold follows from all that is given.

    ``salt`` stands for bytes of the second ramdisk that its entries don't show.
    """
    ramdisks = [b"", salt]
    for entry in entries:
        ramdisks[entry.ramdisk] += replace(entry, origin="").line().encode()
    named: list[tuple[SectionName, bytes]] = [
        ("kernel", kernel),
        ("cmdline", cmdline),
        ("metadata", b"{}"),
        ("ramdisk", ramdisks[0]),
        ("ramdisk", ramdisks[1]),
    ]
    head = Head(
        architecture="x86_64",
        measurements=Measurements(
            pcr0=_pcr(kernel, cmdline, *ramdisks),
            pcr1=_pcr(kernel, cmdline, ramdisks[0]),
            pcr2=_pcr(ramdisks[1]),
        ),
        sections=tuple(
            Section(name=section, size=len(data), sha384=hashlib.sha384(data).hexdigest())
            for section, data in named
        ),
    )
    path = folder / name
    with Writer(folder) as writer:
        for entry in entries:
            writer.add(entry)
        writer.save(path, head)
    return path


def _pcr(*parts: bytes) -> str:
    return extend(hashlib.sha384(b"".join(parts)).digest())
