"""Export: read back by this project, by Python's tarfile and by GNU tar; equal for equal inputs."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from cagebuild.digest import Digest
from cagebuild.errors import ImageError, UsageError
from cagebuild.image.config import ImageConfig
from cagebuild.image.export import ExportFormat, export
from cagebuild.image.layers import Layer, flatten, set_times
from cagebuild.image.layout import open_image
from cagebuild.image.tree import Kind, Node, Region, walk
from tests.support.tars import (
    Item,
    archive,
    device,
    directory,
    hard_link,
    regular,
    symlink,
)
from tests.support.trees import facts

CONFIG = ImageConfig(architecture="amd64", os="linux", cmd=("/app",), env=("A=1",))
FORMS: tuple[ExportFormat, ...] = ("oci", "oci-archive", "docker-archive")
ITEMS: list[Item | bytes] = [
    regular("z/app", b"content" * 1000, mode=0o4755),
    hard_link("b/link", "z/app", mode=0o4755),
    symlink("s", "z/app"),
    hard_link("t", "s"),
    device("dev/null", 1, 3),
    Item(name=b"fifo", kind=b"6"),
    directory("tmp", mode=0o1777, uid=5),
    regular(b"n\xe9\xff/" + b"long" * 50, b"x", mtime=3),
    Item(name=b"big-ids", uid=1 << 20, extra={b"uid": b"4000000000", b"gid": b"3000000000"}),
]


def _tree(items: list[Item | bytes] | None = None) -> Node:
    data = archive(*(ITEMS if items is None else items))
    root = flatten([Layer(region=Region.of_bytes(data), name="layer", origin="")])
    set_times(root, 1_000_000)
    return root


def _export(path: Path, form: ExportFormat, root: Node | None = None) -> Path:
    export(root or _tree(), CONFIG, path, form=form, name="app:1", epoch=1_000_000)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_what_is_exported_can_be_opened_again(tmp_path: Path, form: ExportFormat) -> None:
    path = tmp_path / "new" / "image"
    done = export(_tree(), CONFIG, path, form=form, name="app:1", epoch=1_000_000)
    image = open_image(path, architecture="x86_64", scratch=tmp_path, name="app:1")
    (blob,) = image.layers
    layer = Layer(region=blob.open(tmp_path), name="layer", origin="")
    assert facts(flatten([layer])) == facts(_tree())
    assert (image.config.cmd, image.config.env) == (("/app",), ("A=1",))
    assert image.config.raw["created"] == "1970-01-12T13:46:40Z"
    assert (blob.digest, blob.diff_id) == (done.layer, done.layer)
    assert (image.config_digest, image.manifest_digest) == (done.config, done.manifest)


def test_a_docker_archive_is_what_docker_load_reads(tmp_path: Path) -> None:
    path = _export(tmp_path / "image.tar", "docker-archive")
    with tarfile.open(path) as opened:

        def content(name: str) -> bytes:
            stream = opened.extractfile(name)
            assert stream is not None
            return stream.read()

        ((item,), names) = json.loads(content("manifest.json")), opened.getnames()
        config = json.loads(content(item["Config"]))
        assert item["RepoTags"] == ["app:1"]
        assert item["Config"] == "blobs/sha256/" + Digest.of(content(item["Config"])).hex
        diff_ids = [str(Digest.of(content(layer))) for layer in item["Layers"]]
        assert config["rootfs"]["diff_ids"] == diff_ids
        assert len(config["history"]) == 1
        assert {member.mtime for member in opened.getmembers()} == {1_000_000}
    assert names[:2] == ["blobs", "blobs/sha256"]
    assert "oci-layout" in names


def _bytes(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {
        str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }


@pytest.mark.parametrize("form", FORMS)
def test_equal_inputs_give_equal_bytes(tmp_path: Path, form: ExportFormat) -> None:
    one = _bytes(_export(tmp_path / "one", form))
    # The hard link's target has to come first; all else in another order.
    shuffled = _tree([ITEMS[0], *reversed(ITEMS[4:]), *ITEMS[2:4], ITEMS[1]])
    assert _bytes(_export(tmp_path / "elsewhere" / "two", form, shuffled)) == one


def _layer(tmp_path: Path) -> Path:
    folder = _export(tmp_path / "layout", "oci")
    image = open_image(folder, architecture="x86_64", scratch=tmp_path)
    return folder / "blobs/sha256" / image.layers[0].diff_id.hex


def test_the_layer_has_an_entry_for_every_directory_and_none_for_the_root(tmp_path: Path) -> None:
    listed = subprocess.run(
        ["tar", "--quoting-style=escape", "-tf", str(_layer(tmp_path))],
        check=True,
        capture_output=True,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
    ).stdout.decode()
    assert listed.splitlines() == [
        "b/",
        "b/link",
        "big-ids",
        "dev/",
        "dev/null",
        "fifo",
        "n\\351\\377/",
        "n\\351\\377/" + "long" * 50,
        "s",
        "t",
        "tmp/",
        "z/",
        "z/app",
    ]


def test_python_reads_the_same_entries(tmp_path: Path) -> None:
    expected = facts(_tree())
    with tarfile.open(_layer(tmp_path), encoding="utf-8", errors="surrogateescape") as opened:
        members = {
            member.name.encode("utf-8", "surrogateescape"): member for member in opened.getmembers()
        }
    assert list(members) == list(expected)
    for path, member in members.items():
        kind, mode, uid, gid, mtime = expected[path][:5]
        assert (member.mode, member.uid, member.gid, member.mtime) == (mode, uid, gid, mtime)
        assert member.isdir() == (kind is Kind.DIRECTORY)
    assert members[b"z/app"].islnk()
    assert members[b"z/app"].linkname == "b/link"
    assert members[b"t"].islnk()
    assert members[b"dev/null"].ischr()


def test_a_layout_is_replaced_whole(tmp_path: Path) -> None:
    path = _export(tmp_path / "layout", "oci")
    (path / "left-over").write_bytes(b"")
    before = _bytes(_export(tmp_path / "other", "oci", _tree([regular("x")])))
    assert _bytes(_export(path, "oci", _tree([regular("x")]))) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["layout", "other"]


def test_a_folder_that_is_no_layout_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "file").write_bytes(b"precious")
    with pytest.raises(UsageError, match="no OCI layout"):
        _export(tmp_path / "home", "oci")
    assert (tmp_path / "home" / "file").read_bytes() == b"precious"


@pytest.mark.parametrize("form", FORMS)
def test_a_failed_export_leaves_what_was_there(tmp_path: Path, form: ExportFormat) -> None:
    path = _export(tmp_path / "image", form)
    before = _bytes(path)
    root = _tree([regular("cut", b"1" * 100)])
    (node,) = (node for _, node in walk(root))
    node.size = 10_000_000
    with pytest.raises(ImageError, match="ends early"):
        _export(path, form, root)
    assert _bytes(path) == before
    assert list(tmp_path.iterdir()) == [path]
