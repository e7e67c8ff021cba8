"""Trees as plain values that can be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cagebuild.image.tree import Kind, walk

if TYPE_CHECKING:
    from cagebuild.image.tree import Node


def facts(root: Node) -> dict[bytes, tuple[object, ...]]:
    """All that a tree says, by path; of hard links which is the first."""
    first: dict[Node, bytes] = {}
    return {
        path: (
            node.kind,
            node.mode,
            node.uid,
            node.gid,
            node.mtime,
            node.target,
            node.rdev,
            node.links,
            first.setdefault(node, path),
            b"".join(node.read()) if node.kind is Kind.FILE else b"",
        )
        for path, node in walk(root)
    }
