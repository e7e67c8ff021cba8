"""Why a PCR moved: from the register to the section, the file and the field.

``load`` takes a manifest, an image file or a lock from disk; ``explain`` compares two of them. What
differs is a ``Difference``, as JSON by its ``to_json`` and as text by ``text.render``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cagebuild.errors import UsageError
from cagebuild.explain.model import Difference, PcrChange, PinChange, SectionChange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from cagebuild.lock import Lock
    from cagebuild.nitro.manifest import ManifestEntry
    from cagebuild.nitro.pcr import Measurements, Section

__all__ = ["Difference", "Image", "NamedLock", "Subject", "explain", "load", "lock_from"]

ORDER = "order of sections"
_PCRS = {
    "kernel": ("PCR0", "PCR1"),
    "cmdline": ("PCR0", "PCR1"),
    "ramdisk 0": ("PCR0", "PCR1"),
    ORDER: ("PCR0", "PCR1", "PCR2"),
    "metadata": (),
}
_PCRS_OF_OTHER_RAMDISKS = ("PCR0", "PCR2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What is known of one enclave image: from its manifest, or from the image file itself."""

    name: str
    measurements: Measurements
    sections: tuple[Section, ...]
    entries: Callable[[], Iterable[ManifestEntry]]
    """Starts reading the ramdisks' entries from the beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedLock:
    """A lock, and what to call it."""

    name: str
    lock: Lock


Subject = Image | NamedLock


def load(path: Path) -> Subject:
    """What a file is, by its content; a folder of results stands for its manifest.

    Raises UsageError when there is nothing, or nothing that can be compared, and the error of its
    reader when it is damaged: EifError or LockError.
    """
    file = path / "manifest.json" if path.is_dir() else path
    try:
        with file.open("rb") as stream:
            head = stream.read(16)
    except OSError as error:
        raise UsageError(
            f"{file}: cannot be read: {error.strerror}",
            hint="name two manifests, image files or locks",
        ) from None
    if head.startswith(b".eif"):
        return _image_file(file)
    if head.startswith(b'{"format"'):
        return _manifest(file)
    if head.startswith(b"{"):
        from cagebuild import lock

        found = lock.read(file)
        if found is not None:
            return NamedLock(name=str(file), lock=found)
    raise UsageError(f"{file} is neither a manifest.json nor an image file nor a cage.lock")


def lock_from(raw: bytes, name: str) -> NamedLock:
    """A lock that is not on disk, as a revision has it; raises LockError."""
    from pathlib import Path

    from cagebuild import lock

    return NamedLock(name=name, lock=lock.parse(raw, Path(name)))


def explain(expected: Subject, got: Subject, *, limit: int = 10) -> Difference:
    """All that differs, with at most ``limit`` files shown for each origin.

    An image and a lock have only PCRs in common. Raises EifError or ImageError when entries
    can't be read.
    """
    before, after = _pcrs(expected), _pcrs(got)
    sections: tuple[SectionChange, ...] = ()
    if isinstance(expected, Image) and isinstance(got, Image):
        sections = tuple(_sections(expected, got, limit))
    pins: tuple[PinChange, ...] = ()
    if isinstance(expected, NamedLock) and isinstance(got, NamedLock):
        from cagebuild.explain import locks

        pins = locks.pins(expected.lock, got.lock)
    return Difference(
        expected=expected.name,
        got=got.name,
        pcrs=tuple(
            PcrChange(
                name=name,
                got=after.get(name),
                expected=before.get(name),
                sections=tuple(s.section for s in sections if name in _moved_by(s.section)),
            )
            for name in sorted(before.keys() | after.keys())
            if before.get(name) != after.get(name)
        ),
        sections=sections,
        pins=pins,
    )


def _image_file(path: Path) -> Image:
    from cagebuild.nitro import manifest, reader

    image = reader.read(path)
    return Image(
        name=str(path),
        measurements=image.measurements,
        sections=tuple(section for section in image.sections if section.name != "signature"),
        entries=lambda: manifest.eif_entries(image),
    )


def _manifest(path: Path) -> Image:
    from cagebuild.nitro import manifest

    found = manifest.load(path)
    return Image(
        name=str(path),
        measurements=found.head.measurements,
        sections=found.head.sections,
        entries=found.entries,
    )


def _pcrs(subject: Subject) -> dict[str, str]:
    if isinstance(subject, Image):
        return subject.measurements.pcrs()
    return dict(subject.lock.expected or {})


def _moved_by(section: str) -> tuple[str, ...]:
    return _PCRS.get(section, _PCRS_OF_OTHER_RAMDISKS)


def _sections(expected: Image, got: Image, limit: int) -> Iterator[SectionChange]:
    """The sections that differ, in the order of the file."""
    before, after = _by_label(expected.sections), _by_label(got.sections)
    labels = [*before, *(label for label in after if label not in before)]
    moved = [label for label in labels if before.get(label) != after.get(label)]
    both = frozenset(
        int(label.removeprefix("ramdisk "))
        for label in moved
        if label.startswith("ramdisk") and label in before and label in after
    )
    from cagebuild.explain import ramdisks

    found = ramdisks.compare(expected.entries, got.entries, both, limit) if both else {}
    for label in moved:
        change = SectionChange(
            section=label, got=_text(after.get(label)), expected=_text(before.get(label))
        )
        number = label.removeprefix("ramdisk ")
        if number.isdigit() and int(number) in found:
            change = ramdisks.described(change, *found[int(number)])
        yield change
    common = [label for label in before if label in after]
    if common != [label for label in after if label in before]:
        yield SectionChange(section=ORDER, got=", ".join(after), expected=", ".join(before))


def _by_label(sections: tuple[Section, ...]) -> dict[str, Section]:
    """Sections by name; ramdisks with their number. The order of metadata means nothing."""
    labelled: dict[str, Section] = {}
    ramdisks = 0
    for section in sorted(sections, key=lambda section: section.name == "metadata"):
        label: str = section.name
        if section.name == "ramdisk":
            label = f"ramdisk {ramdisks}"
            ramdisks += 1
        labelled[label] = section
    return labelled


def _text(section: Section | None) -> str | None:
    return None if section is None else f"{section.size:,} bytes, sha384:{section.sha384}"
