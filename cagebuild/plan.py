"""The graph of one cage, from its lock and its files. No network, no clock, no engine, no store.

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
from cagebuild.digest import Digest, InvalidDigestError
from cagebuild.errors import LockError, SourceError, StaleLockError, UnsupportedError
from cagebuild.step import FileInput, Input, Step, StepInput
from cagebuild.steps import finished

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from cagebuild.config.model import Cage
    from cagebuild.image.archivepin import ArchivePin
    from cagebuild.lock import Lock
    from cagebuild.sources import SourceFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps of one cage. ``measure`` and ``eif`` are what a command may ask for."""

    cage: Cage
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """A layer of the image: its tar, and words or a file that say where its entries came from."""

    tar: Input
    origin: str
    origins: Input | None = None


def plan(
    cage: Cage,
    lock: Lock,
    sources: tuple[SourceFile, ...],
    *,
    mirrors: tuple[str, ...],
    digest: Callable[[Path], Digest],
) -> Plan:
    """The graph for ``cage`` as ``lock`` pins it, with the app's files as they are.

    ``digest`` gives the digest of a local file. Raises UnsupportedError for what this version
    cannot build, LockError and StaleLockError for pins that do not fit, and SourceError.
    """
    builder = _Builder(cage, lock, mirrors, digest)
    layers, base_config = builder.base()
    if sources:
        layers.append(builder.app(sources))
    image = builder.image(layers, base_config)
    runtime = builder.runtime()
    if runtime:
        layers.append(_Layer(tar=StepInput(step=runtime, output="layer.tar"), origin="runtime"))
    boot = builder.boot(runtime)
    return Plan(
        cage=cage,
        measure=builder.enclave("measure", image, layers, boot),
        eif=builder.enclave("eif", image, layers, boot),
    )


