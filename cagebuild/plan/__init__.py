"""The graph of one cage, from its lock and its files. No network, no clock, no engine, no store.

The same lock and the same tree give the same plan, with the same ids, on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cagebuild.plan.base import base_layers
from cagebuild.plan.boot import boot_files, runtime_step
from cagebuild.plan.maker import Layer, Maker
from cagebuild.plan.traffic import metadata, ways
from cagebuild.step import Input, Step, StepInput
from cagebuild.steps import finished

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cagebuild.config.model import Cage
    from cagebuild.digest import Digest
    from cagebuild.lock import Lock
    from cagebuild.sources import BuildContext, SourceFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps of one cage. ``measure`` and ``eif`` are what a command may ask for."""

    cage: Cage
    installer: Input | None
    """The runtime installer, where something is injected."""
    measure: Step
    eif: Step

    def image_inputs(self) -> dict[str, StepInput]:
        """What the finished image is made of, by the names that steps have for it: its layers from
        the lowest up, and its config."""
        return {
            name: given
            for name, given in self.measure.inputs.items()
            if isinstance(given, StepInput)
            and (name == "config.json" or name.startswith(finished.LAYER))
        }

    def boot_inputs(self) -> dict[str, Input]:
        """Boot files by the names that steps have for them; ``cmdline`` only where it is a file."""
        names = ("kernel", "init", "nsm", "cmdline")
        return {name: self.measure.inputs[name] for name in names if name in self.measure.inputs}


def plan(
    cage: Cage,
    lock: Lock,
    sources: tuple[SourceFile, ...],
    *,
    context: BuildContext | None = None,
    mirrors: tuple[str, ...],
    digest: Callable[[Path], Digest],
) -> Plan:
    """The graph for ``cage`` as ``lock`` pins it, with the app's files as they are.

    ``context`` is that of a cage on a Dockerfile. ``digest`` gives the digest of a local file.
    Raises UnsupportedError for what this version cannot build, LockError and StaleLockError for
    pins that do not fit, DockerfileError, and SourceError.
    """
    maker = Maker(cage, lock, mirrors, digest)
    layers, base_config = base_layers(maker, context)
    if sources:
        files = maker.files_layer("app files", sources)
        layers.append(Layer(tar=files, origin="app"))
    image = _image(maker, layers, base_config)
    runtime = runtime_step(maker)
    if runtime:
        layers.append(
            Layer(
                tar=StepInput(step=runtime, output="layer.tar"),
                origin="runtime",
                origins=StepInput(step=runtime, output="origins.json"),
            )
        )
    boot = boot_files(maker, runtime)
    return Plan(
        cage=cage,
        installer=runtime.inputs["installer.tar"] if runtime else None,
        measure=_enclave(maker, "measure", image, layers, boot),
        eif=_enclave(maker, "eif", image, layers, boot),
    )


def _image(maker: Maker, layers: list[Layer], base_config: Input | None) -> Step:
    """How the finished image is run, and the cage's settings as its last layer."""
    app = maker.cage.app
    return maker.step(
        "image",
        f"image {maker.cage.name}",
        params={
            "epoch": maker.lock.epoch.time,
            "name": maker.cage.name,
            "architecture": maker.lock.architecture,
            "origins": [layer.origin for layer in layers],
            "runtime": maker.lock.runtime is not None,
            "app": {
                "entrypoint": _list(app.entrypoint),
                "command": _list(app.command),
                "user": app.user,
                "workdir": None if app.workdir is None else str(app.workdir),
                "env": [list(pair) for pair in app.env],
            },
            **ways(maker.cage),
        },
        inputs={
            **_layer_inputs(layers),
            **({"config.json": base_config} if base_config else {}),
        },
        outputs=("config.json", "settings.tar"),
    )


def _enclave(
    maker: Maker, kind: str, image: Step, layers: list[Layer], boot: dict[str, Input]
) -> Step:
    """The image file, or only what it measures."""
    settings = Layer(tar=StepInput(step=image, output="settings.tar"), origin="settings")
    everything = [*layers, settings]
    inputs = {
        **_layer_inputs(everything),
        "config.json": StepInput(step=image, output="config.json"),
        **boot,
    }
    if maker.cage.signing:
        certificate = maker.cage.signing.certificate
        inputs["certificate"] = maker.own_file("signing.certificate", certificate)
    cmdline = maker.lock.boot.pins.get("cmdline") if "cmdline" not in boot else None
    if "cmdline" not in boot and not isinstance(cmdline, str):
        raise maker.bad_pins("command line of the kernel")
    outputs = ("measurements.json", "manifest.json", "warnings.json")
    return maker.step(
        kind,
        f"{kind} {maker.cage.name}",
        params={
            "epoch": maker.lock.epoch.time,
            "architecture": maker.lock.architecture,
            "name": maker.cage.name,
            "origins": [layer.origin for layer in everything],
            "cmdline": cmdline,
            "metadata": metadata(maker.cage),
        },
        inputs=inputs,
        outputs=("image.eif", *outputs) if kind == "eif" else outputs,
    )


def _layer_inputs(layers: list[Layer]) -> dict[str, Input]:
    inputs: dict[str, Input] = {}
    for number, layer in enumerate(layers):
        inputs[finished.layer_input(number)] = layer.tar
        if layer.origins is not None:
            inputs[finished.origins_input(number)] = layer.origins
    return inputs


def _list(words: tuple[str, ...] | None) -> list[str] | None:
    return None if words is None else list(words)
