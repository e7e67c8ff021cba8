"""Images in files: OCI layouts (folder or tar) and what ``docker save`` writes.

Nothing is unpacked: a blob inside an archive is read where it stands. Every blob is checked against
its digest and size before it is believed. Formats: OCI image-spec image-layout.md; Docker's save
format, old (``<id>/layer.tar``) and new (an OCI layout with a ``manifest.json`` beside it).
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from cagebuild.digest import Digest
from cagebuild.errors import ImageError, ResolveError
from cagebuild.image.choice import only_image, same_name
from cagebuild.image.compression import Limits, detect, unpack
from cagebuild.image.config import ImageConfig, parse_config
from cagebuild.image.layers import components
from cagebuild.image.manifest import (
    INDEXES,
    MAX_CONFIG,
    MAX_MANIFEST,
    OCI_LAYER,
    Descriptor,
    Index,
    parse_index,
    parse_manifest,
)
from cagebuild.image.strictjson import Reader, load, load_object
from cagebuild.image.tar import read_tar
from cagebuild.image.tarfields import shown
from cagebuild.image.tree import Kind, Region

if TYPE_CHECKING:
    from cagebuild.config.model import Architecture
    from cagebuild.image.platform import Platform

_MAX_FILES = 100_000
_MAX_LINKS = 10
_HINT = "the image is damaged or was changed; export it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBlob:
    """A layer as the image has it, perhaps compressed."""

    region: Region
    """Its stored bytes."""
    digest: Digest | None
    """Of the stored bytes; None in an old docker-archive, which doesn't say."""
    diff_id: Digest
    """Of the uncompressed bytes."""
    size: int
    """Of the stored bytes."""
    media_type: str
    name: str
    """For errors."""

    @property
    def compressed(self) -> bool:
        """Whether ``open`` has to write a file. Told by the blob's first bytes."""
        return detect(self.region.pread(6, 0)) != "plain"

    def open(self, folder: Path, limits: Limits | None = None) -> Region:
        """The uncompressed layer, checked: in place, or in a new file in ``folder``.

        The file ``layer-….tar`` belongs to the caller. Raises ImageError when the layer is not what
        its digests say, or unpacks to more than the limits.
        """
        if not self.compressed:
            found = Digest.of_chunks(self.region.chunks())
            self._check(found, self.diff_id, "diff id")
            if self.digest is not None:
                self._check(found, self.digest, "digest")
            return self.region
        out, path = _new_file(folder, "layer-")
        try:
            with out:
                done = unpack(self.region, out, self.name, limits)
            self._check(done.digest, self.diff_id, "diff id")
            if self.digest is not None:
                self._check(done.compressed, self.digest, "digest")
        except BaseException:
            path.unlink()
            raise
        return Region.of_file(path)

    def _check(self, found: Digest, expected: Digest, what: str) -> None:
        if found != expected:
            raise ImageError(f"{self.name}: its {what} is {found}, not {expected}", hint=_HINT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image of a file or folder."""

    name: str
    """What the file calls it; empty where it says nothing."""
    config: ImageConfig
    config_digest: Digest
    """Docker's image id."""
    manifest_digest: Digest | None
    """None in an old docker-archive."""
    layers: tuple[LayerBlob, ...]


class _Files(Protocol):
    """The files of a folder or an archive, by cleaned name."""

    def get(self, name: str) -> Region | None:
        """A regular file's bytes."""


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, name: str) -> Region | None:
        path = self._root.joinpath(*_parts(name))
        try:
            status = path.stat()
        except (OSError, ValueError):
            return None
        return Region.of_file(path) if stat.S_ISREG(status.st_mode) else None


class _Archive:
    def __init__(self, region: Region, label: str) -> None:
        self._region = region
        self._files: dict[bytes, Region] = {}
        self._links: dict[bytes, bytes] = {}
        for entry in read_tar(region, label, apply_globals=False, max_entries=_MAX_FILES):
            name = b"/".join(components(entry.name))
            if name in self._files or name in self._links:
                raise ImageError(f"{label} has {shown(name)} twice", hint=_HINT)
            if entry.link is not None:
                self._links[name] = b"/".join(components(entry.link))
            elif entry.node.kind is Kind.SYMLINK:
                # ``../<id>/layer.tar`` in old archives: relative to where the link stands.
                folder = b"" if entry.node.target.startswith(b"/") else name.rpartition(b"/")[0]
                target = components(folder + b"/" + entry.node.target)
                self._links[name] = b"/".join(target)
            elif entry.node.kind is Kind.FILE and entry.node.extents is None:
                self._files[name] = Region(region.source, entry.node.offset, entry.node.size)

    def get(self, name: str) -> Region | None:
        key = b"/".join(components(name.encode()))
        for _ in range(_MAX_LINKS):
            if key not in self._links:
                break
            key = self._links[key]
        return self._files.get(key)


