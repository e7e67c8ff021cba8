"""The app's files: what a cage adds of its own, known by digest before any step runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from cagebuild.errors import SourceError
from cagebuild.workspace import tracked_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cagebuild.config.model import AppFiles, Cage, Workspace
    from cagebuild.digest import Digest
    from cagebuild.workspace.sources import FileKind, TrackedFile


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One entry of the app's layer."""

    destination: str
    """Path in the image, without the leading slash; bytes that are not UTF-8 as surrogates."""
    kind: FileKind
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


@dataclass(frozen=True, slots=True, kw_only=True)
class AppSources:
    """The files of one cage, sorted by destination, and what a person may want to know of them."""

    files: tuple[SourceFile, ...]
    untracked: tuple[Path, ...]
    """Files beside them that are not added, because git does not track them."""
    missing: tuple[Path, ...]
    """Files that git tracks and that are not there."""


def collect(
    workspace: Workspace, cages: Sequence[Cage], digest: Callable[[Path], Digest]
) -> dict[Cage, AppSources]:
    """The app's files of every cage; git is asked once for all of them.

    Raises SourceError, also for two files that would go to one place, or one below the other.
    """
    entries = [(cage, entry) for cage in cages for entry in cage.app.files]
    listed = tracked_files(workspace, [entry for _, entry in entries])
    found: dict[Cage, dict[str, SourceFile]] = {cage: {} for cage in cages}
    untracked: dict[Cage, list[Path]] = {cage: [] for cage in cages}
    missing: dict[Cage, list[Path]] = {cage: [] for cage in cages}
    for (cage, entry), sources in zip(entries, listed, strict=True):
        untracked[cage] += sources.untracked
        missing[cage] += sources.missing
        for file in sources.files:
            source = _source(entry, file, digest)
            other = found[cage].setdefault(source.destination, source)
            if other is not source:
                raise SourceError(
                    f"{cage.address}: {other.path} and {file.path} both go to"
                    f" /{source.destination}",
                    hint="leave one out with exclude, or change a destination of app.files",
                )
    for cage in cages:
        _check_nesting(cage, found[cage])
    return {
        cage: AppSources(
            files=tuple(found[cage][name] for name in sorted(found[cage])),
            untracked=tuple(untracked[cage]),
            missing=tuple(missing[cage]),
        )
        for cage in cages
    }


def _check_nesting(cage: Cage, found: dict[str, SourceFile]) -> None:
    """Refuse a file below what is no folder: one would take the other's place in the image."""
    folders: set[str] = set()
    for name, file in found.items():
        above = name.rpartition("/")[0]
        while above and above not in folders:
            other = found.get(above)
            if other is not None and other.kind != "directory":
                raise SourceError(
                    f"{cage.address}: {other.path} goes to /{above}, and {file.path} below it, to"
                    f" /{name}",
                    hint="leave one out with exclude, or change a destination of app.files",
                )
            folders.add(above)
            above = above.rpartition("/")[0]


def _source(entry: AppFiles, file: TrackedFile, digest: Callable[[Path], Digest]) -> SourceFile:
    destination = entry.destination
    if file.name:
        destination /= PurePosixPath(os.fsdecode(file.name))
    usual = {"file": 0o755 if file.executable else 0o644, "symlink": 0o777, "directory": 0o755}
    chosen = entry.mode if entry.mode is not None and file.kind == "file" else usual[file.kind]
    return SourceFile(
        destination=str(destination).lstrip("/"),
        kind=file.kind,
        mode=chosen,
        uid=entry.uid,
        gid=entry.gid,
        path=file.path,
        digest=digest(file.path) if file.kind == "file" else None,
        target=str(file.path.readlink()) if file.kind == "symlink" else "",
    )
