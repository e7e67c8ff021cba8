"""What a cage's manifest.json says is in it, held to what an installer's own manifest lists.

Shares no code with the product: both manifests are read as the JSON that they are.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path


IMAGE = "rootfs/"
CAGE = "rootfs/cage"

Entry = dict[str, Any]
Facts = tuple[str, str, str]
"""Kind, mode, and a file's digest or a link's target."""


def expected(installer: Path, settings: bytes) -> dict[str, Facts]:
    """What has to be below ``/cage``, by path in the image, and nothing else."""
    with tarfile.open(installer, "r:") as archive:
        stream = archive.extractfile("cage/manifest.json")
        assert stream is not None
        data = stream.read()
    found = {
        "cage/manifest.json": ("file", "0644", hashlib.sha256(data).hexdigest()),
        "cage/etc/cage.json": ("file", "0644", hashlib.sha256(settings).hexdigest()),
    }
    for file in json.loads(data)["files"]:
        if file["path"] == "init":
            continue
        assert file["path"] not in found
        found[file["path"]] = (
            ("symlink", file["mode"], file["target"])
            if file["type"] == "link"
            else ("file", file["mode"], file["digest"].removeprefix("sha256:"))
        )
    for path in list(found):
        for folder in folders(path):
            found[folder] = ("directory", "0755", "")
    return found


def folders(path: str) -> Iterator[str]:
    """The folders that a path is in."""
    while path := path.rpartition("/")[0]:
        yield path


def injected(entries: Iterable[Entry]) -> dict[str, Facts]:
    """What is below ``/cage``, by path in the image; every path is there once, and root's."""
    found: dict[str, Facts] = {}
    for entry in entries:
        path = entry["path"].rstrip("/")
        if path == CAGE or path.startswith(f"{CAGE}/"):
            assert path not in found
            assert (entry["uid"], entry["gid"]) == (0, 0)
            content = entry.get("sha256") or entry.get("target") or ""
            found[path.removeprefix(IMAGE)] = (entry["kind"], entry["mode"], content)
    return found


def others(entries: Sequence[Entry]) -> list[Entry]:
    """The image's other entries, in their order, but for their origins."""
    return [
        {key: value for key, value in entry.items() if key != "origin"}
        for entry in entries
        if entry["path"].startswith(IMAGE) and not f"{entry['path']}/".startswith(f"{CAGE}/")
    ]


def outside(entries: Sequence[Entry]) -> dict[tuple[int, str], str]:
    """Kind and content of what is in the ramdisks, but not in the image."""
    return {
        (entry["ramdisk"], entry["path"]): f"{entry['kind']} {entry.get('sha256', '')}"
        for entry in entries
        if not entry["path"].startswith(IMAGE)
    }
