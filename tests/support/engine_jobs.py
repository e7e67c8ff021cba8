"""Jobs for engines, and what came of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cagebuild.engine.job import EngineJob
from cagebuild.image.layers import Layer, flatten, set_times
from cagebuild.image.layout import Image, open_image
from cagebuild.image.tree import Kind, walk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cagebuild.engine.job import Engine
    from cagebuild.image.tree import Node

Entry = tuple[str, int, int, int, str]
"""Kind, mode, uid, gid, and a link's target or what a file holds (if it's long, its SHA-256)."""


@dataclass
class Work:
    """A folder with a context and a Dockerfile; each build has a scratch folder of its own."""

    folder: Path
    said: list[str] = field(default_factory=list)
    builds: int = 0

    @property
    def context(self) -> Path:
        """What the Dockerfile copies from."""
        path = self.folder / "context"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def job(self, dockerfile: str, **more: Any) -> EngineJob:
        """A job as staging would make it."""
        self.builds += 1
        scratch = self.folder / f"scratch-{self.builds}"
        scratch.mkdir(parents=True)
        file = self.folder / f"staged-{self.builds}/Dockerfile.cage"
        file.parent.mkdir()
        file.write_text(dockerfile)
        say: Callable[[str], None] = more.pop("say", self.said.append)
        given: dict[str, Any] = {
            "target": "main",
            "args": {"SOURCE_DATE_EPOCH": "0"},
            "architecture": "x86_64",
            "epoch": 0,
            "network": False,
            "secrets": (),
            "cache_from": (),
            "cache_to": (),
            "use_cache": True,
        }
        context = self.context
        return EngineJob(
            context=context, dockerfile=file, scratch=scratch, say=say, **{**given, **more}
        )


def made(engine: Engine, job: EngineJob) -> tuple[dict[str, Entry], Image]:
    """Build; every entry of the image's tree but those of /bin, and the image."""
    path = engine.build(job)
    assert sorted(job.scratch.iterdir()) == [path]
    return opened(path, job.scratch)


def opened(path: Path, scratch: Path) -> tuple[dict[str, Entry], Image]:
    """The tree and the image of an archive."""
    image = open_image(path, architecture="x86_64", scratch=scratch)
    root = flatten(
        Layer(region=blob.open(scratch), name=blob.name, origin=blob.name) for blob in image.layers
    )
    set_times(root, 0)
    tree = {name.decode(): _entry(node) for name, node in walk(root)}
    return {name: entry for name, entry in tree.items() if not name.startswith("bin/")}, image


def _entry(node: Node) -> Entry:
    text = node.target.decode()
    if node.kind is Kind.FILE and node.source is not None:
        data = node.source.pread(node.size, node.offset)
        text = data.decode() if len(data) < 200 else hashlib.sha256(data).hexdigest()
    return node.kind.name, node.mode, node.uid, node.gid, text
