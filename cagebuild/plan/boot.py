"""What an enclave boots with, and the runtime that is injected."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, assert_never

from cagebuild.config.model import OwnBoot
from cagebuild.digest import Digest, InvalidDigestError
from cagebuild.errors import LockError, UnsupportedError
from cagebuild.step import FileInput, Input, Step, StepInput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cagebuild.plan.maker import Maker
    from cagebuild.recipes.graph import Recipes

CARRIED: Final = Path(__file__).parents[1] / "data" / "made"
"""Kernels and installers under the SHA-256 of their content, where a wheel carries them."""


def runtime_step(maker: Maker) -> Step | None:
    """The step that takes the installer apart, or None when nothing is injected."""
    if maker.lock.runtime is None:
        return None
    from cagebuild.recipes import pins

    return maker.step(
        "runtime",
        "runtime",
        inputs={
            "installer.tar": _made_from_source(
                maker,
                "runtime",
                "runtime installer",
                maker.lock.runtime.installer,
                pins.installer(maker.lock.architecture).digest,
                lambda recipes: recipes.installer(maker.lock.architecture),
            )
        },
        outputs=("layer.tar", "init", "origins.json"),
    )


def _made_from_source(
    maker: Maker,
    part: Literal["runtime", "boot"],
    name: str,
    wanted: Digest,
    ours: Digest,
    make: Callable[[Recipes], StepInput],
) -> Input:
    """A file that this project makes from source, known by its digest: as this installation has it,
    from where the cage says, or made here."""
    carried = CARRIED / wanted.hex
    if carried.is_file():
        return FileInput(digest=wanted, path=carried)
    url = maker.cage.runtime.url if maker.cage.runtime else None
    if url is not None:
        return maker.fetch(name, wanted, None, [f"{url}/{wanted.hex}"])
    if wanted != ours:
        raise LockError(
            f"{maker.cage.address}: the lock pins the {name} {wanted}, and there is no runtime.url"
            f" to fetch it from (this version of cagebuild makes {ours})",
            hint=f"invoke lock --update {part} {maker.cage.address} takes this version's;"
            " runtime.url says where another can be had",
        )
    from cagebuild.recipes.graph import Recipes

    return make(Recipes(maker.mirrors, maker.digest))


def boot_files(maker: Maker, runtime: Step | None) -> dict[str, Input]:
    """Kernel, init, driver and command line, by input name, as an enclave's step reads them.

    A command line that is no file is among that step's parameters.
    """
    boot = maker.cage.enclave.boot
    if isinstance(boot, OwnBoot):
        return _own(maker, boot)
    match boot:
        case "aws":
            return _aws(maker)
        case "debian":
            return _debian_boot(maker, runtime)
        case "cagebuild":
            return _cagebuild_boot(maker, runtime)
        case _:
            assert_never(boot)


def _own(maker: Maker, boot: OwnBoot) -> dict[str, Input]:
    locked = maker.lock.boot.pins
    paths = {"kernel": boot.kernel, "init": boot.init, "nsm": boot.nsm, "cmdline": boot.cmdline}
    return {
        name: maker.pinned_file(f"enclave.boot.{name}", path, _digest(maker, locked, name))
        for name, path in paths.items()
        if path is not None
    }


def _digest(maker: Maker, files: Mapping[str, Any], name: str) -> Digest:
    try:
        return Digest("sha256", files[name]["sha256"])
    except (KeyError, TypeError, InvalidDigestError):
        raise maker.bad_pins(f"digest of enclave.boot.{name}") from None


def _aws(maker: Maker) -> dict[str, Input]:
    from cagebuild.nitro.aws import AwsPins

    aws = maker.pins("boot", AwsPins.from_json, maker.lock.boot.pins)
    return {
        file: maker.fetch(f"AWS's {file}", pin.sha256, pin.size, [pin.url])
        for file, pin in aws.files.items()
    }


def _debian_boot(maker: Maker, runtime: Step | None) -> dict[str, Input]:
    return {
        "init": _init(maker, "debian", runtime),
        "kernel": _debian_kernel(maker, maker.lock.boot.pins.get("kernel")),
    }


def _cagebuild_boot(maker: Maker, runtime: Step | None) -> dict[str, Input]:
    from cagebuild.recipes import pins

    architecture = maker.lock.architecture
    return {
        "init": _init(maker, "cagebuild", runtime),
        "kernel": _made_from_source(
            maker,
            "boot",
            "kernel",
            _digest(maker, maker.lock.boot.pins, "kernel"),
            pins.kernel(architecture).digest,
            lambda recipes: recipes.kernel(architecture),
        ),
    }


def _init(maker: Maker, boot: str, runtime: Step | None) -> Input:
    if runtime is None:
        raise UnsupportedError(
            f'{maker.cage.address}: enclave.boot = "{boot}" takes its init from the runtime'
            " installer, and runtime is false",
            hint="set runtime.installer, or name boot files of your own",
        )
    return StepInput(step=runtime, output="init")


def _debian_kernel(maker: Maker, locked: object) -> Input:
    from cagebuild.debian.pins import DebianPins

    kernel = maker.pins("boot", DebianPins.from_json, locked)
    if len(kernel.packages) != 1:
        raise maker.bad_pins("one kernel")
    (pin,) = kernel.packages
    step = maker.step(
        "boot-debian",
        f"kernel {pin.version}",
        params={"architecture": maker.lock.architecture},
        inputs={
            "kernel.deb": maker.fetch(
                f"{pin.name} {pin.version}", pin.sha256, pin.size, kernel.locations(pin)
            )
        },
        outputs=("kernel",),
    )
    return StepInput(step=step, output="kernel")
