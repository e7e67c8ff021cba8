"""What BuildKit makes of ``tests.support.dockerfile_table``, as text to compare and to renew."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from cagebuild.image.tree import Kind, Node, walk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cagebuild.image.config import ImageConfig

GOLDEN: Final = Path(__file__).parents[1] / "golden" / "dockerfiles.json"
_SHOWN: Final = 80

Facts = dict[str, object]
"""``files``: a line for each entry; ``config``: what an enclave takes from the image's config."""


def facts(root: Node, config: ImageConfig) -> Facts:
    """All of an image that goes into an enclave but its one time stamp."""
    check = config.healthcheck
    numbers = check and [check.interval, check.timeout, check.start_period, check.retries]
    return {
        "files": lines(root),
        "config": {
            "Env": list(config.env),
            # Some engines write an empty list where there is none.
            "Entrypoint": list(config.entrypoint or ()) or None,
            "Cmd": list(config.cmd or ()) or None,
            "User": config.user,
            "WorkingDir": config.workdir,
            "ExposedPorts": list(config.exposed_ports),
            "Volumes": list(config.volumes),
            "StopSignal": config.stop_signal,
            "Healthcheck": check and [list(check.test), numbers],
            "Labels": dict(config.labels),
        },
    }


def lines(root: Node) -> list[str]:
    """Each entry in a line: path, kind, mode, owner, and what it holds or leads to."""
    first: dict[Node, str] = {}
    found = []
    for raw, node in walk(root):
        path = raw.decode("utf-8", "backslashreplace")
        line = f"{path} {node.kind.name.lower()} {node.mode:04o} {node.uid}:{node.gid}"
        if node.kind is Kind.FILE:
            data = b"".join(node.read())
            short = len(data) <= _SHOWN
            line += f" {data!r}" if short else f" sha256:{hashlib.sha256(data).hexdigest()}"
            if node.links > 1:
                line += f" = {first.setdefault(node, path)}"
        elif node.kind is Kind.SYMLINK:
            line += f" -> {node.target.decode()}"
        elif node.kind in (Kind.CHARACTER, Kind.BLOCK):
            line += f" {node.rdev[0]},{node.rdev[1]}"
        found.append(line)
    return found


def load() -> dict[str, Facts]:
    """What is recorded, by the names of the cases."""
    document = cast("dict[str, dict[str, Facts]]", json.loads(GOLDEN.read_text()))
    return document["cases"]


def save(made_by: str, cases: Mapping[str, Facts]) -> None:
    """Record what an engine made."""
    document = {"made_by": made_by, "cases": dict(sorted(cases.items()))}
    GOLDEN.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
