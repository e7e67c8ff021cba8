"""Images of registries as layers of a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cagebuild.plan.maker import Layer, Maker, short
from cagebuild.step import Input, StepInput

if TYPE_CHECKING:
    from cagebuild.digest import Digest
    from cagebuild.image.registry import ImagePin


def image_layers(maker: Maker, pin: ImagePin) -> tuple[list[Layer], Input]:
    """The layers of an image in a registry, lowest first, and its config."""
    config = maker.fetch("image config", pin.config.digest, pin.config.size, [pin.location])
    layers = [
        unpacked(
            maker,
            maker.fetch(f"layer {short(layer.digest)}", layer.digest, layer.size, [pin.location]),
            layer.diff_id,
        )
        for layer in pin.layers
    ]
    return layers, config


def unpacked(maker: Maker, blob: Input, diff_id: Digest) -> Layer:
    """A layer without compression, checked."""
    step = maker.step(
        "unpack",
        f"unpack layer {short(diff_id)}",
        params={"diff_id": str(diff_id)},
        inputs={"layer": blob},
        outputs=("layer.tar",),
    )
    return Layer(tar=StepInput(step=step, output="layer.tar"), origin=f"layer {short(diff_id)}")
