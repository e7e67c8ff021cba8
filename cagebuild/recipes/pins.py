"""The pins of recipes, as data: what goes in, and the digests of what has to come out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

from cagebuild.debian.pins import DebianPins
from cagebuild.debian.sourcepins import SourcePins
from cagebuild.digest import Digest
from cagebuild.runtime.pins import read

BUILDS_ON: Final = "x86_64"
"""The architecture of the machine, real or emulated, that recipes run on."""
TOOLCHAIN: Final = "toolchain.json"
SOURCES: Final = "sources.json"
KERNEL: Final = "kernel.json"
RUNTIME: Final = "runtime.json"
HOST: Final = "host.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """The root filesystem that everything is built in: packages of a suite that moves no more."""

    wanted: tuple[str, ...]
    """The packages that were asked for; the rest is what they depend on."""
    packages: DebianPins
    outputs: dict[str, Digest]
    """Of the step that assembles it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What is compiled and is not in this repository."""

    linux: DebianPins
    """One package, with Linux's source as Debian patches it."""
    busybox: SourcePins

    @property
    def linux_version(self) -> str:
        """Such as ``6.12.117-1~deb12u1``."""
        return self.linux.packages[0].version


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A file that comes out of a recipe."""

    digest: Digest
    size: int


@cache
def toolchain() -> Toolchain:
    """The pinned root filesystem."""
    data = read(TOOLCHAIN)
    return Toolchain(
        wanted=tuple(data["wanted"]),
        packages=DebianPins.from_json(data["pins"]),
        outputs={name: Digest.parse(text) for name, text in data["outputs"].items()},
    )


@cache
def sources() -> Sources:
    """The pinned sources."""
    data = read(SOURCES)
    return Sources(
        linux=DebianPins.from_json(data["linux"]), busybox=SourcePins.from_json(data["busybox"])
    )


def kernel(architecture: str) -> Made:
    """The kernel that this version's recipe makes."""
    return _made(KERNEL, architecture)


def installer(architecture: str) -> Made:
    """The runtime installer that this version's recipe makes."""
    return _made(RUNTIME, architecture)


def host(architecture: str) -> Made:
    """The program cage-host that this version's recipe makes."""
    return _made(HOST, architecture)


def _made(name: str, architecture: str) -> Made:
    pin = read(name)[architecture]
    return Made(digest=Digest.parse(pin["digest"]), size=pin["size"])
