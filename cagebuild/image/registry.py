"""Images in registries: from a name to pins, and from pins to blobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cagebuild import lockjson
from cagebuild.digest import Digest
from cagebuild.errors import DigestMismatchError, FetchError, ImageError, ResolveError
from cagebuild.fetch.download import persist
from cagebuild.fetch.failure import DEFAULT_POLICY, Failure, Policy
from cagebuild.fetch.registry import RegistryClient
from cagebuild.image.choice import first_image
from cagebuild.image.config import ImageConfig, parse_config
from cagebuild.image.manifest import (
    INDEXES,
    MANIFESTS,
    MAX_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    parse_document,
)
from cagebuild.image.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cagebuild.config.model import Architecture
    from cagebuild.image.platform import Platform

_ACCEPT = {"Accept": ", ".join(sorted(INDEXES | MANIFESTS))}
_DESCRIPTOR = ("media_type", "digest", "size")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPin:
    """One layer: the blob as the registry has it, and the digest of the tar in it."""

    media_type: str
    digest: Digest
    size: int
    diff_id: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePin:
    """An image for one platform, by content."""

    reference: str
    """As written in cage.toml."""
    index: Digest | None
    """The multi-platform index that it was chosen from."""
    manifest: Digest
    config: Descriptor
    layers: tuple[LayerPin, ...]
    """From the lowest up."""

    @property
    def location(self) -> str:
        """``oci://host/repository``: where config and layers can be had."""
        return Reference.parse(self.reference).location

    def to_json(self) -> dict[str, Any]:
        """For the lock."""
        return {
            "reference": self.reference,
            "index": str(self.index) if self.index else None,
            "manifest": str(self.manifest),
            "config": _descriptor_json(self.config),
            "layers": [
                {**_descriptor_json(layer), "diff_id": str(layer.diff_id)} for layer in self.layers
            ],
        }

    @classmethod
    def from_json(cls, data: object) -> ImagePin:
        """Out of the lock; raises LockError."""
        with lockjson.reading("base image"):
            top = lockjson.table(data, "reference", "index", "manifest", "config", "layers")
            config = lockjson.table(top["config"], *_DESCRIPTOR)
            pin = cls(
                reference=lockjson.text(top["reference"]),
                index=None if top["index"] is None else lockjson.digest(top["index"]),
                manifest=lockjson.digest(top["manifest"]),
                config=Descriptor(**_known(config)),
                layers=tuple(_layer_pin(each) for each in lockjson.items(top["layers"])),
            )
            Reference.parse(pin.reference)
        return pin


def resolve(
    reference: str, architecture: Architecture, *, policy: Policy = DEFAULT_POLICY
) -> ImagePin:
    """Pin the image that ``reference`` names now, for one architecture.

    Reads manifests and the config, no layers; every byte is checked by digest. Raises ResolveError
    when there is no such image or none for that architecture, FetchError when the registry cannot
    be reached or denies access, DigestMismatchError, ImageError and UnsupportedError.
    """
    parsed = Reference.parse(reference)
    with RegistryClient(parsed.registry, parsed.repository, policy) as client:
        reader = _Reader(client, parsed, policy)
        digest, document = reader.document(parsed.manifest, parsed.digest)
        index = None
        if isinstance(document, Index):
            index = digest
            chosen = first_image(document, architecture, str(parsed), reader).descriptor
            digest, document = chosen.digest, reader.manifest(chosen)
        config = reader.config(document.config)
    config.platform.require(architecture, str(parsed))
    return ImagePin(
        reference=reference,
        index=index,
        manifest=digest,
        config=document.config,
        layers=tuple(
            LayerPin(
                media_type=layer.media_type, digest=layer.digest, size=layer.size, diff_id=diff_id
            )
            for layer, diff_id in config.with_diff_ids(document.layers, f"{parsed}: config")
        ),
    )


