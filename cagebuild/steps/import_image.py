"""The step ``import``: an image out of an archive file.

Input: ``archive``, an OCI layout or docker-archive in a tar file. Parameters: ``name`` or null,
``architecture``, ``diff_ids`` of the layers. Outputs: ``config.json``, and ``layer-000.tar`` … for
the layers, lowest first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from cagebuild.errors import ImageError
from cagebuild.image.layout import open_image
from cagebuild.step import canonical
from cagebuild.steps.finished import layer_input

if TYPE_CHECKING:
    from cagebuild.config.model import Architecture
    from cagebuild.step import StepContext


def run(context: StepContext) -> None:
    """Run the step; raises ResolveError, ImageError and UnsupportedError."""
    params = context.params
    image = open_image(
        context.inputs["archive"],
        name=cast("str | None", params["name"]),
        architecture=cast("Architecture", params["architecture"]),
        scratch=context.scratch,
    )
    if [str(layer.diff_id) for layer in image.layers] != params["diff_ids"]:
        raise ImageError("the archive has other layers than the lock names", hint="invoke lock")
    context.output("config.json").write_bytes(canonical(image.config.raw))
    for number, layer in enumerate(image.layers):
        with context.output(layer_input(number)).open("wb") as stream:
            for chunk in layer.open(context.scratch).chunks():
                stream.write(chunk)
