"""Trees as files and folders of whoever runs this."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cagebuild.errors import ImageError
from cagebuild.image.layers import Layer, flatten
from cagebuild.image.tree import Kind, Node, Region, walk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def unpack(layer: Path, folder: Path, check: Callable[[], None]) -> None:
    """Write the tree of a layer into ``folder``; see ``write``. Raises ImageError and OSError."""
    region = Region.of_file(layer)
    write(flatten([Layer(region=region, name="the layer", origin="")]), folder, check)


def write(root: Node, folder: Path, check: Callable[[], None]) -> None:
    """Write a tree into ``folder``, which is made; ``check`` may raise to stop it.

    Modes and times are the tree's, owners are not: only root could set them. No name of the tree
    leads out of the folder, for it has no entry below a symlink. Raises ImageError for a tree that
    holds devices, and OSError.
    """
    top = os.fsencode(folder)
    os.mkdir(top)
    os.chmod(top, 0o755)  # whatever the umask
    first: dict[Node, bytes] = {}
    folders = []
    for name, node in walk(root):
        path = top + b"/" + name
        if node.kind is Kind.DIRECTORY:
            os.mkdir(path, 0o700)
            folders.append((path, node))
            check()
        elif node in first:
            os.link(first[node], path)
        else:
            _write(path, node)
            if node.links > 1:
                first[node] = path
    # Deepest first: what is written into a folder changes its time, and its mode may forbid it.
    for path, node in reversed(folders):
        os.chmod(path, node.mode)
        os.utime(path, (node.mtime, node.mtime))
    os.utime(top, (root.mtime, root.mtime))


def _write(path: bytes, node: Node) -> None:
    match node.kind:
        case Kind.FILE:
            with open(path, "xb") as stream:
                for data in node.read():
                    stream.write(data)
                stream.flush()  # a write after this would change the time again
                os.fchmod(stream.fileno(), node.mode & 0o1777)
                os.utime(stream.fileno(), (node.mtime, node.mtime))
        case Kind.SYMLINK:
            os.symlink(node.target, path)
            os.utime(path, (node.mtime, node.mtime), follow_symlinks=False)
        case _:
            raise ImageError(f"the tree holds a device or pipe: {path!r}")
