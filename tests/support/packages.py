"""Debian's real packages: locked, fetched by digest, made into a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cagebuild.debian.base import Named, build
from cagebuild.debian.locking import lock_base
from cagebuild.debian.sources import defaults
from cagebuild.digest import Digest
from cagebuild.fetch.http import get

if TYPE_CHECKING:
    from pathlib import Path

    from cagebuild.debian.pins import DebianPins, PackagePin
    from cagebuild.debian.sources import Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a cage says of its base."""

    packages: tuple[str, ...]
    suite: str = "bookworm"
    updates: tuple[str, ...] = ()
    components: tuple[str, ...] = ("main",)
    mirror: str = defaults().mirror
    snapshot: str | None = None


def fetched(pins: DebianPins, pin: PackagePin, folder: Path) -> Path:
    path = folder / f"{pin.name}.deb"
    data = get(pins.locations(pin)[0], limit=pin.size)
    assert Digest.of(data) == pin.sha256
    path.write_bytes(data)
    return path


def closure(folder: Path, *names: str, architecture: Architecture = "x86_64") -> list[Named]:
    """The named packages and what they depend on, in a folder."""
    pins = lock_base(Wanted(packages=names), architecture, get)
    return [Named(pin.name, pin.version, fetched(pins, pin, folder)) for pin in pins.packages]


def layer(packages: list[Named], folder: Path) -> Path:
    (folder / "scratch").mkdir(parents=True)
    build(
        packages,
        scratch=folder / "scratch",
        layer=folder / "layer.tar",
        origins=folder / "origins.json",
    )
    return folder / "layer.tar"
