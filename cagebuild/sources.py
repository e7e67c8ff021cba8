"""The app's files: what a cage adds of its own, known by digest before any step runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from cagebuild.digest import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One entry of the app's layer."""

    destination: str
    """Path in the image, without the leading slash."""
    kind: Literal["file", "symlink", "directory"]
    mode: int
    uid: int
    gid: int
    path: Path
    """Where it is now; not part of what it is."""
    digest: Digest | None
    """Of a regular file's content."""
    target: str = ""
    """Of a symlink."""

    def facts(self) -> dict[str, object]:
        """All but the content that reaches the image, as JSON."""
        return {
            "destination": self.destination,
            "kind": self.kind,
            "mode": self.mode,
            "uid": self.uid,
            "gid": self.gid,
            "target": self.target,
        }
