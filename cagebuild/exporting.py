"""The finished image as something that other tools can load."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast, get_args

from cagebuild.errors import StoreError, UsageError
from cagebuild.image.config import parse_config
from cagebuild.image.export import ExportFormat, export
from cagebuild.steps import finished
from cagebuild.store import Session

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cagebuild.image.export import Exported
    from cagebuild.plan import Plan
    from cagebuild.store import Blob, Store


def known_format(text: str) -> ExportFormat:
    """The format of that name; raises UsageError."""
    if text not in get_args(ExportFormat):
        raise UsageError(f"--format {text}: expected {', '.join(get_args(ExportFormat))}")
    return cast("ExportFormat", text)


def write(
    store: Store,
    plan: Plan,
    blobs: Mapping[str, Blob],
    output: Path,
    form: ExportFormat,
    *,
    name: str | None = None,
    volumes: bool = True,
) -> Exported:
    """Write the image that layers and config in the store make; raises CageError.

    ``name`` is ``repository:tag``, or None for the cage's name. Without ``volumes`` the image asks
    for none: Docker makes one for each container, and few tools remove them.
    """
    epoch = cast("int", plan.measure.params["epoch"])
    origins = cast("list[str]", plan.measure.params["origins"])
    steps = {given.step.id for given in plan.image_inputs().values()}
    # A session: other builds would sweep up any other folder there, and prune what is read.
    with Session(store, steps) as session, session.scratch() as scratch:
        inputs = {given: scratch / given for given in blobs}
        for given, blob in blobs.items():
            store.checkout(blob, inputs[given])
        config = parse_config(inputs["config.json"].read_bytes(), "the finished image's config")
        if not volumes:
            config = replace(config, volumes=())
        root = finished.tree(inputs, origins, epoch)
        name = name or f"{plan.cage.name}:latest"
        try:
            return export(root, config, output, form=form, name=name, epoch=epoch)
        except OSError as error:
            raise StoreError(
                f"{output} cannot be written: {error.strerror or error}",
                hint="choose another place, make room, or make the folder writable",
            ) from error
