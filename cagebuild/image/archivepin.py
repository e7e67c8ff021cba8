"""Images in files of the cage's own folder: from a path to pins."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cagebuild import lockjson
from cagebuild.digest import Digest
from cagebuild.image.layout import open_image

if TYPE_CHECKING:
    from cagebuild.config.model import Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivePin:
    """An image in an archive file or in the folder of an OCI layout, by content."""

    archive: Digest | None
    """Of the archive file; None for a folder, whose blobs have digests of their own."""
    config: Digest
    layers: tuple[tuple[Digest | None, Digest], ...]
    """For each layer from the lowest up: digest of the blob as stored, and its diff id."""

    @property
    def diff_ids(self) -> list[str]:
        """The layers' uncompressed digests, in text form."""
        return [str(diff_id) for _, diff_id in self.layers]

    def to_json(self) -> dict[str, Any]:
        """For the lock."""
        return {
            "archive": self.archive and str(self.archive),
            "config": str(self.config),
            "layers": [
                {"digest": digest and str(digest), "diff_id": str(diff_id)}
                for digest, diff_id in self.layers
            ],
        }

    @classmethod
    def from_json(cls, data: object) -> ArchivePin:
        """Out of the lock; raises LockError."""
        with lockjson.reading("base archive"):
            top = lockjson.table(data, "archive", "config", "layers")
            return cls(
                archive=_optional(top["archive"]),
                config=lockjson.digest(top["config"]),
                layers=tuple(_layer(each) for each in lockjson.items(top["layers"])),
            )


def _layer(data: object) -> tuple[Digest | None, Digest]:
    each = lockjson.table(data, "digest", "diff_id")
    return _optional(each["digest"]), lockjson.digest(each["diff_id"])


def _optional(data: object) -> Digest | None:
    return None if data is None else lockjson.digest(data)


def pin_archive(path: Path, *, name: str | None, architecture: Architecture) -> ArchivePin:
    """Read which image a path holds; raises as ``open_image`` does."""
    with tempfile.TemporaryDirectory(prefix="cagebuild-") as scratch:
        image = open_image(path, name=name, architecture=architecture, scratch=Path(scratch))
        return ArchivePin(
            archive=None if path.is_dir() else Digest.of_file(path),
            config=image.config_digest,
            layers=tuple((layer.digest, layer.diff_id) for layer in image.layers),
        )
