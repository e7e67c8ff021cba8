"""``cage/manifest.json``: every file and link of an installer, and what they were made from.

    {"version": 2, "architecture": "x86_64",
     "origins": [{"name": "busybox", …}, …],
     "files": [{"path": "cage/bin/busybox", "type": "file", "digest": "sha256:…", "size": 1314008,
                "mode": "0755", "licence": "GPL-2.0-only AND …", "origin": ["busybox", "glibc"]},
               {"path": "cage/bin/sh", "type": "link", "target": "busybox",
                "mode": "0777", "licence": "…", "origin": ["busybox", "glibc"]}]}

``origin`` names what a file was made from, then what is linked into it; ``origins`` says what those
are (``cagebuild.runtime.origin``). Both lists are sorted, by name and by path. The manifest itself
is not in it, and neither are folders.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from cagebuild.digest import Digest, InvalidDigestError
from cagebuild.runtime.origin import InvalidOriginError, Origin, licence_of

VERSION = 2
ARCHITECTURES = ("x86_64", "aarch64")
_MAX_FILES = 4096
_FILE = frozenset({"path", "type", "digest", "size", "mode", "licence", "origin"})
_LINK = frozenset({"path", "type", "target", "mode", "licence", "origin"})
_MODE = re.compile(r"0[0-7]{3}", re.ASCII)

Kind = Literal["file", "link"]


class InvalidManifestError(ValueError):
    """What was read is not a manifest; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One file or link."""

    path: str
    kind: Kind
    mode: int
    origin: tuple[str, ...]
    """Names of origins: what it was made from, then what is linked into it."""
    digest: Digest | None = None
    """Of a file."""
    size: int = 0
    target: str = ""
    """Of a link: the name of a file in the same folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A whole manifest; one that was made or read is consistent in itself."""

    architecture: str
    origins: tuple[Origin, ...]
    files: tuple[Item, ...]

    def __post_init__(self) -> None:
        """Raise InvalidManifestError for a manifest that contradicts itself."""
        if self.architecture not in ARCHITECTURES:
            raise InvalidManifestError(f"not an architecture: {self.architecture[:100]!r}")
        names = [origin.name for origin in self.origins]
        if names != sorted(set(names)):
            raise InvalidManifestError("origins are not sorted by name, or a name is there twice")
        paths = [item.path for item in self.files]
        if paths != sorted(set(paths)):
            raise InvalidManifestError("files are not sorted by path, or a path is there twice")
        used = {name for item in self.files for name in item.origin}
        if used != set(names):
            wrong = sorted(used ^ set(names))
            raise InvalidManifestError(f"origins without a file, or not listed: {wrong[:5]}")
        for item in self.files:
            if not item.origin or len(set(item.origin)) < len(item.origin):
                raise InvalidManifestError(f"{item.path[:100]!r} has no origin, or one twice")

    def origins_of(self, item: Item) -> tuple[Origin, ...]:
        """What a file was made from, then what is linked into it."""
        by_name = {origin.name: origin for origin in self.origins}
        return tuple(by_name[name] for name in item.origin)

    def licence(self, item: Item) -> str:
        """The SPDX expression of a file: that of everything in it."""
        return licence_of(self.origins_of(item))

    def to_bytes(self) -> bytes:
        """The manifest as it is in the archive."""
        document = {
            "version": VERSION,
            "architecture": self.architecture,
            "origins": [origin.to_json() for origin in self.origins],
            "files": [self._item(item) for item in self.files],
        }
        return json.dumps(document, indent=2, ensure_ascii=True).encode() + b"\n"

    def _item(self, item: Item) -> dict[str, Any]:
        content = (
            {"digest": str(item.digest), "size": item.size}
            if item.kind == "file"
            else {"target": item.target}
        )
        return {
            "path": item.path,
            "type": item.kind,
            **content,
            "mode": f"{item.mode:04o}",
            "licence": self.licence(item),
            "origin": list(item.origin),
        }

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Read what ``to_bytes`` gave; raise InvalidManifestError for anything else."""
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InvalidManifestError(f"is not JSON: {error}") from None
        if not isinstance(document, dict) or document.get("version") != VERSION:
            raise InvalidManifestError(f"is not of version {VERSION}")
        if document.keys() != {"version", "architecture", "origins", "files"}:
            raise InvalidManifestError(
                "has other keys than version, architecture, origins and files"
            )
        try:
            origins = tuple(Origin.from_json(each) for each in _list(document["origins"]))
        except InvalidOriginError as error:
            raise InvalidManifestError(str(error)) from None
        items = [(_read(each), each["licence"]) for each in _list(document["files"])]
        manifest = cls(
            architecture=_text(document["architecture"], "architecture"),
            origins=origins,
            files=tuple(item for item, _ in items),
        )
        for item, licence in items:
            if licence != manifest.licence(item):
                raise InvalidManifestError(
                    f"{item.path[:100]!r} has the licence {str(licence)[:200]!r}, its origins say"
                    f" {manifest.licence(item)[:200]!r}"
                )
        return manifest


def _list(data: object) -> list[Any]:
    if not isinstance(data, list) or len(data) > _MAX_FILES:
        raise InvalidManifestError(f"origins and files are lists of up to {_MAX_FILES}")
    return data


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidManifestError(f"{what} is no text")
    return value


def _read(data: object) -> Item:
    kind = data.get("type") if isinstance(data, dict) else None
    if not isinstance(data, dict) or kind not in ("file", "link"):
        raise InvalidManifestError(f"a file is of no known type: {str(kind)[:100]!r}")
    keys = _FILE if kind == "file" else _LINK
    if data.keys() != keys:
        raise InvalidManifestError(f"a {kind} has other keys than {', '.join(sorted(keys))}")
    path, mode = _text(data["path"], "a path"), _text(data["mode"], "a mode")
    if not _MODE.fullmatch(mode):
        raise InvalidManifestError(f"not a mode: {mode[:100]!r}")
    origin = tuple(_text(name, "an origin's name") for name in _list(data["origin"]))
    if kind == "link":
        target = _text(data["target"], "a target")
        return Item(path=path, kind="link", mode=int(mode, 8), origin=origin, target=target)
    size = data["size"]
    if type(size) is not int or size < 0:
        raise InvalidManifestError(f"{path[:100]!r} has no size")
    try:
        digest = Digest.parse(_text(data["digest"], "a digest"))
    except InvalidDigestError as error:
        raise InvalidManifestError(str(error)) from None
    return Item(path=path, kind="file", mode=int(mode, 8), origin=origin, digest=digest, size=size)
