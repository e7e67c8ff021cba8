"""The pins of the installer against what the sources give: what moved, and moving the pins."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cagebuild.digest import Digest
from cagebuild.runtime import pins
from cagebuild.runtime.installer import read_manifest
from cagebuild.runtime.recipe import GO, RUNTIME, build

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_FIELDS = ("toolchain", "source", "files", "size", "digest")
"""In the order of cause and effect."""


def describe(installer: Path) -> dict[str, object]:
    """The pin of an installer that was just built: its digest, and what that depends on."""
    manifest = read_manifest(installer)
    origins = {origin.name: origin for origin in manifest.origins}
    return {
        "digest": str(Digest.of_file(installer)),
        "size": installer.stat().st_size,
        "source": str(origins[RUNTIME].sources[0].digest),
        "toolchain": f"go{origins[GO].version}",
        "files": {file.path: str(file.digest) for file in manifest.files if file.digest},
    }


def moved(pinned: Mapping[str, Any], built: Mapping[str, Any]) -> tuple[str, ...]:
    """One line for each value that is not as pinned, in the order of cause and effect."""
    lines = []
    for architecture, new in sorted(built.items()):
        before, after = _flat(pinned.get(architecture, {})), _flat(new)
        lines += [
            f"{architecture} {key}: got {after.get(key, 'nothing')},"
            f" expected {before.get(key, 'nothing')}"
            for key in {**after, **before}
            if before.get(key) != after.get(key)
        ]
    return tuple(lines)


def _flat(pin: Mapping[str, Any]) -> dict[str, str]:
    values: dict[str, str] = {}
    for field in _FIELDS:
        value = pin.get(field, {})
        if isinstance(value, dict):
            values |= {f"file {name}": str(digest) for name, digest in sorted(value.items())}
        else:
            values[field] = str(value)
    return values


def check_pins(work: Path, *, update: bool = False) -> tuple[str, ...]:
    """Build the installers of all architectures below ``work`` and say what moved.

    ``update`` writes ``pins/runtime.json`` anew; only a checkout has one that can be written.
    """
    built = {
        architecture: describe(build(architecture, work)) for architecture in pins.ARCHITECTURES
    }
    file = pins.PINS / pins.RUNTIME
    pinned = json.loads(file.read_bytes()) if file.exists() else {}
    lines = moved(pinned, built)
    if update and lines:
        file.write_text(json.dumps(built, indent=2, sort_keys=True) + "\n", encoding="ascii")
    return lines
