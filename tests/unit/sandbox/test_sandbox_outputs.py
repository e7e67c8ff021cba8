"""What a container leaves is an archive by whoever ran in it: files, and nothing else."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

import pytest

from cagebuild.errors import ImageError
from cagebuild.sandbox.container import unpack_outputs
from cagebuild.sandbox.job import check_name

if TYPE_CHECKING:
    from pathlib import Path


def archive(path: Path, *members: tuple[str, bytes, str]) -> Path:
    """An archive of entries: name, type, content or target of a link."""
    with tarfile.open(path, "w") as tar:
        for name, kind, content in members:
            entry = tarfile.TarInfo(name)
            entry.type = kind
            entry.linkname = content if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            data = content.encode() if kind == tarfile.REGTYPE else b""
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def unpacked(path: Path, folder: Path) -> dict[str, str]:
    folder.mkdir()
    unpack_outputs(path, folder)
    return {file.name: file.read_text() for file in folder.iterdir()}


@pytest.mark.parametrize("before", ["out/", "./out/"])
def test_files_are_taken(tmp_path: Path, before: str) -> None:
    members = [(before.rstrip("/"), tarfile.DIRTYPE, ""), (f"{before}kernel", tarfile.REGTYPE, "x")]
    assert unpacked(archive(tmp_path / "tar", *members), tmp_path / "o") == {"kernel": "x"}


@pytest.mark.parametrize(
    ("name", "kind", "content"),
    [
        ("out/link", tarfile.SYMTYPE, "/etc/passwd"),
        ("out/link", tarfile.LNKTYPE, "out/other"),
        ("out/folder/file", tarfile.REGTYPE, "x"),
        ("out/folder", tarfile.DIRTYPE, ""),
        ("out/..", tarfile.REGTYPE, "x"),
        ("../escape", tarfile.REGTYPE, "x"),
        ("/etc/escape", tarfile.REGTYPE, "x"),
        ("out/fifo", tarfile.FIFOTYPE, ""),
        ("out/device", tarfile.CHRTYPE, ""),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, name: str, kind: bytes, content: str) -> None:
    with pytest.raises(ImageError, match="no file"):
        unpacked(archive(tmp_path / "tar", (name, kind, content)), tmp_path / "o")
    assert not list(tmp_path.rglob("escape"))


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    twice = [("out/a", tarfile.REGTYPE, "1"), ("out/a", tarfile.REGTYPE, "2")]
    with pytest.raises(ImageError, match="twice"):
        unpacked(archive(tmp_path / "tar", *twice), tmp_path / "o")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tar").write_bytes(b"not a tar archive" * 100)
    with pytest.raises(ImageError, match="cannot be read"):
        unpacked(tmp_path / "tar", tmp_path / "o")


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a\0b"])
def test_inputs_have_plain_names(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of an input"):
        check_name(name)
