"""From files to a Workspace and its Cages."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cagebuild
from cagebuild import schema
from cagebuild.config import build, merge, paths, toml
from cagebuild.config.environment import store_folder
from cagebuild.config.keys import default
from cagebuild.config.model import Cage, StoreSettings, Workspace
from cagebuild.errors import CageError, ConfigError, ConfigSyntaxError, Diagnostic, UsageError
from cagebuild.step import canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cagebuild.config.problems import Problem
    from cagebuild.config.validated import ValidationCache

CAGE_FILE = "cage.toml"
_UNITS = {"MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def is_cage_file(name: str) -> bool:
    """Whether a file of this name declares a cage: ``cage.toml`` or ``x.cage.toml``."""
    return name == CAGE_FILE or (name.endswith("." + CAGE_FILE) and len(name) > len(CAGE_FILE) + 1)


def load_workspace(start: Path, *, validated: ValidationCache | None = None) -> Workspace:
    """The workspace around a folder (or file), with the defaults of its root's cage.toml.

    The root is the nearest folder upwards whose cage.toml has a ``[workspace]`` table; the search
    ends at git's top folder, which is the root if there is none. Outside git the root is the
    nearest folder with a cage.toml, or ``start``. Raises ConfigError with every mistake in
    ``[workspace]``, and SourceError.
    """
    folder = start.resolve()
    folder = folder if folder.is_dir() else folder.parent
    root, data = _find_root(folder)
    file = root / CAGE_FILE
    document = toml.parse(data, file) if data else {}
    if data and "workspace" in document:
        key = _key(b"workspace", data, "", str(root))
        _checked(key, validated, lambda: _workspace_problems(document, file), file, data)
    table = document.get("workspace", {})
    defaults = merge.from_root(merge.plain(table.get("defaults", {})), root)
    return Workspace(
        root=root,
        store=_store(table.get("store", {}), root),
        mirrors=tuple(url.rstrip("/") for url in table.get("mirrors", ())),
        cages=tuple(table["cages"]) if "cages" in table else None,
        exclude=tuple(table.get("exclude", default("workspace", "exclude"))),
        root_cage=_root_cage(document),
        defaults=defaults,
        fingerprint=hashlib.sha256(canonical(defaults)).hexdigest(),
    )


def _find_root(folder: Path) -> tuple[Path, bytes]:
    """The root and the bytes of its cage.toml, empty where it has none."""
    nearest: tuple[Path, bytes] | None = None
    for candidate in (folder, *folder.parents):
        file = candidate / CAGE_FILE
        data = toml.read(file) if file.is_file() else b""
        # Most files don't have the word, and need not be read twice.
        if b"workspace" in data and "workspace" in toml.parse(data, file):
            return candidate, data
        if (candidate / ".git").exists():
            return candidate, data
        if data and nearest is None:
            nearest = (candidate, data)
    return nearest or (folder, b"")


def _root_cage(document: dict[str, Any]) -> str | None:
    if not document.keys() - {"workspace"}:
        return None
    table = document.get("cage")
    name = table.get("name") if isinstance(table, dict) else None
    return name if isinstance(name, str) else ""


def _store(table: dict[str, Any], root: Path) -> StoreSettings:
    size = str(table.get("max_size", default("workspace", "store", "max_size")))
    return StoreSettings(
        path=_store_path(store_folder() or table.get("path"), root),
        max_bytes=int(size[:-3]) * _UNITS[size[-3:]],
    )


def _store_path(text: str | None, root: Path) -> Path:
    home = Path(os.environ.get("HOME") or "/")
    if text is None:
        # Relative paths in XDG variables are to be ignored, says the XDG specification.
        caches = os.environ.get("XDG_CACHE_HOME", "")
        return (Path(caches) if caches.startswith("/") else home / ".cache") / "cagebuild"
    if text == "~" or text.startswith("~/"):
        return Path(os.path.normpath(home / text[2:]))
    return Path(os.path.normpath(root / text))


def address_of(file: Path, workspace: Workspace) -> str:
    """``//folder`` for a cage.toml, ``//folder:x`` for an x.cage.toml, ``//:name`` at the root."""
    folder = file.parent.relative_to(workspace.root).as_posix().removeprefix(".")
    if file.name != CAGE_FILE:
        return f"//{folder}:{file.name.removesuffix('.' + CAGE_FILE)}"
    return f"//{folder}" if folder or not workspace.root_cage else f"//:{workspace.root_cage}"


