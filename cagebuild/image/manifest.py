"""Manifests and indexes: which image of several, and which blobs it is made of.

Formats: OCI image-spec manifest.md and image-index.md; Docker's manifest v2, schema 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cagebuild.errors import ImageError, UnsupportedError
from cagebuild.image.config import MAX_LAYERS, OCI_ARCHITECTURE, parse_digest
from cagebuild.image.strictjson import Reader, load_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cagebuild.digest import Digest
    from cagebuild.image.config import Architecture

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFESTS = (OCI_MANIFEST, "application/vnd.docker.distribution.manifest.v2+json")
INDEXES = (OCI_INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")
CONFIGS = (OCI_CONFIG, "application/vnd.docker.container.image.v1+json")
LAYERS = (
    OCI_LAYER,
    OCI_LAYER + "+gzip",
    OCI_LAYER + "+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
)

_MAX_MANIFESTS = 1000
_MAX_DEPTH = 4
_NAME_KEYS = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What an image runs on."""

    os: str
    architecture: str
    variant: str | None

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A blob, known by its digest."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None
    names: tuple[str, ...]
    """What the index calls it."""
    attestation: bool
    """It says something about another image and isn't one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One image: its config and its layers, lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An image that an index leads to."""

    descriptor: Descriptor
    names: tuple[str, ...]
    platform: Platform

    def __str__(self) -> str:
        return f"{', '.join(self.names) or self.descriptor.digest} ({self.platform})"


def parse_manifest(data: bytes, label: str) -> Manifest:
    """Read an image manifest; ImageError for what is malformed, UnsupportedError for layers or
    configs of other kinds (among them layers that may not be distributed)."""
    document = load_object(data, label)
    read = Reader(label)
    _check_version(read, document, MANIFESTS)
    config = _descriptor(read, document.get("config"), "config")
    layers = read.sequence(document.get("layers"), "layers")
    if len(layers) > MAX_LAYERS:
        read.fail(f"it has {len(layers)} layers, more than {MAX_LAYERS}")
    descriptors = [_descriptor(read, item, f"layers[{at}]") for at, item in enumerate(layers)]
    for descriptor, known in [(config, CONFIGS), *((layer, LAYERS) for layer in descriptors)]:
        if descriptor.media_type not in known:
            raise UnsupportedError(
                f"{label}: the blob {descriptor.digest} has the media type "
                f"{descriptor.media_type[:100]!r}",
                hint="only images of ordinary layers can be used: tar, plain or with gzip or zstd",
            )
    return Manifest(config=config, layers=tuple(descriptors))


def parse_index(data: bytes, label: str) -> tuple[Descriptor, ...]:
    """Read an image index or manifest list; ImageError for what is malformed."""
    document = load_object(data, label)
    read = Reader(label)
    _check_version(read, document, INDEXES)
    manifests = read.sequence(document.get("manifests"), "manifests")
    if len(manifests) > _MAX_MANIFESTS:
        read.fail(f"it has {len(manifests)} manifests, more than {_MAX_MANIFESTS}")
    return tuple(_descriptor(read, item, f"manifests[{at}]") for at, item in enumerate(manifests))


def choose(
    index: tuple[Descriptor, ...],
    *,
    name: str | None,
    architecture: Architecture,
    label: str,
    fetch: Callable[[Descriptor], bytes],
    platform_of: Callable[[Descriptor], Platform],
) -> Candidate:
    """The one image that an index has for the architecture (and the name, when it is given).

    ``fetch`` gives a nested index, checked against its digest; ``platform_of`` looks into a
    manifest whose descriptor doesn't say. Of several variants the one without a name, or arm64's
    ``v8``, is taken. Raises ImageError, which lists what there is, for none and for several.
    """
    found = list(_candidates(index, (), label, fetch, platform_of, [_MAX_MANIFESTS]))
    named = [image for image in found if name is None or any(_same(name, n) for n in image.names)]
    fitting = [
        image
        for image in named
        if image.platform.os == "linux"
        and image.platform.architecture == OCI_ARCHITECTURE[architecture]
    ]
    usual = [image for image in fitting if image.platform.variant in (None, "v8")]
    digests = {image.descriptor.digest: image for image in reversed(usual or fitting)}
    if len(digests) == 1:
        return next(iter(digests.values()))
    wanted = f"{f'{name!r} for ' if name else ''}linux/{OCI_ARCHITECTURE[architecture]}"
    listed = "".join(f"\n  {image}" for image in found[:_SHOWN])
    rest = f"\n  … and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    number = "more than one image" if digests else "no image"
    raise ImageError(
        f"{label} has {number} {wanted}; it has:{listed or ' none at all'}{rest}",
        hint="name one of them" if digests and name is None else "check name and architecture",
    )


