"""The kernel of a ``linux-image-…`` package, checked to be one that an enclave image can hold."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from cagebuild.debian.deb import unpack
from cagebuild.debian.sources import DEBIAN_ARCHITECTURE, Architecture
from cagebuild.errors import ImageError
from cagebuild.image.tar import read_tar
from cagebuild.image.tree import FileSource, Kind, Region

if TYPE_CHECKING:
    from pathlib import Path

MAX_KERNEL = 256 << 20
"""Bytes of a kernel; Debian's have 14 to 35 million."""

_BOOT = b"boot/vmlinuz-"


def extract(package: Path, architecture: Architecture, *, scratch: Path, kernel: Path) -> None:
    """Write the kernel of a .deb to ``kernel``; ``scratch`` is an empty folder.

    Raises ImageError when the package is malformed or for another architecture, has not exactly one
    kernel, or the kernel is neither a bzImage (x86_64) nor an uncompressed Image (aarch64).
    """
    deb = unpack(package, scratch / "data.tar")
    if deb.architecture != DEBIAN_ARCHITECTURE[architecture]:
        raise ImageError(f"{deb} is a package for {deb.architecture}, not for {architecture}")
    with closing(FileSource(deb.data)) as source:
        found = [
            entry.node
            for entry in read_tar(Region(source, 0, deb.data.stat().st_size), str(deb))
            if entry.name.removeprefix(b"./").startswith(_BOOT)
            and entry.node.kind is Kind.FILE
            and entry.link is None
        ]
        if len(found) != 1 or found[0].size > MAX_KERNEL:
            raise ImageError(
                f"{deb} has {len(found)} kernels in /boot, or one that is too large",
                hint="name a package as linux-image-6.1.0-50-cloud-amd64",
            )
        _check(next(found[0].read(1024), b""), architecture, str(deb))
        with kernel.open("wb") as out:
            for chunk in found[0].read():
                out.write(chunk)


def _check(start: bytes, architecture: Architecture, name: str) -> None:
    """Formats: Linux, Documentation/arch/x86/boot.rst and Documentation/arch/arm64/booting.rst."""
    if architecture == "x86_64":
        good = start[0x1FE:0x200] == b"\x55\xaa" and start[0x202:0x206] == b"HdrS"
        wanted = "a bzImage"
    else:
        good = start[56:60] == b"ARM\x64"
        wanted = "an uncompressed arm64 Image"
    if not good:
        raise ImageError(
            f"the kernel of {name} is not {wanted}, which is what a Nitro enclave can boot",
            hint="Debian compresses the arm64 kernels of later suites; bookworm's is as needed",
        )
