"""Writing an installer: the same bytes always, and the layer that it becomes."""

from __future__ import annotations

import json
import os
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cagebuild.digest import Digest
from cagebuild.errors import ImageError
from cagebuild.image.layers import Layer, flatten
from cagebuild.image.tree import Kind, Region
from cagebuild.runtime.installer import (
    MANIFEST,
    InstallerFile,
    read_manifest,
    write_installer,
)
from tests.support.installers import (
    BOX,
    BUSYBOX,
    GUEST,
    INIT,
    LIBC,
    OURS,
    SCRIPT,
    good_files,
    split,
    written,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KNOWN = Digest.parse("sha256:027f0aae78cc9351d2627738486b6fe78e9e0c12dd0374857c944f48a43e6d2f")
"""Of the archive that ``written`` writes. A change of it moves the PCRs of every cage."""


def test_the_bytes_are_known(tmp_path: Path) -> None:
    assert Digest.of_file(written(tmp_path)) == KNOWN


def test_the_bytes_do_not_depend_on_umask_or_times(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        strict = written(tmp_path / "strict")
    finally:
        os.umask(before)
    for file in "abcd":
        os.utime(tmp_path / "strict" / file, (0, 0))
    assert Digest.of_file(strict) == KNOWN


def test_the_manifest_lists_every_file_and_link_but_itself(tmp_path: Path) -> None:
    with tarfile.open(written(tmp_path)) as archive:
        stream = archive.extractfile(MANIFEST)
        assert stream is not None
        manifest = json.load(stream)
    assert manifest["architecture"] == "x86_64"
    assert manifest["origins"] == [BUSYBOX.to_json(), OURS.to_json(), LIBC.to_json()]
    ours = {"licence": "Apache-2.0", "origin": ["cage-guest"]}
    box = {"licence": "GPL-2.0-only AND LGPL-2.1-or-later", "origin": ["busybox", "glibc"]}

    def file(path: str, content: bytes, **more: object) -> dict[str, object]:
        size, digest = len(content), str(Digest.of(content))
        head = {"path": path, "type": "file", "digest": digest, "size": size, "mode": "0755"}
        return {**head, **more}

    link = {"path": "cage/bin/sh", "type": "link", "target": "busybox", "mode": "0777"}
    assert manifest["files"] == [
        file("cage/bin/busybox", BOX, **box),
        file("cage/bin/cage-guest", GUEST, **ours),
        {**link, **box},
        file("cage/service/app/run", SCRIPT, **ours),
        file("init", INIT, **ours),
    ]


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    manifest = read_manifest(written(tmp_path))
    assert manifest.origins == (BUSYBOX, OURS, LIBC)
    assert manifest.from_bytes(manifest.to_bytes()) == manifest


def test_the_order_of_files_makes_no_difference(tmp_path: Path) -> None:
    target = tmp_path / "turned.tar"
    write_installer(target, architecture="x86_64", files=reversed(good_files(tmp_path)))
    assert Digest.of_file(target) == KNOWN


def test_a_file_that_only_is_read_is_0644(tmp_path: Path) -> None:
    files = good_files(tmp_path)
    files[0] = replace(files[0], executable=False)
    write_installer(tmp_path / "x.tar", architecture="x86_64", files=files)
    with tarfile.open(tmp_path / "x.tar") as archive:
        assert archive.getmember("cage/service/app/run").mode == 0o644


WRONG: dict[str, tuple[Callable[[InstallerFile], list[InstallerFile]], str]] = {
    "name twice": (lambda file: [file, replace(file)], "two files of the name"),
    "outside": (lambda file: [replace(file, path="bin/sh")], "outside of cage/"),
    "parent": (lambda file: [replace(file, path="cage/../sh")], "no plain path"),
    "manifest": (lambda file: [replace(file, path=MANIFEST)], "a name is there twice"),
    "settings": (lambda file: [replace(file, path="cage/etc/cage.json")], "the cage's own"),
    "below a file": (lambda file: [replace(file, path="cage/bin/sh/x")], "name is there twice"),
    "neither file nor link": (lambda file: [replace(file, source=None)], "neither a file nor"),
    "both": (lambda file: [replace(file, target="busybox")], "or both"),
    "dangling": (lambda file: [replace(file, source=None, target="x")], "no file beside it"),
    "no origin": (lambda file: [replace(file, origins=())], "has no origin"),
    "origin twice": (lambda file: [replace(file, origins=(OURS, OURS))], "no origin, or one twice"),
    "two origins of a name": (
        lambda file: [replace(file, origins=(replace(OURS, version="2"),))],
        "two origins of the name",
    ),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_would_not_be_read_is_not_written(
    tmp_path: Path, change: Callable[[InstallerFile], list[InstallerFile]], message: str
) -> None:
    first, *others = good_files(tmp_path)
    target = tmp_path / "wrong.tar"
    with pytest.raises(ImageError) as caught:
        write_installer(target, architecture="x86_64", files=[*change(first), *others])
    assert message in caught.value.message
    assert not target.exists()


def test_the_step_takes_layer_and_init_apart(tmp_path: Path) -> None:
    layer, init = split(written(tmp_path), tmp_path)
    assert init.read_bytes() == INIT
    with tarfile.open(layer) as archive:
        found = [
            (member.name, member.type, member.mode, member.uid, member.gid, member.mtime)
            for member in archive
        ]
        stream = archive.extractfile("cage/bin/cage-guest")
        assert stream is not None
        assert stream.read() == GUEST
        assert archive.getmember("cage/bin/sh").linkname == "busybox"
    folder, file = tarfile.DIRTYPE, tarfile.REGTYPE
    assert found == [
        ("cage", folder, 0o755, 0, 0, 0),
        ("cage/bin", folder, 0o755, 0, 0, 0),
        ("cage/bin/busybox", file, 0o755, 0, 0, 0),
        ("cage/bin/cage-guest", file, 0o755, 0, 0, 0),
        ("cage/bin/sh", tarfile.SYMTYPE, 0o777, 0, 0, 0),
        ("cage/etc", folder, 0o755, 0, 0, 0),
        ("cage/manifest.json", file, 0o644, 0, 0, 0),
        ("cage/service", folder, 0o755, 0, 0, 0),
        ("cage/service/app", folder, 0o755, 0, 0, 0),
        ("cage/service/app/run", file, 0o755, 0, 0, 0),
    ]
    origins = json.loads((layer.parent / "origins.json").read_text())
    assert origins == {
        "cage/bin/busybox": "runtime, from busybox 1:1.35.0-4+deb12u1",
        "cage/bin/cage-guest": "runtime, from cage-guest 1.0",
        "cage/bin/sh": "runtime, from busybox 1:1.35.0-4+deb12u1",
        "cage/service/app/run": "runtime, from cage-guest 1.0",
    }


def test_links_are_in_the_image_that_the_layer_becomes(tmp_path: Path) -> None:
    layer, _ = split(written(tmp_path), tmp_path)
    found = Layer(region=Region.of_file(layer), name="runtime layer", origin="runtime")
    root = flatten([found])
    shell = root.children[b"cage"].children[b"bin"].children[b"sh"]  # type: ignore[index]
    assert (shell.kind, shell.target) == (Kind.SYMLINK, b"busybox")
