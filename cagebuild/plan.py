"""The graph of one cage, from its lock and its files. Pure: no network, no clock, no engine, no store.

The same lock and the same tree give the same plan, with the same ids, on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, assert_never

from cagebuild import code
from cagebuild.config.model import (
    ArchiveBase,
    DebianBase,
    DockerfileBase,
    ImageBase,
    OwnBoot,
    ScratchBase,
)
from cagebuild.digest import Digest
from cagebuild.errors import UnsupportedError
from cagebuild.step import FileInput, Input, Step, StepInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from cagebuild.config.model import Cage
    from cagebuild.lock import Lock
    from cagebuild.sources import SourceFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps of one cage. ``image``, ``measure`` and ``eif`` are what a command may ask for."""

    address: str
    name: str
    image: Step
    measure: Step
    eif: Step

    def steps(self, *targets: Step) -> tuple[Step, ...]:
        """``targets`` (by default the EIF) and all that they need, each once, inputs first."""
        return in_order(targets or (self.eif,))


def in_order(targets: Iterable[Step]) -> tuple[Step, ...]:
    """All steps that ``targets`` need, each once, every step after its inputs."""
    found: dict[str, Step] = {}

    def visit(step: Step) -> None:
        if step.id not in found:
            for given in step.inputs.values():
                if isinstance(given, StepInput):
                    visit(given.step)
            found[step.id] = step

    for target in targets:
        visit(target)
    return tuple(found.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """A layer of the image: its tar, and words or a file that say where its entries came from."""

    tar: Input
    origin: str
    origins: Input | None = None


def plan(cage: Cage, lock: Lock, sources: tuple[SourceFile, ...], mirrors: tuple[str, ...]) -> Plan:
    """The graph for ``cage`` as ``lock`` pins it, with the app's files as they are.

    Raises UnsupportedError for what this version cannot build and LockError's kin for pins that
    cannot be read.
    """
    builder = _Builder(cage, lock, mirrors)
    layers, base_config = builder.base()
    if sources:
        layers.append(builder.app(sources))
    runtime = builder.runtime()
    if runtime:
        layers.append(
            _Layer(tar=StepInput(step=runtime, output="layer.tar"), origin="runtime")
        )
    image = builder.image(layers, base_config)
    boot = builder.boot(runtime)
    return Plan(
        address=cage.address,
        name=cage.name,
        image=image,
        measure=builder.enclave("measure", image, layers, boot),
        eif=builder.enclave("eif", image, layers, boot),
    )


class _Builder:
    """Makes the steps of one cage."""

    def __init__(self, cage: Cage, lock: Lock, mirrors: tuple[str, ...]) -> None:
        self.cage = cage
        self.lock = lock
        self.mirrors = mirrors
        self.code = code.version()

    def step(
        self,
        kind: str,
        name: str,
        *,
        outputs: Iterable[str],
        params: Mapping[str, object] | None = None,
        inputs: Mapping[str, Input] | None = None,
    ) -> Step:
        return Step(
            kind=kind,
            code=self.code,
            name=name,
            params=params or {},
            inputs=inputs or {},
            outputs=tuple(outputs),
            platform=self.lock.architecture,
        )

    def fetch(self, name: str, digest: Digest, size: int | None, locations: Iterable[str]) -> Input:
        """A locked file. Its id is its digest: the same file is fetched once for all cages."""
        step = Step(
            kind="fetch",
            code="",
            name=f"fetch {name}",
            params={"digest": str(digest)},
            inputs={},
            outputs=("file",),
            hints={
                "size": size,
                "locations": [*(f"{m}/{digest.hex}" for m in self.mirrors), *locations],
            },
        )
        return StepInput(step=step, output="file")

    def base(self) -> tuple[list[_Layer], Input | None]:
        """The base's layers, lowest first, and its image config where it has one."""
        base = self.cage.base
        match base:
            case DebianBase():
                return self._debian(), None
            case ImageBase():
                return self._registry_image()
            case ArchiveBase():
                return self._archive(base)
            case ScratchBase():
                return [], None
            case DockerfileBase():
                raise UnsupportedError(
                    f"{self.cage.address}: building a Dockerfile needs an engine, and this version"
                    " has none but its own",
                    hint="build the image elsewhere and name it as base.archive or base.image",
                )
            case _:
                assert_never(base)

    def _debian(self) -> list[_Layer]:
        from cagebuild.debian.pins import DebianPins

        pins = DebianPins.from_json(self.lock.base.pins)
        inputs = {
            f"{pin.name}.deb": self.fetch(
                f"{pin.name} {pin.version}", pin.sha256, pin.size, pins.locations(pin)
            )
            for pin in pins.packages
        }
        step = self.step(
            "debian-base",
            f"debian base {pins.suite}",
            params={"packages": [[pin.name, pin.version] for pin in pins.packages]},
            inputs=inputs,
            outputs=("layer.tar", "origins.json"),
        )
        return [
            _Layer(
                tar=StepInput(step=step, output="layer.tar"),
                origin="debian",
                origins=StepInput(step=step, output="origins.json"),
            )
        ]

    def _registry_image(self) -> tuple[list[_Layer], Input | None]:
        raise NotImplementedError

    def _archive(self, base: ArchiveBase) -> tuple[list[_Layer], Input | None]:
        raise NotImplementedError

    def app(self, sources: tuple[SourceFile, ...]) -> _Layer:
        """The app's files as one layer."""
        step = self.step(
            "app-layer",
            "app files",
            params={"files": [file.facts() for file in sources]},
            inputs={
                f"file:{file.destination}": FileInput(digest=file.digest, path=file.path)
                for file in sources
                if file.digest is not None
            },
            outputs=("layer.tar",),
        )
        return _Layer(tar=StepInput(step=step, output="layer.tar"), origin="app")

    def runtime(self) -> Step | None:
        """The step that takes the installer apart, or None when nothing is injected."""
        raise NotImplementedError

    def image(self, layers: list[_Layer], base_config: Input | None) -> Step:
        """The finished image: its config, and the cage's settings as a last layer."""
        raise NotImplementedError

    def boot(self, runtime: Step | None) -> dict[str, Input]:
        raise NotImplementedError

    def enclave(
        self, kind: str, image: Step, layers: list[_Layer], boot: dict[str, Input]
    ) -> Step:
        raise NotImplementedError