def open_image(
    path: Path, *, architecture: Architecture, scratch: Path, name: str | None = None
) -> Image:
    """Find the image of that architecture (and name) in an OCI layout or a docker-archive.

    ``path`` is a folder or a tar file, which may be compressed; it is then unpacked into
    ``scratch``, where the file must stay as long as the image is used. Layers are checked when they
    are opened. Raises ResolveError when it has no such image or several, ImageError,
    UnsupportedError, and OSError when it can't be read.
    """
    label = str(path)
    files = _files(path, scratch, label)
    if files.get("oci-layout") is not None or (
        files.get("index.json") is not None and files.get("manifest.json") is None
    ):
        return _Layout(files, label).image(name, architecture)
    if files.get("manifest.json") is not None:
        return _docker_archive(files, label, name, architecture)
    raise ImageError(
        f"{label} is no image: it has neither oci-layout and index.json nor manifest.json",
        hint="export one with 'docker save', 'skopeo copy' or 'docker buildx build -o type=oci'",
    )


def _files(path: Path, scratch: Path, label: str) -> _Files:
    if path.is_dir():
        return _Folder(path)
    if not path.is_file():
        raise ImageError(
            f"there is no image at {label}",
            hint="give a folder (OCI layout) or a tar file ('docker save', OCI archive)",
        )
    region = Region.of_file(path)
    if detect(region.pread(6, 0)) != "plain":
        out, unpacked = _new_file(scratch, "image-")
        with out:
            unpack(region, out, label)
        region = Region.of_file(unpacked)
    return _Archive(region, label)


def _new_file(folder: Path, prefix: str) -> tuple[BinaryIO, Path]:
    """A new file of a name that nothing else in the folder has."""
    from tempfile import mkstemp

    descriptor, name = mkstemp(suffix=".tar", prefix=prefix, dir=folder)
    return os.fdopen(descriptor, "wb"), Path(name)


def _parts(name: str) -> list[str]:
    return [part.decode() for part in components(name.encode())]


def _small(region: Region | None, label: str, most: int = MAX_MANIFEST) -> bytes:
    if region is None:
        raise ImageError(f"{label} is not there", hint=_HINT)
    if region.size > most:
        raise ImageError(f"{label} has {region.size} bytes, more than {most}", hint=_HINT)
    return b"".join(region.chunks())


