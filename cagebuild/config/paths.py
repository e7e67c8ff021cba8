"""Paths in a cage.toml: what they may say, and where they lead.

A path is relative to the cage's folder, or to the workspace's root when it starts with ``//``. It
has no ``..``, is not absolute, and no symlink on its way leads out of the folder that it must stay
in. Only the signing key and build secrets may lie anywhere: they are no part of the result.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cagebuild.config import positions
    from cagebuild.config.problems import Problem

Scope = Literal["cage", "workspace", "anywhere"]
"""The folder that a path must stay in."""


class Named(NamedTuple):
    """A path that the document names, where it names it, and the folder that it must stay in."""

    at: positions.Path
    text: str
    scope: Scope


class PathError(ValueError):
    """Text that is no path of that scope: what is wrong with it, and what to write instead."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Places(NamedTuple):
    """Where relative paths start: both absolute and without symlinks."""

    folder: Path
    root: Path


def named(document: dict[str, Any]) -> Iterator[Named]:
    """Every path in a document of valid shape. Values that are None are passed over."""
    return (Named(at, text, scope) for at, text, scope in _all(document) if text is not None)


def _all(document: dict[str, Any]) -> Iterator[tuple[positions.Path, str | None, Scope]]:
    base = document.get("base") or {}
    for kind, value in base.items():
        if kind in {"archive", "dockerfile"}:
            if isinstance(value, dict):
                yield ("base", kind, "path"), value.get("path"), "workspace"
                yield ("base", kind, "context"), value.get("context"), "workspace"
            else:
                yield ("base", kind), value, "workspace"
    for name, entry in ((document.get("build") or {}).get("secrets") or {}).items():
        yield ("build", "secrets", name, "file"), (entry or {}).get("file"), "anywhere"
    for index, entry in enumerate((document.get("app") or {}).get("files") or ()):
        if entry:
            yield ("app", "files", index, "source"), entry.get("source"), "cage"
    boot = (document.get("enclave") or {}).get("boot")
    if isinstance(boot, dict):
        for key, value in boot.items():
            yield ("enclave", "boot", key), value, "workspace"
    signing = document.get("signing") or {}
    yield ("signing", "certificate"), signing.get("certificate"), "workspace"
    yield ("signing", "key"), signing.get("key"), "anywhere"


def locate(text: str, scope: Scope, places: Places) -> Path:
    """The absolute path that ``text`` names. Raises PathError if it is no path of that scope."""
    if "\0" in text or "\n" in text:
        raise PathError("a path has no NUL and no line break")
    if scope == "anywhere":
        start = places.root if text.startswith("//") else places.folder
        return Path(os.path.normpath(start / text.removeprefix("//")))
    from_root = text.startswith("//")
    rest = text.removeprefix("//") if from_root else text
    if from_root and scope == "cage":
        raise PathError(
            "is outside the cage's folder", "only what lies in the cage's folder can be added"
        )
    if rest.startswith("/"):
        raise PathError(
            "is absolute", "write it relative to the cage's folder, or as //… from the root"
        )
    parts = rest.removesuffix("/").split("/")
    start = places.root if from_root else places.folder
    if text == "//":
        return start
    if ".." in parts:
        raise PathError("has a '..'", _without_dots(rest, scope, start, places.root))
    if parts == ["."]:
        return start
    if "" in parts or "." in parts:
        raise PathError("has an empty or '.' component", "write each folder once")
    return Path(f"{start}/{'/'.join(parts)}")


def _without_dots(text: str, scope: Scope, start: Path, root: Path) -> str:
    if scope == "cage":
        return "only what lies in the cage's folder can be added"
    target = Path(os.path.normpath(start / text))
    if target.is_relative_to(root):
        return f"write //{target.relative_to(root).as_posix()}"
    return "it must stay inside the workspace"


def malformed(document: dict[str, Any], places: Places) -> Iterator[Problem]:
    """Paths that are no paths of their scope, by their text alone."""
    from cagebuild.config.problems import Problem

    for at, text, scope in named(document):
        try:
            locate(text, scope, places)
        except PathError as error:
            yield Problem(path=at, message=f"'{text[:100]}' {error.message}", hint=error.hint)


def escapes(document: dict[str, Any], places: Places) -> Iterator[Problem]:
    """Paths that leave their folder through a symlink, as the file system is now."""
    for at, text, scope in named(document):
        if scope == "anywhere":
            continue
        try:
            path = locate(text, scope, places)
        except PathError:
            continue
        home = places.folder if scope == "cage" else places.root
        start = places.root if text.startswith("//") else places.folder
        if _has_link(start, path) and not Path(os.path.realpath(path)).is_relative_to(home):
            from cagebuild.config.problems import Problem

            yield Problem(
                path=at,
                message=f"'{text[:100]}' leads out of the {_FOLDER[scope]} through a symlink",
                hint="name a file or folder inside it",
            )


_FOLDER = {"cage": "cage's folder", "workspace": "workspace"}


def _has_link(start: Path, path: Path) -> bool:
    """Whether a component of ``path`` below ``start`` is a symlink; ``start`` itself has none."""
    where = str(start)
    for part in path.parts[len(start.parts) :]:
        where = f"{where}/{part}"
        if os.path.islink(where):  # noqa: PTH114 - a thousand cages are checked at every start
            return True
    return False


def portable(path: Path, places: Places) -> str:
    """A located path as text that is the same in every checkout; ``//…`` outside the folder."""
    text = str(path)
    for start, prefix in ((f"{places.folder}", ""), (f"{places.root}", "//")):
        if text == start:
            return prefix or "."
        if text.startswith(start + "/"):
            return prefix + text[len(start) + 1 :]
    raise ValueError(f"{text} is outside the workspace")
