"""The installer archive: writing it, and reading one strictly.

An uncompressed tar: folders and regular files, sorted, 0:0, mtime 0. All but ``init`` is below
``cage/``.
``cage/manifest.json`` lists every other file with digest, size, mode, licence and origin.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from cagebuild.digest import Digest, InvalidDigestError
from cagebuild.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from tarfile import TarFile, TarInfo

MANIFEST = "cage/manifest.json"
INIT = "init"
TOP = "cage"
FOLDERS = (TOP, "cage/bin", "cage/etc")

LICENCE = "Apache-2.0 AND BSD-3-Clause"
"""Of the programs: this project's code, and the Go library's that is linked into them."""

_VERSION = 1
_MAX_ARCHIVE = 1 << 29
_MAX_ENTRIES = 4096
_MAX_MANIFEST = 1 << 20
_MAX_NAME = 100
"""What fits a ustar header whole."""
_MODES = (0o644, 0o755)
_FILE_KEYS = frozenset({"path", "digest", "size", "mode", "licence", "origin"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where the programs come from. The machine that built them has no part in it."""

    source: Digest
    """Of all source files; see ``sources.tree_digest``."""
    toolchain: str
    """Such as ``go1.27.3``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One checked entry of an installer."""

    name: str
    """Without a slash at the end."""
    mode: int
    size: int
    is_folder: bool


def write_installer(
    target: Path, *, architecture: str, files: Mapping[str, Path], origin: Origin
) -> None:
    """Write the installer of ``architecture`` from programs by their paths in it, all 0755."""
    manifest = {
        "version": _VERSION,
        "architecture": architecture,
        "files": [
            {
                "path": name,
                "digest": str(Digest.of_file(path)),
                "size": path.stat().st_size,
                "mode": "0755",
                "licence": LICENCE,
                "origin": {"source": str(origin.source), "toolchain": origin.toolchain},
            }
            for name, path in sorted(files.items())
        ],
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=True).encode() + b"\n"
    entries = [Entry(name=name, mode=0o755, size=0, is_folder=True) for name in FOLDERS]
    entries.append(Entry(name=MANIFEST, mode=0o644, size=len(text), is_folder=False))
    for name, path in files.items():
        entries.append(Entry(name=name, mode=0o755, size=path.stat().st_size, is_folder=False))
    with _writing(target) as archive:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_folder:
                _add(archive, entry, None)
            elif entry.name == MANIFEST:
                _add(archive, entry, BytesIO(text))
            else:
                with files[entry.name].open("rb") as stream:
                    _add(archive, entry, stream)


def split_installer(installer: Path, layer: Path, init: Path) -> None:
    """Check an installer and write its ``cage/`` part as a layer, and its init program.

    Raises ImageError for anything that is not as this module's description says.
    """
    import tarfile

    if installer.stat().st_size > _MAX_ARCHIVE:
        raise _wrong(f"larger than {_MAX_ARCHIVE} bytes")
    try:
        with tarfile.open(installer, "r:", format=tarfile.USTAR_FORMAT) as archive:
            found = list(_members(archive))
            _check_shape([entry for entry, _ in found])
            members = {entry.name: (entry, member) for entry, member in found}
            _check_manifest(archive, members)
            with _writing(layer) as copy:
                for entry, member in found:
                    if entry.name != INIT:
                        _add(copy, entry, None if entry.is_folder else open_file(archive, member))
            with init.open("wb") as stream:
                entry, member = members[INIT]
                for chunk in _chunks(open_file(archive, member), entry.size):
                    stream.write(chunk)
    except (tarfile.TarError, EOFError, UnicodeError) as error:
        raise _wrong(f"not a tar archive that can be read: {error}") from error


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
        name = member.name
        shown = repr(name[:_MAX_NAME])
        if len(name) > _MAX_NAME or not name.isascii() or not name.isprintable():
            raise _wrong(f"entry with a name that is too long or not plain ASCII: {shown}")
        if any(part in {"", ".", ".."} for part in name.split("/")):
            raise _wrong(f"entry with a name that is no plain path: {shown}")
        if name not in {TOP, INIT} and not name.startswith(f"{TOP}/"):
            raise _wrong(f"entry outside of {TOP}/ that is not {INIT}: {shown}")
        if not (member.isdir() or (member.isreg() and not member.issparse())):
            raise _wrong(f"entry that is neither a folder nor a regular file: {shown}")
        if set(member.pax_headers) - {"path", "size", "mtime"}:
            raise _wrong(f"entry with extended attributes: {shown}")
        if (member.uid, member.gid, member.mtime) != (0, 0, 0) or member.mode not in _MODES:
            raise _wrong(
                f"entry {shown}: got owner {member.uid}:{member.gid}, mtime {member.mtime},"
                f" mode {member.mode:04o}, expected 0:0, 0, and 0644 or 0755"
            )
        yield (
            Entry(name=name, mode=member.mode, size=member.size, is_folder=member.isdir()),
            member,
        )


