"""The files that an ``[[app.files]]`` entry stands for: git's choice, as they are on disk."""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from cagebuild.config import globs
from cagebuild.errors import SourceError
from cagebuild.workspace import git

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cagebuild.config.model import AppFiles, Cage, Workspace

FileKind = Literal["file", "symlink", "directory"]

_FEW = 32
"""With more paths git is asked for everything: to match each path with each file is slower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedFile:
    """One file to add."""

    name: bytes
    """Relative to the entry's source, "/" between components; empty if the source is the file."""
    path: Path
    """Where it is, absolute. A symlink is the link itself, wherever it points to."""
    kind: FileKind
    """``directory`` only for an empty one, and only where git does not choose the files."""
    executable: bool
    """What git says; where git does not choose, whether its owner may execute the file."""
    stat: os.stat_result = field(compare=False, repr=False)
    """As ``lstat`` gave it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The files of one entry, sorted by name, and what a person may want to know."""

    files: tuple[TrackedFile, ...]
    untracked: tuple[Path, ...]
    """Files that are there but not added, because git neither tracks nor ignores them."""
    missing: tuple[Path, ...]
    """Files that git tracks and that are not there."""


def inputs(cage: Cage) -> tuple[Path, ...]:
    """The files and folders that a cage is made from: what the epoch policy ``commit`` looks at."""
    from cagebuild.config.model import ArchiveBase, DockerfileBase, OwnBoot

    found = {cage.file, *(entry.source for entry in cage.app.files)}
    if isinstance(cage.base, ArchiveBase):
        found.add(cage.base.path)
    elif isinstance(cage.base, DockerfileBase):
        # A Dockerfile can copy whatever is in its context.
        found |= {cage.base.path, cage.base.context}
    if isinstance(cage.enclave.boot, OwnBoot):
        boot = cage.enclave.boot
        found |= {boot.kernel, boot.init, boot.cmdline} | ({boot.nsm} if boot.nsm else set())
    if cage.signing:
        found.add(cage.signing.certificate)
    return tuple(sorted(found))


def tracked_files(
    workspace: Workspace, entries: Sequence[AppFiles], *, look_for_untracked: bool = True
) -> tuple[Sources, ...]:
    """The files of each entry, in the order of the entries; git is asked once for all of them.

    An entry with ``tracked = false``, and any entry where there is no git, is all that is in its
    folder but ``.git``. Locks are never among the files. Nothing is reached through a symlink.
    Raises SourceError for a source that is not there, is a symlink, holds nothing that git tracks,
    or holds something that is neither file, folder nor symlink.
    """
    root = workspace.root
    uses_git = git.is_used(root)
    asked = sorted({entry.source for entry in entries if entry.tracked and uses_git})
    index: list[git.Entry] = []
    others: list[bytes] = []
    if asked:
        below = asked if len(asked) <= _FEW else [root]
        index = git.tracked(root, below)
        others = git.untracked(root, below) if look_for_untracked else []
    reader = _Reader(root, index, [entry.path for entry in index], others)
    return tuple(
        reader.from_git(entry) if entry.tracked and uses_git else reader.from_disk(entry)
        for entry in entries
    )


