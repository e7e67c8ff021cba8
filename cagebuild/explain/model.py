"""What a difference between two enclaves consists of, from the PCRs down to the fields of files.

Everywhere ``expected`` is the first of the two that were compared and ``got`` the second.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

Change = Literal["added", "removed", "changed"]
FieldName = Literal["content", "kind", "target", "device", "mode", "owner", "mtime"]

ATTRIBUTES: frozenset[FieldName] = frozenset({"mode", "owner", "mtime"})
"""Fields that often move in many files alike: another epoch, umask or owner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """One field of one file, in words: ``sha256:… (120 bytes)``, ``0644``, ``1000:1000``."""

    field: FieldName
    got: str
    expected: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """One entry of a ramdisk. ``origin`` is ``A → B`` where the two differ."""

    path: str
    change: Change
    origin: str
    fields: tuple[FieldChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginChanges:
    """All the changes of a ramdisk that came from one place: a package, a layer, the app.

    ``files`` are the first of those whose content, kind or target changed, or that came or went;
    ``attributes`` the first of those where only mode, owner or time did.
    """

    origin: str
    added: int
    removed: int
    changed: int
    files: tuple[FileChange, ...]
    attributes: tuple[FileChange, ...]

    @property
    def count(self) -> int:
        """How many entries changed."""
        return self.added + self.removed + self.changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """An attribute that moved from one value to one other in ``count`` entries."""

    change: FieldChange
    count: int
    first: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderChange:
    """Entries that both have stand in another order; ``first`` is the first out of place."""

    first: str
    got: int
    expected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionChange:
    """A section whose bytes differ; None where one of the two doesn't have it.

    The rest is empty for sections that are not ramdisks.
    """

    section: str
    got: str | None
    expected: str | None
    origins: tuple[OriginChanges, ...] = ()
    shifts: tuple[Shift, ...] = ()
    order: OrderChange | None = None

    @property
    def explained(self) -> bool:
        """Whether a ramdisk's listed entries differ; False: only bytes that a list doesn't show."""
        return bool(self.origins) or self.order is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class PcrChange:
    """A register that moved, in lower-case hex, and the sections that moved it."""

    name: str
    got: str | None
    expected: str | None
    sections: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PinChange:
    """One pin of a lock: ``subject`` names it, None where one of the two doesn't have it."""

    subject: str
    got: str | None
    expected: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """All that differs; false when nothing does."""

    expected: str
    """What the first one is called."""
    got: str
    pcrs: tuple[PcrChange, ...] = ()
    sections: tuple[SectionChange, ...] = ()
    pins: tuple[PinChange, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pcrs or self.sections or self.pins)

    def to_json(self) -> dict[str, object]:
        """Plain JSON of the same structure."""
        return asdict(self)


def versions(origins: Iterable[str]) -> str:
    """``package libc6 2.36-9 → 2.36-10`` for the origins of both sides, each once."""
    distinct = list(dict.fromkeys(origin for origin in origins if origin))
    if not distinct:
        return ""
    first, *rest = distinct
    stem = family(first)
    if stem != first and all(family(other) == stem for other in rest):
        rest = [other.removeprefix(stem).strip() for other in rest]
    return " → ".join([first, *rest])


def family(origin: str) -> str:
    """What stays when a package moves to another version: ``package libc6``; else the origin."""
    words = origin.split(" ")
    return " ".join(words[:2]) if words[0] == "package" and len(words) > 2 else origin
