"""Small runtime installers: good ones, and those to be made bad."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cagebuild.digest import Digest
from cagebuild.runtime.installer import MANIFEST, InstallerFile, write_installer
from cagebuild.runtime.origin import Origin, SourceFile, package_url
from cagebuild.steps import runtime
from tests.support.steps import Context

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GUEST, INIT = b"guest program", b"init program" * 1000
BOX, SCRIPT = b"busybox", b"#!/cage/bin/sh\n"
OURS = Origin(
    name="cage-guest",
    version="1.0",
    licence="Apache-2.0",
    purl=package_url("golang/cagebuild.dev/runtime", "1.0"),
    sources=(SourceFile(name="runtime", digest=Digest.of(b"sources")),),
)
BUSYBOX = Origin(
    name="busybox",
    version="1:1.35.0-4+deb12u1",
    licence="GPL-2.0-only",
    purl=package_url("deb/debian/busybox", "1:1.35.0-4+deb12u1", arch="source"),
    sources=(
        SourceFile(
            name="busybox_1.35.0.orig.tar.bz2",
            digest=Digest.of(b"busybox"),
            url="https://snapshot.example/busybox_1.35.0.orig.tar.bz2",
        ),
    ),
)
LIBC = replace(BUSYBOX, name="glibc", licence="LGPL-2.1-or-later")


def written(folder: Path, init: bytes = INIT) -> Path:
    target = folder / "installer.tar"
    write_installer(target, architecture="x86_64", files=good_files(folder, init))
    return target


def good_files(folder: Path, init: bytes = INIT) -> list[InstallerFile]:
    """What an installer has, in no order."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"b": init, "a": GUEST, "c": BOX, "d": SCRIPT}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    box = (BUSYBOX, LIBC)
    return [
        InstallerFile(path="cage/service/app/run", source=folder / "d", origins=(OURS,)),
        InstallerFile(path="cage/bin/sh", target="busybox", origins=box),
        InstallerFile(path="init", source=folder / "b", origins=(OURS,)),
        InstallerFile(path="cage/bin/busybox", source=folder / "c", origins=box),
        InstallerFile(path="cage/bin/cage-guest", source=folder / "a", origins=(OURS,)),
    ]


def split(installer: Path, folder: Path) -> tuple[Path, Path]:
    context = Context(folder / "step", inputs={"installer.tar": installer})
    runtime.run(context)
    return context.output("layer.tar"), context.output("init")


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
