"""Relations between packages: ``Depends: a (>= 1) | b:any`` (Debian Policy, chapter 7)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from debian.debian_support import NativeVersion

Operator = Literal["<<", "<=", "=", ">=", ">>"]

_OPERATORS: dict[str, Operator] = {
    "<<": "<<",
    "<=": "<=",
    "=": "=",
    ">=": ">=",
    ">>": ">>",
    "<": "<=",  # what the two meant before 1997, and still do to dpkg
    ">": ">=",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.-]{0,199}", re.ASCII)
_VERSION = re.compile(r"[0-9]{1,9}:[A-Za-z0-9.+:~-]{1,400}|[A-Za-z0-9.+~-]{1,400}", re.ASCII)
_RELATION = re.compile(
    r"\s*(?P<name>[A-Za-z0-9][A-Za-z0-9+.-]{0,199})(?::(?P<qualifier>[a-z0-9-]{1,40}))?\s*"
    r"(?:\(\s*(?P<operator><<|<=|=|>=|>>|<|>)\s*(?P<version>[A-Za-z0-9.+:~-]{1,400})\s*\)\s*)?",
    re.ASCII,
)


class RelationSyntaxError(ValueError):
    """The text is not a relation, a version or a package's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """One package that is asked for: a name, perhaps an architecture, perhaps a version."""

    name: str
    qualifier: str | None = None
    operator: Operator | None = None
    version: str | None = None

    def __str__(self) -> str:
        qualifier = f":{self.qualifier}" if self.qualifier else ""
        version = f" ({self.operator} {self.version})" if self.operator else ""
        return f"{self.name}{qualifier}{version}"

    def accepts(self, version: str | None) -> bool:
        """Whether a version satisfies the relation. None, an unversioned Provides, has none."""
        if self.operator is None or self.version is None:
            return True
        if version is None:
            return False
        order = compare(version, self.version)
        return {
            "<<": order < 0,
            "<=": order <= 0,
            "=": order == 0,
            ">=": order >= 0,
            ">>": order > 0,
        }[self.operator]


Clause = tuple[Relation, ...]
"""Alternatives: one of them is enough."""


@lru_cache(maxsize=4096)
def parse_clauses(field: str) -> tuple[Clause, ...]:
    """``a, b | c`` as clauses of alternatives; raises RelationSyntaxError."""
    return tuple(
        tuple(_parse_relation(text) for text in clause.split("|"))
        for clause in field.split(",")
        if clause.strip()
    )


def parse_list(field: str) -> tuple[Relation, ...]:
    """A field without alternatives, as Conflicts or Provides; raises RelationSyntaxError."""
    clauses = parse_clauses(field)
    for clause in clauses:
        if len(clause) != 1:
            raise RelationSyntaxError(f"no alternatives are allowed in {field[:80]!r}")
    return tuple(clause[0] for clause in clauses)


def check_name(name: str) -> str:
    """The name if it is one of a package; it becomes part of paths. Raises RelationSyntaxError."""
    if not _NAME.fullmatch(name):
        raise RelationSyntaxError(f"not the name of a package: {name[:80]!r}")
    return name


def check_version(version: str) -> str:
    """The version if it is one; raises RelationSyntaxError."""
    if not _VERSION.fullmatch(version):
        raise RelationSyntaxError(f"not a Debian version: {version[:80]!r}")
    return version


def compare(first: str, second: str) -> int:
    """Below, at or above zero as ``first`` is older than, equal to or newer than ``second``.

    Raises RelationSyntaxError when one is not a version.
    """
    one, other = _parsed(first), _parsed(second)
    return (one > other) - (one < other)


def _parse_relation(text: str) -> Relation:
    match = _RELATION.fullmatch(text)
    if match is None:
        raise RelationSyntaxError(f"not a relation between packages: {text.strip()[:80]!r}")
    operator = match["operator"]
    if operator is None:
        return Relation(name=match["name"], qualifier=match["qualifier"])
    return Relation(
        name=match["name"],
        qualifier=match["qualifier"],
        operator=_OPERATORS[operator],
        version=check_version(match["version"]),
    )


@lru_cache(maxsize=65536)
def _parsed(version: str) -> NativeVersion:
    from debian.debian_support import NativeVersion

    try:
        return NativeVersion(check_version(version))
    except ValueError:
        raise RelationSyntaxError(f"not a Debian version: {version[:80]!r}") from None
