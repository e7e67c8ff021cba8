"""What an enclave boots with, and the runtime that is injected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

from cagebuild.config.model import OwnBoot
from cagebuild.digest import Digest, InvalidDigestError
from cagebuild.errors import LockError, UnsupportedError
from cagebuild.step import FileInput, Input, Step, StepInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cagebuild.plan.maker import Maker


def runtime_step(maker: Maker) -> Step | None:
    """The step that takes the installer apart, or None when nothing is injected."""
    if maker.lock.runtime is None:
        return None
    installer = maker.lock.runtime.installer
    url = maker.cage.runtime.url if maker.cage.runtime else None
    if url is not None:
        archive = maker.fetch("runtime installer", installer, None, [f"{url}/{installer.hex}"])
    else:
        archive = _built_installer(maker, installer)
    return maker.step(
        "runtime",
        "runtime",
        inputs={"installer.tar": archive},
        outputs=("layer.tar", "origins.json", "init"),
    )


def _built_installer(maker: Maker, installer: Digest) -> Input:
    """The installer that this version's sources give; no other can be had without a URL."""
    from cagebuild import runtime

    ours = runtime.installer_digest(maker.lock.architecture)
    if installer != ours:
        raise LockError(
            f"{maker.cage.address}: runtime.installer is {installer}, and there is no"
            f" runtime.url to fetch it from (this version of cagebuild builds {ours})",
            hint=f"invoke lock --update runtime {maker.cage.address} takes this version's;"
            " runtime.url says where another can be had",
        )
    step = maker.step(
        "runtime-build",
        "build the runtime from source",
        params={"architecture": maker.lock.architecture, "expected": str(installer)},
        inputs={
            f"src:{name}": FileInput(digest=maker.digest(path), path=path)
            for name, path in runtime.source_files()
        },
        outputs=("installer.tar",),
    )
    return StepInput(step=step, output="installer.tar")


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
            raise UnsupportedError(
                f'{maker.cage.address}: enclave.boot = "cagebuild" needs a kernel of this'
                " project's own, and this version has none",
                hint='use enclave.boot = "aws", or name boot files of your own',
            )
        case _:
            assert_never(boot)


def _own(maker: Maker, boot: OwnBoot) -> dict[str, Input]:
    pins = maker.lock.boot.pins
    paths = {"kernel": boot.kernel, "init": boot.init, "nsm": boot.nsm, "cmdline": boot.cmdline}
    return {
        name: maker.pinned_file(f"enclave.boot.{name}", path, _digest(maker, pins, name))
        for name, path in paths.items()
        if path is not None
    }


def _digest(maker: Maker, pins: Mapping[str, Any], name: str) -> Digest:
    try:
        return Digest("sha256", pins[name]["sha256"])
    except (KeyError, TypeError, InvalidDigestError):
        raise maker.bad_pins(f"digest of enclave.boot.{name}") from None


def _aws(maker: Maker) -> dict[str, Input]:
    from cagebuild.nitro.aws import AwsPins

    pins = maker.pins("boot", AwsPins.from_json, maker.lock.boot.pins)
    return {
        file: maker.fetch(f"AWS's {file}", pin.sha256, pin.size, [pin.url])
        for file, pin in pins.files.items()
    }


def _debian_boot(maker: Maker, runtime: Step | None) -> dict[str, Input]:
    if runtime is None:
        raise UnsupportedError(
            f'{maker.cage.address}: enclave.boot = "debian" takes its init from the runtime'
            " installer, and runtime is false",
            hint="set runtime.installer, or name boot files of your own",
        )
    return {
        "kernel": _debian_kernel(maker, maker.lock.boot.pins.get("kernel")),
        "init": StepInput(step=runtime, output="init"),
    }


def _debian_kernel(maker: Maker, pins: object) -> Input:
    from cagebuild.debian.pins import DebianPins

    kernel = maker.pins("boot", DebianPins.from_json, pins)
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
