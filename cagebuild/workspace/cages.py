"""Which cages there are, and which of them a command's words mean."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cagebuild import config
from cagebuild.config import globs
from cagebuild.errors import UsageError
from cagebuild.workspace import git

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from cagebuild.config.model import Workspace

_SKIPPED = {"dist", "node_modules"}
"""Folders that hold results or other people's code. Hidden ones are skipped as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CageFile:
    """A file that declares a cage; it has not been read."""

    address: str
    """``//folder`` or ``//folder:name``."""
    file: Path
    folder: str
    """Relative to the root, "/" between components; empty for the root."""


def find(workspace: Workspace) -> tuple[CageFile, ...]:
    """All cages of the workspace, sorted by address: what git tracks, or all where there is no git.

    Folders that are hidden, ``dist``, ``node_modules`` or excluded are passed over.
    """
    root = workspace.root
    uses_git = git.is_used(root)
    names = git.cage_files(root) if uses_git else sorted(_on_disk(str(root), workspace))
    is_member = _membership(workspace)
    verdicts: dict[str, bool] = {}
    found = []
    for name in map(os.fsdecode, names):
        folder, _, base = name.rpartition("/")
        if folder not in verdicts:
            verdicts[folder] = is_member(folder)
        if not verdicts[folder] or (name == "cage.toml" and workspace.root_cage is None):
            continue
        file = root / name
        if config.is_cage_file(base) and file.is_file():
            address = config.address_of(file, workspace)
            found.append(CageFile(address=address, file=file, folder=folder))
    return tuple(sorted(found, key=lambda cage: cage.address))


def _membership(workspace: Workspace) -> Callable[[str], bool]:
    """Whether a folder may hold cages. The root always may."""
    excluded = globs.matcher(workspace.exclude)
    listed = globs.matcher(workspace.cages or ("**",), below=False)

    def is_member(folder: str) -> bool:
        skipped = any(part in _SKIPPED or part.startswith(".") for part in folder.split("/"))
        return not folder or (not skipped and listed(folder) and not excluded(folder))

    return is_member


def _on_disk(root: str, workspace: Workspace) -> Iterator[bytes]:
    """The paths of all cages' files below the root; symlinks are not followed."""
    excluded = globs.matcher(workspace.exclude)
    queue = [""]
    while queue:
        prefix = queue.pop()
        try:
            with os.scandir(f"{root}/{prefix}") as listing:
                entries = list(listing)
        except PermissionError:
            continue
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                skipped = entry.name.startswith(".") or entry.name in _SKIPPED
                if not skipped and not excluded(name):
                    queue.append(name + "/")
            elif config.is_cage_file(entry.name):
                yield os.fsencode(name)


def select(workspace: Workspace, words: Sequence[str], cwd: Path) -> tuple[CageFile, ...]:
    """The cages that a command's words mean, each once, sorted by address.

    ``//services/pay`` and ``//services/pay:debug`` are addresses, ``//services/...`` is all below a
    folder. Without the slashes, and as ``:debug``, they start at ``cwd``. A folder that has no
    cage.toml of its own stands for all cages in it. A word that is no folder may be the name of one
    cage. No words: all cages at and below ``cwd``. Raises UsageError for words that name nothing.
    """
    selection = _Selection(workspace, find(workspace), cwd.resolve())
    chosen: dict[str, CageFile] = {}
    unknown: list[str] = []
    for word in words or ("...",):
        found = selection.of(word)
        chosen.update((cage.address, cage) for cage in found)
        if not found:
            unknown.append(word)
    if unknown and not words:
        raise UsageError(
            f"there are no cages at or below {cwd}", hint=selection.why_not(".") or _FIRST
        )
    if unknown:
        names = ", ".join(f"'{word}'" for word in unknown)
        raise UsageError(f"no cage is meant by {names}", hint=selection.why_not(unknown[0]))
    return tuple(chosen[address] for address in sorted(chosen))


_FIRST = "a cage is a folder with a cage.toml that git tracks"


class _Selection:
    def __init__(self, workspace: Workspace, cages: tuple[CageFile, ...], cwd: Path) -> None:
        self.workspace = workspace
        self.cages = cages
        if not cwd.is_relative_to(workspace.root):
            raise UsageError(f"{cwd} is not in the workspace {workspace.root}")
        self.here = cwd.relative_to(workspace.root).as_posix().removeprefix(".")

    def folder(self, text: str) -> str | None:
        """What a word says about a folder, relative to the root; None if it is outside."""
        root = str(self.workspace.root)
        if text.startswith("//"):
            text = text[2:]
        elif text == root or text.startswith(root + "/"):
            text = text[len(root) + 1 :]
        elif text.startswith("/"):
            return None
        else:
            text = f"{self.here}/{text}"
        path = os.path.normpath("/" + text).lstrip("/")
        return None if _climbs(text) else path

    def of(self, word: str) -> list[CageFile]:
        """The cages that one word means."""
        start, dots, rest = word.rpartition("...")
        if dots and not rest and (not start or start.endswith("/")):
            above = self.folder(start)
            if above is None:
                return []
            return [c for c in self.cages if not above or f"{c.folder}/".startswith(f"{above}/")]
        text, colon, name = word.rpartition(":")
        folder = self.folder(text if colon else word)
        if folder is None:
            return []
        inside = [cage for cage in self.cages if cage.folder == folder]
        if colon:
            exact = [cage for cage in inside if cage.address == f"//{folder}:{name}"]
            return exact or [cage for cage in inside if self.name(cage) == name]
        own = [cage for cage in inside if cage.file.name == "cage.toml"]
        return own or inside or self.of_file(folder) or self.called(word)

    def of_file(self, path: str) -> list[CageFile]:
        return [c for c in self.cages if c.file == self.workspace.root / path]

    def called(self, word: str) -> list[CageFile]:
        """The one cage of that name. Raises UsageError if there are several."""
        if "/" in word:
            return []
        found = [cage for cage in self.cages if self.name(cage) == word]
        if len(found) > 1:
            places = " and ".join(cage.address for cage in found)
            raise UsageError(f"'{word}' is the name of {places}", hint="use the address")
        return found

    def name(self, cage: CageFile) -> str | None:
        return config.declared_name(cage.file, self.workspace)

    def why_not(self, word: str) -> str:
        """Why a word names nothing: a file that git does not track, or a slip of the keyboard."""
        folder = self.folder(word.rpartition(":")[0] or word)
        if folder is None:
            return f"it is outside the workspace {self.workspace.root}"
        name = f"{folder}/cage.toml".lstrip("/")
        file = self.workspace.root / name
        known = {cage.file for cage in self.cages}
        if file.is_file() and file not in known and git.is_used(self.workspace.root):
            return f"git add {name}, unless the workspace excludes it"
        from cagebuild.config.problems import did_you_mean

        known_words = {cage.address for cage in self.cages}
        known_words |= {called for cage in self.cages if (called := self.name(cage))}
        return did_you_mean(word, known_words) or did_you_mean(f"//{folder}", known_words)


def _climbs(text: str) -> bool:
    """Whether a path leaves the folder that it starts at."""
    depth = 0
    for part in text.split("/"):
        depth += -1 if part == ".." else part not in {"", "."}
        if depth < 0:
            return True
    return False
