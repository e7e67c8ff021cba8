"""Small boot files, trees and image files for the tests of cagebuild.nitro."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cagebuild.image.tree import Kind, MemorySource, Node, new_root
from cagebuild.nitro import metadata
from cagebuild.nitro.build import BootFiles, Job, build
from cagebuild.nitro.container import create_container

if TYPE_CHECKING:
    from pathlib import Path

    from cagebuild.nitro.pcr import Architecture, Measured
    from cagebuild.nitro.sign import Signer

EPOCH = 1_700_000_000


def bzimage(size: int = 4096) -> bytes:
    """Bytes with an x86_64 bzImage's magic numbers in their places."""
    data = bytearray(i * 7 & 0xFF for i in range(size))
    data[0x1FE:0x200] = b"\x55\xaa"
    data[0x202:0x206] = b"HdrS"
    data[0x211] = 1
    return bytes(data)


def arm_image(size: int = 4096) -> bytes:
    """Bytes with an uncompressed aarch64 Image's magic number in its place."""
    data = bytearray(i * 5 & 0xFF for i in range(size))
    data[56:60] = b"ARM\x64"
    return bytes(data)


def boot_files(
    folder: Path, architecture: Architecture = "x86_64", *, nsm: bool = True
) -> BootFiles:
    """Boot files that pass every check and boot nothing."""
    kernel = folder / "kernel"
    kernel.write_bytes(bzimage() if architecture == "x86_64" else arm_image())
    (folder / "init").write_bytes(b"init program")
    (folder / "nsm.ko").write_bytes(b"module")
    return BootFiles(
        kernel=kernel,
        cmdline=b" console=ttyS0 reboot=k\n",
        init=folder / "init",
        nsm=folder / "nsm.ko" if nsm else None,
    )


def file(
    data: bytes = b"", *, mode: int = 0o644, uid: int = 0, gid: int = 0, mtime: int = 5
) -> Node:
    """A regular file in memory."""
    return Node(
        Kind.FILE,
        mode=mode,
        uid=uid,
        gid=gid,
        mtime=mtime,
        size=len(data),
        source=MemorySource(data),
        origin="test",
    )


def directory(
    children: dict[bytes, Node] | None = None, *, mode: int = 0o755, mtime: int = 5
) -> Node:
    """A directory with these children."""
    node = Node(Kind.DIRECTORY, mode=mode, mtime=mtime, origin="test")
    assert node.children is not None
    node.children.update(children or {})
    return node


def symlink(target: bytes, *, mode: int = 0o777, mtime: int = 5) -> Node:
    """A symlink."""
    return Node(Kind.SYMLINK, mode=mode, mtime=mtime, target=target, origin="test")


def tree(children: dict[bytes, Node] | None = None) -> Node:
    """A root with these children; hard links are counted."""
    root = new_root()
    assert root.children is not None
    root.children.update(children or {})
    seen: dict[Node, int] = {}
    pending = [root]
    while pending:
        for child in (pending.pop().children or {}).values():
            seen[child] = seen.get(child, 0) + 1
            if child.children:
                pending.append(child)
    for node, count in seen.items():
        node.links = count
    return root


def job(folder: Path, root: Node | None = None, architecture: Architecture = "x86_64") -> Job:
    """Something to build: a small tree unless one is given, and boot files in ``folder``."""
    if root is None:
        root = tree({b"app": file(b"#!/bin/sh\n", mode=0o755)})
    create_container(root, workdir="/", epoch=EPOCH)
    return Job(
        root=root,
        cmd=("/app", "--serve"),
        env=("PATH=/bin",),
        boot=boot_files(folder, architecture),
        architecture=architecture,
        identity=metadata.Identity(name="test", version="1", epoch=EPOCH),
    )


def built(
    folder: Path, given: Job | None = None, signer: Signer | None = None
) -> tuple[Path, Measured]:
    """An image file and what the writer said it measures."""
    path = folder / "image.eif"
    return path, build(given or job(folder), output=path, signer=signer).measured


def with_cmd(given: Job, *cmd: str) -> Job:
    """The same with another command."""
    return replace(given, cmd=cmd)
