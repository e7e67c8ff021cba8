"""The installer archive: the same bytes always, and nothing in it that it doesn't say."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cagebuild.digest import Digest
from cagebuild.errors import ImageError
from cagebuild.runtime.installer import MANIFEST, Origin, split_installer, write_installer
from cagebuild.steps import runtime
from tests.support.steps import Context

if TYPE_CHECKING:
    from collections.abc import Callable

GUEST, INIT = b"guest program", b"init program" * 1000
ORIGIN = Origin(source=Digest.of(b"sources"), toolchain="go1.27.3")
KNOWN = Digest.parse("sha256:dc96d23aba29681432c1bd7ae9391d67f1287b63417f39917a1fe31e3080ba25")
"""Of the archive that ``written`` writes. A change of it moves the PCRs of every cage."""


def written(folder: Path, init: bytes = INIT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    files = {"init": folder / "b", "cage/bin/cage-guest": folder / "a"}
    files["init"].write_bytes(init)
    files["cage/bin/cage-guest"].write_bytes(GUEST)
    target = folder / "installer.tar"
    write_installer(target, architecture="x86_64", files=files, origin=ORIGIN)
    return target


def split(installer: Path, folder: Path) -> tuple[Path, Path]:
    context = Context(folder / "step", inputs={"installer.tar": installer})
    runtime.run(context)
    return context.output("layer.tar"), context.output("init")


def test_the_bytes_are_known(tmp_path: Path) -> None:
    assert Digest.of_file(written(tmp_path)) == KNOWN


def test_the_bytes_do_not_depend_on_umask_or_times(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        strict = written(tmp_path / "strict")
    finally:
        os.umask(before)
    for file in ("a", "b"):
        os.utime(tmp_path / "strict" / file, (0, 0))
    assert Digest.of_file(strict) == KNOWN


def test_the_manifest_lists_every_file_but_itself(tmp_path: Path) -> None:
    with tarfile.open(written(tmp_path)) as archive:
        stream = archive.extractfile(MANIFEST)
        assert stream is not None
        manifest = json.load(stream)
    assert manifest["architecture"] == "x86_64"
    assert [
        (file["path"], file["digest"], file["size"], file["mode"]) for file in manifest["files"]
    ] == [
        ("cage/bin/cage-guest", str(Digest.of(GUEST)), len(GUEST), "0755"),
        ("init", str(Digest.of(INIT)), len(INIT), "0755"),
    ]
    for file in manifest["files"]:
        assert file["licence"] == "Apache-2.0 AND BSD-3-Clause"
        assert file["origin"] == {"source": str(ORIGIN.source), "toolchain": "go1.27.3"}


def test_the_step_takes_layer_and_init_apart(tmp_path: Path) -> None:
    layer, init = split(written(tmp_path), tmp_path)
    assert init.read_bytes() == INIT
    with tarfile.open(layer) as archive:
        found = [
            (member.name, member.isdir(), member.mode, member.uid, member.gid, member.mtime)
            for member in archive
        ]
        stream = archive.extractfile("cage/bin/cage-guest")
        assert stream is not None
        assert stream.read() == GUEST
    assert found == [
        ("cage", True, 0o755, 0, 0, 0),
        ("cage/bin", True, 0o755, 0, 0, 0),
        ("cage/bin/cage-guest", False, 0o755, 0, 0, 0),
        ("cage/etc", True, 0o755, 0, 0, 0),
        ("cage/manifest.json", False, 0o644, 0, 0, 0),
    ]


class Archive:
    """The entries of a good installer, to be made bad and written again."""

    def __init__(self, folder: Path) -> None:
        self.members: list[tuple[tarfile.TarInfo, bytes]] = []
        self.format = tarfile.USTAR_FORMAT
        with tarfile.open(written(folder)) as archive:
            for member in archive:
                stream = archive.extractfile(member)
                self.members.append((member, stream.read() if stream else b""))

    def find(self, name: str) -> tarfile.TarInfo:
        return next(member for member, _ in self.members if member.name == name)

    def add(self, name: str, data: bytes = b"", **attributes: Any) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        for key, value in attributes.items():
            setattr(member, key, value)
        self.members.append((member, data))
        self.members.sort(key=lambda pair: pair[0].name)

    def remove(self, name: str) -> None:
        self.members = [pair for pair in self.members if pair[0].name != name]

    def rewrite(self, name: str, data: bytes) -> None:
        self.find(name).size = len(data)
        self.members = [
            (member, data if member.name == name else old) for member, old in self.members
        ]

    def manifest(self, change: Callable[[dict[str, Any]], None]) -> None:
        document = json.loads(next(d for member, d in self.members if member.name == MANIFEST))
        change(document)
        self.rewrite(MANIFEST, json.dumps(document).encode())

    def write(self, target: Path) -> Path:
        with tarfile.open(target, "w:", format=self.format) as archive:
            for member, data in self.members:
                archive.addfile(member, io.BytesIO(data))
        return target


def listed(name: str, data: bytes = b"", mode: str = "0644") -> dict[str, Any]:
    """A manifest's words on a file."""
    digest = str(Digest.of(data))
    origin = {"source": digest, "toolchain": "x"}
    head = {"path": name, "digest": digest, "size": len(data), "mode": mode}
    return {**head, "licence": "", "origin": origin}


