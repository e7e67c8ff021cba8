"""JSON from strangers: bounded, one meaning only, and errors that name the place."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NoReturn, TypeVar

from cagebuild.digest import Digest, InvalidDigestError
from cagebuild.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")


def load(data: bytes, label: str, most: int) -> object:
    """Parse JSON of at most so many bytes.

    Refused: keys given twice, numbers that aren't finite, bad or cut text. ``label`` names the
    document in the ImageError.
    """
    if len(data) > most:
        raise _error(label, f"it has {len(data)} bytes, more than {most}")
    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant
        )
    except RecursionError as error:
        raise _error(label, "it is nested too deeply") from error
    except ValueError as error:
        raise _error(label, f"it is not valid JSON ({str(error)[:200]})") from error


def load_object(data: bytes, label: str, most: int) -> dict[str, object]:
    """Parse a JSON object; see ``load``."""
    return Reader(label).mapping(load(data, label, most), "the document")


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
        hint="the image is damaged, or not of the kind that engines write; make it again",
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

    def sequence(self, value: object, where: str, most: int | None = None) -> list[object]:
        """A list, of no more than so many entries."""
        if not isinstance(value, list):
            self.fail(f"{where} must be a list")
        if most is not None and len(value) > most:
            self.fail(f"{where} has {len(value)} entries, more than {most}")
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

    def digest(
        self, value: object, where: str, algorithms: tuple[str, ...] = ("sha256",)
    ) -> Digest:
        """A digest in text form, of one of the algorithms."""
        text = self.text(value, where)
        try:
            digest = Digest.parse(text)
        except InvalidDigestError:
            self.fail(f"{where} must be a digest, not {text[:100]!r}")
        if digest.algorithm not in algorithms:
            self.fail(f"{where} must be a {' or '.join(algorithms)} digest, not {digest.algorithm}")
        return digest

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
            self.text(key, f"a key of {where}"): self.text(item, f"{where}.{key[:100]}")
            for key, item in sorted(items)
        }
