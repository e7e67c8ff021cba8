"""Paths in a tree that is being built: through its symlinks, and never out of it.

Source of the rules: containerd/continuity fs (RootPath), tonistiigi/fsutil copy (MkdirAll).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cagebuild.embedded.refused import Refused, shown
from cagebuild.image.layers import MAX_COMPONENT, find
from cagebuild.image.tree import Kind, Node

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_SYMLINKS: Final = 255
"""As BuildKit has it, which resolves links by itself."""

Parts = tuple[bytes, ...]
"""A path from a root, in names: no ``..``, and no symlink in it where it says 'resolved'."""


def resolve(root: Node, parts: Sequence[bytes]) -> Parts:
    """Follow all symlinks on a path, the last name's too; what is not there stays as it is.

    Absolute targets start at ``root``, ``..`` ends there. Raises Refused.
    """
    done: list[bytes] = []
    nodes = [root]
    pending = list(parts[::-1])
    followed = 0
    while pending:
        part = pending.pop()
        if part in (b"", b"."):
            continue
        if part == b"..":
            del done[-1:]
            del nodes[len(done) + 1 :]
            continue
        child = None
        if len(nodes) == len(done) + 1:
            child = children(nodes[-1], done).get(part)
        if child is None or child.kind is not Kind.SYMLINK:
            done.append(part)
            nodes += [] if child is None else [child]
            continue
        followed += 1
        if followed > MAX_SYMLINKS:
            raise Refused(f"{shown(b'/'.join(parts))} is a loop of symlinks")
        if child.target.startswith(b"/"):
            done.clear()
            del nodes[1:]
        pending += child.target.split(b"/")[::-1]
    return tuple(done)


def children(node: Node, parts: Sequence[bytes]) -> dict[bytes, Node]:
    """What is in a directory; Refused when it isn't one. ``parts`` names it."""
    if node.children is None:
        raise Refused(f"{shown(b'/'.join(parts))} is not a directory")
    return node.children


def make_directories(root: Node, parts: Parts, pattern: Node) -> list[Node]:
    """Make what is missing of a resolved path, with the attributes of ``pattern``.

    Returns what was made, the outermost first. Raises Refused.
    """
    made = []
    here = root
    for depth, part in enumerate(parts):
        inside = children(here, parts[:depth])
        child = inside.get(part)
        if child is None:
            check_name(part)
            child = inside[part] = twin(pattern)
            made.append(child)
        here = child
    children(here, parts)
    return made


def check_name(name: bytes) -> None:
    """Raise Refused for a name that no file can have, or none in a layer."""
    if len(name) > MAX_COMPONENT:
        raise Refused(f"no file can have the name {shown(name)[1:101]}")
    if name.startswith(b".wh."):
        raise Refused(
            f"a file with the name {shown(name)[1:]} removes another from an image",
            hint="rename it, or add it to .dockerignore",
        )


def node_at(root: Node, parts: Parts) -> Node | None:
    """The node at a resolved path."""
    return find(root, list(parts))


def twin(node: Node) -> Node:
    """Another inode with the same attributes and content; a directory is empty."""
    return Node(
        node.kind,
        mode=node.mode,
        uid=node.uid,
        gid=node.gid,
        mtime=node.mtime,
        size=node.size,
        target=node.target,
        rdev=node.rdev,
        source=node.source,
        offset=node.offset,
        extents=node.extents,
        origin=node.origin,
        xattrs=node.xattrs,
    )


def copy_tree(root: Node) -> Node:
    """A tree of its own that says the same, hard links included."""
    top = twin(root)
    links: dict[Node, Node] = {}
    pending = [(root, top)]
    while pending:
        old, new = pending.pop()
        inside = children(new, ())
        for name, node in children(old, ()).items():
            known = links.get(node)
            if known is not None:
                known.links += 1
                inside[name] = known
                continue
            inside[name] = copy = twin(node)
            if node.links > 1:
                links[node] = copy
            if node.children:
                pending.append((node, copy))
    return top