def _check_shape(entries: list[Entry]) -> None:
    """Sorted, no name twice, every entry after its folder, and the files that must be there."""
    names = [entry.name for entry in entries]
    folders = {entry.name for entry in entries if entry.is_folder}
    files = set(names) - folders
    if names != sorted(set(names)):
        raise _wrong("entries are not sorted by name, or a name is there twice")
    for name in names:
        parent = name.rpartition("/")[0]
        if parent and parent not in folders:
            raise _wrong(f"{name!r} has no entry for its folder")
    for name in (INIT, MANIFEST, "cage/bin/cage-guest"):
        if name not in files:
            raise _wrong(f"has no file {name!r}")
    if "cage/etc/cage.json" in names:
        raise _wrong("'cage/etc/cage.json' is the cage's own")


def _check_manifest(archive: TarFile, members: Mapping[str, tuple[Entry, TarInfo]]) -> None:
    """The manifest lists exactly the files that are there, as they are."""
    listed = _manifest_files(archive, members[MANIFEST][1])
    expected = {
        entry.name: (entry.size, f"{entry.mode:04o}")
        for entry, _ in members.values()
        if not entry.is_folder and entry.name != MANIFEST
    }
    if listed.keys() != expected.keys():
        missing = sorted(expected.keys() ^ listed.keys())
        raise _wrong(f"{MANIFEST} and the archive differ in which files there are: {missing[:5]}")
    for name, (digest, size, mode) in listed.items():
        if (size, mode) != expected[name]:
            raise _wrong(f"{name}: got {expected[name]}, {MANIFEST} says {(size, mode)}")
        member = members[name][1]
        got = Digest.of_chunks(_chunks(open_file(archive, member), member.size))
        if got != digest:
            raise _wrong(f"{name}: got {got}, {MANIFEST} says {digest}")


def _manifest_files(archive: TarFile, member: TarInfo) -> dict[str, tuple[Digest, int, str]]:
    """Digest, size and mode of every file in the manifest."""
    if member.size > _MAX_MANIFEST:
        raise _wrong(f"{MANIFEST} is larger than {_MAX_MANIFEST} bytes")
    try:
        manifest = json.loads(b"".join(_chunks(open_file(archive, member), member.size)))
    except (ValueError, RecursionError) as error:
        raise _wrong(f"{MANIFEST} is not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("version") != _VERSION:
        raise _wrong(f"{MANIFEST} is not of version {_VERSION}")
    files = manifest.get("files")
    if set(manifest) != {"version", "architecture", "files"} or not isinstance(files, list):
        raise _wrong(f"{MANIFEST} has other keys than version, architecture and files")
    return dict(_manifest_file(file) for file in files)


def _manifest_file(file: Any) -> tuple[str, tuple[Digest, int, str]]:
    if not isinstance(file, dict) or file.keys() != _FILE_KEYS:
        raise _wrong(f"{MANIFEST}: a file has other keys than {', '.join(sorted(_FILE_KEYS))}")
    path, digest, size, mode = (file[key] for key in ("path", "digest", "size", "mode"))
    if not (isinstance(path, str) and isinstance(digest, str) and isinstance(mode, str)):
        raise _wrong(f"{MANIFEST}: path, digest and mode of a file are strings")
    if type(size) is not int:
        raise _wrong(f"{MANIFEST}: {path[:_MAX_NAME]!r} has no size")
    try:
        return path, (Digest.parse(digest), size, mode)
    except InvalidDigestError as error:
        raise _wrong(f"{MANIFEST}: {error}") from error


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
    member.type = tarfile.DIRTYPE if entry.is_folder else tarfile.REGTYPE
    member.mode = entry.mode
    member.size = entry.size
    archive.addfile(member, content)
