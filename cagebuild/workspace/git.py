"""What git knows of the workspace. Paths are bytes, relative to the workspace's root.

Only plumbing commands whose output no setting of the user changes, in a bare environment: a hook's
GIT_DIR or GIT_INDEX_FILE leads nowhere else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cagebuild import process
from cagebuild.errors import SourceError, ToolFailedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

REGULAR, EXECUTABLE, SYMLINK, SUBMODULE = 0o100644, 0o100755, 0o120000, 0o160000

_LOCKS = (":(exclude,glob)**/cage.lock", ":(exclude,glob)**/*.cage.lock")
"""Locks are results: one that is committed must not change what it was made from."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in git's index: its path and its mode, one of the four above."""

    path: bytes
    mode: int


def is_used(root: Path) -> bool:
    """Whether a folder is in a git checkout."""
    return any((folder / ".git").exists() for folder in (root, *root.parents))


def _git(root: Path, *arguments: str) -> bytes:
    program = process.find(
        "git",
        needed_for="knowing which files belong to a cage",
        hint="install git: the workspace is a git checkout",
    )
    # Looking must not take the index's lock away from somebody who works there.
    return process.run(
        [program, "--no-replace-objects", *arguments], cwd=root, env={"GIT_OPTIONAL_LOCKS": "0"}
    )


def _literal(root: Path, paths: Iterable[Path]) -> list[str]:
    return [f":(literal){os.path.relpath(path, root)}" for path in paths]


def cage_files(root: Path) -> list[bytes]:
    """The paths of all tracked files called cage.toml or x.cage.toml, sorted."""
    patterns = (":(glob)**/cage.toml", ":(glob)**/?*.cage.toml")
    out = _git(root, "ls-files", "-z", "--", *patterns)
    return sorted(set(out.split(b"\0")) - {b""})


def tracked(root: Path, below: Sequence[Path]) -> list[Entry]:
    """The entries of git's index at or below some paths, submodules' own included, sorted.

    A submodule that is not checked out is one entry with the mode SUBMODULE. While a merge is
    unresolved a name stands once, with the mode of one side.
    """
    arguments = ("ls-files", "-z", "--stage", "--recurse-submodules")
    found: dict[bytes, int] = {}
    for record in _git(root, *arguments, "--", *_literal(root, below)).split(b"\0"):
        if record:
            facts, _, path = record.partition(b"\t")
            found.setdefault(path, int(facts[:6], 8))
    return [Entry(path, found[path]) for path in sorted(found)]


def untracked(root: Path, below: Sequence[Path]) -> list[bytes]:
    """Paths at or below some paths that git neither tracks nor ignores, sorted."""
    arguments = ("ls-files", "-z", "--others", "--exclude-standard")
    out = _git(root, *arguments, "--", *_literal(root, below))
    return sorted(path.rstrip(b"/") for path in out.split(b"\0") if path)


def is_dirty(root: Path, paths: Sequence[Path]) -> bool:
    """Whether tracked files at or below some paths differ from the last commit, locks apart."""
    if not is_used(root):
        return False
    arguments = ("status", "--porcelain=v1", "-z", "--untracked-files=no")
    return bool(_git(root, *arguments, "--", *_literal(root, paths), *_LOCKS))


def last_commit_time(root: Path, paths: Sequence[Path]) -> int | None:
    """Committer's time, in seconds since 1970, of the last commit that touched any of the paths.

    Commits that touch locks alone don't count. None where there is no git or no such commit. Raises
    SourceError where a shallow clone hides which commit it was.
    """
    if not is_used(root) or not _has_commit(root):
        return None
    arguments = ("rev-list", "--max-count=1", "--timestamp", "HEAD")
    out = _git(root, *arguments, "--", *_literal(root, paths), *_LOCKS).decode().split()
    if not out:
        return None
    time, commit = out
    if commit in _shallow(root):
        raise SourceError(
            "this clone is shallow: which commit last touched "
            + ", ".join(os.path.relpath(path, root) for path in paths)
            + " lies beyond its history",
            hint="git fetch --unshallow; in CI, check out with the full history",
        )
    return int(time)


def last_commit(root: Path, paths: Sequence[Path]) -> str | None:
    """The id of the last commit that touched any of the paths, locks included."""
    if not is_used(root) or not _has_commit(root):
        return None
    arguments = ("rev-list", "--max-count=1", "HEAD")
    return _git(root, *arguments, "--", *_literal(root, paths)).decode().strip() or None


def _has_commit(root: Path) -> bool:
    try:
        _git(root, "rev-parse", "--quiet", "--verify", "HEAD^{commit}")
    except ToolFailedError as error:
        if error.message.startswith("exit status 1 "):
            return False
        raise
    return True


def _shallow(root: Path) -> set[str]:
    """The commits at which a shallow clone's history ends; to git each seems to add every file."""
    answer = _git(root, "rev-parse", "--is-shallow-repository", "--git-path", "shallow")
    is_shallow, _, path = answer.decode(errors="surrogateescape").rstrip("\n").partition("\n")
    return set((root / path).read_text().split()) if is_shallow == "true" else set()
