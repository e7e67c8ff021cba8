"""Manifests and indexes: the blobs that an image is made of, and the images that there are.

Formats: OCI image specification 1.1, manifest.md, image-index.md and descriptor.md; Docker's image
manifest version 2, schema 2. A document that could be read in two ways is refused: doubled keys, a
manifest that is an index as well, a media type other than the one it was announced with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cagebuild.errors import UnsupportedError
from cagebuild.image.platform import Platform, read_platform
from cagebuild.image.strictjson import Reader, load_object

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cagebuild.digest import Digest

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFESTS: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES: Final = frozenset({OCI_INDEX, DOCKER_INDEX})
_CONFIGS: Final = frozenset({OCI_CONFIG, "application/vnd.docker.container.image.v1+json"})
_LAYERS: Final = frozenset(
    {
        OCI_LAYER,
        OCI_LAYER + "+gzip",
        OCI_LAYER + "+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    }
)
MAX_MANIFEST: Final = 4 << 20
"""Bytes of a manifest or index: what registries are to take."""
MAX_CONFIG: Final = 8 << 20
MAX_LAYER: Final = 64 << 30
MAX_LAYERS: Final = 500
"""Docker's own limit is 128 or less; each is an open file here."""
MAX_MANIFESTS: Final = 1000

_NAME_KEYS = ("org.opencontainers.image.ref.name", "io.containerd.image.name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A document or blob by its content."""

    media_type: str
    digest: Digest
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What an index leads to."""

    descriptor: Descriptor
    platform: Platform | None
    """None where the index doesn't say."""
    names: tuple[str, ...]
    """What the index calls it."""
    about: bool
    """It says something about an image and isn't one: an attestation, a signature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """Several images, or one for several platforms."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One image: its config, and its layers from the lowest up."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


def parse_document(data: bytes, label: str, media_type: str) -> Index | Manifest:
    """Read an index or a manifest that came with ``media_type``.

    ``label`` names it in errors. Raises ImageError when it is malformed, UnsupportedError for
    schema 1 and for what is no container image.
    """
    if media_type in INDEXES:
        return parse_index(data, label, media_type)
    if media_type in MANIFESTS:
        return parse_manifest(data, label, media_type)
    _open(data, label, media_type)
    raise UnsupportedError(
        f"{label} is not a container image, but {media_type[:100]!r}",
        hint="name an image that docker can pull",
    )


def parse_index(data: bytes, label: str, media_type: str = OCI_INDEX) -> Index:
    """Read an image index or a manifest list; raises as ``parse_document`` does."""
    read, document = _open(data, label, media_type)
    items = read.sequence(document.get("manifests"), "manifests", MAX_MANIFESTS)
    return Index(
        entries=tuple(_entry(read, item, f"manifests[{at}]") for at, item in enumerate(items))
    )


def parse_manifest(data: bytes, label: str, media_type: str = OCI_MANIFEST) -> Manifest:
    """Read the manifest of one image; raises as ``parse_document`` does.

    Refused with UnsupportedError: configs and layers of other kinds, among them layers that may
    not be distributed and so are somewhere else.
    """
    read, document = _open(data, label, media_type)
    config = _descriptor(read, read.mapping(document.get("config"), "config"), "config", MAX_CONFIG)
    if config.media_type not in _CONFIGS or "artifactType" in document:
        raise UnsupportedError(
            f"{label} is not a container image: its config has the media type "
            f"{config.media_type[:100]!r}",
            hint="name an image that docker can pull",
        )
    items = read.sequence(document.get("layers"), "layers", MAX_LAYERS)
    layers = []
    for at, item in enumerate(items):
        where = f"layers[{at}]"
        layer = _descriptor(read, read.mapping(item, where), where, MAX_LAYER)
        if layer.media_type not in _LAYERS:
            raise UnsupportedError(
                f"{label}: {where} has the media type {layer.media_type[:100]!r}",
                hint="only images of ordinary layers can be used: tar, plain or with gzip or zstd",
            )
        layers.append(layer)
    return Manifest(config=config, layers=tuple(layers))


def _open(data: bytes, label: str, media_type: str) -> tuple[Reader, Mapping[str, object]]:
    """The JSON of a document that has one meaning, which is the announced one."""
    document = load_object(data, label, MAX_MANIFEST)
    read = Reader(label)
    version = document.get("schemaVersion")
    if version == 1 or "fsLayers" in document:
        raise UnsupportedError(
            f"{label} is a manifest of schema 1, which cannot be checked by digest",
            hint="push or save the image again with a current Docker, podman or skopeo",
        )
    said = document.get("mediaType", media_type)
    if said != media_type:
        read.fail(f"it says that it is {str(said)[:100]!r}, but came as {media_type[:100]!r}")
    if "manifests" in document and ("layers" in document or "config" in document):
        read.fail("it is an index and a manifest at once")
    if version != 2:
        read.fail("schemaVersion must be 2")
    return read, document


def _entry(read: Reader, value: object, where: str) -> Entry:
    given = read.mapping(value, where)
    notes = read.optional(given.get("annotations"), f"{where}.annotations", read.text_map) or {}
    stated = read.optional(given.get("platform"), f"{where}.platform", read.mapping)
    platform = None if stated is None else read_platform(read, stated, f"{where}.platform.")
    return Entry(
        descriptor=_descriptor(read, given, where, MAX_MANIFEST),
        platform=platform,
        names=tuple(notes[key] for key in _NAME_KEYS if notes.get(key)),
        about="vnd.docker.reference.type" in notes
        or "artifactType" in given
        or (platform is not None and platform.os == "unknown"),
    )


def _descriptor(read: Reader, given: Mapping[str, object], where: str, most: int) -> Descriptor:
    media_type = read.text(given.get("mediaType"), f"{where}.mediaType")
    size = read.integer(given.get("size"), f"{where}.size")
    if size > most:
        read.fail(f"{where}.size is {size} bytes, more than {most}")
    return Descriptor(
        media_type=media_type,
        digest=read.digest(given.get("digest"), f"{where}.digest", ("sha256", "sha512")),
        size=size,
    )
