"""The images that a Dockerfile names: from references to pins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cagebuild import lockjson
from cagebuild.image.reference import Reference
from cagebuild.image.registry import ImagePin

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerfilePins:
    """Each image by its reference, nothing of which is left to defaults."""

    images: Mapping[str, ImagePin]

    def by_digest(self) -> dict[str, str]:
        """What an engine is given in place of each reference: ``host/repository:tag@sha256:…``.

        The digest is that of the index where there is one, so that the engine finds the image of
        the platform that it needs.
        """
        return {name: _by_digest(name, pin) for name, pin in self.images.items()}

    def to_json(self) -> dict[str, Any]:
        """For the lock."""
        return {"images": {name: pin.to_json() for name, pin in sorted(self.images.items())}}

    @classmethod
    def from_json(cls, data: object) -> DockerfilePins:
        """Out of the lock; raises LockError."""
        with lockjson.reading("images of the Dockerfile"):
            images = lockjson.table(data, "images")["images"]
            pins = {
                lockjson.text(name): ImagePin.from_json(pin)
                for name, pin in lockjson.mapping(images).items()
            }
        return cls(images=pins)


def _by_digest(name: str, pin: ImagePin) -> str:
    named = Reference.parse(name)
    tag = f":{named.tag}" if named.tag else ""
    return f"{named.registry}/{named.repository}{tag}@{pin.index or pin.manifest}"
