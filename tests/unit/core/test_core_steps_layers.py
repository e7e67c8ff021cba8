"""The steps that make layers: ``app-layer``, ``unpack``, ``import``, each by itself."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from cagebuild import steps
from cagebuild.errors import ImageError
from cagebuild.steps import app_layer, import_image, unpack
from tests.support.images import Files, named
from tests.support.steps import Context
from tests.support.tars import archive, directory, regular

if TYPE_CHECKING:
    from pathlib import Path

LAYER = archive(directory("bin"), regular("bin/app", b"program\n", mode=0o755))


def diff_id(data: bytes) -> str:
    """Of a tar."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


# app-layer


def facts(destination: str, kind: str = "file", **more: Any) -> dict[str, Any]:
    """As a plan has them."""
    usual = {"mode": 0o644, "uid": 0, "gid": 0, "target": ""}
    return {"destination": destination, "kind": kind, **usual, **more}


def layer_of(folder: Path, files: list[dict[str, Any]], **contents: bytes) -> list[tarfile.TarInfo]:
    """The entries of the layer of these files; a file's content is by its place in the list."""
    inputs = {}
    for number, file in enumerate(files):
        if file["kind"] == "file":
            path = folder / f"content-{number}"
            path.write_bytes(contents.get(f"at{number}", b""))
            inputs[f"file:{file['destination']}"] = path
    context = Context(folder / "out", params={"files": files}, inputs=inputs)
    app_layer.run(context)
    with tarfile.open(context.output("layer.tar"), errors="surrogateescape") as layer:
        return layer.getmembers()


def test_attributes_are_those_of_the_plan(tmp_path: Path) -> None:
    files = [
        facts("srv/run", mode=0o4755, uid=1000, gid=2**31),
        facts("srv/link", "symlink", mode=0o777, target="../run it"),
        facts("srv/empty", "directory", mode=0o755, uid=5),
    ]
    found = {member.name: member for member in layer_of(tmp_path, files, at0=b"12345")}
    run = found["srv/run"]
    assert (run.mode, run.uid, run.gid, run.size, run.mtime) == (0o4755, 1000, 2**31, 5, 0)
    assert (found["srv/link"].issym(), found["srv/link"].linkname) == (True, "../run it")
    assert (found["srv/empty"].isdir(), found["srv/empty"].uid) == (True, 5)


def test_folders_on_the_way_have_no_entry(tmp_path: Path) -> None:
    """So those of the base keep their attributes."""
    assert [member.name for member in layer_of(tmp_path, [facts("a/b/c")])] == ["a/b/c"]


def test_entries_are_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    names = ["z", "\U0001f600", "\uffee", "a/b", "a.b", "\udcff", "é"]
    found = layer_of(tmp_path, [facts(name) for name in names])
    sorted_names = [member.name for member in found]
    assert sorted_names == sorted(names, key=lambda name: name.encode("utf-8", "surrogateescape"))


def test_names_and_targets_that_are_not_utf8_stay_as_they_are(tmp_path: Path) -> None:
    files = [facts("\udcff\udcfe"), facts("a", "symlink", target="\udcc3")]
    assert len(layer_of(tmp_path, files)) == 2
    data = (tmp_path / "out/layer.tar").read_bytes()
    assert data[512 : 512 + 3] == b"\xff\xfe\0"
    assert data[157:159] == b"\xc3\0"


def test_names_longer_than_a_header_holds(tmp_path: Path) -> None:
    long = "d/" * 200 + "é" * 80
    (member,) = layer_of(tmp_path, [facts(long)])
    assert member.name == long


def test_no_files_at_all(tmp_path: Path) -> None:
    assert layer_of(tmp_path, []) == []


# unpack


@pytest.mark.parametrize("data", [LAYER, gzip.compress(LAYER, mtime=0)], ids=["plain", "gzip"])
def test_a_layer_is_unpacked_and_checked(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "blob").write_bytes(data)
    context = Context(
        tmp_path / "out",
        params={"diff_id": diff_id(LAYER)},
        inputs={"layer": tmp_path / "blob"},
    )
    unpack.run(context)
    assert context.output("layer.tar").read_bytes() == LAYER


def test_a_layer_with_another_content_than_its_image_says(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(gzip.compress(LAYER + bytes(512), mtime=0))
    context = Context(
        tmp_path / "out",
        params={"diff_id": diff_id(LAYER)},
        inputs={"layer": tmp_path / "blob"},
    )
    with pytest.raises(ImageError, match="not what the image's config says"):
        unpack.run(context)
    assert not context.output("layer.tar").exists()


def test_a_layer_that_is_cut_short(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(gzip.compress(LAYER, mtime=0)[:-9])
    context = Context(
        tmp_path / "out",
        params={"diff_id": diff_id(LAYER)},
        inputs={"layer": tmp_path / "blob"},
    )
    with pytest.raises(ImageError):
        unpack.run(context)


# import


def imported(folder: Path, data: bytes, *diff_ids: str, name: str | None = None) -> Context:
    """The step's context after it was run."""
    (folder / "archive.tar").write_bytes(data)
    context = Context(
        folder / "out",
        params={"name": name, "architecture": "x86_64", "diff_ids": list(diff_ids)},
        inputs={"archive": folder / "archive.tar"},
    )
    import_image.run(context)
    return context


def test_an_archive_is_taken_apart(tmp_path: Path) -> None:
    upper = archive(regular("etc/x", b"y"))
    files = Files()
    stored = [gzip.compress(LAYER, mtime=0), upper]
    made = files.image(LAYER, upper, stored=stored, config={"Cmd": ["/bin/app"]})
    data = files.layout(made).tar()
    context = imported(tmp_path, data, diff_id(LAYER), diff_id(upper))
    assert context.output("layer-000.tar").read_bytes() == LAYER
    assert context.output("layer-001.tar").read_bytes() == upper
    assert b'"Cmd":["/bin/app"]' in context.output("config.json").read_bytes()


def test_one_image_of_several_by_its_name(tmp_path: Path) -> None:
    files = Files()
    other = archive(regular("other"))
    images = [named(files.image(LAYER), "one"), named(files.image(other), "two")]
    data = files.layout(*images).tar()
    context = imported(tmp_path, data, diff_id(other), name="two")
    assert context.output("layer-000.tar").read_bytes() == other


def test_an_archive_with_other_layers_than_the_lock(tmp_path: Path) -> None:
    files = Files()
    data = files.layout(files.image(LAYER)).tar()
    with pytest.raises(ImageError, match="other layers than the lock names"):
        imported(tmp_path, data, diff_id(b"another"))


# the table of kinds


def test_every_kind_has_its_code() -> None:
    for kind in steps.KINDS:
        assert callable(steps.load(kind))
    with pytest.raises(KeyError):
        steps.load("nonsense")


def test_a_step_that_gets_what_no_plan_gives_is_a_bug_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    context = Context(tmp_path / "out", params={"diff_id": 5}, inputs={"layer": tmp_path / "x"})
    with pytest.raises(TypeError):
        unpack.run(context)
