"""Where Debian is: the pinned defaults and archive keys, and the names of things in an archive."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, Protocol

from cagebuild.errors import ResolveError

Architecture = Literal["x86_64", "aarch64"]

DEBIAN_ARCHITECTURE: Mapping[Architecture, str] = {"x86_64": "amd64", "aarch64": "arm64"}

_PINS = Path(__file__).parents[1] / "pins"
_SUITE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,79}", re.ASCII)
_COMPONENT = re.compile(r"[a-z0-9][a-z0-9-]{0,79}", re.ASCII)
_SNAPSHOT = re.compile(r"[0-9]{8}T[0-9]{6}Z", re.ASCII)


class Get(Protocol):
    """How bytes come over the network: FetchError when there are none, or more than ``limit``."""

    def __call__(self, url: str, *, limit: int) -> bytes:
        """The whole body of ``url``."""


class Base(Protocol):
    """What a cage says about its Debian base (``config.model.DebianBase``)."""

    @property
    def suite(self) -> str:
        """``bookworm``."""

    @property
    def updates(self) -> tuple[str, ...]:
        """Further suites, as ``bookworm-security``."""

    @property
    def packages(self) -> tuple[str, ...]:
        """``name``, ``name:amd64`` or ``name=version``."""

    @property
    def components(self) -> tuple[str, ...]:
        """``main``."""

    @property
    def mirror(self) -> str:
        """URL of the archive."""

    @property
    def snapshot(self) -> str | None:
        """``20260711T000000Z``, or None for what the mirror has now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """The content of ``pins/debian.json``."""

    mirror: str
    snapshot: str
    suite: str
    components: tuple[str, ...]
    kernel_suite: str
    kernel_component: str
    kernel_packages: Mapping[str, str]


@cache
def defaults() -> Defaults:
    """Pinned mirror, snapshot archive, suite and kernel packages."""
    data = json.loads((_PINS / "debian.json").read_bytes())
    kernel = data["kernel"]
    return Defaults(
        mirror=data["mirror"],
        snapshot=data["snapshot"],
        suite=data["suite"],
        components=tuple(data["components"]),
        kernel_suite=kernel["suite"],
        kernel_component=kernel["component"],
        kernel_packages=dict(kernel["packages"]),
    )


def archive_keyring() -> bytes:
    """Debian's public archive keys, as its package debian-archive-keyring has them."""
    return (_PINS / "debian-archive-keyring.gpg").read_bytes()


def check_suite(suite: str) -> str:
    """The suite's name if it is one; it becomes part of a URL. Raises ResolveError."""
    if not _SUITE.fullmatch(suite) or ".." in suite:
        raise ResolveError(f"not the name of a Debian suite: {suite[:80]!r}")
    return suite


def check_component(component: str) -> str:
    """The component's name if it is one; it becomes part of a URL. Raises ResolveError."""
    if not _COMPONENT.fullmatch(component):
        raise ResolveError(f"not the name of a component of Debian: {component[:80]!r}")
    return component


def check_snapshot(snapshot: str) -> str:
    """The time stamp if it has the archive's form, ``20260711T000000Z``. Raises ResolveError."""
    if not _SNAPSHOT.fullmatch(snapshot):
        raise ResolveError(
            f"not a time of Debian's snapshot archive: {snapshot[:80]!r}",
            hint="write it as in 20260711T000000Z",
        )
    return snapshot


def is_security(suite: str) -> bool:
    """Whether a suite lives in the security archive, beside the main one."""
    return suite.endswith("-security")


def mirror_of(mirror: str, suite: str) -> str:
    """The URL of the archive that has a suite.

    Security suites are a second archive: ``<mirror>-security``, as on Debian's own servers.
    """
    return mirror.rstrip("/") + ("-security" if is_security(suite) else "")


def snapshot_of(suite: str, time: str) -> str:
    """The URL of the snapshot archive's state of a suite's archive at ``time``."""
    area = "debian-security" if is_security(suite) else "debian"
    return f"{defaults().snapshot}/{area}/{time}"
