"""Telling boot files that an enclave can boot from those that it cannot.

Sources: the kernel's Documentation/arch/x86/boot.rst and Documentation/arch/arm64/booting.rst; the
ELF specification.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, assert_never

from cagebuild.errors import EifError

if TYPE_CHECKING:
    from pathlib import Path

    from cagebuild.nitro.pcr import Architecture

_HEAD = 1024
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x02\x21\x4c\x18": "lz4",
}


_MACHINES: dict[Architecture, int] = {"x86_64": 62, "aarch64": 183}


def check_kernel(path: Path, architecture: Architecture) -> None:
    """Raise EifError unless the file is a bzImage (x86_64) or an uncompressed Image (aarch64)."""
    head = _head(path, "kernel")
    match architecture:
        case "x86_64":
            if _is_bzimage(head):
                return
            wanted = "a bzImage"
        case "aarch64":
            if _is_arm64_image(head):
                return
            wanted = "an uncompressed Image"
        case _:
            assert_never(architecture)
    raise EifError(
        f"the kernel {path} is {_describe(head)}; an enclave of {architecture} boots {wanted}",
        hint="give the kernel of that architecture, in the form its build leaves in arch/*/boot",
    )


def check_program(path: Path, architecture: Architecture, what: str) -> None:
    """Raise EifError for an ELF file (init, a kernel module) of another architecture."""
    head = _head(path, what)
    if head[:4] != b"\x7fELF":
        return
    order: Literal["little", "big"] = "big" if head[5:6] == b"\2" else "little"
    machine = int.from_bytes(head[18:20], order)
    if machine != _MACHINES[architecture]:
        names = {number: name for name, number in _MACHINES.items()}
        raise EifError(
            f"the {what} {path} is built for {names.get(machine, f'machine {machine}')}, "
            f"the enclave for {architecture}",
            hint=f"give the {what} of the enclave's architecture",
        )


def _head(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_HEAD)
    except OSError as error:
        raise EifError(
            f"cannot read the {what} {path}: {error.strerror}",
            hint="check the path and that you may read the file",
        ) from error


def _is_bzimage(head: bytes) -> bool:
    """Boot flag and magic of the set-up header, and loaded high: a 'b'zImage."""
    return (
        head[0x1FE:0x200] == b"\x55\xaa" and head[0x202:0x206] == b"HdrS" and bool(head[0x211] & 1)
    )


def _is_arm64_image(head: bytes) -> bool:
    return head[56:60] == b"ARM\x64"


def _describe(head: bytes) -> str:
    if _is_bzimage(head):
        return "an x86_64 bzImage"
    if _is_arm64_image(head):
        return "an aarch64 Image"
    if head[:4] == b"\x7fELF":
        return "an ELF file (vmlinux)"
    if head[:2] == b"MZ" and head[4:8] == b"zimg":
        return "a compressed EFI image (zboot)"
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            return f"compressed ({name})"
    return "empty" if not head else "of no known form"
