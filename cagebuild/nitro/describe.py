"""What `invoke describe FILE.eif` shows, as a value, as JSON and as text."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cagebuild.nitro import reader
from cagebuild.nitro.cpio import printable
from cagebuild.nitro.metadata import CAGE

if TYPE_CHECKING:
    from pathlib import Path

_MOST_SHOWN = 1000
"""Characters of one value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RamdiskSummary:
    """One ramdisk's entries, counted."""

    entries: int
    kinds: tuple[tuple[str, int], ...]
    """Number of entries of each type, sorted by type."""
    content: int
    """Bytes of all regular files."""

    def to_json(self) -> dict[str, object]:
        """For the description's JSON."""
        return {"entries": self.entries, "kinds": dict(self.kinds), "content": self.content}


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """All that an image file says, each part checked."""

    image: reader.Eif
    ramdisks: tuple[RamdiskSummary, ...]

    def to_json(self) -> dict[str, object]:
        """Plain JSON; ``Measurements`` as nitro-cli prints it."""
        image = self.image
        return {
            "version": image.header.version,
            "architecture": image.header.architecture,
            "size": image.size,
            "crc32": f"{image.header.crc:08x}",
            "default_memory": image.header.default_memory,
            "default_cpus": image.header.default_cpus,
            **image.measurements.to_json(),
            "sections": [
                {**section.to_json(), "offset": place.offset}
                for section, place in zip(image.sections, image.places, strict=True)
            ],
            "ramdisks": [summary.to_json() for summary in self.ramdisks],
            "signature": image.signature.to_json() if image.signature else None,
            "metadata": image.metadata,
        }

    def render(self) -> str:
        """Lines for a person. Nothing in them can move a terminal's cursor."""
        image = self.image
        lines = [
            f"format        EIF version {image.header.version}, {image.header.architecture}",
            f"size          {image.size} bytes, CRC {image.header.crc:08x} (checked)",
        ]
        lines += [f"{name:<14}{value}" for name, value in image.measurements.pcrs().items()]
        if image.signature is None:
            lines.append("signature     none")
        else:
            signature = image.signature
            lines += [
                f"signature     {signature.algorithm}, verified",
                f"  subject     {printable(signature.subject)}",
                f"  issuer      {printable(signature.issuer)}",
                f"  valid       {signature.not_before} to {signature.not_after}",
            ]
        lines.append("sections")
        lines += [
            f"  {section.name:<12}{section.size:>14} bytes at {place.offset:<12} {section.sha384}"
            for section, place in zip(image.sections, image.places, strict=True)
        ]
        for number, summary in enumerate(self.ramdisks):
            kinds = ", ".join(f"{count} {kind}" for kind, count in summary.kinds)
            lines.append(
                f"ramdisk {number}     {summary.entries} entries ({kinds}), "
                f"{summary.content} bytes in files"
            )
        lines += _metadata_lines(image.metadata)
        return "\n".join(lines)


def describe(path: Path) -> Description:
    """Check an image file with all its ramdisks' entries; raises EifError."""
    image = reader.read(path)
    count = sum(place.name == "ramdisk" for place in image.places)
    kinds: list[Counter[str]] = [Counter() for _ in range(count)]
    content = [0] * count
    for number, member in reader.ramdisk_members(image):
        kinds[number][member.kind] += 1
        if member.kind == "file":
            content[number] += member.size
    return Description(
        image=image,
        ramdisks=tuple(
            RamdiskSummary(
                entries=counts.total(), kinds=tuple(sorted(counts.items())), content=size
            )
            for counts, size in zip(kinds, content, strict=True)
        ),
    )


def _metadata_lines(metadata: dict[str, object] | None) -> list[str]:
    if metadata is None:
        return ["metadata      none"]
    lines = ["metadata"]
    build = metadata.get("BuildMetadata")
    shown = {key: metadata.get(key) for key in ("ImageName", "ImageVersion")}
    shown |= build if isinstance(build, dict) else {}
    lines += [f"  {printable(str(key))}: {printable(str(value))}" for key, value in shown.items()]
    return lines + _custom_lines(metadata.get("CustomMetadata"))


def _custom_lines(custom: object) -> list[str]:
    """CustomMetadata, which may be anything; a cage's own key by key."""
    if custom is None:
        return []
    cage = custom.get(CAGE) if isinstance(custom, dict) and len(custom) == 1 else None
    if not isinstance(cage, dict):
        return [f"  CustomMetadata: {_compact(custom)}"]
    return [
        "  CustomMetadata, for the host (not measured):",
        *(
            f"    {printable(str(key))}: {line}"
            for key, value in cage.items()
            for line in (
                [_compact(item) for item in value] if isinstance(value, list) else [_compact(value)]
            )
        ),
    ]


def _compact(value: object) -> str:
    """JSON on one line, cut where it is long; text without its quotes."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return printable(text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "…")
