"""A built tree as what later steps read: one layer, its config, and where each entry came from."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from cagebuild.image.layers import set_times
from cagebuild.image.tarwriter import write_tree
from cagebuild.image.tree import walk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cagebuild.image.config import ImageConfig
    from cagebuild.image.tree import Node


def write_parts(
    root: Node, config: ImageConfig, *, epoch: int, output: Callable[[str], Path]
) -> None:
    """Write ``layer.tar``, ``config.json`` and ``origins.json``; raises ImageError and OSError.

    The same tree and config give the same bytes, whatever made them: times are the epoch, entries
    are sorted, and nothing is kept of layers and history.
    """
    set_times(root, epoch)
    with output("layer.tar").open("wb") as stream:
        write_tree(root, stream.write, mark_xattrs=True)
    plain = replace(config, diff_ids=())
    output("config.json").write_bytes(plain.to_json(created=epoch) + b"\n")
    origins = {path.decode("utf-8", "surrogateescape"): node.origin for path, node in walk(root)}
    output("origins.json").write_text(json.dumps(origins, ensure_ascii=True))
