"""The smallest image that can be run: whether an engine can run anything is best asked with it."""

from __future__ import annotations

import platform
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_CODE = {
    # mov eax, 60 (exit); xor edi, edi; syscall
    "x86_64": (62, bytes.fromhex("b83c000000 31ff 0f05")),
    # mov x8, #93 (exit); mov x0, #0; svc #0
    "aarch64": (183, bytes.fromhex("a80b80d2 000080d2 010000d4")),
}
_ADDRESS = 0x400000
_HEADERS = 64 + 56


def program(machine: str) -> bytes:
    """An ELF executable that ends with success, for ``x86_64`` or ``aarch64``."""
    number, code = _CODE[machine]
    size = _HEADERS + len(code)
    magic = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    # Type EXEC, version 1, entry, one program header right behind; no sections.
    start = _ADDRESS + _HEADERS
    header = struct.pack("<HHIQQQIHHHHHH", 2, number, 1, start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    # LOAD, readable and executable, all of the file.
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _ADDRESS, _ADDRESS, size, size, 0x10000)
    return magic + header + load + code


def write(folder: Path) -> bool:
    """Write a Dockerfile and its context; False on a machine that there is no program for."""
    machine = platform.machine()
    if machine not in _CODE:
        return False
    context = folder / "context"
    context.mkdir(parents=True)
    (context / "probe").write_bytes(program(machine))
    (context / "probe").chmod(0o755)
    (folder / "Dockerfile").write_text('FROM scratch\nCOPY probe /probe\nRUN ["/probe"]\n')
    return True
