"""manifest.json: complete, deterministic, and the same from a build and from the file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cagebuild.errors import EifError
from cagebuild.image.tree import Kind, Node
from cagebuild.nitro import manifest
from cagebuild.nitro.build import build
from tests.support import eif_by_spec as spec
from tests.support.nitro import directory, file, job, symlink, tree

if TYPE_CHECKING:
    from pathlib import Path

    from cagebuild.nitro.build import Job


def awkward(folder: Path) -> Job:
    shared = file(b"shared")
    root = tree(
        {
            b"app": file(b"app" * 1000, mode=0o4755, uid=1, gid=2, mtime=3),
            b"caf\xe9": file(b""),
            "ü\n\x1b".encode(): symlink(b"\xff\xfe"),
            b"d": directory({b"a": shared, b"b": shared}),
            b"null": Node(Kind.CHARACTER, mode=0o666, rdev=(1, 3)),
            b"pipe": Node(Kind.FIFO, mode=0o600),
        }
    )
    return job(folder, root)


def test_every_entry_with_every_field(tmp_path: Path) -> None:
    given, path = awkward(tmp_path), tmp_path / "manifest.json"
    measured = build(given, output=tmp_path / "x.eif", manifest_file=path).measured
    text = path.read_bytes()
    text.decode("ascii")
    document = json.loads(text)
    assert document["Measurements"] == measured.measurements.to_json()["Measurements"]
    assert document["sections"] == [section.to_json() for section in measured.sections]
    image = spec.image((tmp_path / "x.eif").read_bytes())
    wanted = [(n, e) for n, disk in enumerate(image.ramdisks) for e in spec.cpio(disk).entries]
    lines = text.splitlines()
    assert len(lines) == len(wanted) + 2
    found = list(manifest.load(path).entries())
    for got, (number, entry) in zip(found, wanted, strict=True):
        assert (got.ramdisk, got.path, got.mode) == (number, entry.name, entry.mode & 0o7777)
        assert (got.uid, got.gid, got.mtime) == (entry.uid, entry.gid, entry.mtime)
        if got.kind == "file":
            assert got.size == len(entry.data)
            assert got.sha256 == hashlib.sha256(entry.data).hexdigest()
        if got.kind == "symlink":
            assert got.target == entry.data
        if got.kind == "character":
            assert got.rdev == entry.rdev == (1, 3)
    origins = {entry.path: entry.origin for entry in found}
    assert origins[b"init"] == "boot files"
    assert origins[b"rootfs/app"] == "test"
    assert origins[b"rootfs/proc/"] == "container"
    assert origins[b"rootfs/tmp"] == "layout"
    assert origins[b"cmd"] == "image config"


def test_a_line_of_each_form(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    build(awkward(tmp_path), output=None, manifest_file=path)
    lines = path.read_text().splitlines()
    digest = hashlib.sha256(b"app" * 1000).hexdigest()
    assert (
        '{"ramdisk": 1, "path": "rootfs/app", "kind": "file", "mode": "4755", "uid": 1, "gid": 2, '
        f'"mtime": 3, "size": 3000, "sha256": "{digest}", "origin": "test"}},'
    ) in lines
    assert any('"path_b64": "cm9vdGZzL2NhZuk="' in line for line in lines)
    assert any(
        '"rootfs/\\u00fc\\n\\u001b"' in line and '"target_b64": "//4="' in line for line in lines
    )
    assert any('"kind": "character", "mode": "0666"' in line and "[1, 3]" in line for line in lines)


def test_measuring_gives_the_same_manifest(tmp_path: Path) -> None:
    given = awkward(tmp_path)
    build(given, output=tmp_path / "x.eif", manifest_file=tmp_path / "1.json")
    build(given, output=None, manifest_file=tmp_path / "2.json")
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_a_files_manifest_is_the_builds_without_origins(tmp_path: Path) -> None:
    given = awkward(tmp_path)
    build(given, output=tmp_path / "x.eif", manifest_file=tmp_path / "1.json")
    head = manifest.from_eif(tmp_path / "x.eif", tmp_path / "2.json")
    first, second = manifest.load(tmp_path / "1.json"), manifest.load(tmp_path / "2.json")
    assert first.head == second.head == head
    assert [replace(entry, origin="") for entry in first.entries()] == list(second.entries())


def test_a_large_manifest_is_written_in_parts(tmp_path: Path) -> None:
    root = tree({b"%05d" % i: file(b"%d" % i) for i in range(3000)})
    build(job(tmp_path, root), output=None, manifest_file=tmp_path / "m.json")
    entries = list(manifest.load(tmp_path / "m.json").entries())
    assert len(json.loads((tmp_path / "m.json").read_bytes())["entries"]) == len(entries) > 3000


def damaged(folder: Path) -> list[str]:
    path = folder / "m.json"
    build(job(folder), output=None, manifest_file=path)
    return path.read_text().splitlines(keepends=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"format": 1', '"format": 2'),
        ('"architecture": "x86_64"', '"architecture": "mips"'),
        ("Sha384", "Sha256"),
        ('"PCR0": "', '"PCR0": "z'),
        ('"PCR1"', '"PCR7"'),
        ('"section": "kernel"', '"section": "colonel"'),
        ('"size": ', '"size": -'),
        ('"entries": [', '"entries": [1'),
    ],
)
def test_a_head_that_is_refused(tmp_path: Path, old: str, new: str) -> None:
    lines = damaged(tmp_path)
    assert old in lines[0]
    (tmp_path / "m.json").write_text("".join([lines[0].replace(old, new), *lines[1:]]))
    with pytest.raises(EifError, match="line 1"):
        manifest.load(tmp_path / "m.json")


def one_line() -> str:
    """An entry that is right."""
    entry = manifest.ManifestEntry(
        ramdisk=0, path=b"x", kind="fifo", mode=0o600, uid=0, gid=0, mtime=0
    )
    return entry.line() + "\n"


def test_that_entry_is_right(tmp_path: Path) -> None:
    lines = damaged(tmp_path)
    (tmp_path / "m.json").write_text("".join([lines[0], one_line(), *lines[-1:]]))
    assert [entry.path for entry in manifest.load(tmp_path / "m.json").entries()] == [b"x"]


@pytest.mark.parametrize(
    "line",
    [
        "\n",
        "[]\n",
        '{"ramdisk": 0}\n',
        "[" * 100_000 + "\n",
        '{"ramdisk": true, "path": "x"}\n',
        one_line().replace("fifo", "door"),
        one_line().replace('"path": "x"', '"path_b64": "!"'),
        one_line().replace('"0600"', '"0900"'),
        one_line().replace('"uid": 0', '"uid": -1'),
        one_line().replace("}", ', "size": 1}'),
        "x" * (1 << 20),
        "",
    ],
)
def test_an_entry_that_is_refused(tmp_path: Path, line: str) -> None:
    lines = damaged(tmp_path)
    rest = [] if line == "" else lines[2:]
    (tmp_path / "m.json").write_text("".join([*lines[:1], line, *rest]))
    with pytest.raises(EifError, match="line 2"):
        list(manifest.load(tmp_path / "m.json").entries())


def test_what_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff\n")
    for path in (tmp_path / "x", tmp_path / "missing", tmp_path):
        with pytest.raises(EifError):
            manifest.load(path)
