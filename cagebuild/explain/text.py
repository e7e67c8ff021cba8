"""A difference as text: from the PCRs down to the fields of files, the widest cause first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cagebuild.nitro.cpio import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cagebuild.explain.model import (
        Difference,
        FieldChange,
        FileChange,
        OriginChanges,
        SectionChange,
        Shift,
    )

_ORIGINS_WITH_FILES = 20
_ORIGINS = 100
_WIDE = 3
"""An attribute that moved alike in so many entries is told once, not for each of them."""


def render(difference: Difference) -> str:
    """Lines for a person, or one line that says that nothing differs; ends without a newline."""
    expected, got = printable(difference.expected), printable(difference.got)
    if not difference:
        return f"no difference: {got} measures as {expected}"
    return "\n".join([f"expected: {expected}", f"got:      {got}", *_lines(difference)])


def _lines(difference: Difference) -> Iterator[str]:
    if difference.pcrs:
        yield ""
    for pcr in difference.pcrs:
        yield f"{pcr.name} moved{': ' if pcr.sections else ''}{', '.join(pcr.sections)}"
        yield f"  got      {pcr.got or 'none'}"
        yield f"  expected {pcr.expected or 'none'}"
    for section in difference.sections:
        yield ""
        yield from _section(section)
    if difference.pins:
        yield ""
    for pin in difference.pins:
        yield from _pin(printable(pin.subject), pin.got, pin.expected)


def _pin(subject: str, got: str | None, expected: str | None) -> Iterator[str]:
    if got is None or expected is None:
        word = "added" if expected is None else "removed"
        yield f"{subject}: {word}, {printable(got or expected or '')}"
        return
    yield f"{subject}:"
    yield f"  got      {printable(got)}"
    yield f"  expected {printable(expected)}"


def _section(section: SectionChange) -> Iterator[str]:
    yield f"{section.section}{' (not measured)' if section.section == 'metadata' else ''}:"
    yield f"  got      {section.got or 'none'}"
    yield f"  expected {section.expected or 'none'}"
    wide = tuple(shift for shift in section.shifts if shift.count >= _WIDE)
    for shift in wide:
        yield from _shift(shift)
    told = {shift.change for shift in wide}
    for place, origin in enumerate(section.origins[:_ORIGINS]):
        yield from _origin(origin, told, with_files=place < _ORIGINS_WITH_FILES)
    if more := section.origins[_ORIGINS:]:
        yield f"  and {sum(o.count for o in more):,} changes of {len(more):,} more origins"
    if section.order is not None:
        order = section.order
        yield "  order: the same entries stand in another order, the first of them"
        yield f"    {printable(order.first)}: got place {order.got}, expected {order.expected}"
    if not section.explained and section.section.startswith("ramdisk"):
        if section.got is None or section.expected is None:
            return
        yield "  every entry is the same: the archives differ in how they were written"


def _shift(shift: Shift) -> Iterator[str]:
    change = shift.change
    yield (
        f"  {change.field} of {shift.count:,} entries, the first {printable(shift.first)}:"
        f" got {change.got}, expected {change.expected}"
    )


def _origin(changes: OriginChanges, told: set[FieldChange], *, with_files: bool) -> Iterator[str]:
    counts = ((changes.changed, "changed"), (changes.added, "added"), (changes.removed, "removed"))
    words = ", ".join(f"{count:,} {word}" for count, word in counts if count)
    yield f"  {printable(changes.origin) or 'of unknown origin'}: {words}"
    if not with_files:
        return
    light = [
        file for file in changes.attributes if any(change not in told for change in file.fields)
    ]
    shown = sorted([*changes.files, *light], key=lambda file: file.path)
    for file in shown:
        yield from _file(file, told)
    # Entries whose every change was told above, or that were only counted.
    left = changes.count - len(shown)
    if left and shown:
        yield f"    and {left:,} more"


def _file(file: FileChange, told: set[FieldChange]) -> Iterator[str]:
    yield f"    {file.change:<8} {printable(file.path)}"
    for change in file.fields:
        if change not in told:
            got, expected = printable(change.got), printable(change.expected)
            yield f"      {change.field}: got {got}, expected {expected}"