def load(file: Path, workspace: Workspace, *, validated: ValidationCache | None = None) -> Cage:
    """The cage that a file declares, with the workspace's defaults.

    Raises ConfigError with every mistake of the file, ConfigSyntaxError if it is not TOML,
    SourceError if it cannot be read, and UsageError if it is outside the workspace. What
    ``validated`` knows is not checked again, but for symlinks, which no file's content shows.
    """
    file = file.parent.resolve() / file.name
    if not file.is_relative_to(workspace.root) or not is_cage_file(file.name):
        raise UsageError(
            f"{toml.shown(file)} is no cage of the workspace {workspace.root}",
            hint="a cage's file is called cage.toml, or something.cage.toml",
        )
    data = toml.read(file)
    document = toml.parse(data, file)
    places = paths.Places(file.parent, workspace.root)
    fallback = _fallback_name(file, workspace)
    is_root = file == workspace.root / CAGE_FILE
    key = _key(b"root" if is_root else b"cage", data, workspace.fingerprint, fallback or "")
    if validated is not None and validated.known(key):
        try:
            return _made(document, file, workspace, fallback)
        except (_EscapeError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            # Something is wrong after all, or the cache is; the checks will say it in words.
            pass
    problems = _cage_problems(document, places, workspace, fallback, file)
    if problems:
        raise _error(file, data, problems)
    cage = _made(document, file, workspace, fallback)
    if validated is not None:
        validated.remember(key)
    return cage


def declared_name(file: Path, workspace: Workspace) -> str | None:
    """What a cage's file calls it, without any check; None if the file doesn't say."""
    try:
        table = toml.parse(toml.read(file), file).get("cage")
    except CageError:
        table = None
    name = table.get("name") if isinstance(table, dict) else None
    return name if isinstance(name, str) else _fallback_name(file, workspace)


def check_names(cages: Iterable[Cage]) -> None:
    """Raise ConfigError where cages have one name: their results would go to one folder."""
    by_name: dict[str, list[Cage]] = {}
    for cage in cages:
        by_name.setdefault(cage.name, []).append(cage)
    wrong: list[Diagnostic] = []
    for name, same in sorted(by_name.items()):
        for cage in same[1:]:
            message = f"{same[0].address} and {cage.address} are both called '{name}'"
            wrong += _diagnostics(cage.file, ("cage", "name"), message)
    if wrong:
        raise ConfigError(tuple(wrong))


def _diagnostics(file: Path, path: tuple[str, ...], message: str) -> tuple[Diagnostic, ...]:
    from cagebuild.config.problems import Problem

    hint = "results go to dist/<name>: give one of them another [cage] name"
    problem = Problem(path=path, message=message, hint=hint)
    return _error(file, toml.read(file), [problem]).diagnostics


class _EscapeError(Exception):
    """A path leaves its folder through a symlink."""


def _made(document: dict[str, Any], file: Path, workspace: Workspace, fallback: str | None) -> Cage:
    merged = merge.merge(document, workspace.defaults)
    for _ in paths.escapes(merged, paths.Places(file.parent, workspace.root)):
        raise _EscapeError
    return build.cage(
        merged,
        file=file,
        address=address_of(file, workspace),
        name=merged.get("cage", {}).get("name", fallback),
        root=workspace.root,
    )


def load_all(
    files: Iterable[Path], workspace: Workspace, *, validated: ValidationCache | None = None
) -> tuple[Cage, ...]:
    """The cages of several files, in that order. Raises one ConfigError for all mistakes."""
    cages: list[Cage] = []
    wrong: list[Diagnostic] = []
    kinds: set[type[ConfigError]] = set()
    for file in files:
        try:
            cages.append(load(file, workspace, validated=validated))
        except ConfigError as error:
            wrong += error.diagnostics
            kinds.add(type(error))
    if wrong:
        raise (ConfigSyntaxError if kinds == {ConfigSyntaxError} else ConfigError)(tuple(wrong))
    return tuple(cages)


def _fallback_name(file: Path, workspace: Workspace) -> str | None:
    if file.name != CAGE_FILE:
        return file.name.removesuffix("." + CAGE_FILE)
    return None if file.parent == workspace.root else file.parent.name


def _key(kind: bytes, data: bytes, inherited: str, place: str) -> str:
    """What a validity is remembered by: it covers all that the checks read, and the checks."""
    state = hashlib.sha256(_checks())
    for part in (kind, inherited.encode(), os.fsencode(place), data):
        state.update(b"%d\n" % len(part))
        state.update(part)
    return state.hexdigest()


@cache
def _checks() -> bytes:
    """A digest of the schema and of this package's code."""
    state = hashlib.sha256(schema.raw("cage"))
    state.update(cagebuild.__version__.encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        state.update(file.read_bytes())
    return state.digest()


def _checked(
    key: str,
    validated: ValidationCache | None,
    problems: Callable[[], list[Problem]],
    file: Path,
    data: bytes,
) -> None:
    if validated is not None and validated.known(key):
        return
    found = problems()
    if found:
        raise _error(file, data, found)
    if validated is not None:
        validated.remember(key)


def _error(file: Path, data: bytes, problems: Iterable[Problem]) -> ConfigError:
    from cagebuild.config.problems import error

    return error(file, data, problems)


def _workspace_problems(document: dict[str, Any], file: Path) -> list[Problem]:
    """Mistakes in the root's ``[workspace]``; those of a cage in the same file are its own."""
    from cagebuild.config import checks, shape

    instance = _plain(document, file)
    is_cage = bool(document.keys() - {"workspace"})
    found, broken = shape.problems(instance)
    table = shape.without(instance, broken).get("workspace")
    if isinstance(table, dict):
        found += checks.workspace(table, file.parent)
    return [p for p in found if p.path[0] == "workspace" or not is_cage]


def _cage_problems(
    document: dict[str, Any],
    places: paths.Places,
    workspace: Workspace,
    fallback: str | None,
    file: Path,
) -> list[Problem]:
    from cagebuild.config import checks, shape

    instance = _plain(document, file)
    found, broken = shape.problems(instance)
    own = shape.without(instance, broken)
    subject = checks.Subject(
        document=merge.merge(own, workspace.defaults),
        own=own,
        places=places,
        fallback_name=fallback,
        is_root=file == workspace.root / CAGE_FILE,
    )
    found += checks.problems(subject)
    found += paths.escapes(subject.document, places)
    return found


def _plain(document: dict[str, Any], file: Path) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = merge.plain(document)
    except RecursionError:
        message = f"lists or tables are nested more than {merge.MAX_DEPTH} deep"
        raise ConfigSyntaxError((Diagnostic(file=toml.shown(file), message=message),)) from None
    return plain
