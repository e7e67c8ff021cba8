"""The finished image as one layer, in the forms that engines load.

The same tree, config and epoch give the same bytes: entries in the order of ``walk``, one for every
directory, times as the tree has them. Formats: OCI image-spec image-layout.md; ``docker load``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO, Literal, assert_never

from cagebuild.digest import Digest
from cagebuild.files import new_folder, replacing
from cagebuild.image.manifest import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from cagebuild.image.reference import Reference
from cagebuild.image.tarfields import BLOCK
from cagebuild.image.tarwriter import TarWriter, file_header, write_tree
from cagebuild.image.tree import Kind, Node
from cagebuild.step import canonical

if TYPE_CHECKING:
    from pathlib import Path

    from cagebuild.image.config import ImageConfig

ExportFormat = Literal["oci", "oci-archive", "docker-archive"]

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written."""

    layer: Digest
    """Of the one layer: its diff id too."""
    config: Digest
    """Docker's image id."""
    manifest: Digest
    """What a registry would call the image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    digest: Digest
    size: int


def write_layer(root: Node, out: BinaryIO) -> tuple[Digest, int]:
    """Write the tree as one layer; its digest and size. Raises ImageError and OSError."""
    digest = hashlib.sha256()
    size = 0

    def write(data: bytes) -> None:
        nonlocal size
        out.write(data)
        digest.update(data)
        size += len(data)

    write_tree(root, write)
    return Digest("sha256", digest.hexdigest()), size


def export(
    root: Node,
    config: ImageConfig,
    path: Path,
    *,
    form: ExportFormat,
    name: str,
    epoch: int,
) -> Exported:
    """Write the image to ``path``; a file or layout that is there already is replaced whole.

    ``name`` is ``repository:tag``; ``epoch`` (Unix seconds) is when it was created. The config's
    diff ids are replaced by that of the one layer. Raises OSError, and ImageError also for a folder
    that is there and is no OCI layout; ``path`` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    match form:
        case "oci":
            with new_folder(path, marker="oci-layout", what="OCI layout") as folder:
                return _write_folder(root, config, folder, name, epoch)
        case "oci-archive" | "docker-archive":
            with replacing(path) as out:
                return _write_archive(root, config, out, form, name, epoch)
        case _:
            assert_never(form)


def _documents(
    config: ImageConfig, layer: _Layer, name: str, epoch: int
) -> tuple[bytes, bytes, bytes]:
    """Config, manifest and index."""
    config_data = replace(config, diff_ids=(layer.digest,)).to_json(created=epoch)
    manifest_data = canonical(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": _descriptor(OCI_CONFIG, Digest.of(config_data), len(config_data)),
            "layers": [_descriptor(OCI_LAYER, layer.digest, layer.size)],
        }
    )
    platform = {"os": config.os, "architecture": config.architecture}
    if config.variant is not None:
        platform["variant"] = config.variant
    index_data = canonical(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [
                {
                    **_descriptor(OCI_MANIFEST, Digest.of(manifest_data), len(manifest_data)),
                    "platform": platform,
                    "annotations": {
                        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
                        # In full: containerd, and Docker with it, knows no other names.
                        "io.containerd.image.name": str(Reference.parse(name)),
                    },
                }
            ],
        }
    )
    return config_data, manifest_data, index_data


def _descriptor(media_type: str, digest: Digest, size: int) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(digest), "size": size}


def _write_folder(root: Node, config: ImageConfig, folder: Path, name: str, epoch: int) -> Exported:
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    partial = folder / "layer"
    with partial.open("wb") as out:
        digest, size = write_layer(root, out)
    partial.rename(blobs / digest.hex)
    documents = _documents(config, _Layer(digest=digest, size=size), name, epoch)
    for data in documents[:2]:
        (blobs / Digest.of(data).hex).write_bytes(data)
    (folder / "index.json").write_bytes(documents[2])
    (folder / "oci-layout").write_bytes(_LAYOUT)
    return _exported(digest, documents)


def _write_archive(
    root: Node, config: ImageConfig, out: BinaryIO, form: ExportFormat, name: str, epoch: int
) -> Exported:
    folder = Node(Kind.DIRECTORY, mode=0o755, mtime=epoch)
    writer = TarWriter(out.write)
    writer.add(b"blobs", folder)
    writer.add(b"blobs/sha256", folder)
    # The layer's digest and size are known when it has been written, so its header comes last.
    place = out.tell()
    out.write(bytes(BLOCK))
    digest, size = write_layer(root, out)
    end = out.tell()
    out.seek(place)
    out.write(file_header(_blob(digest), size=size, mtime=epoch))
    out.seek(end)
    documents = _documents(config, _Layer(digest=digest, size=size), name, epoch)
    for data in documents[:2]:
        writer.add_bytes(_blob(Digest.of(data)), data, mtime=epoch)
    writer.add_bytes(b"index.json", documents[2], mtime=epoch)
    if form == "docker-archive":
        item = {
            "Config": _blob(Digest.of(documents[0])).decode(),
            "RepoTags": [name],
            "Layers": [_blob(digest).decode()],
        }
        writer.add_bytes(b"manifest.json", canonical([item]), mtime=epoch)
    writer.add_bytes(b"oci-layout", _LAYOUT, mtime=epoch)
    writer.close()
    return _exported(digest, documents)


def _exported(layer: Digest, documents: tuple[bytes, bytes, bytes]) -> Exported:
    return Exported(layer=layer, config=Digest.of(documents[0]), manifest=Digest.of(documents[1]))


def _blob(digest: Digest) -> bytes:
    return f"blobs/sha256/{digest.hex}".encode()
