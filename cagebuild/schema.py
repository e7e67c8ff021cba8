"""The JSON schemas as data: where they are, and checking JSON documents against them."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

_PACKAGE = Path(__file__).parent


@cache
def raw(name: str) -> bytes:
    """The bytes of ``schemas/<name>.schema.json``, of the checkout or of the installed package."""
    file = f"{name}.schema.json"
    installed = _PACKAGE / "schemas" / file
    return (installed if installed.exists() else _PACKAGE.parent / "schemas" / file).read_bytes()


@cache
def validator(name: str) -> Validator:
    """A draft 2020-12 validator for the schema of that name."""
    from jsonschema import Draft202012Validator, validators

    strict: type[Validator] = validators.extend(  # type: ignore[no-untyped-call]
        Draft202012Validator, validators={"pattern": _pattern}
    )
    return strict(json.loads(raw(name)))


def _pattern(
    _validator: Validator, expression: str, instance: object, _schema: object
) -> Iterator[ValidationError]:
    """To JSON Schema ``$`` is the end of the text; to Python also the place before a line end."""
    from jsonschema import ValidationError

    if isinstance(instance, str) and not re.search(re.sub(r"\$$", r"\\Z", expression), instance):
        yield ValidationError(f"{instance!r} does not match {expression!r}")


def first_mistake(name: str, document: Any) -> str | None:
    """What is wrong with a document, with its place as ``a.b[0]``; None when nothing is."""
    from jsonschema.exceptions import best_match

    error = best_match(validator(name).iter_errors(document))
    if error is None:
        return None
    place = error.json_path.removeprefix("$").removeprefix(".") or "the document"
    return f"{place}: {error.message}"[:400]
