"""Comparing the entries of two ramdisks: sorted, merged, counted; only the first few are kept.

Memory grows by 8 bytes for each entry, which tell whether the order changed, and by nothing else:
what exceeds a run of the sort waits in a temporary file.
"""

from __future__ import annotations

import heapq
import json
import tempfile
from array import array
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from cagebuild.explain.model import (
    ATTRIBUTES,
    FieldChange,
    FileChange,
    OrderChange,
    OriginChanges,
    Shift,
    family,
    versions,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cagebuild.explain.model import Change, SectionChange
    from cagebuild.nitro.manifest import ManifestEntry

_RUN = 20_000
_MOST_ORIGINS = 5_000
_MOST_SHIFTS = 1_000
_MOST_VERSIONS = 4
_OTHER_ORIGINS = "other origins"


class Row(NamedTuple):
    """An entry as it is sorted: a directory just before its contents, equal names in file order."""

    ramdisk: int
    parts: tuple[str, ...]
    """Components of the name; bytes that are not UTF-8 are surrogates."""
    ordinal: int
    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    digest: str
    target: str
    device: str
    origin: str

    @property
    def path(self) -> str:
        """The name as it is shown, without the slash that may end a directory's."""
        raw = "/".join(self.parts).encode("utf-8", "surrogateescape")
        return raw.decode("utf-8", "backslashreplace")


@dataclass(slots=True)
class _Group:
    """The changes of one origin while they are counted."""

    expected: dict[str, None] = field(default_factory=dict)
    got: dict[str, None] = field(default_factory=dict)
    counts: dict[Change, int] = field(default_factory=dict)
    files: list[FileChange] = field(default_factory=list)
    attributes: list[FileChange] = field(default_factory=list)


@dataclass(slots=True)
class Comparison:
    """What has been found in one ramdisk so far; ``limit`` changes are kept of each origin."""

    limit: int
    groups: dict[str, _Group] = field(default_factory=dict)
    shifts: dict[FieldChange, tuple[int, str]] = field(default_factory=dict)
    places: array[int] = field(default_factory=lambda: array("q"))
    """For each place in the first of the two, the place of the same entry in the second, or -1."""

    def see(self, change: Change, expected: Row, got: Row) -> None:
        """Take one entry; where one of the two doesn't have it, both rows are the other's."""
        fields: tuple[FieldChange, ...] = ()
        if change == "changed":
            self._place(expected.ordinal, got.ordinal)
            fields = tuple(_fields(expected, got))
            if not fields:
                return
            self._count_shifts(fields, got.path)
        name = family(got.origin or expected.origin)
        if name not in self.groups and len(self.groups) >= _MOST_ORIGINS:
            name = _OTHER_ORIGINS
        group = self.groups.setdefault(name, _Group())
        group.counts[change] = group.counts.get(change, 0) + 1
        if change != "added":
            _remember(group.expected, expected.origin, name)
        if change != "removed":
            _remember(group.got, got.origin, name)
        light = change == "changed" and all(found.field in ATTRIBUTES for found in fields)
        kept = group.attributes if light else group.files
        if len(kept) < self.limit:
            origin = versions([expected.origin, got.origin])
            kept.append(FileChange(path=got.path, change=change, origin=origin, fields=fields))

    def _count_shifts(self, fields: tuple[FieldChange, ...], path: str) -> None:
        for change in fields:
            if change.field not in ATTRIBUTES:
                continue
            if change in self.shifts or len(self.shifts) < _MOST_SHIFTS:
                count, first = self.shifts.get(change, (0, path))
                self.shifts[change] = (count + 1, first)

    def _place(self, expected: int, got: int) -> None:
        self.places.extend([-1] * (expected + 1 - len(self.places)))
        self.places[expected] = got

    def origins(self) -> tuple[OriginChanges, ...]:
        """The changes by origin: what isn't a package first, then those with most of them."""
        found = [
            OriginChanges(
                origin=versions([*group.expected, *group.got]) or name,
                added=group.counts.get("added", 0),
                removed=group.counts.get("removed", 0),
                changed=group.counts.get("changed", 0),
                files=tuple(group.files),
                attributes=tuple(group.attributes),
            )
            for name, group in self.groups.items()
        ]
        return tuple(sorted(found, key=_importance))

    def attribute_shifts(self) -> tuple[Shift, ...]:
        """Attributes that moved alike, the widest first."""
        found = [
            Shift(change=change, count=count, first=first)
            for change, (count, first) in self.shifts.items()
        ]
        return tuple(sorted(found, key=lambda shift: (-shift.count, shift.first)))

    def first_out_of_order(self) -> int | None:
        """Place in the first of the two of the first entry that an earlier one stands behind."""
        furthest = -1
        for expected, got in enumerate(self.places):
            if 0 <= got < furthest:
                return expected
            furthest = max(furthest, got)
        return None


def _importance(changes: OriginChanges) -> tuple[bool, int, str]:
    """One changed file of the app says more than an update of hundreds of packages."""
    return changes.origin.startswith("package "), -changes.count, changes.origin


def _remember(versions: dict[str, None], origin: str, name: str) -> None:
    """Keep a version of the group's origin, a few of them at most."""
    if family(origin) == name and len(versions) < _MOST_VERSIONS:
        versions[origin] = None


def compare(
    expected: Callable[[], Iterable[ManifestEntry]],
    got: Callable[[], Iterable[ManifestEntry]],
    ramdisks: frozenset[int],
    limit: int,
) -> dict[int, tuple[Comparison, OrderChange | None]]:
    """What differs in each of the named ramdisks. Both functions read from the beginning."""
    found = {number: Comparison(limit=limit) for number in ramdisks}
    with tempfile.TemporaryDirectory(prefix="cagebuild-") as spill:
        left = _sorted_rows(expected(), ramdisks, spill)
        right = _sorted_rows(got(), ramdisks, spill)
        for change, one, other in _pairs(left, right):
            found[one.ramdisk].see(change, one, other)
    return {
        number: (comparison, _order_change(comparison, number, expected))
        for number, comparison in found.items()
    }


def described(
    change: SectionChange, comparison: Comparison, order: OrderChange | None
) -> SectionChange:
    """The change of a ramdisk, with what was found in it."""
    return replace(
        change,
        origins=comparison.origins(),
        shifts=comparison.attribute_shifts(),
        order=order,
    )


def _order_change(
    comparison: Comparison, ramdisk: int, expected: Callable[[], Iterable[ManifestEntry]]
) -> OrderChange | None:
    place = comparison.first_out_of_order()
    if place is None:
        return None
    rows = _rows(expected(), frozenset({ramdisk}))
    first = next(row.path for row in rows if row.ordinal == place)
    return OrderChange(first=first, expected=place, got=comparison.places[place])


def _rows(entries: Iterable[ManifestEntry], ramdisks: frozenset[int]) -> Iterator[Row]:
    ordinals = dict.fromkeys(ramdisks, 0)
    for entry in entries:
        if entry.ramdisk not in ramdisks:
            continue
        ordinal = ordinals[entry.ramdisk]
        ordinals[entry.ramdisk] += 1
        yield Row(
            ramdisk=entry.ramdisk,
            parts=tuple(entry.path.rstrip(b"/").decode("utf-8", "surrogateescape").split("/")),
            ordinal=ordinal,
            kind=entry.kind,
            mode=entry.mode,
            uid=entry.uid,
            gid=entry.gid,
            mtime=entry.mtime,
            size=entry.size,
            digest=entry.sha256,
            target=entry.target.decode("utf-8", "backslashreplace"),
            device=f"{entry.rdev[0]}:{entry.rdev[1]}",
            origin=entry.origin,
        )


def _sorted_rows(
    entries: Iterable[ManifestEntry], ramdisks: frozenset[int], spill: str
) -> Iterator[Row]:
    """The rows in the order of ``Row``: sorted in runs, which wait in files below ``spill``."""
    runs: list[Iterator[Row]] = []
    run: list[Row] = []
    for row in _rows(entries, ramdisks):
        run.append(row)
        if len(run) == _RUN:
            runs.append(_spilled(sorted(run), spill))
            run = []
    return heapq.merge(*runs, sorted(run))


def _spilled(rows: list[Row], spill: str) -> Iterator[Row]:
    with tempfile.NamedTemporaryFile("w", dir=spill, delete=False, encoding="ascii") as stream:
        for row in rows:
            stream.write(json.dumps(row) + "\n")
    return _read_back(stream.name)


def _read_back(name: str) -> Iterator[Row]:
    with open(name, encoding="ascii") as stream:  # noqa: PTH123 - a name is all there is
        for line in stream:
            ramdisk, parts, *rest = json.loads(line)
            yield Row(ramdisk, tuple(parts), *rest)


def _pairs(left: Iterator[Row], right: Iterator[Row]) -> Iterator[tuple[Change, Row, Row]]:
    """Rows of the same name together; a row that has no partner with itself."""
    one, other = next(left, None), next(right, None)
    while one is not None and other is not None:
        if one[:2] < other[:2]:
            yield "removed", one, one
            one = next(left, None)
        elif other[:2] < one[:2]:
            yield "added", other, other
            other = next(right, None)
        else:
            yield "changed", one, other
            one, other = next(left, None), next(right, None)
    for row in chain([one] if one else [], left):
        yield "removed", row, row
    for row in chain([other] if other else [], right):
        yield "added", row, row


def _fields(expected: Row, got: Row) -> Iterator[FieldChange]:
    """The fields that differ, in words."""
    if expected.kind != got.kind:
        yield FieldChange(field="kind", got=got.kind, expected=expected.kind)
    elif (expected.digest, expected.size) != (got.digest, got.size):
        yield FieldChange(field="content", got=_content(got), expected=_content(expected))
    if expected.kind == got.kind and expected.target != got.target:
        yield FieldChange(field="target", got=got.target, expected=expected.target)
    if expected.kind == got.kind and expected.device != got.device:
        yield FieldChange(field="device", got=got.device, expected=expected.device)
    if expected.mode != got.mode:
        yield FieldChange(field="mode", got=f"{got.mode:04o}", expected=f"{expected.mode:04o}")
    if (expected.uid, expected.gid) != (got.uid, got.gid):
        yield FieldChange(
            field="owner",
            got=f"{got.uid}:{got.gid}",
            expected=f"{expected.uid}:{expected.gid}",
        )
    if expected.mtime != got.mtime:
        yield FieldChange(field="mtime", got=_time(got.mtime), expected=_time(expected.mtime))


def _content(row: Row) -> str:
    return f"sha256:{row.digest} ({row.size:,} bytes)"


def _time(seconds: int) -> str:
    """Seconds since 1970, and the date where there is one."""
    try:
        return f"{seconds} ({datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ})"
    except (ValueError, OverflowError, OSError):
        return str(seconds)