def with_more(archive: Archive) -> None:
    archive.add("cage/share", type=tarfile.DIRTYPE, mode=0o755)
    archive.add("cage/share/text", b"more", mode=0o644)
    archive.manifest(lambda document: document["files"].append(listed("cage/share/text", b"more")))


def outside(name: str) -> Callable[[Archive], None]:
    def change(archive: Archive) -> None:
        archive.add(name, b"x", mode=0o644)
        archive.manifest(lambda document: document["files"].append(listed(name, b"x")))

    return change


def entry(**attributes: Any) -> Callable[[Archive], None]:
    return lambda archive: archive.add("cage/x", **{"mode": 0o644, **attributes})


def guest(**attributes: Any) -> Callable[[Archive], None]:
    def change(archive: Archive) -> None:
        for key, value in attributes.items():
            setattr(archive.find("cage/bin/cage-guest"), key, value)

    return change


def file_key(key: str, value: Any) -> Callable[[Archive], None]:
    return lambda archive: archive.manifest(
        lambda document: document["files"][0].update({key: value})
    )


def extended(archive: Archive) -> None:
    archive.format = tarfile.PAX_FORMAT
    archive.find("init").pax_headers = {"SCHILY.xattr.security.capability": "x"}


def twice(archive: Archive) -> None:
    archive.members.append(archive.members[-1])


def unsorted(archive: Archive) -> None:
    archive.members.reverse()


