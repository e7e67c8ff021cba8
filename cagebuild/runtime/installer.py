"""The installer archive: writing it, and reading one strictly.

An uncompressed tar: folders, regular files and symlinks, sorted, 0:0, mtime 0. A symlink's target
is the name of a regular file in its own folder. All but ``init`` is below ``cage/``.
``cage/manifest.json`` (``cagebuild.runtime.manifest``) lists every other file and link.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, Literal, cast

from cagebuild.digest import Digest
from cagebuild.errors import ImageError
from cagebuild.runtime.manifest import InvalidManifestError, Item, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path
    from tarfile import TarFile, TarInfo

    from cagebuild.runtime.origin import Origin

MANIFEST = "cage/manifest.json"
INIT = "init"
TOP = "cage"
SETTINGS = "cage/etc/cage.json"
GUEST = "cage/bin/cage-guest"
FOLDERS = (TOP, "cage/bin", "cage/etc")
"""What is there even if nothing is in it."""

_MAX_ARCHIVE = 1 << 29
_MAX_ENTRIES = 4096
_MAX_MANIFEST = 1 << 20
_MAX_NAME = 100
"""What fits a ustar header whole."""
_MODES = (0o644, 0o755)
_LINK_MODE = 0o777
_PART = re.compile(r"[!-.0-~]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallerFile:
    """One file or link to be written: either ``source`` or ``target``."""

    path: str
    """In the archive: ``init``, or below ``cage/``."""
    origins: tuple[Origin, ...]
    """What it was made from, then what is linked into it; its licence is that of all of them."""
    source: Path | None = None
    """Where a file's content is."""
    target: str = ""
    """A link's: the name of a file in the same folder."""
    executable: bool = True
    """Whether a file is 0755, or 0644."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One checked entry of an installer."""

    name: str
    """Without a slash at the end."""
    kind: Literal["folder", "file", "link"]
    mode: int
    size: int = 0
    target: str = ""


def write_installer(target: Path, *, architecture: str, files: Iterable[InstallerFile]) -> None:
    """Write the installer of ``architecture``; the order of ``files`` makes no difference.

    Raises ImageError for files that no installer can have, and OSError for what cannot be read.
    """
    by_path: dict[str, InstallerFile] = {}
    for file in files:
        if by_path.setdefault(file.path, file) is not file:
            raise _wrong(f"two files of the name {file.path!r}")
    origins: dict[str, Origin] = {}
    for file in by_path.values():
        for origin in file.origins:
            if origins.setdefault(origin.name, origin) != origin:
                raise _wrong(f"two origins of the name {origin.name}")
    try:
        manifest = Manifest(
            architecture=architecture,
            origins=tuple(origins[name] for name in sorted(origins)),
            files=tuple(_item(by_path[path]) for path in sorted(by_path)),
        )
    except InvalidManifestError as error:
        raise _wrong(str(error)) from None
    text = manifest.to_bytes()
    folders = {folder for path in (*by_path, *FOLDERS) for folder in _folders(path)} | {*FOLDERS}
    entries = [Entry(name=name, kind="folder", mode=0o755) for name in folders]
    entries.append(Entry(name=MANIFEST, kind="file", mode=0o644, size=len(text)))
    entries += [
        Entry(name=item.path, kind=item.kind, mode=item.mode, size=item.size, target=item.target)
        for item in manifest.files
    ]
    entries.sort(key=lambda entry: entry.name)
    for entry in entries:
        _check_name(entry.name)
    _check_shape(entries)
    with _writing(target) as archive:
        for entry in entries:
            source = by_path[entry.name].source if entry.name in by_path else None
            if entry.name == MANIFEST:
                _add(archive, entry, BytesIO(text))
            elif source is None:
                _add(archive, entry, None)
            else:
                with source.open("rb") as stream:
                    _add(archive, entry, stream)


def _item(file: InstallerFile) -> Item:
    if (file.source is None) == (not file.target):
        raise _wrong(f"{file.path!r} is neither a file nor a link, or both")
    origin = tuple(origin.name for origin in file.origins)
    if file.source is None:
        return Item(path=file.path, kind="link", mode=_LINK_MODE, origin=origin, target=file.target)
    return Item(
        path=file.path,
        kind="file",
        mode=0o755 if file.executable else 0o644,
        origin=origin,
        digest=Digest.of_file(file.source),
        size=file.source.stat().st_size,
    )


