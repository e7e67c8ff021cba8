"""The app's files and build contexts: a cage's own content, known by digest before steps run."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from cagebuild.config.model import AppFiles, DockerfileBase
from cagebuild.dockerfile.ignore import Ignore, candidates
from cagebuild.errors import SourceError
from cagebuild.workspace import git_is_used, tracked_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cagebuild.config.model import Cage, Workspace
    from cagebuild.digest import Digest
    from cagebuild.workspace import Sources
    from cagebuild.workspace.sources import FileKind, TrackedFile

_MOST_BYTES = 1 << 20
"""Of a Dockerfile or a .dockerignore: more is neither."""


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
class BuildContext:
    """A Dockerfile, and the files that it may copy."""

    file: Path
    data: bytes
    """Of the Dockerfile."""
    files: tuple[SourceFile, ...]
    """Sorted by destination, which is the path in the context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppSources:
    """The files of one cage, sorted by destination, and what a person may want to know of them."""

    files: tuple[SourceFile, ...]
    context: BuildContext | None
    """Of a cage on a Dockerfile."""
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
    built = [cage for cage in cages if isinstance(cage.base, DockerfileBase)]
    listed = tracked_files(
        workspace, [*(entry for _, entry in entries), *(_whole_context(cage) for cage in built)]
    )
    found: dict[Cage, dict[str, SourceFile]] = {cage: {} for cage in cages}
    left_out: dict[Cage, list[Sources]] = {cage: [] for cage in cages}
    for (cage, entry), sources in zip(entries, listed, strict=False):
        left_out[cage].append(sources)
        for file in sources.files:
            source = _source(entry, file, digest)
            other = found[cage].setdefault(source.destination, source)
            if other is not source:
                raise SourceError(
                    f"{cage.address}: {other.path} and {file.path} both go to"
                    f" /{source.destination}",
                    hint="leave one out with exclude, or change a destination of app.files",
                )
    contexts: dict[Cage, BuildContext] = {}
    for cage, sources in zip(built, listed[len(entries) :], strict=True):
        contexts[cage], rest = _context(workspace, cage, sources, digest)
        left_out[cage].append(rest)
    for cage in cages:
        _check_nesting(cage, found[cage])
    return {
        cage: AppSources(
            files=tuple(found[cage][name] for name in sorted(found[cage])),
            context=contexts.get(cage),
            untracked=tuple(path for each in left_out[cage] for path in each.untracked),
            missing=tuple(path for each in left_out[cage] for path in each.missing),
        )
        for cage in cages
    }


def _whole_context(cage: Cage) -> AppFiles:
    """All of a context, as an entry of app.files would name it."""
    base = _dockerfile(cage)
    return AppFiles(
        source=base.context,
        destination=PurePosixPath("/"),
        mode=None,
        uid=0,
        gid=0,
        tracked=base.tracked,
        exclude=(),
    )


def _dockerfile(cage: Cage) -> DockerfileBase:
    if not isinstance(cage.base, DockerfileBase):
        raise TypeError(f"{cage.address} has no Dockerfile")
    return cage.base


def _context(
    workspace: Workspace, cage: Cage, sources: Sources, digest: Callable[[Path], Digest]
) -> tuple[BuildContext, Sources]:
    """The context as .dockerignore leaves it, and what is missing or untracked in it."""
    base = _dockerfile(cage)
    data = _read(cage, "base.dockerfile", base.path)
    ignore_file = next((f for f in candidates(base.path, base.context) if f.is_file()), None)
    rules = _read(cage, "the context's ignore file", ignore_file) if ignore_file else b""
    ignore = Ignore.parse(rules, ignore_file or base.context)
    # Without git nothing else keeps what was built out of what is built from.
    by_git = base.tracked and git_is_used(workspace)
    results = None if by_git else workspace.root / "dist"

    def wanted(path: Path) -> bool:
        if results is not None and path.is_relative_to(results):
            return False
        return not ignore.excludes(path.relative_to(base.context).as_posix())

    entry = _whole_context(cage)
    files = [_source(entry, file, digest) for file in sources.files if wanted(file.path)]
    return (
        BuildContext(
            file=base.path,
            data=data,
            files=tuple(sorted(files, key=lambda file: file.destination)),
        ),
        replace(
            sources,
            files=(),
            untracked=tuple(path for path in sources.untracked if wanted(path)),
            missing=tuple(path for path in sources.missing if wanted(path)),
        ),
    )


def _read(cage: Cage, key: str, file: Path) -> bytes:
    if file.exists() and not file.is_file():
        raise SourceError(f"{cage.address}: {key} names {file}, which is no file")
    try:
        with file.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise SourceError(
            f"{cage.address}: {key} names {file}, which cannot be read: {error.strerror}",
            hint=f"put the file there or correct {key} in {cage.file.name}",
        ) from None
    if len(data) > _MOST_BYTES:
        raise SourceError(f"{cage.address}: {file} is larger than {_MOST_BYTES >> 20} MiB")
    return data


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
