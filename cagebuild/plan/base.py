"""The base's layers: packages, an image of a registry, an archive, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from cagebuild.config.model import (
    ArchiveBase,
    DebianBase,
    DockerfileBase,
    ImageBase,
    ScratchBase,
)
from cagebuild.errors import StaleLockError
from cagebuild.plan.dockerfile import dockerfile_layer
from cagebuild.plan.images import image_layers, unpacked
from cagebuild.plan.maker import Layer, Maker, short
from cagebuild.step import FileInput, Input, StepInput
from cagebuild.steps import finished

if TYPE_CHECKING:
    from cagebuild.image.archivepin import ArchivePin
    from cagebuild.sources import BuildContext


def base_layers(maker: Maker, context: BuildContext | None) -> tuple[list[Layer], Input | None]:
    """The base's layers, lowest first, and its image config where it has one."""
    base = maker.cage.base
    match base:
        case DebianBase():
            return _debian(maker), None
        case ImageBase():
            return _registry_image(maker)
        case ArchiveBase():
            return _archive(maker, base)
        case ScratchBase():
            return [], None
        case DockerfileBase():
            if context is None:
                raise TypeError(f"{maker.cage.address}: no context")
            return dockerfile_layer(maker, base, context)
        case _:
            assert_never(base)


def _debian(maker: Maker) -> list[Layer]:
    from cagebuild.debian.pins import DebianPins

    pins = maker.pins("base", DebianPins.from_json, maker.lock.base.pins)
    inputs = {
        f"{pin.name}.deb": maker.fetch(
            f"{pin.name} {pin.version}", pin.sha256, pin.size, pins.locations(pin)
        )
        for pin in pins.packages
    }
    step = maker.step(
        "debian-base",
        f"debian base {pins.suite}",
        params={"packages": [[pin.name, pin.version] for pin in pins.packages]},
        inputs=inputs,
        outputs=("layer.tar", "origins.json"),
    )
    return [
        Layer(
            tar=StepInput(step=step, output="layer.tar"),
            origin="debian",
            origins=StepInput(step=step, output="origins.json"),
        )
    ]


def _registry_image(maker: Maker) -> tuple[list[Layer], Input]:
    from cagebuild.image.registry import ImagePin

    return image_layers(maker, maker.pins("base", ImagePin.from_json, maker.lock.base.pins))


def _archive(maker: Maker, base: ArchiveBase) -> tuple[list[Layer], Input]:
    from cagebuild.image.archivepin import ArchivePin

    pin = maker.pins("base", ArchivePin.from_json, maker.lock.base.pins)
    if pin.archive is None:
        _check_layout(maker, base, pin)
        blobs = base.path / "blobs" / "sha256"
        layers = [
            unpacked(maker, FileInput(digest=digest, path=blobs / digest.hex), diff_id)
            for digest, diff_id in pin.layers
            if digest is not None
        ]
        return layers, FileInput(digest=pin.config, path=blobs / pin.config.hex)
    names = [finished.layer_input(number) for number in range(len(pin.layers))]
    step = maker.step(
        "import",
        f"import {base.path.name}",
        params={
            "name": base.name,
            "architecture": maker.lock.architecture,
            "diff_ids": pin.diff_ids,
        },
        inputs={"archive": maker.pinned_file("base.archive", base.path, pin.archive)},
        outputs=("config.json", *names),
    )
    return [
        Layer(tar=StepInput(step=step, output=name), origin=f"layer {short(diff_id)}")
        for name, (_, diff_id) in zip(names, pin.layers, strict=True)
    ], StepInput(step=step, output="config.json")


def _check_layout(maker: Maker, base: ArchiveBase, pin: ArchivePin) -> None:
    """Blobs of a layout are named by their content; which of them are the image may change."""
    from cagebuild.image.archivepin import pin_archive

    try:
        found = pin_archive(base.path, name=base.name, architecture=maker.lock.architecture)
    except OSError as error:
        raise maker.unreadable("base.archive", base.path, error) from None
    if found != pin:
        raise StaleLockError(
            f"{maker.cage.address}: the image in {base.path} was changed after"
            f" {maker.cage.lock_file.name} was made (got config {found.config}, expected"
            f" {pin.config})",
            hint=f"renew the lock: invoke lock {maker.cage.address}",
        )
