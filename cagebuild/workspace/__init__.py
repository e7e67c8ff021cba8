"""The root, addresses, which cages there are, and which files git tracks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cagebuild.workspace import git
from cagebuild.workspace.cages import CageFile, find, select
from cagebuild.workspace.sources import Sources, TrackedFile, inputs, tracked_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cagebuild.config.model import Workspace

__all__ = [
    "CageFile",
    "Sources",
    "TrackedFile",
    "find",
    "git_is_used",
    "inputs",
    "is_dirty",
    "last_commit_time",
    "select",
    "tracked_files",
]


def git_is_used(workspace: Workspace) -> bool:
    """Whether git chooses which files of the workspace are built from."""
    return git.is_used(workspace.root)


def last_commit_time(workspace: Workspace, paths: Sequence[Path]) -> int | None:
    """Committer's time, in seconds since 1970, of the last commit that touched any of the paths.

    Commits that touch locks alone don't count. None where there is no git or no such commit. Raises
    SourceError where a shallow clone hides which commit it was.
    """
    return git.last_commit_time(workspace.root, paths)


def is_dirty(workspace: Workspace, paths: Sequence[Path]) -> bool:
    """Whether tracked files at or below the paths differ from the last commit, locks apart."""
    return git.is_dirty(workspace.root, paths)
