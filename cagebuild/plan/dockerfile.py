"""A Dockerfile as one layer: built here where it has no RUN, else by an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cagebuild.errors import StaleLockError, UnsupportedError
from cagebuild.plan.images import image_layers
from cagebuild.plan.maker import Layer, Maker, short
from cagebuild.step import StepInput
from cagebuild.steps.finished import CONTEXT, config_input, image_layer_input

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cagebuild.config.model import DockerfileBase
    from cagebuild.dockerfile.model import Instruction, Stage
    from cagebuild.sources import BuildContext
    from cagebuild.step import Input, Step

OUTPUTS: Final = ("layer.tar", "config.json", "origins.json")
ORIGIN: Final = "Dockerfile"
_REMOTE: Final = ("http:", "https:", "git:", "git@", "ssh:")


def dockerfile_layer(
    maker: Maker, base: DockerfileBase, context: BuildContext
) -> tuple[list[Layer], Input]:
    """The one layer that the Dockerfile's target comes to, and its image config.

    Raises DockerfileError, LockError, and UnsupportedError for the engine ``embedded`` with what it
    cannot build.
    """
    step = _Planner(maker, base, context).step()
    layer = Layer(
        tar=StepInput(step=step, output="layer.tar"),
        origin=ORIGIN,
        origins=StepInput(step=step, output="origins.json"),
    )
    return [layer], StepInput(step=step, output="config.json")


def arguments(base: DockerfileBase, epoch: int) -> dict[str, str]:
    """The build arguments: the cage's, and the one time stamp, which is no setting of its own."""
    return {**dict(base.args), "SOURCE_DATE_EPOCH": str(epoch)}


def beyond_embedded(stages: Sequence[Stage]) -> Instruction | None:
    """The first instruction that this process cannot carry out: a RUN, or an ADD from afar."""
    for stage in stages:
        for instruction in stage.instructions:
            inner = instruction.inner or instruction
            if inner.keyword == "RUN" or (inner.keyword == "ADD" and _is_remote(inner)):
                return instruction
    return None


def _is_remote(instruction: Instruction) -> bool:
    return any(source.lower().startswith(_REMOTE) for source in instruction.words[:-1])


class _Planner:
    """What the ways to build one Dockerfile have in common."""

    def __init__(self, maker: Maker, base: DockerfileBase, context: BuildContext) -> None:
        from cagebuild.dockerfile.parse import parse
        from cagebuild.dockerfile.stages import images, needed
        from cagebuild.image.dockerfilepin import DockerfilePins

        self.maker = maker
        self.base = base
        self.context = context
        self.parsed = parse(context.data, context.file)
        self.args = arguments(base, maker.lock.epoch.time)
        given = (self.parsed, base.target, self.args, maker.lock.architecture)
        self.stages = needed(*given)
        self.uses = images(*given)
        self.pins = maker.pins("base", DockerfilePins.from_json, maker.lock.base.pins)
        for use in self.uses:
            if use.reference not in self.pins.images:
                raise StaleLockError(
                    f"{maker.cage.address}: {context.file}:{use.line}: the image {use.reference} is"
                    f" not in {maker.cage.lock_file.name}",
                    hint=f"pin it: invoke lock {maker.cage.address}",
                )

    def step(self) -> Step:
        beyond = beyond_embedded(self.stages)
        engine = self.base.build.engine
        if engine == "embedded" and beyond is not None:
            raise UnsupportedError(
                f"{self.maker.cage.address}: {self.context.file}:{beyond.line}: {beyond.keyword}"
                f" {beyond.text[:60]}: the embedded engine cannot carry this out",
                hint='set build.engine = "auto" and have Docker with buildx, or buildah',
            )
        if engine == "embedded" or (engine == "auto" and beyond is None):
            return self._embedded()
        return self._by_engine()

    def _embedded(self) -> Step:
        """The images' layers are fetched here, and the Dockerfile is read as it is."""
        inputs: dict[str, Input] = {CONTEXT: self._files()}
        images: list[list[object]] = []
        wanted = sorted({use.reference for use in self.uses if use.keyword != "syntax"})
        for number, reference in enumerate(wanted):
            layers, config = image_layers(self.maker, self.pins.images[reference])
            inputs[config_input(number)] = config
            inputs |= {
                image_layer_input(number, place): layer.tar for place, layer in enumerate(layers)
            }
            images.append([reference, [layer.origin for layer in layers]])
        return self.maker.step(
            "dockerfile",
            f"Dockerfile {self.maker.cage.name}",
            params={
                **self._params(self.context.data),
                "target": self.base.target,
                "images": images,
            },
            inputs=inputs,
            outputs=OUTPUTS,
            hints={"dockerfile": str(self.context.file)},
        )

    def _by_engine(self) -> Step:
        from cagebuild.dockerfile.staging import stage

        build = self.base.build
        if not build.network:
            self._refuse_network()
        staged = stage(
            self.parsed,
            target=self.base.target,
            pins=self.pins.by_digest(),
            args=self.args,
            architecture=self.maker.lock.architecture,
        )
        return self.maker.step(
            "engine",
            f"Dockerfile {self.maker.cage.name}",
            params={
                **self._params(staged.text),
                "target": staged.target,
                "network": build.network,
                "secrets": [secret.id for secret in build.secrets],
                "base_layers": self._base_layers(),
            },
            inputs={CONTEXT: self._files()},
            outputs=OUTPUTS,
            hints={
                "dockerfile": str(self.context.file),
                "engine": build.engine,
                "kaniko": build.kaniko,
                "cache_from": list(build.cache_from),
                "cache_to": list(build.cache_to),
                "secrets": {
                    secret.id: {"env": secret.env, "file": secret.file and str(secret.file)}
                    for secret in build.secrets
                },
            },
        )

    def _refuse_network(self) -> None:
        """An instruction's own flag would win over what an engine is told for all."""
        for stage in self.stages:
            for instruction in stage.instructions:
                run = instruction.inner or instruction
                if run.keyword == "RUN" and run.flag("network") not in {None, "none"}:
                    raise UnsupportedError(
                        f"{self.maker.cage.address}: {self.context.file}:{instruction.line}: RUN"
                        f" --network={run.flag('network')}, and the cage allows no network",
                        hint="set build.network = true, or leave out the flag",
                    )

    def _params(self, dockerfile: bytes) -> dict[str, object]:
        return {
            "dockerfile": dockerfile.decode("utf-8", "surrogateescape"),
            "name": self.context.file.name,
            "args": self.args,
            "architecture": self.maker.lock.architecture,
            "epoch": self.maker.lock.epoch.time,
        }

    def _files(self) -> Input:
        name = f"context {self.maker.cage.name}"
        return self.maker.files_layer(name, self.context.files)

    def _base_layers(self) -> list[str]:
        """Origins of the layers that the target's own come on top of, lowest first."""
        from cagebuild.dockerfile.stages import lineage

        architecture = self.maker.lock.architecture
        _, below = lineage(self.parsed, self.base.target, self.args, architecture)
        if below is None:
            return []
        return [f"{below} layer {short(layer.digest)}" for layer in self.pins.images[below].layers]
