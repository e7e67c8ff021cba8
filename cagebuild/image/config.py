"""The config of an image: how it is run, and the digests of its layers.

Formats: OCI image-spec config.md; Docker's config JSON, which has the same fields and a few more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from cagebuild.errors import ImageError
from cagebuild.image.manifest import MAX_CONFIG, MAX_LAYERS
from cagebuild.image.platform import Platform, read_platform
from cagebuild.image.strictjson import Reader, load_object
from cagebuild.step import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cagebuild.digest import Digest

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck:
    """How Docker checks the container; times in nanoseconds, 0 means the default."""

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """What an image says of itself. None is a value of its own: the key is missing or null."""

    architecture: str
    """OCI's name: ``amd64``, ``arm64``, …"""
    os: str
    variant: str | None = None
    env: tuple[str, ...] = ()
    """``NAME=value``, in the image's order."""
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    user: str = ""
    workdir: str = ""
    exposed_ports: tuple[str, ...] = ()
    """``80/tcp``, sorted."""
    volumes: tuple[str, ...] = ()
    stop_signal: str | None = None
    healthcheck: Healthcheck | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    """Sorted by key."""
    diff_ids: tuple[Digest, ...] = ()
    raw: Mapping[str, object] = field(default_factory=dict, compare=False, repr=False)
    """The document that it was read from, as it was; empty when it was made here."""

    @property
    def platform(self) -> Platform:
        """What the image runs on."""
        return Platform(os=self.os, architecture=self.architecture, variant=self.variant or "")

    def with_diff_ids(self, layers: Sequence[T], label: str) -> list[tuple[T, Digest]]:
        """Each of the manifest's layers with its diff id; ImageError when one has none."""
        if len(self.diff_ids) != len(layers):
            Reader(label).fail(f"it has {len(self.diff_ids)} diff ids for {len(layers)} layers")
        return list(zip(layers, self.diff_ids, strict=True))

    def argv(self) -> tuple[str, ...]:
        """What Docker would run: the entrypoint, then the command."""
        return (self.entrypoint or ()) + (self.cmd or ())

    def to_json(self, *, created: int) -> bytes:
        """The OCI config: the same bytes for equal configs and creation times (Unix seconds).

        Raises ImageError for a time outside the years 1 to 9999.
        """
        run: dict[str, object] = {
            "Env": list(self.env) or None,
            "Entrypoint": None if self.entrypoint is None else list(self.entrypoint),
            "Cmd": None if self.cmd is None else list(self.cmd),
            "User": self.user or None,
            "WorkingDir": self.workdir or None,
            "ExposedPorts": {port: {} for port in self.exposed_ports} or None,
            "Volumes": {path: {} for path in self.volumes} or None,
            "StopSignal": self.stop_signal,
            "Healthcheck": None if self.healthcheck is None else _health_json(self.healthcheck),
            "Labels": dict(self.labels) or None,
        }
        time = rfc3339(created)
        document: dict[str, object] = {
            "architecture": self.architecture,
            "os": self.os,
            "created": time,
            "config": {key: value for key, value in run.items() if value is not None},
            "rootfs": {"type": "layers", "diff_ids": [str(digest) for digest in self.diff_ids]},
            "history": [{"created": time, "created_by": "cagebuild"} for _ in self.diff_ids],
        }
        if self.variant is not None:
            document["variant"] = self.variant
        return canonical(document)


def rfc3339(seconds: int) -> str:
    """A time as OCI documents have it; ImageError outside the years 1 to 9999."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").zfill(20)
    except (ValueError, OverflowError, OSError) as error:
        raise ImageError(
            f"an image can't be created at {seconds} seconds after 1970",
            hint="choose an epoch before the year 10000",
        ) from error


def parse_config(data: bytes, label: str) -> ImageConfig:
    """Read a config. ``label`` names it in the ImageError for anything of a wrong type."""
    document = load_object(data, label, MAX_CONFIG)
    read = Reader(label)
    run = read.optional(document.get("config"), "config", read.mapping) or {}
    rootfs = read.mapping(document.get("rootfs"), "rootfs")
    if rootfs.get("type") != "layers":
        read.fail("rootfs.type must be 'layers'")
    given_ids = rootfs.get("diff_ids")
    diff_ids = read.sequence([] if given_ids is None else given_ids, "rootfs.diff_ids", MAX_LAYERS)
    platform = read_platform(read, document)

    def text(key: str) -> str:
        return read.optional(run.get(key), f"config.{key}", read.text) or ""

    def keys(key: str) -> tuple[str, ...]:
        given = read.optional(run.get(key), f"config.{key}", read.mapping) or {}
        return tuple(sorted(read.text(name, f"a key of config.{key}") for name in given))

    return ImageConfig(
        architecture=platform.architecture,
        os=platform.os,
        variant=platform.variant or None,
        env=read.optional(run.get("Env"), "config.Env", read.texts) or (),
        entrypoint=_words(read, run.get("Entrypoint"), "config.Entrypoint"),
        cmd=_words(read, run.get("Cmd"), "config.Cmd"),
        user=text("User"),
        workdir=text("WorkingDir"),
        exposed_ports=keys("ExposedPorts"),
        volumes=keys("Volumes"),
        stop_signal=text("StopSignal") or None,
        healthcheck=_healthcheck(read, run.get("Healthcheck")),
        labels=read.optional(run.get("Labels"), "config.Labels", read.text_map) or {},
        diff_ids=tuple(
            read.digest(text, f"rootfs.diff_ids[{at}]") for at, text in enumerate(diff_ids)
        ),
        raw=document,
    )


def _words(read: Reader, value: object, where: str) -> tuple[str, ...] | None:
    # One string is a list of one, as Docker reads it.
    if isinstance(value, str):
        return (read.text(value, where),)
    return read.optional(value, where, read.texts)


def _healthcheck(read: Reader, value: object) -> Healthcheck | None:
    if value is None:
        return None
    given = read.mapping(value, "config.Healthcheck")

    def number(key: str) -> int:
        return read.optional(given.get(key), f"config.Healthcheck.{key}", read.integer) or 0

    return Healthcheck(
        test=read.optional(given.get("Test"), "config.Healthcheck.Test", read.texts) or (),
        interval=number("Interval"),
        timeout=number("Timeout"),
        start_period=number("StartPeriod"),
        retries=number("Retries"),
    )


def _health_json(check: Healthcheck) -> dict[str, object]:
    numbers = {
        "Interval": check.interval,
        "Timeout": check.timeout,
        "StartPeriod": check.start_period,
        "Retries": check.retries,
    }
    return {"Test": list(check.test), **{key: value for key, value in numbers.items() if value}}