class _Layout:
    """An OCI layout."""

    def __init__(self, files: _Files, label: str) -> None:
        self._files = files
        self._label = label

    def image(self, name: str | None, architecture: Architecture) -> Image:
        label = self._label
        data = _small(self._files.get("oci-layout"), f"{label}, oci-layout")
        version = load_object(data, label, MAX_MANIFEST)
        if version.get("imageLayoutVersion") != "1.0.0":
            Reader(label).fail("imageLayoutVersion must be '1.0.0'")
        data = _small(self._files.get("index.json"), f"{label}, index.json")
        index = parse_index(data, f"{label}, index.json")
        chosen = only_image(index, architecture, label, self, name)
        image = self._read(chosen.descriptor, chosen.names[-1] if chosen.names else "")
        image.config.platform.require(architecture, image.name or label)
        self._check_manifest_json(index, image)
        return image

    def index(self, descriptor: Descriptor) -> Index:
        """See ``choice.Documents``."""
        label = f"{self._label}, index {descriptor.digest}"
        return parse_index(self._document(descriptor), label, descriptor.media_type)

    def platform(self, descriptor: Descriptor) -> Platform:
        """See ``choice.Documents``."""
        return self._read(descriptor, "").config.platform

    def _read(self, descriptor: Descriptor, name: str) -> Image:
        label = f"{self._label}, manifest {descriptor.digest}"
        manifest = parse_manifest(self._document(descriptor), label, descriptor.media_type)
        label = f"{self._label}, config {manifest.config.digest}"
        config = parse_config(self._document(manifest.config), label)
        layers = config.with_diff_ids(manifest.layers, label)
        return Image(
            name=name,
            config=config,
            config_digest=manifest.config.digest,
            manifest_digest=descriptor.digest,
            layers=tuple(self._layer(blob, diff_id) for blob, diff_id in layers),
        )

    def _layer(self, blob: Descriptor, diff_id: Digest) -> LayerBlob:
        return LayerBlob(
            region=self._blob(blob),
            digest=blob.digest,
            diff_id=diff_id,
            size=blob.size,
            media_type=blob.media_type,
            name=f"layer {blob.digest}",
        )

    def _blob(self, descriptor: Descriptor) -> Region:
        digest = descriptor.digest
        if digest.algorithm != "sha256":
            raise ImageError(
                f"{self._label}: the blob {digest} must have a sha256 digest",
                hint="engines write no other into layouts; export the image with one",
            )
        region = self._files.get(f"blobs/{digest.algorithm}/{digest.hex}")
        if region is None:
            raise ImageError(
                f"{self._label}: the blob {digest} ({descriptor.media_type}) is not there",
                hint="it holds only a part of the image; export all of it, for this platform",
            )
        if region.size != descriptor.size:
            raise ImageError(
                f"{self._label}: the blob {digest} has {region.size} bytes, not {descriptor.size}",
                hint=_HINT,
            )
        return region

    def _document(self, descriptor: Descriptor) -> bytes:
        label = f"{self._label}, blob {descriptor.digest}"
        data = _small(self._blob(descriptor), label, MAX_CONFIG)
        found = Digest.of(data)
        if found != descriptor.digest:
            raise ImageError(f"{label}: its digest is {found}", hint=_HINT)
        return data

    def _check_manifest_json(self, index: Index, image: Image) -> None:
        """Docker's two stores read one of the two files each: they have to mean one image."""
        region = self._files.get("manifest.json")
        plain = [entry.descriptor for entry in index.entries if not entry.about]
        if region is None or len(plain) != 1 or plain[0].media_type in INDEXES:
            return
        items = _manifest_json(region, self._label)
        if len(items) == 1:
            label = f"{self._label}, {items[0].config}"
            data = _small(self._files.get(items[0].config), label, MAX_CONFIG)
            if Digest.of(data) != image.config_digest:
                raise ImageError(
                    f"{self._label}: index.json and manifest.json name different images",
                    hint="it would be another image to another engine; export it again",
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    config: str
    tags: tuple[str, ...]
    layers: tuple[str, ...]


def _manifest_json(region: Region | None, label: str) -> list[_Item]:
    label = f"{label}, manifest.json"
    read = Reader(label)
    items = read.sequence(load(_small(region, label), label, MAX_MANIFEST), "the document")
    result = []
    for at, value in enumerate(items):
        item = read.mapping(value, f"[{at}]")
        result.append(
            _Item(
                config=read.text(item.get("Config"), f"[{at}].Config"),
                tags=read.optional(item.get("RepoTags"), f"[{at}].RepoTags", read.texts) or (),
                layers=read.optional(item.get("Layers"), f"[{at}].Layers", read.texts) or (),
            )
        )
    return result


def _docker_archive(
    files: _Files, label: str, name: str | None, architecture: Architecture
) -> Image:
    items = _manifest_json(files.get("manifest.json"), label)
    fitting = [
        item for item in items if name is None or any(same_name(name, tag) for tag in item.tags)
    ]
    if len(fitting) != 1:
        listed = "".join(f"\n  {', '.join(item.tags) or item.config}" for item in items[:20])
        raise ResolveError(
            f"{label} has {len(fitting) or 'no'} images"
            f"{f' with the name {name!r}' if name else ''}; it has:{listed or ' none at all'}",
            hint="name one of them",
        )
    item = fitting[0]
    data = _small(files.get(item.config), f"{label}, {item.config}", MAX_CONFIG)
    digest = Digest.of(data)
    stem = item.config.rpartition("/")[2].removesuffix(".json")
    if len(stem) == 64 and stem != digest.hex:
        raise ImageError(f"{label}: the digest of {item.config} is {digest}", hint=_HINT)
    config = parse_config(data, f"{label}, {item.config}")
    config.platform.require(architecture, name or label)
    layers = []
    for path, diff_id in config.with_diff_ids(item.layers, f"{label}, {item.config}"):
        region = files.get(path)
        if region is None:
            raise ImageError(f"{label}: the layer {path} is not there", hint=_HINT)
        layers.append(
            LayerBlob(
                region=region,
                digest=None,
                diff_id=diff_id,
                size=region.size,
                media_type=OCI_LAYER,
                name=f"layer {diff_id}",
            )
        )
    return Image(
        name=item.tags[0] if item.tags else "",
        config=config,
        config_digest=digest,
        manifest_digest=None,
        layers=tuple(layers),
    )
