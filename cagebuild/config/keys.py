"""The schema of cage.toml as data: its keys, and what they are when they are left out."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from cagebuild import schema

if TYPE_CHECKING:
    from collections.abc import Mapping


@cache
def document() -> dict[str, Any]:
    """The schema as data. Not to be changed."""
    loaded: dict[str, Any] = json.loads(schema.raw("cage"))
    return loaded


def resolved(node: Mapping[str, Any]) -> dict[str, Any]:
    """A node of the schema with its ``$ref`` replaced by what it names; its own keys win."""
    reference = node.get("$ref")
    if reference is None:
        return dict(node)
    name = str(reference).removeprefix("#/$defs/")
    return {**document()["$defs"][name], **{k: v for k, v in node.items() if k != "$ref"}}


@cache
def default(*keys: str) -> Any:
    """The schema's default of a key: ``default("enclave", "cpus")``. Lists are looked through."""
    node = resolved(document())
    for key in keys:
        node = resolved(node["properties"][key])
        if node.get("type") == "array" and key != keys[-1]:
            node = resolved(node["items"])
    return node["default"]