class _Reader:
    """Reads and checks the documents of one image."""

    def __init__(self, client: RegistryClient, reference: Reference, policy: Policy) -> None:
        self._client = client
        self._reference = reference
        self._policy = policy

    def index(self, descriptor: Descriptor) -> Index:
        """See ``choice.Documents``."""
        _, document = self.document(str(descriptor.digest), descriptor.digest, descriptor)
        if not isinstance(document, Index):
            raise TypeError(f"not the descriptor of an index: {descriptor}")
        return document

    def platform(self, descriptor: Descriptor) -> Platform:
        """See ``choice.Documents``."""
        return self.config(self.manifest(descriptor).config).platform

    def manifest(self, descriptor: Descriptor) -> Manifest:
        """The manifest that an index leads to."""
        _, document = self.document(str(descriptor.digest), descriptor.digest, descriptor)
        if not isinstance(document, Manifest):
            raise TypeError(f"not the descriptor of a manifest: {descriptor}")
        return document

    def document(
        self, name: str, expected: Digest | None, announced: Descriptor | None = None
    ) -> tuple[Digest, Index | Manifest]:
        """An index or manifest by tag or digest, with the digest of its bytes."""
        data, headers = self._get(f"manifests/{name}", MAX_MANIFEST, _ACCEPT)
        said = headers["Docker-Content-Digest"]
        digest = Digest.of(data, expected.algorithm if expected else "sha256")
        self._check(digest, str(expected or digest))
        if said:
            algorithm = said.partition(":")[0]
            known = algorithm if algorithm in {"sha256", "sha512"} else "sha256"
            self._check(Digest.of(data, known), said)
        media_type = headers["Content-Type"].partition(";")[0].strip()
        if announced is not None and (announced.size, announced.media_type) != (
            len(data),
            media_type,
        ):
            raise ImageError(f"{self._reference}: {name} is not as the index announces it")
        return digest, parse_document(data, str(self._reference), media_type)

    def config(self, descriptor: Descriptor) -> ImageConfig:
        """The image's config."""
        data, _ = self._get(f"blobs/{descriptor.digest}", descriptor.size, {})
        self._check(Digest.of(data, descriptor.digest.algorithm), str(descriptor.digest))
        return parse_config(data, f"{self._reference}: config")

    def _get(
        self, path: str, limit: int, headers: Mapping[str, str]
    ) -> tuple[bytes, dict[str, str]]:
        def once() -> tuple[bytes, dict[str, str]]:
            with self._client.open(path, headers) as answer:
                if answer.status != 200:
                    raise answer.failure()
                names = ("Content-Type", "Docker-Content-Digest")
                return answer.read(limit), {name: answer.header(name) for name in names}

        try:
            return persist(once, self._policy)
        except Failure as failure:
            if failure.kind == "missing":
                raise ResolveError(
                    f"there is no image {self._reference}",
                    hint="check the name and the tag; a private registry may hide what it has "
                    f"until 'docker login {self._reference.registry}'",
                ) from failure
            raise FetchError(
                f"cannot read {self._reference}: {failure.cause}",
                hint=failure.hint or "check the name of the registry and the network",
            ) from failure

    def _check(self, got: Digest, expected: str) -> None:
        if str(got) != expected:
            raise DigestMismatchError(
                f"{self._reference}: the registry sent {got}, expected {expected[:150]!r}",
                hint="do not trust this registry, or what is between it and this machine",
            )


def _descriptor_json(pin: Descriptor | LayerPin) -> dict[str, Any]:
    return {"media_type": pin.media_type, "digest": str(pin.digest), "size": pin.size}


def _layer_pin(data: object) -> LayerPin:
    each = lockjson.table(data, *_DESCRIPTOR, "diff_id")
    return LayerPin(**_known(each), diff_id=lockjson.digest(each["diff_id"]))


def _known(each: Mapping[str, object]) -> dict[str, Any]:
    """The fields that a descriptor and a layer share."""
    return {
        "media_type": lockjson.text(each["media_type"]),
        "digest": lockjson.digest(each["digest"]),
        "size": lockjson.number(each["size"]),
    }