def same_name(wanted: str, given: str) -> bool:
    """Whether two image names are one to Docker: ``a`` is ``docker.io/library/a:latest``."""
    return _familiar(wanted) == _familiar(given)


def _same(wanted: str, given: str) -> bool:
    # An index may have the tag alone.
    return wanted == given or same_name(wanted, given)


def _familiar(name: str) -> str:
    name = name.removeprefix("docker.io/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] or "@" in name else name + ":latest"


def _candidates(
    index: tuple[Descriptor, ...],
    names: tuple[str, ...],
    label: str,
    fetch: Callable[[Descriptor], bytes],
    platform_of: Callable[[Descriptor], Platform],
    left: list[int],
    depth: int = 0,
) -> Iterator[Candidate]:
    for descriptor in index:
        left[0] -= 1
        if left[0] < 0 or depth >= _MAX_DEPTH:
            raise ImageError(
                f"{label} has more than {_MAX_MANIFESTS} manifests, or indexes nested too deeply",
                hint="it is built to confuse readers, or export the one image that you need",
            )
        called = tuple(dict.fromkeys((*names, *descriptor.names)))
        if descriptor.attestation:
            continue
        if descriptor.media_type in INDEXES:
            inner = parse_index(fetch(descriptor), f"{label}, index {descriptor.digest}")
            yield from _candidates(inner, called, label, fetch, platform_of, left, depth + 1)
        elif descriptor.media_type in MANIFESTS:
            platform = descriptor.platform or platform_of(descriptor)
            yield Candidate(descriptor=descriptor, names=called, platform=platform)


def _check_version(
    read: Reader, document: Mapping[str, object], media_types: tuple[str, ...]
) -> None:
    if document.get("schemaVersion") != 2:
        read.fail("schemaVersion must be 2")
    media_type = document.get("mediaType")
    # A document that both readers of manifests and of indexes would take has two meanings.
    other = "manifests" if media_types is MANIFESTS else "layers"
    if (media_type is not None and media_type not in media_types) or other in document:
        read.fail(f"it is not what its descriptor says: mediaType is {str(media_type)[:100]!r}")


def _descriptor(read: Reader, value: object, where: str) -> Descriptor:
    given = read.mapping(value, where)
    notes = read.optional(given.get("annotations"), f"{where}.annotations", read.text_map) or {}
    platform = read.optional(given.get("platform"), f"{where}.platform", read.mapping)
    return Descriptor(
        media_type=read.text(given.get("mediaType"), f"{where}.mediaType"),
        digest=parse_digest(read, given.get("digest"), f"{where}.digest"),
        size=read.integer(given.get("size"), f"{where}.size"),
        platform=None if platform is None else _platform(read, platform, f"{where}.platform"),
        names=tuple(notes[key] for key in _NAME_KEYS if notes.get(key)),
        attestation="vnd.docker.reference.type" in notes,
    )


def _platform(read: Reader, given: Mapping[str, object], where: str) -> Platform:
    return Platform(
        os=read.text(given.get("os"), f"{where}.os"),
        architecture=read.text(given.get("architecture"), f"{where}.architecture"),
        variant=read.optional(given.get("variant"), f"{where}.variant", read.text) or None,
    )
