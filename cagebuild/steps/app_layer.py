"""The step ``app-layer``: the app's own files as one layer.

Inputs: ``file:<destination>`` for each regular file. Parameters: ``files``, the facts of each
entry (see ``cagebuild.sources``). Output: ``layer.tar``. Directories on the way have no entry, so
those of the base keep their attributes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from cagebuild.image.tarwriter import TarWriter
from cagebuild.image.tree import Kind, Node, Region

if TYPE_CHECKING:
    from cagebuild.step import StepContext

INPUT = "file:"


def run(context: StepContext) -> None:
    """Run the step; raises ImageError."""
    files = cast("list[dict[str, Any]]", context.params["files"])
    with context.output("layer.tar").open("wb") as stream:
        writer = TarWriter(stream.write)
        for facts in sorted(files, key=_name):
            writer.add(_name(facts), _node(facts, context))
        writer.close()


def _name(facts: dict[str, Any]) -> bytes:
    name: str = facts["destination"]
    return name.encode("utf-8", "surrogateescape")


def _node(facts: dict[str, Any], context: StepContext) -> Node:
    attributes = {"mode": facts["mode"], "uid": facts["uid"], "gid": facts["gid"]}
    match facts["kind"]:
        case "file":
            region = Region.of_file(context.inputs[INPUT + facts["destination"]])
            return Node(Kind.FILE, size=region.size, source=region, **attributes)
        case "symlink":
            target = facts["target"].encode("utf-8", "surrogateescape")
            return Node(Kind.SYMLINK, target=target, **attributes)
        case _:
            return Node(Kind.DIRECTORY, **attributes)
