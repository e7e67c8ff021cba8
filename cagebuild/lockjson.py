"""Pins as cage.lock has them in JSON: read strictly, so that what was edited by hand is noticed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cagebuild.digest import Digest
from cagebuild.errors import LockError, ResolveError

if TYPE_CHECKING:
    import re


@contextmanager
def reading(what: str, *, command: str = "invoke lock") -> Iterator[None]:
    """Make a LockError of what the block raises for pins that it cannot take.

    ``what`` names the pins, and ``command`` makes them anew.
    """
    try:
        yield
    except (TypeError, ValueError, ResolveError) as error:
        message = f"the lock's {what} cannot be read: {error}"
        raise LockError(message, hint=f"run: {command}") from None


def table(data: object, *keys: str) -> Mapping[str, object]:
    """An object with just these keys; ValueError."""
    if not isinstance(data, Mapping) or set(data) != set(keys):
        raise ValueError(f"expected a table of {', '.join(keys)}")
    return data


def mapping(data: object) -> Mapping[str, object]:
    """An object with whatever keys; TypeError."""
    if not isinstance(data, Mapping):
        raise TypeError("expected a table")
    return data


def items(data: object) -> list[object]:
    """A list; TypeError."""
    if not isinstance(data, list | tuple):
        raise TypeError("expected a list")
    return list(data)


def text(data: object, form: re.Pattern[str] | None = None) -> str:
    """A string, which ``form`` matches in full; TypeError, ValueError."""
    if not isinstance(data, str):
        raise TypeError(f"expected text, not {type(data).__name__}")
    if form is not None and not form.fullmatch(data):
        raise ValueError(f"expected text of the form {form.pattern}, got {data[:80]!r}")
    return data


def number(data: object, most: int | None = None) -> int:
    """A whole number from 0 up; TypeError, ValueError."""
    if not isinstance(data, int) or isinstance(data, bool) or data < 0:
        raise TypeError("expected a number that is not negative")
    if most is not None and data > most:
        raise ValueError(f"expected a number up to {most}")
    return data


def digest(data: object) -> Digest:
    """A digest with its algorithm; TypeError, InvalidDigestError."""
    return Digest.parse(text(data))
