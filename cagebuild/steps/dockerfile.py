"""The step ``dockerfile``: a Dockerfile without RUN, built in this process.

Inputs: ``context.tar``, and for each image that the Dockerfile names its layers and config (names
as ``cagebuild.steps.finished`` has them). Parameters: ``dockerfile``, its text; ``name``, what it
is called; ``target`` or null; ``args``; ``architecture``; ``epoch``; ``images``, for each a
reference and the origins of its layers. Outputs: ``layer.tar``, ``config.json``,
``origins.json``. Hint: ``dockerfile``, where the user has it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cagebuild.dockerfile.parse import parse
from cagebuild.embedded import Base, build
from cagebuild.errors import ImageError
from cagebuild.image.config import parse_config
from cagebuild.image.layers import Layer, flatten
from cagebuild.image.onelayer import write_parts
from cagebuild.image.tree import Region
from cagebuild.steps.finished import CONTEXT, config_input, image_layer_input

if TYPE_CHECKING:
    from cagebuild.config.model import Architecture
    from cagebuild.step import StepContext


def run(context: StepContext) -> None:
    """Run the step; raises DockerfileError, ImageError and UnsupportedError."""
    params = cast("dict[str, Any]", context.params)
    text: str = params["dockerfile"]
    # Where the user has it, for errors; of its path the result has the name alone.
    file = Path(str(context.hints.get("dockerfile") or params["name"]))
    images = {
        reference: (number, origins) for number, (reference, origins) in enumerate(params["images"])
    }

    def image(reference: str) -> Base:
        if reference not in images:
            # All that the Dockerfile itself names is in the lock.
            raise ImageError(
                f"an ONBUILD of a base image wants the image {reference}, which nothing pins",
                hint="name it in the Dockerfile: COPY --from=… in a stage of its own",
            )
        number, origins = images[reference]
        layers = [
            _layer(context.inputs[image_layer_input(number, place)], f"{reference} {origin}")
            for place, origin in enumerate(origins)
        ]
        config = parse_config(context.inputs[config_input(number)].read_bytes(), reference)
        return Base(root=flatten(layers), config=config)

    built = build(
        parse(text.encode("utf-8", "surrogateescape"), file),
        target=params["target"],
        context=flatten([_layer(context.inputs[CONTEXT], "the context")]),
        images=image,
        args=params["args"],
        architecture=cast("Architecture", params["architecture"]),
        epoch=params["epoch"],
        scratch=context.scratch,
    )
    write_parts(built.root, built.config, epoch=params["epoch"], output=context.output)


def _layer(file: Path, origin: str) -> Layer:
    return Layer(region=Region.of_file(file), name=origin, origin=origin)
