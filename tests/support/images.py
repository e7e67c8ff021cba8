"""Images made by hand: layouts and archives as folders of blobs, right and wrong."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.tars import archive, directory, regular

if TYPE_CHECKING:
    from pathlib import Path

OCI = "application/vnd.oci.image."
LAYER = OCI + "layer.v1.tar"

Json = dict[str, object]


def sha256(data: bytes) -> str:
    """``sha256:…``"""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def encode(value: object) -> bytes:
    """JSON."""
    return json.dumps(value).encode()


@dataclass
class Files:
    """Files of a layout by name; change them to break it."""

    files: dict[str, bytes] = field(default_factory=dict)

    def blob(self, data: bytes, media_type: str, **more: object) -> Json:
        """Add a blob; its descriptor."""
        digest = sha256(data)
        self.files["blobs/sha256/" + digest[7:]] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data), **more}

    def image(
        self,
        *layers: bytes,
        architecture: str = "amd64",
        media_type: str = LAYER,
        stored: list[bytes] | None = None,
        config: Json | None = None,
        history: list[Json] | None = None,
    ) -> Json:
        """Add an image of uncompressed layers, stored as they are or as given; its descriptor."""
        document = {
            "architecture": architecture,
            "os": "linux",
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": [sha256(layer) for layer in layers]},
            **({"history": history} if history else {}),
        }
        manifest = {
            "schemaVersion": 2,
            "config": self.blob(encode(document), OCI + "config.v1+json"),
            "layers": [self.blob(data, media_type) for data in stored or layers],
        }
        return self.blob(encode(manifest), OCI + "manifest.v1+json")

    def index(self, *manifests: Json) -> bytes:
        """An index of those manifests."""
        return encode({"schemaVersion": 2, "manifests": list(manifests)})

    def layout(self, *manifests: Json) -> Files:
        """Make it an OCI layout of those manifests."""
        self.files["oci-layout"] = encode({"imageLayoutVersion": "1.0.0"})
        self.files["index.json"] = self.index(*manifests)
        return self

    def folder(self, path: Path) -> Path:
        """Write all files below ``path``."""
        for name, data in self.files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path

    def tar(self) -> bytes:
        """All files as an archive, with its directories."""
        return archive(
            directory("blobs/"), *(regular(name, data) for name, data in self.files.items())
        )


def platform(architecture: str, variant: str = "") -> Json:
    """A descriptor's platform."""
    known: Json = {"os": "linux", "architecture": architecture}
    return {**known, "variant": variant} if variant else known


def named(descriptor: Json, *names: str, **more: object) -> Json:
    """A descriptor with names in its annotations."""
    keys = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
    return {**descriptor, "annotations": dict(zip(keys, names, strict=False)), **more}
