"""JSON from strangers: bounded, one meaning only, and errors that name the place."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NoReturn, TypeVar

from cagebuild.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

MAX_JSON = 4 << 20
"""Bytes of a manifest or config, as registries and engines limit them."""


def load(data: bytes, label: str) -> object:
    """Parse JSON. Refused: keys given twice, numbers that aren't finite, bad or cut text.

    ``label`` names the document in the ImageError.
    """
    if len(data) > MAX_JSON:
        raise _error(label, f"it has {len(data)} bytes, more than {MAX_JSON}")
    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant
        )
    except RecursionError as error:
        raise _error(label, "it is nested too deeply") from error
    except ValueError as error:
        raise _error(label, f"it is not valid JSON ({str(error)[:200]})") from error


def load_object(data: bytes, label: str) -> dict[str, object]:
    """Parse a JSON object."""
    return Reader(label).mapping(load(data, label), "the document")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is given twice in one object")
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _error(label: str, what: str) -> ImageError:
    return ImageError(
        f"{label}: {what}",
        hint="the image is damaged, or not of the kind that engines write; export it again",
    )


class Reader:
    """Takes values of the right type out of parsed JSON, or raises ImageError with the place."""

    def __init__(self, label: str) -> None:
        self.label = label

    def fail(self, what: str) -> NoReturn:
        """Refuse the document."""
        raise _error(self.label, what)

    def mapping(self, value: object, where: str) -> dict[str, object]:
        """An object."""
        if not isinstance(value, dict):
            self.fail(f"{where} must be an object")
        return value

    def sequence(self, value: object, where: str) -> list[object]:
        """A list."""
        if not isinstance(value, list):
            self.fail(f"{where} must be a list")
        return value

    def integer(self, value: object, where: str) -> int:
        """A whole number that is not negative and fits 63 bits."""
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
            self.fail(f"{where} must be a whole number, not negative")
        return value

    def text(self, value: object, where: str) -> str:
        """A string that UTF-8 and an argument vector can hold: no lone surrogate, no NUL."""
        if not isinstance(value, str):
            self.fail(f"{where} must be a string")
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail(f"{where} has text that is not Unicode")
        if "\0" in value:
            self.fail(f"{where} has a NUL")
        return value

    def optional(self, value: object, where: str, read: Callable[[object, str], T]) -> T | None:
        """None for a key that is missing or null."""
        return None if value is None else read(value, where)

    def texts(self, value: object, where: str) -> tuple[str, ...]:
        """A list of strings."""
        items = self.sequence(value, where)
        return tuple(self.text(item, f"{where}[{at}]") for at, item in enumerate(items))

    def text_map(self, value: object, where: str) -> Mapping[str, str]:
        """An object whose values are strings."""
        items = self.mapping(value, where).items()
        return {
            self.text(key, f"a key of {where}"): self.text(item, f"{where}.{key}")
            for key, item in sorted(items)
        }