class _Builder:
    """Makes the steps of one cage."""

    def __init__(
        self,
        cage: Cage,
        lock: Lock,
        mirrors: tuple[str, ...],
        digest: Callable[[Path], Digest],
    ) -> None:
        self.cage = cage
        self.lock = lock
        self.mirrors = mirrors
        self.digest = digest
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

    def _registry_image(self) -> tuple[list[_Layer], Input]:
        from cagebuild.image.registry import ImagePin

        pin = ImagePin.from_json(self.lock.base.pins)
        config = self.fetch("image config", pin.config.digest, pin.config.size, [pin.location])
        layers = [
            self._unpacked(
                self.fetch(
                    f"layer {_short(layer.digest)}", layer.digest, layer.size, [pin.location]
                ),
                layer.diff_id,
            )
            for layer in pin.layers
        ]
        return layers, config

    def _archive(self, base: ArchiveBase) -> tuple[list[_Layer], Input]:
        from cagebuild.image.archivepin import ArchivePin

        pin = ArchivePin.from_json(self.lock.base.pins)
        if pin.archive is None:
            self._check_layout(base, pin)
            blobs = base.path / "blobs" / "sha256"
            layers = [
                self._unpacked(FileInput(digest=digest, path=blobs / digest.hex), diff_id)
                for digest, diff_id in pin.layers
                if digest is not None
            ]
            return layers, FileInput(digest=pin.config, path=blobs / pin.config.hex)
        names = [finished.layer_input(number) for number in range(len(pin.layers))]
        step = self.step(
            "import",
            f"import {base.path.name}",
            params={
                "name": base.name,
                "architecture": self.lock.architecture,
                "diff_ids": pin.diff_ids,
            },
            inputs={"archive": self.pinned_file("base.archive", base.path, pin.archive)},
            outputs=("config.json", *names),
        )
        return [
            _Layer(tar=StepInput(step=step, output=name), origin=f"layer {_short(diff_id)}")
            for name, (_, diff_id) in zip(names, pin.layers, strict=True)
        ], StepInput(step=step, output="config.json")

    def _check_layout(self, base: ArchiveBase, pin: ArchivePin) -> None:
        """Blobs of a layout are named by their content; which of them are the image may change."""
        from cagebuild.image.archivepin import pin_archive

        try:
            found = pin_archive(base.path, name=base.name, architecture=self.lock.architecture)
        except OSError as error:
            raise self._unreadable("base.archive", base.path, error) from None
        if found != pin:
            raise StaleLockError(
                f"{self.cage.address}: the image in {base.path} was changed after"
                f" {self.cage.lock_file.name} was made (got config {found.config}, expected"
                f" {pin.config})",
                hint=f"renew the lock: invoke lock {self.cage.address}",
            )

    def _unpacked(self, blob: Input, diff_id: Digest) -> _Layer:
        step = self.step(
            "unpack",
            f"unpack layer {_short(diff_id)}",
            params={"diff_id": str(diff_id)},
            inputs={"layer": blob},
            outputs=("layer.tar",),
        )
        return _Layer(
            tar=StepInput(step=step, output="layer.tar"), origin=f"layer {_short(diff_id)}"
        )

    def _unreadable(self, key: str, path: Path, error: OSError) -> SourceError:
        return SourceError(
            f"{self.cage.address}: {key} names {path}, which cannot be read: {error.strerror}"
        )

    def pinned_file(self, key: str, path: Path, digest: Digest) -> FileInput:
        """A file of the cage's own that the lock names by digest."""
        given = self.own_file(key, path)
        if given.digest != digest:
            raise StaleLockError(
                f"{self.cage.address}: {path} was changed after {self.cage.lock_file.name} was made"
                f" (got {given.digest}, expected {digest})",
                hint=f"renew the lock: invoke lock {self.cage.address}",
            )
        return given

    def own_file(self, key: str, path: Path) -> FileInput:
        """A file of the cage's own as it is now; raises SourceError."""
        try:
            return FileInput(digest=self.digest(path), path=path)
        except OSError as error:
            raise self._unreadable(key, path, error) from None

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
        if self.lock.runtime is None:
            return None
        installer = self.lock.runtime.installer
        url = self.cage.runtime.url if self.cage.runtime else None
        if url is not None:
            archive = self.fetch("runtime installer", installer, None, [f"{url}/{installer.hex}"])
        else:
            archive = self._built_installer(installer)
        return self.step(
            "runtime",
            "runtime",
            inputs={"installer.tar": archive},
            outputs=("layer.tar", "init"),
        )

    def _built_installer(self, installer: Digest) -> Input:
        """The installer that this version's sources give; no other can be had without a URL."""
        from cagebuild import runtime

        ours = runtime.installer_digest(self.lock.architecture)
        if installer != ours:
            raise LockError(
                f"{self.cage.address}: runtime.installer is {installer}, and there is no"
                f" runtime.url to fetch it from (this version of cagebuild builds {ours})",
                hint=f"invoke lock --update runtime {self.cage.address} takes this version's;"
                " runtime.url says where another can be had",
            )
        step = self.step(
            "runtime-build",
            "build the runtime from source",
            params={"architecture": self.lock.architecture, "expected": str(installer)},
            inputs={
                f"src:{name}": FileInput(digest=self.digest(path), path=path)
                for name, path in runtime.source_files()
            },
            outputs=("installer.tar",),
        )
        return StepInput(step=step, output="installer.tar")

    def image(self, layers: list[_Layer], base_config: Input | None) -> Step:
        """How the finished image is run, and the cage's settings as its last layer."""
        app = self.cage.app
        return self.step(
            "image",
            f"image {self.cage.name}",
            params={
                "epoch": self.lock.epoch.time,
                "name": self.cage.name,
                "architecture": self.lock.architecture,
                "origins": [layer.origin for layer in layers],
                "runtime": self.lock.runtime is not None,
                "app": {
                    "entrypoint": _list(app.entrypoint),
                    "command": _list(app.command),
                    "user": app.user,
                    "workdir": None if app.workdir is None else str(app.workdir),
                    "env": [list(pair) for pair in app.env],
                },
                "ingress": [
                    {"port": each.port, "health": each.health, "tls": each.tls}
                    for each in self.cage.ingress
                ],
                "egress": [{"host": rule.host, "port": rule.port} for rule in self.cage.egress],
            },
            inputs={
                **_layer_inputs(layers),
                **({"config.json": base_config} if base_config else {}),
            },
            outputs=("config.json", "settings.tar"),
        )

    def boot(self, runtime: Step | None) -> dict[str, Input]:
        """Kernel, init, driver and command line, by input name, as an enclave's step reads them.

        A command line that is no file is among that step's parameters.
        """
        boot = self.cage.enclave.boot
        if isinstance(boot, OwnBoot):
            return self._own_boot(boot)
        match boot:
            case "aws":
                return self._aws_boot()
            case "debian":
                return self._debian_boot(runtime)
            case "cagebuild":
                raise UnsupportedError(
                    f'{self.cage.address}: enclave.boot = "cagebuild" needs a kernel of this'
                    " project's own, and this version has none",
                    hint='use enclave.boot = "aws", or name boot files of your own',
                )
            case _:
                assert_never(boot)

    def _own_boot(self, boot: OwnBoot) -> dict[str, Input]:
        pins = self.lock.boot.pins
        paths = {"kernel": boot.kernel, "init": boot.init, "nsm": boot.nsm, "cmdline": boot.cmdline}
        return {
            name: self.pinned_file(f"enclave.boot.{name}", path, self._boot_digest(pins, name))
            for name, path in paths.items()
            if path is not None
        }

    def _boot_digest(self, pins: Mapping[str, Any], name: str) -> Digest:
        try:
            return Digest("sha256", pins[name]["sha256"])
        except (KeyError, TypeError, InvalidDigestError):
            raise self._bad_pins(f"digest of enclave.boot.{name}") from None

    def _bad_pins(self, what: str) -> LockError:
        return LockError(
            f"{self.cage.address}: {self.cage.lock_file.name} has no {what} that can be read",
            hint=f"make it anew: invoke lock --update {self.cage.address}",
        )

    def _aws_boot(self) -> dict[str, Input]:
        from cagebuild.nitro.aws import AwsPins

        pins = AwsPins.from_json(self.lock.boot.pins)
        return {
            file: self.fetch(f"AWS's {file}", pin.sha256, pin.size, [pin.url])
            for file, pin in pins.files.items()
        }

    def _debian_boot(self, runtime: Step | None) -> dict[str, Input]:
        if runtime is None:
            raise UnsupportedError(
                f'{self.cage.address}: enclave.boot = "debian" takes its init from the runtime'
                " installer, and runtime is false",
                hint="set runtime.installer, or name boot files of your own",
            )
        return {
            "kernel": self._debian_kernel(self.lock.boot.pins.get("kernel")),
            "init": StepInput(step=runtime, output="init"),
        }

    def _debian_kernel(self, pins: object) -> Input:
        from cagebuild.debian.pins import DebianPins

        kernel = DebianPins.from_json(pins)
        if len(kernel.packages) != 1:
            raise self._bad_pins("one kernel")
        (pin,) = kernel.packages
        step = self.step(
            "boot-debian",
            f"kernel {pin.version}",
            params={"architecture": self.lock.architecture},
            inputs={
                "kernel.deb": self.fetch(
                    f"{pin.name} {pin.version}", pin.sha256, pin.size, kernel.locations(pin)
                )
            },
            outputs=("kernel",),
        )
        return StepInput(step=step, output="kernel")

    def enclave(self, kind: str, image: Step, layers: list[_Layer], boot: dict[str, Input]) -> Step:
        """The image file, or only what it measures."""
        settings = _Layer(tar=StepInput(step=image, output="settings.tar"), origin="settings")
        everything = [*layers, settings]
        inputs = {
            **_layer_inputs(everything),
            "config.json": StepInput(step=image, output="config.json"),
            **boot,
        }
        if self.cage.signing:
            certificate = self.cage.signing.certificate
            inputs["certificate"] = self.own_file("signing.certificate", certificate)
        cmdline = self.lock.boot.pins.get("cmdline") if "cmdline" not in boot else None
        if "cmdline" not in boot and not isinstance(cmdline, str):
            raise self._bad_pins("command line of the kernel")
        outputs = ("measurements.json", "manifest.json", "warnings.json")
        return self.step(
            kind,
            f"{kind} {self.cage.name}",
            params={
                "epoch": self.lock.epoch.time,
                "architecture": self.lock.architecture,
                "name": self.cage.name,
                "origins": [layer.origin for layer in everything],
                "cmdline": cmdline,
            },
            inputs=inputs,
            outputs=("image.eif", *outputs) if kind == "eif" else outputs,
        )


def _layer_inputs(layers: list[_Layer]) -> dict[str, Input]:
    inputs: dict[str, Input] = {}
    for number, layer in enumerate(layers):
        inputs[finished.layer_input(number)] = layer.tar
        if layer.origins is not None:
            inputs[finished.origins_input(number)] = layer.origins
    return inputs


def _list(words: tuple[str, ...] | None) -> list[str] | None:
    return None if words is None else list(words)


def _short(digest: Digest) -> str:
    return digest.hex[:12]
