"""Which image of several: by platform and name, through indexes in indexes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from cagebuild.errors import ImageError, ResolveError
from cagebuild.image.manifest import INDEXES, MANIFESTS, MAX_MANIFESTS
from cagebuild.image.platform import OCI_ARCHITECTURE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cagebuild.config.model import Architecture
    from cagebuild.image.manifest import Descriptor, Index
    from cagebuild.image.platform import Platform

_MAX_DEPTH: Final = 4
_SHOWN: Final = 20


class Documents(Protocol):
    """The documents of a registry's repository or of a layout, checked by digest."""

    def index(self, descriptor: Descriptor) -> Index:
        """An index in an index."""

    def platform(self, descriptor: Descriptor) -> Platform:
        """What the config of an image says, where the index doesn't."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An image that an index leads to."""

    descriptor: Descriptor
    names: tuple[str, ...]
    platform: Platform

    def __str__(self) -> str:
        return f"{', '.join(self.names) or self.descriptor.digest} ({self.platform})"


def first_image(
    index: Index, architecture: Architecture, label: str, documents: Documents
) -> Candidate:
    """The first that suits, as the specification wants it of an index for several platforms.

    ``label`` names the index. Raises ResolveError, which lists what there is.
    """
    found = []
    for image in _candidates(index, label, documents):
        if image.platform.suits(architecture):
            return image
        found.append(image)
    raise _failure(f"{label} has no image for linux/{OCI_ARCHITECTURE[architecture]}", found)


def only_image(
    index: Index, architecture: Architecture, label: str, documents: Documents, name: str | None
) -> Candidate:
    """The one image for the architecture, of that name when it is given.

    A layout may hold images that have nothing to do with each other, so that none is taken because
    it comes first. Raises ResolveError, which lists what there is, for none and for several.
    """
    found = list(_candidates(index, label, documents))
    fitting = {
        image.descriptor.digest: image
        for image in reversed(found)
        if image.platform.suits(architecture)
        and (name is None or any(same_name(name, given) for given in image.names))
    }
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    number = "more than one image" if fitting else "no image"
    wanted = f"{f' {name!r}' if name else ''} for linux/{OCI_ARCHITECTURE[architecture]}"
    raise _failure(f"{label} has {number}{wanted}", found, unnamed=bool(fitting) and name is None)


def same_name(wanted: str, given: str) -> bool:
    """Whether two image names are one to Docker: ``a`` is ``docker.io/library/a:latest``."""
    # An index may have the tag alone.
    return wanted == given or _familiar(wanted) == _familiar(given)


def _familiar(name: str) -> str:
    name = name.removeprefix("docker.io/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] or "@" in name else name + ":latest"


def _failure(what: str, found: Sequence[Candidate], *, unnamed: bool = False) -> ResolveError:
    listed = "".join(f"\n  {image}" for image in found[:_SHOWN])
    rest = f"\n  … and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ResolveError(
        f"{what}; it has:{listed or ' none at all'}{rest}",
        hint="name one of them" if unnamed else "check name and architecture",
    )


def _candidates(index: Index, label: str, documents: Documents) -> Iterator[Candidate]:
    """All images, as they are needed: another document is read only when the next is asked for."""
    left = MAX_MANIFESTS

    def inside(index: Index, outer: tuple[str, ...], depth: int) -> Iterator[Candidate]:
        nonlocal left
        # What says its platform comes first, so that the rest is looked into only where it must be.
        for entry in sorted(index.entries, key=lambda entry: entry.platform is None):
            left -= 1
            if left < 0 or depth >= _MAX_DEPTH:
                raise ImageError(
                    f"{label} has more than {MAX_MANIFESTS} manifests, or indexes nested too "
                    "deeply",
                    hint="it is built to confuse readers, or holds too much: name the one image "
                    "that you need",
                )
            names = tuple(dict.fromkeys((*outer, *entry.names)))
            descriptor = entry.descriptor
            if entry.about:
                continue
            if descriptor.media_type in INDEXES:
                yield from inside(documents.index(descriptor), names, depth + 1)
            elif descriptor.media_type in MANIFESTS:
                platform = entry.platform or documents.platform(descriptor)
                yield Candidate(descriptor=descriptor, names=names, platform=platform)

    return inside(index, (), 0)