BAD: dict[str, tuple[Callable[[Archive], None], str]] = {
    "file outside": (outside("etc/passwd"), "outside of cage/"),
    "file beside init": (outside("initrd"), "outside of cage/"),
    "absolute name": (outside("/cage/x"), "no plain path"),
    "parent in the name": (outside("cage/../x"), "no plain path"),
    "dot in the name": (outside("cage/./x"), "no plain path"),
    "control character in the name": (outside("cage/a\nb"), "not plain ASCII"),
    "long name": (outside(f"cage/{'n' * 90}/{'m' * 99}"), "too long"),
    "symlink": (entry(type=tarfile.SYMTYPE, linkname="/etc"), "neither a folder nor"),
    "hard link": (entry(type=tarfile.LNKTYPE, linkname="init"), "neither a folder nor"),
    "device": (entry(type=tarfile.CHRTYPE), "neither a folder nor"),
    "fifo": (entry(type=tarfile.FIFOTYPE), "neither a folder nor"),
    "owner": (guest(uid=1000), "got owner 1000:0"),
    "group": (guest(gid=5), "got owner 0:5"),
    "time": (guest(mtime=1), "mtime 1"),
    "set-uid": (guest(mode=0o4755), "mode 4755"),
    "writable for all": (guest(mode=0o777), "mode 0777"),
    "extended attribute": (extended, "extended attributes"),
    "name twice": (twice, "a name is there twice"),
    "not sorted": (unsorted, "not sorted"),
    "file without its folder": (outside("cage/a/b"), "no entry for its folder"),
    "file below a file": (outside("cage/manifest.json/x"), "no entry for its folder"),
    "no init": (lambda archive: archive.remove("init"), "has no file 'init'"),
    "no guest": (lambda archive: archive.remove("cage/bin/cage-guest"), "has no file"),
    "no manifest": (lambda archive: archive.remove(MANIFEST), "has no file"),
    "settings": (outside("cage/etc/cage.json"), "the cage's own"),
    "file that the manifest lacks": (entry(), "differ in which files"),
    "manifest's file that is not there": (
        lambda archive: archive.manifest(lambda d: d["files"].append(listed("cage/y"))),
        "differ in which files",
    ),
    "other content": (
        lambda archive: archive.rewrite("init", INIT[:-1] + b"X"),
        f"init: got {Digest.of(INIT[:-1] + b'X')}",
    ),
    "other size": (lambda archive: archive.rewrite("init", b""), "init: got (0,"),
    "other mode": (guest(mode=0o644), "cage/bin/cage-guest: got"),
    "manifest that is no JSON": (lambda archive: archive.rewrite(MANIFEST, b"{"), "not JSON"),
    "manifest that is deep": (
        lambda archive: archive.rewrite(MANIFEST, b"[" * 200_000),
        "not JSON",
    ),
    "manifest that is an array": (lambda archive: archive.rewrite(MANIFEST, b"[]"), "version 1"),
    "manifest of version 2": (
        lambda archive: archive.manifest(lambda document: document.update(version=2)),
        "version 1",
    ),
    "manifest that is huge": (
        lambda archive: archive.rewrite(MANIFEST, b" " * (1 << 20) + b"{}"),
        "larger than",
    ),
    "manifest with another key": (
        lambda archive: archive.manifest(lambda document: document.update(signed=True)),
        "other keys",
    ),
    "manifest's file with another key": (file_key("setuid", True), "other keys"),
    "manifest's file without a digest": (file_key("digest", None), "are strings"),
    "manifest's file with a bad digest": (file_key("digest", "md5:0"), "not a digest"),
    "manifest's file with size true": (file_key("size", True), "has no size"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_installer_is_refused(
    tmp_path: Path, change: Callable[[Archive], None], message: str
) -> None:
    archive = Archive(tmp_path / "good")
    change(archive)
    with pytest.raises(ImageError) as caught:
        split(archive.write(tmp_path / "bad.tar"), tmp_path)
    assert message in caught.value.message


def test_an_installer_with_more_files_is_taken(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "good")
    with_more(archive)
    layer, _ = split(archive.write(tmp_path / "more.tar"), tmp_path)
    with tarfile.open(layer) as result:
        assert "cage/share/text" in result.getnames()


def test_an_installer_in_pax_format_gives_the_same_layer(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "good")
    archive.format = tarfile.PAX_FORMAT
    layer, _ = split(archive.write(tmp_path / "pax.tar"), tmp_path)
    expected, _ = split(written(tmp_path / "ustar"), tmp_path / "ustar")
    assert layer.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("kept", [0, 100, 512, 3000, 8000, 14000])
def test_an_installer_that_was_cut_off_is_refused(tmp_path: Path, kept: int) -> None:
    cut = tmp_path / "cut.tar"
    cut.write_bytes(written(tmp_path / "good").read_bytes()[:kept])
    with pytest.raises(ImageError, match="runtime installer"):
        split(cut, tmp_path)


def test_a_compressed_installer_is_refused(tmp_path: Path) -> None:
    packed = tmp_path / "installer.tar.gz"
    with tarfile.open(packed, "w:gz"):
        pass
    with pytest.raises(ImageError, match="not a tar archive"):
        split(packed, tmp_path)


def test_an_installer_with_too_many_entries_is_refused(tmp_path: Path) -> None:
    many = tmp_path / "many.tar"
    with tarfile.open(many, "w:", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(4097):
            member = tarfile.TarInfo(f"cage/{number:04}")
            member.mode = 0o644
            archive.addfile(member)
    with pytest.raises(ImageError, match="more than 4096 entries"):
        split_installer(many, tmp_path / "layer", tmp_path / "init")


def test_an_installer_that_is_huge_is_refused_unread(tmp_path: Path) -> None:
    huge = tmp_path / "huge.tar"
    with huge.open("wb") as stream:
        stream.truncate(1 << 30)
    with pytest.raises(ImageError, match="larger than"):
        split_installer(huge, tmp_path / "layer", tmp_path / "init")
