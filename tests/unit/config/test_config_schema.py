from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from cagebuild.config import docs, keys, shape
from cagebuild.config.model import Enclave, Epoch, Ingress

ROOT = Path(__file__).parents[3]


def nodes(node: dict[str, Any], at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every value that the schema describes, by its key path; references are followed."""
    node = keys.resolved(node)
    yield at, node
    for key, inner in node.get("properties", {}).items():
        yield from nodes(inner, f"{at}.{key}".lstrip("."))
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield from nodes(node[key], f"{at}[]")


ALL = dict(nodes(keys.document()))


def test_is_a_schema_of_its_draft_with_an_id() -> None:
    jsonschema.Draft202012Validator.check_schema(keys.document())
    assert keys.document()["$id"].startswith("https://")
    assert "2020-12" in keys.document()["$schema"]


@pytest.mark.parametrize("key", sorted(ALL))
def test_every_key_is_described(key: str) -> None:
    node = ALL[key]
    assert node["description"].endswith("."), "a sentence for docs and editors"
    assert node["title"], "what messages say was expected"
    assert "type" in node


@pytest.mark.parametrize("key", sorted(ALL))
def test_tables_are_closed_and_lists_are_bounded(key: str) -> None:
    node = ALL[key]
    if "object" in node["type"]:
        assert node["additionalProperties"] is False or "maxProperties" in node
    if "array" in node["type"]:
        assert "maxItems" in node
    if "string" in node["type"]:
        bounded = "maxLength" in node or "enum" in {**node, **node.get("then", {})}
        assert bounded or re.search(r"\{\d+,\d+\}|\{\d+\}", node["pattern"]), key


@pytest.mark.parametrize("key", sorted(ALL))
def test_defaults_and_examples_are_valid(key: str) -> None:
    node = {**ALL[key], "$defs": keys.document()["$defs"]}
    for example in [*node.get("examples", ()), *([node["default"]] if "default" in node else ())]:
        jsonschema.Draft202012Validator(node).validate(example)


def test_patterns_mean_the_same_in_python_and_in_editors() -> None:
    """JSON Schema's dialect is JavaScript's: no \\d, \\w or \\Z, anchored at both ends."""
    for key, node in ALL.items():
        for holder in (node, node.get("propertyNames", {})):
            pattern = holder.get("pattern", "^$")
            assert pattern.startswith("^"), key
            assert pattern.endswith("$"), key
            assert not re.search(r"\\[dwZAbz]|\(\?", pattern), key


def test_the_models_choices_are_the_schemas() -> None:
    for model, field, key in (
        (Epoch, "policy", "epoch.policy"),
        (Enclave, "architecture", "enclave.architecture"),
        (Ingress, "tls", "ingress[].tls"),
        (Ingress, "protocol", "ingress[].protocol"),
    ):
        assert field in model.__dataclass_fields__
        for choice in ALL[key]["enum"]:
            assert f'"{choice}"' in ALL[key]["title"]


def test_the_reference_is_what_the_schema_says() -> None:
    """Renew it with ``python -m cagebuild.config.docs > docs/cage-toml.md``."""
    assert (ROOT / "docs/cage-toml.md").read_text() == docs.render()


def test_the_reference_has_every_key() -> None:
    page = docs.render()
    for key in ALL:
        name = key.rpartition(".")[2].removesuffix("[]")
        assert not name or f"`{name}`" in page or f"{name}]" in page, key


def test_the_project_itself_is_configured_by_the_reference() -> None:
    """The example at the top of the page is valid but for its elided digest."""
    import tomllib

    example = re.search(r"```toml\n(.*?)```", docs.render(), re.DOTALL)
    assert example
    document = tomllib.loads(example[1].replace("sha256:…", "sha256:" + "0" * 64))
    assert shape.problems(document) == ([], [])