def _folders(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def split_installer(installer: Path, layer: Path, init: Path) -> Manifest:
    """Check an installer and write its ``cage/`` part as a layer, and its init program.

    Returns its manifest. Raises ImageError for anything that is not as this module's description
    says.
    """
    with _reading(installer) as archive:
        found = list(_members(archive))
        manifest = _checked(archive, found)
        with _writing(layer) as copy:
            for entry, member in found:
                if entry.name != INIT:
                    content = open_file(archive, member) if entry.kind == "file" else None
                    _add(copy, entry, content)
        with init.open("wb") as stream:
            entry, member = next(pair for pair in found if pair[0].name == INIT)
            for chunk in _chunks(open_file(archive, member), entry.size):
                stream.write(chunk)
    return manifest


def read_manifest(installer: Path) -> Manifest:
    """The manifest of an installer, after every check of ``split_installer``; raises as that."""
    with _reading(installer) as archive:
        return _checked(archive, list(_members(archive)))


@contextmanager
def _reading(installer: Path) -> Iterator[TarFile]:
    import tarfile

    if installer.stat().st_size > _MAX_ARCHIVE:
        raise _wrong(f"larger than {_MAX_ARCHIVE} bytes")
    try:
        with tarfile.open(installer, "r:", format=tarfile.USTAR_FORMAT) as archive:
            yield archive
    except (tarfile.TarError, EOFError, UnicodeError) as error:
        raise _wrong(f"not a tar archive that can be read: {error}") from error


def _checked(archive: TarFile, found: list[tuple[Entry, TarInfo]]) -> Manifest:
    _check_shape([entry for entry, _ in found])
    return _check_manifest(archive, {entry.name: (entry, member) for entry, member in found})


def _wrong(message: str) -> ImageError:
    return ImageError(
        f"runtime installer: {message}",
        hint="it was not made by this project's recipe; `nox -s runtime` makes one",
    )


def _members(archive: TarFile) -> Iterator[tuple[Entry, TarInfo]]:
    """Every entry after its own check; those about several entries come later."""
    count = 0
    while (member := archive.next()) is not None:
        # tarfile keeps every header that it has read; the count bounds that.
        count += 1
        if count > _MAX_ENTRIES:
            raise _wrong(f"more than {_MAX_ENTRIES} entries")
        _check_name(member.name)
        if set(member.pax_headers) - {"path", "size", "mtime"}:
            raise _wrong(f"entry with extended attributes: {member.name!r}")
        yield _entry(member), member


def _check_name(name: str) -> None:
    shown = repr(name[:_MAX_NAME])
    if len(name) > _MAX_NAME or not name.isascii() or not name.isprintable():
        raise _wrong(f"entry with a name that is too long or not plain ASCII: {shown}")
    if any(part in {"", ".", ".."} for part in name.split("/")):
        raise _wrong(f"entry with a name that is no plain path: {shown}")
    if name not in {TOP, INIT} and not name.startswith(f"{TOP}/"):
        raise _wrong(f"entry outside of {TOP}/ that is not {INIT}: {shown}")


def _entry(member: TarInfo) -> Entry:
    kind: Literal["folder", "file", "link"]
    modes: tuple[int, ...]
    if member.isdir():
        kind, modes = "folder", (0o755,)
    elif member.isreg() and not member.issparse():
        kind, modes = "file", _MODES
    elif member.issym() and member.size == 0:
        kind, modes = "link", (_LINK_MODE,)
    else:
        raise _wrong(f"entry that is no folder, regular file or symlink: {member.name!r}")
    if (member.uid, member.gid, member.mtime) != (0, 0, 0) or member.mode not in modes:
        raise _wrong(
            f"entry {member.name!r}: got owner {member.uid}:{member.gid}, mtime {member.mtime},"
            f" mode {member.mode:04o}, expected 0:0, 0, and"
            f" {' or '.join(f'{mode:04o}' for mode in modes)}"
        )
    return Entry(
        name=member.name,
        kind=kind,
        mode=member.mode,
        size=member.size,
        target=member.linkname if kind == "link" else "",
    )


def _check_shape(entries: list[Entry]) -> None:
    """Sorted, no name twice, every entry after its folder, and the files that must be there."""
    names = [entry.name for entry in entries]
    folders = {entry.name for entry in entries if entry.kind == "folder"}
    files = {entry.name for entry in entries if entry.kind == "file"}
    if names != sorted(set(names)):
        raise _wrong("entries are not sorted by name, or a name is there twice")
    for entry in entries:
        parent = entry.name.rpartition("/")[0]
        if parent and parent not in folders:
            raise _wrong(f"{entry.name!r} has no entry for its folder")
        if entry.kind == "link":
            target = entry.target
            if not _PART.fullmatch(target) or target in {".", ".."}:
                raise _wrong(f"link {entry.name!r} to what is no file's name: {target[:100]!r}")
            if f"{parent}/{target}".removeprefix("/") not in files:
                raise _wrong(f"link {entry.name!r} to {target[:100]!r}, which is no file beside it")
    for name in (INIT, MANIFEST, GUEST):
        if name not in files:
            raise _wrong(f"has no file {name!r}")
    if SETTINGS in names:
        raise _wrong(f"{SETTINGS!r} is the cage's own")


def _check_manifest(archive: TarFile, members: Mapping[str, tuple[Entry, TarInfo]]) -> Manifest:
    """The manifest lists exactly the files and links that are there, as they are."""
    manifest = _read_manifest(archive, members[MANIFEST][1])
    there = {name for name, (entry, _) in members.items() if entry.kind != "folder"} - {MANIFEST}
    listed = {item.path for item in manifest.files}
    if listed != there:
        raise _wrong(
            f"{MANIFEST} and the archive differ in which files there are:"
            f" {[name[:_MAX_NAME] for name in sorted(there ^ listed)[:5]]}"
        )
    for item in manifest.files:
        entry, member = members[item.path]
        got = (entry.kind, f"{entry.mode:04o}", entry.size, entry.target)
        expected = (item.kind, f"{item.mode:04o}", item.size, item.target)
        if got != expected:
            raise _wrong(f"{item.path}: got {got}, {MANIFEST} says {expected}")
        if item.kind == "file":
            digest = Digest.of_chunks(_chunks(open_file(archive, member), member.size))
            if digest != item.digest:
                raise _wrong(f"{item.path}: got {digest}, {MANIFEST} says {item.digest}")
    return manifest


def _read_manifest(archive: TarFile, member: TarInfo) -> Manifest:
    if member.size > _MAX_MANIFEST:
        raise _wrong(f"{MANIFEST} is larger than {_MAX_MANIFEST} bytes")
    try:
        return Manifest.from_bytes(b"".join(_chunks(open_file(archive, member), member.size)))
    except InvalidManifestError as error:
        raise _wrong(f"{MANIFEST}: {error}") from None


def open_file(archive: TarFile, member: TarInfo) -> BinaryIO:
    """The content of a regular file of an archive."""
    stream = archive.extractfile(member)
    if stream is None:
        raise _wrong(f"{member.name!r} is not a regular file")
    return cast("BinaryIO", stream)


def _chunks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    while size:
        chunk = stream.read(min(size, 1 << 20))
        if not chunk:
            raise _wrong("ends in the middle of a file")
        size -= len(chunk)
        yield chunk


def _writing(target: Path) -> TarFile:
    import tarfile

    return tarfile.open(target, "w:", format=tarfile.USTAR_FORMAT)


def _add(archive: TarFile, entry: Entry, content: BinaryIO | None) -> None:
    import tarfile

    member = tarfile.TarInfo(entry.name)
    member.type = {
        "folder": tarfile.DIRTYPE,
        "file": tarfile.REGTYPE,
        "link": tarfile.SYMTYPE,
    }[entry.kind]
    member.mode = entry.mode
    member.size = entry.size
    member.linkname = entry.target
    archive.addfile(member, content)
