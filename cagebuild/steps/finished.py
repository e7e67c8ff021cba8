"""The finished image, as several steps read it: layers in order, one time stamp on everything."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from cagebuild.image.layers import Layer, flatten, set_times
from cagebuild.image.tree import Region

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from cagebuild.image.tree import Node


LAYER: Final = "layer-"
CONTEXT: Final = "context.tar"
"""Name of the input that has the files that a Dockerfile may copy."""


def layer_input(number: int) -> str:
    """Name of the input that is the layer of that number; the lowest is 0."""
    return f"{LAYER}{number:03}.tar"


def origins_input(number: int) -> str:
    """Name of the input that says where the entries of that layer came from, where there is one."""
    return f"origins-{number:03}.json"


def image_layer_input(image: int, number: int) -> str:
    """Name of the input that is a layer of one of the images that a Dockerfile names."""
    return f"image-{image:02}-{layer_input(number)}"


def config_input(image: int) -> str:
    """Name of the input that is the config of that image."""
    return f"image-{image:02}-config.json"


def tree(inputs: Mapping[str, Path], origins: list[str], epoch: int) -> Node:
    """The layers among ``inputs`` as one tree. ``origins`` names each layer in words."""
    layers = [
        Layer(
            region=Region.of_file(inputs[layer_input(number)]),
            name=f"{origin} layer",
            origin=_origin(inputs.get(origins_input(number)), origin),
        )
        for number, origin in enumerate(origins)
    ]
    root = flatten(layers)
    set_times(root, epoch)
    return root


def _origin(file: Path | None, origin: str) -> str | Callable[[bytes], str]:
    if file is None:
        return origin
    known: dict[str, str] = json.loads(file.read_bytes())

    return lambda path: known.get(path.decode("utf-8", "surrogateescape"), origin)
