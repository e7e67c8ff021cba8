"""Manifests, indexes and image configs, read strictly.

Formats: OCI image specification 1.1 and Docker's image manifest version 2, schema 2. A document
that could be read in two ways is refused: doubled keys, a manifest that is an index as well, a
media type in the document other than the one it came with.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from cagebuild.digest import Digest, InvalidDigestError
from cagebuild.errors import ImageError, ResolveError, UnsupportedError

if TYPE_CHECKING:
    from cagebuild.config.model import Architecture

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES: Final = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
_CONFIGS: Final = frozenset(
    {
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    }
)
_LAYERS: Final = frozenset(
    {
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    }
)
MAX_DOCUMENT: Final = 4 << 20
"""Bytes: what registries are to take for a manifest."""
MAX_CONFIG: Final = 8 << 20
MAX_LAYER: Final = 64 << 30
_MAX_LAYERS: Final = 512
_MAX_MANIFESTS: Final = 1024
_LONGEST_WORD: Final = 64
_SHOWN: Final = 20
_GO: Final[dict[Architecture, str]] = {"x86_64": "amd64", "aarch64": "arm64"}
_VARIANTS: Final[dict[Architecture, frozenset[str]]] = {
    "x86_64": frozenset({"", "v1"}),
    "aarch64": frozenset({"", "v8"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A document or blob by its content."""

    media_type: str
    digest: Digest
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What an image runs on, in Go's words."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    def suits(self, architecture: Architecture) -> bool:
        """Whether an enclave of that architecture runs it."""
        return (
            self.os == "linux"
            and self.architecture == _GO[architecture]
            and self.variant in _VARIANTS[architecture]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An image for several platforms: None where an entry names no platform."""

    manifests: tuple[tuple[Platform | None, Descriptor], ...]

    def choose(self, architecture: Architecture, name: str) -> Descriptor:
        """The first image for that architecture; raises ResolveError that lists what there is."""
        for platform, descriptor in self.manifests:
            if platform is not None and platform.suits(architecture):
                return descriptor
        there = sorted({str(p) for p, _ in self.manifests if p and p.os != "unknown"})[:_SHOWN]
        raise ResolveError(
            f"{name} has no image for linux/{_GO[architecture]}",
            hint=f"it has: {', '.join(there) or 'none that says its platform'}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """An image: its config, and its layers from the lowest up."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """What an image's config says about its layers and platform."""

    platform: Platform
    diff_ids: tuple[Digest, ...]
    """Digests of the uncompressed layers, from the lowest up."""


def parse_document(data: bytes, media_type: str, name: str) -> Index | Manifest:
    """Read an index or a manifest that came with ``media_type``.

    ``name`` is for messages. Raises ImageError when it is malformed, UnsupportedError for schema 1
    and for what is no container image.
    """
    document = strict_json(data, name)
    if document.get("schemaVersion") == 1 or "fsLayers" in document:
        raise UnsupportedError(
            f"{name} is a manifest of schema 1, which cannot be checked by digest",
            hint="push the image again with a current Docker, podman or skopeo",
        )
    said = document.get("mediaType", media_type)
    if said != media_type:
        _refuse(name, f"it says that it is {said!r:.100}, but came as {media_type!r:.100}")
    if "manifests" in document and ("layers" in document or "config" in document):
        _refuse(name, "it is an index and a manifest at once")
    if document.get("schemaVersion") != 2:
        _refuse(name, "schemaVersion is not 2")
    if media_type in INDEXES:
        return _index(document, name)
    if media_type in MANIFESTS:
        return _manifest(document, name)
    raise UnsupportedError(
        f"{name} is not a container image, but {media_type!r:.100}",
        hint="name an image that docker can pull",
    )


def parse_config(data: bytes, name: str) -> ImageConfig:
    """Read the parts of an image's config that are checked when it is pinned; raises ImageError."""
    document = strict_json(data, name)
    rootfs = document.get("rootfs")
    if not isinstance(rootfs, dict):
        _refuse(name, "rootfs is missing")
    return ImageConfig(
        platform=_platform(document, name),
        diff_ids=tuple(_digest(one, name) for one in _items(rootfs, "diff_ids", _MAX_LAYERS, name)),
    )


def strict_json(data: bytes, name: str) -> dict[str, Any]:
    """A JSON object without doubled keys, NaN, or nesting without end; else ImageError."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("doubled key")
        return found

    def constant(text: str) -> NoReturn:
        raise ValueError(text)

    try:
        document = json.loads(data.decode(), object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ImageError(f"{name}: not valid JSON: {reason[:100]}") from None
    if not isinstance(document, dict):
        _refuse(name, "not a JSON object")
    return document


def _index(document: dict[str, Any], name: str) -> Index:
    found = []
    for entry in _items(document, "manifests", _MAX_MANIFESTS, name):
        descriptor = _descriptor(entry, MAX_DOCUMENT, name)
        platform = entry.get("platform")
        if platform is not None and not isinstance(platform, dict):
            _refuse(name, "a platform is not an object")
        found.append((None if platform is None else _platform(platform, name), descriptor))
    return Index(manifests=tuple(found))


def _manifest(document: dict[str, Any], name: str) -> Manifest:
    config = _descriptor(document.get("config"), MAX_CONFIG, name)
    if config.media_type not in _CONFIGS or "artifactType" in document:
        raise UnsupportedError(
            f"{name} is not a container image: its config is {config.media_type!r:.100}",
            hint="name an image that docker can pull",
        )
    layers = tuple(
        _descriptor(entry, MAX_LAYER, name)
        for entry in _items(document, "layers", _MAX_LAYERS, name)
    )
    for layer in layers:
        if layer.media_type not in _LAYERS:
            raise UnsupportedError(
                f"{name} has a layer of the kind {layer.media_type!r:.100}",
                hint="layers are to be tar files, plain or compressed with gzip or zstd",
            )
    return Manifest(config=config, layers=layers)


def _items(document: dict[str, Any], key: str, most: int, name: str) -> list[Any]:
    found = document.get(key)
    if not isinstance(found, list):
        _refuse(name, f"{key} is not a list")
    if len(found) > most:
        _refuse(name, f"{key} has {len(found)} entries, more than {most}")
    return found


def _descriptor(entry: object, most: int, name: str) -> Descriptor:
    if not isinstance(entry, dict):
        _refuse(name, "a descriptor is not an object")
    media_type, size = entry.get("mediaType"), entry.get("size")
    if not isinstance(media_type, str):
        _refuse(name, "a descriptor has no mediaType")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        _refuse(name, "a descriptor's size is not a number of bytes")
    if size > most:
        _refuse(name, f"a descriptor's size of {size} bytes is more than {most}")
    return Descriptor(media_type=media_type, digest=_digest(entry.get("digest"), name), size=size)


def _digest(text: object, name: str) -> Digest:
    try:
        digest = Digest.parse(text if isinstance(text, str) else "")
    except InvalidDigestError:
        _refuse(name, f"not a digest: {text!r}"[:120])
    if digest.algorithm == "sha384":
        _refuse(name, "sha384 is not an algorithm of the image specification")
    return digest


def _platform(entry: dict[str, Any], name: str) -> Platform:
    os, architecture, variant = (entry.get(k, "") for k in ("os", "architecture", "variant"))
    for word in (os, architecture, variant):
        if not isinstance(word, str) or not word.isprintable() or len(word) > _LONGEST_WORD:
            _refuse(name, "a platform is not in words")
    return Platform(os=os, architecture=architecture, variant=variant)


def _refuse(name: str, what: str) -> NoReturn:
    raise ImageError(f"{name}: {what}", hint="the image is damaged or was made to mislead")
