"""Reading an installer: nothing is in it that it doesn't say, whoever made it."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cagebuild.digest import Digest
from cagebuild.errors import ImageError
from cagebuild.runtime.installer import MANIFEST, split_installer
from tests.support.installers import INIT, OURS, Archive, split, written

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def listed(name: str, data: bytes = b"", mode: str = "0644") -> dict[str, Any]:
    """A manifest's words on a file."""
    head = {"path": name, "type": "file", "digest": str(Digest.of(data)), "size": len(data)}
    return {**head, "mode": mode, "licence": "Apache-2.0", "origin": ["cage-guest"]}


def listed_link(name: str, target: str) -> dict[str, Any]:
    """A manifest's words on a link."""
    head = {"path": name, "type": "link", "target": target, "mode": "0777"}
    return {**head, "licence": "Apache-2.0", "origin": ["cage-guest"]}


def insert(document: dict[str, Any], file: dict[str, Any]) -> None:
    """List one file more, in its place."""
    document["files"].append(file)
    document["files"].sort(key=lambda each: str(each["path"]))


def with_more(archive: Archive) -> None:
    archive.add("cage/share", type=tarfile.DIRTYPE, mode=0o755)
    archive.add("cage/share/text", b"more", mode=0o644)
    archive.manifest(lambda document: insert(document, listed("cage/share/text", b"more")))


def outside(name: str) -> Callable[[Archive], None]:
    def change(archive: Archive) -> None:
        archive.add(name, b"x", mode=0o644)
        archive.manifest(lambda document: insert(document, listed(name, b"x")))

    return change


def entry(**attributes: Any) -> Callable[[Archive], None]:
    return lambda archive: archive.add("cage/x", **{"mode": 0o644, **attributes})


def link(name: str, target: str, **attributes: Any) -> Callable[[Archive], None]:
    """A link that is listed."""

    def change(archive: Archive) -> None:
        attributes.setdefault("mode", 0o777)
        archive.add(name, type=tarfile.SYMTYPE, linkname=target, **attributes)
        archive.manifest(lambda document: insert(document, listed_link(name, target)))

    return change


