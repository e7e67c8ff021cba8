"""Golden ramdisks: trees that broke others, with what comes of them entry by entry and as a digest.

A case is a folder ``tests/golden/ramdisk-*`` with ``image.json`` (the image's tree and config) and
``ramdisk.txt`` (what the ramdisk holds, read by a parser of the tests' own, and its SHA-256).
After a wanted change of the layout, renew them and read the difference:

    python -m tests.support.golden_ramdisks
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from cagebuild.image.tree import Kind, MemorySource, Node, new_root
from cagebuild.nitro import ramdisk
from cagebuild.nitro.container import create_container
from cagebuild.nitro.cpio import pack
from tests.support import eif_by_spec as spec

GOLDEN = Path(__file__).parents[1] / "golden"


def cases() -> list[str]:
    """Names of the folders."""
    return sorted(path.parent.name for path in GOLDEN.glob("ramdisk-*/image.json"))


def listing(case: str) -> str:
    """What ``ramdisk.txt`` of a case has to be."""
    image: dict[str, Any] = json.loads((GOLDEN / case / "image.json").read_text())
    root = new_root()
    named: dict[str, Node] = {}
    for item in image["tree"]:
        _add(root, named, item)
    create_container(root, workdir=image.get("workdir", ""), epoch=image.get("epoch", 0))
    warnings = ramdisk.Warnings()
    entries = ramdisk.image_entries(
        root, cmd=image.get("cmd", ()), env=image.get("env", ()), warnings=warnings
    )
    data = b"".join(pack(entries))
    lines = [_line(entry) for entry in spec.cpio(data).entries]
    lines += [f"warning {line}" for line in warnings.lines()]
    return "\n".join([*lines, f"sha256 {hashlib.sha256(data).hexdigest()}", ""])


def _add(root: Node, named: dict[str, Node], item: dict[str, Any]) -> None:
    """``path`` is text in Latin-1, so that every byte can be written."""
    *parents, name = item["path"].encode("latin-1").split(b"/")
    parent = root
    for part in parents:
        assert parent.children is not None
        parent = parent.children[part]
    assert parent.children is not None
    if "link" in item:
        node = named[item["link"]]
        node.links += 1
    else:
        data = item.get("data", "").encode("latin-1")
        node = Node(
            Kind[item["kind"]],
            mode=int(item.get("mode", "0644"), 8),
            uid=item.get("uid", 0),
            gid=item.get("gid", 0),
            mtime=item.get("mtime", 1_000_000_000),
            target=item.get("target", "").encode("latin-1"),
            rdev=tuple(item.get("rdev", (0, 0))),
            size=len(data),
            source=MemorySource(data),
            xattrs=item.get("xattrs", False),
        )
    named[item["path"]] = node
    parent.children[name] = node


def _line(entry: spec.CpioEntry) -> str:
    name = entry.name.decode("ascii", "backslashreplace").replace("\n", "\\n")
    text = f"{entry.mode:06o} {entry.uid}:{entry.gid} {entry.mtime} {name}"
    if entry.mode >> 12 == 0o12:
        return f"{text} -> {entry.data.decode('ascii', 'backslashreplace')}"
    if entry.mode >> 12 in (0o2, 0o6):
        return f"{text} {entry.rdev[0]},{entry.rdev[1]}"
    if entry.mode >> 12 == 0o10:
        return f"{text} {len(entry.data)} {hashlib.sha256(entry.data).hexdigest()[:16]}"
    return text


if __name__ == "__main__":
    for each in cases():
        (GOLDEN / each / "ramdisk.txt").write_text(listing(each))
