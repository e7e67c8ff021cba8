"""Machines in Debian 12's QEMU that boot a kernel as an enclave does, without AWS's hardware.

They lack an NSM. The rest is as in an enclave: virtio over memory-mapped registers, on x86_64 named
on the command line, on aarch64 in the device tree; a serial console; no ACPI, and PCI turned off.
"""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cagebuild.nitro import cpio, ramdisk
from cagebuild.nitro.cmdline import CMDLINE
from cagebuild.nitro.container import create_container
from tests.support.nitro import EPOCH, file, tree
from tests.support.vsock_device import Parent, parent_at

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cagebuild.nitro.pcr import Architecture

CPUS: Final = 2
_CID: Final = 4
_TIMEOUT = 300
"""Seconds after which a machine hangs; a boot takes about two of an idle processor's."""

_MACHINE: Final[dict[Architecture, tuple[str, ...]]] = {
    "x86_64": ("qemu-system-x86_64", "-machine", "microvm,acpi=off,rtc=on", "-cpu", "max"),
    # Pointers are signed by QEMU's own function: the architecture's is slow to emulate.
    "aarch64": ("qemu-system-aarch64", "-machine", "virt", "-cpu", "max,pauth-impdef=on"),
}
_APPENDED: Final[dict[Architecture, str]] = {
    # There is no keyboard controller to restart by. Devices follow from QEMU itself.
    "x86_64": "reboot=t panic=1",
    # Graviton has a 16550, this machine a PL011. The last console named is /dev/console.
    "aarch64": "console=ttyAMA0 panic=1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a machine came to its end."""

    status: int
    """QEMU's own: 0 when the machine restarted."""
    console: str
    parent: Parent | None
    """What there was to talk to."""


def write_ramdisks(target: Path, init: Path, app: Path, cmd: Sequence[str]) -> Path:
    """Both ramdisks of an enclave, one after the other: an image with ``app`` as /app."""
    root = tree({b"app": file(app.read_bytes(), mode=0o755)})
    create_container(root, workdir="/", epoch=EPOCH)
    image = ramdisk.image_entries(
        root, cmd=cmd, env=["NAME=two words"], warnings=ramdisk.Warnings()
    )
    with target.open("wb") as output:
        for entries in (ramdisk.boot_entries(file(init.read_bytes(), mode=0o755), None), image):
            output.writelines(cpio.pack(entries))
    return target


def boot(
    architecture: Architecture, kernel: Path, ramdisks: Path, *, work: Path, parent: bool
) -> Ended:
    """Boot until the machine restarts, with the measured command line and what an emulator appends.

    ``work`` gets the socket of the parent, without which the machine has no vsock device.
    """
    with contextlib.ExitStack() as stack:
        answering = None
        vsock: tuple[str, ...] = ()
        if parent:
            socket = work / "parent.sock"
            answering = stack.enter_context(parent_at(socket, cid=_CID))
            vsock = (
                *("-chardev", f"socket,id=parent,path={socket}"),
                *("-device", "vhost-user-vsock-device,chardev=parent"),
            )
        ended = subprocess.run(
            [
                *_MACHINE[architecture],
                *("-accel", "tcg", "-smp", str(CPUS), "-m", "256M"),
                # The parent reads and writes the machine's memory.
                *("-object", "memory-backend-memfd,id=memory,size=256M,share=on"),
                *("-machine", "memory-backend=memory"),
                *("-global", "virtio-mmio.force-legacy=false"),
                *("-no-user-config", "-nodefaults", "-no-reboot", "-display", "none"),
                *("-serial", "stdio"),
                *("-kernel", str(kernel), "-initrd", str(ramdisks)),
                *("-append", f"{CMDLINE[architecture]} {_APPENDED[architecture]}"),
                *vsock,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT,
            check=False,
        )
        console = ended.stdout.decode("utf-8", "replace").replace("\r\n", "\n")
        return Ended(status=ended.returncode, console=console, parent=answering)
