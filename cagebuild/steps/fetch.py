"""The step ``fetch``: one locked file.

Parameter: ``digest``. Output: ``file``. Hints: ``locations``, asked in order, each an https, http
or file URL or ``oci://host/repository`` for a blob of a registry; ``size`` in bytes where known;
``partials``, a folder that outlives the run, where an unfinished file waits to be resumed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cagebuild.digest import Digest
from cagebuild.fetch.download import download_from
from cagebuild.fetch.http import location_of
from cagebuild.fetch.registry import BlobLocation
from cagebuild.image.reference import Reference

if TYPE_CHECKING:
    from cagebuild.fetch.download import Location
    from cagebuild.step import StepContext

LIMIT = 64 << 30
"""Bytes of one file, where the lock does not say how many it has."""


def run(context: StepContext) -> None:
    """Run the step; raises FetchError, StoreError, and ResolveError for a malformed location."""
    digest = Digest.parse(_text(context.params["digest"]))
    locations, size = context.hints["locations"], context.hints.get("size")
    partials = context.hints.get("partials")
    if not isinstance(locations, list | tuple) or not isinstance(size, int | None):
        raise TypeError(f"hints: {context.hints!r}")
    download_from(
        [_location(_text(location), digest) for location in locations],
        context.output("file"),
        digest=digest,
        size=size,
        limit=LIMIT,
        progress=context.progress,
        part=None if partials is None else Path(_text(partials)) / f"{digest.hex}.part",
    )


def _location(location: str, digest: Digest) -> Location:
    if location.startswith("oci:"):
        repository = Reference.of_location(location)
        return BlobLocation(repository.registry, repository.repository, digest)
    return location_of(location)


def _text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    if not isinstance(value, str):
        raise TypeError(f"not a text: {value!r}")
    return value