@dataclass(slots=True)
class _Reader:
    root: Path
    index: list[git.Entry]
    names: list[bytes]
    others: list[bytes]
    _plain: dict[str, bool] = field(default_factory=dict)
    """Folders by whether they are folders, and reached through no symlink."""

    def from_git(self, entry: AppFiles) -> Sources:
        source = self._source(entry)
        keep = _filter(entry)
        files: list[TrackedFile] = []
        missing: list[Path] = []
        found = False
        for known in _below(self.index, self.names, source):
            found = True
            name = known.path[len(source) + 1 :] if source else known.path
            if not keep(name):
                continue
            path = self.root / os.fsdecode(known.path)
            if known.mode == git.SUBMODULE:
                raise SourceError(
                    f"{os.fsdecode(known.path)} is a git submodule that is not checked out",
                    hint="git submodule update --init",
                )
            file = self._file(name, path, known.mode)
            if file is None:
                missing.append(path)
            else:
                files.append(file)
        if not found:
            raise SourceError(
                f"git tracks nothing of {_shown(entry.source, self.root)}",
                hint="git add it; or tracked = false if it is made before the build",
            )
        left_out = _below(self.others, self.others, source)
        return Sources(
            files=tuple(files),
            untracked=tuple(
                self.root / os.fsdecode(path) for path in left_out if keep(path[len(source) + 1 :])
            ),
            missing=tuple(missing),
        )

    def _source(self, entry: AppFiles) -> bytes:
        """The source relative to the root, empty for the root itself, after looking what it is."""
        path = entry.source
        if path != self.root and not self._is_plain(path.parent):
            raise SourceError(f"{_shown(path, self.root)} is not reached through folders alone")
        try:
            mode = path.lstat().st_mode
        except OSError as error:
            raise SourceError(
                f"{_shown(path, self.root)}: {error.strerror}",
                hint="it must be there before the build",
            ) from error
        if stat.S_ISLNK(mode):
            raise SourceError(
                f"{_shown(path, self.root)} is a symlink", hint="name what it points to"
            )
        relative = os.fsencode(path.relative_to(self.root))
        return b"" if relative == b"." else relative

    def _file(self, name: bytes, path: Path, mode: int) -> TrackedFile | None:
        """The file at a path that git tracks, or None if there is none."""
        if not self._is_plain(path.parent):
            return None
        try:
            found = path.lstat()
        except OSError:
            return None
        if stat.S_ISDIR(found.st_mode):
            return None
        return _made(name, path, found, executable=mode == git.EXECUTABLE)

    def from_disk(self, entry: AppFiles) -> Sources:
        self._source(entry)
        keep = _filter(entry)
        found = sorted(_walk(entry.source, keep), key=lambda file: file.name)
        return Sources(files=tuple(found), untracked=(), missing=())

    def _is_plain(self, folder: Path) -> bool:
        """Whether all on the way from the root to a folder are folders, no symlinks."""
        text = str(folder)
        known = self._plain.get(text)
        if known is None:
            known = folder == self.root or (self._is_plain(folder.parent) and _is_folder(folder))
            self._plain[text] = known
        return known


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


T = TypeVar("T")


def _below(items: list[T], names: list[bytes], source: bytes) -> list[T]:
    """The items whose names, which are sorted, are ``source`` or below it."""
    if not source:
        return items
    exact = bisect_left(names, source)
    if exact < len(names) and names[exact] == source:
        return [items[exact]]
    # "/" is followed by "0": between them lies all that is below the folder.
    return items[bisect_left(names, source + b"/") : bisect_left(names, source + b"0")]


def _filter(entry: AppFiles) -> Callable[[bytes], bool]:
    excluded = globs.matcher(entry.exclude)

    def keep(name: bytes) -> bool:
        last = name.rpartition(b"/")[2]
        if last == b"cage.lock" or last.endswith(b".cage.lock"):
            return False
        return not excluded(os.fsdecode(name))

    return keep


def _walk(source: Path, keep: Callable[[bytes], bool]) -> Iterator[TrackedFile]:
    """All files below a folder, and folders with nothing in them; or the one file."""
    if not _is_folder(source):
        yield _made(b"", source, source.lstat())
        return
    queue = [(source, b"")]
    while queue:
        folder, prefix = queue.pop()
        try:
            with os.scandir(folder) as listing:
                entries = [entry for entry in listing if entry.name != ".git"]
        except OSError as error:
            raise SourceError(f"cannot list {folder}: {error.strerror}") from error
        if not entries and prefix:
            yield _made(prefix.rstrip(b"/"), folder, folder.lstat())
        for entry in entries:
            name = prefix + os.fsencode(entry.name)
            if not keep(name):
                continue
            path = folder / entry.name
            if entry.is_dir(follow_symlinks=False):
                queue.append((path, name + b"/"))
            else:
                yield _made(name, path, entry.stat(follow_symlinks=False))


def _made(
    name: bytes, path: Path, found: os.stat_result, *, executable: bool | None = None
) -> TrackedFile:
    kinds: dict[int, FileKind] = {
        stat.S_IFREG: "file",
        stat.S_IFLNK: "symlink",
        stat.S_IFDIR: "directory",
    }
    kind = kinds.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        raise SourceError(
            f"{path} is neither a file, a folder nor a symlink",
            hint="leave it out with app.files' exclude",
        )
    may_run = bool(found.st_mode & stat.S_IXUSR) if executable is None else executable
    return TrackedFile(
        name=name, path=path, kind=kind, executable=kind == "file" and may_run, stat=found
    )


def _shown(path: Path, root: Path) -> str:
    return f"//{path.relative_to(root).as_posix()}"
