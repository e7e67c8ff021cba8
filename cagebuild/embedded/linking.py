"""``--link``: a layer by itself, laid over what is there.

Engines that can link make the layer without looking at what is below, so that its directories
replace symlinks and reset attributes; others copy as always. Where the two would differ, the
instruction is refused: the image must be the same whichever engine makes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cagebuild.embedded.places import children
from cagebuild.embedded.refused import Refused, shown
from cagebuild.image.layers import copy_attributes
from cagebuild.image.tree import Kind, release

if TYPE_CHECKING:
    from cagebuild.embedded.copying import Copied
    from cagebuild.image.tree import Node


def lay_over(layer: Node, root: Node, copied: Copied) -> None:
    """Put the tree of a layer over another; raises Refused."""
    pending = [(b"", layer, root)]
    while pending:
        path, upper, lower = pending.pop()
        below = children(lower, ())
        for name, node in children(upper, ()).items():
            old = below.get(name)
            where = path + b"/" + name if path else name
            if old is None:
                below[name] = node
                continue
            _check(where, node, old, copied)
            if node.kind is Kind.DIRECTORY:
                if node not in copied.on_the_way:
                    copy_attributes(node, old)
                pending.append((where, node, old))
            else:
                release(old)
                below[name] = node


def _check(path: bytes, node: Node, old: Node, copied: Copied) -> None:
    if node.kind is not Kind.DIRECTORY:
        if old.kind is Kind.DIRECTORY or (node in copied.named and old.kind is Kind.SYMLINK):
            raise _differs(path, f"the image has a {old.kind.name.lower()} there")
    elif old.kind is not Kind.DIRECTORY:
        raise _differs(path, f"the image has a {old.kind.name.lower()} there")
    elif node in copied.on_the_way and _attributes(node) != _attributes(old):
        mode, uid, gid = _attributes(old)
        raise _differs(path, f"the image's has {mode:04o} and {uid}:{gid}")


def _attributes(node: Node) -> tuple[int, int, int]:
    return node.mode, node.uid, node.gid


def _differs(path: bytes, why: str) -> Refused:
    return Refused(
        f"engines disagree on what --link makes of {shown(path)}: {why}",
        hint="leave --link out",
    )