def in_place_of_a_file(archive: Archive) -> None:
    archive.remove("cage/service/app/run")
    archive.add("cage/service/app/run", type=tarfile.SYMTYPE, linkname="x", mode=0o777)


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
    "link that is not listed": (
        entry(type=tarfile.SYMTYPE, linkname="manifest.json", mode=0o777),
        "differ in which files",
    ),
    "link to an absolute path": (link("cage/bin/x", "/cage/bin/sh"), "no file's name"),
    "link to another folder": (link("cage/bin/x", "../manifest.json"), "no file's name"),
    "link into a folder": (link("cage/x", "bin/busybox"), "no file's name"),
    "link to the folder above": (link("cage/bin/x", ".."), "no file's name"),
    "link to its own folder": (link("cage/bin/x", "."), "no file's name"),
    "link to nothing": (link("cage/bin/x", ""), "no file's name"),
    "link to a name with a blank": (link("cage/bin/x", "a b"), "no file's name"),
    "link to a name that is not ASCII": (link("cage/bin/x", "b\u00fcsybox"), "no file's name"),
    "dangling link": (link("cage/bin/x", "bash"), "no file beside it"),
    "link to a file of another folder": (link("cage/x", "busybox"), "no file beside it"),
    "link to itself": (link("cage/bin/x", "x"), "no file beside it"),
    "link to a link": (link("cage/bin/x", "sh"), "no file beside it"),
    "link to a folder": (link("cage/x", "bin"), "no file beside it"),
    "link beside init": (link("initrd", "init"), "outside of cage/"),
    "link as folder": (link("cage/bin/sh/x", "busybox"), "no entry for its folder"),
    "link's mode": (link("cage/bin/x", "busybox", mode=0o755), "mode 0755, expected 0:0, 0, and"),
    "link's owner": (link("cage/bin/x", "busybox", uid=5), "got owner 5:0"),
    "link that has content": (
        lambda archive: archive.rewrite("cage/bin/sh", b"x" * 512),
        "no folder, regular",
    ),
    "link with another target": (
        lambda archive: setattr(archive.find("cage/bin/sh"), "linkname", "cage-guest"),
        "cage/bin/sh: got",
    ),
    "link in the place of a file": (in_place_of_a_file, "no file beside it"),
    "hard link": (entry(type=tarfile.LNKTYPE, linkname="init"), "no folder, regular"),
    "device": (entry(type=tarfile.CHRTYPE), "no folder, regular"),
    "fifo": (entry(type=tarfile.FIFOTYPE), "no folder, regular"),
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
    "settings as a link": (link("cage/etc/cage.json", "x"), "no file beside it"),
    "file that the manifest lacks": (entry(), "differ in which files"),
    "manifest's file that is not there": (
        lambda archive: archive.manifest(lambda d: insert(d, listed("cage/y"))),
        "differ in which files",
    ),
    "other content": (
        lambda archive: archive.rewrite("init", INIT[:-1] + b"X"),
        f"init: got {Digest.of(INIT[:-1] + b'X')}",
    ),
    "other size": (lambda archive: archive.rewrite("init", b""), "init: got ('file', '0755', 0,"),
    "other mode": (guest(mode=0o644), "cage/bin/cage-guest: got"),
    "manifest that is no JSON": (lambda archive: archive.rewrite(MANIFEST, b"{"), "not JSON"),
    "manifest that is deep": (
        lambda archive: archive.rewrite(MANIFEST, b"[" * 200_000),
        "not JSON",
    ),
    "manifest that is an array": (lambda archive: archive.rewrite(MANIFEST, b"[]"), "version 2"),
    "manifest of version 1": (
        lambda archive: archive.manifest(lambda document: document.update(version=1)),
        "version 2",
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
    "manifest's file without a digest": (file_key("digest", None), "a digest is no text"),
    "manifest's file with a bad digest": (file_key("digest", "md5:0"), "not a digest"),
    "manifest's file with size true": (file_key("size", True), "has no size"),
    "manifest's file with a negative size": (file_key("size", -1), "has no size"),
    "manifest's file without a path": (file_key("path", None), "a path is no text"),
    "manifest's file with a mode that is none": (file_key("mode", "755"), "not a mode"),
    "manifest's file of another type": (file_key("type", "device"), "no known type"),
    "manifest's file that is said to be a link": (file_key("type", "link"), "other keys"),
    "manifest's file with another licence": (file_key("licence", "MIT"), "its origins say"),
    "manifest's file without an origin": (file_key("origin", []), "has no origin"),
    "manifest's file with an unknown origin": (file_key("origin", ["bash"]), "not listed"),
    "manifest's file with an origin in words": (file_key("origin", "busybox"), "are lists"),
    "manifest's files not sorted": (
        lambda archive: archive.manifest(lambda document: document["files"].reverse()),
        "not sorted by path",
    ),
    "manifest's origins not sorted": (
        lambda archive: archive.manifest(lambda document: document["origins"].reverse()),
        "not sorted by name",
    ),
    "manifest's origin twice": (
        lambda archive: archive.manifest(
            lambda document: document["origins"].append(document["origins"][-1])
        ),
        "a name is there twice",
    ),
    "manifest's origin that nothing has": (
        lambda archive: archive.manifest(
            lambda document: document["origins"].append(replace(OURS, name="zlib").to_json())
        ),
        "without a file",
    ),
    "manifest's origin with another key": (
        lambda archive: archive.manifest(lambda document: document["origins"][0].update(by="me")),
        "other keys",
    ),
    "manifest for another machine": (
        lambda archive: archive.manifest(lambda document: document.update(architecture="vax")),
        "not an architecture",
    ),
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
