"""Checking a document against ``schemas/cage.schema.json``, and saying what is wrong in words.

What a value should have been is the ``title`` that the schema gives it, so that messages, docs and
editors say the same.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from cagebuild.config.keys import document, resolved
from cagebuild.config.problems import Problem, did_you_mean, dotted, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

    from cagebuild.config.positions import Path


def problems(instance: dict[str, Any]) -> tuple[list[Problem], list[Path]]:
    """All that is wrong with the shape of a document, and the paths of the values to disregard."""
    found: list[Problem] = []
    broken: list[Path] = []
    for error in _validator().iter_errors(instance):
        path = tuple(error.absolute_path)
        for problem in _explain(error, path):
            found.append(problem)
            # A table that lacks a key is no use without it, but the document as a whole is.
            broken.append(path if error.validator == "required" and path else problem.path)
    return found, broken


def _explain(error: ValidationError, path: Path) -> Iterator[Problem]:
    node = resolved(error.schema) if isinstance(error.schema, dict) else {}
    instance: Any = error.instance
    limit: Any = error.validator_value
    expected = f"expected {node.get('title', 'something else')}"
    match error.validator:
        case "additionalProperties":
            known = [*node.get("properties", ())]
            for key in instance:
                if key not in known:
                    yield _unknown((*path, key), key, known)
        case "required":
            for key in limit:
                if key not in instance:
                    yield _missing((*path, key), node)
        case "pattern" if "propertyNames" in error.absolute_schema_path:
            yield Problem(
                path=(*path, instance), at="key", message=f"{quoted(instance)}: {expected}"
            )
        case "minProperties" | "maxProperties" if path == ("base",):
            keys = ", ".join(f"'{key}'" for key in instance) or "none"
            yield Problem(path=path, at="key", message=f"{expected}; found {keys}")
        case "enum":
            hint = did_you_mean(str(instance), map(str, limit))
            yield Problem(path=path, message=f"{expected}, not {_kind(instance)}", hint=hint)
        case "maxItems" | "minItems" | "maxProperties" | "maxLength" | "minLength":
            yield Problem(path=path, message=_count(str(error.validator), instance, limit))
        case _:
            yield Problem(
                path=path,
                message=f"{expected}, not {_kind(instance)}",
                hint=_rewrite(path, instance),
            )


def _unknown(path: Path, key: str, known: list[str]) -> Problem:
    hint = did_you_mean(key, known) or _elsewhere(key)
    if not hint and known:
        hint = f"known here: {', '.join(sorted(known))}"
    return Problem(path=path, at="key", message="unknown key", hint=hint)


def _elsewhere(key: str) -> str:
    """The section that knows this key, for one that stands under the wrong header."""
    for name, section in document()["properties"].items():
        node = resolved(section)
        if name != "workspace" and key in node.get("properties", {}):
            return f"'{key}' belongs in [{name}]"
        if name != "workspace" and key in resolved(node.get("items", {})).get("properties", {}):
            return f"'{key}' belongs in [[{name}]]"
    if key in document()["properties"]:
        return f"[{key}] is a table of its own at the top"
    return ""


def _missing(path: Path, node: Mapping[str, Any]) -> Problem:
    # An "if/then" names its keys without their description: those are at the schema's top.
    properties = node.get("properties") or document()["properties"]
    title = resolved(properties[str(path[-1])])["title"]
    return Problem(path=path, at="key", message="missing", hint=f"expected {title}")


def _count(rule: str, instance: object, limit: int) -> str:
    what = "characters" if isinstance(instance, str) else "entries"
    if rule.startswith("min"):
        return "is empty" if limit == 1 else f"has fewer than {limit} {what}"
    return f"has more than {limit} {what}"


_NAMES = {bool: "true or false", dict: "a table", list: "a list", float: "a number with a fraction"}


def _kind(value: object) -> str:
    """What a value is, in words: itself where it is short."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return _NAMES.get(type(value)) or quoted(value)


def _rewrite(path: Path, value: object) -> str:
    """What the value probably ought to be, for the slips that are made most."""
    key = path[-1] if path else ""
    hint = ""
    if isinstance(value, str):
        size = re.fullmatch(r"([0-9]{1,9})\s*([mgtMGT])i?[bB]?", value)
        if key in {"entrypoint", "command"}:
            hint = f"write {json.dumps(value.split()[:8], ensure_ascii=False)}"
        elif key in {"memory", "max_size"} and size:
            hint = f'did you mean "{size[1]}{size[2].upper()}iB"?'
        elif key == "time" and re.match(r"[0-9]{4}-[0-9]{2}-", value):
            hint = "whole seconds with a time zone, such as 'Z'"
        elif key == "port" and value.isdecimal():
            hint = "write it without quotes"
    elif key == "mode" and isinstance(value, int) and 0 <= value <= 0o7777:
        hint = f'octal as a number is 0o644, and 644 is not: write "0{value:o}"'
    elif path[:-1] == ("app", "env") and isinstance(value, bool | int | float):
        hint = f'write {dotted(path[-1:])} = "{str(value).lower()}"'
    return hint


def without(instance: dict[str, Any], broken: list[Path]) -> dict[str, Any]:
    """A copy of a document in which the refused values are None."""
    copy = _copy(instance)
    for path in filter(None, broken):
        value: Any = copy
        for key in path[:-1]:
            value = value[key] if value is not None else None
        last: Any = path[-1]
        if value is not None and (isinstance(value, list) or last in value):
            value[last] = None
    return copy  # type: ignore[no-any-return]


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


@cache
def _validator() -> Validator:
    """Draft 2020-12 with TOML's idea of numbers, and ``$`` only at the very end of text."""
    from jsonschema import Draft202012Validator, TypeChecker
    from jsonschema.exceptions import ValidationError as Failure
    from jsonschema.validators import extend

    def is_integer(_checker: TypeChecker, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    def pattern(
        _validator: Validator, expression: str, instance: object, _schema: object
    ) -> Iterator[Failure]:
        if isinstance(instance, str) and not _whole(expression).search(instance):
            yield Failure("does not match")

    made: type[Validator] = extend(  # type: ignore[no-untyped-call]
        Draft202012Validator,
        validators={"pattern": pattern},
        type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", is_integer),
    )
    return made(document())


@cache
def _whole(expression: str) -> re.Pattern[str]:
    # Python's "$" also matches before a line break at the end; JSON Schema's does not.
    return re.compile(re.sub(r"\$$", r"\\Z", expression))
